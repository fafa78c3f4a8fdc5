// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A launch call waits before it begins, where what is under way is bounded, or held: see
//! [`backlog`](crate::backlog). Only at the begin of a call, where the driver holds no lock, and before the
//! launch has a sequence: nobody waits for it then. Whoever schedules is told that somebody waits, because it
//! sees no launches of it.

use std::hint;

use lithos_abi::bindings::{LITHOS_COUNT_IMPATIENT, LITHOS_COUNT_WAITED};
use lithos_abi::ring::Progress;

use crate::backlog::{LOOK, Look, SLEEP_NS, SPIN_NS, Short, State, Verdict};
use crate::channel::Managed;
use crate::local::Local;
use crate::split::Foreseen;

/// Waits until a launch that is not split may begin; one of a graph is held, and not bounded. Returns whether
/// it had to wait.
#[cold]
#[inline(never)]
pub(crate) fn until_allowed(managed: &Managed, launch: Option<&Foreseen>, local: &Local) -> bool {
    let begin_ns = local.clock.now_ns();
    let mut waits = false;
    loop {
        let now_ns = local.clock.now_ns();
        let verdict = look(managed, launch, begin_ns, now_ns);
        let left_ns = match verdict {
            Verdict::Wait(left_ns) => left_ns,
            Verdict::Go => break,
            Verdict::GoAnyway => {
                managed.ring().count(LITHOS_COUNT_IMPATIENT);
                break;
            }
        };
        if !waits {
            managed.ring().note_waiting(true);
            waits = true;
            // Whoever asks and then finds nobody waiting is woken here.
            if managed.asks_to_ring() {
                managed.ring_bell();
            }
        }
        if left_ns < SLEEP_NS && now_ns.saturating_sub(begin_ns) < SPIN_NS {
            (0..16).for_each(|_| hint::spin_loop());
        } else {
            sleep();
        }
    }
    if waits {
        managed.ring().note_waiting(false);
        managed.ring().count(LITHOS_COUNT_WAITED);
    }
    waits
}

/// Not by the C library: its sleep is a point where the thread can be cancelled, and unwound through us.
fn sleep() {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: LOOK.subsec_nanos().into(),
    };
    // SAFETY: the time is there while the call lasts, and nobody asks how much of it was left.
    unsafe {
        libc::syscall(
            libc::SYS_clock_nanosleep,
            libc::CLOCK_MONOTONIC,
            0,
            &raw const time,
            std::ptr::null_mut::<libc::timespec>(),
        );
    }
}

fn look(managed: &Managed, launch: Option<&Foreseen>, since_ns: u64, now_ns: u64) -> Verdict {
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
    let (predicted_ns, bound_ns) = match launch {
        Some(launch) => (launch.short(0, 0).predicted_ns, managed.bound_ns()),
        None => (0, u64::MAX),
    };
    let look = Look {
        now_ns,
        since_ns,
        is_held: managed.is_held(now_ns),
        predicted_ns,
        bound_ns,
    };
    let has_chains = || chains.any_running();
    let learn = |short: &Short, took_ns| {
        operators.learn_short(short.operator, took_ns, short.tpcs);
    };
    let (verdict, predicted_ns) = (managed.backlog()).look(&look, has_chains, state, learn);
    managed.ring().note_backlog(predicted_ns);
    verdict
}
