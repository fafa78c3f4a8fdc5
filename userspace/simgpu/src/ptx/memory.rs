// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Global memory as the interpreter sees it, and what can go wrong there.
//!
//! Only *global* memory is somebody else's: shared, local and parameter space belong to the block.
//! Addresses are generic 64-bit addresses; those with a zero top byte are global, the others lie in
//! the windows below, which no user-space address can collide with.

use super::atomic::Atomic;

/// Where generic addresses of shared memory begin.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000_0000;
/// Where generic addresses of local memory begin.
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000_0000;
/// Where generic addresses of the kernel's parameters begin.
pub const PARAMETER_WINDOW: u64 = 0x0300_0000_0000_0000;

/// The number of bytes that each window spans.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// What an instruction wanted of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Load,
    /// To write it.
    Store,
    /// To read and write it as one.
    Atomic,
}

/// Why a block cannot go on. On hardware each of these ends the whole context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing is mapped there, or not for this access.
    #[error("illegal address {address:#x} ({bytes} bytes, {access:?})")]
    IllegalAddress {
        /// The first byte of the access.
        address: u64,
        /// How many bytes were wanted.
        bytes: u64,
        /// What was wanted.
        access: Access,
    },
    /// The address is no multiple of the size of the access.
    #[error("misaligned address {address:#x} ({bytes} bytes)")]
    Misaligned {
        /// The first byte of the access.
        address: u64,
        /// How many bytes were wanted.
        bytes: u64,
    },
    /// The kernel executed `trap`.
    #[error("the kernel executed trap")]
    Trap,
    /// A barrier number or thread count that the hardware refuses.
    #[error("illegal barrier {barrier} for {threads} threads")]
    IllegalBarrier {
        /// The barrier's number.
        barrier: u64,
        /// The number of threads that were to take part.
        threads: u64,
    },
}

/// Global memory: what the engine owns.
///
/// Loads and stores may come with up to 512 bytes (a warp's neighbouring accesses are merged into
/// one call); every access inside is naturally aligned. An aligned word of 8 bytes or fewer must not
/// be torn as other blocks or the host see it.
pub trait Memory {
    /// Reads `bytes.len()` bytes at `address`.
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault>;

    /// Writes `bytes` at `address`.
    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Replaces the word of `atomic.bytes()` at `address` with `atomic.apply(old, operand, compare)`
    /// as one step and returns the old word.
    fn atomic(
        &self,
        address: u64,
        atomic: Atomic,
        operand: u64,
        compare: u64,
    ) -> Result<u64, Fault>;
}
