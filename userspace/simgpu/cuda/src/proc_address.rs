// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cuGetProcAddress`: functions by base name, CUDA version and kind of default stream.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::driver::VERSION;
use crate::error::{Error, Outcome};
use crate::symbols::{Call, SYMBOLS, Symbol};

/// Flags: functions whose null stream is the thread's own are wanted.
const PER_THREAD: u64 = 2;
/// Flags: the legacy null stream is wanted, said aloud or by default.
const LEGACY: [u64; 2] = [0, 1];

/// What a search came to, in numbers of `CUdriverProcAddressQueryResult`.
const FOUND: c_int = 0;
const UNKNOWN: c_int = 1;
const TOO_NEW: c_int = 2;

/// The symbol for a request: the newest version that the program knows, with its per-thread twin
/// preferred if that is wanted.
fn search(name: &CStr, version: c_int, per_thread: bool) -> (Option<&'static Symbol>, c_int) {
    let mut named = SYMBOLS
        .iter()
        .filter(|symbol| symbol.base.to_bytes() == name.to_bytes())
        .peekable();
    if named.peek().is_none() {
        return (None, UNKNOWN);
    }
    let best = named
        .filter(|symbol| symbol.since <= version && (per_thread || !symbol.per_thread))
        .max_by_key(|symbol| (symbol.per_thread, symbol.since));
    (best, if best.is_some() { FOUND } else { TOO_NEW })
}

/// Finds a symbol and says how it went; not finding one is no error here.
///
/// # Safety
///
/// `name` is null or a string; `out` is null or may be written.
unsafe fn find(
    name: *const c_char,
    out: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Result<c_int, Error> {
    let known_flags = flags == PER_THREAD || LEGACY.contains(&flags);
    if version > VERSION || version <= 0 || !known_flags {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: the caller passes a string and lends the place.
    unsafe {
        let (symbol, status) = search(crate::read_text(name)?, version, flags == PER_THREAD);
        let address = symbol.map_or(std::ptr::null_mut(), |symbol| symbol.address.cast_mut());
        crate::write(out, address)?;
        Ok(status)
    }
}

pub(crate) unsafe fn get_v1(
    _: Call,
    name: *const c_char,
    out: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Outcome {
    // SAFETY: the same contract.
    match unsafe { find(name, out, version, flags)? } {
        FOUND => Ok(()),
        _ => Err(Error::NOT_FOUND),
    }
}

pub(crate) unsafe fn get(
    _: Call,
    name: *const c_char,
    out: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut c_int,
) -> Outcome {
    // SAFETY: the same contract; the status is for whoever wants it.
    unsafe {
        let found = find(name, out, version, flags)?;
        crate::write_optional(status, found);
    }
    Ok(())
}
