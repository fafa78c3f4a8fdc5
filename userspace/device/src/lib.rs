// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The client of a LithOS broker, and the making of the pages that a broker hands out.
//!
//! A *broker* hands out *channels*; who the broker is does not matter to a tenant, which talks to
//! it through [`Broker`]. There are two: the kernel's, at `/dev/lithos` ([`kernel::KernelBroker`]), and,
//! where no module can be loaded, lithosd itself over a Unix socket ([`embedded::SocketBroker`]).
//!
//! | | tenant | scheduler |
//! | --- | --- | --- |
//! | kernel's | [`kernel`] | [`scheduler`] |
//! | embedded | [`embedded`] | lithosd, which makes [`pages`] and answers [`packet`]s |
//!
//! Who may reach a GPU at all is administered apart from both: [`admission`].
//!
//! Outside the kernel, simgpu and the one mapping that the CUDA driver makes of an arena, this crate
//! is the only one that maps memory. It never blocks without a deadline, and every descriptor that it
//! makes or receives is closed on exec.

mod address;
pub mod admission;
mod broker;
mod channel;
pub mod embedded;
mod fork;
pub mod futex;
pub mod high;
mod identity;
mod ioctl;
pub mod kernel;
pub mod packet;
pub mod pages;
pub mod scheduler;

pub use broker::{Attached, Broker, BrokerError};
pub use channel::{Arena, Channel, ChannelError};
pub use fork::ForkMark;
pub use identity::{BUILD_ID_BYTES, Identity, build_id};
