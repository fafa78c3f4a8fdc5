// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the policy is told.

use crate::id::{ChannelId, GpuId, Revision, TenantId};
use crate::partition::{PartitionName, PartitionSpec};
use crate::topology::Topology;

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
