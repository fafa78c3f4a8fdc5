// SPDX-License-Identifier: GPL-2.0
//! Allocations that fail on demand, in builds for tests (`make LITHOS_DEBUG=1`): the parameter
//! `fail_nth` makes the n-th one from now on fail, once. In other builds nothing ever fails here.

use kernel::prelude::*;

/// Fails if it is this allocation's turn.
#[inline]
pub(crate) fn may_fail() -> Result {
    #[cfg(lithos_debug)]
    if injected::is_due() {
        return Err(ENOMEM);
    }
    Ok(())
}

/// Says which allocation from now on is to fail; 0: none.
#[cfg(lithos_debug)]
pub(crate) fn set(nth: u32) {
    injected::LEFT.store(nth as i32, kernel::sync::atomic::ordering::Relaxed);
}

#[cfg(lithos_debug)]
mod injected {
    use kernel::sync::atomic::{Atomic, ordering};

    pub(super) static LEFT: Atomic<i32> = Atomic::new(0);

    pub(super) fn is_due() -> bool {
        LEFT.load(ordering::Relaxed) > 0 && LEFT.fetch_sub(1, ordering::Relaxed) == 1
    }
}
