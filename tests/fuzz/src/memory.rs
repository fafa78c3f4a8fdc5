// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory that stands in for a shared mapping.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use lithos_abi::Page;

/// Words that anybody may write at any time.
#[derive(Debug)]
pub(crate) struct Memory(pub(crate) Vec<AtomicU64>);

impl Memory {
    /// Zeros.
    pub(crate) fn new(bytes: usize) -> Self {
        Self((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn page(&self) -> Page<'_> {
        let start = NonNull::from(&self.0[..]).cast();
        // SAFETY: 1. the words are aligned, live as long as `self` and can be written through shared
        // references. 2. they are atomics.
        unsafe { Page::new(start, self.0.len() * 8) }
    }
}
