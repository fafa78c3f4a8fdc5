// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon `lithosd`, and what it shares with the command `lithos`.
//!
//! ```text
//!   tenants --lithos.ko--> kernel.rs ---+                       +--> lithos-policy
//!       or  --SEQPACKET--> tenants.rs --+--> broker.rs ---------+
//!                          session.rs   |    operator.rs        +--> grant.rs: grant pages
//!   lithos  --STREAM-----> clients.rs --+    report.rs          +--> ledger.rs: rings and stamps
//!                                            takeover.rs        +--> estate.rs: for the next daemon
//!                 daemon.rs: one thread, one place that waits
//! ```

pub mod admission;
pub mod board;
pub mod broker;
pub mod clients;
mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod discover;
pub mod estate;
pub mod file;
mod gatekeeper;
pub mod gpu;
mod grant;
mod heartbeat;
mod kernel;
pub mod ledger;
mod listener;
mod lock;
pub mod log;
mod memory;
mod notify;
pub mod operator;
pub mod partition;
pub mod peer;
mod report;
pub mod selftest;
pub mod session;
pub mod status;
pub mod store;
mod takeover;
mod tenants;
mod token;
mod transits;
mod wait;
