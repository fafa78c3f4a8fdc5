// SPDX-License-Identifier: GPL-2.0
//! Looks whether schedulers live, while there is any, every third of the time for which one may be silent
//! (the parameter `silence_ms`); so one that ends silently is missed within four thirds of that.

use kernel::prelude::*;

use crate::registry;

/// Returns the time between two looks, in milliseconds.
fn look_ms() -> c_uint {
    crate::silence_ms() / 3
}

extern "C" {
    fn lithos_watchdog_start(after_ms: c_uint);
    fn lithos_watchdog_stop();
}

/// Begins to look, if it does not.
pub(crate) fn wake() {
    // SAFETY: stopped by `stop`, before the module goes.
    unsafe { lithos_watchdog_start(look_ms()) };
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
        look_ms()
    } else {
        0
    }
}
