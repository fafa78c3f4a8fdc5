// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What holds after every look, whoever is active when: random partitions on a GPU that lend each other TPCs, and random
//! times at which they have something to run.
//!
//! The generator is seeded with a constant, so every run tries the same; a failure prints the shortest one.

use lithos_policy::{Borrower, Class, Gates, Hand, Lending, Look, Nanos, Party, Standing, TpcSet};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The shortest wait for a lender that is not active any more.
const LINGER: u64 = 10_000;
/// No wait is longer.
const LONGEST_WAIT: u64 = 20_480_000;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
struct Someone {
    is_critical: bool,
    priority: i32,
    weight: u32,
    tpcs: u8,
    /// TPCs beyond its own that it may have; none: it does not borrow.
    room: Option<u32>,
    atom_us: u64,
}

/// A time until the next look, and who is active then, a bit each.
type Looks = Vec<(u64, u8)>;

fn someone() -> impl Strategy<Value = Someone> {
    let room = prop_oneof![Just(None), Just(Some(100)), (1_u32..20).prop_map(Some)];
    (
        any::<bool>(),
        0..2_i32,
        1_u32..4,
        0_u8..20,
        room,
        20_u64..300,
    )
        .prop_map(
            |(is_critical, priority, weight, tpcs, room, atom_us)| Someone {
                is_critical,
                priority,
                weight,
                tpcs,
                room,
                atom_us,
            },
        )
}

fn parties(all: &[Someone]) -> Vec<Party> {
    let mut next = 0;
    let mut parties: Vec<Party> = (all.iter().enumerate())
        .map(|(index, one)| {
            let own: TpcSet = (next..next + one.tpcs).collect();
            next += one.tpcs;
            Party {
                name: format!("p{index}").parse().unwrap(),
                standing: Standing {
                    class: match one.is_critical {
                        true => Class::LatencyCritical,
                        false => Class::BestEffort,
                    },
                    borrows: one.room.is_some(),
                    min_share: 2,
                    hand: Hand::Released,
                },
                priority: one.priority,
                weight: one.weight,
                ceiling: one.room.map_or(own.len(), |room| own.len() + room),
                own,
                lent: TpcSet::EMPTY,
                atom: Nanos(one.atom_us * 1000),
            }
        })
        .collect();
    let owned: Vec<(Class, TpcSet)> = (parties.iter())
        .map(|party| (party.standing.class, party.own))
        .collect();
    for (index, party) in parties.iter_mut().enumerate() {
        let class = party.standing.class;
        let lenders = owned.iter().enumerate().filter(|(lender, (its, _))| {
            *lender != index && (*its == class || class == Class::BestEffort)
        });
        if party.standing.borrows {
            party.lent = lenders.fold(TpcSet::EMPTY, |all, (_, (_, own))| all | *own);
        }
    }
    parties
}

