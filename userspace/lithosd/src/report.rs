// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The broker's state as [`Status`].

use std::collections::BTreeMap;
use std::fs;

use lithos_abi::bindings::*;
use lithos_policy::{ChannelId, GpuView, Nanos, TpcSet, TpcState};

use crate::broker::{Arrival, Broker, BrokerKind, Channel};
use crate::config::AdmissionMode;
use crate::gatekeeper::Lent;
use crate::gpu::Unfit;
use crate::operator::Known;
use crate::status::{
    AwaitingStatus, ChannelStatus, DaemonStatus, GpuStatus, PartitionStatus, ShareStatus, SoFar,
    Status, TenantStatus, TransitStatus,
};

/// The tenant's counters, by the names that status gives them.
const COUNTERS: [(&str, lithos_counter); 25] = [
    ("unstamped", LITHOS_COUNT_UNSTAMPED),
    ("overrun", LITHOS_COUNT_OVERRUN),
    ("graph_nodes", LITHOS_COUNT_GRAPH_NODES),
    ("null", LITHOS_COUNT_NULL),
    ("unknown_version", LITHOS_COUNT_UNKNOWN_VERSION),
    ("unknown_bits", LITHOS_COUNT_UNKNOWN_BITS),
    ("driver_mask_kept", LITHOS_COUNT_DRIVER_MASK_KEPT),
    ("widened_cooperative", LITHOS_COUNT_WIDENED_COOPERATIVE),
    ("widened_cluster", LITHOS_COUNT_WIDENED_CLUSTER),
    ("refused_cooperative", LITHOS_COUNT_REFUSED_COOPERATIVE),
    ("refused_cluster", LITHOS_COUNT_REFUSED_CLUSTER),
    ("stale_grant", LITHOS_COUNT_STALE_GRANT),
    ("ungranted", LITHOS_COUNT_UNGRANTED),
    ("void", LITHOS_COUNT_VOID),
    ("split", LITHOS_COUNT_SPLIT),
    ("atoms", LITHOS_COUNT_ATOMS),
    ("whole_full", LITHOS_COUNT_WHOLE_FULL),
    ("whole_cooperative", LITHOS_COUNT_WHOLE_COOPERATIVE),
    ("whole_graph_node", LITHOS_COUNT_WHOLE_GRAPH_NODE),
    ("whole_programmatic", LITHOS_COUNT_WHOLE_PROGRAMMATIC),
    ("whole_unknown", LITHOS_COUNT_WHOLE_UNKNOWN),
    ("whole_stuck", LITHOS_COUNT_WHOLE_STUCK),
    ("whole_ending", LITHOS_COUNT_WHOLE_ENDING),
    ("waited", LITHOS_COUNT_WAITED),
    ("impatient", LITHOS_COUNT_IMPATIENT),
];

/// What is so unless admission is enforced.
const ANYBODY: &str =
    "a process that was not started under LithOS uses the GPU unmanaged; nothing keeps it away";

/// What neither broker can promise.
const CANNOT_PROMISE: [&str; 4] = [
    "the shim is cooperative: a process that wants to can undo its own masks",
    "the launches of a killed process are taken to have ended after limits.linger_ms, unless they \
     were seen to complete",
    "without the daemon running processes keep what they are guaranteed; nobody joins until it is back",
    "under MPS all processes on a GPU share one fault domain: a fault or a kill of one can end all",
];

/// What the embedded broker cannot promise besides.
const EMBEDDED_CANNOT_PROMISE: [&str; 3] = [
    "a process that inherits the connection of a tenant, or is handed it, can speak for that tenant",
    "a process that was stopped while the daemon restarts keeps all TPCs that its partition had until \
     it goes on or ends",
    "when a process dies nothing waits until the GPU has left its memory: its chains are halted as \
     soon as its connection ends",
];

