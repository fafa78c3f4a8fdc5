// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launch descriptors as data: bytes in, bytes out.
//!
//! A kernel launch reaches an NVIDIA GPU as a *launch descriptor* (NVIDIA: QMD). This crate knows
//! where its fields are ([`Layout`], one table per version, from NVIDIA's public headers) and how
//! to edit it with a few word-sized stores. It does no I/O, allocates nothing and contains no
//! `unsafe`; whoever has a descriptor lends it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod field;
pub mod hook;
pub mod hopper;
pub mod layout;
pub mod mask;
pub mod plan;
mod tables;
pub mod template;

pub use field::Field;
pub use layout::{Layout, Version};
pub use mask::TpcMask;
pub use plan::{Plan, Span};
pub use template::Template;
