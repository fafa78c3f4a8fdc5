// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A simulated GPU that obeys launch descriptors as an H100 does, on a CPU.
//!
//! The idea: one *server* process owns the simulated GPUs and their clock. Programs load
//! `libcuda.so.1` (crate `simgpu-cuda`), which builds real launch descriptors, hands them to whoever
//! subscribed to the driver's pre-upload callback, and sends the bytes that come back to the server;
//! the [`engine`] executes those bytes and nothing else. Several programs share a GPU as under MPS.
//!
//! ```text
//!  program ─ libcuda.so.1 ──[wire, a Unix socket]──► server: a reader thread per connection
//!      │                                                 └─► engine: one thread owns every GPU
//!      └──── status page, pinned memory (memfds) ◄──────────────┘
//! ```
//!
//! Time is the wall clock: a block holds its SM for a *modelled* time, the interpreter ([`ptx`]) runs
//! it in small slices as the wall clock reaches them, and a simulation that cannot keep up says so.

pub mod board;
pub mod config;
pub mod descriptor;
pub mod engine;
pub mod fault;
pub mod library;
pub mod page;
pub mod ptx;
pub mod server;
pub mod shared;
pub mod wire;
