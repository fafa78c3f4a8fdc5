// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Descriptors that run nothing: how long the way through them takes.
//!
//! On an H100 it takes about 3.5 us from one descriptor to the next that it schedules, and a shut gate,
//! which is two NULL descriptors that schedule each other, is gone round in about 7.5 us. Here the same
//! holds at first. But a gate can be shut for minutes, nothing happens in it, and every turn costs the
//! host CPU something; so the longer the way has led through nothing but NULL descriptors, the longer
//! each further step takes, up to a limit. What a gate costs then is bounded, and the price is that an
//! open gate is noticed late: by an eighth of the time for which it was shut, and never by more than
//! two steps of the limit. Those who have come to the limit take their steps at the same moments, so that
//! the server wakes up once for all of them.

/// From one descriptor to the next that it schedules.
const HOP_NS: u64 = 3_700;
/// The same for who has gone round for long.
const HOP_NS_MAX: u64 = 1_000_000;
/// The share of the time that was spent on nothing which the next step takes.
const SHARE: u64 = 16;

/// When a descriptor that is scheduled at `at_ns` begins, after so much time in which none ran anything.
pub(super) fn next_ns(at_ns: u64, idle_ns: u64) -> u64 {
    let next_ns = at_ns + (idle_ns / SHARE).clamp(HOP_NS, HOP_NS_MAX);
    if next_ns < at_ns + HOP_NS_MAX {
        next_ns
    } else {
        next_ns / HOP_NS_MAX * HOP_NS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_gone_round_at_the_hardwares_pace_at_first_and_five_hundred_times_a_second_in_the_end()
     {
        let at_ns = 5_000_400_000;
        let hop_ns = |idle_ns| next_ns(at_ns, idle_ns) - at_ns;
        assert_eq!([0, HOP_NS, 8 * HOP_NS].map(hop_ns), [HOP_NS; 3]);
        assert_eq!(hop_ns(160 * HOP_NS), 10 * HOP_NS);
        let minute_ns = 60_000_000_000;
        assert_eq!(next_ns(at_ns, minute_ns), 5_001_000_000);
        assert_eq!(next_ns(5_001_000_000, minute_ns), 5_002_000_000);
    }
}
