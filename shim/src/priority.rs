// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Streams of a partition that is lent TPCs have the least priority that there is: what waits in them is behind what
//! waits in those of the lender. Default streams have it anyway.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// The least priority; higher ones are negative.
const LEAST: c_int = 0;

static IS_LEAST: AtomicBool = AtomicBool::new(false);

/// Arguments of `cuStreamCreateWithPriority`.
#[repr(C)]
struct Arguments {
    stream: *mut *mut c_void,
    flags: c_uint,
    priority: c_int,
}

/// Says whether streams that are made from now on have the least priority.
pub(crate) fn set_least(is_least: bool) {
    IS_LEAST.store(is_least, Ordering::Relaxed);
}

/// Changes what a call asks for.
///
/// # Safety
///
/// `arguments` is NULL or points to those of a `cuStreamCreateWithPriority` that is about to begin, and nobody else
/// looks at them meanwhile.
pub(crate) unsafe fn lower(arguments: *const c_void) {
    let arguments = arguments.cast::<Arguments>().cast_mut();
    if arguments.is_null() || !IS_LEAST.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the caller's; the driver acts on what stands there when the callback returns (a statement of
    // conformance says so).
    unsafe { (*arguments).priority = LEAST };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(priority: c_int) -> c_int {
        let mut arguments = Arguments {
            stream: std::ptr::null_mut(),
            flags: 1,
            priority,
        };
        // SAFETY: these are such arguments.
        unsafe { lower((&raw mut arguments).cast_const().cast()) };
        assert_eq!((arguments.flags, arguments.stream.is_null()), (1, true));
        arguments.priority
    }

    #[test]
    fn who_is_lent_tpcs_gets_streams_of_the_least_priority() {
        assert_eq!(asked(-5), -5);
        set_least(true);
        assert_eq!(asked(-5), LEAST);
        set_least(false);
        assert_eq!(asked(-1), -1);
        // SAFETY: there are none.
        unsafe { lower(std::ptr::null()) };
    }
}
