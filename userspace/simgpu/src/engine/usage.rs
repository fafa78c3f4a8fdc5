// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How busy a GPU has been: the share of the last second in which at least one block was resident.

use std::collections::VecDeque;

/// What utilization is a share of.
const WINDOW_NS: u64 = 1_000_000_000;
/// The window is kept in pieces of this length.
const BUCKET_NS: u64 = 10_000_000;

/// Busy time, in pieces.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Number of the piece (its time divided by its length) and the time in it that was busy.
    buckets: VecDeque<(u64, u64)>,
    busy_since_ns: Option<u64>,
}

impl Usage {
    /// Notes that the GPU is busy, or is not, from a moment on.
    pub(super) fn set_busy(&mut self, busy: bool, at_ns: u64) {
        match (busy, self.busy_since_ns) {
            (true, None) => self.busy_since_ns = Some(at_ns),
            (false, Some(since_ns)) => {
                self.add(since_ns, at_ns);
                self.busy_since_ns = None;
            }
            _ => {}
        }
    }

    /// The share of the window before `now_ns` that was busy, in percent.
    pub(super) fn percent(&mut self, now_ns: u64) -> u32 {
        if let Some(since_ns) = self.busy_since_ns.filter(|&since_ns| since_ns < now_ns) {
            self.add(since_ns, now_ns);
            self.busy_since_ns = Some(now_ns);
        }
        let first = now_ns.saturating_sub(WINDOW_NS) / BUCKET_NS;
        let busy: u64 = self
            .buckets
            .iter()
            .filter(|&&(bucket, _)| bucket >= first)
            .map(|&(_, busy_ns)| busy_ns)
            .sum();
        u32::try_from((busy * 100 / WINDOW_NS).min(100)).unwrap_or(100)
    }

    fn add(&mut self, from_ns: u64, to_ns: u64) {
        let mut at = from_ns.max(to_ns.saturating_sub(WINDOW_NS));
        while at < to_ns {
            let bucket = at / BUCKET_NS;
            let end = ((bucket + 1) * BUCKET_NS).min(to_ns);
            match self.buckets.back_mut() {
                Some((last, busy_ns)) if *last >= bucket => *busy_ns += end - at,
                _ => self.buckets.push_back((bucket, end - at)),
            }
            at = end;
        }
        let first = (to_ns / BUCKET_NS).saturating_sub(WINDOW_NS / BUCKET_NS);
        while self
            .buckets
            .front()
            .is_some_and(|&(bucket, _)| bucket < first)
        {
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_of_work_is_half_the_utilization() {
        let mut usage = Usage::default();
        let start = 5 * WINDOW_NS;
        for i in 0..100 {
            let at = start + i * BUCKET_NS;
            usage.set_busy(true, at);
            usage.set_busy(false, at + BUCKET_NS / 2);
        }
        let percent = usage.percent(start + WINDOW_NS);
        assert_eq!(percent, 50);
        assert_eq!(usage.percent(start + 3 * WINDOW_NS), 0);
    }

    #[test]
    fn work_that_goes_on_counts_so_far() {
        let mut usage = Usage::default();
        usage.set_busy(true, WINDOW_NS);
        assert_eq!(usage.percent(WINDOW_NS + WINDOW_NS / 4), 25);
        assert_eq!(usage.percent(4 * WINDOW_NS), 100);
        assert_eq!(usage.percent(5 * WINDOW_NS), 100);
    }
}
