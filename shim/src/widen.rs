// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sets of TPCs that a launch fits into.
//!
//! Most launches run on any set that is not empty. Two kinds do not, and starve for ever where
//! they do not fit: all blocks of a cooperative launch have to be resident at once, and all blocks
//! of a cluster, within one GPC. For them a grant is widened, as little as possible. Where it is not
//! known how many blocks of a launch an SM holds, it counts as one.

use lithos_abi::bindings::{LITHOS_GPC_ALONE, LITHOS_GPC_NONE};
use lithos_abi::grant::Terms;
use lithos_descriptor::TpcMask;

/// GPCs that are told apart; a GPU has 8.
const GPCS_MAX: usize = 16;

/// The TPCs of a GPU.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    /// Those that exist.
    pub(crate) present: TpcMask,
    /// The same by GPC; TPCs without company are in none.
    gpcs: [TpcMask; GPCS_MAX],
    /// SMs of a TPC; at least one.
    tpc_sms: u32,
}

/// What a launch needs beyond a TPC or so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Blocks of a cluster; 0 or 1 where there are none.
    pub(crate) cluster_blocks: u64,
    /// Blocks that have to be resident at once; 0 if the launch is not cooperative.
    pub(crate) resident_blocks: u64,
    /// Blocks that an SM holds; 0 if that is not known.
    pub(crate) blocks_per_sm: u32,
}

/// Why a launch got more than its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Widened {
    /// Its blocks have to be resident at once.
    Cooperative,
    /// A cluster has to fit into a GPC.
    Cluster,
}

impl Gpu {
    /// Takes the TPCs of a GPU from the terms of a channel.
    pub(crate) fn new(terms: &Terms) -> Self {
        let present = TpcMask::from_bits(terms.present);
        let mut names = Vec::new();
        let mut gpcs = [TpcMask::EMPTY; GPCS_MAX];
        for (tpc, gpc) in (0..).zip(terms.gpc) {
            let in_company = ![LITHOS_GPC_NONE, LITHOS_GPC_ALONE].contains(&u32::from(gpc));
            if !in_company || !present.contains(tpc) {
                continue;
            }
            let index = names
                .iter()
                .position(|name| *name == gpc)
                .unwrap_or_else(|| {
                    names.push(gpc);
                    names.len() - 1
                });
            // One GPC more than we know room for hosts no cluster, which is safe.
            if let Some(gpc) = gpcs.get_mut(index) {
                gpc.insert(tpc);
            }
        }
        Self {
            present,
            gpcs,
            tpc_sms: terms.tpc_sms.max(1),
        }
    }

    /// Returns the smallest set within `available` that contains what is granted and available, and
    /// that the launch fits into, and whether it is wider than the grant. If it fits into nothing
    /// that is available, that is what it gets: the driver has to know. An empty set means that nothing
    /// granted is available.
    pub(crate) fn fit(
        &self,
        granted: TpcMask,
        available: TpcMask,
        need: Need,
    ) -> (TpcMask, Option<Widened>) {
        let available = available & self.present;
        let set = granted & available;
        if need.cluster_blocks <= 1 && need.resident_blocks == 0 || set.is_empty() {
            return (set, None);
        }
        self.widen(set, available, need)
    }

    /// The rare half of [`fit`](Self::fit).
    fn widen(&self, set: TpcMask, available: TpcMask, need: Need) -> (TpcMask, Option<Widened>) {
        let mut wide = set;
        let mut why = None;
        let cluster_tpcs = tpcs(need.cluster_blocks, self.tpc_sms.into());
        if cluster_tpcs > 1 && self.clusters(wide, cluster_tpcs) == 0 {
            wide = self.with_room_for_a_cluster(wide, available, cluster_tpcs);
            why = (wide != set).then_some(Widened::Cluster);
        }
        if need.resident_blocks > 0 {
            let blocks_per_sm = u64::from(need.blocks_per_sm.max(1));
            let fits = |set: TpcMask| {
                if cluster_tpcs > 1 {
                    let clusters = need.resident_blocks.div_ceil(need.cluster_blocks);
                    self.clusters(set, cluster_tpcs) * blocks_per_sm >= clusters
                } else {
                    let held = u64::from(set.count()) * u64::from(self.tpc_sms) * blocks_per_sm;
                    held >= need.resident_blocks
                }
            };
            // TPC by TPC: cooperative launches are rare, and clusters make it no simple division.
            let mut more = (available - wide).iter();
            while !fits(wide) {
                let Some(tpc) = more.next() else { break };
                wide.insert(tpc);
                why = Some(Widened::Cooperative);
            }
        }
        (wide, why)
    }

