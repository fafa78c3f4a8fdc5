// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Pages of a channel, mapped.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use lithos_abi::Page;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping; unmapped when it is dropped.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Pages {}
// SAFETY: it gives access to atomics only.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `bytes` bytes of a file from `offset` on, anywhere.
    pub fn map(file: impl AsFd, offset: u64, bytes: u64, may: ProtFlags) -> nix::Result<Self> {
        let bytes = usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(Errno::EINVAL)?;
        let offset = offset.cast_signed();
        // SAFETY: at a place that the kernel chooses, so that nothing else is mapped over.
        let start = unsafe { mmap(None, bytes, may, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// Returns its words. To touch one of a mapping that the kernel has taken away, or to write one that
    /// may not be, ends the process by a signal.
    pub fn words(&self) -> Page<'_> {
        // SAFETY: mapped as long as `self`, aligned to a page; this process uses atomics only, as it
        // has the address from here.
        unsafe { Page::new(self.start, self.bytes.get()) }
    }

    /// Returns the address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it is this value's, and no words of it outlive it.
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes.get()) };
        assert_eq!(unmapped, Ok(()), "munmap");
    }
}
