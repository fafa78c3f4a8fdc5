// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which launches are split, and why not the others.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use lithos_descriptor::hopper::{
    Action, Dependent, Descriptor, Kind, Place, SplitError, Stamp, StampError, StampSlot, WORDS,
    Words, fields,
};
use lithos_descriptor::layout::V04_00;

use crate::recorded::{launch, launches};
use crate::words::{CLUSTERS, PLAIN};

fn why_whole(descriptor: &Descriptor<Words>) -> Option<SplitError> {
    let mut words = *descriptor.words();
    let whole = Descriptor::new(&mut words).unwrap().splittable().err();
    assert_eq!(&words, descriptor.words(), "to look is to change nothing");
    whole
}

#[test]
fn of_the_recorded_launches_plain_ones_and_clusters_are_split() {
    let why: BTreeMap<&str, SplitError> = launches()
        .into_iter()
        .filter_map(|(name, launch)| Some((name, why_whole(&launch)?)))
        .collect();
    let expected = BTreeMap::from([
        ("cooperative 5 blocks", SplitError::Cooperative),
        ("cooperative 3x4x5 blocks", SplitError::Cooperative),
        (
            "cooperative clusters of 2x3x1 in 4x6x2",
            SplitError::Cooperative,
        ),
        ("programmatic", SplitError::Programmatic),
        ("graph node", SplitError::GraphNode),
        ("graph last node", SplitError::GraphNode),
        ("graph head", SplitError::Dependents),
    ]);
    assert_eq!(why, expected);
    let split = PLAIN.len() + CLUSTERS.len();
    assert_eq!(split + expected.len(), launches().len());
    for name in PLAIN.into_iter().chain(CLUSTERS) {
        assert_eq!(why_whole(&launch(name)), None, "{name}");
    }
}

#[test]
fn one_block_is_one_atom() {
    let mut words = *launch("plain 1 block").words();
    let split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
    assert_eq!(split.plan(8, 0), Err(SplitError::OneAtom));
    let mut words = *launch("plain 7x6x5 blocks of 32x4x2").words();
    let split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
    assert_eq!(split.plan(1, 0), Err(SplitError::OneAtom));
    assert_eq!(split.plan(8, 0).map(|plan| plan.atoms()), Ok(5));
}

#[test]
fn every_bit_of_no_field_is_a_reason() {
    let covered: Words = V04_00.covered();
    let plain = launch("plain 1 block");
    let unknown = (0..3072_u32).filter(|bit| covered[*bit as usize / 32] >> (bit % 32) & 1 == 0);
    let mut tried = 0;
    for bit in unknown {
        let mut launch = plain;
        launch.words_mut()[bit as usize / 32] |= 1 << (bit % 32);
        assert_eq!(why_whole(&launch), Some(SplitError::UnknownBit(bit)));
        tried += 1;
    }
    assert!(tried > 500);
}

