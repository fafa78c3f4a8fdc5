// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who is lent which TPCs, from moment to moment.
//!
//! What a partition does not use, others may use who *borrow*: best effort that of everybody, latency-critical
//! partitions what is guaranteed to one another. As soon as the lender is active they do without it:
//! launches to come, and atoms that have not started.
//!
//! ```text
//!   lender 1   ________________####_##________________
//!   lender 2   _________________________________#####_
//!   borrower   ################----------######+++++##    # on all TPCs   - without those of 1   + without those of 2
//!                              |      <-> wait (gap.rs)
//!                              at most an atom on the lender's TPCs
//! ```
//!
//! Those who want some divide what is to be had: latency-critical before best effort, then by priority, and by
//! weight among equals, each up to its ceiling. That is weighted max-min fairness by progressive filling (Bertsekas and
//! Gallager, Data Networks, 2nd edition, section 6.5.2), a TPC at a time. Nothing is left over that somebody could use
//! who wants it. Who wants nothing now has what it would get if it did, so that it may begin at once; it shares that
//! with others until the next look.
//!
//! *Narrow before suspend.* What a borrower keeps may be so little that atoms there would take too long for others
//! to bear, or for a death to be harmless (`enough`). Then, if it is best effort and they need their TPCs who are served first,
//! it keeps what it has and is suspended instead, but for its ration (`ration.rs`). Between equals nobody is: they have to bear
//! with atoms that run.

use std::cmp::Reverse;

use crate::activity::{Activity, RECENT};
use crate::gap::LINGER;
use crate::hold::Standing;
use crate::id::Nanos;
use crate::pace::AHEAD;
use crate::partition::{Class, PartitionName};
use crate::share::is_lower;
use crate::tpc::TpcSet;

/// The longest that an atom may become because a borrower does without what was lent: those that run when a process dies
/// have to end within a few milliseconds, or its neighbours die, too.
pub const LONGEST_ATOM: Nanos = Nanos(1_000_000);

/// How much the time of those who are served first counts, as against that of who borrows, where it is decided for how long
/// to wait for them.
const SERVED_FIRST: u64 = 8;

/// A partition with channels on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its name.
    pub name: PartitionName,
    /// How it stands among others.
    pub standing: Standing,
    /// Its place within its class; larger is served first.
    pub priority: i32,
    /// How much it gets of what equals divide.
    pub weight: u32,
    /// How many TPCs it may have at most.
    pub ceiling: u32,
    /// The TPCs that it owns.
    pub own: TpcSet,
    /// Those that may be lent to it.
    pub lent: TpcSet,
    /// How long its atoms are to be on all of these.
    pub atom: Nanos,
}

/// What was seen of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Something was launched that has not completed.
    pub is_active: bool,
    /// It wants what it can get: it is active, has something that waits, or had a moment ago.
    pub wants: bool,
    /// How long others would have to wait for it, if it went on now; at least [`AHEAD`] atoms are assumed.
    pub in_the_way: Nanos,
}

/// What a partition is lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    /// These, now.
    pub tpcs: TpcSet,
    /// It is not to use them, nor any others, but for its ration.
    pub is_suspended: bool,
    /// Their owner is served first and may be back any moment.
    pub is_paced: bool,
}

/// What a partition has lent and borrowed in some time, and for how long it was suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sums {
    /// TPC-nanoseconds that others had who wanted them.
    pub lent_tpc_ns: u64,
    /// TPC-nanoseconds that it had of others, while it wanted them.
    pub borrowed_tpc_ns: u64,
    /// Nanoseconds in which it wanted some and was suspended, rations and all.
    pub suspended_ns: u64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, more: Self) {
        self.lent_tpc_ns += more.lent_tpc_ns;
        self.borrowed_tpc_ns += more.borrowed_tpc_ns;
        self.suspended_ns += more.suspended_ns;
    }
}

/// Lenders and borrowers on one GPU.
#[derive(Clone, Debug, Default)]
pub struct Lending {
    parties: Vec<Party>,
    activities: Vec<Activity>,
    wants: Vec<bool>,
    in_the_way: Vec<Nanos>,
    /// For each borrower, what is withheld from it, by those who are served first and by equals.
    withheld: Vec<[TpcSet; 2]>,
    portions: Vec<Portion>,
    sums: Vec<Sums>,
    /// When it was last decided, and who wanted some then.
    decided: Nanos,
    wanted: Vec<bool>,
    /// Something has changed that decides about portions.
    is_due: bool,
    /// For each borrower and lender, how long to wait when it is idle, and of what gaps that was found.
    waits: Vec<Vec<(u64, Nanos, Nanos)>>,
}

