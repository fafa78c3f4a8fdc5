// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The launch path's edits over descriptors of random content.

use lithos_descriptor::hopper::{
    Descriptor, Kind, Release, ReleaseSize, Restricted, StampError, StampSlot, WORDS, Words, edits,
    fields, stray_bit,
};
use lithos_descriptor::{Field, TpcMask};
use proptest::prelude::*;

/// Any words that say that they are a descriptor of version 4.0.
fn any_descriptor() -> impl Strategy<Value = Descriptor<Words>> {
    prop::collection::vec(any::<u32>(), WORDS).prop_map(|words| {
        let mut words: Words = words.try_into().unwrap();
        fields::QMD_MAJOR_VERSION.set(&mut words, 4);
        fields::QMD_MINOR_VERSION.set(&mut words, 0);
        Descriptor::new(words).unwrap()
    })
}

/// Any set of TPCs, small ones as likely as large ones.
fn any_mask() -> impl Strategy<Value = TpcMask> {
    prop_oneof![
        any::<[u64; 2]>().prop_map(TpcMask::from_bits),
        prop::collection::vec(0_u32..128, 0..6).prop_map(|tpcs| tpcs.into_iter().collect()),
        Just(TpcMask::ALL),
    ]
}

/// The bits in which two descriptors differ.
fn changed(before: &Words, after: &Words) -> Vec<u32> {
    (0..)
        .zip(before.iter().zip(after))
        .flat_map(|(index, (before, after))| {
            let difference = before ^ after;
            (0..32)
                .filter(move |bit| difference >> bit & 1 == 1)
                .map(move |bit| index * 32 + bit)
        })
        .collect()
}

fn within(bit: u32, field: Field) -> bool {
    (field.lo()..=field.hi()).contains(&bit)
}

/// Every field that belongs to release semaphore `slot`, except the reserved one.
fn release_fields(slot: u16) -> Vec<Field> {
    use fields::*;
    [
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
    ]
    .map(|field| field.at(slot))
    .to_vec()
}

