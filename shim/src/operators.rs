// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is known about operators: how long their launches take, and whether they can be split.
//!
//! An operator is a function at one shape. How long it takes is learned from its chains, by the GPU's
//! own clock: between the completion of the first atom and that of the last, all atoms but one
//! have run. So nothing has to be known of when a launch began, and an operator that nothing is known about
//! is split into a few atoms once, to learn from. What is kept is *work*, the time that it would take on
//! one TPC; on more it is taken to be faster by as much. (`lithos-policy` will know better.)
//!
//! How long an atom may be is how long the GPU may go on with it when the gate behind it is shut. A gate is
//! passed when the last block before it has *started*, so an atom begins up to a block before its turn:
//!
//! ```text
//!   atom 5   ||||||||||||||||||####            # its last blocks
//!   atom 6                     ||||||||||||||||||####
//!            <- length - block -> block <- ... |        gates shut just here: a whole length is left
//! ```
//!
//! So it is cut a block shorter than it may be, where blocks are known to be shorter than that: how many
//! an SM holds says how long one takes.
//!
//! The table has four places for each value of a hash; an operator that takes another one's place is new.
//! All is a guess that costs a few microseconds where it is wrong, so threads need no order here.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use lithos_abi::bindings::*;

use rustc_hash::FxHasher;

use crate::api::Launch;

/// Operators that are told apart.
const PLACES: usize = 4096;
/// Places in which an operator can be.
const WAYS: u16 = 4;
/// A chain has at most so many atoms.
pub(crate) const ATOMS_MAX: u16 = 255;
/// Into so many atoms a launch is cut to learn how long it takes.
const ATOMS_TO_LEARN: u16 = 8;

/// What is known about the operators of a context.
#[derive(Debug)]
pub(crate) struct Operators(Box<[Entry]>);

#[derive(Debug, Default)]
struct Entry {
    key: AtomicU64,
    /// Nanoseconds on one TPC; 0: not known.
    work: AtomicU64,
    /// The [`lithos_counter`] of why it is never split, if it is not; [`CLUSTERS`].
    marks: AtomicU32,
    /// The tail of its last chain, counted from 1.
    last: AtomicU32,
    /// The blocks that an SM holds, counted from 1, if somebody has asked.
    resident: AtomicU32,
}

/// A chain of more atoms has a short one at first, which no gate can hold up, and so one more.
const ATOMS_OF_A_SHORT_CHAIN: u16 = 8;

/// Returns whether the first of so many atoms is a quarter of the others.
pub(crate) fn is_first_short(atoms: u16) -> bool {
    atoms > ATOMS_OF_A_SHORT_CHAIN
}

/// Returns the part of a launch that comes after the first of so many atoms.
fn after_first(atoms: u16) -> (u64, u64) {
    let atoms = u64::from(atoms.max(2));
    match is_first_short(u16::try_from(atoms).unwrap_or(u16::MAX)) {
        true => (4 * atoms - 4, 4 * atoms - 3),
        false => (atoms - 1, atoms),
    }
}

/// Its blocks come in clusters.
const CLUSTERS: u32 = 1 << 16;

/// The place of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operator(u16);

impl Operators {
    pub(crate) fn new() -> Self {
        Self((0..PLACES).map(|_| Entry::default()).collect())
    }

    /// Finds the operator of a launch, or makes it known.
    pub(crate) fn find(&self, launch: &Launch) -> Operator {
        let mut hasher = FxHasher::default();
        (launch.function, launch.grid, launch.block).hash(&mut hasher);
        launch.shared_bytes.hash(&mut hasher);
        let key = hasher.finish() | 1;
        let below = |bits: u64, bound: u64| u16::try_from(bits % bound).unwrap_or(0);
        let first = below(key >> 32, PLACES as u64 / u64::from(WAYS)) * WAYS;
        let ways = || (first..first + WAYS).map(Operator);
        let held = |operator: &Operator| self.entry(*operator).key.load(Relaxed);
        if let Some(known) = ways().find(|operator| held(operator) == key) {
            return known;
        }
        // If there is no room, one of those that are there gives way.
        let free = ways().find(|operator| held(operator) == 0);
        let operator = free.unwrap_or(Operator(first + below(key >> 8, WAYS.into())));
        let entry = self.entry(operator);
        entry.work.store(0, Relaxed);
        entry.marks.store(0, Relaxed);
        entry.last.store(0, Relaxed);
        entry.resident.store(0, Relaxed);
        entry.key.store(key, Relaxed);
        operator
    }

    /// Has it be known how many blocks an SM holds, 0 if nobody can say.
    #[inline]
    pub(crate) fn ask_resident(&self, operator: Operator, ask: impl FnOnce() -> u32) {
        let resident = &self.entry(operator).resident;
        if resident.load(Relaxed) == 0 {
            resident.store(ask().saturating_add(1), Relaxed);
        }
    }

