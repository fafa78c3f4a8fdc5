// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A real `lithosd` over its sockets: no GPU, made-up boards, fake tenants.

mod channels;
mod command;
mod gates;
mod harness;
mod hostile;
mod life;
mod raw;
mod refusals;
mod takeover;
