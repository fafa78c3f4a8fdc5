// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Signals whose handlers run in the middle of launches: a profiler's timer, and another thread's.
//!
//! The handler does what a handler may: it counts, asks for the time and makes a system call.

use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::ensure;
use lithos_tests::cuda::{Gpu, Stream};
use serde::Serialize;

use super::super::work::Work;
use super::Tally;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Signals that another thread sends, each when the one before has been handled.
    #[arg(long, default_value_t = 3000)]
    signals: u64,
    /// Interval of the timer.
    #[arg(long, default_value_t = 500)]
    timer_us: u32,
    /// System calls that a signal interrupts go on after it (SA_RESTART); contexts, too, are made and
    /// destroyed under signals then, which opens files and talks to others.
    #[arg(long)]
    restart: bool,
}

#[derive(Serialize)]
struct Handled {
    sent: u64,
    handled: u64,
    timer: u64,
    contexts: u64,
}

/// Signals that were handled: another thread's, the timer's.
static SENT: AtomicU64 = AtomicU64::new(0);
static TIMER: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    // SAFETY: the place of this thread's error number, which a handler leaves as it was; and two calls
    // that are safe in a handler, with a place for what one of them says.
    unsafe {
        let error = libc::__errno_location();
        let before = *error;
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
        libc::write(-1, ptr::null(), 0);
        *error = before;
    }
    let count = if signal == libc::SIGALRM {
        &TIMER
    } else {
        &SENT
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// Has a signal handled.
pub(super) fn handle(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int),
    restart: bool,
) -> anyhow::Result<()> {
    // SAFETY: zeroes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: the handlers here do only what a handler may.
    let status = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    ensure!(
        status == 0,
        "sigaction: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Sends a signal to a thread that has not been joined.
pub(super) fn send<T>(thread: &JoinHandle<T>, signal: libc::c_int) {
    // SAFETY: the thread exists until it is joined; a number of a signal.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), signal) };
}

fn set_timer(interval_us: u32) -> anyhow::Result<()> {
    let interval = libc::timeval {
        tv_sec: 0,
        tv_usec: interval_us.into(),
    };
    let timer = libc::itimerval {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: the timer is read.
    let status = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    ensure!(
        status == 0,
        "setitimer: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let context = gpu.primary()?;
    handle(libc::SIGALRM, on_signal, arguments.restart)?;
    handle(libc::SIGUSR1, on_signal, arguments.restart)?;
    set_timer(arguments.timer_us)?;
    let (signals, restart) = (arguments.signals, arguments.restart);
    let launching = std::thread::spawn(move || -> anyhow::Result<(Tally, u64)> {
        let mut tally = Tally::default();
        let mut contexts = 0;
        context.make_current()?;
        let work = Work::load(&gpu)?;
        let stream = Stream::new()?;
        while SENT.load(Ordering::Relaxed) < signals {
            tally.launch(&work, &stream, 16)?;
            if restart && contexts * 300 < SENT.load(Ordering::Relaxed) {
                let own = gpu.new_context()?;
                contexts += 1;
                tally.launch(&Work::load(&gpu)?, &Stream::new()?, 4)?;
                own.destroy()?;
                context.make_current()?;
            }
        }
        // Launches without signals work as before.
        tally.launch(&work, &stream, 16)?;
        Ok((tally, contexts))
    });
    let mut sent = 0;
    while sent < signals && !launching.is_finished() {
        send(&launching, libc::SIGUSR1);
        sent += 1;
        while SENT.load(Ordering::Relaxed) < sent && !launching.is_finished() {
            std::thread::yield_now();
        }
        // Not always as soon as possible, or every one would hit the same place.
        for _ in 0..sent % 64 * 50 {
            std::hint::spin_loop();
        }
    }
    let (tally, contexts) = launching.join().expect("the thread panicked")?;
    set_timer(0)?;
    let handled = Handled {
        sent,
        handled: SENT.load(Ordering::Relaxed),
        timer: TIMER.load(Ordering::Relaxed),
        contexts,
    };
    super::report_and_stay("signals", tally, handled)
}
