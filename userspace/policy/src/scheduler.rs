// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The scheduler: takes in events, refuses what cannot be, and settles the GPUs that are touched.
//!
//! Admission is one inequality per GPU: the TPCs that partitions are sure of (their guarantees, and
//! one for each without a guarantee whose channels run) are never more than the GPU has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::{Command, Grant, Request};
use crate::event::{Event, Left};
use crate::gpu::{Channel, Gpu};
use crate::id::{ChannelId, GpuId, Nanos, Revision, TenantId};
use crate::partition::{PartitionName, PartitionSpec};
use crate::refusal::Refusal;
use crate::topology::Topology;
use crate::tpc::TpcSet;

/// The most partitions that there may be.
pub const MAX_PARTITIONS: usize = 256;

/// What can be set about a scheduler, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long launches of a process that has died may still be running.
    pub linger: Nanos,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Nanos::from_secs(1),
        }
    }
}

/// Who gets what.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    settings: Settings,
    now: Nanos,
    pub(crate) gpus: BTreeMap<GpuId, Gpu>,
    pub(crate) partitions: BTreeMap<PartitionName, PartitionSpec>,
    pub(crate) tenants: BTreeMap<TenantId, PartitionName>,
    /// Where each open channel is.
    pub(crate) channels: BTreeMap<ChannelId, GpuId>,
}

/// What an event comes to: the GPUs that it touches, or why it is refused.
type Outcome = Result<BTreeSet<GpuId>, Refusal>;

impl Scheduler {
    /// A scheduler without GPUs and partitions.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes in one event and appends the commands that follow from it, at most two for each open
    /// channel and one answer. A time before that of an earlier event counts as that earlier time.
    pub fn step(&mut self, now: Nanos, event: Event, out: &mut VecDeque<Command>) {
        self.now = self.now.max(now);
        let mut touched: BTreeSet<GpuId> = (self.gpus.iter_mut())
            .filter_map(|(&id, gpu)| gpu.expire(self.now).then_some(id))
            .collect();
        let (request, outcome) = self.take_in(event);
        match outcome {
            Ok(gpus) => {
                touched.extend(gpus);
                out.extend(request.filter(is_answered).map(Command::Accepted));
            }
            Err(why) => out.extend(request.map(|what| Command::Refuse { what, why })),
        }
        for id in touched {
            if let Some(gpu) = self.gpus.get_mut(&id) {
                let specs = self.partitions.values().filter(|spec| spec.is_on(id));
                gpu.settle(self.now, specs, out);
            }
        }
    }

