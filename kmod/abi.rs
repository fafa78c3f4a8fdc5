// SPDX-License-Identifier: GPL-2.0
//! What `include/lithos.h` says, in Rust: bindgen's, the same file as the daemon's and the shim's.

#![allow(
    dead_code,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub
)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

include!("../userspace/abi/src/bindings.rs");
