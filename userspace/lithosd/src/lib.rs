// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon `lithosd`, and what it shares with the command `lithos`.
//!
//! ```text
//!   tenants --SEQPACKET--> tenants.rs --+                       +--> lithos-policy
//!                          session.rs   +--> broker.rs ---------+
//!   lithos  --STREAM-----> clients.rs --+    operator.rs        +--> grant.rs: grant pages
//!                                            report.rs          +--> ledger.rs: rings and stamps
//!                 daemon.rs: one thread, one place that waits
//! ```

pub mod board;
pub mod broker;
pub mod clients;
pub mod config;
pub mod control;
pub mod daemon;
pub mod discover;
pub mod file;
pub mod gpu;
mod grant;
pub mod ledger;
mod listener;
pub mod operator;
pub mod partition;
pub mod peer;
mod report;
pub mod selftest;
pub mod session;
pub mod status;
pub mod store;
mod tenants;
mod token;
