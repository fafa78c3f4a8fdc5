// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A block's clock: cycles inside, the GPU's nanoseconds outside. Integers only, so that nothing drifts.

use super::special::Clock;
use super::types::mask;

/// How the block's cycles relate to the GPU's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// A moment in both reckonings.
    pub(super) anchor_ns: u64,
    pub(super) anchor_cycle: u64,
    /// What the SM's counter showed when the block's cycle was 0.
    pub(super) counter_base: u64,
    pub(super) clock_khz: u64,
}

impl Time {
    pub(super) fn ns(&self, cycle: u64) -> u64 {
        let cycles = u128::from(cycle.saturating_sub(self.anchor_cycle));
        let ns = cycles * 1_000_000 / u128::from(self.clock_khz);
        self.anchor_ns
            .saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    pub(super) fn cycles(&self, ns: u64) -> u64 {
        let cycles = u128::from(ns) * u128::from(self.clock_khz) / 1_000_000;
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }

    /// The first cycle that is not before `ns`.
    pub(super) fn cycle_at(&self, ns: u64) -> u64 {
        let since = u128::from(ns.saturating_sub(self.anchor_ns));
        let cycles = (since * u128::from(self.clock_khz)).div_ceil(1_000_000);
        self.anchor_cycle
            .saturating_add(u64::try_from(cycles).unwrap_or(u64::MAX))
    }

    pub(super) fn read(&self, clock: Clock, cycle: u64) -> u64 {
        let count = self.counter_base.wrapping_add(cycle);
        match clock {
            Clock::Cycles => count & mask(32),
            Clock::CyclesHigh => count >> 32,
            Clock::Cycles64 => count,
            Clock::Nanoseconds => self.ns(cycle),
            Clock::NanosecondsLow => self.ns(cycle) & mask(32),
            Clock::NanosecondsHigh => self.ns(cycle) >> 32,
        }
    }
}
