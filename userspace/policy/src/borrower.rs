// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the gates of a channel are to do, moment by moment: by what an operator has ordered, by what its partition is lent
//! (`lend.rs`), and by what it is owed (`ration.rs`).
//!
//! ```text
//!   lender                  ________######################______##______
//!   what the borrower keeps
//!     is enough             ########~~~~~~~~~~~~~~~~~~~~~~######~~######     # on all TPCs   ~ on those it keeps
//!     is not                ########--------------------------------####     - held
//! ```

use crate::hold::{Hand, Standing};
use crate::id::Nanos;
use crate::lend::Portion;
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

/// A channel, from one decision to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Borrower {
    ration: Ration,
    rations: u64,
}

impl Borrower {
    /// Decides. `runs` says whether the channel has anything that could be held up. To be asked as often as anything may
    /// have changed.
    pub fn gates(&mut self, now: Nanos, standing: Standing, portion: Portion, runs: bool) -> Gates {
        if standing.hand == Hand::Held {
            return Gates::Held;
        }
        let was_due = self.ration.is_due();
        let is_held = portion.is_suspended;
        if (self.ration).may_hold(now, is_held, runs, standing.min_share) {
            return Gates::Held;
        }
        if self.ration.is_due() && !was_due {
            self.rations += 1;
        }
        match portion.is_paced {
            true => Gates::Paced,
            false => Gates::Open,
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
    use crate::tpc::TpcSet;

    const MS: u64 = 1_000_000;

    fn standing(hand: Hand) -> Standing {
        Standing {
            class: Class::BestEffort,
            borrows: true,
            min_share: 5,
            hand,
        }
    }

    fn portion(is_suspended: bool, is_paced: bool) -> Portion {
        Portion {
            tpcs: TpcSet::EMPTY,
            is_suspended,
            is_paced,
        }
    }

    #[test]
    fn who_is_suspended_is_held_but_for_its_ration() {
        let mut borrower = Borrower::default();
        let mut held = 0;
        for at in 1..10_000 {
            let gates = borrower.gates(
                Nanos(at * MS),
                standing(Hand::Released),
                portion(true, true),
                true,
            );
            assert_ne!(gates, Gates::Open, "it goes on at a pace");
            held += u64::from(gates == Gates::Held);
        }
        assert_eq!(held, 9500);
        assert_eq!(borrower.rations(), 10);
    }

    #[test]
    fn who_is_not_goes_on_at_a_pace_where_somebody_may_be_back() {
        let mut borrower = Borrower::default();
        let released = standing(Hand::Released);
        for (is_paced, gates) in [(false, Gates::Open), (true, Gates::Paced)] {
            let found = borrower.gates(Nanos(1), released, portion(false, is_paced), true);
            assert_eq!(found, gates);
        }
    }

    #[test]
    fn what_is_ordered_by_hand_comes_first() {
        let mut borrower = Borrower::default();
        for at in 0..10_000 {
            let gates = borrower.gates(
                Nanos(at * MS),
                standing(Hand::Held),
                portion(false, true),
                true,
            );
            assert_eq!(gates, Gates::Held);
        }
        let squeezed = standing(Hand::Squeezed);
        let gates = borrower.gates(Nanos(1), squeezed, portion(false, false), true);
        assert_eq!(gates, Gates::Open);
    }
}
