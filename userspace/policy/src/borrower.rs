// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a channel has to conduct itself, moment by moment: what its gates are to do, and whether it does without
//! what is lent to it. Who does not borrow is told nothing but what an operator orders.
//!
//! ```text
//!   lender                  ________######################______##______
//!   its atoms would be      _______________________________________________
//!     short on its own      ########----~~~~~~~~~~~~~~~~~~######--####       # on all TPCs  - held
//!     too long there        ########----------------------######--####       ~ on its own
//!                                   |<->| an atom on its own TPCs
//! ```
//!
//! A lender that is active has its TPCs back at once. The borrower is held at first: if that is soon over, all its
//! atoms are wide still. If it lasts for longer than an atom takes on its own TPCs, it goes on there; it
//! is then late by at most as much again (ski rental: see `lend.rs`). If atoms would take too long there, it stays held,
//! but for its ration (`ration.rs`); for that only a lender who is served first may hold it, and equals have
//! to bear with the atoms that run.

use crate::gap::LINGER;
use crate::hold::{Activity, Hand, Standing};
use crate::id::Nanos;
use crate::lend::is_recalled;
use crate::pace::AHEAD;
use crate::ration::Ration;

/// What gates are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gates {
    /// To let pass.
    #[default]
    Open,
    /// To let pass as [`crate::Pace`] says.
    Paced,
    /// To hold up.
    Held,
}

/// Who does without what is lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Without {
    /// Nobody.
    #[default]
    Nobody,
    /// Launches that are not split, and first atoms.
    Launches,
    /// All atoms that have not started, too.
    Atoms,
}

/// How a channel has to conduct itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    /// What its gates are to do.
    pub gates: Gates,
    /// What does without what is lent to it.
    pub without: Without,
}

/// For how long those have been idle who lend to a channel; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lenders {
    /// Those of a class that is served first.
    pub betters: Option<Nanos>,
    /// Those of its own class.
    pub equals: Option<Nanos>,
}

/// What there is to know about a channel.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// What its partition may do, and what is ordered.
    pub standing: Standing,
    /// How long its atoms are to be.
    pub atom: Nanos,
    /// How long they are on its own TPCs, if it can go on there.
    pub place: Option<Nanos>,
    /// Whether it has chains that may still run.
    pub runs: bool,
}

/// A channel, from one decision to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Borrower {
    ration: Ration,
    /// Since when what is lent to it is recalled.
    recalled: Option<Nanos>,
    rations: u64,
    /// How long to wait when nobody is active any more, of these gaps and this length of atoms.
    wait: Option<(u64, Nanos, Nanos)>,
}

impl Borrower {
    /// Decides. `activity` is that of those on its GPU who are served first. To be asked as often as anything may
    /// have changed.
    pub fn conduct(
        &mut self,
        now: Nanos,
        of: &Situation,
        activity: &Activity,
        lenders: Lenders,
    ) -> Conduct {
        let Situation {
            standing,
            atom,
            place,
            runs,
        } = *of;
        let wait = self.wait(activity, atom);
        let recalls = standing.borrows
            && (place.is_some() && is_recalled(lenders.betters, wait)
                || is_recalled(lenders.equals, atom));
        self.recalled = recalls.then(|| self.recalled.unwrap_or(now));
        let without = if recalls {
            Without::Atoms
        } else {
            Without::Nobody
        };
        let conduct = |gates, without| Conduct { gates, without };
        if standing.hand == Hand::Held {
            return conduct(Gates::Held, without);
        }
        if let (Some(since), Some(narrow_atom)) = (self.recalled, place) {
            return match now.0.saturating_sub(since.0) < narrow_atom.0 {
                true => conduct(Gates::Held, Without::Launches),
                false => conduct(Gates::Open, Without::Atoms),
            };
        }
        let is_held = activity.holds(now, standing, wait);
        let was_due = self.ration.is_due();
        if (self.ration).may_hold(now, is_held, runs, standing.min_share) {
            return conduct(Gates::Held, without);
        }
        if self.ration.is_due() && !was_due {
            self.rations += 1;
        }
        match activity.paces(now, standing) {
            true => conduct(Gates::Paced, without),
            false => conduct(Gates::Open, without),
        }
    }

    /// Returns how long to wait when nobody is active any more. Who is let pass too early is in the way with as
    /// many atoms as go on at a time.
    fn wait(&mut self, activity: &Activity, atom: Nanos) -> Nanos {
        let version = activity.gaps().version();
        match self.wait {
            Some((of, length, wait)) if (of, length) == (version, atom) => wait,
            _ => {
                let let_pass = Nanos(atom.0.saturating_mul(u64::from(AHEAD)));
                let wait = activity.gaps().wait(let_pass).max(LINGER);
                self.wait = Some((version, atom, wait));
                wait
            }
        }
    }