    /// When to come back with [`Event::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.gpus.values().filter_map(Gpu::next_deadline).min()
    }

    fn take_in(&mut self, event: Event) -> (Option<Request>, Outcome) {
        let (request, outcome) = match event {
            Event::GpuAdded { gpu, topology } => {
                (Request::GpuAdded(gpu), self.add_gpu(gpu, topology))
            }
            Event::Inherited {
                gpu,
                held,
                channels,
            } => (Request::Inherited(gpu), self.inherit(gpu, &held, &channels)),
            Event::PartitionSet(spec) => (
                Request::PartitionSet(spec.name.clone()),
                self.set_partition(spec),
            ),
            Event::PartitionDeleted(name) => {
                let outcome = self.delete_partition(&name);
                (Request::PartitionDeleted(name), outcome)
            }
            Event::TenantAttached { tenant, partition } => (
                Request::TenantAttached(tenant),
                self.attach_tenant(tenant, partition),
            ),
            Event::TenantGone { tenant } => {
                (Request::TenantGone(tenant), self.forget_tenant(tenant))
            }
            Event::ChannelOpened {
                channel,
                tenant,
                gpu,
            } => (
                Request::ChannelOpened(channel),
                self.open_channel(channel, tenant, gpu),
            ),
            Event::ChannelClosed {
                channel,
                outstanding,
            } => (
                Request::ChannelClosed(channel),
                self.close_channel(channel, outstanding),
            ),
            Event::ClusterSeen { channel, ctas } => (
                Request::ClusterSeen(channel),
                self.see_cluster(channel, ctas),
            ),
            Event::Drained { channel, revision } => (
                Request::Drained(channel),
                self.take_drain(channel, revision),
            ),
            Event::Tick => return (None, Ok(BTreeSet::new())),
        };
        (Some(request), outcome)
    }

    fn add_gpu(&mut self, id: GpuId, topology: Topology) -> Outcome {
        if self.gpus.contains_key(&id) {
            return Err(Refusal::GpuExists { gpu: id });
        }
        let on_it = self.partitions.values().filter(|spec| spec.is_on(id));
        let guaranteed = on_it.fold(0_u32, |sum, spec| sum.saturating_add(spec.guarantee));
        let total = topology.total();
        if guaranteed > total {
            return Err(Refusal::GpuTooSmall {
                gpu: id,
                guaranteed,
                total,
            });
        }
        self.gpus.insert(id, Gpu::new(topology));
        Ok([id].into())
    }

    fn inherit(
        &mut self,
        id: GpuId,
        held: &[(PartitionName, TpcSet)],
        channels: &[Left],
    ) -> Outcome {
        let until = self.now.after(self.settings.linger);
        let Some(gpu) = self.gpus.get_mut(&id) else {
            return Err(Refusal::UnknownGpu { gpu: id });
        };
        if !gpu.channels.is_empty() {
            return Err(Refusal::InUse { gpu: id });
        }
        let mut free = gpu.topology.all();
        for (_, tpcs) in held {
            if let Some(bit) = (*tpcs - free).first() {
                return Err(Refusal::HeldTpc { gpu: id, bit });
            }
            free -= *tpcs;
        }
        let mut left = Vec::new();
        for &Left {
            channel,
            tenant,
            cluster_ctas,
            lent,
        } in channels
        {
            let Some(partition) = self.tenants.get(&tenant).cloned() else {
                return Err(Refusal::UnknownTenant { tenant });
            };
            let spec = self.partitions.get(&partition);
            let Some(spec) = spec.filter(|spec| spec.is_on(id)) else {
                return Err(Refusal::UnknownPartition { partition });
            };
            if self.channels.contains_key(&channel) {
                return Err(Refusal::ChannelExists { channel });
            }
            let tpcs = held.iter().find(|(name, _)| *name == partition);
            let grant = tpcs.map(|&(_, tpcs)| Grant {
                channel,
                revision: Revision(1),
                tpcs,
                lent: (lent & (gpu.topology.all() - free)) - tpcs,
                oversize: spec.oversize,
            });
            let opened = Channel {
                tenant,
                partition,
                cluster_ctas: cluster_ctas.max(1),
                grant: grant.filter(|grant| !grant.tpcs.is_empty()),
            };
            left.push((channel, opened));
        }
        self.channels
            .extend(left.iter().map(|&(channel, _)| (channel, id)));
        gpu.inherit(held, left, until);
        Ok([id].into())
    }

    fn set_partition(&mut self, spec: PartitionSpec) -> Outcome {
        let old = self.partitions.get(&spec.name);
        if old == Some(&spec) {
            return Ok(BTreeSet::new());
        }
        if old.is_none() && self.partitions.len() >= MAX_PARTITIONS {
            return Err(Refusal::TooManyPartitions {
                limit: MAX_PARTITIONS,
            });
        }
        if spec.weight == 0 {
            return Err(Refusal::WeightZero);
        }
        let ceiling = spec.ceiling();
        if ceiling == 0 {
            return Err(Refusal::CeilingZero);
        }
        if ceiling < spec.guarantee {
            return Err(Refusal::CeilingBelowGuarantee {
                guarantee: spec.guarantee,
                ceiling,
            });
        }
        for &gpu in spec.gpus.iter().flatten() {
            if !self.gpus.contains_key(&gpu) {
                return Err(Refusal::UnknownGpu { gpu });
            }
        }
        if spec.gpus.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(Refusal::NoGpu);
        }
        for (&id, gpu) in &self.gpus {
            if spec.is_on(id) {
                self.admit(&spec, id, gpu)?;
            } else {
                let channels = gpu.channels_of(&spec.name).count();
                if channels > 0 {
                    return Err(Refusal::ChannelsOnGpu { gpu: id, channels });
                }
            }
        }
        self.partitions.insert(spec.name.clone(), spec);
        Ok(self.gpus.keys().copied().collect())
    }

    /// Checks that a partition fits on a GPU beside what the others are sure of.
    fn admit(&self, spec: &PartitionSpec, id: GpuId, gpu: &Gpu) -> Result<(), Refusal> {
        let mut free = gpu.topology.total();
        let mut kept = 0;
        for other in self.partitions.values() {
            if other.name != spec.name && other.is_on(id) {
                let firm = gpu.stake(other).firm();
                free = free.saturating_sub(firm);
                kept += firm - other.guarantee;
            }
        }
        let asked = gpu.stake(spec).firm();
        if asked <= free {
            return Ok(());
        }
        Err(Refusal::NoRoom {
            gpu: id,
            asked,
            free,
            total: gpu.topology.total(),
            kept,
        })
    }

    fn delete_partition(&mut self, name: &PartitionName) -> Outcome {
        if !self.partitions.contains_key(name) {
            return Err(Refusal::UnknownPartition {
                partition: name.clone(),
            });
        }
        let tenants = self.tenants.values().filter(|p| *p == name).count();
        if tenants > 0 {
            return Err(Refusal::HasTenants { tenants });
        }
        self.partitions.remove(name);
        Ok(self.gpus.keys().copied().collect())
    }

    fn attach_tenant(&mut self, tenant: TenantId, partition: PartitionName) -> Outcome {
        if let Some(partition) = self.tenants.get(&tenant).cloned() {
            return Err(Refusal::TenantExists { tenant, partition });
        }
        if !self.partitions.contains_key(&partition) {
            return Err(Refusal::UnknownPartition { partition });
        }
        self.tenants.insert(tenant, partition);
        Ok(BTreeSet::new())
    }

    fn forget_tenant(&mut self, tenant: TenantId) -> Outcome {
        if self.tenants.remove(&tenant).is_none() {
            return Err(Refusal::UnknownTenant { tenant });
        }
        let mut touched = BTreeSet::new();
        let until = self.now.after(self.settings.linger);
        for (&id, gpu) in &mut self.gpus {
            let channels = gpu.channels.iter();
            let left: Vec<ChannelId> = channels
                .filter_map(|(&id, channel)| (channel.tenant == tenant).then_some(id))
                .collect();
            for channel in left {
                gpu.close(channel, Some(until));
                self.channels.remove(&channel);
                touched.insert(id);
            }
        }
        Ok(touched)
    }

    fn open_channel(&mut self, channel: ChannelId, tenant: TenantId, gpu: GpuId) -> Outcome {
        if self.channels.contains_key(&channel) {
            return Err(Refusal::ChannelExists { channel });
        }
        let Some(partition) = self.tenants.get(&tenant).cloned() else {
            return Err(Refusal::UnknownTenant { tenant });
        };
        let spec = self.partitions.get(&partition);
        let is_on = |id: GpuId| spec.is_some_and(|spec| spec.is_on(id));
        let exists_on = self.gpus.keys().copied().filter(|&id| is_on(id)).collect();
        let Some(state) = self.gpus.get_mut(&gpu) else {
            return Err(Refusal::UnknownGpu { gpu });
        };
        if !is_on(gpu) {
            return Err(Refusal::NotOnGpu {
                partition,
                gpu,
                exists_on,
            });
        }
        let opened = Channel {
            tenant,
            partition,
            cluster_ctas: 1,
            grant: None,
        };
        state.channels.insert(channel, opened);
        self.channels.insert(channel, gpu);
        Ok([gpu].into())
    }

    fn close_channel(&mut self, channel: ChannelId, outstanding: bool) -> Outcome {
        let until = self.now.after(self.settings.linger);
        let (id, gpu) = self.gpu_of(channel)?;
        gpu.close(channel, outstanding.then_some(until));
        self.channels.remove(&channel);
        Ok([id].into())
    }

    fn see_cluster(&mut self, channel: ChannelId, ctas: u32) -> Outcome {
        let (id, gpu) = self.gpu_of(channel)?;
        match gpu.channels.get_mut(&channel) {
            Some(state) if state.cluster_ctas < ctas => {
                state.cluster_ctas = ctas;
                Ok([id].into())
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    fn take_drain(&mut self, channel: ChannelId, reported: Revision) -> Outcome {
        // A channel may close while its report is on its way.
        let Ok((id, gpu)) = self.gpu_of(channel) else {
            return Ok(BTreeSet::new());
        };
        let grant = gpu.channels.get(&channel).and_then(|state| state.grant);
        let granted = grant.map_or(Revision(0), |grant| grant.revision);
        if reported > granted {
            return Err(Refusal::RevisionAhead {
                channel,
                reported,
                granted,
            });
        }
        gpu.drained(channel, reported);
        Ok([id].into())
    }

    fn gpu_of(&mut self, channel: ChannelId) -> Result<(GpuId, &mut Gpu), Refusal> {
        let unknown = Refusal::UnknownChannel { channel };
        let Some(&id) = self.channels.get(&channel) else {
            return Err(unknown);
        };
        let gpu = self.gpus.get_mut(&id).ok_or(unknown)?;
        Ok((id, gpu))
    }
}

/// Whether someone waits for the answer to a request, so that it gets one when it is granted, too.
fn is_answered(request: &Request) -> bool {
    match request {
        Request::GpuAdded(_)
        | Request::Inherited(_)
        | Request::PartitionSet(_)
        | Request::PartitionDeleted(_)
        | Request::TenantAttached(_)
        | Request::ChannelOpened(_) => true,
        Request::TenantGone(_)
        | Request::ChannelClosed(_)
        | Request::ClusterSeen(_)
        | Request::Drained(_) => false,
    }
}
