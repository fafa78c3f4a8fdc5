// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Streams and events.

use std::ptr;

use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUstream, CUstream_flags};

use super::{Error, check};

/// A stream that does not wait for the default stream. Destroyed when dropped.
#[derive(Debug)]
pub struct Stream {
    handle: CUstream,
}

impl Stream {
    /// Makes a stream of ordinary priority.
    pub fn new() -> Result<Self, Error> {
        Self::with_priority(0)
    }

    /// Takes a stream that was made elsewhere.
    ///
    /// # Safety
    ///
    /// Nobody else destroys it.
    pub unsafe fn from_handle(handle: CUstream) -> Self {
        Self { handle }
    }

    /// Makes a stream of the highest priority that the context offers.
    pub fn urgent() -> Result<Self, Error> {
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: writes two integers.
        check("cuCtxGetStreamPriorityRange", unsafe {
            sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest)
        })?;
        Self::with_priority(greatest)
    }

    /// Returns its priority; higher ones are negative.
    pub fn priority(&self) -> Result<i32, Error> {
        let mut priority = 0;
        // SAFETY: writes one integer.
        check("cuStreamGetPriority", unsafe {
            sys::cuStreamGetPriority(self.handle, &raw mut priority)
        })?;
        Ok(priority)
    }

    fn with_priority(priority: i32) -> Result<Self, Error> {
        let mut handle = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle.
        check("cuStreamCreateWithPriority", unsafe {
            sys::cuStreamCreateWithPriority(&raw mut handle, flags, priority)
        })?;
        Ok(Self { handle })
    }

    /// Waits for everything in the stream.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.handle)
        })
    }

    /// What the driver knows it by.
    pub fn handle(&self) -> CUstream {
        self.handle
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle came from cuStreamCreateWithPriority and is not used again.
        unsafe { sys::cuStreamDestroy_v2(self.handle) };
    }
}

/// A place in a stream that can be waited for. Destroyed when dropped.
#[derive(Debug)]
pub struct Event {
    handle: CUevent,
}

impl Event {
    /// Makes an event that takes no time.
    pub fn new() -> Result<Self, Error> {
        let mut handle = ptr::null_mut();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: writes one handle.
        check("cuEventCreate", unsafe {
            sys::cuEventCreate(&raw mut handle, flags)
        })?;
        Ok(Self { handle })
    }

    /// Puts the event behind everything that is in the stream now.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: both handles are alive.
        check("cuEventRecord", unsafe {
            sys::cuEventRecord(self.handle, stream.handle)
        })
    }

    /// Waits for the place that was recorded last; returns at once if none was.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive.
        check("cuEventSynchronize", unsafe {
            sys::cuEventSynchronize(self.handle)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle came from cuEventCreate and is not used again.
        unsafe { sys::cuEventDestroy_v2(self.handle) };
    }
}
