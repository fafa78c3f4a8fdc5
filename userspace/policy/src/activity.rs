// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who is active: has launched what has not completed.
//!
//! Who is active needs its TPCs back from those it lends them to. Between the kernels of one request there are
//! gaps; so it is taken to need them a while longer (`gap.rs`), which is what one launch takes at least.
//!
//! ```text
//!   lender             ___####_###____________##___
//!   needs its TPCs     ___##########__________####_
//!                                 <-> wait
//! ```

use crate::gap::Gaps;
use crate::id::Nanos;

/// For how long after somebody was active the next time is expected any moment.
pub const RECENT: Nanos = Nanos(20_000_000);

/// Whether a partition is active on one GPU, and was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    last_active: Option<Nanos>,
    /// Whether it was not at the last look.
    is_idle: bool,
    gaps: Gaps,
}

impl Activity {
    /// Takes note of whether it was seen to be active.
    pub fn see(&mut self, now: Nanos, is_active: bool) {
        if is_active {
            if let Some(gap) = self.idle(now).filter(|_| self.is_idle) {
                self.gaps.note(gap);
            }
            self.last_active = Some(now);
        }
        self.is_idle = !is_active;
    }

    /// Returns the gaps between the times when it was active.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Returns for how long it has been idle; `None` if it was never active.
    pub fn idle(&self, now: Nanos) -> Option<Nanos> {
        self.last_active
            .map(|last| Nanos(now.0.saturating_sub(last.0)))
    }

    /// Returns whether it needs what it lends, if it is to be waited for so long.
    pub fn needs(&self, now: Nanos, wait: Nanos) -> bool {
        self.idle(now).is_some_and(|idle| idle < wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::LINGER;

    #[test]
    fn it_needs_its_tpcs_while_it_is_active_and_a_while_longer() {
        let mut activity = Activity::default();
        assert!(!activity.needs(Nanos(0), LINGER));
        activity.see(Nanos(5), false);
        assert!(!activity.needs(Nanos(5), LINGER));
        activity.see(Nanos(10), true);
        assert!(activity.needs(Nanos(10), LINGER));
        activity.see(Nanos(20), false);
        assert!(activity.needs(Nanos(9 + LINGER.0), LINGER));
        assert!(!activity.needs(Nanos(10 + LINGER.0), LINGER));
    }

    #[test]
    fn a_gap_is_what_lies_between_looks_that_saw_it_active_with_one_that_did_not() {
        let mut activity = Activity::default();
        let mut looks = |is_active: bool, count: u64, from: u64| {
            (0..count).for_each(|n| activity.see(Nanos(from + 5_000 * n), is_active));
            activity.gaps().version()
        };
        assert_eq!(looks(true, 20, 0), 0, "it was active all the time");
        assert_eq!(looks(false, 20, 100_000), 0);
        assert_eq!(looks(true, 20, 200_000), 1);
    }
}
