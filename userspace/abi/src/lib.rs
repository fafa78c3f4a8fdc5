// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The shared pages and messages of `include/lithos.h`, in Rust.
//!
//! [`bindings`] is bindgen's output, sizes and offsets asserted. Beside it stand the accessors, one
//! file per piece of shared memory, which know in what order words must be read and written:
//!
//! | piece | tenant | scheduler |
//! | --- | --- | --- |
//! | [`grant`] page | reads | writes |
//! | [`ring`] | writes | reads, believes nothing |
//! | [`arena`] | lends it to the GPU, which writes stamps | reads stamps |
//! | [`message`]s | to the embedded broker | from the tenant |
//!
//! Shared memory can change under its reader at any time, so nothing here ever makes a reference to
//! it: all access goes through atomic words of a [`Page`].

/// What bindgen makes of `include/lithos.h`.
#[rustfmt::skip]
#[allow(missing_docs, non_camel_case_types, unreachable_pub, clippy::undocumented_unsafe_blocks)]
pub mod bindings;

pub mod arena;
pub mod chain;
pub mod grant;
pub mod message;
mod page;
pub mod ring;

pub use bindings::{
    lithos_counter, lithos_grant, lithos_record, lithos_region, lithos_stamp, lithos_tpcs,
};
pub use page::Page;
