// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Is the module's arithmetic right? The same files as in `kmod/`, where a mistake takes the machine down,
//! compiled here, where it takes a test down.

// What the kernel's Rust and edition ask for, and what only the module uses.
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of
)]

use lithos_abi::bindings as abi;

#[path = "../../../kmod/account.rs"]
mod account;
#[path = "../../../kmod/chains.rs"]
mod chains;
#[path = "../../../kmod/geometry.rs"]
mod geometry;
#[path = "../../../kmod/holders.rs"]
mod holders;
#[path = "../../../kmod/nvidia.rs"]
mod nvidia;
#[path = "../../../kmod/queue.rs"]
mod queue;
#[path = "../../../kmod/table.rs"]
mod table;

mod accounts;
mod callers;
mod chained;
mod geometries;
mod queues;
mod tables;