    /// Into how many atoms of `atom_ns` to cut a launch of so many blocks on so many TPCs; and how long
    /// it will take, 0 if that is not known. Every atom but a short one has a block for each SM.
    pub(crate) fn atoms(
        &self,
        operator: Operator,
        blocks: u64,
        (tpcs, tpc_sms): (u32, u32),
        atom_ns: u64,
    ) -> (u16, u64) {
        let sms = u64::from(tpcs) * u64::from(tpc_sms);
        let most = u16::try_from(blocks / sms.max(1)).unwrap_or(u16::MAX);
        let most = most.min(ATOMS_MAX);
        let entry = self.entry(operator);
        match entry.work.load(Relaxed) {
            0 => (most.min(ATOMS_TO_LEARN), 0),
            work => {
                let whole_ns = work / u64::from(tpcs.max(1));
                if whole_ns <= atom_ns {
                    return (1, whole_ns);
                }
                let resident = u64::from(entry.resident.load(Relaxed)).saturating_sub(1) * sms;
                let block_ns = whole_ns.saturating_mul(resident) / blocks.max(1);
                // In waves the next atom would begin where there is nothing to be gained.
                let own_ns = match atom_ns.saturating_sub(block_ns) {
                    0 => atom_ns,
                    rest => rest.max(block_ns),
                };
                let atoms = u16::try_from(whole_ns.div_ceil(own_ns.max(1))).unwrap_or(most);
                let atoms = atoms + u16::from(is_first_short(atoms) && atoms < most);
                (atoms.min(most), whole_ns)
            }
        }
    }

    /// Returns how long a launch takes on so many TPCs; 0 if that is not known.
    pub(crate) fn predicted_ns(&self, operator: Operator, tpcs: u32) -> u64 {
        self.entry(operator).work.load(Relaxed) / u64::from(tpcs.max(1))
    }

    /// Takes note of how long the atoms but the first took, of so many, on so many TPCs.
    pub(crate) fn learn(&self, operator: Operator, after_first_ns: u64, atoms: u16, tpcs: u32) {
        let (part, of) = after_first(atoms);
        self.learn_whole(operator, after_first_ns.saturating_mul(of) / part, tpcs);
    }

    /// Takes note of how long a launch took on so many TPCs.
    pub(crate) fn learn_whole(&self, operator: Operator, whole_ns: u64, tpcs: u32) {
        let seen = whole_ns.saturating_mul(u64::from(tpcs)).max(1);
        let work = &self.entry(operator).work;
        let known = work.load(Relaxed);
        // Of what is known a quarter gives way, so that one odd launch changes little.
        let mixed = if known == 0 {
            seen
        } else {
            known - known / 4 + seen / 4
        };
        work.store(mixed.max(1), Relaxed);
    }

    /// The same of one that was not split, by when it and the one before it completed. Other things may have
    /// come in between: so it is believed at once if it took less than was known, and else with caution.
    pub(crate) fn learn_short(&self, operator: Operator, took_ns: u64, tpcs: u32) {
        let seen = took_ns.saturating_mul(u64::from(tpcs)).max(1);
        let work = &self.entry(operator).work;
        let known = work.load(Relaxed);
        if known == 0 || seen < known {
            work.store(seen, Relaxed);
        } else {
            work.store(known - known / 4 + seen.min(2 * known) / 4, Relaxed);
        }
    }

    /// Returns why the operator is not split.
    pub(crate) fn why_whole(&self, operator: Operator) -> Option<lithos_counter> {
        match self.entry(operator).marks.load(Relaxed) & !CLUSTERS {
            0 => None,
            counter => Some(counter),
        }
    }

    /// From now on it is not split.
    pub(crate) fn keep_whole(&self, operator: Operator, why: lithos_counter) {
        let marks = &self.entry(operator).marks;
        marks.store(marks.load(Relaxed) & CLUSTERS | why, Relaxed);
    }

    /// Returns whether its blocks come in clusters, as far as is known.
    pub(crate) fn has_clusters(&self, operator: Operator) -> bool {
        self.entry(operator).marks.load(Relaxed) & CLUSTERS != 0
    }

    /// Takes note whether its blocks come in clusters.
    pub(crate) fn note_clusters(&self, operator: Operator, has_clusters: bool) {
        let marks = &self.entry(operator).marks;
        let others = marks.load(Relaxed) & !CLUSTERS;
        let mark = if has_clusters { CLUSTERS } else { 0 };
        marks.store(others | mark, Relaxed);
    }

    /// Returns the tail of its last chain.
    pub(crate) fn last(&self, operator: Operator) -> Option<u32> {
        self.entry(operator).last.load(Relaxed).checked_sub(1)
    }

