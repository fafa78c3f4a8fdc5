// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The clock that does not go back.

use std::time::Duration;

use lithos_policy::Nanos;
use nix::time::{ClockId, clock_gettime};

/// The time.
pub(crate) fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let time = time.map(Duration::from).unwrap_or_default();
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
