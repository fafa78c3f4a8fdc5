// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A word that a forked child reads differently: how code that runs at every launch knows, for the
//! price of a load, that it is not in the process that attached.
//!
//! The kernel wipes the word's page in every child, however it was forked. Where it does not know
//! how (before 4.14), [`ForkMark::clear`] from a `pthread_atfork` handler does the same.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

/// A page for one word: the kernel rounds it up.
const BYTES: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU32>()).unwrap();

/// Tells the process that made it from its forked children. Its page is never given back.
#[derive(Clone, Copy, Debug)]
pub struct ForkMark(&'static AtomicU32);

impl ForkMark {
    /// Makes a mark of this process.
    pub fn new() -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private map at an address of the kernel's choice.
        let page = unsafe { mmap_anonymous(None, BYTES, protection, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: this is the page that was just mapped.
        match unsafe { madvise(page, BYTES.get(), MmapAdvise::MADV_WIPEONFORK) } {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the page is aligned, zeroed and never unmapped.
        let word = unsafe { AtomicU32::from_ptr(page.cast::<u32>().as_ptr()) };
        word.store(1, Ordering::Relaxed);
        Ok(Self(word))
    }

    /// Returns whether this is the process that made the mark, and it was not cleared.
    #[inline]
    pub fn is_parent(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Clears the mark. May be called in a signal handler or a fork handler.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
