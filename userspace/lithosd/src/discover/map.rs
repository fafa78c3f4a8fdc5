// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which TPCs there are and which of them share a GPC, found out by counting what runs at once.
//!
//! A mask that leaves a launch no place to run hangs it for ever, and with it, perhaps, the GPU. So the
//! idea is to take away as little as possible: one TPC, or two, of all, and to look at what becomes of
//! the count. Units: SMs are counted by blocks that take a whole SM each, room by *clusters of four*
//! such blocks, which need two TPCs of one GPC.
//!
//! 1. **SMs**: without a mask, how many blocks run at once.
//! 2. **Bits**: take one bit of the mask away. Two SMs fewer: it is a TPC. No fewer: it is none.
//!    With two TPCs or more, one is always left.
//! 3. **GPCs**: a GPC of n TPCs has room for n/2 clusters, rounded down. Take one TPC away: room goes
//!    down by one if its GPC has an even number, and stays if it is odd. Two TPCs of which one is in an
//!    even GPC and the other in an odd one are not together. For two of a kind, take both away:
//!
//!    | room lost   | same GPC | different GPCs |
//!    | ----------- | -------- | -------------- |
//!    | both even   | 1        | 2              |
//!    | both odd    | 1        | 0              |
//!
//!    A TPC is compared with one member of each GPC that is known so far. One that is with nobody
//!    has no company.
//!
//! **Why this cannot hang.** A launch of clusters is made only where a place for one is known, without
//! any belief in the formula above. The driver tells whether one cluster fits the whole GPU, before any
//! is launched; then three or more must be *seen* running at once. Taking a TPC away takes two SMs, and
//! each SM is a place of at most one of those clusters: at least one of the three keeps all its places.
//! For the same reason both TPCs of a pair are taken away only if three clusters were seen running
//! with the first one gone. A count can come out too low (something else held a block up), which
//! makes this rule stricter, and never too high: blocks are counted while they wait for each other.
//!
//! **Why a map is right.** A count that came out too low must not pass for an arrangement of GPCs: the
//! count that all others are compared with is made twice, GPCs are told apart twice where one wrong
//! count would split them, parities and room must add up, and a GPC must be found that holds the
//! largest cluster that the driver has room for. Any one wrong count is noticed (a test tries).
//!
//! Rejected: keeping only a pair of TPCs that are known to share a GPC and adding two to be compared. It
//! needs a first pair, and hangs if that is wrong.

use anyhow::bail;
use lithos_descriptor::TpcMask;
use lithos_policy::{Topology, Tpc};

/// Blocks of the clusters that are launched.
pub(super) const CLUSTER_BLOCKS: u32 = 4;
/// SMs of a TPC.
pub(super) const TPC_SMS: u32 = 2;
/// How many clusters must have been seen at once before a TPC is taken away.
const ROOM_MIN: u32 = 3;
/// The largest cluster that any GPU runs, in TPCs.
const CLUSTER_TPCS_MAX: u32 = 8;

/// A GPU that can be asked how many blocks run at once, each with an SM to itself.
pub(super) trait Probe {
    /// The SMs that the driver speaks of.
    fn sms(&self) -> u32;

    /// How many of `launched` blocks run at once without some TPCs.
    fn blocks(&mut self, launched: u32, without: TpcMask) -> anyhow::Result<u32>;

    /// How many clusters of [`CLUSTER_BLOCKS`] run at once without some TPCs.
    fn clusters(&mut self, without: TpcMask) -> anyhow::Result<u32>;

    /// Whether the driver has room for one cluster of so many blocks. Runs nothing.
    fn has_room(&mut self, cluster_blocks: u32) -> anyhow::Result<bool>;
}

