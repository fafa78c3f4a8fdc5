// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The driver as a whole: initialisation and versions.

use std::ffi::{c_char, c_int, c_uint};

use crate::error::Outcome;
use crate::place::{put, put_text};
use crate::session;

/// The driver that is simulated. Programs that must tell simulated GPUs from real ones look for the name.
const DRIVER_VERSION: &str = "580.159.04-simgpu";
/// The NVML that is simulated.
const NVML_VERSION: &str = "13.580.159.04-simgpu";
/// CUDA 13.0.
const CUDA_VERSION: c_int = 13_000;

pub(crate) unsafe fn init() -> Outcome {
    session::open()
}

/// The flags only say what to do without GPUs, or without attaching them: there is nothing to choose.
pub(crate) unsafe fn init_with_flags(_flags: c_uint) -> Outcome {
    session::open()
}

pub(crate) unsafe fn shutdown() -> Outcome {
    session::close()
}

pub(crate) unsafe fn driver_version(version: *mut c_char, length: c_uint) -> Outcome {
    session::check()?;
    // SAFETY: the caller lends the place.
    unsafe { put_text(version, length, DRIVER_VERSION) }
}

pub(crate) unsafe fn nvml_version(version: *mut c_char, length: c_uint) -> Outcome {
    // NVML's own version is known before it is initialised.
    // SAFETY: the caller lends the place.
    unsafe { put_text(version, length, NVML_VERSION) }
}

pub(crate) unsafe fn cuda_version(version: *mut c_int) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { put(version, CUDA_VERSION) }
}
