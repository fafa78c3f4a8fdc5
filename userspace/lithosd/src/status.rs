// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `lithos status` shows, as plain data. Masks are lists of TPC bits; times are as named.

use std::collections::BTreeMap;

use lithos_policy::{Hand, Oversize, TpcSet};
use serde::{Deserialize, Serialize};

use crate::broker::BrokerKind;
use crate::config::{AdmissionMode, MpsEnable};
pub use crate::gatekeeper::{ReactionStatus, Seen};
use crate::ledger::{Awaited, Totals, Unknowable};
use crate::partition::PartitionEntry;
use crate::selftest::Verdict;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon.
    pub daemon: DaemonStatus,
    /// The GPUs in NVML's order.
    pub gpus: Vec<GpuStatus>,
    /// GPUs that are not managed.
    pub unfit: Vec<UnfitStatus>,
    /// The partitions in the order of their names.
    pub partitions: Vec<PartitionStatus>,
    /// The tenants in the order of their ids.
    pub tenants: Vec<TenantStatus>,
    /// The channels in the order of their ids.
    pub channels: Vec<ChannelStatus>,
    /// TPCs that belong to nobody until launches have completed.
    pub transit: Vec<TransitStatus>,
    /// How long it took to shut gates for somebody latency-critical.
    #[serde(default)]
    pub reaction: ReactionStatus,
    /// What is wrong and wants an operator's attention.
    pub problems: Vec<String>,
    /// What this broker cannot promise.
    pub cannot_promise: Vec<String>,
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// The version of `lithos.h` that it speaks.
    pub abi_version: u32,
    /// Its process.
    pub pid: u32,
    /// Who hands out channels.
    pub broker: BrokerKind,
    /// Where tenants connect to the embedded broker.
    pub broker_socket: String,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// Requests of tenants that were refused.
    pub refused: u64,
    /// MPS.
    pub mps: MpsStatus,
    /// Who may have GPU channels; none where nobody can see to that.
    pub admission: Option<AdmissionStatus>,
    /// Where the daemon keeps what outlives it.
    pub state_directory: String,
    /// The group whose members may change things.
    pub group: String,
}

/// How MPS is to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MpsStatus {
    /// As configured.
    pub enable: MpsEnable,
    /// Why MPS is not for this machine, if it is not.
    pub unsuitable: Option<String>,
    /// `CUDA_MPS_PIPE_DIRECTORY`.
    pub pipe_directory: String,
    /// `CUDA_MPS_LOG_DIRECTORY`.
    pub log_directory: String,
}

/// Who may have GPU channels, and who has some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionStatus {
    /// What is in force.
    pub mode: AdmissionMode,
    /// Whether the NVIDIA driver is seen: otherwise nobody is counted.
    pub sees_driver: bool,
    /// GPU channels that a tenant may have where that is enforced; 0: any number.
    pub gpu_channels_per_tenant: u32,
    /// Processes that have GPU channels or were refused some, since the driver has been seen.
    pub users: Vec<GpuUserStatus>,
}

/// A process that has GPU channels, or was refused some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUserStatus {
    /// The process.
    pub pid: i32,
    /// The first 15 bytes of its program's name.
    pub command: String,
    /// Its channels.
    pub channels: u32,
    /// Groups of channels.
    pub groups: u32,
    /// Mappings of doorbells.
    pub doorbells: u32,
    /// Allocations that it was refused.
    pub refused: u64,
    /// The tenant that it is, if it is one.
    pub tenant: Option<u64>,
    /// It has more than is counted.
    pub inexact: bool,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStatus {
    /// Its index in NVML's order.
    pub index: u32,
    /// Its UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its TPCs.
    pub tpcs: TpcSet,
    /// SMs per TPC.
    pub tpc_sms: u32,
    /// TPCs that no guarantee reserves.
    pub pool: u32,
    /// TPCs that nobody has.
    pub free: TpcSet,
    /// What came of the self-test: programs run unmanaged on a GPU where it failed.
    pub self_test: Verdict,
}

/// A GPU that is not managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfitStatus {
    /// Its index in NVML's order.
    pub index: u32,
    /// Its UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Why it is not.
    pub why: String,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// As its operator wants it.
    pub spec: PartitionEntry,
    /// Where it comes from.
    pub origin: OriginStatus,
    /// What an operator has ordered about its chains.
    #[serde(default)]
    pub hand: Hand,
    /// Its tenants.
    pub tenants: Vec<u64>,
    /// What it has on each of its GPUs.
    pub shares: Vec<ShareStatus>,
}

