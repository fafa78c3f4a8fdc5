// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The shape of a GPU: which TPCs it has, and which of them share a GPC.
//!
//! A cluster of CTAs must find all its SMs within one GPC, so what matters about a set of TPCs is not
//! only how many they are but how many of them are together. A TPC without GPC company counts as a
//! *group* of its own, beside the GPCs: it hosts no cluster wider than its two SMs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tpc::TpcSet;

/// One TPC of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpc {
    /// Its bit in a TPC mask, 0 to 127.
    pub bit: u8,
    /// Its GPC; `None` if it has no company in one.
    pub gpc: Option<u8>,
}

/// The TPCs of a GPU, at least one, each bit once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Tpc>", into = "Vec<Tpc>")]
pub struct Topology {
    /// In rising order of their bits.
    tpcs: Vec<Tpc>,
    /// The GPCs in rising order of their numbers, then each TPC without company. They are disjoint.
    groups: Vec<TpcSet>,
    all: TpcSet,
}

/// Why a list of TPCs is no topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// There is no TPC in it.
    Empty,
    /// A bit lies beyond the 128 of a TPC mask.
    BitTooLarge(u8),
    /// A bit is in it twice.
    BitTwice(u8),
}

/// How many TPCs of one GPC a cluster may need: a CTA may take a whole SM, and a TPC has two.
pub const fn tpcs_for_cluster(ctas: u32) -> u32 {
    let tpcs = ctas.div_ceil(2);
    if tpcs == 0 { 1 } else { tpcs }
}

impl Topology {
    /// Checks a list of TPCs.
    pub fn new(tpcs: impl IntoIterator<Item = Tpc>) -> Result<Self, TopologyError> {
        let mut tpcs: Vec<Tpc> = tpcs.into_iter().collect();
        tpcs.sort_by_key(|tpc| tpc.bit);
        let mut all = TpcSet::EMPTY;
        let mut gpcs = BTreeMap::<u8, TpcSet>::new();
        let mut alone = Vec::new();
        for tpc in &tpcs {
            if tpc.bit > 127 {
                return Err(TopologyError::BitTooLarge(tpc.bit));
            }
            if all.contains(tpc.bit) {
                return Err(TopologyError::BitTwice(tpc.bit));
            }
            all.insert(tpc.bit);
            match tpc.gpc {
                Some(gpc) => gpcs.entry(gpc).or_default().insert(tpc.bit),
                None => alone.push(TpcSet::single(tpc.bit)),
            }
        }
        if tpcs.is_empty() {
            return Err(TopologyError::Empty);
        }
        let groups = gpcs.into_values().chain(alone).collect();
        Ok(Self { tpcs, groups, all })
    }

    /// The TPCs in rising order of their bits.
    pub fn tpcs(&self) -> &[Tpc] {
        &self.tpcs
    }

    /// All TPCs.
    pub fn all(&self) -> TpcSet {
        self.all
    }

    /// How many TPCs there are.
    pub fn total(&self) -> u32 {
        self.all.len()
    }

    /// The GPCs, and each TPC without company as a group of one.
    pub fn groups(&self) -> &[TpcSet] {
        &self.groups
    }

    /// How many TPCs of a set are together in the group that has most of them.
    pub fn most_together(&self, set: TpcSet) -> u32 {
        let together = self.groups.iter().map(|&group| (group & set).len());
        together.max().unwrap_or(0)
    }

    /// Whether some group has at least `need` TPCs of a set.
    pub fn fits(&self, set: TpcSet, need: u32) -> bool {
        self.most_together(set) >= need
    }
}

impl TryFrom<Vec<Tpc>> for Topology {
    type Error = TopologyError;

    fn try_from(tpcs: Vec<Tpc>) -> Result<Self, TopologyError> {
        Self::new(tpcs)
    }
}

impl From<Topology> for Vec<Tpc> {
    fn from(topology: Topology) -> Self {
        topology.tpcs
    }
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a GPU has at least one TPC, this list has none"),
            Self::BitTooLarge(bit) => write!(f, "a TPC has a bit from 0 to 127, not {bit}"),
            Self::BitTwice(bit) => write!(f, "two TPCs have bit {bit}"),
        }
    }
}

impl std::error::Error for TopologyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tpc(bit: u8, gpc: Option<u8>) -> Tpc {
        Tpc { bit, gpc }
    }

    #[test]
    fn a_tpc_without_company_is_a_group_of_its_own() {
        let tpcs = [
            tpc(75, None),
            tpc(1, Some(0)),
            tpc(0, Some(0)),
            tpc(78, None),
        ];
        let topology = Topology::new(tpcs).unwrap();
        assert_eq!(topology.groups().len(), 3);
        assert_eq!(topology.total(), 4);
        assert!(topology.fits(topology.all(), 2));
        assert!(!topology.fits([75, 78].into_iter().collect(), 2));
    }

    #[test]
    fn a_list_that_is_no_gpu_is_an_error() {
        assert_eq!(Topology::new([]), Err(TopologyError::Empty));
        assert_eq!(
            Topology::new([tpc(128, None)]),
            Err(TopologyError::BitTooLarge(128))
        );
        assert_eq!(
            Topology::new([tpc(5, None), tpc(5, Some(1))]),
            Err(TopologyError::BitTwice(5))
        );
    }

    #[test]
    fn a_cluster_may_take_a_whole_sm_per_cta() {
        let tpcs: Vec<u32> = [0, 1, 2, 3, 4, 8, 16].map(tpcs_for_cluster).into();
        assert_eq!(tpcs, [1, 1, 1, 2, 2, 4, 8]);
    }

    #[test]
    fn a_topology_survives_json_and_a_wrong_one_does_not() {
        let topology = Topology::new([tpc(3, Some(1)), tpc(9, None)]).unwrap();
        let json = serde_json::to_string(&topology).unwrap();
        assert_eq!(serde_json::from_str::<Topology>(&json).unwrap(), topology);
        let error = serde_json::from_str::<Topology>("[]").unwrap_err();
        assert!(error.to_string().contains("at least one TPC"), "{error}");
    }
}
