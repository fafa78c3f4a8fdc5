// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The broker: hands out channels, and stands between tenants and the policy.
//!
//! It translates: what tenants and operators ask for becomes events of the policy; the policy's
//! commands become words in grant pages and waits in ledgers. It knows nothing of sockets and has no
//! clock; whoever owns it says what time it is. Who its tenants are, and who makes the pages, is said by
//! whoever takes them in: `tenants.rs` for the embedded broker, `kernel.rs` for that of the kernel.
//!
//! ```text
//!   create_channel ---> waiting ---first grant---> open ---destroy, or the tenant ends---> gone
//!                          |
//!                          +--- grant_wait is over ---> refused
//! ```
//!
//! Channels that a daemon before this one handed out come in another way: see `takeover.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::Terms;
use lithos_abi::message::reply;
use lithos_device::Identity;
use lithos_device::pages::{Pages, PagesError};
use lithos_policy::{
    ChannelId, Event, GpuId, Nanos, Oversize, Scheduler, Settings, TenantId, Topology, TpcSet,
};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::estate::{Estate, Will};
use crate::gatekeeper::Gatekeeper;
use crate::gpu::{Gpu, Unfit, format_uuid};
use crate::grant::terms;
use crate::heartbeat::Hearts;
use crate::ledger::Ledger;
use crate::operator::Partitions;
use crate::partition::{ClassWord, PartitionEntry};
use crate::peer;
use crate::selftest::Verdict;
use crate::takeover::Left;
use crate::transits::Transits;

/// How often rings are looked at while a drain is awaited.
const POLL_AWAITED: Nanos = Nanos(500_000);
/// How often rings are looked at while something moves in them.
const POLL_MOVING: Nanos = Nanos(10_000_000);
/// How often rings are looked at otherwise.
const POLL_IDLE: Nanos = Nanos(15_000_000);
/// Refusals that are all logged.
const REFUSALS_LOGGED: u64 = 100;
/// No tenant launches faster than this, so that a ring cannot go round between two looks.
const LAUNCH_NS_MIN: u64 = 1_000;

/// The broker.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: Config,
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) unfit: Vec<Unfit>,
    pub(crate) scheduler: Scheduler,
    pub(crate) partitions: Partitions,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
    /// Whom tenants come by.
    pub(crate) kind: BrokerKind,
    pub(crate) hearts: Hearts,
    pub(crate) gates: Gatekeeper,
    pub(crate) transits: Transits,
    /// Where it is kept what the next daemon has to know.
    pub(crate) will: Option<Will>,
    pub(crate) problems: Vec<String>,
    pub(crate) refused: u64,
    /// The largest ids that there were.
    pub(crate) last_tenant: u64,
    pub(crate) last_channel: u64,
    pub(crate) answers: Vec<Answer>,
    pub(crate) next_poll: Option<Nanos>,
}

/// Who hands out channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// The daemon itself.
    #[default]
    Embedded,
    /// lithos.ko.
    Kernel,
}

impl std::fmt::Display for BrokerKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Embedded => "embedded",
            Self::Kernel => "kernel",
        })
    }
}

/// One process that has attached to a partition.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    /// Whom it came by. Under another broker its id means nothing.
    pub(crate) broker: BrokerKind,
    pub(crate) process: Process,
    pub(crate) identity: Identity,
    pub(crate) partition: String,
    pub(crate) channels: BTreeSet<ChannelId>,
    /// Channels of a daemon before that the process has not handed over yet.
    pub(crate) left: BTreeMap<ChannelId, Left>,
    /// It was a tenant of the daemon before and has not come back yet.
    pub(crate) is_absent: bool,
}

/// Whose process a tenant is, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// When it started, in clock ticks of the machine: with the id, a name that is not used again.
    pub start_ticks: u64,
}

/// One CUDA context of a tenant.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) tenant: TenantId,
    pub(crate) gpu: GpuId,
    pub(crate) context: u64,
    pub(crate) oversize: Oversize,
    pub(crate) granted: TpcSet,
    /// Those of them that are another partition's.
    pub(crate) lent: TpcSet,
    pub(crate) pages: Pages,
    pub(crate) ledger: Ledger,
    pub(crate) counts: Counts,
    /// How it came here.
    pub(crate) arrival: Arrival,
    /// Until when the first grant is waited for; none once it is there.
    pub(crate) waits_until: Option<Nanos>,
}