/// Why a GPU could not be mapped, although the probe worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MapError {
    /// Nothing can be taken away without a launch being left no place.
    #[error("the GPU has {sms} SMs; a map needs two TPCs, that is {} SMs", 2 * TPC_SMS)]
    TooSmall {
        /// Its SMs.
        sms: u32,
    },
    /// Some clusters fit, but too few to take a TPC away safely.
    #[error(
        "only {seen} clusters of {CLUSTER_BLOCKS} blocks were seen running at once{}; {ROOM_MIN} are \
         needed for one to keep its place when a TPC is taken away",
        without(.first)
    )]
    TooLittleRoom {
        /// How many were seen.
        seen: u32,
        /// The TPC that was away already.
        first: Option<u8>,
    },
    /// A different number of blocks ran than the driver has SMs.
    #[error("the driver speaks of {told} SMs, but {seen} blocks ran at once with an SM to each")]
    Sms {
        /// What the driver says.
        told: u32,
        /// What was counted.
        seen: u32,
    },
    /// Taking a bit away had an effect that no TPC has.
    #[error(
        "without bit {bit} of the TPC mask {seen} of {sms} SMs ran blocks; {sms} or {} would make \
         sense. Is something else running on the GPU?",
        sms.saturating_sub(TPC_SMS)
    )]
    Bit {
        /// The bit.
        bit: u8,
        /// SMs of the GPU.
        sms: u32,
        /// SMs seen.
        seen: u32,
    },
    /// The bits do not add up to the SMs.
    #[error("{found} bits of the TPC mask stand for TPCs, but {sms} SMs are {} TPCs", sms / TPC_SMS)]
    Bits {
        /// Bits found.
        found: u32,
        /// SMs of the GPU.
        sms: u32,
    },
    /// Taking TPCs away had an effect on clusters that no arrangement explains.
    #[error(
        "without bit {a}{} of the TPC mask {seen} clusters ran at once, {room} with all: no \
         arrangement of GPCs explains that. Is something else running on the GPU?",
        and(.b)
    )]
    Room {
        /// The first TPC taken away.
        a: u8,
        /// The second.
        b: Option<u8>,
        /// Clusters with all TPCs.
        room: u32,
        /// Clusters seen.
        seen: u32,
    },
    /// With all TPCs, different numbers of clusters ran at once.
    #[error(
        "{room} clusters of {CLUSTER_BLOCKS} blocks ran at once, and then {again}. Is something else \
         running on the GPU?"
    )]
    Unsteady {
        /// The first count.
        room: u32,
        /// The second.
        again: u32,
    },
    /// Two TPCs did not seem to share a GPC, and then did.
    #[error(
        "TPC bits {a} and {b} did not seem to share a GPC, and then did. Is something else running on \
         the GPU?"
    )]
    Split {
        /// The first.
        a: u8,
        /// The second.
        b: u8,
    },
    /// The driver has room for a cluster that no GPC found could hold.
    #[error(
        "the driver has room for clusters of {cluster} blocks with an SM to each, but the largest GPC \
         found has {largest} TPCs"
    )]
    Narrow {
        /// Blocks of the cluster.
        cluster: u32,
        /// TPCs of the largest GPC found.
        largest: u32,
    },
    /// The GPCs found do not have the room that was seen.
    #[error("the GPCs found have room for {found} clusters, but {room} ran at once")]
    Sum {
        /// What the GPCs have room for.
        found: u32,
        /// Clusters with all TPCs.
        room: u32,
    },
}

fn without(first: &Option<u8>) -> String {
    first.map_or_else(String::new, |bit| format!(" without TPC bit {bit}"))
}

fn and(b: &Option<u8>) -> String {
    b.map_or_else(String::new, |bit| format!(" and bit {bit}"))
}

/// Maps a GPU. What the probe says about its own failures is passed on as it is; others are
/// [`MapError`].
pub(super) fn map<P: Probe>(probe: &mut P) -> anyhow::Result<Topology> {
    let sms = probe.sms();
    if sms < 2 * TPC_SMS {
        bail!(MapError::TooSmall { sms });
    }
    let seen = probe.blocks(sms + TPC_SMS, TpcMask::EMPTY)?;
    if seen != sms {
        bail!(MapError::Sms { told: sms, seen });
    }
    let bits = present_bits(probe, sms)?;
    let groups = groups(probe, &bits)?;
    let tpcs = groups.iter().zip(0..).flat_map(|(group, gpc)| {
        let gpc = (group.len() > 1).then_some(gpc);
        group.iter().map(move |&bit| Tpc { bit, gpc })
    });
    // PANIC: each bit is below 128, in one group only, and there are two at least.
    Ok(Topology::new(tpcs).expect("the bits of a GPU"))
}

