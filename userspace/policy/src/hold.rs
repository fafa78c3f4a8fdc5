// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! When best effort is held up: while somebody latency-critical is active on the same GPU, whose TPCs it uses.
//!
//! A chain of best effort that is held stays where it is, and a launch that it would have been in the way of
//! runs at once. To be *active* is to have launched what has not completed. Between the kernels of one
//! request there are gaps; so best effort goes on only when nothing has been active for a while
//! (`gap.rs`), which is what one launch takes at least.
//!
//! ```text
//!   latency-critical   ___####_###____________##___
//!   best effort        ###-----------##########----###     # runs   - held
//!                                 <-> linger
//! ```
//!
//! In between it goes on at a pace (`pace.rs`), and so it does when it has been held for too long
//! (`ration.rs`). What an operator orders by hand comes first.

use crate::gap::Gaps;
use crate::id::Nanos;
use crate::partition::Class;

/// For how long after somebody latency-critical was active the next time is expected any moment: best effort
/// goes on at a pace then.
pub const RECENT: Nanos = Nanos(20_000_000);

/// What an operator has ordered about a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hand {
    /// Nothing.
    #[default]
    Released,
    /// Its chains stop at their next gates, and stay there.
    Held,
    /// Its chains go on, on as few TPCs as can be.
    Squeezed,
}

/// What says whether a channel's chains are to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The class of its partition.
    pub class: Class,
    /// Whether it has a guarantee.
    pub is_guaranteed: bool,
    /// Whether it uses TPCs of other partitions, too: see `lend.rs`.
    pub borrows: bool,
    /// The part of the time, in percent, in which it is not held up for others: see `ration.rs`.
    pub min_share: u32,
    /// What an operator has ordered.
    pub hand: Hand,
}

impl Standing {
    /// Returns whether it could be in the way of somebody latency-critical.
    pub fn is_in_the_way(&self) -> bool {
        self.class == Class::BestEffort && self.borrows
    }
}

/// Whether somebody latency-critical is active on one GPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    last_active: Option<Nanos>,
    /// Whether nobody was active at the last look.
    is_idle: bool,
    gaps: Gaps,
}

impl Activity {
    /// Takes note of whether anybody was seen to be active.
    pub fn see(&mut self, now: Nanos, is_active: bool) {
        if is_active {
            if let Some(gap) = self.idle(now).filter(|_| self.is_idle) {
                self.gaps.note(gap);
            }
            self.last_active = Some(now);
        }
        self.is_idle = !is_active;
    }

    /// Returns the gaps between the times when somebody was active.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Returns for how long nobody has been active; `None` if nobody ever was.
    pub fn idle(&self, now: Nanos) -> Option<Nanos> {
        self.last_active
            .map(|last| Nanos(now.0.saturating_sub(last.0)))
    }

    /// Returns whether the chains of a channel are to be held, which is to wait for so long.
    pub fn holds(&self, now: Nanos, standing: Standing, wait: Nanos) -> bool {
        standing.hand == Hand::Held
            || standing.is_in_the_way() && self.idle(now).is_some_and(|idle| idle < wait)
    }

    /// Returns whether the chains of a channel, if they are not to be held, are to go on at a pace.
    pub fn paces(&self, now: Nanos, standing: Standing) -> bool {
        standing.is_in_the_way() && self.idle(now).is_some_and(|idle| idle < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::LINGER;

    const BE: Class = Class::BestEffort;

    /// Of a channel that borrows, if its class may.
    fn standing(class: Class, hand: Hand) -> Standing {
        Standing {
            class,
            is_guaranteed: false,
            borrows: class == BE,
            min_share: 0,
            hand,
        }
    }

    #[test]
    fn best_effort_is_held_while_somebody_is_active_and_a_while_longer() {
        let mut activity = Activity::default();
        assert!(!activity.holds(Nanos(0), standing(BE, Hand::Released), LINGER));
        activity.see(Nanos(5), false);
        assert!(!activity.holds(Nanos(5), standing(BE, Hand::Released), LINGER));
        activity.see(Nanos(10), true);
        assert!(activity.holds(Nanos(10), standing(BE, Hand::Released), LINGER));
        activity.see(Nanos(20), false);
        assert!(activity.holds(Nanos(9 + LINGER.0), standing(BE, Hand::Released), LINGER));
        assert!(!activity.holds(Nanos(10 + LINGER.0), standing(BE, Hand::Released), LINGER));
    }

    #[test]
    fn a_gap_is_what_lies_between_looks_that_saw_somebody_with_one_that_saw_nobody() {
        let mut activity = Activity::default();
        let mut looks = |is_active: bool, count: u64, from: u64| {
            (0..count).for_each(|n| activity.see(Nanos(from + 5_000 * n), is_active));
            activity.gaps().version()
        };
        assert_eq!(looks(true, 20, 0), 0, "it was active all the time");
        assert_eq!(looks(false, 20, 100_000), 0);
        assert_eq!(looks(true, 20, 200_000), 1);
    }

    #[test]
    fn best_effort_goes_on_at_a_pace_until_nobody_has_been_active_for_long() {
        let mut activity = Activity::default();
        let free = standing(BE, Hand::Released);
        assert!(!activity.paces(Nanos(0), free));
        activity.see(Nanos(10), true);
        assert!(activity.paces(Nanos(9 + RECENT.0), free));
        assert!(!activity.paces(Nanos(10 + RECENT.0), free));
        assert!(!activity.paces(Nanos(10), standing(Class::LatencyCritical, Hand::Released)));
    }

    #[test]
    fn nobody_latency_critical_is_held_for_another() {
        let mut activity = Activity::default();
        activity.see(Nanos(10), true);
        assert!(!activity.holds(
            Nanos(10),
            standing(Class::LatencyCritical, Hand::Released),
            LINGER
        ));
    }

    #[test]
    fn what_is_ordered_by_hand_comes_first() {
        let mut activity = Activity::default();
        for class in [BE, Class::LatencyCritical] {
            assert!(activity.holds(Nanos(0), standing(class, Hand::Held), LINGER));
        }
        activity.see(Nanos(10), true);
        assert!(activity.holds(Nanos(10), standing(BE, Hand::Squeezed), LINGER));
        assert!(!activity.holds(Nanos(1_000_000), standing(BE, Hand::Squeezed), LINGER));
    }
}
