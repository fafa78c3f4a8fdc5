// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A daemon takes over the tenants of the one before it, however that ended.
//!
//! ```text
//!   in the estate -----> left ---handed over---> handed over ---confirmed---> taken over
//!                         |   (ring and arena)    (new page)   (old page out of use)
//!                         +--- its process ends: the TPCs linger, and pass on
//! ```
//!
//! What the daemon before left is told to the policy before anybody else comes: each partition holds
//! all TPCs that its launches may be running on, and its channels have them as their grants. So
//! nobody else gets one of them while a process has not come back, be it stopped, slow or broken, for
//! it may still launch by its old grant page. From a channel that is taken over TPCs pass on like from any
//! other: its ring tells what was launched before.
//!
//! What a process hands over is a stranger's: files are looked at before they are mapped, and what a
//! process says about its launches costs nobody but itself and its partition.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use lithos_abi::arena::Counts;
use lithos_abi::grant::Terms;
use lithos_device::Identity;
use lithos_device::pages::{self, Pages, PagesError};
use lithos_policy::{
    ChannelId, Event, GpuId, Nanos, Oversize, PartitionName, Revision, TenantId, TpcSet,
};

use crate::broker::{Arrival, Broker, BrokerKind, Channel, Process, Refused, Tenant};
use crate::estate::{Estate, Held, LeftChannel, LeftTenant, Will};
use crate::grant::terms;
use crate::ledger::Ledger;

/// A channel of a daemon before, which was not handed over yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    gpu: GpuId,
    context: u64,
    oversize: Oversize,
    counts: Counts,
    /// The TPCs that its launches may be running on.
    held: TpcSet,
    /// A drain is to be awaited once it is taken over.
    awaits: bool,
}

impl Broker {
    /// Tells the policy what the daemon before has left. What does not fit any more, because a GPU or a
    /// partition is gone, keeps only itself out.
    pub(crate) fn inherit(&mut self, estate: Estate, now: Nanos) {
        self.last_channel = estate.last_channel;
        let gpus: Vec<(String, GpuId, TpcSet)> = (self.gpus.iter())
            .map(|gpu| {
                (
                    gpu.board.uuid.clone(),
                    GpuId(gpu.index),
                    gpu.board.tpcs.all(),
                )
            })
            .collect();
        let find = |uuid: &str| gpus.iter().find(|(known, ..)| known == uuid);
        let mut held = BTreeMap::<GpuId, BTreeMap<PartitionName, TpcSet>>::new();
        let mut taken = BTreeMap::<GpuId, TpcSet>::new();
        for kept in &estate.held {
            if let (Some(&(_, gpu, all)), Ok(partition)) = (find(&kept.gpu), kept.partition.parse())
            {
                let taken = taken.entry(gpu).or_default();
                let tpcs = (kept.tpcs & all) - *taken;
                *taken |= tpcs;
                held.entry(gpu).or_default().insert(partition, tpcs);
            }
        }
        let mut channels = BTreeMap::<GpuId, Vec<lithos_policy::Left>>::new();
        for left in estate.tenants {
            let tenant = TenantId(left.tenant);
            self.last_tenant = self.last_tenant.max(tenant.0);
            let Ok(name) = left.partition.parse::<PartitionName>() else {
                continue;
            };
            let event = Event::TenantAttached {
                tenant,
                partition: name.clone(),
            };
            if let Err(why) = self.step(now, event) {
                let pid = left.process.pid;
                let problem = format!("process {pid} is not taken over, restart it: {why}");
                self.problems.push(problem);
                continue;
            }
            let mut own = BTreeMap::new();
            for channel in left.channels {
                let on_gpu = find(&channel.gpu).map(|&(_, gpu, _)| gpu).filter(|&gpu| {
                    let view = self.scheduler.partition(&name);
                    view.is_some_and(|view| view.spec.is_on(gpu))
                });
                let tpcs = on_gpu.and_then(|gpu| held.get(&gpu)?.get(&name).copied());
                let (Some(gpu), Some(tpcs)) = (on_gpu, tpcs) else {
                    continue;
                };
                let id = ChannelId(channel.channel);
                channels.entry(gpu).or_default().push(lithos_policy::Left {
                    channel: id,
                    tenant,
                    cluster_ctas: channel.cluster_ctas,
                    lent: channel.lent,
                });
                let state = Left {
                    gpu,
                    context: channel.context,
                    oversize: channel.oversize,
                    counts: channel.counts,
                    held: tpcs | channel.lent,
                    awaits: false,
                };
                own.insert(id, state);
            }
            let state = Tenant {
                broker: left.broker,
                process: left.process,
                identity: Identity {
                    edits: left.edits,
                    driver: left.driver.try_into().unwrap_or_default(),
                },
                partition: left.partition,
                channels: BTreeSet::new(),
                left: own,
                is_absent: true,
            };
            self.tenants.insert(tenant, state);
        }
        for (gpu, held) in held {
            let event = Event::Inherited {
                gpu,
                held: held.into_iter().collect(),
                channels: channels.remove(&gpu).unwrap_or_default(),
            };
            self.step_quietly(now, event);
        }
    }

