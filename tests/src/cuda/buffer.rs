// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory: the device's, and words of the host's that the device sees.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUdeviceptr};

use super::{Error, check};

/// Words of device memory, zero at first. Freed when dropped.
#[derive(Debug)]
pub struct Buffer {
    address: CUdeviceptr,
    words: usize,
}

impl Buffer {
    /// Allocates so many 32-bit words of zeroes.
    pub fn zeroed(words: usize) -> Result<Self, Error> {
        let mut address = 0;
        // SAFETY: writes one address.
        check("cuMemAlloc", unsafe {
            sys::cuMemAlloc_v2(&raw mut address, words * 4)
        })?;
        let buffer = Self { address, words };
        buffer.clear()?;
        Ok(buffer)
    }

    /// Fills it with zeroes, before anything that is submitted later, in whichever stream.
    pub fn clear(&self) -> Result<(), Error> {
        // SAFETY: the range is this allocation.
        check("cuMemsetD32", unsafe {
            sys::cuMemsetD32_v2(self.address, 0, self.words)
        })?;
        // A memset of device memory does not wait, and streams here do not wait for it.
        super::Context::synchronize()
    }

    /// Copies it to the host; the caller has waited for whoever writes it.
    pub fn read(&self) -> Result<Vec<u32>, Error> {
        let mut words = vec![0_u32; self.words];
        // SAFETY: both ranges are `words` 32-bit words long.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(
                words.as_mut_ptr().cast::<c_void>(),
                self.address,
                words.len() * 4,
            )
        })?;
        Ok(words)
    }

    /// Where it is, as an argument for a kernel.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the address came from cuMemAlloc and is not used again.
        unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// A set of SMs that kernels fill in, each block with the `%smid` that it ran on.
#[derive(Debug)]
pub struct SmSet {
    words: Buffer,
}

impl SmSet {
    /// `%smid` stays below this on every GPU that a mask of 128 TPCs can describe.
    const BITS: usize = 1024;

    /// An empty set.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            words: Buffer::zeroed(Self::BITS / 32)?,
        })
    }

    /// The SMs that are in it, in rising order.
    pub fn members(&self) -> Result<Vec<u32>, Error> {
        let words = self.words.read()?;
        let bits = (0..).zip(words).flat_map(|(index, word)| {
            let is_set = move |bit: &u32| word >> bit & 1 == 1;
            (0..32).filter(is_set).map(move |bit| 32 * index + bit)
        });
        Ok(bits.collect())
    }

    /// How many SMs are in it.
    pub fn count(&self) -> Result<u32, Error> {
        Ok(self
            .words
            .read()?
            .iter()
            .map(|word| word.count_ones())
            .sum())
    }

    /// Takes every SM out.
    pub fn clear(&self) -> Result<(), Error> {
        self.words.clear()
    }

    /// Where it is, as an argument for a kernel.
    pub fn address(&self) -> u64 {
        self.words.address()
    }
}

/// 32-bit words of pinned host memory, zero at first, which the device sees at `address`. Freed when
/// dropped.
#[derive(Debug)]
pub struct HostWords {
    words: *mut AtomicU32,
    count: usize,
    address: CUdeviceptr,
}

impl HostWords {
    /// Allocates so many words of zeroes.
    pub fn zeroed(count: usize) -> Result<Self, Error> {
        let mut memory = ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: writes one pointer.
        check("cuMemHostAlloc", unsafe {
            sys::cuMemHostAlloc(&raw mut memory, count * 4, flags)
        })?;
        let mut words = Self {
            words: memory.cast(),
            count,
            address: 0,
        };
        // SAFETY: the pointer came from cuMemHostAlloc.
        check("cuMemHostGetDevicePointer", unsafe {
            sys::cuMemHostGetDevicePointer_v2(&raw mut words.address, memory, 0)
        })?;
        for index in 0..count {
            words.store(index, 0);
        }
        Ok(words)
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: the allocation holds `count` words, is aligned to a page, and lives as long as
        // `self`; all access from this side is atomic.
        unsafe { &*self.words.add(index) }
    }

    /// What a word says now.
    pub fn load(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Tells the device something.
    pub fn store(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Where it is, as an argument for a kernel.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for HostWords {
    fn drop(&mut self) {
        // SAFETY: the pointer came from cuMemHostAlloc and is not used again.
        unsafe { sys::cuMemFreeHost(self.words.cast()) };
    }
}