    /// Returns how often it was let go for what it is owed.
    pub fn rations(&self) -> u64 {
        self.rations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Class;
    use proptest::prelude::*;

    const ATOM: Nanos = Nanos(60_000);
    const NARROW: Nanos = Nanos(400_000);

    fn situation(class: Class, place: bool) -> Situation {
        Situation {
            standing: Standing {
                class,
                is_guaranteed: true,
                borrows: true,
                min_share: 5,
                hand: Hand::Released,
            },
            atom: ATOM,
            place: place.then_some(NARROW),
            runs: true,
        }
    }

    /// A channel with a lender that is active or idle.
    struct Scene {
        borrower: Borrower,
        of: Situation,
        /// Whether the lender is served first.
        is_better: bool,
        activity: Activity,
        last_active: Option<u64>,
        now: u64,
    }

    impl Scene {
        fn new(of: Situation, is_better: bool) -> Self {
            Self {
                borrower: Borrower::default(),
                of,
                is_better,
                activity: Activity::default(),
                last_active: None,
                now: 0,
            }
        }

        fn look(&mut self, after: u64, is_active: bool) -> Conduct {
            self.now += after;
            if is_active {
                self.last_active = Some(self.now);
            }
            self.activity
                .see(Nanos(self.now), is_active && self.is_better);
            let idle = self.last_active.map(|last| Nanos(self.now - last));
            let lenders = match self.is_better {
                true => Lenders {
                    betters: idle,
                    equals: None,
                },
                false => Lenders {
                    betters: None,
                    equals: idle,
                },
            };
            (self.borrower).conduct(Nanos(self.now), &self.of, &self.activity, lenders)
        }
    }

    const US: u64 = 1_000;
    use Class::{BestEffort as BE, LatencyCritical as LC};

    #[test]
    fn with_a_place_of_its_own_it_is_held_for_an_atom_there_and_goes_on_there() {
        for (class, is_better) in [(BE, true), (BE, false), (LC, false)] {
            let mut scene = Scene::new(situation(class, true), is_better);
            assert_eq!(scene.look(US, false), Conduct::default());
            for at in 0..1000 {
                let expected = match at < NARROW.0 / US {
                    true => (Gates::Held, Without::Launches),
                    false => (Gates::Open, Without::Atoms),
                };
                let Conduct { gates, without } = scene.look(US, true);
                assert_eq!((gates, without), expected, "after {at} us");
            }
            let wait = if is_better { LINGER } else { ATOM };
            assert_ne!(scene.look(wait.0 - 1, false).without, Without::Nobody);
            assert_eq!(scene.look(1, false).without, Without::Nobody);
        }
    }

    #[test]
    fn without_one_best_effort_is_held_but_for_its_ration() {
        let mut scene = Scene::new(situation(BE, false), true);
        let held = (1..10_000).filter(|_| scene.look(1000 * US, true).gates == Gates::Held);
        assert_eq!(held.count(), 9500);
        assert_eq!(scene.borrower.rations(), 10);
    }

    #[test]
    fn without_one_equals_give_back_and_are_not_held() {
        let mut scene = Scene::new(situation(LC, false), false);
        for _ in 0..1000 {
            let conduct = scene.look(US, true);
            assert_eq!(
                (conduct.gates, conduct.without),
                (Gates::Open, Without::Atoms)
            );
        }
    }

    #[test]
    fn who_does_not_borrow_is_held_by_hand_only() {
        for class in [LC, BE] {
            let mut of = situation(class, true);
            of.standing.borrows = false;
            let mut scene = Scene::new(of, true);
            assert_eq!(scene.look(US, true), Conduct::default());
            scene.of.standing.hand = Hand::Held;
            assert_eq!(scene.look(US, false).gates, Gates::Held);
        }
    }

    proptest! {
        #[test]
        fn lenders_have_their_tpcs_back_at_once_and_nobody_starves(
            is_be in any::<bool>(),
            has_place in any::<bool>(),
            better in any::<bool>(),
            turns in prop::collection::vec((1_u64..300, any::<bool>(), 1_u64..4000), 1..60),
        ) {
            let is_better = better && is_be;
            let mut scene = Scene::new(situation(if is_be { BE } else { LC }, has_place), is_better);
            // For how long it has been held without a break.
            let mut held = 0;
            for (step_us, is_active, looks) in turns {
                for _ in 0..looks {
                    let conduct = scene.look(step_us * US, is_active);
                    let is_held = conduct.gates == Gates::Held;
                    if is_active {
                        let gave_back = match has_place || !is_better {
                            true => conduct.without != Without::Nobody,
                            false => is_held || scene.borrower.ration.is_due(),
                        };
                        prop_assert!(gave_back, "{conduct:?}");
                    }
                    // Wide atoms never start behind the back of a lender that is active.
                    prop_assert!(is_held || conduct.without != Without::Launches);
                    held = if is_held { held + step_us * US } else { 0 };
                    // Its ration may come at the begin of one window and at the end of the next.
                    let most = if has_place { NARROW.0 } else { 2 * 950_000_000 };
                    prop_assert!(held <= most + 600 * US, "held for {held} ns");
                }
            }
        }
    }
}
