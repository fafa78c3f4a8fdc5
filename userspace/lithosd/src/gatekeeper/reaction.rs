// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How long it took to shut gates: from the submission of the launch that they were shut for, as its record
//! says it, until the gates of the oldest chains were shut. Nothing if the gates were shut first, which is
//! usual: a launch is seen when its call begins.

use std::sync::Arc;

use lithos_abi::ring::Read;
use lithos_policy::Nanos;
use serde::{Deserialize, Serialize};

use super::member::Member;

/// Samples that are kept.
const KEPT: usize = 4096;

/// The latest samples.
#[derive(Debug, Default)]
pub(super) struct Reactions {
    /// Nanoseconds; a ring.
    samples: Vec<u64>,
    count: u64,
    /// One whose record may not be there yet.
    pending: Option<(Arc<Member>, u64, Nanos)>,
}

/// How long it took to shut gates, in nanoseconds, over the latest times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionStatus {
    /// How often gates were shut because somebody was active.
    pub count: u64,
    /// The median.
    pub p50_ns: u64,
    /// The 99th percentile.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Reactions {
    /// Takes note that gates were shut at a time for a launch of a member.
    pub(super) fn begin(&mut self, member: Arc<Member>, launch: u64, done: Nanos) {
        self.settle();
        self.pending = Some((member, launch, done));
    }

    /// Looks when the launch was submitted, if its record is there by now.
    pub(super) fn settle(&mut self) {
        let Some((member, launch, done)) = &self.pending else {
            return;
        };
        if let Read::Record(record) = member.live.ring().read(*launch) {
            let sample = done.0.saturating_sub(record.submitted_ns);
            let at = usize::try_from(self.count).unwrap_or(0) % KEPT;
            match self.samples.get_mut(at) {
                Some(place) => *place = sample,
                None => self.samples.push(sample),
            }
            self.count += 1;
        }
        self.pending = None;
    }

    pub(super) fn status(&self) -> ReactionStatus {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let Some(last) = sorted.len().checked_sub(1) else {
            return ReactionStatus::default();
        };
        let at = |percent: usize| sorted[(percent * sorted.len()).div_ceil(100).max(1) - 1];
        ReactionStatus {
            count: self.count,
            p50_ns: at(50),
            p99_ns: at(99),
            max_ns: sorted[last],
        }
    }
}