impl Lending {
    /// Takes in who there is; of those that it knew, what was seen of them is kept.
    pub fn set(&mut self, parties: Vec<Party>) {
        let old = std::mem::take(self);
        let known = |party: &Party| old.parties.iter().position(|it| it.name == party.name);
        let known: Vec<Option<usize>> = parties.iter().map(known).collect();
        let kept = |index: &Option<usize>| index.map(|index| old.activities[index]);
        *self = Self {
            activities: known.iter().map(|i| kept(i).unwrap_or_default()).collect(),
            portions: known
                .iter()
                .map(|index| index.map_or(Portion::default(), |index| old.portions[index]))
                .collect(),
            sums: known
                .iter()
                .map(|index| index.map_or(Sums::default(), |index| old.sums[index]))
                .collect(),
            decided: old.decided,
            wanted: vec![false; parties.len()],
            wants: vec![false; parties.len()],
            in_the_way: vec![Nanos(0); parties.len()],
            withheld: vec![[TpcSet::EMPTY; 2]; parties.len()],
            waits: vec![vec![(u64::MAX, Nanos(0), Nanos(0)); parties.len()]; parties.len()],
            parties,
            is_due: true,
        };
    }

    /// Returns who there is, in the order in which they were given.
    pub fn parties(&self) -> &[Party] {
        &self.parties
    }

    /// Returns whether and when a partition was active.
    pub fn activity(&self, party: usize) -> &Activity {
        &self.activities[party]
    }

    /// Returns what a partition is lent, as of the last decision.
    pub fn portion(&self, party: usize) -> Portion {
        self.portions[party]
    }

    /// Returns what a partition has lent and borrowed since this was last asked.
    pub fn take_sums(&mut self, party: usize) -> Sums {
        std::mem::take(&mut self.sums[party])
    }

    /// Returns whether a partition lends something to another one, or could.
    pub fn lends(&self, lender: usize, borrower: usize) -> bool {
        let (lender, borrower) = (&self.parties[lender], &self.parties[borrower]);
        !lender.own.is_disjoint(borrower.lent)
    }

    /// Takes note of what was seen of a partition.
    pub fn see(&mut self, now: Nanos, party: usize, look: Look) {
        self.activities[party].see(now, look.is_active);
        self.is_due |= self.wants[party] != look.wants;
        self.wants[party] = look.wants;
        self.in_the_way[party] = look.in_the_way;
    }

    /// Decides who is lent what now.
    pub fn decide(&mut self, now: Nanos) {
        self.count(now);
        for borrower in 0..self.parties.len() {
            if self.parties[borrower].lent.is_empty() {
                continue;
            }
            let mut withheld = [TpcSet::EMPTY; 2];
            for lender in 0..self.parties.len() {
                if !self.lends(lender, borrower) {
                    continue;
                }
                let wait = self.wait(borrower, lender);
                if self.activities[lender].needs(now, wait) {
                    let own = self.parties[lender].own;
                    withheld[usize::from(!self.is_better(lender, borrower))] |= own;
                }
            }
            self.is_due |= self.withheld[borrower] != withheld;
            self.withheld[borrower] = withheld;
        }
        if self.is_due {
            self.divide();
            self.is_due = false;
        }
        for borrower in 0..self.parties.len() {
            let tpcs = self.portions[borrower].tpcs;
            let mut lenders = (0..self.parties.len()).filter(|&lender| {
                self.is_better(lender, borrower) && !self.parties[lender].own.is_disjoint(tpcs)
            });
            let is_paced =
                !tpcs.is_empty() && lenders.any(|l| self.activities[l].needs(now, RECENT));
            self.portions[borrower].is_paced = is_paced;
        }
        self.wanted.clone_from(&self.wants);
    }

    /// Adds what was lent since the last decision.
    fn count(&mut self, now: Nanos) {
        let span = match self.decided {
            Nanos(0) => 0,
            Nanos(decided) => now.0.saturating_sub(decided),
        };
        self.decided = now;
        for borrower in 0..self.parties.len() {
            let Portion {
                tpcs, is_suspended, ..
            } = self.portions[borrower];
            if !self.wanted[borrower] {
                continue;
            }
            if is_suspended {
                self.sums[borrower].suspended_ns += span;
                continue;
            }
            self.sums[borrower].borrowed_tpc_ns += u64::from(tpcs.len()) * span;
            for (party, sums) in self.parties.iter().zip(&mut self.sums) {
                sums.lent_tpc_ns += u64::from((party.own & tpcs).len()) * span;
            }
        }
    }

