// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many TPCs each partition should have on one GPU.
//!
//! A partition with channels on the GPU has its guarantee. One without has none, but its guarantee
//! stays reserved. What no guarantee reserves is the *pool*, and is handed out to partitions with
//! channels beyond their guarantees, up to their ceilings: latency-critical before best-effort, then
//! by priority, and by weight among equals. That is weighted max-min fairness, reached by water-filling
//! (Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2): raise the lowest level until
//! it meets a ceiling or the water is used up. Levels here are TPCs *beyond the guarantee*, divided by the weight,
//! and the water comes in drops of one TPC; a drop that equals compete for goes to the first by name.
//!
//! One rule comes before the pool is shared: a partition whose channels run keeps at least one TPC,
//! even with guarantee 0, because a running channel cannot be left with an empty mask.

use std::cmp::{Ordering, Reverse};

use crate::partition::Class;

/// What decides a partition's size on one GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stake {
    pub(crate) class: Class,
    pub(crate) priority: i32,
    pub(crate) weight: u32,
    pub(crate) guarantee: u32,
    pub(crate) ceiling: u32,
    /// Whether it has channels on the GPU.
    pub(crate) active: bool,
    /// Whether one of them has had a grant.
    pub(crate) running: bool,
}

impl Stake {
    /// How many TPCs nobody can take from it: admission keeps the sum of these within the GPU.
    pub(crate) fn firm(&self) -> u32 {
        self.guarantee.max(u32::from(self.running))
    }
}

/// The size of each partition, given all partitions of a GPU in the order of their names. For one
/// without channels this is its reservation.
pub(crate) fn sizes(total: u32, stakes: &[Stake]) -> Vec<u32> {
    let mut sizes: Vec<u32> = stakes.iter().map(Stake::firm).collect();
    let mut pool = total.saturating_sub(sizes.iter().sum());
    let mut levels: Vec<(Class, Reverse<i32>)> = stakes
        .iter()
        .map(|stake| (stake.class, Reverse(stake.priority)))
        .collect();
    levels.sort();
    levels.dedup();
    for level in levels {
        while pool > 0 {
            let thirsty = (0..stakes.len())
                .filter(|&i| (stakes[i].class, Reverse(stakes[i].priority)) == level)
                .filter(|&i| stakes[i].active && sizes[i] < stakes[i].ceiling)
                .min_by(|&i, &j| {
                    let level = |i: usize| (sizes[i] - stakes[i].guarantee, stakes[i].weight);
                    is_lower(level(i), level(j)).then(i.cmp(&j))
                });
            let Some(i) = thirsty else { break };
            sizes[i] += 1;
            pool -= 1;
        }
    }
    sizes
}

/// Compares so much by this weight with so much by that.
pub(crate) fn is_lower((one, weight): (u32, u32), (other, its): (u32, u32)) -> Ordering {
    let one = u64::from(one) * u64::from(its);
    one.cmp(&(u64::from(other) * u64::from(weight)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lc(guarantee: u32, ceiling: u32) -> Stake {
        Stake {
            class: Class::LatencyCritical,
            priority: 0,
            weight: 1,
            guarantee,
            ceiling,
            active: true,
            running: true,
        }
    }

    fn be(guarantee: u32, ceiling: u32) -> Stake {
        Stake {
            class: Class::BestEffort,
            ..lc(guarantee, ceiling)
        }
    }

    #[test]
    fn without_higher_ceilings_everyone_has_the_guarantee() {
        assert_eq!(sizes(66, &[lc(20, 20), be(10, 10)]), [20, 10]);
    }

    #[test]
    fn the_pool_is_shared_evenly_beyond_the_guarantees() {
        assert_eq!(sizes(66, &[lc(20, 66), lc(6, 66)]), [40, 26]);
    }

    #[test]
    fn who_weighs_twice_as_much_gets_twice_as_much_of_the_pool() {
        let heavy = Stake {
            weight: 2,
            ..lc(6, 66)
        };
        // Of the pool of 54 beyond the guarantees.
        assert_eq!(sizes(66, &[heavy, lc(6, 66)]), [42, 24]);
        let ceiling = Stake {
            ceiling: 10,
            ..heavy
        };
        assert_eq!(sizes(66, &[ceiling, lc(6, 66)]), [10, 56]);
    }

    #[test]
    fn what_a_ceiling_leaves_goes_to_the_others() {
        assert_eq!(sizes(66, &[lc(0, 5), lc(0, 66), lc(0, 66)]), [5, 31, 30]);
    }

    #[test]
    fn latency_critical_comes_before_best_effort() {
        assert_eq!(sizes(66, &[be(0, 66), lc(10, 66)]), [1, 65]);
        let waiting = Stake {
            running: false,
            ..be(0, 66)
        };
        assert_eq!(sizes(66, &[waiting, lc(10, 66)]), [0, 66]);
    }

    #[test]
    fn a_larger_priority_comes_first_within_a_class() {
        let first = Stake {
            priority: 1,
            ..be(2, 30)
        };
        assert_eq!(sizes(40, &[be(2, 30), first]), [10, 30]);
    }

    #[test]
    fn a_guarantee_without_channels_stays_reserved_and_grows_no_further() {
        let idle = Stake {
            active: false,
            running: false,
            ..lc(30, 66)
        };
        assert_eq!(sizes(66, &[idle, be(0, 66)]), [30, 36]);
    }

    #[test]
    fn a_running_partition_without_guarantee_keeps_one_tpc() {
        assert_eq!(sizes(10, &[be(0, 10), lc(9, 10)]), [1, 9]);
    }
}
