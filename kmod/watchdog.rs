// SPDX-License-Identifier: GPL-2.0
//! Looks every third of [`LITHOS_HEARTBEAT_STALE_NS`] whether schedulers live, while there is any; so one
//! that ends silently is missed within four thirds of that.

use kernel::prelude::*;

use crate::{abi::LITHOS_HEARTBEAT_STALE_NS, registry};

/// Between two looks, in milliseconds.
const LOOK_MS: c_uint = LITHOS_HEARTBEAT_STALE_NS / 3 / 1_000_000;

extern "C" {
    fn lithos_watchdog_start(after_ms: c_uint);
    fn lithos_watchdog_stop();
}

/// Begins to look, if it does not.
pub(crate) fn wake() {
    // SAFETY: stopped by `stop`, before the module goes.
    unsafe { lithos_watchdog_start(LOOK_MS) };
}

/// Ends. Nobody calls [`wake`] any more.
pub(crate) fn stop() {
    // SAFETY: may sleep, as may this.
    unsafe { lithos_watchdog_stop() };
}

/// Called by glue.c; it returns after how many milliseconds to look again, or 0.
#[no_mangle]
extern "C" fn lithos_watchdog_look() -> c_uint {
    if registry::look_after_schedulers() {
        LOOK_MS
    } else {
        0
    }
}
