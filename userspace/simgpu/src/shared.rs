// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory that a client and the server both map.
//!
//! The client makes it and passes it on; the server believes nothing but the kernel: it maps only a
//! file that can never shrink (a shorter file would be a SIGBUS for whoever touches it).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A mapping of memory that another process maps too: everything in it may change at any time.
#[derive(Debug)]
pub struct SharedMemory {
    file: File,
    map: MmapRaw,
}

impl SharedMemory {
    /// Makes zeroed memory of `bytes`.
    pub fn create(name: &CStr, bytes: usize) -> io::Result<Self> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let file = File::from(file);
        file.set_len(bytes as u64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Self::map(file, 0, bytes)
    }

    /// Maps `bytes` from `offset` on of memory that came from another process.
    pub fn accept(fd: OwnedFd, offset: u64, bytes: usize) -> io::Result<Self> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::other("the memory could shrink"));
        }
        let file = File::from(fd);
        let end = offset.checked_add(bytes as u64);
        if bytes == 0 || end.is_none_or(|end| end > file.metadata().map_or(0, |m| m.len())) {
            return Err(io::Error::other("the memory is shorter than announced"));
        }
        Self::map(file, offset, bytes)
    }

    fn map(file: File, offset: u64, bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new()
            .offset(offset)
            .len(bytes)
            .map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// Where it is mapped here.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// How many bytes are mapped.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The file behind it, to pass on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
