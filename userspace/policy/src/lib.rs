// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Every scheduling decision of LithOS, as a function of state, time and event.
//!
//! [`Scheduler::step`] takes in one [`Event`] and appends the [`Command`]s that follow from it. It
//! has no clock, no thread and does no I/O; the same events at the same times give the same
//! commands, so that daemon, simulator and tests share one policy. It cannot fail: it refuses, and a
//! refusal is a command.
//!
//! What it decides now is *who gets which TPCs of which GPU*, in four steps, one file each:
//!
//! 1. admission (`scheduler`): the guarantees on a GPU never exceed its TPCs;
//! 2. `share`: how many TPCs each partition should have (a count);
//! 3. `place`: which TPCs these are (the plan: disjoint sets that respect GPCs);
//! 4. `handover`: how ownership gets there safely. A TPC passes from one partition to another only
//!    when the last launch submitted with it has completed, and no channel ever has an empty mask.
//!
//! And moment by moment, without events, *who is lent what others do not use* ([`Lending`]), and what gates are to do
//! ([`Borrower::gates`]): `activity` and `gap` (who needs its TPCs, and for how long), `lend` (who gets them
//! else, and who is suspended), `pace` (how chains go on), `ration` (so that nobody starves).
//!
//! All quantities are whole TPCs; times are nanoseconds on a clock of the caller's choice that
//! does not go back.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod activity;
mod borrower;
mod command;
mod event;
mod gap;
mod gpu;
mod handover;
mod hold;
mod id;
mod lend;
mod pace;
mod partition;
mod place;
mod ration;
mod refusal;
mod scheduler;
mod share;
mod topology;
mod tpc;
mod view;

pub use activity::{Activity, RECENT};
pub use borrower::{Borrower, Gates};
pub use command::{Command, Grant, Request};
pub use event::{Event, Left};
pub use gap::{Gaps, LINGER};
pub use hold::{Hand, Standing};
pub use id::{ChannelId, GpuId, Nanos, Revision, TenantId};
pub use lend::{LONGEST_ATOM, Lending, Look, Party, Portion, Sums};
pub use pace::{AHEAD, Pace};
pub use partition::{Class, NameError, Oversize, PartitionName, PartitionSpec};
pub use refusal::Refusal;
pub use scheduler::{MAX_PARTITIONS, Scheduler, Settings};
pub use topology::{Topology, TopologyError, Tpc, tpcs_for_cluster};
pub use tpc::TpcSet;
pub use view::{ChannelView, GpuView, PartitionView, ShareView, TpcState, TpcView};
