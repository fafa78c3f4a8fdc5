// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which TPCs each partition of a GPU should have: the plan, disjoint sets of given sizes.
//!
//! The idea: a plan is the plan before, changed as little as the sizes demand. A partition that
//! shrinks gives up what it does not hold yet and what stands alone; one that grows takes what it can
//! have at once before what must be waited for, and stays within as few GPCs as it can. Best-effort
//! partitions take the TPCs without GPC company first, for which others have less use.
//!
//! Only one thing makes a partition move that needs neither more nor fewer: clusters. A cluster of c
//! CTAs needs [`tpcs_for_cluster`](crate::tpcs_for_cluster) TPCs in one GPC. A partition is *short* if
//! its largest cluster has no such room although its size would do; then it swaps TPCs with its
//! neighbours, and if no swap helps, the GPU is packed anew (first fit of decreasing needs). No
//! partition that has room loses it for another's sake, and no plan is taken that the handover would
//! not reach.

use std::cmp::Reverse;

use crate::handover::{Stand, reaches};
use crate::partition::Class;
use crate::topology::Topology;
use crate::tpc::TpcSet;

/// What one partition of the GPU asks for, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) class: Class,
    pub(crate) priority: i32,
    /// How many TPCs it shall have.
    pub(crate) size: u32,
    /// How many of them must be in one GPC; 1 if it does not matter.
    pub(crate) need: u32,
    /// Whether it has channels; otherwise its TPCs are a reservation, which anyone may shift.
    pub(crate) active: bool,
    /// What its channels are granted.
    pub(crate) owned: TpcSet,
    /// What it could be granted at once.
    pub(crate) obtainable: TpcSet,
    /// What was planned for it before.
    pub(crate) planned: TpcSet,
}

/// The plan for all partitions of a GPU, given in the order of their names.
///
/// The sizes together are at most the TPCs of the GPU, the `planned` and the `owned` sets of
/// different claims are disjoint.
pub(crate) fn plan(topology: &Topology, claims: &[Claim]) -> Vec<TpcSet> {
    let board = Board { topology, claims };
    let mut plan: Vec<TpcSet> = claims.iter().map(|claim| claim.planned).collect();
    board.resize(&mut plan);
    if !board.reaches(&plan) {
        // A plan was cut short on its way. What is owned is a basis from which all can be reached.
        plan = claims.iter().map(|claim| claim.owned).collect();
        board.resize(&mut plan);
    }
    for i in board.by_rank() {
        if board.is_short(&plan, i) {
            board.make_room(&mut plan, i);
        }
    }
    plan
}

struct Board<'a> {
    topology: &'a Topology,
    claims: &'a [Claim],
}

