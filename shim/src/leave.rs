// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is done when the process exits with launches under way.
//!
//! Under MPS a process that ends with some milliseconds of work unfinished takes its neighbours along
//! (ARCHITECTURE.md, "Death, holds and gates, measured"), and `exit()` waits for none. So a handler
//! (`atexit`) waits for what was launched, but not for ever, and then ends the chains that are left at their
//! next gates, which leaves the atoms that run. It waits first, because what the program does after this
//! handler, in destructors, may itself wait for a launch, and one that is halted never completes. A process
//! that is killed runs no handler; for it the broker does as much as it can.

use std::time::{Duration, Instant};

use lithos_abi::ring::{Progress, RingReader};

use crate::channel::Managed;
use crate::start;

/// How long to wait for what was launched.
const LIMIT: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(100);

/// Has it be done at exit.
pub(crate) fn at_exit() {
    // SAFETY: the handler may run at any exit, and this library stays. If there is no room for one the
    // process ends as it would without.
    unsafe { libc::atexit(leave) };
}

extern "C" fn leave() {
    let Some(shim) = start::shim() else { return };
    crate::callbacks::guarded(|| {
        let deadline = Instant::now() + LIMIT;
        // Whatever is launched from now on is not split.
        shim.contexts.each(Managed::end_begins);
        shim.contexts
            .each(|managed| wait_for_launches(managed, deadline));
        shim.contexts.each(Managed::halt);
    });
}

/// Waits until every launch has completed whose completion will be seen, or time is up.
fn wait_for_launches(managed: &Managed, deadline: Instant) {
    let Some(stamps) = managed.stamps() else {
        return;
    };
    let ring: RingReader<'_> = managed.channel().ring().reader();
    let mut oldest = ring.reserved().saturating_sub(u64::from(ring.records())) + 1;
    while oldest <= ring.reserved() && Instant::now() < deadline {
        match ring.progress(oldest, &stamps) {
            Progress::UnderWay => std::thread::sleep(LOOK),
            Progress::Unwritten | Progress::Ended => oldest += 1,
        }
    }
}
