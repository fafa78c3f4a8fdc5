// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The words of a chain are those that were measured.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lithos_descriptor::hopper::{
    Chain, Descriptor, GATE_WORD, GateState, Link, SplitError, StampSlot, WORDS, Words,
};
use lithos_descriptor::{Plan, Span, TpcMask};
use proptest::prelude::*;

use crate::arena::{Arena, NUMBER};
use crate::recorded::{launch, launches};

fn put(q: &mut Words, hi: u32, lo: u32, value: u64) {
    for bit in lo..=hi {
        let (word, mask) = (bit as usize / 32, 1 << (bit % 32));
        if value >> (bit - lo) & 1 == 1 {
            q[word] |= mask;
        } else {
            q[word] &= !mask;
        }
    }
}

fn get(q: &Words, hi: u32, lo: u32) -> u64 {
    (lo..=hi).rev().fold(0, |value, bit| {
        value << 1 | u64::from(q[bit as usize / 32] >> (bit % 32) & 1)
    })
}

fn dependent(q: &mut Words, slot: u32, action: u64, to: u64) {
    let enable = 368 + 5 * slot;
    let pointer = if slot == 1 { 480 } else { 448 };
    put(q, enable, enable, 1);
    put(q, enable + 3, enable + 1, action);
    put(q, enable + 4, enable + 4, 0);
    put(q, pointer + 31, pointer, to >> 8);
}

fn release(q: &mut Words, slot: u32, to: u64, on: bool) {
    let (enable, address) = (320 + 16 * slot, 640 + 128 * slot);
    put(q, enable + 12, enable, on.into());
    put(q, address + 56, address, to);
    put(q, address + 127, address + 64, NUMBER.into());
}

/// What `build` of `tests/hardware/chains.h` makes of a descriptor, bit by bit: atom 0, then the
/// places of the arena. Two things differ. An atom ends and begins in three directions, as in the
/// probe that tried random grids; with one, it is the same. And gates and bounces are copies of a
/// launch there, but of nothing here: the conformance suite runs both on the GPU.
fn measured(
    original: &Words,
    spans: &[Span],
    arena: &Arena,
    shut: bool,
    narrow: bool,
) -> Vec<Words> {
    const ENABLES: [u32; 5] = [320, 336, 352, 368, 373];
    let n = u16::try_from(spans.len()).unwrap();
    let copy = || {
        let mut q = *original;
        put(&mut q, 15, 0, 0);
        put(&mut q, 303, 288, 0);
        for bit in [28, 29].into_iter().chain(ENABLES) {
            put(&mut q, bit, bit, 0);
        }
        q
    };
    let mut first = *original;
    for bit in [28].into_iter().chain(ENABLES) {
        put(&mut first, bit, bit, 0);
    }
    let mut tail = *original;
    put(&mut tail, 25, 23, 1);
    put(&mut tail, 29, 29, 0);
    put(&mut tail, 15, 0, n.into());
    put(&mut tail, 303, 288, n.into());
    release(&mut tail, 1, arena.stamp_address(0), true);

    let mut all = vec![first, tail];
    for i in 1..n {
        let [mut a, mut b] = [*Descriptor::null().words(); 2];
        let [at, bounce, atom] = [3 * i - 2, 3 * i - 1, 3 * i].map(Arena::address);
        dependent(&mut b, 0, 1, at);
        dependent(&mut a, 0, 1, bounce);
        dependent(&mut a, 1, 1, atom);
        release(&mut a, 2, arena.gate(i).waiting.address(), false);
        let rest = a[11] & !(1 << 16 | 1 << 21 | 1);
        a[11] = rest | if shut { 1 << 16 | 1 } else { 1 << 21 };
        all.extend([a, b, copy()]);
    }
    for (i, span) in (0..n).zip(spans) {
        let atom = &mut all[if i == 0 { 0 } else { 1 + 3 * usize::from(i) }];
        let ([width, height, depth], [x, y, z]) =
            (span.end.map(u64::from), span.start.map(u64::from));
        put(atom, 1055, 1024, width);
        put(atom, 1071, 1056, height);
        put(atom, 1103, 1088, depth);
        put(atom, 1439, 1408, x);
        put(atom, 1455, 1440, y);
        put(atom, 1471, 1456, z);
        put(atom, 1150, 1150, 1);
        dependent(atom, 1, 4, Arena::address(0));
        if narrow && i > 0 {
            for (word, value) in (76..80).zip([!3, !0, !0, !0]) {
                atom[word] = value;
            }
            put(atom, 31, 31, 1);
        }
        if i + 1 < n {
            dependent(atom, 0, 1, Arena::address(3 * (i + 1) - 2));
        }
    }
    all
}

