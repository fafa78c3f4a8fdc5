// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How ownership moves towards a plan without a channel ever standing on nothing.
//!
//! ```text
//!           granted                   revoked                     drained
//!   free -------------> owned by P -------------> in transit -------------> free
//!                           ^        from P, to Q     |
//!                           |                         |
//!                           +--- granted to P again --+
//! ```
//!
//! A partition that loses all it has, or its room for clusters, does so only once it has what
//! replaces it: it *bridges* with some of the old until then. A bridge holds up whoever waits for
//! those TPCs, so two partitions that wait for each other's bridges would never move again. That is
//! why a plan is first tried out here ([`reaches`]) and taken only if it is reached.

use crate::topology::Topology;
use crate::tpc::TpcSet;

/// Where one partition with channels stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stand {
    /// What its channels are granted.
    pub(crate) owned: TpcSet,
    /// What they shall have.
    pub(crate) plan: TpcSet,
    /// How many TPCs of one GPC its largest cluster needs; at most 1 if any TPC will do.
    pub(crate) need: u32,
}

/// What a partition shall own next, if it could have `obtainable` at once.
///
/// The result is never larger than the plan. It is empty only if nothing was owned and nothing that
/// is planned can be had.
pub(crate) fn next_owned(topology: &Topology, stand: Stand, obtainable: TpcSet) -> TpcSet {
    let Stand { owned, plan, need } = stand;
    let base = plan & (owned | obtainable);
    if owned.is_empty() {
        return base;
    }
    let keep_room = need > 1 && topology.fits(owned, need) && topology.fits(plan, need);
    if !base.is_empty() && (!keep_room || topology.fits(base, need)) {
        return base;
    }
    let old = if keep_room {
        // Of the GPCs with room, the one with the fewest TPCs that are to be given up.
        let rooms = topology.groups().iter().map(|&group| owned & group);
        rooms
            .filter(|room| room.len() >= need)
            .min_by_key(|&room| need.saturating_sub((room & plan).len()))
            .unwrap_or(owned)
    } else {
        owned
    };
    let bridge_len = if keep_room { need } else { 1 };
    let mut next = TpcSet::EMPTY;
    top_up(&mut next, old & plan, bridge_len);
    top_up(&mut next, old, bridge_len);
    top_up(&mut next, owned & plan, plan.len());
    top_up(&mut next, base, plan.len());
    next
}

/// Adds the lowest TPCs of `from` that are not in the set yet, up to `len` in all.
fn top_up(set: &mut TpcSet, from: TpcSet, len: u32) {
    *set |= (from - *set).lowest(len.saturating_sub(set.len()));
}

/// Whether all partitions get to their plans in the end, if every drain that is asked for comes.
pub(crate) fn reaches(topology: &Topology, stands: &[Stand]) -> bool {
    let mut stands = stands.to_vec();
    // Each round but the last moves a TPC for good; the bound is for a plan that goes in circles.
    for _ in 0..=2 * topology.total() {
        let mut moved = false;
        for i in 0..stands.len() {
            let others = (0..stands.len()).filter(|&j| j != i);
            let held = others.fold(TpcSet::EMPTY, |held, j| held | stands[j].owned);
            let next = next_owned(topology, stands[i], topology.all() - held);
            moved |= next != stands[i].owned;
            stands[i].owned = next;
        }
        if !moved {
            return stands.iter().all(|stand| stand.owned == stand.plan);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Tpc;

    /// Two GPCs of four TPCs: bits 0 to 3 and 4 to 7.
    fn two_gpcs() -> Topology {
        Topology::new((0..8).map(|bit| Tpc {
            bit,
            gpc: Some(bit / 4),
        }))
        .unwrap()
    }

    fn set<const N: usize>(bits: [u8; N]) -> TpcSet {
        bits.into_iter().collect()
    }

    fn stand(owned: TpcSet, plan: TpcSet, need: u32) -> Stand {
        Stand { owned, plan, need }
    }

    #[test]
    fn what_can_be_had_is_taken_and_what_is_not_planned_is_given_up() {
        let stand = stand(set([0, 1]), set([1, 2, 3]), 1);
        let next = next_owned(&two_gpcs(), stand, set([2]));
        assert_eq!(next, set([1, 2]));
    }

    #[test]
    fn the_last_tpc_is_kept_until_its_successor_comes() {
        let stand = stand(set([0]), set([5]), 1);
        assert_eq!(next_owned(&two_gpcs(), stand, set([])), set([0]));
        assert_eq!(next_owned(&two_gpcs(), stand, set([5])), set([5]));
    }

    #[test]
    fn room_for_clusters_is_kept_until_there_is_room_elsewhere() {
        let stand = stand(set([0, 1, 2]), set([4, 5, 6]), 2);
        let next = next_owned(&two_gpcs(), stand, set([4]));
        assert_eq!(next, set([0, 1, 4]));
        assert_eq!(next_owned(&two_gpcs(), stand, set([4, 5])), set([4, 5]));
    }

    #[test]
    fn partitions_that_wait_for_each_others_bridges_never_arrive() {
        let swap = [stand(set([0]), set([1]), 1), stand(set([1]), set([0]), 1)];
        assert!(!reaches(&two_gpcs(), &swap));
        let looser = [
            stand(set([0, 2]), set([1, 2]), 1),
            stand(set([1]), set([0]), 1),
        ];
        assert!(reaches(&two_gpcs(), &looser));
    }
}
