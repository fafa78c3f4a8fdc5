// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory to stand in for a shared mapping.

use std::ptr::NonNull;

use lithos_abi::Page;

/// Zeroed words that live as long as this does and are touched through [`Memory::page`] only.
pub(crate) struct Memory(NonNull<[u64]>);

impl Memory {
    /// Allocates at least `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        Self(NonNull::from(Box::leak(words)))
    }

    /// Returns a view of all of it.
    pub(crate) fn page(&self) -> Page<'_> {
        // SAFETY: 1. a `[u64]` is aligned and lives as long as `self`. 2. `self` gives it to nobody
        // but through this function.
        unsafe { Page::new(self.0.cast(), self.0.len() * 8) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a leaked box, and all views have ended with `self`.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: only atomics of it can be reached.
unsafe impl Sync for Memory {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Memory {}
