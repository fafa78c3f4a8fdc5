// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `liblithos_shim.so`: what makes an unmodified CUDA program a tenant.
//!
//! The driver loads it (`CUDA_INJECTION64_PATH`) at `cuInit` and calls [`InitializeInjection`]. From
//! then on the driver itself calls us back: just before it uploads a launch descriptor, which we
//! restrict to the TPCs of the grant and which the GPU then stamps on completion; and around the
//! few API functions that tell us about contexts and streams.
//!
//! ```text
//! callbacks.rs   the driver calls           launch.rs    one descriptor: grant, mask, stamp, record
//!   driver.rs    we call the driver           widen.rs   sets of TPCs that a launch fits into
//!   api.rs       arguments of API calls       channel.rs what launches of one context share
//!   local.rs     what a thread remembers    contexts.rs  contexts come and go, channels with them
//!   stream.rs    which stream is meant        table.rs   CUcontext -> channel, without a lock
//!   ticket.rs    what a launch call holds     clock.rs    the time of a launch
//!   link.rs      the tie to a broker        watch.rs    a thread that waits for a restarted daemon
//! ```
//!
//! Rules of the launch path (everything that the descriptor callback reaches): it runs under locks of
//! the driver, so it makes no CUDA call, takes no lock, makes no system call and does not allocate.
//! Nothing unwinds into the driver: every callback catches panics, and a caught one makes the shim
//! inert. Nothing is ever freed at exit: other threads may launch until the process is gone.

mod api;
mod attribute;
mod backlog;
mod callbacks;
mod channel;
mod clock;
mod config;
mod contexts;
mod driver;
mod launch;
mod leave;
mod link;
mod local;
mod operators;
mod places;
mod priority;
mod report;
mod split;
mod start;
mod stream;
mod table;
mod ticket;
mod wait;
mod watch;
mod widen;

use std::ffi::c_int;

/// Called by the CUDA driver, once, inside `cuInit`. Whatever happens, the program goes on as if
/// LithOS were not there, unless its partition demands otherwise.
#[unsafe(no_mangle)]
pub extern "C" fn InitializeInjection() -> c_int {
    callbacks::guarded(start::start);
    // Anything but 1 would be taken for a library that failed to load.
    1
}
