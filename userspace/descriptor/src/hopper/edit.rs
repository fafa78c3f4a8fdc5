// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The edits on the launch path, made in place just before the driver uploads the descriptor.
//!
//! Each is a handful of word stores from a template, without allocation and without a loop over
//! bits, and leaves the descriptor either fully edited or untouched.

use core::borrow::BorrowMut;

use super::fields::*;
use super::read::FIRST_MASK_WORD;
use super::{Descriptor, Words};
use crate::field::Field;
use crate::mask::TpcMask;
use crate::template::Template;

/// What became of a restriction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Restricted {
    /// The descriptor now allows these of the present TPCs: at least one.
    To(TpcMask),
    /// Nothing would have been left, and an empty mask hangs the launch for ever: the descriptor
    /// is as it was, and allows these of the present TPCs.
    Unchanged(TpcMask),
}

impl Restricted {
    /// The present TPCs on which the launch may run, whichever it was.
    pub const fn mask(self) -> TpcMask {
        match self {
            Restricted::To(mask) | Restricted::Unchanged(mask) => mask,
        }
    }
}

/// A release semaphore that the driver leaves unused in ordinary launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampSlot {
    /// Release semaphore 1.
    One,
    /// Release semaphore 2.
    Two,
}

/// Why a descriptor got no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The driver uses the slot.
    #[error("the release semaphore is in use")]
    InUse,
    /// The address is not a multiple of 16 or has more than 57 bits.
    #[error("a stamp cannot be written to {0:#x}")]
    Address(u64),
}

impl<W: BorrowMut<Words>> Descriptor<W> {
    /// Takes away all TPCs but those in `allowed`, in addition to what the driver took away.
    ///
    /// `present` are the TPCs that exist; the mask is left alone if none of them would remain.
    /// Whether what remains has room for a cluster or for a whole cooperative launch is the
    /// caller's care: see [`Kind`](super::Kind).
    #[inline]
    pub fn restrict(&mut self, allowed: TpcMask, present: TpcMask) -> Restricted {
        let before = self.allowed();
        let Some(after) = restricted(before, allowed, present) else {
            return Restricted::Unchanged(before & present);
        };
        let [a, b, c, d] = after.disable_words();
        RESTRICT.apply_with(self.words_mut(), [0, a, b, c, d]);
        Restricted::To(after & present)
    }

    /// Has the GPU write `{payload, 0, time in nanoseconds}` (16 bytes) to `address` when this
    /// descriptor completes. It promises nothing about the launch's own writes.
    #[inline]
    pub fn stamp(&mut self, slot: StampSlot, address: u64, payload: u32) -> Result<(), StampError> {
        match slot {
            StampSlot::One => self.stamp_at::<1>(address, payload),
            StampSlot::Two => self.stamp_at::<2>(address, payload),
        }
    }

    /// Stamps by way of one slot; everything that depends on the slot is worked out when compiling.
    #[inline]
    fn stamp_at<const SLOT: u16>(&mut self, address: u64, payload: u32) -> Result<(), StampError> {
        if self.is_set(const { RELEASE_ENABLE.at(SLOT) }) {
            return Err(StampError::InUse);
        }
        if !address.is_multiple_of(16) || address > RELEASE_SEMAPHORE_ADDR.max() {
            return Err(StampError::Address(address));
        }
        const { stamp_template(SLOT) }.apply_with(
            self.words_mut(),
            [0, low(address), low(address >> 32), payload, 0],
        );
        Ok(())
    }
}

/// Validates the mask and clears its words, for the new ones to be OR-ed in.
const RESTRICT: Template<5> = {
    let template = Template::new(&[
        (TPC_DISABLE_MASK_VALID, 1),
        (TPC_DISABLE_MASK.at(0), 0),
        (TPC_DISABLE_MASK.at(1), 0),
        (TPC_DISABLE_MASK.at(2), 0),
        (TPC_DISABLE_MASK.at(3), 0),
    ]);
    assert!(template.edits()[1].word == FIRST_MASK_WORD);
    template
};

/// What remains of `before` if only `allowed` may be used; `None` if no TPC that is `present` does.
#[inline(always)]
pub(super) fn restricted(before: TpcMask, allowed: TpcMask, present: TpcMask) -> Option<TpcMask> {
    let after = before & allowed;
    (!(after & present).is_empty()).then_some(after)
}

const fn stamp_template(slot: u16) -> Template<5> {
    let template = Template::new(&stamp_edits(slot));
    assert!(template.edits().len() == 5);
    template
}

/// A four-word release and nothing else, its address and payload to be OR-ed in. What the header
/// calls `RESERVED_INFO` stays as the driver left it.
pub(super) const fn stamp_edits(slot: u16) -> [(Field, u64); 10] {
    [
        (RELEASE_ENABLE.at(slot), 1),
        (RELEASE_STRUCTURE_SIZE.at(slot), 0),
        (RELEASE_MEMBAR_TYPE.at(slot), 0),
        (RELEASE_REDUCTION_ENABLE.at(slot), 0),
        (RELEASE_REDUCTION_OP.at(slot), 0),
        (RELEASE_REDUCTION_FORMAT.at(slot), 0),
        (RELEASE_TRAP_TYPE.at(slot), 0),
        (RELEASE_PAYLOAD64B.at(slot), 0),
        (RELEASE_SEMAPHORE_ADDR.at(slot), 0),
        (RELEASE_SEMAPHORE_PAYLOAD.at(slot), 0),
    ]
}

/// The lower half.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
const fn low(value: u64) -> u32 {
    value as u32
}
