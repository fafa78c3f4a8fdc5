// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Places in memory that the GPU reads descriptors from and writes stamps to.
//!
//! Somebody else owns that memory, and other processes and the GPU see it at any time: so its words
//! are atomic. They are stored in pairs, which takes half as many stores as one by one; and what is
//! stored in many places is put together once, as an [`Image`]. Addresses are those that the GPU uses.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::fields::{DEPENDENT_QMD_POINTER, RELEASE_SEMAPHORE_ADDR};
use super::slots::POINTER_SHIFT;
use super::{StampError, WORDS, Words};
use crate::template::Template;

/// Half the words of a descriptor.
const PAIRS: usize = WORDS / 2;

/// The pairs of words that are not always zero in a launch that may be split.
pub(super) const RUNS: [Range<usize>; 2] = [0..1, 4..40];

/// A descriptor that is about to be written: word `2 i` is the low half of pair `i`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image([u64; PAIRS]);

/// What a template does to pairs of words.
#[derive(Debug)]
pub(super) struct Form {
    keep: [u64; PAIRS],
    value: [u64; PAIRS],
}

/// Memory for one descriptor that others may name as their dependent. It is zero at first, and
/// nothing but chains and gates is ever written there.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pairs: &'a [AtomicU64; PAIRS],
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
    /// Takes words that the GPU sees at `address` for a place: word `2 i` is the low half of `pairs[i]`.
    #[inline]
    pub fn new(pairs: &'a [AtomicU64; WORDS / 2], address: u64) -> Result<Self, PlaceError> {
        const { assert!(DEPENDENT_QMD_POINTER.at(0).width() == u32::BITS) };
        if !address.is_multiple_of(1 << POINTER_SHIFT) {
            return Err(PlaceError { address });
        }
        let pointer = u32::try_from(address >> POINTER_SHIFT);
        let pointer = pointer.map_err(|_| PlaceError { address })?;
        Ok(Place { pairs, pointer })
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

    /// A pair of words.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[inline(always)]
    pub(super) fn pair(&self, index: usize) -> &AtomicU64 {
        &self.pairs[index]
    }

    /// Writes a descriptor (relaxed), but for the words that are zero in every launch that may be split.
    /// In the pairs that are named it sets some bits more.
    #[inline(always)]
    pub(super) fn write<const N: usize>(&self, image: &Image, pairs: [usize; N], more: [u64; N]) {
        for run in RUNS {
            for (to, &pair) in self.pairs[run.clone()].iter().zip(&image.0[run]) {
                to.store(pair, Ordering::Relaxed);
            }
        }
        for (index, more) in pairs.into_iter().zip(more) {
            self.pairs[index].store(image.0[index] | more, Ordering::Relaxed);
        }
    }
}

impl Form {
    /// That of a template.
    pub(super) const fn of<const N: usize>(template: &Template<N>) -> Self {
        let mut form = Form {
            keep: [u64::MAX; PAIRS],
            value: [0; PAIRS],
        };
        let edits = template.edits();
        let mut index = 0;
        while index < edits.len() {
            let edit = edits[index];
            let (pair, shift) = (edit.word / 2, edit.word % 2 * 32);
            form.keep[pair] &= !((!edit.keep as u64) << shift);
            form.value[pair] |= (edit.value as u64) << shift;
            index += 1;
        }
        form
    }

    /// A descriptor with the edits.
    #[inline(always)]
    pub(super) fn image(&self, words: &Words) -> Image {
        Image(core::array::from_fn(|index| {
            let words = pair(words[2 * index], words[2 * index + 1]);
            words & self.keep[index] | self.value[index]
        }))
    }
}

/// Two words that lie one behind the other.
#[inline(always)]
pub(super) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The words of a pair.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "each takes its half")]
pub(super) const fn halves(pair: u64) -> [u32; 2] {
    [pair as u32, (pair >> 32) as u32]
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
    pub(super) const fn words(self) -> [u32; 4] {
        let [low, high] = halves(self.address);
        [low, high, self.payload, 0]
    }
}