proptest! {
    #[test]
    fn a_restriction_is_ored_into_the_drivers_mask(
        before in any_descriptor(),
        driver in prop::option::of(any_mask()),
        allowed in any_mask(),
        present in any_mask(),
    ) {
        let mut before = before;
        if driver.is_some() {
            before.set_allowed(driver).unwrap();
        } else {
            // Not in force: whatever its words say.
            before.set(fields::TPC_DISABLE_MASK_VALID, 0).unwrap();
        }
        let driver = driver.unwrap_or(TpcMask::ALL);
        let mut after = before;
        match after.restrict(allowed, present) {
            Restricted::To(effective) => {
                prop_assert!(!effective.is_empty());
                prop_assert_eq!(effective, driver & allowed & present);
                prop_assert_eq!(after.get(fields::TPC_DISABLE_MASK_VALID), 1);
                prop_assert_eq!(after.allowed(), driver & allowed);
                for tpc in 0..128 {
                    let word = fields::TPC_DISABLE_MASK.at(u16::try_from(tpc / 32).unwrap());
                    let disabled = after.get(word) >> (tpc % 32) & 1 == 1;
                    prop_assert_eq!(disabled, !driver.contains(tpc) || !allowed.contains(tpc));
                }
                for bit in changed(before.words(), after.words()) {
                    prop_assert!(bit == 31 || (2432..2560).contains(&bit), "bit {}", bit);
                }
            }
            Restricted::Unchanged(effective) => {
                prop_assert!((driver & allowed & present).is_empty());
                prop_assert_eq!(effective, driver & present);
                prop_assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn restricting_twice_is_restricting_to_what_both_allow(
        descriptor in any_descriptor(),
        first in any_mask(),
        second in any_mask(),
    ) {
        let mut twice = descriptor;
        let one = twice.restrict(first, TpcMask::ALL).mask();
        let both = twice.restrict(second, TpcMask::ALL).mask();
        prop_assert!(both.is_subset(one));
        prop_assert!(!both.is_empty() || descriptor.allowed().is_empty());
    }

    #[test]
    fn a_stamp_is_a_four_word_release_and_nothing_else(
        before in any_descriptor(),
        second in any::<bool>(),
        address in (0_u64..1 << 53).prop_map(|address| address << 4),
        payload in any::<u32>(),
    ) {
        let (slot, index) = if second { (StampSlot::Two, 2) } else { (StampSlot::One, 1) };
        let mut before = before;
        before.set(fields::RELEASE_ENABLE.at(index), 0).unwrap();
        let mut after = before;
        prop_assert_eq!(after.stamp(slot, address, payload), Ok(()));
        let stamp = Release {
            address,
            payload: payload.into(),
            size: ReleaseSize::FourWords,
            membar: false,
            reduction: None,
            payload64: false,
            trap: 0,
        };
        prop_assert_eq!(after.release(index), Some(stamp));
        let own = release_fields(index);
        for bit in changed(before.words(), after.words()) {
            prop_assert!(own.iter().any(|&field| within(bit, field)), "bit {}", bit);
        }
        // Field after field, it is the same.
        let mut slow = before;
        slow.set_release(index, Some(stamp)).unwrap();
        prop_assert_eq!(after, slow);
    }

    #[test]
    fn a_slot_in_use_and_an_odd_address_are_refused_and_nothing_is_changed(
        before in any_descriptor(),
        address in any::<u64>(),
        payload in any::<u32>(),
    ) {
        let mut before = before;
        before.set(fields::RELEASE_ENABLE.at(1), 1).unwrap();
        before.set(fields::RELEASE_ENABLE.at(2), 0).unwrap();
        let mut after = before;
        prop_assert_eq!(after.stamp(StampSlot::One, 0, payload), Err(StampError::InUse));
        for bad in [address | 1, address | 8, address | 1 << 57, address | 1 << 63] {
            let refused = after.stamp(StampSlot::Two, bad, payload);
            prop_assert_eq!(refused, Err(StampError::Address(bad)));
        }
        prop_assert_eq!(after, before);
    }

    #[test]
    fn what_is_built_is_read_back(
        blocks in [1_u32..1000, 1_u32..100, 1_u32..100],
        cluster in prop::option::of([1_u32..4, 1_u32..3, 1_u32..3]),
        cooperative in any::<bool>(),
        threads in [1_u32..1025, 1_u32..1025, 1_u32..65],
        program in 0_u64..1 << 57,
        allowed in prop::option::of(any_mask()),
        resume in [0_u32..1000, 0_u32..100, 0_u32..100],
        (registers, shared) in (0_u32..512, 0_u32..233_473),
    ) {
        let mut built = Descriptor::blank();
        let whole = cluster.unwrap_or([1; 3]);
        let blocks = [0, 1, 2].map(|axis| blocks[axis] * whole[axis]);
        built.set_blocks(blocks, cluster, cooperative).unwrap();
        built.set_block(threads).unwrap();
        built.set_program(program).unwrap();
        built.set_allowed(allowed).unwrap();
        built.set_resume(resume).unwrap();
        built.set_registers(registers).unwrap();
        built.set_shared_bytes(shared).unwrap();
        prop_assert_eq!(built.blocks(), blocks.map(u64::from));
        prop_assert_eq!(built.cluster(), whole);
        prop_assert_eq!(built.kind().is_cooperative(), cooperative);
        prop_assert_eq!(built.kind().has_clusters(), cluster.is_some());
        prop_assert_eq!(built.block(), threads);
        prop_assert_eq!(built.program(), program);
        prop_assert_eq!(built.allowed(), allowed.unwrap_or(TpcMask::ALL));
        prop_assert_eq!(built.resume(), resume);
        prop_assert_eq!((built.registers(), built.shared_bytes()), (registers, shared));
        prop_assert_eq!(built.unknown_bit(), None);
    }

    #[test]
    fn the_lowest_unknown_bit_is_found(bit in 0_u32..3072) {
        use lithos_descriptor::layout::V04_00;
        let mut descriptor = Descriptor::blank();
        descriptor.words_mut()[bit as usize / 32] |= 1 << (bit % 32);
        let known = V04_00
            .fields
            .iter()
            .flat_map(|field| field.elements())
            .any(|field| within(bit, field));
        prop_assert_eq!(descriptor.unknown_bit(), (!known).then_some(bit));
        // One higher up does not hide it.
        descriptor.words_mut()[93] |= 1 << 31;
        prop_assert_eq!(descriptor.unknown_bit().is_some(), true);
        prop_assert!(descriptor.unknown_bit() <= Some(bit.max(93 * 32 + 31)));
    }
}

#[test]
fn every_kind_has_its_number() {
    for bits in 0..8 {
        let mut descriptor = Descriptor::blank();
        descriptor.set(fields::QMD_TYPE, bits).unwrap();
        let kind = descriptor.kind();
        assert_eq!(u64::from(kind.bits()), bits);
        assert_eq!(matches!(kind, Kind::Unknown(_)), bits > 5);
    }
    assert_eq!(Descriptor::null().kind(), Kind::Null);
}

#[test]
fn another_version_is_not_taken_for_this_one() {
    let mut words = *Descriptor::blank().words();
    words[18] = words[18] & !0xff | 0x41;
    let error = Descriptor::new(words).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the launch descriptor says that its version is V04_01, not V04_00"
    );
}

#[test]
fn a_constant_bank_or_dependent_off_its_grid_is_refused() {
    use lithos_descriptor::hopper::{Action, ConstantBuffer, Dependent};
    let mut descriptor = Descriptor::blank();
    let bank = |address, size_bytes| {
        Some(ConstantBuffer {
            address,
            size_bytes,
        })
    };
    assert!(descriptor.set_constant_buffer(0, bank(0x1000, 32)).is_ok());
    assert!(descriptor.set_constant_buffer(0, bank(0x1020, 32)).is_err());
    assert!(descriptor.set_constant_buffer(0, bank(0x1000, 40)).is_err());
    let dependent = |address| {
        Some(Dependent {
            address,
            action: Action::Schedule,
            prefetch: false,
        })
    };
    assert!(
        descriptor
            .set_dependent(1, dependent(0xff_ffff_ff00))
            .is_ok()
    );
    assert_eq!(descriptor.dependent(1), dependent(0xff_ffff_ff00));
    assert!(
        descriptor
            .set_dependent(1, dependent(0x100_0000_0000))
            .is_err()
    );
    assert!(
        descriptor
            .set_dependent(1, dependent(0x4_0000_0080))
            .is_err()
    );
}

#[test]
fn the_edits_touch_the_bits_that_they_are_about_and_no_others() {
    let mut descriptor = Descriptor::blank();
    let before = *descriptor.words();
    let _ = descriptor.restrict("0-3,75".parse().expect("a list"), TpcMask::ALL);
    descriptor
        .stamp(StampSlot::Two, 0xffff_fff0, u32::MAX)
        .expect("a free slot");
    assert_ne!(*descriptor.words(), before);
    assert_eq!(stray_bit(&before, descriptor.words()), None);
    for bit in [0, 1024, 383 * 8] {
        let mut words = *descriptor.words();
        words[bit / 32] ^= 1 << (bit % 32);
        assert_eq!(
            stray_bit(&before, &words).map(|bit| bit as usize),
            Some(bit)
        );
    }
}

#[test]
fn the_same_edits_are_the_same_number() {
    assert_eq!(edits(), edits());
    assert_ne!(edits(), 0);
}
