// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How the CUDA driver hands descriptors over: the table of its callbacks, and what they carry.
//!
//! None of it is documented by NVIDIA; it was measured on driver 580.159.04. Whoever uses it checks
//! what can be checked (sizes, results), and edits nothing on a driver without a proof.

use core::ffi::{c_int, c_void};

/// UUID of the export table with the callbacks, for `cuGetExportTable`.
pub const TABLE: [u8; 16] = [
    0x2c, 0x8e, 0x0a, 0xd8, 0x07, 0x10, 0xab, 0x4e, 0x90, 0xdd, 0x54, 0x71, 0x9f, 0xe5, 0xf7, 0x4b,
];

/// Which entry of the table is [`Subscribe`].
pub const SUBSCRIBE: usize = 3;
/// Which entry of the table is [`Enable`].
pub const ENABLE: usize = 6;

/// Domain of API calls; the numbers in it are CUPTI's.
pub const DOMAIN_API: c_int = 6;
/// Domain of descriptors that are about to be uploaded.
pub const DOMAIN_DESCRIPTOR: c_int = 0xb;
/// The one number in the domain of descriptors.
pub const DESCRIPTOR: c_int = 1;

/// What the driver calls: user data, domain, number within the domain, parameters. The parameters
/// are words of eight bytes; the first begins with their size in bytes, a `u32`.
pub type Callback = unsafe extern "C" fn(*mut c_void, c_int, c_int, *const c_void);
/// `subscribe(handle *, callback, user data)`: there is one subscriber per process. It returns
/// numbers that are not all among the driver's documented results.
pub type Subscribe = unsafe extern "C" fn(*mut u32, Callback, *mut c_void) -> u32;
/// `enable(1, handle, domain, number)`.
pub type Enable = unsafe extern "C" fn(u32, u32, c_int, c_int) -> u32;

/// Words of the descriptor callback, and how many bytes there must be for all of them to exist.
pub mod descriptor_words {
    /// How large the parameters are at least.
    pub const BYTES: u32 = 0x28;
    /// The `CUcontext`.
    pub const CONTEXT: usize = 1;
    /// The `CUfunction`.
    pub const FUNCTION: usize = 3;
    /// Address of the descriptor.
    pub const DESCRIPTOR: usize = 4;
}
