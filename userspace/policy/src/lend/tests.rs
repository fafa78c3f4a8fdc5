// SPDX-License-Identifier: GPL-2.0-only OR MIT

use super::*;
use crate::hold::Hand;
use Class::{BestEffort as BE, LatencyCritical as LC};

const US: u64 = 1_000;
const ATOM: Nanos = Nanos(60 * US);

fn set(bits: std::ops::Range<u8>) -> TpcSet {
    bits.collect()
}

fn party(name: &str, class: Class, own: std::ops::Range<u8>, lent: TpcSet) -> Party {
    Party {
        name: name.parse().unwrap(),
        standing: Standing {
            class,
            borrows: !lent.is_empty(),
            min_share: 1,
            hand: Hand::Released,
        },
        priority: 0,
        weight: 1,
        ceiling: u32::MAX,
        own: set(own),
        lent,
        atom: ATOM,
    }
}

/// Parties, and a clock.
struct Scene {
    lending: Lending,
    now: u64,
}

impl Scene {
    fn new(parties: impl Into<Vec<Party>>) -> Self {
        let mut lending = Lending::default();
        lending.set(parties.into());
        Self { lending, now: 0 }
    }

    /// A look after so long, at which these are active, and want what they can get.
    fn look(&mut self, after: u64, active: &[usize]) {
        self.now += after;
        for party in 0..self.lending.parties().len() {
            let is_active = active.contains(&party);
            let look = Look {
                is_active,
                wants: is_active,
                in_the_way: Nanos(0),
            };
            self.lending.see(Nanos(self.now), party, look);
        }
        self.lending.decide(Nanos(self.now));
    }

    fn lent(&self, party: usize) -> TpcSet {
        self.lending.portion(party).tpcs
    }
}

/// Three of one class, two of whom lend the third all they have.
fn three() -> Scene {
    Scene::new([
        party("a", BE, 0..4, TpcSet::EMPTY),
        party("b", BE, 4..8, TpcSet::EMPTY),
        party("c", BE, 8..12, set(0..8)),
    ])
}

#[test]
fn each_lender_gets_back_its_own_and_no_more() {
    let mut scene = three();
    scene.look(US, &[2]);
    assert_eq!(scene.lent(2), set(0..8));
    scene.look(US, &[0, 2]);
    assert_eq!(scene.lent(2), set(4..8), "b is idle still");
    scene.look(US, &[0, 1, 2]);
    assert_eq!(scene.lent(2), TpcSet::EMPTY);
    assert!(
        !scene.lending.portion(2).is_suspended,
        "equals bear with it"
    );
}

#[test]
fn what_was_lent_comes_back_when_its_owner_has_been_idle_for_as_long_as_it_would_wait() {
    let mut scene = three();
    scene.look(US, &[0, 2]);
    scene.look(ATOM.0 - 1, &[2]);
    assert_eq!(scene.lent(2), set(4..8));
    scene.look(1, &[2]);
    assert_eq!(scene.lent(2), set(0..8));
}

#[test]
fn those_who_want_some_divide_what_there_is_by_weight() {
    let borrower = |name, weight| Party {
        weight,
        ..party(name, BE, 0..0, set(0..12))
    };
    let mut scene = Scene::new([
        party("lc", LC, 0..12, TpcSet::EMPTY),
        borrower("once", 1),
        borrower("twice", 2),
        borrower("idle", 5),
    ]);
    scene.look(US, &[1, 2]);
    assert_eq!((scene.lent(1).len(), scene.lent(2).len()), (4, 8));
    assert!(scene.lent(1).is_disjoint(scene.lent(2)));
    // What it would get if it wanted some.
    assert_eq!(scene.lent(3).len(), 7);
    let before = scene.lent(1);
    scene.look(US, &[1]);
    assert_eq!(scene.lent(1).len(), 12);
    scene.look(US, &[1, 2]);
    assert_eq!(scene.lent(1).len(), before.len());
}

