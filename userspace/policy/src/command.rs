// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the policy wants done.

use serde::Serialize;

use crate::id::{ChannelId, GpuId, Revision, TenantId};
use crate::partition::{Oversize, PartitionName};
use crate::refusal::Refusal;
use crate::tpc::TpcSet;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say that a request was granted. Only requests that someone waits for are answered:
    /// `GpuAdded`, `Inherited`, `PartitionSet`, `PartitionDeleted`, `TenantAttached` and `ChannelOpened`.
    Accepted(Request),
    /// Say that an event was refused, and why. Nothing has changed.
    Refuse {
        /// What was refused.
        what: Request,
        /// Why.
        why: Refusal,
    },
    /// Write a grant. It holds for the next launch and replaces all that its channel had before.
    Grant(Grant),
    /// Report [`crate::Event::Drained`] once everything that the channel submitted under grants
    /// older than this revision has completed.
    AwaitDrain {
        /// The channel.
        channel: ChannelId,
        /// The revision of a grant that was written just before.
        revision: Revision,
    },
}

/// What a channel may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// The channel.
    pub channel: ChannelId,
    /// The number of this grant; larger than that of the channel's grant before.
    pub revision: Revision,
    /// The TPCs that its launches may use; never none.
    pub tpcs: TpcSet,
    /// Those of others that may be lent to it besides, from moment to moment: see [`crate::Lending`].
    pub lent: TpcSet,
    /// What becomes of a launch that does not fit them.
    pub oversize: Oversize,
}

/// Which event an answer is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// [`crate::Event::GpuAdded`].
    GpuAdded(GpuId),
    /// [`crate::Event::Inherited`].
    Inherited(GpuId),
    /// [`crate::Event::PartitionSet`].
    PartitionSet(PartitionName),
    /// [`crate::Event::PartitionDeleted`].
    PartitionDeleted(PartitionName),
    /// [`crate::Event::TenantAttached`].
    TenantAttached(TenantId),
    /// [`crate::Event::TenantGone`].
    TenantGone(TenantId),
    /// [`crate::Event::ChannelOpened`].
    ChannelOpened(ChannelId),
    /// [`crate::Event::ChannelClosed`].
    ChannelClosed(ChannelId),
    /// [`crate::Event::ClusterSeen`].
    ClusterSeen(ChannelId),
    /// [`crate::Event::Drained`].
    Drained(ChannelId),
}
