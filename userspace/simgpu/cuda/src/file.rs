// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The file behind a program's own memory, if it is one that can be shared with the server.
//!
//! Memory that a program registers stays in reach of a real GPU until the driver lets go of it, even when
//! the program has been killed. The server can do the same only with memory that it maps itself. So if
//! what is registered is mapped from a file in memory (a memfd) that can never shrink, and the program
//! still has that file open, the server gets the file.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::stat::{FileStat, fstat, major, minor};

/// A range of addresses that is mapped from a file in memory, to read and write and shared.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// Where in the file it begins.
    offset: u64,
    /// Major and minor number.
    device: (u64, u64),
    inode: u64,
}

impl Mapping {
    /// Reads a line of `/proc/self/maps`; `None` for other kinds of memory.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?;
        let offset = hex(words.next()?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let inode = words.next()?.parse().ok()?;
        let is_memory = words.next()?.starts_with("/memfd:");
        let is_shared = rights.starts_with("rw") && rights.ends_with('s');
        (is_memory && is_shared).then_some(Self {
            start: hex(start)?,
            end: hex(end)?,
            offset,
            device: (hex(major)?, hex(minor)?),
            inode,
        })
    }

    fn is_of(&self, file: &FileStat) -> bool {
        file.st_ino == self.inode && (major(file.st_dev), minor(file.st_dev)) == self.device
    }
}

/// The file behind a range, and where in it the range begins.
pub(crate) fn behind(address: u64, bytes: u64) -> Option<(OwnedFd, u64)> {
    let end = address.checked_add(bytes)?;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut mappings = maps.lines().filter_map(Mapping::parse);
    let mapping = mappings.find(|other| other.start <= address && end <= other.end)?;
    let offset = mapping.offset + (address - mapping.start);
    let open = fs::read_dir("/proc/self/fd").ok()?;
    let open = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let file = { open }.find_map(|number| shareable(number, &mapping))?;
    let size = u64::try_from(fstat(&file).ok()?.st_size).ok()?;
    (offset + bytes <= size).then_some((file, offset))
}

/// An open file as one of our own, if it is the one that is mapped and the server would take it.
fn shareable(number: RawFd, mapping: &Mapping) -> Option<OwnedFd> {
    // SAFETY: only lent, and only to be copied: if the program closes it now, that fails, and if another
    // takes its number, the copy is not the file that is looked for.
    let theirs = unsafe { BorrowedFd::borrow_raw(number) };
    if !mapping.is_of(&fstat(theirs).ok()?) {
        return None;
    }
    let copy = fcntl(theirs, FcntlArg::F_DUPFD_CLOEXEC(0)).ok()?;
    // SAFETY: just made, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(copy) };
    debug_assert_eq!(file.as_raw_fd(), copy);
    let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS).ok()?);
    let never = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE;
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL).ok()?);
    let is_shareable = mapping.is_of(&fstat(&file).ok()?)
        && seals.contains(SealFlag::F_SEAL_SHRINK)
        && !seals.intersects(never)
        && flags & OFlag::O_ACCMODE == OFlag::O_RDWR;
    is_shareable.then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simgpu::shared::SharedMemory;

    #[test]
    fn the_file_behind_a_part_of_sealed_memory_is_found() {
        let memory = SharedMemory::create(c"simgpu test", 3 * 4096).expect("memory");
        let address = memory.as_ptr().addr() as u64;
        let (file, offset) = behind(address + 4096, 8192).expect("the file");
        assert_eq!(offset, 4096);
        let same = |other: &FileStat| (other.st_dev, other.st_ino);
        let found = fstat(&file).expect("its state");
        assert_eq!(same(&found), same(&fstat(memory.fd()).expect("its state")));
        assert!(behind(address + 4096, 3 * 4096).is_none());
    }

    #[test]
    fn other_memory_has_no_file_behind_it() {
        let memory = vec![0_u8; 1 << 20];
        assert!(behind(memory.as_ptr().addr() as u64, 4096).is_none());
        let line = "7f00-8f00 rw-p 00000000 00:01 77 /memfd:private (deleted)";
        assert_eq!(Mapping::parse(line), None);
        let line = "7f00-8f00 rw-s 00001000 00:1f 77 /memfd:shared (deleted)";
        let expected = Mapping {
            start: 0x7f00,
            end: 0x8f00,
            offset: 0x1000,
            device: (0, 0x1f),
            inode: 77,
        };
        assert_eq!(Mapping::parse(line), Some(expected));
    }
}