    /// Returns how many clusters of so many TPCs a set hosts at once.
    fn clusters(&self, set: TpcMask, cluster_tpcs: u64) -> u64 {
        let hosts = |gpc: &TpcMask| u64::from((*gpc & set).count()) / cluster_tpcs;
        self.gpcs.iter().map(hosts).sum()
    }

    /// Adds TPCs of the GPC that already has most of the set, among those with enough of them.
    fn with_room_for_a_cluster(
        &self,
        set: TpcMask,
        available: TpcMask,
        cluster_tpcs: u64,
    ) -> TpcMask {
        let large_enough = |gpc: &&TpcMask| u64::from((**gpc & available).count()) >= cluster_tpcs;
        let best = self
            .gpcs
            .iter()
            .filter(large_enough)
            // The last of equals wins `max_by_key`; the first is wanted.
            .rev()
            .max_by_key(|gpc| (**gpc & set).count());
        let Some(gpc) = best else {
            return available;
        };
        let has = u64::from((*gpc & set).count());
        let missing = u32::try_from(cluster_tpcs - has).unwrap_or(TpcMask::BITS);
        set | ((*gpc & available) - set).lowest(missing)
    }
}

/// TPCs that hold so many blocks, one an SM.
fn tpcs(blocks: u64, tpc_sms: u64) -> u64 {
    blocks.div_ceil(tpc_sms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lithos_abi::arena::Counts;
    use proptest::prelude::*;

    /// Two GPCs of 4 and 6 TPCs with holes between them, and two TPCs alone.
    fn gpu() -> Gpu {
        let mut gpc = [u8::MAX; 128];
        gpc[..4].fill(3);
        gpc[9..15].fill(5);
        gpc[75] = 0xfe;
        gpc[78] = 0xfe;
        let present: TpcMask = "0-3,9-14,75,78".parse().expect("a list");
        Gpu::new(&Terms {
            present: present.bits(),
            gpc,
            ..Terms::sized(Counts::default())
        })
    }

    fn mask(text: &str) -> TpcMask {
        text.parse().expect("a list")
    }

    fn cluster(blocks: u64) -> Need {
        Need {
            cluster_blocks: blocks,
            ..Default::default()
        }
    }

    fn resident(blocks: u64, blocks_per_sm: u32) -> Need {
        Need {
            resident_blocks: blocks,
            blocks_per_sm,
            ..Default::default()
        }
    }

    #[test]
    fn a_plain_launch_gets_its_grant() {
        let granted = mask("2-3,9,75");
        let fitted = gpu().fit(granted, TpcMask::ALL, Need::default());
        assert_eq!(fitted, (granted, None));
    }

    #[test]
    fn tpcs_that_do_not_exist_or_that_the_driver_took_away_are_not_given() {
        let fitted = gpu().fit(mask("0-8,127"), mask("1-127"), Need::default());
        assert_eq!(fitted, (mask("1-3"), None));
        let nothing = gpu().fit(mask("0-3"), mask("9-14"), Need::default());
        assert_eq!(nothing, (TpcMask::EMPTY, None));
    }

    #[test]
    fn a_cluster_that_fits_widens_nothing() {
        for (granted, blocks) in [("9-10", 4), ("75", 2), ("0,9", 1), ("0-3", 8), ("0,9", 2)] {
            let fitted = gpu().fit(mask(granted), TpcMask::ALL, cluster(blocks));
            assert_eq!(fitted, (mask(granted), None), "{granted} {blocks}");
        }
    }

    #[test]
    fn a_cluster_gets_more_of_the_gpc_that_has_most_of_the_grant() {
        let fitted = gpu().fit(mask("0,9-10,75"), TpcMask::ALL, cluster(8));
        assert_eq!(fitted, (mask("0,9-12,75"), Some(Widened::Cluster)));
        let fitted = gpu().fit(mask("0-2,9-10"), TpcMask::ALL, cluster(8));
        assert_eq!(fitted, (mask("0-3,9-10"), Some(Widened::Cluster)));
    }

    #[test]
    fn a_cluster_goes_to_a_gpc_that_is_large_enough() {
        let fitted = gpu().fit(mask("0-3,9"), TpcMask::ALL, cluster(12));
        assert_eq!(fitted, (mask("0-3,9-14"), Some(Widened::Cluster)));
        let without_14 = TpcMask::ALL - mask("14");
        let fitted = gpu().fit(mask("0-3,9"), without_14, cluster(12));
        assert_eq!(
            fitted,
            (mask("0-3,9-13,75,78"), Some(Widened::Cluster)),
            "it fits nowhere: all that there is"
        );
    }

    #[test]
    fn a_cooperative_launch_gets_as_many_tpcs_as_its_blocks_need() {
        let granted = mask("9-10");
        let fit = |need| gpu().fit(granted, TpcMask::ALL, need);
        assert_eq!(fit(resident(4, 0)), (granted, None));
        assert_eq!(fit(resident(32, 8)), (granted, None));
        let widened = Some(Widened::Cooperative);
        assert_eq!(fit(resident(5, 1)), (mask("0,9-10"), widened));
        assert_eq!(fit(resident(33, 8)), (mask("0,9-10"), widened));
        assert_eq!(fit(resident(1000, 1)), (gpu().present, widened));
    }

    #[test]
    fn cooperative_clusters_need_room_for_all_of_them() {
        let need = Need {
            cluster_blocks: 4,
            resident_blocks: 12,
            blocks_per_sm: 1,
        };
        // Three clusters of two TPCs each: one fits into 9-10, one into 0-1, one more into 2-3.
        let fitted = gpu().fit(mask("9-10"), TpcMask::ALL, need);
        assert_eq!(fitted, (mask("0-3,9-10"), Some(Widened::Cooperative)));
        let fitted = gpu().fit(mask("9-14"), TpcMask::ALL, need);
        assert_eq!(fitted, (mask("9-14"), None));
    }

    #[test]
    fn a_gpc_too_many_hosts_no_cluster() {
        let gpu = Gpu::new(&Terms {
            present: [u64::MAX; 2],
            gpc: std::array::from_fn(|tpc| u8::try_from(tpc / 4).expect("32 GPCs")),
            ..Terms::sized(Counts::default())
        });
        let last = mask("124-127");
        let (fitted, why) = gpu.fit(last, TpcMask::ALL, cluster(8));
        assert!(last.is_subset(fitted) && why == Some(Widened::Cluster));
    }

    proptest! {
        #[test]
        fn what_is_fitted_contains_the_grant_and_is_available(
            granted in any::<[u64; 2]>(),
            available in any::<[u64; 2]>(),
            cluster_blocks in 0u64..20,
            resident_blocks in 0u64..60,
            blocks_per_sm in 0u32..4,
        ) {
            let gpu = gpu();
            let (granted, available) = (TpcMask::from_bits(granted), TpcMask::from_bits(available));
            let need = Need { cluster_blocks, resident_blocks, blocks_per_sm };
            let (fitted, why) = gpu.fit(granted, available, need);
            let usable = available & gpu.present;
            prop_assert!(fitted.is_subset(usable));
            prop_assert_eq!(fitted.is_empty(), (granted & usable).is_empty());
            prop_assert!((granted & usable).is_subset(fitted) || fitted.is_empty());
            prop_assert_eq!(why.is_none(), fitted == granted & usable || fitted.is_empty());
            // Fitting is idempotent: what fits is not widened again.
            let (again, _) = gpu.fit(fitted, available, need);
            prop_assert_eq!(again, fitted);
        }
    }
}