/// How a channel came to this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// This daemon made it.
    Made,
    /// The tenant has handed it over, and may still follow the grant page of the daemon before;
    /// `awaits`: a drain is to be awaited once it does not.
    HandedOver { awaits: bool },
    /// It was taken over.
    TakenOver,
}

/// The end of a wait for a first grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub tenant: TenantId,
    /// The channel.
    pub channel: ChannelId,
    /// That it has a grant, or why there is none.
    pub outcome: Result<(), Refused>,
}

/// Why a tenant does not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// An errno.
    pub errno: i32,
    /// What was wrong, and what would be right.
    pub text: String,
}

impl Refused {
    /// A refusal.
    pub fn new(errno: i32, text: impl ToString) -> Self {
        Self {
            errno,
            text: text.to_string(),
        }
    }

    /// Returns it as a reply.
    pub fn reply(&self) -> lithos_reply {
        reply(self.errno, &self.text)
    }
}

impl Broker {
    /// A broker for these GPUs and partitions. What is wrong with a partition keeps only it out.
    pub fn new(
        config: Config,
        gpus: Vec<Gpu>,
        unfit: Vec<Unfit>,
        partitions: Partitions,
        now: Nanos,
    ) -> Self {
        Self::succeeding(config, gpus, unfit, partitions, None, now)
    }

    /// A broker that goes on from what one before it left.
    pub fn succeeding(
        config: Config,
        gpus: Vec<Gpu>,
        unfit: Vec<Unfit>,
        partitions: Partitions,
        estate: Option<Estate>,
        now: Nanos,
    ) -> Self {
        let linger = u64::try_from(config.linger.as_nanos()).unwrap_or(u64::MAX);
        let mut broker = Self {
            config,
            gpus,
            unfit,
            scheduler: Scheduler::new(Settings {
                linger: Nanos(linger),
            }),
            partitions,
            tenants: BTreeMap::new(),
            channels: BTreeMap::new(),
            kind: BrokerKind::Embedded,
            hearts: Hearts::default(),
            gates: Gatekeeper::default(),
            transits: Transits::default(),
            will: None,
            problems: Vec::new(),
            refused: 0,
            last_tenant: 0,
            last_channel: 0,
            answers: Vec::new(),
            next_poll: None,
        };
        let boards: Vec<(u32, Topology)> = broker.gpus.iter().map(Gpu::numbered_topology).collect();
        for (index, topology) in boards {
            let gpu = GpuId(index);
            if let Err(why) = broker.step(now, Event::GpuAdded { gpu, topology }) {
                broker.problems.push(format!("GPU {index}: {why}"));
            }
        }
        broker.note_unmanaged();
        let estate = estate.unwrap_or_default();
        broker.inherit_partitions(&estate, now);
        broker.load_partitions(now);
        broker.inherit(estate, now);
        for problem in &broker.problems {
            tracing::error!("{problem}");
        }
        broker
    }

    /// Says which GPUs are not managed, and why.
    fn note_unmanaged(&mut self) {
        let unfit = self
            .unfit
            .iter()
            .map(|unfit| (unfit.listed.index, &unfit.why));
        let failed = self.gpus.iter().filter_map(|gpu| match &gpu.verdict {
            Verdict::Failed { why } => Some((gpu.index, why)),
            Verdict::Passed(_) => None,
        });
        let problems = unfit.chain(failed).map(|(index, why)| {
            format!("GPU {index}: programs run there as if LithOS were not there: {why}")
        });
        self.problems.extend(problems);
    }

    /// Returns an id for a tenant to come. Ids count up and are never used again: each is its own
    /// generation, so that a stale one names nobody.
    pub fn next_tenant(&self) -> TenantId {
        TenantId(self.last_tenant + 1)
    }

    /// Returns an id for a channel to come; see [`Broker::next_tenant`].
    pub fn next_channel(&self) -> ChannelId {
        ChannelId(self.last_channel + 1)
    }

