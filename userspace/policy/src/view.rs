// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What can be seen of a scheduler: plain data for status pages, and for tests.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::command::Grant;
use crate::gpu::{Gpu, Slot};
use crate::id::{ChannelId, GpuId, Nanos, TenantId};
use crate::partition::{PartitionName, PartitionSpec};
use crate::scheduler::Scheduler;
use crate::tpc::TpcSet;

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuView {
    /// Its id.
    pub gpu: GpuId,
    /// How many TPCs no guarantee reserves.
    pub pool: u32,
    /// Its TPCs in rising order of their bits.
    pub tpcs: Vec<TpcView>,
}

/// A TPC of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TpcView {
    /// Its bit in a TPC mask.
    pub bit: u8,
    /// Its GPC, if it has company there.
    pub gpc: Option<u8>,
    /// Who has it.
    #[serde(flatten)]
    pub state: TpcState,
}

/// Who has a TPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum TpcState {
    /// Nobody.
    Free,
    /// Nobody uses it, and it is kept for a partition: one without channels, or one that will take
    /// it together with others that are still in transit.
    Reserved {
        /// The partition.
        partition: PartitionName,
    },
    /// The channels of a partition may use it.
    Owned {
        /// The partition.
        partition: PartitionName,
    },
    /// No launch may use it any more, but some that were submitted before may still run on it.
    InTransit {
        /// The partition whose launches these are.
        from: PartitionName,
        /// The partition that gets it; `None` if it goes back to the pool.
        to: Option<PartitionName>,
        /// Since when.
        since: Nanos,
        /// The channels whose launches are awaited.
        awaiting: Vec<ChannelId>,
        /// If a channel died with launches outstanding: when they are taken to have ended.
        linger_until: Option<Nanos>,
    },
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionView {
    /// What its operator wants.
    pub spec: PartitionSpec,
    /// Its tenants.
    pub tenants: Vec<TenantId>,
    /// What it has on each of its GPUs.
    pub shares: Vec<ShareView>,
}

/// What a partition has on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShareView {
    /// The GPU.
    pub gpu: GpuId,
    /// How many TPCs it should have; without channels, how many are reserved for it.
    pub size: u32,
    /// Which TPCs these are.
    pub planned: TpcSet,
    /// Which TPCs its channels may use now; none without channels.
    pub owned: TpcSet,
    /// Its channels on this GPU.
    pub channels: Vec<ChannelId>,
    /// How many TPCs of one GPC its largest cluster needs.
    pub cluster_tpcs: u32,
    /// Whether what it owns has no room for that cluster: it has too few TPCs, or they are still on
    /// their way, or neighbours that launch clusters, too, leave no place.
    pub cluster_short: bool,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelView {
    /// Its id.
    pub channel: ChannelId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The partition of its tenant.
    pub partition: PartitionName,
    /// Where it is.
    pub gpu: GpuId,
    /// CTAs of the largest cluster seen; 1 if none was.
    pub cluster_ctas: u32,
    /// Its grant. A channel without one is *pending*: its partition has no TPC here yet.
    pub grant: Option<Grant>,
}

impl Scheduler {
    /// The GPUs in rising order of their ids.
    pub fn gpus(&self) -> impl Iterator<Item = GpuView> {
        self.gpus.iter().map(|(&id, gpu)| {
            let specs = self.partitions.values().filter(|spec| spec.is_on(id));
            let guaranteed: u32 = specs.map(|spec| spec.guarantee).sum();
            let tpcs = gpu.topology.tpcs().iter().map(|tpc| TpcView {
                bit: tpc.bit,
                gpc: tpc.gpc,
                state: gpu.tpc_state(tpc.bit),
            });
            GpuView {
                gpu: id,
                pool: gpu.topology.total().saturating_sub(guaranteed),
                tpcs: tpcs.collect(),
            }
        })
    }

    /// The partitions in the order of their names.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionView> {
        self.partitions.values().map(|spec| {
            let tenants = self.tenants.iter();
            let tenants = tenants.filter(|(_, partition)| **partition == spec.name);
            let gpus = self.gpus.iter();
            PartitionView {
                spec: spec.clone(),
                tenants: tenants.map(|(&tenant, _)| tenant).collect(),
                shares: gpus
                    .filter_map(|(&id, gpu)| gpu.share_view(id, &spec.name))
                    .collect(),
            }
        })
    }

    /// Whose launches may be running on which TPCs of a GPU: what [`crate::Event::Inherited`] takes.
    pub fn held(&self, gpu: GpuId) -> Vec<(PartitionName, TpcSet)> {
        let mut held = BTreeMap::<PartitionName, TpcSet>::new();
        for (&bit, slot) in self.gpus.get(&gpu).iter().flat_map(|gpu| &gpu.slots) {
            if let Some(user) = &slot.user {
                held.entry(user.clone()).or_default().insert(bit);
            }
        }
        held.into_iter().collect()
    }

    /// The channels, GPU by GPU, in rising order of their ids.
    pub fn channels(&self) -> impl Iterator<Item = ChannelView> {
        self.gpus.iter().flat_map(|(&gpu, state)| {
            state
                .channels
                .iter()
                .map(move |(&id, channel)| ChannelView {
                    channel: id,
                    tenant: channel.tenant,
                    partition: channel.partition.clone(),
                    gpu,
                    cluster_ctas: channel.cluster_ctas,
                    grant: channel.grant,
                })
        })
    }

    /// One channel.
    pub fn channel(&self, channel: ChannelId) -> Option<ChannelView> {
        self.channels().find(|view| view.channel == channel)
    }

    /// One partition.
    pub fn partition(&self, name: &PartitionName) -> Option<PartitionView> {
        self.partitions().find(|view| view.spec.name == *name)
    }
}

impl Gpu {
    fn tpc_state(&self, bit: u8) -> TpcState {
        let planned = self.shares.iter().find(|(_, s)| s.planned.contains(bit));
        let planned = planned.map(|(name, _)| name.clone());
        match self.slots.get(&bit) {
            Some(Slot {
                user: Some(user),
                since,
                awaiting,
                linger_until,
            }) => {
                let share = self.shares.get(user);
                if share.is_some_and(|share| share.owned.contains(bit)) {
                    return TpcState::Owned {
                        partition: user.clone(),
                    };
                }
                // Its partition has no channels, and it is lent.
                if planned.as_ref() == Some(user) && awaiting.is_empty() && linger_until.is_none() {
                    return TpcState::Reserved {
                        partition: user.clone(),
                    };
                }
                TpcState::InTransit {
                    from: user.clone(),
                    to: planned,
                    since: *since,
                    awaiting: awaiting.keys().copied().collect(),
                    linger_until: *linger_until,
                }
            }
            _ => planned.map_or(TpcState::Free, |partition| TpcState::Reserved { partition }),
        }
    }

    fn share_view(&self, gpu: GpuId, name: &PartitionName) -> Option<ShareView> {
        let share = self.shares.get(name)?;
        let channels: Vec<ChannelId> = self.channels_of(name).map(|(id, _)| id).collect();
        let need = self.need(name);
        let short = !share.owned.is_empty() && !self.topology.fits(share.owned, need);
        Some(ShareView {
            gpu,
            size: share.size,
            planned: share.planned,
            owned: share.owned,
            channels,
            cluster_tpcs: need,
            cluster_short: short,
        })
    }
}
