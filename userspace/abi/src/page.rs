// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A piece of shared memory, seen as aligned atomic words.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapping of shared memory that stays valid for `'a`.
///
/// It hands out words, never references to structures: another process may write at any time, and
/// only atomic accesses are sound then.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    start: NonNull<u64>,
    bytes: usize,
    mapping: PhantomData<&'a AtomicU64>,
}

// SAFETY: a `Page` gives access to atomics only, which any thread may use.
unsafe impl Send for Page<'_> {}
// SAFETY: as above.
unsafe impl Sync for Page<'_> {}

impl<'a> Page<'a> {
    /// Takes in a mapping of `bytes` bytes at `start`.
    ///
    /// # Safety
    ///
    /// 1. `start` is aligned to 8 bytes and `bytes` bytes from it stay mapped for `'a`, readable, and
    ///    writable if a writing accessor is going to be made of it.
    /// 2. This process touches them during `'a` only through atomics, or the GPU does.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        debug_assert!((start.as_ptr() as usize).is_multiple_of(8));
        Self {
            start: start.cast(),
            bytes,
            mapping: PhantomData,
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Returns the 64-bit word at a byte offset.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 8 or the word lies outside.
    #[inline]
    pub fn word(&self, offset: usize) -> &'a AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.bytes && self.bytes - offset >= 8,
            "word {offset}"
        );
        // SAFETY: the word is inside and aligned, by the assertion and `new`'s first condition, and
        // everybody in this process uses atomics on it, by the second.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().byte_add(offset)) }
    }

    /// Returns the 64-bit words from a byte offset on.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 8 or some of them lie outside.
    #[inline]
    pub fn words<const COUNT: usize>(&self, offset: usize) -> &'a [AtomicU64; COUNT] {
        assert!(
            offset.is_multiple_of(8) && offset < self.bytes && self.bytes - offset >= 8 * COUNT,
            "{COUNT} words from {offset} on"
        );
        // SAFETY: as in `word`, for each of them; atomics lie in an array without gaps.
        unsafe { self.start.byte_add(offset).cast().as_ref() }
    }

    /// Returns the 32-bit word at a byte offset.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 4 or the word lies outside.
    #[inline]
    pub fn half(&self, offset: usize) -> &'a AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset < self.bytes && self.bytes - offset >= 4,
            "half {offset}"
        );
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast::<u32>().byte_add(offset)) }
    }

    /// Stores 16 bytes at a byte offset in one piece (relaxed): whoever reads them, the GPU too, finds
    /// what was there or what is there now. False, and nothing is stored, where the processor is of a kind
    /// for which nobody has seen to that.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 16 from an address that is one, or some of them lie outside.
    #[inline]
    pub fn store_128(&self, offset: usize, words: [u32; 4]) -> bool {
        let at = self.address() + offset;
        assert!(
            at.is_multiple_of(16) && offset < self.bytes && self.bytes - offset >= 16,
            "16 bytes at {offset}"
        );
        #[cfg(target_arch = "x86_64")]
        // SAFETY: they are inside, by the assertion, and everybody else uses atomics on them or is the GPU.
        // An aligned store of 16 bytes is one access on every processor that has AVX (Intel's and AMD's
        // manuals say so), and all whose machines take an H100 have.
        unsafe {
            std::arch::asm!(
                "movdqu {value}, [{words}]",
                "movdqa [{at}], {value}",
                value = out(xmm_reg) _,
                words = in(reg) words.as_ptr(),
                at = in(reg) at,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = words;
        cfg!(target_arch = "x86_64")
    }

    /// Asks the processor for the cache line at a byte offset, to be written soon. A hint: it reads
    /// nothing, and an offset outside does no harm.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        let address = self.start.as_ptr().wrapping_byte_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction changes nothing that a program can see, whatever the address.
        // (`_mm_prefetch` asks for a line to be read unless the target has a feature of its own.)
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// Returns the part of `bytes` bytes from `offset` on, if it lies inside and is aligned to 8.
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Page<'a>> {
        let end = offset.checked_add(bytes)?;
        if !offset.is_multiple_of(8) || end > self.bytes {
            return None;
        }
        // SAFETY: `offset` is inside the mapping.
        let start = unsafe { self.start.byte_add(offset) };
        Some(Page {
            start,
            bytes,
            mapping: PhantomData,
        })
    }
}
