// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Chains: which launches become one, its words, and what a GPU makes of them.

mod arena;
mod gpu;
#[path = "../recorded/mod.rs"]
mod recorded;
mod runs;
mod split;
mod words;
