// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Calls on `/dev/lithos`, and where in it the pages of a channel are: all that both sides share.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{fs, io};

use lithos_abi::bindings::*;
use nix::errno::Errno;

use crate::channel::Place;

/// Where the kernel's broker is.
pub const DEFAULT_DEVICE: &str = "/dev/lithos";

/// What a call takes and fills in.
///
/// # Safety
///
/// Only for structures of integers without padding, so that any bytes are a value.
pub(crate) unsafe trait Argument {}

macro_rules! arguments {
    ($($structure:ty),* $(,)?) => {$(
        // SAFETY: the header has integers and arrays of them only, and spells padding out.
        unsafe impl Argument for $structure {}
    )*};
}

arguments!(
    lithos_admission,
    lithos_admit,
    lithos_answer,
    lithos_channel_info,
    lithos_channel_open,
    lithos_gpu_user,
    lithos_id,
    lithos_info,
    lithos_scheduler_claim,
    lithos_tenant_attach,
    lithos_tenant_info,
);

/// Opens the device. No read of it waits, and it is closed on exec.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // The standard library sets O_CLOEXEC.
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// Makes a call that takes a structure.
///
/// # Panics
///
/// If the command takes a structure of another size.
pub(crate) fn call<A: Argument>(
    device: &File,
    command: lithos_command,
    argument: &mut A,
) -> Result<(), Errno> {
    assert_eq!(size(command), size_of::<A>(), "command {command:#x}");
    // SAFETY: the command reads and writes as many bytes as its number says, which is the size of the
    // structure, and any bytes are a value of it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), command.into(), argument) };
    Errno::result(result).map(drop)
}

/// Makes a call that takes nothing.
pub(crate) fn call_bare(device: &File, command: lithos_command) -> Result<(), Errno> {
    assert_eq!(size(command), 0, "command {command:#x}");
    // SAFETY: the command touches no memory.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), command.into()) };
    Errno::result(result).map(drop)
}

/// Asks what there is.
pub(crate) fn info(device: &File) -> Result<lithos_info, Errno> {
    let mut info = lithos_info::default();
    call(device, LITHOS_INFO, &mut info)?;
    Ok(info)
}

/// Returns the places of a channel's pages: grant page, ring, arena.
pub(crate) fn places(
    device: &File,
    channel: u64,
    ring_bytes: u64,
    arena_bytes: u64,
) -> [Place<'_>; 3] {
    let file: BorrowedFd<'_> = device.as_fd();
    let kinds = [LITHOS_MAP_GRANT, LITHOS_MAP_RING, LITHOS_MAP_ARENA];
    let files = kinds.map(|kind| (file, map_offset(channel, kind)));
    Place::of_pages(files, ring_bytes, arena_bytes)
}

/// `LITHOS_MAP_OFFSET`.
fn map_offset(channel: u64, kind: u32) -> u64 {
    let id = channel & ((1 << LITHOS_MAP_ID_BITS) - 1);
    (id << 2 | u64::from(kind)) << LITHOS_MAP_SHIFT
}

/// The size of the structure that a command takes, as its number has it.
fn size(command: lithos_command) -> usize {
    (command >> 16 & 0x3fff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_knows_the_size_of_its_structure() {
        for (command, bytes) in [
            (LITHOS_INFO, size_of::<lithos_info>()),
            (LITHOS_TENANT_ATTACH, size_of::<lithos_tenant_attach>()),
            (LITHOS_CHANNEL_WAIT, size_of::<lithos_answer>()),
            (LITHOS_SCHEDULER_CLAIM, size_of::<lithos_scheduler_claim>()),
            (LITHOS_SCHEDULER_BEAT, 0),
        ] {
            assert_eq!(size(command), bytes, "{command:#x}");
        }
    }

    #[test]
    fn pages_of_a_channel_lie_apart_and_at_no_negative_offset() {
        let largest = u64::MAX >> 16;
        for channel in [1 << 16, (1 << 16) + 1, largest] {
            let offsets: Vec<u64> = (0..3).map(|kind| map_offset(channel, kind)).collect();
            for pair in offsets.windows(2) {
                assert_eq!(pair[1] - pair[0], 1 << LITHOS_MAP_SHIFT);
            }
            assert!(i64::try_from(offsets[2]).is_ok());
        }
        assert_eq!(map_offset(5 << 16 | 3, LITHOS_MAP_RING), 0x14_000d << 25);
    }

    #[test]
    fn what_is_no_lithos_knows_no_command() {
        let other = open(Path::new("/dev/null")).expect("a device");
        assert_eq!(info(&other).err(), Some(Errno::ENOTTY));
        assert_eq!(call_bare(&other, LITHOS_SCHEDULER_BEAT), Err(Errno::ENOTTY));
        let none = open(Path::new("/nonexistent/lithos")).err();
        assert_eq!(none.map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }
}
