// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How best effort goes on between the moments in which it is held up: a few atoms at a time, so that the SMs
//! are never full of it.
//!
//! Blocks that run end when they end, whatever the gates say. A kernel that is let go all at once
//! fills every place there is, and all of those blocks end about together, a whole block's length later: who
//! comes in between finds no place. With only [`AHEAD`] atoms under way there are fewer blocks,
//! each of which is faster for it, and some end all the time.
//!
//! ```text
//!   let go at once   ################################____  a block's length without a place
//!   paced            ####====
//!                        ####====       an atom comes when the one before the last has completed
//!                            ####====
//! ```
//!
//! That costs kernels nothing whose few blocks keep an SM busy. Others would be slower; so the next atom
//! comes in any case when it is *due*, by the length that is predicted of atoms: the more slowly blocks
//! end, the more of them there are, until the kernel is as fast as it was known to be.

use crate::id::Nanos;

/// Atoms that are under way at a time, of a chain.
pub const AHEAD: u32 = 2;

/// Which gates of a chain are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first so many.
    open: u32,
    /// When the next one is to be, whatever has completed; `None` if it has not begun.
    due: Option<Nanos>,
}

impl Pace {
    /// That of a chain all of whose gates are shut, when so many of its atoms have completed.
    pub fn from(completed: u32) -> Self {
        Self {
            open: completed.saturating_sub(1),
            due: None,
        }
    }

    /// Returns how many gates are to be open, when so many atoms have completed, each of which is
    /// predicted to take so long (0 if that is not known).
    pub fn open(&mut self, now: Nanos, begun: bool, completed: u32, atom: Nanos) -> u32 {
        if atom.0 == 0 {
            return u32::MAX;
        }
        let ahead = completed.saturating_add(AHEAD).saturating_sub(1);
        let after = |from: Nanos, atoms: u32| {
            Nanos(from.0.saturating_add(atom.0.saturating_mul(atoms.into())))
        };
        let due = self.due.filter(|_| begun);
        let mut due = due.map(|due| after(due, ahead.saturating_sub(self.open)));
        self.open = self.open.max(ahead);
        if due.is_some_and(|due| due <= now) {
            self.open = self.open.saturating_add(1);
            // Who was away for long does not let go of all that was due meanwhile.
            due = due.map(|due| after(due, 1)).filter(|due| *due > now);
            due = due.or(Some(after(now, 1)));
        }
        self.due = due.or(begun.then(|| after(now, AHEAD)));
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATOM: Nanos = Nanos(100);

    #[test]
    fn what_has_not_begun_has_the_first_atoms_ahead() {
        let mut pace = Pace::from(0);
        for now in 0..1000 {
            assert_eq!(pace.open(Nanos(now), false, 0, ATOM), AHEAD - 1);
        }
    }

    #[test]
    fn an_atom_comes_when_one_has_completed() {
        let mut pace = Pace::from(0);
        for completed in 0..50 {
            let now = Nanos(u64::from(completed) * 90);
            assert_eq!(pace.open(now, true, completed, ATOM), completed + AHEAD - 1);
        }
    }

    #[test]
    fn where_none_completes_one_is_due_after_another() {
        let mut pace = Pace::from(0);
        let at = |pace: &mut Pace, now| pace.open(Nanos(now), true, 0, ATOM);
        assert_eq!(at(&mut pace, 0), 1);
        assert_eq!(at(&mut pace, 199), 1);
        assert_eq!(at(&mut pace, 200), 2);
        assert_eq!(at(&mut pace, 299), 2);
        assert_eq!(at(&mut pace, 300), 3);
        // Whoever was away for long does not let go of all at once.
        assert_eq!(at(&mut pace, 10_000), 4);
        assert_eq!(at(&mut pace, 10_001), 4);
    }

    #[test]
    fn as_many_come_as_are_predicted_however_slowly_they_complete() {
        // Each takes five times as long as predicted, beside others.
        let mut pace = Pace::from(0);
        let mut open = 0;
        for now in 0..100 * ATOM.0 {
            let completed = u32::try_from(now.saturating_sub(4 * ATOM.0) / ATOM.0).expect("few");
            open = pace.open(Nanos(now), true, completed.min(open + 1), ATOM);
        }
        assert!((98..104).contains(&open), "{open} of 100");
    }

    #[test]
    fn what_nothing_is_known_of_is_let_go() {
        assert_eq!(Pace::from(3).open(Nanos(0), false, 3, Nanos(0)), u32::MAX);
    }

    #[test]
    fn after_a_hold_it_goes_on_where_it_was() {
        let mut pace = Pace::from(7);
        assert_eq!(pace.open(Nanos(0), true, 7, ATOM), 7 + AHEAD - 1);
    }
}