impl Broker {
    /// Returns everything there is to see.
    pub fn status(&self, daemon: DaemonStatus, now: Nanos) -> Status {
        let views: Vec<GpuView> = self.scheduler.gpus().collect();
        let cannot_promise = self.cannot_promise(&daemon);
        Status {
            daemon,
            gpus: self.gpu_statuses(&views),
            unfit: self.unfit.iter().map(Unfit::status).collect(),
            partitions: self.partition_statuses(),
            tenants: self.tenant_statuses(),
            channels: self
                .channels
                .iter()
                .map(|(&id, c)| self.channel_status(id, c))
                .collect(),
            transit: views
                .iter()
                .flat_map(|view| self.transit(view, now))
                .collect(),
            reaction: self.gates.reactions(),
            problems: self.problems.clone(),
            cannot_promise,
        }
    }

    fn cannot_promise(&self, daemon: &DaemonStatus) -> Vec<String> {
        let admission = daemon.admission.as_ref();
        let is_enforced = admission.is_some_and(|admission| {
            admission.mode == AdmissionMode::Enforce && admission.sees_driver
        });
        let anybody = (!is_enforced).then_some(&ANYBODY);
        let more: &[&str] = match self.kind {
            BrokerKind::Embedded => &EMBEDDED_CANNOT_PROMISE,
            BrokerKind::Kernel => &[],
        };
        let all = CANNOT_PROMISE.iter().chain(anybody).chain(more);
        all.map(|&text| text.to_owned()).collect()
    }

    /// Returns the partitions in the order of their names.
    pub fn partition_statuses(&self) -> Vec<PartitionStatus> {
        let names = self.partitions.names();
        names
            .iter()
            .filter_map(|name| self.partition_status(name))
            .collect()
    }

    /// Returns one partition.
    pub fn partition_status(&self, name: &str) -> Option<PartitionStatus> {
        let Known {
            entry,
            origin,
            hand,
        } = self.partitions.known(name)?;
        let view = self.scheduler.partition(&name.parse().ok()?)?;
        let shares = view.shares.iter().map(|share| {
            let Lent {
                lent,
                portion,
                sums,
            } = self.gates.lent(share.gpu, &view.spec.name);
            let (transit, transit_tpc_ns) = self.transits.of(share.gpu, &view.spec.name);
            ShareStatus {
                gpu: share.gpu.0,
                size: share.size,
                planned: share.planned,
                owned: share.owned,
                sms: self.sms(share.gpu.0, share.owned),
                cluster_short: share.cluster_short,
                lent,
                borrowed: match portion.is_suspended {
                    true => TpcSet::EMPTY,
                    false => portion.tpcs,
                },
                transit,
                suspended: portion.is_suspended,
                so_far: SoFar {
                    lent_tpc_ns: sums.lent_tpc_ns,
                    borrowed_tpc_ns: sums.borrowed_tpc_ns,
                    transit_tpc_ns,
                    suspended_ns: sums.suspended_ns,
                },
            }
        });
        Some(PartitionStatus {
            spec: entry.clone(),
            origin: (*origin).into(),
            hand: *hand,
            tenants: view.tenants.iter().map(|tenant| tenant.0).collect(),
            shares: shares.collect(),
        })
    }

    fn gpu_statuses(&self, views: &[GpuView]) -> Vec<GpuStatus> {
        let status = |view: &GpuView| {
            let gpu = self.gpus.iter().find(|gpu| gpu.index == view.gpu.0)?;
            let free = view.tpcs.iter().filter(|tpc| tpc.state == TpcState::Free);
            Some(GpuStatus {
                index: gpu.index,
                uuid: gpu.board.uuid.clone(),
                name: gpu.name.clone(),
                tpcs: gpu.board.tpcs.all(),
                tpc_sms: gpu.board.tpc_sms,
                pool: view.pool,
                free: free.map(|tpc| tpc.bit).collect(),
                self_test: gpu.verdict.clone(),
            })
        };
        views.iter().filter_map(status).collect()
    }

