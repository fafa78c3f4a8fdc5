// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Places that a caller lends: where results go, and strings that come from there.

use std::ffi::{CStr, c_char, c_uint};

use crate::error::{Error, Outcome};

/// Writes a result.
///
/// # Safety
///
/// `place` must be null or valid for a write.
pub(crate) unsafe fn put<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: not null, so the caller vouches for it.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes a string with its terminating zero.
///
/// # Safety
///
/// `place` must be null or valid for `length` bytes.
pub(crate) unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Outcome {
    if place.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    if length as usize <= text.len() {
        return Err(Error::INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller lends `length` bytes, which is more than the text has.
    unsafe {
        place.cast::<u8>().copy_from(text.as_ptr(), text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads a string.
///
/// # Safety
///
/// `text` must be null or point to a string with a terminating zero that stays as it is for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: not null, so the caller vouches for it.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Error::INVALID_ARGUMENT)
}

/// Fills an array of characters, cutting what does not fit.
pub(crate) fn characters<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, byte) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    array
}