/// Step 2.
fn present_bits<P: Probe>(probe: &mut P, sms: u32) -> anyhow::Result<Vec<u8>> {
    let mut bits = Vec::new();
    for bit in 0..128_u8 {
        let seen = probe.blocks(sms, TpcMask::single(bit.into()))?;
        if seen == sms - TPC_SMS {
            bits.push(bit);
        } else if seen != sms {
            bail!(MapError::Bit { bit, sms, seen });
        }
    }
    let found = bits.len() as u64;
    if found * u64::from(TPC_SMS) != u64::from(sms) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        bail!(MapError::Bits { found, sms });
    }
    Ok(bits)
}

/// Step 3: the bits of each GPC, those without company last.
fn groups<P: Probe>(probe: &mut P, bits: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let alone = || bits.iter().map(|&bit| vec![bit]).collect();
    if !probe.has_room(CLUSTER_BLOCKS)? {
        return Ok(alone());
    }
    let tpcs = u32::try_from(bits.len()).unwrap_or(u32::MAX);
    if tpcs <= CLUSTER_TPCS_MAX && probe.has_room(TPC_SMS * tpcs)? {
        return Ok(vec![bits.to_vec()]);
    }
    let room = probe.clusters(TpcMask::EMPTY)?;
    if room < ROOM_MIN {
        let first = None;
        bail!(MapError::TooLittleRoom { seen: room, first });
    }
    // All else is judged by this count, so it must come out twice.
    let again = probe.clusters(TpcMask::EMPTY)?;
    if again != room {
        bail!(MapError::Unsteady { room, again });
    }
    let mut groups: Vec<Group> = Vec::new();
    for &bit in bits {
        let seen = probe.clusters(TpcMask::single(bit.into()))?;
        let even = match room.checked_sub(seen) {
            Some(0) => false,
            Some(1) => true,
            _ => bail!(MapError::Room {
                a: bit,
                b: None,
                room,
                seen,
            }),
        };
        if seen < ROOM_MIN {
            let first = Some(bit);
            bail!(MapError::TooLittleRoom { seen, first });
        }
        let mut home = None;
        // A TPC's company is most often among the bits just before its own.
        for (at, group) in groups.iter().enumerate().rev() {
            if group.even == even && together(probe, group.bits[0], bit, even, room)? {
                home = Some(at);
                break;
            }
        }
        match home {
            Some(at) => groups[at].bits.push(bit),
            None => groups.push(Group {
                bits: vec![bit],
                even,
            }),
        }
    }
    check_apart(probe, &groups, room)?;
    check_sum(&groups, room)?;
    check_width(probe, &groups)?;
    groups.sort_by_key(|group| group.bits.len() == 1);
    Ok(groups.into_iter().map(|group| group.bits).collect())
}

/// TPCs that share a GPC.
struct Group {
    bits: Vec<u8>,
    /// Whether the GPC has an even number of TPCs.
    even: bool,
}

/// Whether two TPCs share a GPC, both of which are in GPCs with an even (or both with an odd) number.
/// Three clusters have been seen running without either one.
fn together<P: Probe>(probe: &mut P, a: u8, b: u8, even: bool, room: u32) -> anyhow::Result<bool> {
    let both = TpcMask::single(a.into()) | TpcMask::single(b.into());
    let seen = probe.clusters(both)?;
    match (room.checked_sub(seen), even) {
        (Some(1), _) => Ok(true),
        (Some(2), true) | (Some(0), false) => Ok(false),
        _ => bail!(MapError::Room {
            a,
            b: Some(b),
            room,
            seen,
        }),
    }
}

/// GPCs with an even number must be told apart a second time: a count that came out too low makes two
/// TPCs of one look like TPCs of two, and splits it. (With odd numbers it makes two look like one, which
/// shows in the parities.)
fn check_apart<P: Probe>(probe: &mut P, groups: &[Group], room: u32) -> anyhow::Result<()> {
    for (at, group) in groups.iter().enumerate().filter(|(_, group)| group.even) {
        for other in groups[..at].iter().filter(|other| other.even) {
            let (a, b) = (other.bits[0], group.bits[0]);
            if together(probe, a, b, true, room)? {
                bail!(MapError::Split { a, b });
            }
        }
    }
    Ok(())
}

