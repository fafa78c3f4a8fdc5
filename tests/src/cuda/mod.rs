// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A thin, checked layer over the CUDA driver API: what the test programs need, and errors that name
//! the call that failed.
//!
//! Kernel arguments are 64-bit words: a kernel that takes 32 bits reads the low half, as x86-64 and
//! the GPU are both little-endian.

mod buffer;
mod gpu;
mod kernel;
mod stream;

pub use buffer::{Buffer, HostWords, SmSet};
pub use gpu::{Context, Gpu};
pub use kernel::{Kernel, Module, Shape, source};
pub use stream::{Event, Stream};

use cudarc::driver::sys::{self, CUresult};

/// Why a call did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no driver to call.
    #[error("no libcuda.so.1 was found: install the NVIDIA driver, or run under `simgpu run --`")]
    NoDriver,
    /// The driver said no.
    #[error("{call} returned {result:?}")]
    Call {
        call: &'static str,
        result: CUresult,
    },
    /// The driver has fewer GPUs.
    #[error("there is no GPU {ordinal}: the driver shows {count}")]
    NoGpu { ordinal: i32, count: i32 },
}

impl Error {
    /// The driver's own name for what went wrong.
    pub fn name(&self) -> String {
        match self {
            Self::Call { result, .. } => format!("{result:?}"),
            Self::NoDriver => "no driver".to_owned(),
            Self::NoGpu { .. } => "no GPU".to_owned(),
        }
    }
}

/// Turns a driver's answer into a result that names the call.
pub fn check(call: &'static str, result: CUresult) -> Result<(), Error> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        result => Err(Error::Call { call, result }),
    }
}

/// Loads the driver and initialises it. Every other call needs this first.
pub fn initialise() -> Result<(), Error> {
    // SAFETY: loads libraries by CUDA's well-known names, whose initialisers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    // SAFETY: the library is there; flags must be 0.
    check("cuInit", unsafe { sys::cuInit(0) })
}

/// Whether the driver is simgpu's: then every instruction is interpreted and sizes must be small.
pub fn is_simulated() -> bool {
    std::env::var_os("SIMGPU_SOCKET").is_some()
}
