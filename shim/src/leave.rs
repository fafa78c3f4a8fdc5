// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is done when the process exits with launches under way.
//!
//! Under MPS a process that ends with some milliseconds of work unfinished takes its neighbours along
//! (ARCHITECTURE.md, "Death, holds and gates, measured"), and `exit()` waits for none. So a handler
//! (`atexit`) ends the chains at their next gates, which leaves the atoms that run, and waits for the launches
//! that are not split; not for those behind a chain, which never run, and not for ever. A process that is
//! killed runs no handler; for it the broker does as much as it can.

use std::time::{Duration, Instant};

use lithos_abi::bindings::{LITHOS_RECORD_SPLIT, LITHOS_RECORD_STAMPED};
use lithos_abi::grant::Order;
use lithos_abi::ring::{Progress, Read, RingReader};

use crate::channel::Managed;
use crate::start;

/// How long to wait for launches that are not split.
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
        shim.contexts.each(|managed| {
            // Whatever is launched from now on is not split.
            managed.end_begins();
            managed.store_into_gates(Order::Halt);
        });
        shim.contexts.each(|managed| {
            while has_under_way(managed) && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
        });
    });
}

/// Returns whether something runs that will complete: a launch that is not split, and not behind one in its
/// stream that is.
fn has_under_way(managed: &Managed) -> bool {
    let Some(stamps) = managed.stamps() else {
        return false;
    };
    let ring: RingReader<'_> = managed.channel().ring().reader();
    let last = ring.reserved();
    let first = last.saturating_sub(u64::from(ring.records())) + 1;
    let mut halted = Vec::new();
    for sequence in first..=last {
        if ring.progress(sequence, &stamps) != Progress::UnderWay {
            continue;
        }
        let Read::Record(record) = ring.read(sequence) else {
            continue;
        };
        if record.flags & LITHOS_RECORD_SPLIT != 0 {
            halted.push(record.stream);
        } else if record.flags & LITHOS_RECORD_STAMPED != 0 && !halted.contains(&record.stream) {
            return true;
        }
    }
    false
}