    /// Takes note of the tail of its last chain.
    pub(crate) fn note_last(&self, operator: Operator, tail: u32) {
        self.entry(operator).last.store(tail + 1, Relaxed);
    }

    fn entry(&self, operator: Operator) -> &Entry {
        &self.0[usize::from(operator.0) % PLACES]
    }
}

impl Operator {
    /// Its place as a number, for memory that holds numbers.
    pub(crate) fn place(self) -> u16 {
        self.0
    }

    /// The operator of a place, whatever it is now.
    pub(crate) fn of_place(place: u16) -> Self {
        Self(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(function: u64) -> Launch {
        Launch {
            function,
            grid: [1000, 1, 1],
            block: [256, 1, 1],
            ..Default::default()
        }
    }

    #[test]
    fn an_operator_that_is_not_known_is_cut_to_learn_from() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        assert_eq!(
            operators.atoms(operator, 1000, (66, 2), 100_000),
            (7, 0),
            "a block for each of 132 SMs in each atom"
        );
        assert_eq!(operators.atoms(operator, 10_000, (66, 2), 100_000), (8, 0));
        assert_eq!(operators.atoms(operator, 131, (66, 2), 100_000), (0, 0));
    }

    #[test]
    fn what_was_learned_says_how_finely_to_cut_on_any_number_of_tpcs() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        operators.learn(operator, 700_000, 8, 66);
        assert_eq!(operators.find(&launch(5)), operator);
        assert_eq!(
            operators.atoms(operator, 10_000, (66, 2), 100_000),
            (8, 800_000)
        );
        assert_eq!(
            operators.atoms(operator, 10_000, (33, 2), 100_000),
            (16 + 1, 1_600_000)
        );
        assert_eq!(
            operators.atoms(operator, 10_000, (66, 2), 1_000_000).0,
            1,
            "shorter than an atom"
        );
        assert_eq!(
            operators.atoms(operator, 100_000, (66, 2), 1_000).0,
            ATOMS_MAX
        );
    }

    #[test]
    fn an_atom_of_a_block_less_ends_in_time() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        operators.ask_resident(operator, || 8);
        operators.ask_resident(operator, || panic!("once is enough"));
        // 66 TPCs hold 1056 blocks: 10560 are ten waves, of 80 us each.
        operators.learn(operator, 700_000, 8, 66);
        let atoms = |atom_ns| operators.atoms(operator, 10_560, (66, 2), atom_ns).0;
        assert_eq!(atoms(1_000_000), 1, "shorter than an atom");
        assert_eq!(atoms(240_000), 5, "800 us in atoms of 160 and a block");
        assert_eq!(
            atoms(100_000),
            10 + 1,
            "whole waves, and a short one before"
        );
        assert_eq!(atoms(50_000), 16 + 1, "shorter than a block it cannot be");
    }

    #[test]
    fn a_short_first_atom_is_known_to_be_short() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        // Ten atoms after a quarter of one, on one TPC.
        operators.learn(operator, 400_000, 11, 1);
        let (_, whole_ns) = operators.atoms(operator, 100, (1, 2), 1);
        assert_eq!(whole_ns, 410_000);
    }

    #[test]
    fn one_odd_launch_changes_a_quarter() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        operators.learn(operator, 50_000, 2, 1);
        operators.learn(operator, 450_000, 2, 1);
        let (_, whole_ns) = operators.atoms(operator, 100, (1, 2), 1);
        assert_eq!(whole_ns, 300_000);
    }

    #[test]
    fn what_came_in_between_is_believed_with_caution() {
        let operators = Operators::new();
        let operator = operators.find(&launch(5));
        let predicted = || operators.predicted_ns(operator, 1);
        operators.learn_short(operator, 100_000, 1);
        operators.learn_short(operator, 20_000, 1);
        assert_eq!(predicted(), 20_000);
        operators.learn_short(operator, 1_000_000, 1);
        assert_eq!(predicted(), 25_000);
    }

    #[test]
    fn marks_stay_with_their_operator() {
        let operators = Operators::new();
        let (one, two) = (operators.find(&launch(5)), operators.find(&launch(6)));
        assert_ne!(one, two);
        operators.keep_whole(one, LITHOS_COUNT_WHOLE_STUCK);
        operators.note_clusters(one, true);
        operators.note_last(one, 0);
        assert_eq!(operators.why_whole(one), Some(LITHOS_COUNT_WHOLE_STUCK));
        assert_eq!(operators.last(one), Some(0));
        assert!(operators.has_clusters(one));
        assert_eq!(operators.why_whole(two), None);
        assert_eq!(operators.last(two), None);
        assert!(!operators.has_clusters(two));
    }
}
