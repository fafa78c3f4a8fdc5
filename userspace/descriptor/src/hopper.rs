// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Version 4.0, which Hopper (H100, H200, GH200) runs.

pub mod fields;

/// The number of 32-bit words of a descriptor: 384 bytes.
pub const WORDS: usize = 96;

/// A whole descriptor.
pub type Words = [u32; WORDS];
