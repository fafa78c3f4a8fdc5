// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A launch call waits before it begins, where what is under way is bounded, or held: see
//! [`backlog`](crate::backlog). Only at the begin of a call, where the driver holds no lock, and before the
//! launch has a sequence: nobody waits for it then. Whoever schedules is told that somebody waits, because it
//! sees no launches of it.

use std::hint;

use lithos_abi::bindings::{LITHOS_COUNT_IMPATIENT, LITHOS_COUNT_WAITED};
use lithos_abi::ring::Progress;

use crate::backlog::{LOOK, SPIN_NS, State, Verdict};
use crate::channel::Managed;
use crate::local::Local;
use crate::split::Foreseen;

/// Waits until a launch that is not split may begin; one of a graph is held, and not bounded.
#[cold]
#[inline(never)]
pub(crate) fn until_allowed(managed: &Managed, launch: Option<&Foreseen>, local: &Local) {
    let begin_ns = local.clock.now_ns();
    let mut waits = false;
    loop {
        let now_ns = local.clock.now_ns();
        let verdict = look(managed, launch, now_ns);
        if verdict != Verdict::Wait {
            if verdict == Verdict::GoAnyway {
                managed.ring().count(LITHOS_COUNT_IMPATIENT);
            }
            break;
        }
        if !waits {
            managed.ring().note_waiting(true);
            waits = true;
        }
        if now_ns.saturating_sub(begin_ns) < SPIN_NS {
            (0..16).for_each(|_| hint::spin_loop());
        } else {
            std::thread::sleep(LOOK);
        }
    }
    if waits {
        managed.ring().note_waiting(false);
        managed.ring().count(LITHOS_COUNT_WAITED);
    }
}

fn look(managed: &Managed, launch: Option<&Foreseen>, now_ns: u64) -> Verdict {
    let (Some(stamps), Some(chains)) = (managed.stamps(), managed.chains()) else {
        return Verdict::Go;
    };
    let ring = managed.ring().reader();
    let state = |sequence| match ring.progress(sequence, &stamps) {
        Progress::UnderWay => State::UnderWay,
        Progress::Unwritten | Progress::Ended => {
            State::Completed(stamps.completed_gpu_ns(ring.place(sequence), sequence))
        }
    };
    let operators = &managed.splitting(&chains).operators;
    let sizes = match launch {
        Some(launch) => (launch.short(0, 0).predicted_ns, managed.bound_ns()),
        None => (0, u64::MAX),
    };
    let is_held = managed.is_held(now_ns);
    (managed.backlog()).look(now_ns, is_held, sizes, state, |short, took_ns| {
        operators.learn_whole(short.operator, took_ns, short.tpcs);
    })
}