    /// Returns what a new tenant of a partition is told about it.
    pub(crate) fn attached_flags(&self, partition: &PartitionEntry) -> u32 {
        let enforce = match partition.enforce {
            true => LITHOS_ATTACHED_ENFORCE,
            false => 0,
        };
        let least = match (partition.class, partition.borrow) {
            (ClassWord::Be, true) => LITHOS_ATTACHED_LEAST,
            _ => 0,
        };
        let name = partition.checked_name().ok();
        let view = name.and_then(|name| self.scheduler.partition(&name));
        let is_on = |gpu: &&Gpu| {
            let spec = view.as_ref().map(|view| &view.spec);
            spec.is_some_and(|spec| spec.is_on(GpuId(gpu.index)))
        };
        let gpus = self.gpus.iter().filter(is_on);
        let sms = gpus
            .map(|gpu| gpu.board.tpc_sms * partition.guarantee)
            .min();
        let reported = sms.filter(|_| partition.report_sms).unwrap_or(0);
        enforce | least | reported.min(u32::from(u16::MAX)) << LITHOS_ATTACHED_SMS_SHIFT
    }

    /// Makes a process a tenant of a partition. `tenant` is an id that none ever had.
    pub fn attach(
        &mut self,
        tenant: TenantId,
        process: Process,
        identity: Identity,
        partition: &str,
        now: Nanos,
    ) -> Result<u32, Refused> {
        let Some(known) = self.partitions.find(partition) else {
            let names = self.partitions.names().join(", ");
            let known = if names.is_empty() { "none" } else { &names };
            let text = format!("there is no partition {partition:?}; there is: {known}");
            return Err(Refused::new(libc::ENOENT, text));
        };
        let flags = self.attached_flags(known);
        // A process that attaches anew has begun anew: what it was before is gone (it has called exec).
        for tenant in self.absent_tenants_of(process) {
            self.end_tenant(tenant, "its process has begun anew", now);
        }
        if self.tenants.contains_key(&tenant) {
            let text = format!("a tenant of another broker has the id {tenant}");
            return Err(Refused::new(libc::EEXIST, text));
        }
        let limit = self.config.tenants_max;
        if self.tenants.len() >= limit {
            let text = format!("there are {limit} tenants, the most that limits.tenants allows");
            return Err(Refused::new(libc::EUSERS, text));
        }
        let name = partition.parse();
        let name = name.map_err(|error| Refused::new(libc::EINVAL, error))?;
        self.last_tenant = self.last_tenant.max(tenant.0);
        let event = Event::TenantAttached {
            tenant,
            partition: name,
        };
        if let Err(why) = self.step(now, event) {
            return Err(Refused::new(libc::ENOENT, why));
        }
        let Process { pid, uid, .. } = process;
        tracing::info!(%tenant, pid, uid, partition, "tenant attached");
        let state = Tenant {
            broker: self.kind,
            process,
            identity,
            partition: partition.into(),
            channels: BTreeSet::new(),
            left: BTreeMap::new(),
            is_absent: false,
        };
        self.tenants.insert(tenant, state);
        Ok(flags)
    }