#[test]
fn what_the_third_does_not_use_two_equals_divide() {
    let mut scene = Scene::new([
        party("a", BE, 0..4, set(4..12)),
        party("b", BE, 4..8, set(0..4) | set(8..12)),
        party("c", BE, 8..12, set(0..8)),
    ]);
    scene.look(US, &[0, 2]);
    assert_eq!((scene.lent(0).len(), scene.lent(2).len()), (2, 2));
    assert_eq!(scene.lent(0) | scene.lent(2), set(4..8));
}

#[test]
fn who_is_served_first_takes_first_and_nobody_more_than_its_ceiling() {
    let mut scene = Scene::new([
        party("idle", LC, 0..8, TpcSet::EMPTY),
        party("be", BE, 8..10, set(0..8)),
        Party {
            ceiling: 7,
            ..party("lc", LC, 10..12, set(0..8))
        },
        Party {
            priority: 1,
            ceiling: 2,
            ..party("first", BE, 12..13, set(0..8))
        },
    ]);
    scene.look(US, &[1, 2, 3]);
    assert_eq!(scene.lent(2).len(), 5);
    assert_eq!(scene.lent(3).len(), 1);
    assert_eq!(scene.lent(1).len(), 2);
}

#[test]
fn a_borrower_leaves_the_lenders_tpcs_and_is_suspended_only_if_it_cannot_go_on() {
    let lender = || party("lc", LC, 4..66, TpcSet::EMPTY);
    let be = |own| party("be", BE, own, set(4..66));
    // 60 us on 66 TPCs are a millisecond on four.
    let mut scene = Scene::new([lender(), be(0..4)]);
    scene.look(US, &[0, 1]);
    let portion = scene.lending.portion(1);
    assert_eq!((portion.tpcs, portion.is_suspended), (TpcSet::EMPTY, false));
    let mut scene = Scene::new([lender(), be(0..3)]);
    scene.look(US, &[0, 1]);
    let portion = scene.lending.portion(1);
    assert_eq!((portion.tpcs, portion.is_suspended), (set(4..66), true));
    // Until its lender has been idle.
    scene.look(10_000 * US, &[1]);
    assert!(!scene.lending.portion(1).is_suspended);
}

#[test]
fn on_tpcs_of_who_is_served_first_it_goes_on_at_a_pace_for_a_while() {
    let mut scene = Scene::new([
        party("lc", LC, 4..66, TpcSet::EMPTY),
        party("be", BE, 0..4, set(4..66)),
    ]);
    scene.look(US, &[1]);
    assert!(!scene.lending.portion(1).is_paced);
    scene.look(US, &[0, 1]);
    assert!(!scene.lending.portion(1).is_paced, "on its own");
    scene.look(1000 * US, &[1]);
    let portion = scene.lending.portion(1);
    assert_eq!((portion.tpcs, portion.is_paced), (set(4..66), true));
    scene.look(RECENT.0, &[1]);
    assert!(!scene.lending.portion(1).is_paced);
}

#[test]
fn who_was_seen_before_is_known_when_others_come() {
    let mut scene = three();
    scene.look(US, &[0, 2]);
    let mut parties = scene.lending.parties().to_vec();
    parties.insert(0, party("aa", LC, 12..13, TpcSet::EMPTY));
    scene.lending.set(parties);
    scene.look(US, &[3]);
    assert_eq!(scene.lent(3), set(4..8), "a was active a moment ago");
}

#[test]
fn what_is_lent_is_added_up_while_it_is_wanted() {
    let mut scene = three();
    scene.look(US, &[2]);
    scene.look(1000 * US, &[2]);
    scene.look(10_000 * US, &[]);
    scene.look(10_000 * US, &[]);
    let [a, b, c] = [0, 1, 2].map(|party| scene.lending.take_sums(party));
    assert_eq!((c.borrowed_tpc_ns, c.suspended_ns), (8 * 11_000 * US, 0));
    assert_eq!(a.lent_tpc_ns, 4 * 11_000 * US);
    assert_eq!(a, b);
    assert_eq!(scene.lending.take_sums(2), Sums::default());
}