/// Where a partition comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum OriginStatus {
    /// The configuration.
    Configuration,
    /// `lithos partition`; kept in the state directory.
    Command,
    /// `lithos run`; goes with this process and its tenants.
    Run {
        /// The process.
        pid: i32,
    },
    /// The daemon before had it, and nobody names it any more; goes with its tenants.
    Left,
}

/// What a partition has on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareStatus {
    /// The GPU's index.
    pub gpu: u32,
    /// How many TPCs it should have.
    pub size: u32,
    /// Which these are.
    pub planned: TpcSet,
    /// Which its channels may use now.
    pub owned: TpcSet,
    /// SMs of those.
    pub sms: u32,
    /// Whether its largest cluster does not fit into what it owns.
    pub cluster_short: bool,
    /// Those of its TPCs that others have now who borrow.
    #[serde(default)]
    pub lent: TpcSet,
    /// Those of others that it has now.
    #[serde(default)]
    pub borrowed: TpcSet,
    /// Those that it has lost, or lost for a time to come, and that launches of it may still be running on.
    #[serde(default)]
    pub transit: TpcSet,
    /// Whether it has to wait, but for its ration, because others need what it borrows.
    #[serde(default)]
    pub suspended: bool,
    /// The same over time, while it had channels there.
    #[serde(default)]
    pub so_far: SoFar,
}

/// What became of TPCs since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoFar {
    /// What others had of it, in TPC-nanoseconds.
    pub lent_tpc_ns: u64,
    /// What it had of others, while it had something to run, in TPC-nanoseconds.
    pub borrowed_tpc_ns: u64,
    /// What was on its way from it, in TPC-nanoseconds.
    pub transit_tpc_ns: u64,
    /// For how long it was suspended although it had something to run, in nanoseconds.
    pub suspended_ns: u64,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its id.
    pub tenant: u64,
    /// Its process.
    pub pid: i32,
    /// The user whose process it is.
    pub uid: u32,
    /// The name that the process has now.
    pub command: String,
    /// Its partition.
    pub partition: String,
    /// Its channels.
    pub channels: Vec<u64>,
    /// Channels of the daemon before that the process has not handed over yet. Until it has, or has
    /// ended, its partition keeps the TPCs that it had.
    #[serde(default)]
    pub left: Vec<u64>,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its id.
    pub channel: u64,
    /// Its tenant.
    pub tenant: u64,
    /// The GPU's index.
    pub gpu: u32,
    /// The tenant's own name for the CUDA context.
    pub context: u64,
    /// The number of its latest grant; 0 while it waits for its first.
    pub grant: u64,
    /// The TPCs of that grant.
    pub tpcs: TpcSet,
    /// SMs of those.
    pub sms: u32,
    /// Those of the TPCs that are another partition's. Of them it may use those in `chains.borrowed` now.
    #[serde(default)]
    pub lent: TpcSet,
    /// What becomes of launches that do not fit, as the channel was told when it was made.
    pub oversize: Oversize,
    /// Launches that are not known to have completed.
    pub outstanding: u64,
    /// Different operators seen, up to a limit.
    pub operators: u64,
    /// Sums over its launches.
    pub totals: Totals,
    /// TPCs on which launches may run whose completion cannot be known.
    pub unknowable_tpcs: TpcSet,
    /// The first of these launches.
    pub unknowable: Option<Unknowable>,
    /// Whether a daemon before this one made it.
    #[serde(default)]
    pub taken_over: bool,
    /// Its chains.
    #[serde(default)]
    pub chains: Seen,
    /// What the tenant itself counts.
    pub counters: BTreeMap<String, u64>,
}

/// TPCs on their way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitStatus {
    /// The GPU's index.
    pub gpu: u32,
    /// The TPCs.
    pub tpcs: TpcSet,
    /// Whose launches may be running on them.
    pub from: String,
    /// Who gets them; none if they go back to the pool.
    pub to: Option<String>,
    /// For how long they have been on their way.
    pub since_ms: u64,
    /// The channels whose launches are awaited.
    pub awaiting: Vec<AwaitingStatus>,
    /// If a tenant died: for how long its launches are taken to be running.
    pub linger_ms: Option<u64>,
}

/// A channel whose launches are awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitingStatus {
    /// The channel.
    pub channel: u64,
    /// Its process.
    pub pid: i32,
    /// What is awaited of it.
    pub drains: Vec<Awaited>,
}