/// The GPCs must have the parity and the room that was seen.
fn check_sum(groups: &[Group], room: u32) -> Result<(), MapError> {
    let halves = groups.iter().map(|group| group.bits.len() / 2);
    let found = u32::try_from(halves.sum::<usize>()).unwrap_or(u32::MAX);
    let parities_hold = (groups.iter()).all(|group| group.even == (group.bits.len() % 2 == 0));
    if found == room && parities_hold {
        Ok(())
    } else {
        Err(MapError::Sum { found, room })
    }
}

/// Clusters of four might be kept closer together than in a GPC; the driver knows how large one can be.
fn check_width<P: Probe>(probe: &mut P, groups: &[Group]) -> anyhow::Result<()> {
    let largest = groups.iter().map(|group| group.bits.len()).max();
    let largest = u32::try_from(largest.unwrap_or(0)).unwrap_or(u32::MAX);
    for cluster in [4, 8, 16] {
        if TPC_SMS * largest < cluster && probe.has_room(cluster)? {
            bail!(MapError::Narrow { cluster, largest });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// A GPU that panics where a real one would hang.
    #[derive(Clone, Debug)]
    struct Model {
        /// Mask bit and GPC of each TPC.
        tpcs: Vec<(u8, usize)>,
        /// The counts of these questions come out one lower, as if something was in the way.
        disturbed: Vec<usize>,
        questions: usize,
        /// Clusters of four keep to so many TPCs of a GPC that lie together.
        close: usize,
    }

    impl Model {
        /// GPCs of these sizes, with holes between the bits.
        fn new(sizes: &[usize]) -> Self {
            let gpcs = (0..sizes.len()).flat_map(|gpc| vec![gpc; sizes[gpc]]);
            let tpcs = gpcs.enumerate().map(|(i, gpc)| {
                let bit = i + i / 5 + gpc;
                (u8::try_from(bit).unwrap(), gpc)
            });
            Self {
                tpcs: tpcs.collect(),
                disturbed: Vec::new(),
                questions: 0,
                close: usize::MAX,
            }
        }

        fn left(&self, without: TpcMask) -> BTreeMap<usize, u32> {
            let mut left = BTreeMap::new();
            for &(bit, gpc) in &self.tpcs {
                if !without.contains(bit.into()) {
                    *left.entry(gpc).or_default() += 1;
                }
            }
            left
        }

        fn count(&mut self, count: u32) -> anyhow::Result<u32> {
            self.questions += 1;
            let disturbed = self.disturbed.contains(&self.questions);
            Ok(count - u32::from(disturbed))
        }

        /// The TPCs that share a GPC, each group in rising order, those alone left out.
        fn company(&self) -> Vec<Vec<u8>> {
            let mut groups = BTreeMap::<usize, Vec<u8>>::new();
            for &(bit, gpc) in &self.tpcs {
                groups.entry(gpc).or_default().push(bit);
            }
            let mut groups: Vec<_> = groups.into_values().filter(|g| g.len() > 1).collect();
            groups.sort();
            groups
        }
    }

    impl Probe for Model {
        fn sms(&self) -> u32 {
            2 * u32::try_from(self.tpcs.len()).unwrap()
        }

        fn blocks(&mut self, launched: u32, without: TpcMask) -> anyhow::Result<u32> {
            let left: u32 = self.left(without).values().sum();
            assert!(left > 0, "no TPC is left: hung for ever");
            self.count(launched.min(2 * left))
        }

        fn clusters(&mut self, without: TpcMask) -> anyhow::Result<u32> {
            let mut left = BTreeMap::<(usize, usize), u32>::new();
            for (at, &(bit, gpc)) in self.tpcs.iter().enumerate() {
                if !without.contains(bit.into()) {
                    *left.entry((gpc, at / self.close)).or_default() += 1;
                }
            }
            let room: u32 = left.values().map(|tpcs| tpcs / 2).sum();
            assert!(room > 0, "no GPC has room for a cluster: hung for ever");
            self.count(room)
        }

        fn has_room(&mut self, cluster_blocks: u32) -> anyhow::Result<bool> {
            let mut gpcs = self.left(TpcMask::EMPTY).into_values();
            Ok(gpcs.any(|tpcs| 2 * tpcs >= cluster_blocks))
        }
    }

    fn why(error: anyhow::Error) -> MapError {
        error.downcast().expect("an error of the map's own")
    }

    fn company(topology: &Topology) -> Vec<Vec<u8>> {
        let groups = topology.groups().iter().filter(|group| group.len() > 1);
        let mut groups: Vec<Vec<u8>> = groups.map(|group| group.iter().collect()).collect();
        groups.sort();
        groups
    }

    fn is_mapped(sizes: &[usize]) {
        let mut model = Model::new(sizes);
        let topology = map(&mut model).unwrap_or_else(|error| panic!("{sizes:?}: {error}"));
        let bits: Vec<u8> = topology.tpcs().iter().map(|tpc| tpc.bit).collect();
        let expected: Vec<u8> = model.tpcs.iter().map(|tpc| tpc.0).collect();
        assert_eq!(bits, expected, "{sizes:?}");
        assert_eq!(company(&topology), model.company(), "{sizes:?}");
    }

    #[test]
    fn the_measured_board_is_mapped() {
        is_mapped(&[4, 8, 8, 8, 8, 8, 9, 9, 1, 1, 1, 1]);
    }

    #[test]
    fn boards_of_other_shapes_are_mapped() {
        is_mapped(&[1, 1, 1, 1]);
        is_mapped(&[2]);
        is_mapped(&[8]);
        is_mapped(&[9]);
        is_mapped(&[4, 5]);
        is_mapped(&[3, 3, 3]);
        is_mapped(&[2, 2, 2, 2, 2]);
        is_mapped(&[7, 1, 7, 1]);
    }

    #[test]
    fn a_board_on_which_a_launch_could_be_left_no_place_is_refused() {
        let refused = |sizes: &[usize]| why(map(&mut Model::new(sizes)).unwrap_err());
        assert_eq!(refused(&[1]), MapError::TooSmall { sms: 2 });
        let seen = |seen, first| MapError::TooLittleRoom { seen, first };
        assert_eq!(refused(&[2, 1]), seen(1, None));
        assert_eq!(refused(&[2, 2]), seen(2, None));
        assert_eq!(refused(&[2, 2, 2]), seen(2, Some(0)));
    }

    #[test]
    fn counts_that_make_no_sense_are_errors_with_the_numbers() {
        let mut model = Model::new(&[8, 8]);
        model.disturbed = vec![7];
        let error = why(map(&mut model).unwrap_err());
        assert_eq!(
            error.to_string(),
            "without bit 5 of the TPC mask 31 of 32 SMs ran blocks; 32 or 30 would make sense. Is \
             something else running on the GPU?"
        );
    }

    #[test]
    fn clusters_that_keep_closer_together_than_a_gpc_are_noticed() {
        let mut model = Model::new(&[9, 9]);
        model.close = 3;
        let error = why(map(&mut model).unwrap_err());
        let (cluster, largest) = (8, 3);
        assert_eq!(error, MapError::Narrow { cluster, largest });
    }

    proptest! {
        // The same boards in every run; a failure prints the smallest that shows it.
        #![proptest_config(ProptestConfig {
            cases: 4000,
            rng_seed: RngSeed::Fixed(2),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_board_is_hung_or_mapped_wrongly(
            sizes in prop::collection::vec(1_usize..10, 1..9),
        ) {
            let mut model = Model::new(&sizes);
            match map(&mut model) {
                Ok(topology) => assert_eq!(company(&topology), model.company()),
                Err(error) => {
                    let small = matches!(
                        why(error),
                        MapError::TooSmall { .. } | MapError::TooLittleRoom { .. }
                    );
                    assert!(small, "{sizes:?}");
                }
            }
        }

        #[test]
        fn one_count_that_is_too_low_is_noticed_or_harmless(
            sizes in prop::collection::vec(1_usize..10, 1..9),
            disturbed in 1_usize..300,
        ) {
            let disturbed = vec![disturbed];
            let mut model = Model { disturbed, ..Model::new(&sizes) };
            if let Ok(topology) = map(&mut model) {
                prop_assert_eq!(company(&topology), model.company());
            }
        }

        #[test]
        fn a_count_that_is_too_low_hangs_nothing(
            sizes in prop::collection::vec(1_usize..10, 1..9),
            disturbed in prop::collection::vec(1_usize..300, 1..40),
        ) {
            let mut model = Model { disturbed, ..Model::new(&sizes) };
            // Whatever comes of it: the model panics where a GPU would hang.
            let _ = map(&mut model);
        }
    }
}
