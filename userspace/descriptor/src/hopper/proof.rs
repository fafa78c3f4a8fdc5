// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a proof on a GPU is about: the edits of the launch path, as one number, and the bits that
//! they may touch.

use super::fields::*;
use super::{Descriptor, StampSlot, WORDS, Words};
use crate::field::Field;
use crate::layout::V04_00;
use crate::mask::TpcMask;
use crate::{hook, layout::Version};

/// Returns a number that changes when the launch path would do something else to some descriptor, or
/// would know descriptors by other signs. Whoever has proven it on a GPU has proven the same edits
/// wherever they are compiled in; a new release counts as something else in any case.
pub fn edits() -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    hash.bytes(env!("CARGO_PKG_VERSION").as_bytes());
    hash.bytes(&hook::TABLE);
    let numbers = [
        hook::SUBSCRIBE,
        hook::ENABLE,
        hook::descriptor_words::CONTEXT,
        hook::descriptor_words::FUNCTION,
        hook::descriptor_words::DESCRIPTOR,
    ];
    for number in numbers {
        hash.bytes(&(number as u64).to_le_bytes());
    }
    hash.bytes(&[Version::V04_00.major, Version::V04_00.minor]);
    hash.words(&V04_00.covered());
    // What the edits do shows on a descriptor of zeros and on one of ones.
    for pattern in [0, u32::MAX] {
        let mut words = [pattern; WORDS];
        RELEASE_ENABLE.at(1).set(&mut words, 0);
        RELEASE_ENABLE.at(2).set(&mut words, 0);
        TPC_DISABLE_MASK_VALID.set(&mut words, 0);
        let mut descriptor = Descriptor(words);
        let mask = TpcMask::from_bits([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        let mut note = |descriptor: &Descriptor<Words>| hash.words(descriptor.words());
        let _ = descriptor.restrict(mask, TpcMask::ALL);
        note(&descriptor);
        for (slot, address) in [
            (StampSlot::One, 0x12_3456_7890),
            (StampSlot::Two, 0xff_0000),
        ] {
            let _ = descriptor.stamp(slot, address, 0x8765_4321);
            note(&descriptor);
        }
    }
    hash.0
}

/// Returns the lowest bit that differs although no edit of the launch path is about it.
pub fn stray_bit(before: &Words, after: &Words) -> Option<u32> {
    (0..).zip(0..WORDS).find_map(|(word, index)| {
        let stray = (before[index] ^ after[index]) & !EDITED[index];
        (stray != 0).then(|| word * 32 + stray.trailing_zeros())
    })
}

/// The bits that the edits are about: the mask, and release semaphores 1 and 2.
const EDITED: Words = {
    let mut edited = [0; WORDS];
    let mut slot = 1;
    while slot <= 2 {
        let fields = [
            RELEASE_ENABLE,
            RELEASE_STRUCTURE_SIZE,
            RELEASE_MEMBAR_TYPE,
            RELEASE_REDUCTION_ENABLE,
            RELEASE_REDUCTION_OP,
            RELEASE_REDUCTION_FORMAT,
            RELEASE_TRAP_TYPE,
            RELEASE_PAYLOAD64B,
            RELEASE_SEMAPHORE_ADDR,
            RELEASE_SEMAPHORE_PAYLOAD,
        ];
        let mut index = 0;
        while index < fields.len() {
            fill(&mut edited, fields[index].at(slot));
            index += 1;
        }
        slot += 1;
    }
    fill(&mut edited, TPC_DISABLE_MASK_VALID);
    let mut word = 0;
    while word < 4 {
        fill(&mut edited, TPC_DISABLE_MASK.at(word));
        word += 1;
    }
    edited
};

const fn fill(words: &mut Words, field: Field) {
    field.set(words, field.max());
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn words(&mut self, words: &Words) {
        for word in words {
            self.bytes(&word.to_le_bytes());
        }
    }
}