    /// Makes a process again the tenant that it was under the daemon before.
    pub fn resume(
        &mut self,
        process: Process,
        tenant: u64,
        partition: &str,
    ) -> Result<(TenantId, u32), Refused> {
        let id = TenantId(tenant);
        let known = self.partitions.find(partition);
        let known = known.map(|known| self.attached_flags(known));
        let state = self.tenants.get_mut(&id).filter(|state| {
            state.is_absent
                && state.broker == BrokerKind::Embedded
                && state.is_process(process)
                && state.partition == partition
        });
        let (Some(state), Some(flags)) = (state, known) else {
            let text = format!(
                "this process was not tenant {tenant} of {partition:?} when the daemon before ended"
            );
            return Err(Refused::new(libc::ENOENT, text));
        };
        state.is_absent = false;
        state.process = process;
        tracing::info!(tenant, pid = process.pid, partition, "tenant is back");
        Ok((id, flags))
    }

    /// Takes in a channel of the daemon before, and makes the grant page that its tenant is to follow.
    pub fn resume_channel(
        &mut self,
        tenant: TenantId,
        channel: u64,
        handed_over: [OwnedFd; 2],
        now: Nanos,
    ) -> Result<ChannelId, Refused> {
        let id = ChannelId(channel);
        // No daemon before had more grants than nanoseconds.
        let last = now.0;
        let make = |terms: &Terms| pages::adopt(terms, handed_over, last);
        self.take_in_left(tenant, id, make, false, now)?;
        Ok(id)
    }

    /// Takes in a channel of the daemon before whose grant page this daemon goes on with: it is taken
    /// over at once, because its tenant follows what is written there.
    pub(crate) fn adopt_channel(
        &mut self,
        tenant: TenantId,
        id: ChannelId,
        make: impl FnOnce(&Terms) -> Result<Pages, PagesError>,
        now: Nanos,
    ) -> Result<(), Refused> {
        let awaits = self.take_in_left(tenant, id, make, true, now)?;
        let grant = self.scheduler.channel(id).and_then(|view| view.grant);
        if let (true, Some(grant)) = (awaits, grant) {
            self.await_drain(id, grant.revision);
        }
        self.next_poll = Some(now);
        Ok(())
    }

