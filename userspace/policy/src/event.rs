// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the policy is told.

use crate::id::{ChannelId, GpuId, Revision, TenantId};
use crate::partition::{PartitionName, PartitionSpec};
use crate::topology::Topology;
use crate::tpc::TpcSet;

/// A channel that a scheduler before this one left, and had granted something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its id.
    pub channel: ChannelId,
    /// Whose it is: a tenant that has attached anew.
    pub tenant: TenantId,
    /// CTAs of the largest cluster seen.
    pub cluster_ctas: u32,
    /// The TPCs of others that it was lent last, or that launches of it may be running on.
    pub lent: TpcSet,
}

/// Something that happened, or that someone asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a GPU.
    GpuAdded {
        /// Its id.
        gpu: GpuId,
        /// Its TPCs.
        topology: Topology,
    },
    /// What a scheduler before this one left on a GPU, told before any channel is opened there.
    /// Each channel is granted all that its partition held, with revision 1. Launches
    /// of channels that are not named may run on for the linger time.
    Inherited {
        /// The GPU.
        gpu: GpuId,
        /// The TPCs that launches of a partition may have been running on: disjoint sets.
        held: Vec<(PartitionName, TpcSet)>,
        /// The channels.
        channels: Vec<Left>,
    },
    /// A partition shall be created, or be changed to this.
    PartitionSet(PartitionSpec),
    /// A partition shall go. Refused while it has tenants.
    PartitionDeleted(PartitionName),
    /// A process wants to join a partition.
    TenantAttached {
        /// Its id.
        tenant: TenantId,
        /// The partition.
        partition: PartitionName,
    },
    /// A process has gone. Channels that it left open are closed, with launches outstanding.
    TenantGone {
        /// Its id.
        tenant: TenantId,
    },
    /// A tenant has made a CUDA context and wants a grant for it.
    ChannelOpened {
        /// The channel's id.
        channel: ChannelId,
        /// Whose it is.
        tenant: TenantId,
        /// The GPU of the context.
        gpu: GpuId,
    },
    /// A CUDA context has gone.
    ChannelClosed {
        /// Its channel.
        channel: ChannelId,
        /// Whether launches of it may still be running: its process died, or nobody waited.
        outstanding: bool,
    },
    /// A channel launches clusters.
    ClusterSeen {
        /// The channel.
        channel: ChannelId,
        /// How many CTAs a cluster has.
        ctas: u32,
    },
    /// All launches that a channel submitted under grants older than this one have completed.
    Drained {
        /// The channel.
        channel: ChannelId,
        /// The grant.
        revision: Revision,
    },
    /// Time has passed; due at [`crate::Scheduler::next_deadline`].
    Tick,
}