    /// Makes a channel, with pages by `make`. `id` is one that no channel ever had. It has no grant yet:
    /// the answer comes with [`Broker::take_answers`].
    pub fn create_channel(
        &mut self,
        tenant: TenantId,
        id: ChannelId,
        request: &lithos_channel_create,
        counts: Counts,
        make: impl FnOnce(&Terms) -> Result<Pages, PagesError>,
        now: Nanos,
    ) -> Result<(), Refused> {
        self.give_up_left(tenant, request.context, now);
        let Some(state) = self.tenants.get(&tenant) else {
            return Err(Refused::new(
                libc::ENOTCONN,
                "the tenant has ended, or was refused",
            ));
        };
        let limit = self.config.tenant_channels_max;
        if state.channels.len() >= limit {
            let text = format!(
                "the process has {limit} channels, the most that limits.channels_per_tenant allows"
            );
            return Err(Refused::new(libc::EMFILE, text));
        }
        let gpu = self.gpus.iter().find(|gpu| gpu.uuid_bytes == request.gpu);
        let Some(gpu) = gpu else {
            let uuid = format_uuid(&request.gpu);
            if let Some(unfit) = self.unfit.iter().find(|unfit| unfit.listed.uuid == uuid) {
                let text = format!("GPU {} is not managed: {}", unfit.listed.index, unfit.why);
                return Err(Refused::new(libc::EOPNOTSUPP, text));
            }
            let known: Vec<&str> = self
                .gpus
                .iter()
                .map(|gpu| gpu.board.uuid.as_str())
                .collect();
            let text = format!(
                "{} is no GPU of this daemon (a MIG instance is none, either); there is: {}",
                uuid,
                known.join(", ")
            );
            return Err(Refused::new(libc::ENODEV, text));
        };
        if let Err(why) = gpu.verdict.allows(&state.identity) {
            let text = format!("launches on GPU {} are left alone: {why}", gpu.index);
            return Err(Refused::new(libc::EOPNOTSUPP, text));
        }
        let oversize = self
            .partitions
            .find(&state.partition)
            .map(|entry| entry.oversize);
        let oversize = oversize.unwrap_or_default();
        self.last_channel = self.last_channel.max(id.0);
        let terms = terms(counts, gpu, id.0, oversize);
        let gpu_id = GpuId(gpu.index);
        let ledger = Ledger::new(terms.records, gpu.board.tpcs.all());
        let pages = match make(&terms) {
            Ok(pages) => pages,
            Err(error) => {
                let text = format!("cannot make the channel's pages: {error}");
                return Err(Refused::new(libc::ENOMEM, text));
            }
        };
        let wait = u64::try_from(self.config.grant_wait.as_nanos()).unwrap_or(u64::MAX);
        let state = Channel {
            tenant,
            gpu: gpu_id,
            context: request.context,
            oversize,
            granted: TpcSet::EMPTY,
            lent: TpcSet::EMPTY,
            pages,
            ledger,
            counts,
            arrival: Arrival::Made,
            waits_until: Some(now.after(Nanos(wait))),
        };
        self.insert_channel(id, state, now);
        let event = Event::ChannelOpened {
            channel: id,
            tenant,
            gpu: gpu_id,
        };
        if let Err(why) = self.step(now, event) {
            self.forget_channel(id);
            return Err(Refused::new(libc::EACCES, why));
        }
        self.next_poll = Some(now);
        Ok(())
    }

    /// Ends a channel of a tenant.
    pub fn destroy_channel(
        &mut self,
        tenant: TenantId,
        channel: u64,
        now: Nanos,
    ) -> Result<(), Refused> {
        let id = ChannelId(channel);
        let own = self
            .tenants
            .get(&tenant)
            .is_some_and(|state| state.channels.contains(&id) || state.left.contains_key(&id));
        if !own {
            let text = format!("channel {channel} is none of this process");
            return Err(Refused::new(libc::ENOENT, text));
        }
        self.close_channel(id, now);
        Ok(())
    }

    /// Ends a tenant and all that is its.
    pub fn end_tenant(&mut self, tenant: TenantId, why: &str, now: Nanos) {
        let Some(state) = self.tenants.get(&tenant) else {
            return;
        };
        let pid = state.process.pid;
        // First of all: what it leaves is taken from the GPU within milliseconds (ARCHITECTURE.md). One that
        // lives, and has only closed its connection, goes on.
        if peer::is_ending(state.process) {
            (state.channels.iter()).for_each(|&channel| self.gates.halt(channel));
        }
        let channels = state.channels.iter().chain(state.left.keys());
        for channel in channels.copied().collect::<Vec<_>>() {
            self.close_channel(channel, now);
        }
        self.tenants.remove(&tenant);
        self.step_quietly(now, Event::TenantGone { tenant });
        tracing::info!(%tenant, pid, why, "tenant ended");
        self.sweep_run_partitions(now);
    }

    /// Returns the reply to a channel's creation or handing over, and the descriptors that go with it.
    pub fn channel_reply(&self, id: ChannelId) -> Option<(lithos_channel, Vec<BorrowedFd<'_>>)> {
        let channel = self.channels.get(&id)?;
        let terms = Terms::sized(channel.counts);
        let message = lithos_channel {
            reply: reply(0, ""),
            channel: id.0,
            ring_bytes: terms.ring_bytes,
            arena_bytes: terms.arena_bytes,
        };
        let mut descriptors = channel.pages.descriptors();
        if channel.arrival != Arrival::Made {
            // It has ring and arena.
            descriptors.truncate(1);
        }
        Some((message, descriptors))
    }

    /// Has the rings looked at in the next turn.
    pub(crate) fn look_at_rings(&mut self, now: Nanos) {
        self.next_poll = Some(now);
    }