    /// Takes in a channel of the daemon before, and publishes what it has now. Returns whether a drain is
    /// to be awaited. `follows`: whether its launches follow the page that `make` maps already.
    fn take_in_left(
        &mut self,
        tenant: TenantId,
        id: ChannelId,
        make: impl FnOnce(&Terms) -> Result<Pages, PagesError>,
        follows: bool,
        now: Nanos,
    ) -> Result<bool, Refused> {
        let state = self.tenants.get(&tenant);
        let left = state.and_then(|state| state.left.get(&id)).copied();
        let gpu = left.and_then(|left| self.gpus.iter().find(|gpu| GpuId(gpu.index) == left.gpu));
        let grant = self.scheduler.channel(id).and_then(|view| view.grant);
        let (Some(left), Some(gpu), Some(grant)) = (left, gpu, grant) else {
            let text = format!("channel {id} is none that this process had");
            return Err(Refused::new(libc::ENOENT, text));
        };
        let terms = terms(left.counts, gpu, id.0, left.oversize);
        let present = gpu.board.tpcs.all();
        let pages = make(&terms).map_err(|error| {
            let text = format!("cannot take channel {id} over: {error}");
            Refused::new(libc::EINVAL, text)
        })?;
        let ledger = Ledger::inherit(&pages.ring(), present, left.held, pages.latest());
        let awaits = left.awaits;
        let state = Channel {
            tenant,
            gpu: left.gpu,
            context: left.context,
            oversize: left.oversize,
            granted: TpcSet::EMPTY,
            lent: TpcSet::EMPTY,
            pages,
            ledger,
            counts: left.counts,
            arrival: match follows {
                true => Arrival::TakenOver,
                false => Arrival::HandedOver { awaits },
            },
            waits_until: None,
        };
        self.insert_channel(id, state, now);
        self.publish(&grant);
        Ok(awaits)
    }

    /// Takes note that a channel's launches follow its new grant page.
    pub fn channel_resumed(
        &mut self,
        tenant: TenantId,
        channel: u64,
        now: Nanos,
    ) -> Result<(), Refused> {
        let id = ChannelId(channel);
        let grant = self.scheduler.channel(id).and_then(|view| view.grant);
        let state = self.channels.get_mut(&id);
        let state = state.filter(|state| state.tenant == tenant);
        let (Some(state), Some(grant)) = (state, grant) else {
            let text = format!("channel {channel} is none of this process");
            return Err(Refused::new(libc::ENOENT, text));
        };
        let Arrival::HandedOver { awaits } = state.arrival else {
            let text = format!("channel {channel} is not being handed over");
            return Err(Refused::new(libc::EALREADY, text));
        };
        state.arrival = Arrival::TakenOver;
        state.ledger.taken_over(state.pages.ring().reserved());
        if awaits {
            state.ledger.await_drain(grant.revision);
        }
        tracing::info!(
            channel,
            pid = self.tenants.get(&tenant).map(|t| t.process.pid),
            "taken over"
        );
        self.next_poll = Some(now);
        Ok(())
    }

