// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! GPUs and contexts.

use std::ptr;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute as Attribute};

use super::{Error, check};

/// A GPU, as the driver numbers them for this process.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    device: CUdevice,
    /// Its SMs, as the driver tells them.
    pub sms: u32,
    /// The most shared memory that a block can opt in to.
    pub shared_bytes_max: u32,
}

impl Gpu {
    /// Finds a GPU by its number.
    pub fn find(ordinal: i32) -> Result<Self, Error> {
        let mut count = 0;
        // SAFETY: the driver is initialised and writes one integer.
        check("cuDeviceGetCount", unsafe {
            sys::cuDeviceGetCount(&raw mut count)
        })?;
        if !(0..count).contains(&ordinal) {
            return Err(Error::NoGpu { ordinal, count });
        }
        let mut device = 0;
        // SAFETY: writes one handle.
        check("cuDeviceGet", unsafe {
            sys::cuDeviceGet(&raw mut device, ordinal)
        })?;
        Ok(Self {
            device,
            sms: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_max: attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        })
    }

    /// Makes waiting for the GPU a loop instead of a sleep; takes effect for a primary context that
    /// is not yet in use.
    pub fn spin_when_waiting(&self) -> Result<(), Error> {
        let flags = sys::CUctx_flags_enum::CU_CTX_SCHED_SPIN as u32;
        // SAFETY: plain values.
        check("cuDevicePrimaryCtxSetFlags", unsafe {
            sys::cuDevicePrimaryCtxSetFlags_v2(self.device, flags)
        })
    }

    /// Retains the primary context and makes it current to this thread.
    pub fn primary(&self) -> Result<Context, Error> {
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut context, self.device)
        })?;
        let context = Context {
            handle: context,
            owned: false,
        };
        context.make_current()?;
        Ok(context)
    }

    /// Gives one retain of the primary context back.
    pub fn release_primary(&self) -> Result<(), Error> {
        // SAFETY: plain values.
        check("cuDevicePrimaryCtxRelease", unsafe {
            sys::cuDevicePrimaryCtxRelease_v2(self.device)
        })
    }

    /// Destroys whatever the primary context holds.
    pub fn reset_primary(&self) -> Result<(), Error> {
        // SAFETY: plain values; the caller uses no handle of the old context again.
        check("cuDevicePrimaryCtxReset", unsafe {
            sys::cuDevicePrimaryCtxReset_v2(self.device)
        })
    }

    /// Makes a context of its own, current to this thread, destroyed when dropped.
    pub fn new_context(&self) -> Result<Context, Error> {
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle.
        check("cuCtxCreate", unsafe {
            sys::cuCtxCreate_v4(&raw mut context, ptr::null_mut(), 0, self.device)
        })?;
        Ok(Context {
            handle: context,
            owned: true,
        })
    }
}

fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32, Error> {
    let mut value = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGetAttribute", unsafe {
        sys::cuDeviceGetAttribute(&raw mut value, attribute, device)
    })?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// A context.
#[derive(Debug)]
pub struct Context {
    handle: CUcontext,
    owned: bool,
}

// SAFETY: a context may be used from any thread; the driver locks.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Makes it the one that this thread's calls are about.
    pub fn make_current(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive as long as `self`.
        check("cuCtxSetCurrent", unsafe {
            sys::cuCtxSetCurrent(self.handle)
        })
    }

    /// Waits for everything in the current context.
    pub fn synchronize() -> Result<(), Error> {
        // SAFETY: takes no arguments.
        check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }

    /// Destroys the context, and says whether that worked.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.owned = false;
        // SAFETY: the handle came from cuCtxCreate and is not used again.
        check("cuCtxDestroy", unsafe { sys::cuCtxDestroy_v2(self.handle) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: the handle came from cuCtxCreate and is not used again.
            unsafe { sys::cuCtxDestroy_v2(self.handle) };
        }
    }
}