    fn is_better(&self, lender: usize, borrower: usize) -> bool {
        self.parties[lender].standing.class == Class::LatencyCritical
            && self.parties[borrower].standing.class == Class::BestEffort
    }

    /// Returns for how long a lender has to be idle before a borrower has its TPCs. Who has them too early is in the way of those
    /// who are served first with as many atoms as go on at a time, and their time counts for more; of equals with those that run.
    fn wait(&mut self, borrower: usize, lender: usize) -> Nanos {
        let atom = self.parties[borrower].atom;
        let in_the_way = match self.is_better(lender, borrower) {
            true => {
                let ahead = Nanos(atom.0.saturating_mul(u64::from(AHEAD)));
                let time = self.in_the_way[borrower].max(ahead);
                Nanos(time.0.saturating_mul(SERVED_FIRST))
            }
            false => self.in_the_way[borrower].max(atom),
        };
        let gaps = self.activities[lender].gaps();
        let known = &mut self.waits[borrower][lender];
        if (known.0, known.1) != (gaps.version(), in_the_way) {
            let wait = gaps.wait(in_the_way).max(LINGER);
            *known = (gaps.version(), in_the_way, wait);
        }
        known.2
    }

    fn divide(&mut self) {
        let shares = self.fill(&self.wants);
        for borrower in 0..self.parties.len() {
            let party = &self.parties[borrower];
            if party.lent.is_empty() {
                self.portions[borrower] = Portion::default();
                continue;
            }
            let [betters, equals] = self.withheld[borrower];
            let mut tpcs = shares[borrower];
            if !self.wants[borrower] {
                let mut wants = self.wants.clone();
                wants[borrower] = true;
                tpcs = self.fill(&wants)[borrower];
            }
            let is_suspended = !betters.is_disjoint(party.lent) && !party.is_enough(tpcs);
            if is_suspended {
                tpcs = (party.lent - equals).lowest(party.room());
            }
            self.portions[borrower] = Portion {
                tpcs,
                is_suspended,
                is_paced: false,
            };
        }
    }

    /// Divides what is to be had among those who want some.
    fn fill(&self, wants: &[bool]) -> Vec<TpcSet> {
        let count = self.parties.len();
        let mut shares = vec![TpcSet::EMPTY; count];
        let mut taken = TpcSet::EMPTY;
        let level = |i: usize| {
            let party = &self.parties[i];
            (party.standing.class, Reverse(party.priority))
        };
        let mut order: Vec<usize> = (0..count).filter(|&i| wants[i]).collect();
        order.sort_by_key(|&i| level(i));
        for equals in order.chunk_by(|&i, &j| level(i) == level(j)) {
            let open = |i: usize, taken: TpcSet| {
                let [betters, others] = self.withheld[i];
                self.parties[i].lent - betters - others - taken
            };
            loop {
                let thirsty = equals.iter().copied().filter(|&i| {
                    shares[i].len() < self.parties[i].room() && !open(i, taken).is_empty()
                });
                let next = thirsty.min_by(|&i, &j| {
                    let level = |i: usize| (shares[i].len(), self.parties[i].weight);
                    is_lower(level(i), level(j)).then(i.cmp(&j))
                });
                let Some(next) = next else { break };
                // One that it has already; else one that fewer others have or could use.
                let open_to = open(next, taken);
                let others = equals.iter().copied().filter(|&i| i != next);
                let (had, usable) = others.fold((TpcSet::EMPTY, TpcSet::EMPTY), |all, i| {
                    (all.0 | self.portions[i].tpcs, all.1 | open(i, taken))
                });
                let mine = open_to & self.portions[next].tpcs;
                let best = [open_to - usable, mine, open_to - had, open_to];
                let Some(bit) = best.into_iter().find_map(TpcSet::first) else {
                    break;
                };
                shares[next].insert(bit);
                taken.insert(bit);
            }
        }
        shares
    }
}

impl Party {
    /// Returns how many TPCs it may be lent at a time.
    fn room(&self) -> u32 {
        self.ceiling.saturating_sub(self.own.len())
    }

    /// Returns whether it can go on with these besides its own.
    fn is_enough(&self, tpcs: TpcSet) -> bool {
        let all = u64::from(self.own.len() + self.lent.len().min(self.room()));
        let left = u64::from(self.own.len() + tpcs.len());
        self.atom.0.saturating_mul(all) <= LONGEST_ATOM.0.saturating_mul(left)
    }
}

#[cfg(test)]
mod tests;