    /// Ends what a tenant's channel for a context was under the daemon before: it asks for another one, so
    /// it never heard of that.
    pub(crate) fn give_up_left(&mut self, tenant: TenantId, context: u64, now: Nanos) {
        let left = self
            .tenants
            .get(&tenant)
            .into_iter()
            .flat_map(|state| &state.left);
        let same = left.filter(|(_, left)| left.context == context);
        for id in same.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.close_channel(id, now);
        }
    }

    /// Has the ledger of a channel tell when a grant is the oldest one in use, or keeps that in mind
    /// until it can.
    pub(crate) fn await_drain(&mut self, id: ChannelId, revision: Revision) {
        if let Some(channel) = self.channels.get_mut(&id) {
            match &mut channel.arrival {
                Arrival::HandedOver { awaits } => *awaits = true,
                Arrival::Made | Arrival::TakenOver => channel.ledger.await_drain(revision),
            }
            return;
        }
        let mut left = self.tenants.values_mut().map(|tenant| &mut tenant.left);
        if let Some(left) = left.find_map(|left| left.get_mut(&id)) {
            left.awaits = true;
        }
    }

    /// Returns the tenants that have not come back yet.
    pub(crate) fn absent_tenants(&self) -> impl Iterator<Item = (TenantId, Process)> + '_ {
        let absent = self.tenants.iter().filter(|(_, tenant)| tenant.is_absent);
        absent.map(|(&id, tenant)| (id, tenant.process))
    }

    pub(crate) fn absent_tenants_of(&self, process: Process) -> Vec<TenantId> {
        let absent = self.tenants.iter().filter(|(_, tenant)| tenant.is_absent);
        absent
            .filter(|(_, tenant)| tenant.is_process(process))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Ends a tenant whose process ended before it came back.
    pub fn end_absent(&mut self, tenant: TenantId, now: Nanos) {
        if self
            .tenants
            .get(&tenant)
            .is_some_and(|state| state.is_absent)
        {
            self.end_tenant(tenant, "its process ended", now);
        }
    }

    /// Returns whether channels of a tenant may be handed over.
    pub(crate) fn expects_channels(&self, tenant: TenantId) -> bool {
        self.tenants
            .get(&tenant)
            .is_some_and(|state| !state.left.is_empty())
    }

    /// Begins to keep what the next daemon has to know, in a file.
    pub(crate) fn make_will(&mut self, will: Will) {
        self.will = Some(will);
        self.keep_estate();
    }

    /// Keeps what the next daemon has to know.
    pub(crate) fn keep_estate(&mut self) {
        if self.will.is_none() {
            return;
        }
        let estate = self.estate();
        if let Some(will) = &mut self.will
            && let Err(error) = will.write(estate)
        {
            let problem = format!("a restarted daemon would not know all tenants: {error}");
            if !self.problems.contains(&problem) {
                tracing::error!("{problem}");
                self.problems.push(problem);
            }
        }
    }

    /// Returns what the next daemon has to know.
    pub fn estate(&self) -> Estate {
        let uuid = |id: GpuId| {
            let gpu = self.gpus.iter().find(|gpu| GpuId(gpu.index) == id);
            gpu.map(|gpu| gpu.board.uuid.clone()).unwrap_or_default()
        };
        let granted: BTreeMap<ChannelId, (u32, TpcSet)> = (self.scheduler.channels())
            .filter_map(|view| Some((view.channel, (view.cluster_ctas, view.grant?.lent))))
            .collect();
        let left_channel = |id: ChannelId, (gpu, context, oversize, counts)| {
            let &(cluster_ctas, lent) = granted.get(&id)?;
            let had = (self.channels.get(&id)).map_or(TpcSet::EMPTY, |c| c.ledger.had());
            Some(LeftChannel {
                channel: id.0,
                gpu: uuid(gpu),
                context,
                oversize,
                cluster_ctas,
                // Of some it may have launched on nobody waits any more, which does no harm.
                lent: lent | had,
                counts,
            })
        };
        let mut tenants = Vec::new();
        for (id, tenant) in &self.tenants {
            let open = tenant.channels.iter().filter_map(|id| {
                let c = self.channels.get(id)?;
                left_channel(*id, (c.gpu, c.context, c.oversize, c.counts))
            });
            let left = (tenant.left.iter()).filter_map(|(id, left)| {
                left_channel(*id, (left.gpu, left.context, left.oversize, left.counts))
            });
            let channels: Vec<LeftChannel> = open.chain(left).collect();
            if !channels.is_empty() {
                tenants.push(LeftTenant {
                    tenant: id.0,
                    broker: tenant.broker,
                    process: tenant.process,
                    edits: tenant.identity.edits,
                    driver: tenant.identity.driver.to_vec(),
                    partition: tenant.partition.clone(),
                    channels,
                });
            }
        }
        let gpus = self.gpus.iter().map(|gpu| GpuId(gpu.index));
        let held = gpus.flat_map(|gpu| {
            let held = self.scheduler.held(gpu).into_iter();
            held.map(move |(partition, tpcs)| (gpu, partition, tpcs))
        });
        Estate {
            last_channel: self.last_channel,
            held: held
                .map(|(gpu, partition, tpcs)| Held {
                    gpu: uuid(gpu),
                    partition: partition.to_string(),
                    tpcs,
                })
                .collect(),
            partitions: self.left_partitions(),
            tenants,
            ..Estate::new()
        }
    }
}

impl Tenant {
    /// Whether a process is the tenant's; who its user is may have changed.
    pub(crate) fn is_process(&self, process: Process) -> bool {
        (self.process.pid, self.process.start_ticks) == (process.pid, process.start_ticks)
    }
}
