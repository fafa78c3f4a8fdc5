// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! When a partition's TPCs are lent to another, and when they are recalled.
//!
//! What a partition is guaranteed and does not use, others may use who *borrow*: best effort that of everybody,
//! latency-critical partitions that of one another. As soon as the lender is active they do without it:
//! launches to come have the borrower's own TPCs only, and so have atoms that have not started.
//!
//! ```text
//!   lender     ________________####_##________________
//!   borrower   ################----------#############    # on all TPCs   - on its own
//!                              |      <-> an atom
//!                              at most an atom on the lender's TPCs
//! ```
//!
//! The lender may come back at any moment, and then waits for an atom of the borrower's. To lend too early
//! costs it that; to lend too late wastes idle time. So TPCs are lent again when the lender
//! has been idle for as long as an atom takes: whatever the lender does next, that costs at most twice
//! what it would to know (the ski-rental rule; Karlin, Manasse, McGeoch and Owicki, "Competitive Randomized
//! Algorithms for Nonuniform Problems", 1994). Gaps between the kernels of one request are shorter.

use crate::gap::LINGER;
use crate::hold::Standing;
use crate::id::Nanos;
use crate::partition::Class;

impl Standing {
    /// Returns whether a channel of another partition may use what this one is guaranteed.
    pub fn lends_to(&self, borrower: &Standing) -> bool {
        let serves = match (self.class, borrower.class) {
            (Class::LatencyCritical, Class::BestEffort) => true,
            (Class::BestEffort, Class::LatencyCritical) => false,
            _ => self.is_guaranteed,
        };
        borrower.borrows && serves
    }
}

/// Returns whether what is lent has to be given back: the lenders have been idle for so long (`None`: ever), and
/// an atom of the borrower's is to be so long.
pub(crate) fn is_recalled(idle: Option<Nanos>, atom: Nanos) -> bool {
    idle.is_some_and(|idle| idle < atom.max(LINGER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::Hand;

    fn standing(class: Class, is_guaranteed: bool) -> Standing {
        Standing {
            class,
            is_guaranteed,
            borrows: true,
            min_share: 0,
            hand: Hand::Released,
        }
    }

    use Class::{BestEffort as BE, LatencyCritical as LC};

    #[test]
    fn best_effort_borrows_of_all_and_latency_critical_of_its_like() {
        for (lender, borrower, guaranteed, otherwise) in [
            (LC, BE, true, true),
            (LC, LC, true, false),
            (BE, BE, true, false),
            (BE, LC, false, false),
        ] {
            let borrower = standing(borrower, true);
            assert_eq!(standing(lender, true).lends_to(&borrower), guaranteed);
            assert_eq!(standing(lender, false).lends_to(&borrower), otherwise);
        }
    }

    #[test]
    fn who_does_not_borrow_gets_nothing() {
        let borrower = Standing {
            borrows: false,
            ..standing(BE, true)
        };
        assert!(!standing(LC, true).lends_to(&borrower));
    }

    #[test]
    fn a_lender_gets_back_what_it_lent_until_it_has_been_idle_for_an_atom() {
        let atom = Nanos(60_000);
        assert!(!is_recalled(None, atom));
        assert!(is_recalled(Some(Nanos(0)), atom));
        assert!(is_recalled(Some(Nanos(59_999)), atom));
        assert!(!is_recalled(Some(Nanos(60_000)), atom));
        // However short atoms are: what a launch takes.
        assert!(is_recalled(Some(Nanos(LINGER.0 - 1)), Nanos(0)));
    }
}