    fn tenant_statuses(&self) -> Vec<TenantStatus> {
        let status = |(id, tenant): (&lithos_policy::TenantId, &crate::broker::Tenant)| {
            let pid = tenant.process.pid;
            // A process names itself as it likes, and people read this on a terminal.
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let command = command.trim_end().replace(char::is_control, "?");
            TenantStatus {
                tenant: id.0,
                pid,
                uid: tenant.process.uid,
                command,
                partition: tenant.partition.clone(),
                channels: tenant.channels.iter().map(|channel| channel.0).collect(),
                left: tenant.left.keys().map(|channel| channel.0).collect(),
            }
        };
        self.tenants.iter().map(status).collect()
    }

    fn channel_status(&self, id: ChannelId, channel: &Channel) -> ChannelStatus {
        let ring = channel.pages.ring();
        let counters = COUNTERS
            .iter()
            .map(|&(name, counter)| (name.into(), ring.counter(counter)))
            .chain([
                ("masked".into(), ring.masked()),
                ("stamped".into(), ring.stamped()),
            ]);
        let (unknowable_tpcs, unknowable) = channel.ledger.unknowable();
        ChannelStatus {
            channel: id.0,
            tenant: channel.tenant.0,
            gpu: channel.gpu.0,
            context: channel.context,
            grant: channel.pages.latest(),
            tpcs: channel.granted,
            sms: self.sms(channel.gpu.0, channel.granted),
            lent: channel.lent,
            oversize: channel.oversize,
            outstanding: channel.ledger.outstanding(),
            operators: channel.ledger.operators(),
            totals: channel.ledger.totals(),
            unknowable_tpcs,
            unknowable,
            taken_over: channel.arrival != Arrival::Made,
            chains: self.gates.seen(id),
            counters: counters.collect(),
        }
    }

    /// Returns the TPCs of a GPU that are in transit, those with the same story together.
    fn transit(&self, view: &GpuView, now: Nanos) -> Vec<TransitStatus> {
        let mut stories = BTreeMap::new();
        for tpc in &view.tpcs {
            if let TpcState::InTransit {
                from,
                to,
                since,
                awaiting,
                linger_until,
            } = &tpc.state
            {
                let story = (from, to, since, awaiting, linger_until);
                let tpcs: &mut TpcSet = stories.entry(story).or_default();
                tpcs.insert(tpc.bit);
            }
        }
        let ms = |span: u64| span / 1_000_000;
        let status = |((from, to, since, awaiting, linger), tpcs)| {
            let awaiting: &Vec<ChannelId> = awaiting;
            let linger: &Option<Nanos> = linger;
            let (from, to): (&lithos_policy::PartitionName, &Option<_>) = (from, to);
            let since: &Nanos = since;
            TransitStatus {
                gpu: view.gpu.0,
                tpcs,
                from: from.to_string(),
                to: to.as_ref().map(lithos_policy::PartitionName::to_string),
                since_ms: ms(now.0.saturating_sub(since.0)),
                awaiting: awaiting
                    .iter()
                    .filter_map(|&id| self.awaiting(id))
                    .collect(),
                linger_ms: linger.map(|until| ms(until.0.saturating_sub(now.0))),
            }
        };
        stories.into_iter().map(status).collect()
    }

    fn awaiting(&self, id: ChannelId) -> Option<AwaitingStatus> {
        let channel = self.channels.get(&id)?;
        let tenant = self.tenants.get(&channel.tenant)?;
        Some(AwaitingStatus {
            channel: id.0,
            pid: tenant.process.pid,
            drains: channel.ledger.awaited(),
        })
    }

    fn sms(&self, gpu: u32, tpcs: TpcSet) -> u32 {
        let gpu = self.gpus.iter().find(|known| known.index == gpu);
        tpcs.len() * gpu.map_or(0, |gpu| gpu.board.tpc_sms)
    }
}
