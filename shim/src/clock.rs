// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The time of a launch: CLOCK_MONOTONIC in nanoseconds, for less than half of what asking for it costs.
//!
//! A thread asks the kernel's clock about once a millisecond (by the vDSO, so without a system call)
//! and in between adds what the processor's time stamp counter has counted since. How fast that counts
//! is learned from two answers of the kernel's clock that lie some way apart.
//!
//! ```text
//! ns = anchor.ns + (counter - anchor.counter) * rate / 2^32      while less than WINDOW_NS have passed
//! ```
//!
//! Only where the kernel itself keeps its time by that counter: it has checked that the counter never
//! stops and is the same on all CPUs. The error is what the clock is slewed in a millisecond (below a
//! microsecond), so a thread may see time stand still for a moment when it asks again.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long a thread goes without asking, in nanoseconds.
const WINDOW_NS: u64 = 1_000_000;
/// How far apart two answers have to be to learn the rate from, in nanoseconds: an answer may be late by
/// a tenth of a microsecond, and the rate is then wrong by 10 parts per million.
const LEARN_NS: std::ops::RangeInclusive<u64> = 10_000_000..=1_000_000_000;

/// Nanoseconds of 2^32 ticks of the counter; 0 while it is not known.
static RATE: AtomicU64 = AtomicU64::new(0);

/// What a thread knows about the time.
pub(crate) struct Clock {
    /// An answer of the kernel's clock, and the counter at about that time.
    anchor_ns: Cell<u64>,
    anchor_ticks: Cell<u64>,
    /// For so many ticks from then on the thread does not ask again.
    window_ticks: Cell<u64>,
    /// An earlier answer, to learn the rate from.
    first_ns: Cell<u64>,
    first_ticks: Cell<u64>,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self {
            anchor_ns: Cell::new(0),
            anchor_ticks: Cell::new(0),
            window_ticks: Cell::new(0),
            first_ns: Cell::new(0),
            first_ticks: Cell::new(0),
        }
    }

    /// Returns the time in nanoseconds. Makes no system call.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.at(ticks())
    }

    #[inline]
    fn at(&self, ticks: u64) -> u64 {
        let passed = ticks.wrapping_sub(self.anchor_ticks.get());
        if passed < self.window_ticks.get() {
            return self.anchor_ns.get() + scale(passed, RATE.load(Ordering::Relaxed));
        }
        self.ask(ticks)
    }

    /// Asks the kernel's clock, and learns from what it says.
    #[cold]
    fn ask(&self, ticks: u64) -> u64 {
        let now_ns = kernel_ns();
        if is_steady() {
            self.learn(ticks, now_ns);
        }
        now_ns
    }

    fn learn(&self, ticks: u64, now_ns: u64) {
        let (apart_ns, apart_ticks) = (
            now_ns.wrapping_sub(self.first_ns.get()),
            ticks.wrapping_sub(self.first_ticks.get()),
        );
        if LEARN_NS.contains(&apart_ns)
            && let Some(rate) = rate(apart_ns, apart_ticks)
        {
            RATE.store(rate, Ordering::Relaxed);
        }
        if apart_ns >= *LEARN_NS.start() {
            self.first_ns.set(now_ns);
            self.first_ticks.set(ticks);
        }
        self.anchor_ns.set(now_ns);
        self.anchor_ticks.set(ticks);
        let window_ticks = (WINDOW_NS << 32).checked_div(RATE.load(Ordering::Relaxed));
        self.window_ticks.set(window_ticks.unwrap_or(0));
    }
}

/// Returns the nanoseconds of 2^32 ticks; `None` if no counter counts like that (it was set back, or
/// the machine slept).
fn rate(ns: u64, ticks: u64) -> Option<u64> {
    let rate = (u128::from(ns) << 32).checked_div(ticks.into())?;
    // From 100 MHz to 100 GHz.
    let plausible = (1 << 32) / 100..=(1 << 32) * 10;
    u64::try_from(rate)
        .ok()
        .filter(|rate| plausible.contains(rate))
}

/// Returns the nanoseconds of so many ticks, which are not more than a window's.
#[inline]
fn scale(ticks: u64, rate: u64) -> u64 {
    ticks.wrapping_mul(rate) >> 32
}

/// Reads the counter; 0 where there is none.
#[inline]
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads a register and exists on every such processor.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Returns whether the kernel keeps its own time by the counter. Looks once, when the shim starts.
pub(crate) fn is_steady() -> bool {
    static STEADY: OnceLock<bool> = OnceLock::new();
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_arch = "x86_64")
        && *STEADY
            .get_or_init(|| std::fs::read_to_string(SOURCE).is_ok_and(|it| it.trim() == "tsc"))
}

/// Asks the kernel's clock, by the vDSO.
pub(crate) fn kernel_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the answer, and this clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_counter_or_none() {
        // 2.5 GHz: 25 million ticks in 10 ms.
        let found = rate(10_000_000, 25_000_000).expect("a rate");
        assert_eq!(scale(2_500_000, found), 999_999, "rounded down");
        assert_eq!(rate(10_000_000, 0), None);
        assert_eq!(rate(10_000_000, 1), None, "100 Hz");
        assert_eq!(rate(10_000_000, u64::MAX - 5), None, "it was set back");
    }

    #[test]
    fn a_window_of_the_slowest_counter_does_not_overflow() {
        for ticks in [WINDOW_NS / 10, WINDOW_NS * 100] {
            let rate = rate(WINDOW_NS, ticks).expect("a rate");
            let window = (WINDOW_NS << 32) / rate;
            let wide = u128::from(window) * u128::from(rate);
            assert_eq!(u128::from(scale(window, rate)), wide >> 32);
        }
    }

    #[test]
    fn the_time_is_the_kernels_and_never_ahead_of_it_by_a_window() {
        let clock = Clock::new();
        let begin = kernel_ns();
        // Long enough to learn the rate, and to use it.
        while kernel_ns() < begin + 5 * *LEARN_NS.start() {
            let before = kernel_ns();
            let found = clock.now_ns();
            let after = kernel_ns();
            assert!(found + WINDOW_NS > before, "{found} is before {before}");
            assert!(found < after + WINDOW_NS, "{found} is after {after}");
        }
        assert_eq!(RATE.load(Ordering::Relaxed) != 0, is_steady());
    }

    #[test]
    fn a_counter_that_jumps_is_not_believed() {
        let clock = Clock::new();
        clock.anchor_ns.set(1);
        clock.anchor_ticks.set(1 << 40);
        clock.window_ticks.set(1000);
        for ticks in [0, (1 << 40) - 1, (1 << 40) + 1000, u64::MAX] {
            let before = kernel_ns();
            clock.anchor_ticks.set(1 << 40);
            clock.window_ticks.set(1000);
            assert!(clock.at(ticks) >= before, "{ticks}");
        }
    }
}
