// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Places in memory that the GPU reads descriptors from and writes stamps to.
//!
//! Somebody else owns that memory, and other processes and the GPU see it at any time: so its words
//! are atomic and are stored one by one. (A plain store and a relaxed atomic one are the same
//! instruction. But the compiler may not make wider ones of several, whose loads from a descriptor
//! that the driver has just written word by word would wait: see `ARCHITECTURE.md`, "What a launch
//! costs, and where".)
//! Addresses are those that the GPU uses.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use super::fields::{DEPENDENT_QMD_POINTER, RELEASE_SEMAPHORE_ADDR};
use super::slots::POINTER_SHIFT;
use super::{StampError, WORDS, Words};
use crate::template::Template;

/// The words that are not always zero in a launch that may be split: two thirds of them.
pub(super) const RUNS: [Range<usize>; 4] = [0..1, 9..64, 67..71, 74..80];

/// Memory for one descriptor that others may name as their dependent. It is zero at first, and
/// nothing but chains is ever written there.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    words: &'a [AtomicU32; WORDS],
    pointer: u32,
}

/// An address that no descriptor can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a descriptor at {address:#x} cannot be named: a multiple of 256 below 1 TiB can")]
pub struct PlaceError {
    /// The address that was refused.
    pub address: u64,
}

impl<'a> Place<'a> {
    /// Takes words that the GPU sees at `address` for a place.
    #[inline]
    pub fn new(words: &'a [AtomicU32; WORDS], address: u64) -> Result<Self, PlaceError> {
        const { assert!(DEPENDENT_QMD_POINTER.at(0).width() == u32::BITS) };
        if !address.is_multiple_of(1 << POINTER_SHIFT) {
            return Err(PlaceError { address });
        }
        let pointer = u32::try_from(address >> POINTER_SHIFT);
        let pointer = pointer.map_err(|_| PlaceError { address })?;
        Ok(Place { words, pointer })
    }

    /// The address.
    pub fn address(&self) -> u64 {
        u64::from(self.pointer) << POINTER_SHIFT
    }

    /// The address as a dependent's pointer.
    #[inline(always)]
    pub(super) fn pointer(&self) -> u32 {
        self.pointer
    }

    /// One word.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`WORDS`].
    #[inline(always)]
    pub(super) fn word(&self, index: usize) -> &AtomicU32 {
        &self.words[index]
    }

    /// Writes a descriptor (relaxed): a copy of `original`, edited, but for the words that are zero in
    /// every launch that may be split.
    #[inline(always)]
    pub(super) fn write<const N: usize>(
        &self,
        original: &Words,
        template: &Template<N>,
        extra: [u32; N],
    ) {
        for run in RUNS {
            for (to, &word) in self.words[run.clone()].iter().zip(&original[run]) {
                to.store(word, Ordering::Relaxed);
            }
        }
        for (edit, extra) in template.edits().iter().zip(extra) {
            let word = original[edit.word] & edit.keep | edit.value | extra;
            self.words[edit.word].store(word, Ordering::Relaxed);
        }
    }
}

/// Sixteen bytes that the GPU writes when a descriptor completes: `{payload, 0, time in
/// nanoseconds}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    address: u64,
    payload: u32,
}

impl Stamp {
    /// A stamp with this payload at this address: a multiple of 16 of at most 57 bits.
    #[inline]
    pub const fn new(address: u64, payload: u32) -> Result<Self, StampError> {
        if !address.is_multiple_of(16) || address > RELEASE_SEMAPHORE_ADDR.max() {
            return Err(StampError::Address(address));
        }
        Ok(Stamp { address, payload })
    }

    /// Where it is written.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// What is written there first.
    pub const fn payload(self) -> u32 {
        self.payload
    }

    /// The words of a release semaphore's address and payload.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each takes its half")]
    pub(super) const fn words(self) -> [u32; 4] {
        [
            self.address as u32,
            (self.address >> 32) as u32,
            self.payload,
            0,
        ]
    }
}