fn for_all(check: impl Fn(&[Someone], &Looks)) {
    let config = Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, b"who lends what to whom, and when");
    let strategy = (
        prop::collection::vec(someone(), 1..6),
        prop::collection::vec(
            (
                prop_oneof![500_u64..5_000, 1_000_u64..3_000_000],
                any::<u8>(),
            ),
            1..100,
        ),
    );
    TestRunner::new_with_rng(config, seed)
        .run(&strategy, |(all, looks)| {
            check(&all, &looks);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Shows a lending all looks, and after each what was seen.
fn look(all: &[Someone], looks: &Looks, mut check: impl FnMut(u64, u8, &Lending)) {
    let mut lending = Lending::default();
    lending.set(parties(all));
    let mut now = 0;
    for &(after, active) in looks {
        now += after;
        for party in 0..all.len() {
            let is_active = active & (1 << party) != 0;
            let look = Look {
                is_active,
                wants: is_active,
                in_the_way: Nanos(0),
            };
            lending.see(Nanos(now), party, look);
        }
        lending.decide(Nanos(now));
        check(now, active, &lending);
    }
}

#[test]
fn who_is_active_has_its_own_tpcs_from_the_next_look_on() {
    for_all(|all, looks| {
        let mut last = vec![None; all.len()];
        look(all, looks, |now, active, lending| {
            for (lender, party) in lending.parties().iter().enumerate() {
                if active & (1 << lender) != 0 {
                    last[lender] = Some(now);
                }
                let needs = last[lender].is_some_and(|last| now - last < LINGER);
                for other in (0..all.len()).filter(|_| needs) {
                    let portion = lending.portion(other);
                    assert!(
                        portion.is_suspended || portion.tpcs.is_disjoint(party.own),
                        "{other} has {portion:?} of {party:?}"
                    );
                    let is_better = party.standing.class == Class::LatencyCritical
                        && lending.parties()[other].standing.class == Class::BestEffort;
                    assert!(
                        is_better || portion.tpcs.is_disjoint(party.own),
                        "nobody is suspended for an equal"
                    );
                }
            }
        });
    });
}

#[test]
fn tpcs_are_lent_within_ceilings_to_one_at_a_time_who_wants_them() {
    for_all(|all, looks| {
        look(all, looks, |_, active, lending| {
            let mut taken = TpcSet::EMPTY;
            for (index, party) in lending.parties().iter().enumerate() {
                let portion = lending.portion(index);
                assert!(portion.tpcs.is_subset(party.lent));
                assert!(party.own.len() + portion.tpcs.len() <= party.ceiling);
                if active & (1 << index) != 0 && !portion.is_suspended {
                    assert!(taken.is_disjoint(portion.tpcs), "{} twice", portion.tpcs);
                    taken |= portion.tpcs;
                }
            }
        });
    });
}

#[test]
fn nothing_is_idle_that_somebody_wants_and_may_have() {
    for_all(|all, looks| {
        let mut last = vec![None; all.len()];
        look(all, looks, |now, active, lending| {
            let wants = |index: usize| active & (1 << index) != 0;
            let mut used = TpcSet::EMPTY;
            let mut free = TpcSet::EMPTY;
            for (index, party) in lending.parties().iter().enumerate() {
                if wants(index) {
                    last[index] = Some(now);
                    used |= lending.portion(index).tpcs;
                }
                if last[index].is_none_or(|last| now - last > LONGEST_WAIT) {
                    free |= party.own;
                }
            }
            for (index, party) in lending.parties().iter().enumerate() {
                let portion = lending.portion(index);
                if wants(index) && party.own.len() + portion.tpcs.len() < party.ceiling {
                    let idle = (party.lent & free) - used;
                    assert!(idle.is_empty(), "{party:?} could have {idle}");
                }
            }
        });
    });
}

#[test]
fn among_equals_nobody_has_more_by_weight_than_another_who_could_have_it() {
    for_all(|all, looks| {
        look(all, looks, |_, active, lending| {
            let parties = lending.parties().iter().enumerate();
            let equals: Vec<(usize, &Party)> = parties
                .filter(|(index, _)| active & (1 << index) != 0)
                .filter(|(index, _)| !lending.portion(*index).is_suspended)
                .collect();
            for (rich, one) in &equals {
                for (poor, other) in &equals {
                    let level = |party: &Party| (party.standing.class, party.priority);
                    let [has, its] = [rich, poor].map(|&index| lending.portion(index).tpcs);
                    let room = other.own.len() + its.len() < other.ceiling;
                    // What the other one could have at once: that of lenders who are idle for both.
                    if level(one) != level(other) || !room || (has & other.lent) != has {
                        continue;
                    }
                    let waits = |party: &Party| party.atom;
                    if waits(one) < waits(other) {
                        continue;
                    }
                    assert!(
                        (has.len().saturating_sub(1)) * other.weight
                            <= (its.len() + 1) * one.weight,
                        "{one:?} has {has}, {other:?} {its}"
                    );
                }
            }
        });
    });
}

#[test]
fn nobody_starves_whoever_is_active_for_ever() {
    let lc = Someone {
        is_critical: true,
        priority: 9,
        weight: 1,
        tpcs: 60,
        room: None,
        atom_us: 100,
    };
    for tpcs in 0..8 {
        let be = Someone {
            is_critical: false,
            tpcs,
            room: Some(100),
            ..lc.clone()
        };
        let mut borrower = Borrower::default();
        let step = 1_000_000;
        let looks = vec![(step, 0b11); 3000];
        let mut runs = [0; 3];
        look(&[lc.clone(), be], &looks, |now, _, lending| {
            let standing = lending.parties()[1].standing;
            let gates = borrower.gates(Nanos(now), standing, lending.portion(1), true);
            if gates != Gates::Held {
                let second = usize::try_from((now - step) / SECOND).unwrap();
                runs[second] += step;
            }
        });
        // A look comes a step late.
        for ran in runs {
            assert!(
                (ran + step) * 100 >= SECOND * 2,
                "{ran} ns of a second on {tpcs} TPCs of its own"
            );
        }
    }
}

#[test]
fn the_same_looks_give_the_same_portions() {
    for_all(|all, looks| {
        let portions = || {
            let mut found = Vec::new();
            look(all, looks, |_, _, lending| {
                found.extend((0..all.len()).map(|index| lending.portion(index)));
            });
            found
        };
        assert_eq!(portions(), portions());
    });
}