#[test]
fn what_no_plain_launch_has_is_a_reason() {
    use fields::*;
    let plain = launch("plain 1 block");
    let reasons = [
        (WAIT_ON_LATCH_VALID, SplitError::Programmatic),
        (PRE_EXIT_AT_LAST_CTA_LAUNCH, SplitError::Programmatic),
        (SELF_COPY_ON_COMPLETION, SplitError::GraphNode),
        (REQUIRE_SCHEDULING_PCAS, SplitError::GraphNode),
        (HW_ONLY_REQUIRE_SCHEDULING_PCAS, SplitError::GraphNode),
        (
            CWD_REFERENCE_COUNT_INCR_ENABLE,
            SplitError::ReferenceCounted,
        ),
        (
            CWD_REFERENCE_COUNT_DECR_ENABLE,
            SplitError::ReferenceCounted,
        ),
        (DEPENDENCE_COUNTER, SplitError::Counted),
        (HW_ONLY_DEPENDENCE_COUNTER, SplitError::Counted),
        (CIRCULAR_QUEUE_SIZE, SplitError::Queue),
        (INNER_PUT, SplitError::Queue),
        (HW_ONLY_SKED_NEXT_QMD_POINTER, SplitError::Queue),
        (OUTER_STICKY_OVERFLOW, SplitError::Queue),
        (SEQUENTIALLY_RUN_CTAS, SplitError::Sequential),
        (GRID_DEPTH_RESUME, SplitError::Resumed),
        (DEPENDENT_QMD_ENABLE.at(1), SplitError::Dependents),
        (CTA_LAUNCH_QUEUE, SplitError::Unmeasured("CTA_LAUNCH_QUEUE")),
        (
            DEMOTE_L2_EVICT_LAST,
            SplitError::Unmeasured("DEMOTE_L2_EVICT_LAST"),
        ),
    ];
    for (field, reason) in reasons {
        for bit in field.lo()..=field.hi() {
            let mut launch = plain;
            launch.words_mut()[bit as usize / 32] |= 1 << (bit % 32);
            assert_eq!(why_whole(&launch), Some(reason), "bit {bit}");
        }
    }
    for (kind, reason) in [
        (Kind::Null, SplitError::Kind(Kind::Null)),
        (Kind::Queue, SplitError::Kind(Kind::Queue)),
        (Kind::Unknown(7), SplitError::Kind(Kind::Unknown(7))),
        (Kind::CooperativeClusters, SplitError::Cooperative),
    ] {
        let mut launch = plain;
        launch.set_kind(kind).unwrap();
        assert_eq!(why_whole(&launch), Some(reason));
    }
}

#[test]
fn whatever_bit_is_set_there_is_an_answer_with_a_reason() {
    let plain = launch("plain 1 block");
    for bit in (0..3072_u32).filter(|bit| !(576..584).contains(bit)) {
        let mut launch = plain;
        launch.words_mut()[bit as usize / 32] ^= 1 << (bit % 32);
        assert_ne!(
            why_whole(&launch),
            Some(SplitError::Unmeasured("a bit")),
            "bit {bit}"
        );
    }
}

#[test]
fn a_launch_that_starts_another_is_whole_and_one_without_dependents_is_split() {
    let mut launch = launch("plain 1 block");
    let dependent = |action| {
        Some(Dependent {
            address: 0x100,
            action,
            prefetch: false,
        })
    };
    for action in [
        Action::Schedule,
        Action::InvalidateCopySchedule,
        Action::IncrementPut,
    ] {
        launch.set_dependent(0, dependent(action)).unwrap();
        assert_eq!(why_whole(&launch), Some(SplitError::Dependents));
    }
    launch.set_dependent(0, None).unwrap();
    assert_eq!(why_whole(&launch), None);
}

#[test]
fn a_launch_whose_releases_are_all_used_is_whole() {
    let mut launch = launch("plain 1 block");
    launch.stamp(StampSlot::One, 0x100, 1).unwrap();
    assert_eq!(why_whole(&launch), None);
    launch.stamp(StampSlot::Two, 0x100, 1).unwrap();
    assert_eq!(why_whole(&launch), Some(SplitError::Releases));
}

#[test]
fn a_place_that_cannot_be_named_and_a_stamp_off_its_grid_are_refused() {
    let words = [const { AtomicU64::new(0) }; WORDS / 2];
    for address in [0, 0x100, 0xff_ffff_ff00] {
        assert_eq!(Place::new(&words, address).unwrap().address(), address);
    }
    for address in [1, 0x80, 0x4_0000_0080, 0x100_0000_0000, u64::MAX - 0xff] {
        assert_eq!(Place::new(&words, address).unwrap_err().address, address);
    }
    let stamp = Stamp::new(0x1230, 7).unwrap();
    assert_eq!((stamp.address(), stamp.payload()), (0x1230, 7));
    for address in [8, 0x1238, 1 << 57] {
        assert_eq!(Stamp::new(address, 7), Err(StampError::Address(address)));
    }
}