impl Board<'_> {
    /// The claims in the order in which they are served.
    fn by_rank(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.claims.len()).collect();
        order.sort_by_key(|&i| {
            let claim = &self.claims[i];
            let rank = (claim.class, Reverse(claim.priority));
            (!claim.active, Reverse(claim.need), rank, i)
        });
        order
    }

    fn reaches(&self, plan: &[TpcSet]) -> bool {
        let active = self.claims.iter().zip(plan).filter(|(c, _)| c.active);
        let stands: Vec<Stand> = active
            .map(|(claim, &plan)| Stand {
                owned: claim.owned,
                plan,
                need: claim.need,
            })
            .collect();
        reaches(self.topology, &stands)
    }

    fn fits(&self, plan: &[TpcSet], i: usize) -> bool {
        self.topology.fits(plan[i], self.claims[i].need)
    }

    /// Whether a partition lacks the room for its clusters that its size would allow.
    fn is_short(&self, plan: &[TpcSet], i: usize) -> bool {
        let claim = &self.claims[i];
        claim.active
            && claim.size >= claim.need
            && !self.fits(plan, i)
            && self.topology.fits(self.topology.all(), claim.need)
    }

    fn unplanned(&self, plan: &[TpcSet]) -> TpcSet {
        let all = self.topology.all();
        plan.iter().fold(all, |rest, &taken| rest - taken)
    }

    /// Brings every set of the plan to its size.
    fn resize(&self, plan: &mut [TpcSet]) {
        for (i, claim) in self.claims.iter().enumerate() {
            let excess = plan[i].len().saturating_sub(claim.size);
            for bit in self.dispensable(plan[i], i).take(excess as usize) {
                plan[i].remove(bit);
            }
        }
        for i in self.by_rank() {
            self.grow(plan, i);
        }
    }

    /// The TPCs of a set in the order in which a partition would rather give them up.
    fn dispensable(&self, set: TpcSet, i: usize) -> impl Iterator<Item = u8> + use<> {
        let claim = &self.claims[i];
        let group_of = |bit| self.group_of(bit);
        let groups = self.topology.groups();
        let core = (groups.iter().copied())
            .filter(|_| claim.need > 1)
            .max_by_key(|&group| ((group & set).len(), (group & claim.owned).len()))
            .unwrap_or_default();
        let mut bits: Vec<u8> = set.iter().collect();
        bits.sort_by_key(|&bit| {
            let group = group_of(bit);
            let lonely = group.len() == 1;
            let suits = lonely == (claim.class == Class::BestEffort);
            (
                core.contains(bit),
                claim.owned.contains(bit),
                lonely && suits,
                (group & set).len(),
                Reverse(bit),
            )
        });
        bits.into_iter()
    }

    fn group_of(&self, bit: u8) -> TpcSet {
        let mut groups = self.topology.groups().iter().copied();
        groups.find(|group| group.contains(bit)).unwrap_or_default()
    }

    /// Adds TPCs that nobody is planned to have, up to the partition's size.
    fn grow(&self, plan: &mut [TpcSet], i: usize) {
        let claim = &self.claims[i];
        let rest = self.unplanned(plan);
        let at_once = rest & (claim.obtainable | claim.owned);
        let mut set = plan[i];
        if claim.need > 1 && claim.size >= claim.need && !self.topology.fits(set, claim.need) {
            let spare = claim.size.saturating_sub(set.len());
            let core = [at_once, rest]
                .into_iter()
                .find_map(|from| self.core(set, from, claim.need, spare));
            set |= core.unwrap_or_default();
        }
        for from in [at_once, rest] {
            self.fill(&mut set, from, claim);
        }
        plan[i] = set;
    }

    /// What to add to a set, from `from` and no more than `spare`, so that one GPC has `need` of it.
    fn core(&self, set: TpcSet, from: TpcSet, need: u32, spare: u32) -> Option<TpcSet> {
        let groups = self.topology.groups().iter().copied();
        groups
            .filter_map(|group| {
                let missing = need.saturating_sub((group & set).len());
                let found = (group & (from - set)).len();
                (missing <= found.min(spare)).then_some((missing, found, group))
            })
            .min_by_key(|&(missing, found, _)| (missing, found))
            .map(|(missing, _, group)| (group & (from - set)).lowest(missing))
    }

    /// Adds TPCs of `from` up to the claim's size, group by group.
    fn fill(&self, set: &mut TpcSet, from: TpcSet, claim: &Claim) {
        let lonely_first = claim.class == Class::BestEffort && claim.need <= 1;
        while set.len() < claim.size {
            let missing = claim.size - set.len();
            let groups = self.topology.groups().iter().copied();
            let best = groups
                .filter(|&group| !(group & (from - *set)).is_empty())
                .min_by_key(|&group| {
                    let found = (group & (from - *set)).len();
                    let lonely = group.len() == 1;
                    let whole = found == group.len() && found <= missing;
                    // Near what it has; else whole GPCs, large before small; else the tightest
                    // place that is large enough; else the largest there is.
                    let tightness = if found >= missing { found } else { 256 - found };
                    (
                        lonely != lonely_first,
                        Reverse((group & *set).len()),
                        !whole,
                        if whole { 256 - found } else { tightness },
                    )
                });
            let Some(group) = best else { return };
            *set |= (group & (from - *set)).lowest(missing);
        }
    }

    /// Finds room for the clusters of a partition that is short, or leaves the plan as it is.
    fn make_room(&self, plan: &mut Vec<TpcSet>, i: usize) {
        let need = self.claims[i].need;
        let rest = self.unplanned(plan);
        let mut groups: Vec<TpcSet> = self.topology.groups().to_vec();
        groups.retain(|group| group.len() >= need);
        groups.sort_by_key(|&group| {
            let missing = need.saturating_sub((group & plan[i]).len());
            // First what others must give up, then what this partition must.
            (missing.saturating_sub((group & rest).len()), missing)
        });
        let swaps = groups.iter().filter_map(|&g| self.swap_into(plan, i, g));
        if let Some(better) = swaps.chain(self.repack(plan, i)).next() {
            *plan = better;
        }
    }

    /// The plan in which a partition has swapped TPCs until its clusters have room in `group`.
    fn swap_into(&self, plan: &[TpcSet], i: usize, group: TpcSet) -> Option<Vec<TpcSet>> {
        let mut plan = plan.to_vec();
        let had_room: Vec<bool> = (0..plan.len()).map(|j| self.fits(&plan, j)).collect();
        let mut offers: Vec<u8> = self.dispensable(plan[i] - group, i).collect();
        for wanted in self.easiest(&plan, i, group - plan[i]) {
            if (plan[i] & group).len() >= self.claims[i].need {
                break;
            }
            let loser = (0..plan.len()).find(|&j| plan[j].contains(wanted));
            // The loser gets what lies nearest to the rest of what it has.
            let near = |bit: u8| loser.map(|j| (self.group_of(bit) & plan[j]).len());
            let offer = (0..offers.len()).max_by_key(|&at| (near(offers[at]), Reverse(at)))?;
            let mut next = plan.clone();
            if let Some(j) = loser {
                next[j].remove(wanted);
                next[j].insert(offers[offer]);
            }
            next[i].remove(offers[offer]);
            next[i].insert(wanted);
            if loser.is_none_or(|j| !had_room[j] || self.fits(&next, j)) {
                plan = next;
                offers.remove(offer);
            }
        }
        (self.fits(&plan, i) && self.reaches(&plan)).then_some(plan)
    }

    /// TPCs in the order in which it disturbs others least to take them.
    fn easiest(&self, plan: &[TpcSet], i: usize, wanted: TpcSet) -> Vec<u8> {
        let mut bits: Vec<u8> = wanted.iter().collect();
        bits.sort_by_key(|&bit| {
            let at_once = self.claims[i].obtainable.contains(bit);
            match (0..plan.len()).find(|&j| plan[j].contains(bit)) {
                None => (0, !at_once, Reverse(Class::BestEffort), 0, 0, bit),
                Some(j) => {
                    let other = &self.claims[j];
                    let class = Reverse(other.class);
                    let rank = if other.active { 2 } else { 1 };
                    (rank, !at_once, class, other.need, other.priority, bit)
                }
            }
        });
        bits
    }

    /// A plan made anew in which this partition has room and nobody loses any; the last resort.
    fn repack(&self, plan: &[TpcSet], i: usize) -> Option<Vec<TpcSet>> {
        let mut next = vec![TpcSet::EMPTY; plan.len()];
        for j in self.by_rank() {
            let claim = &self.claims[j];
            if !claim.active || claim.need <= 1 || claim.size < claim.need {
                continue;
            }
            let rest = self.unplanned(&next);
            let mut groups: Vec<TpcSet> = self.topology.groups().to_vec();
            groups.retain(|&group| (group & rest).len() >= claim.need);
            let best = groups.into_iter().min_by_key(|&group| {
                let held = (group & rest & claim.owned).len();
                (claim.need.saturating_sub(held), (group & rest).len())
            });
            let room = best.unwrap_or_default() & rest;
            let own = (room & claim.owned).lowest(claim.need);
            next[j] = own | (room - own).lowest(claim.need.saturating_sub(own.len()));
        }
        for basis in [self.claims.iter().map(|c| c.owned).collect(), plan.to_vec()] {
            for (j, claim) in self.claims.iter().enumerate() {
                let missing = claim.size.saturating_sub(next[j].len());
                let rest = self.unplanned(&next);
                next[j] |= (basis[j] & rest).lowest(missing);
            }
        }
        self.resize(&mut next);
        let nobody_loses = (0..plan.len()).all(|j| {
            j == i || !self.claims[j].active || !self.fits(plan, j) || self.fits(&next, j)
        });
        (nobody_loses && self.fits(&next, i) && self.reaches(&next)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Tpc;

    /// Three GPCs of four TPCs (bits 0 to 3, 4 to 7, 8 to 11) and two TPCs alone (20 and 23).
    fn small_gpu() -> Topology {
        let gpcs = (0..12).map(|bit| Tpc {
            bit,
            gpc: Some(bit / 4),
        });
        let alone = [20, 23].map(|bit| Tpc { bit, gpc: None });
        Topology::new(gpcs.chain(alone)).unwrap()
    }

    fn set(bits: &[u8]) -> TpcSet {
        bits.iter().copied().collect()
    }

    /// A partition that owns what was planned for it.
    fn settled(class: Class, size: u32, owned: &[u8]) -> Claim {
        Claim {
            class,
            priority: 0,
            size,
            need: 1,
            active: true,
            owned: set(owned),
            obtainable: TpcSet::EMPTY,
            planned: set(owned),
        }
    }

    fn plan_of(claims: &mut [Claim]) -> Vec<TpcSet> {
        let topology = small_gpu();
        let held = claims.iter().fold(TpcSet::EMPTY, |h, c| h | c.owned);
        for claim in claims.iter_mut() {
            claim.obtainable = topology.all() - held;
        }
        let plan = plan(&topology, claims);
        for (claim, set) in claims.iter().zip(&plan) {
            assert_eq!(set.len(), claim.size);
        }
        plan
    }

    use Class::{BestEffort as BE, LatencyCritical as LC};

    #[test]
    fn a_plan_that_fits_stays_as_it_is() {
        let mut claims = [settled(LC, 3, &[0, 5, 9]), settled(BE, 2, &[1, 20])];
        assert_eq!(plan_of(&mut claims), [set(&[0, 5, 9]), set(&[1, 20])]);
    }

    #[test]
    fn a_new_partition_takes_a_whole_gpc_where_it_can() {
        let mut claims = [settled(LC, 2, &[0, 1]), settled(LC, 4, &[])];
        assert_eq!(plan_of(&mut claims)[1], set(&[4, 5, 6, 7]));
    }

    #[test]
    fn a_small_partition_takes_the_tightest_place() {
        let mut claims = [settled(LC, 2, &[4, 5]), settled(LC, 2, &[])];
        assert_eq!(plan_of(&mut claims)[1], set(&[6, 7]));
    }

    #[test]
    fn best_effort_goes_where_no_company_is() {
        let mut claims = [settled(BE, 3, &[])];
        let plan = plan_of(&mut claims);
        assert!(set(&[20, 23]).is_subset(plan[0]), "{plan:?}");
        let mut claims = [settled(LC, 12, &[])];
        assert_eq!(plan_of(&mut claims)[0], small_gpu().all() - set(&[20, 23]));
    }

    #[test]
    fn a_partition_that_launches_clusters_keeps_its_room_when_it_shrinks() {
        let mut claims = [Claim {
            need: 3,
            ..settled(LC, 3, &[0, 4, 5, 6, 7, 20])
        }];
        assert_eq!(plan_of(&mut claims)[0], set(&[4, 5, 6]));
    }

    #[test]
    fn a_short_partition_takes_free_tpcs_first() {
        let mut claims = [
            Claim {
                need: 2,
                ..settled(LC, 2, &[0, 4])
            },
            settled(BE, 6, &[1, 2, 3, 5, 6, 7]),
        ];
        let plan = plan_of(&mut claims);
        assert_eq!(plan[1], set(&[1, 2, 3, 5, 6, 7]));
        assert!(small_gpu().fits(plan[0], 2), "{plan:?}");
    }

    #[test]
    fn a_short_partition_swaps_with_its_neighbours_if_nothing_is_free() {
        let mut claims = [
            Claim {
                need: 4,
                ..settled(LC, 7, &[0, 1, 4, 5, 8, 9, 20])
            },
            settled(BE, 7, &[2, 3, 6, 7, 10, 11, 23]),
        ];
        let plan = plan_of(&mut claims);
        assert!(small_gpu().fits(plan[0], 4), "{plan:?}");
        assert_eq!((plan[1] & claims[1].owned).len(), 5, "{plan:?}");
    }

    #[test]
    fn nobody_loses_room_for_another_one_that_is_short() {
        let with_need = |need, owned: &[u8]| Claim {
            need,
            ..settled(LC, u32::try_from(owned.len()).unwrap(), owned)
        };
        let mut claims = [
            with_need(3, &[0, 1, 2, 20]),
            with_need(3, &[4, 5, 6, 23]),
            with_need(3, &[8, 9, 10]),
            with_need(3, &[3, 7, 11]),
        ];
        let plan = plan_of(&mut claims);
        for i in 0..3 {
            assert!(small_gpu().fits(plan[i], 3), "{plan:?}");
        }
    }

    #[test]
    fn a_plan_that_could_never_be_reached_is_dropped() {
        let swap = |owned: &[u8], planned: &[u8]| Claim {
            planned: set(planned),
            ..settled(LC, 1, owned)
        };
        let mut claims = [swap(&[0], &[1]), swap(&[1], &[0])];
        assert_eq!(plan_of(&mut claims), [set(&[0]), set(&[1])]);
    }

    #[test]
    fn the_gpu_is_packed_anew_when_no_swap_helps() {
        // Each GPC has a pair in the way of a cluster of 8; the pairs fit together into one GPC.
        let pair = |owned: &[u8]| Claim {
            need: 2,
            ..settled(BE, 2, owned)
        };
        let mut claims = [
            pair(&[0, 1]),
            pair(&[4, 5]),
            pair(&[8, 9]),
            Claim {
                need: 4,
                ..settled(LC, 4, &[2, 6, 10, 20])
            },
        ];
        let plan = plan_of(&mut claims);
        assert!(small_gpu().fits(plan[3], 4), "{plan:?}");
        for i in 0..3 {
            assert!(small_gpu().fits(plan[i], 2), "{plan:?}");
        }
    }
}