    /// Returns the waits for a first grant that have ended since the last call.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Does what is due: says that the scheduler lives, looks at the rings, ends waits.
    pub fn turn(&mut self, now: Nanos) {
        self.hearts.turned(now);
        if self.scheduler.next_deadline().is_some_and(|due| due <= now) {
            self.step_quietly(now, Event::Tick);
        }
        if self.next_poll.is_some_and(|due| due <= now) {
            self.poll(now);
        }
        self.end_waits(now);
    }

    /// Returns when [`Broker::turn`] is due next if nothing happens before.
    pub fn next_turn(&self) -> Option<Nanos> {
        let waits = self
            .channels
            .values()
            .filter_map(|channel| channel.waits_until);
        let dues = waits
            .chain(self.next_poll)
            .chain(self.hearts.next_turn())
            .chain(self.scheduler.next_deadline());
        dues.min()
    }

    /// Leaves everything as it shall be without a scheduler.
    pub fn leave(&mut self) {
        for channel in self.channels.values() {
            channel.pages.set_broker(LITHOS_BROKER_FAIL_STATIC, 0);
        }
    }

    /// Looks at all rings, and tells the policy what they say.
    fn poll(&mut self, now: Nanos) {
        let mut events = Vec::new();
        let mut moved = false;
        for (&id, channel) in &mut self.channels {
            let (ring, stamps) = (channel.pages.ring(), channel.pages.stamps());
            let news = channel.ledger.poll(&ring, &stamps);
            moved |= news.moved;
            let cluster = news
                .cluster_ctas
                .map(|ctas| Event::ClusterSeen { channel: id, ctas });
            let drained = news.drained.into_iter();
            events.extend(cluster);
            events.extend(drained.map(|revision| Event::Drained {
                channel: id,
                revision,
            }));
        }
        for event in events {
            self.step_quietly(now, event);
        }
        let awaited = self
            .channels
            .values()
            .any(|channel| channel.ledger.awaits());
        let ring = Nanos(u64::from(self.config.ring_records) * LAUNCH_NS_MIN);
        let pace = match (awaited, moved) {
            (true, _) => POLL_AWAITED,
            (false, true) => POLL_MOVING.min(ring),
            (false, false) => POLL_IDLE.min(ring),
        };
        self.next_poll = (!self.channels.is_empty()).then(|| now.after(pace));
    }

    pub(crate) fn close_channel(&mut self, id: ChannelId, now: Nanos) {
        let outstanding = match self.channels.get_mut(&id) {
            Some(channel) if matches!(channel.arrival, Arrival::HandedOver { .. }) => true,
            Some(channel) => {
                let (ring, stamps) = (channel.pages.ring(), channel.pages.stamps());
                channel.ledger.poll(&ring, &stamps);
                !channel.ledger.is_idle()
            }
            // Nobody could look at what it launched.
            None => true,
        };
        self.forget_channel(id);
        let event = Event::ChannelClosed {
            channel: id,
            outstanding,
        };
        self.step_quietly(now, event);
    }

    pub(crate) fn insert_channel(&mut self, id: ChannelId, channel: Channel, now: Nanos) {
        if let Some(heart) = channel.pages.heart() {
            self.hearts.add(id, heart, now);
        }
        if let Some(tenant) = self.tenants.get_mut(&channel.tenant) {
            tenant.left.remove(&id);
            tenant.channels.insert(id);
        }
        // What is wanted of it comes with its grant.
        self.gates.add(id, channel.gpu, channel.pages.live());
        self.channels.insert(id, channel);
    }

    fn forget_channel(&mut self, id: ChannelId) {
        self.hearts.remove(id);
        self.gates.remove(id);
        if let Some(channel) = self.channels.remove(&id) {
            channel.pages.set_broker(LITHOS_BROKER_RETIRED, 0);
        }
        for tenant in self.tenants.values_mut() {
            tenant.channels.remove(&id);
            tenant.left.remove(&id);
        }
    }

    /// Counts a refusal and logs it: the first ones all, later ones when their number has doubled, so
    /// that nobody can fill the log.
    pub(crate) fn note_refusal(&mut self, pid: i32, why: &Refused) {
        self.refused += 1;
        if self.refused <= REFUSALS_LOGGED || self.refused.is_power_of_two() {
            tracing::warn!(pid, number = self.refused, "refused: {why}");
        }
    }
}
