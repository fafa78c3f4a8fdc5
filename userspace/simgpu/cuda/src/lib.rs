// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `libcuda.so.1` of the simulated GPU.
//!
//! The idea: programs cannot tell it from a driver for what it does, and are told clearly what it
//! does not do. [`symbols`] is the table of everything that is exported; behind each name stands one
//! function in the module named after its subject. [`launch`] builds a launch descriptor, lets the
//! subscriber edit it ([`callbacks`]) and sends the bytes to the server ([`driver`]).
//!
//! All pointers that functions take are the caller's and follow the rules of CUDA's headers; null is
//! refused where those allow it to be.

mod bank;
mod callbacks;
mod context;
mod copy;
mod device;
mod driver;
mod error;
mod event;
mod file;
mod host_function;
mod launch;
mod library;
mod memory;
mod module;
mod occupancy;
mod proc_address;
mod stream;
mod symbols;

use std::ffi::{CStr, c_char};

use error::Error;

/// Writes a result where the caller wants it.
///
/// # Safety
///
/// `place` is null or may be written.
unsafe fn write<T>(place: *mut T, value: T) -> Result<(), Error> {
    if place.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so the caller promises that it may be written.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes a result where the caller wants it, if it does.
///
/// # Safety
///
/// `place` is null or may be written.
unsafe fn write_optional<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not null, so the caller promises that it may be written.
        unsafe { place.write(value) };
    }
}

/// Reads a name that the caller passed.
///
/// # Safety
///
/// `text` is null or points to a string that ends with a zero.
unsafe fn read_text<'a>(text: *const c_char) -> Result<&'a CStr, Error> {
    if text.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so the caller promises a string.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// Locks a mutex whatever happened to the thread that held it last: every state that is guarded here
/// is whole between two statements.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
