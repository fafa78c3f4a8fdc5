// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The least that best effort gets, however busy those are whom it is held up for: a part of each [`WINDOW`].
//!
//! Somebody latency-critical who is always active, or says so, would hold best effort up for ever. So in each
//! window best effort is owed a part of the time, in which it is not held. While it is held that waits, for as long as what is
//! left of the window is more than what is owed; then it is let go until the window ends. That is
//! least laxity first (Dertouzos and Mok, "Multiprocessor On-Line Scheduling of Hard-Real-Time Tasks", 1989) for one
//! task that may be put off: whoever is active now and then is never bothered, because the gaps pay what
//! is owed.
//!
//! ```text
//!   latency-critical   ###################################    active all the time
//!   best effort        -----------------------####--------    # let go   - held
//!                      |<-------- window ------->|
//! ```
//!
//! Time in which it has nothing to run is owed nothing: it counts as given.

use crate::id::Nanos;

/// What the part is a part of: a second.
pub(crate) const WINDOW: Nanos = Nanos(1_000_000_000);

/// What one channel is owed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ration {
    /// When the window began.
    begin: Nanos,
    /// The last look.
    last: Nanos,
    /// Time in this window in which it was not held, or had nothing to run.
    given: Nanos,
    /// As of the last look: whether it was held although it had something to run.
    waits: bool,
    /// As of the last look: whether it was let go for what is owed.
    is_due: bool,
}

impl Ration {
    /// Returns whether a channel that should be held may be: not if it is owed time that could not be given
    /// later. `wants` says whether it should, `runs` whether it has anything to run, `percent` what part it
    /// is owed. To be asked as often as any of these may have changed.
    pub(crate) fn may_hold(&mut self, now: Nanos, wants: bool, runs: bool, percent: u32) -> bool {
        let now = now.max(self.last);
        if !self.waits {
            self.given.0 += now.0 - self.last.0;
        }
        self.last = now;
        if now.0 - self.begin.0 >= WINDOW.0 {
            self.begin = now;
            self.given = Nanos(0);
        }
        let left = WINDOW.0 - (now.0 - self.begin.0);
        let share = WINDOW.0 / 100 * u64::from(percent.min(100));
        let owed = share.saturating_sub(self.given.0);
        let is_held = wants && (owed == 0 || owed < left);
        self.is_due = wants && runs && !is_held;
        self.waits = is_held && runs;
        is_held
    }

    /// Returns whether it was let go, at the last look, for what it is owed.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    /// When it was let go, in looks a millisecond apart.
    fn let_go(percent: u32, looks: std::ops::Range<u64>) -> Vec<u64> {
        let mut ration = Ration::default();
        looks
            .filter(|at| !ration.may_hold(Nanos(at * MS), true, true, percent))
            .collect()
    }

    #[test]
    fn who_is_always_wanted_held_is_let_go_at_the_end_of_each_window() {
        let expected: Vec<u64> = (0..3)
            .flat_map(|s| s * 1000 + 950..(s + 1) * 1000)
            .collect();
        assert_eq!(let_go(5, 0..3000), expected);
    }

    #[test]
    fn who_is_owed_nothing_is_held_for_ever_and_who_is_owed_all_never() {
        assert!(let_go(0, 0..5000).is_empty());
        assert_eq!(let_go(100, 0..5000).len(), 5000);
        assert_eq!(let_go(u32::MAX, 0..5000).len(), 5000);
    }

    #[test]
    fn gaps_and_having_nothing_to_run_pay_what_is_owed() {
        for runs in [true, false] {
            let mut ration = Ration::default();
            for at in 0..5000 {
                // Nobody wants it held for 50 ms in a second; or it has nothing to run then.
                let gap = at % 1000 < 50;
                let held = ration.may_hold(Nanos(at * MS), !(gap && runs), !gap, 5);
                assert_eq!(held, !(gap && runs), "at {at} ms");
                assert!(!ration.is_due());
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_and_one_that_jumps_do_no_harm() {
        let mut ration = Ration::default();
        assert!(ration.may_hold(Nanos(10 * MS), true, true, 5));
        assert!(ration.may_hold(Nanos(5 * MS), true, true, 5));
        assert!(ration.may_hold(Nanos(u64::MAX), true, true, 5));
        assert!(ration.may_hold(Nanos(0), true, true, 5));
    }

    proptest! {
        #[test]
        fn in_every_window_it_is_not_held_for_what_it_is_owed(
            percent in 0_u32..=100,
            turns in prop::collection::vec((1_u64..20, any::<bool>(), 1_u64..200), 1..200),
        ) {
            let mut ration = Ration::default();
            let mut now = 0;
            // Milliseconds in which it was held with something to run, by window.
            let mut held = std::collections::BTreeMap::<u64, u64>::new();
            for (step, runs, looks) in turns {
                for _ in 0..looks {
                    let is_held = ration.may_hold(Nanos(now * MS), true, runs, percent);
                    if is_held && runs {
                        *held.entry(ration.begin.0 / MS).or_default() += step;
                    }
                    now += step;
                }
            }
            // A look comes a step late at most, and the last window may be longer by as much.
            for (begin, held) in held {
                prop_assert!(held <= 1000 - u64::from(percent) * 10 + 40, "{held} ms of {begin}");
            }
        }
    }
}
