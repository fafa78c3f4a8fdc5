// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon `lithosd` and what it shares with the command `lithos`.

pub mod board;
pub mod config;
mod file;
pub mod ledger;
pub mod partition;
pub mod store;