/// What the crate makes of it, in the same order.
fn built(
    original: &Descriptor<Words>,
    plan: &Plan,
    chain: &Chain<'_>,
    links: &[Link<'_>],
    arena: &Arena,
) -> Vec<Words> {
    let mut words = *original.words();
    let descriptor = Descriptor::new(&mut words).unwrap();
    let split = descriptor
        .splittable()
        .unwrap()
        .split(plan, chain, links.iter().copied());
    assert_eq!(split, Ok(()));
    let places = 1 + 3 * (plan.atoms() - 1);
    let mut all = vec![words];
    all.extend((0..places).map(|place| arena.words(place)));
    all
}

/// The recorded launches that may be split, if their grids were of more blocks.
pub(crate) const PLAIN: [&str; 8] = [
    "plain 1 block",
    "plain 7x6x5 blocks of 32x4x2",
    "plain 70000x2x3 blocks of 1024",
    "plain with shared memory",
    "plain with the most shared memory",
    "high priority",
    "other memory domain",
    "after an event",
];
/// Those of clusters.
pub(crate) const CLUSTERS: [&str; 5] = [
    "clusters of 2",
    "clusters of 2 in 8x4x2",
    "clusters of 2x2x2 in 8x4x2",
    "clusters of 3",
    "clusters of 8",
];

/// A recorded launch, with a grid of few units.
pub(crate) fn any_launch() -> impl Strategy<Value = Descriptor<Words>> {
    let names: Vec<&str> = PLAIN.into_iter().chain(CLUSTERS).collect();
    let grid = prop_oneof![
        (2_u32..200).prop_map(|x| [x, 1, 1]),
        (1_u32..14, 2_u32..14).prop_map(|(x, y)| [x, y, 1]),
        [1_u32..6, 1_u32..6, 2_u32..6],
    ];
    (prop::sample::select(names), grid).prop_map(|(name, grid)| {
        let mut launch = launch(name);
        launch.set_grid(grid).unwrap();
        launch
    })
}

proptest! {
    #[test]
    fn every_word_is_that_of_the_chains_that_were_measured(
        original in any_launch(),
        atoms in 2_u16..20,
        wave in 0_u32..30,
        shut in any::<bool>(),
        narrow in any::<bool>(),
    ) {
        let plan = Plan::new(original.grid(), atoms, wave).unwrap();
        let arena = Arena::new(plan.atoms());
        let state = if shut { GateState::Shut } else { GateState::Open };
        let mut links = arena.links(plan.atoms(), false);
        for link in &mut links {
            link.allowed = narrow.then(|| "0-1".parse().unwrap());
        }
        let built = built(&original, &plan, &arena.chain(state, false), &links, &arena);
        let spans: Vec<Span> = plan.spans().collect();
        let measured = measured(original.words(), &spans, &arena, shut, narrow);
        prop_assert_eq!(built.len(), measured.len());
        for (index, (built, measured)) in built.iter().zip(&measured).enumerate() {
            for word in 0..WORDS {
                prop_assert_eq!(
                    built[word], measured[word],
                    "descriptor {}, word {}: {:#x}, measured {:#x}",
                    index, word, built[word], measured[word]
                );
            }
        }
    }

    #[test]
    fn what_lay_in_the_places_before_does_not_matter(
        original in any_launch(),
        atoms in 2_u16..8,
        before in any_launch(),
    ) {
        let plan = Plan::new(original.grid(), atoms, 0).unwrap();
        let once = |arena: &Arena, launch: &Descriptor<Words>, stamped| {
            let plan = Plan::new(launch.grid(), atoms, 0).unwrap();
            let chain = arena.chain(GateState::Open, stamped);
            built(launch, &plan, &chain, &arena.links(plan.atoms(), stamped), arena)
        };
        let (fresh, used) = (Arena::new(atoms), Arena::new(atoms));
        once(&used, &before, true);
        prop_assert_eq!(once(&used, &original, false), once(&fresh, &original, false));
        prop_assert!(plan.atoms() <= atoms);
    }
}

#[test]
fn a_gate_s_words_are_those_of_the_contract() {
    // LITHOS_GATE_SHUT and LITHOS_GATE_OPEN in include/lithos.h, at `word`.
    assert_eq!(GateState::Shut.word(), 0x0043_0001);
    assert_eq!(GateState::Open.word(), 0x0062_0000);
    assert_eq!(GateState::Halted.word(), 0x0068_0000);
    assert_eq!(GATE_WORD * 4, 44);
    for state in [GateState::Shut, GateState::Open, GateState::Halted] {
        assert_eq!(GateState::from_word(state.word()), Some(state));
    }
    assert_eq!(GateState::from_word(0), None);
    let arena = Arena::new(2);
    let gate = arena.gate(1);
    assert_eq!(gate.state(), None);
    gate.set(GateState::Halted);
    assert_eq!(gate.state(), Some(GateState::Halted));
    let mut expected = [0; WORDS];
    expected[11] = GateState::Halted.word();
    assert_eq!(arena.words(1), expected, "one word and no other");
}

#[test]
fn an_atom_has_the_tpcs_that_the_driver_and_its_link_allow() {
    let mut original = launch("plain 1 block");
    original.set_grid([40, 1, 1]).unwrap();
    original.set_allowed(Some("0-9".parse().unwrap())).unwrap();
    let plan = Plan::new(original.grid(), 4, 0).unwrap();
    let arena = Arena::new(4);
    let mut links = arena.links(4, false);
    links[0].allowed = Some("8-20".parse().unwrap());
    // None of these is left, and of those none exists.
    links[1].allowed = Some("10-20".parse().unwrap());
    links[2].allowed = Some("4-5".parse().unwrap());
    let mut chain = arena.chain(GateState::Open, false);
    chain.present = "0-3,8-20".parse().unwrap();
    let built = built(&original, &plan, &chain, &links, &arena);
    let allowed = |index: usize| Descriptor::new(built[index]).unwrap().allowed();
    let whole: TpcMask = "0-9".parse().unwrap();
    assert_eq!(allowed(0), whole);
    assert_eq!(allowed(4), "8-9".parse().unwrap());
    assert_eq!(allowed(7), whole);
    assert_eq!(allowed(10), whole);
    // The first atom as well.
    let some = [("1-2", "1-2"), ("5-7", "0-9")];
    for (first, left) in some {
        chain.allowed = Some(first.parse().unwrap());
        let built = self::built(&original, &plan, &chain, &links, &arena);
        let allowed = |index: usize| Descriptor::new(built[index]).unwrap().allowed();
        assert_eq!(allowed(0), left.parse().unwrap());
        assert_eq!(allowed(7), whole);
    }
}

#[test]
fn a_stamp_of_the_launch_stays_with_its_completion() {
    for (slot, theirs, ours) in [(StampSlot::One, 1, 2), (StampSlot::Two, 2, 1)] {
        let mut original = launch("plain 1 block");
        original.set_grid([40, 1, 1]).unwrap();
        original.stamp(slot, 0x5550, 99).unwrap();
        let plan = Plan::new(original.grid(), 3, 0).unwrap();
        let arena = Arena::new(3);
        let chain = arena.chain(GateState::Shut, true);
        let built = built(&original, &plan, &chain, &arena.links(3, true), &arena);
        let releases = |index: usize| {
            let descriptor = Descriptor::new(built[index]).unwrap();
            [0, 1, 2].map(|slot| descriptor.release(slot).map(|release| release.address))
        };
        let mut tail = [
            original.release(0).map(|release| release.address),
            None,
            None,
        ];
        tail[theirs] = Some(0x5550);
        tail[ours] = Some(arena.stamp_address(0));
        assert_eq!(releases(1), tail);
        for (atom, index) in [(0, 0), (1, 4), (2, 7)] {
            assert_eq!(
                releases(index),
                [None, Some(arena.stamp_address(1 + atom)), None]
            );
        }
        for atom in [1, 2] {
            let gate = 3 * usize::from(atom) - 1;
            let waiting = arena.gate(atom).waiting.address();
            assert_eq!(releases(gate), [None, None, Some(waiting)], "shut");
            assert_eq!(releases(gate + 1), [None; 3], "the bounce");
        }
    }
}

#[test]
fn what_is_edited_before_it_is_split_is_in_every_atom_or_in_the_tail() {
    let mut original = launch("plain 1 block");
    original.set_grid([40, 1, 1]).unwrap();
    let (allowed, present) = ("0-9".parse().unwrap(), TpcMask::ALL);
    let arena = Arena::new(3);
    let mut links = arena.links(3, false);
    links[0].allowed = Some("8-20".parse().unwrap());
    let chain = arena.chain(GateState::Open, false);
    let plan = Plan::new(original.grid(), 3, 0).unwrap();

    let mut words = *original.words();
    let mut split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
    let _ = split.restrict(allowed, present);
    split.stamp(StampSlot::One, 0x5550, 99).unwrap();
    split.split(&plan, &chain, links.iter().copied()).unwrap();
    let after: Vec<Words> = (0..7).map(|place| arena.words(place)).collect();

    let mut edited = original;
    let _ = edited.restrict(allowed, present);
    edited.stamp(StampSlot::One, 0x5550, 99).unwrap();
    let before = built(&edited, &plan, &chain, &links, &arena);
    assert_eq!((words, &after[..]), (before[0], &before[1..]));
    let first = Descriptor::new(after[3]).unwrap();
    assert_eq!(first.allowed(), "8-9".parse().unwrap());

    let mut words = *original.words();
    let mut split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
    for slot in [StampSlot::One, StampSlot::Two] {
        split.stamp(slot, 0x5550, 99).unwrap();
    }
    let result = split.split(&plan, &chain, links.iter().copied());
    assert_eq!(result, Err(SplitError::Releases));
}

#[test]
fn a_plan_for_something_else_changes_nothing() {
    let original = launch("plain 7x6x5 blocks of 32x4x2");
    let arena = Arena::new(4);
    let chain = arena.chain(GateState::Open, false);
    let other = Plan::new([7, 6, 4], 3, 0).unwrap();
    let own = Plan::new([7, 6, 5], 3, 0).unwrap();
    for (plan, links) in [(other, 3), (own, 2), (own, 4)] {
        let links = arena.links(links, false);
        let all = || -> Vec<Words> { (0..10).map(|place| arena.words(place)).collect() };
        let before = all();
        let mut words = *original.words();
        let split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
        assert_eq!(split.split(&plan, &chain, links), Err(SplitError::Plan));
        assert_eq!(&words, original.words());
        assert_eq!(all(), before);
    }
}

/// The process may die at any time, and its pages outlive it.
#[test]
fn a_chain_that_was_not_finished_is_led_to_by_nothing_and_leads_to_what_is_there() {
    const ATOMS: u16 = 6;
    let mut original = launch("plain 1 block");
    original.set_grid([60, 1, 1]).unwrap();
    let plan = Plan::new(original.grid(), ATOMS, 0).unwrap();
    for unfinished in 1..ATOMS {
        let arena = Arena::new(ATOMS);
        let chain = arena.chain(GateState::Open, false);
        let mut words = *original.words();
        let split = Descriptor::new(&mut words).unwrap().splittable().unwrap();
        let links = arena.links(ATOMS, false);
        let links = (1..ATOMS).zip(links).map(|(atom, link)| {
            assert_ne!(atom, unfinished, "this is where it dies");
            link
        });
        let died = catch_unwind(AssertUnwindSafe(|| split.split(&plan, &chain, links)));
        assert!(died.is_err());
        assert_eq!(
            &words,
            original.words(),
            "the driver's descriptor comes last"
        );
        // Of a gate that is its word.
        let written = |place: u16| match (place % 3, arena.words(place)) {
            (1, words) => words[GATE_WORD] != 0,
            (_, words) => words != [0; WORDS],
        };
        let is_bounce = |place: u16| place % 3 == 2;
        assert!((1..=3 * unfinished).all(|place| written(place) == is_bounce(place)));
        for place in [0].into_iter().chain(3 * unfinished + 1..=3 * (ATOMS - 1)) {
            assert!(written(place));
            let descriptor = Descriptor::new(arena.words(place)).unwrap();
            for dependent in [0, 1]
                .into_iter()
                .filter_map(|slot| descriptor.dependent(slot))
            {
                let there = (0..=3 * (ATOMS - 1))
                    .filter(|&place| written(place))
                    .any(|place| Arena::address(place) == dependent.address);
                assert!(
                    there || place == 0,
                    "{place} leads to {:#x}",
                    dependent.address
                );
            }
        }
    }
}

#[test]
fn chains_have_no_unknown_bits() {
    for (name, mut original) in launches() {
        original.set_grid([64, 2, 2]).unwrap();
        let mut words = *original.words();
        let Ok(split) = Descriptor::new(&mut words).unwrap().splittable() else {
            continue;
        };
        let plan = split.plan(2, 0).expect(name);
        let arena = Arena::new(2);
        let chain = arena.chain(GateState::Open, true);
        split
            .split(&plan, &chain, arena.links(2, true))
            .expect(name);
        for words in (0..4).map(|place| arena.words(place)).chain([words]) {
            assert_eq!(
                Descriptor::new(words).expect(name).unknown_bit(),
                None,
                "{name}"
            );
        }
    }
}

#[test]
fn the_bits_of_measured_gates_are_read_back() {
    let word = |shut| {
        let spans = [([0; 3], [1; 3]); 2].map(|(start, end)| Span { start, end });
        let words = measured(
            launch("plain 1 block").words(),
            &spans,
            &Arena::new(2),
            shut,
            false,
        );
        assert_eq!(get(&words[1], 15, 0), 2);
        words[2][11]
    };
    assert_eq!(GateState::from_word(word(true)), Some(GateState::Shut));
    assert_eq!(GateState::from_word(word(false)), Some(GateState::Open));
}
