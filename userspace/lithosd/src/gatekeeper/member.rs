// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One channel, as the gatekeeper sees it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithos_abi::ring::Progress;
use lithos_device::pages::LivePages;
use lithos_policy::{Activity, Class, GpuId, Hand, Nanos, Ration, Standing, TpcSet};
use serde::{Deserialize, Serialize};

use super::chains::{Chains, Mode};
use super::lock;

/// For how long a launch without a record counts as one that is about to come.
const WITHOUT_RECORD: Nanos = Nanos(10_000_000);
/// For how long one that does not complete counts: a context that has failed completes nothing any more.
const UNDER_WAY: Nanos = Nanos(1_000_000_000);
/// Launches that are passed in one look.
const LOOKS: u32 = 1024;

/// A channel.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) gpu: GpuId,
    pub(crate) live: LivePages,
    standing: Mutex<Standing>,
    /// What is ordered, and the chains that it is about. Whoever stores into gates has this.
    chains: Mutex<Chains>,
    launches: Mutex<Launches>,
    /// What it is owed while others have it held up.
    ration: Mutex<Ration>,
    /// How often it was let go for that.
    rations: AtomicU64,
    /// Gates may not be as ordered yet.
    unsettled: AtomicBool,
    /// Gates are opened one after another.
    is_paced: AtomicBool,
    /// Chains that may still run.
    running: AtomicU64,
}

/// Which of its launches are known to have ended.
#[derive(Debug, Default)]
struct Launches {
    /// All before this one.
    oldest: u64,
    /// Since when that has been the oldest.
    since: Option<Nanos>,
}

/// What was seen of a channel's chains, for status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Chains that may still run.
    pub running: u64,
    /// Whether their gates are shut.
    pub held: bool,
    /// Since when they are as they are ordered to be, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// How often they were shut.
    pub holds: u64,
    /// How often they were let pass although somebody latency-critical was active, because the partition is
    /// owed a part of the time.
    pub rations: u64,
    /// Chains that could not go on while their gates were shut, and were opened for that.
    pub stuck: u64,
    /// Chains that did not move although their gates were open.
    pub stalled: u64,
}

impl Member {
    pub(crate) fn new(gpu: GpuId, live: LivePages) -> Self {
        let reserved = live.ring().reserved();
        let oldest = reserved.saturating_sub(u64::from(live.ring().records())) + 1;
        Self {
            gpu,
            chains: Mutex::new(Chains::default()),
            live,
            // Until there is a grant nothing is launched.
            standing: Mutex::new(Standing {
                class: Class::LatencyCritical,
                borrows: false,
                min_share: 0,
                hand: Hand::Released,
            }),
            launches: Mutex::new(Launches {
                oldest,
                since: None,
            }),
            ration: Mutex::new(Ration::default()),
            rations: AtomicU64::new(0),
            unsettled: AtomicBool::new(true),
            is_paced: AtomicBool::new(false),
            running: AtomicU64::new(0),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        *lock(&self.standing)
    }

    pub(crate) fn class(&self) -> Class {
        self.standing().class
    }

    pub(crate) fn is_in_the_way(&self) -> bool {
        self.standing().is_in_the_way()
    }

    /// Changes what is wanted; `squeezed` are the TPCs that atoms to come may use, if they are few.
    pub(crate) fn set(&self, standing: Standing, squeezed: Option<TpcSet>) {
        *lock(&self.standing) = standing;
        lock(&self.chains).squeeze(squeezed);
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// Returns whether something was launched that has not completed.
    pub(crate) fn is_active(&self, now: Nanos) -> bool {
        let (ring, stamps) = (self.live.ring(), self.live.stamps());
        let mut launches = lock(&self.launches);
        let reserved = ring.reserved();
        // What the ring does not hold any more has ended.
        let held = reserved.saturating_sub(u64::from(ring.records())) + 1;
        launches.oldest = launches.oldest.max(held);
        for _ in 0..LOOKS {
            if launches.oldest > reserved {
                return false;
            }
            let patience = match ring.progress(launches.oldest, stamps) {
                Progress::UnderWay => Some(UNDER_WAY),
                Progress::Unwritten => Some(WITHOUT_RECORD),
                Progress::Ended => None,
            };
            if let Some(patience) = patience {
                let since = *launches.since.get_or_insert(now);
                if now.0.saturating_sub(since.0) < patience.0 {
                    return true;
                }
            }
            launches.since = None;
            let Some(next) = launches.oldest.checked_add(1) else {
                return false;
            };
            launches.oldest = next;
        }
        // It has launched so much since the last look that the rest is for the next.
        true
    }

    /// Returns the oldest launch that was not known to have completed at the last look, if any.
    pub(crate) fn oldest_active(&self) -> Option<u64> {
        let oldest = lock(&self.launches).oldest;
        (oldest <= self.live.ring().reserved()).then_some(oldest)
    }

    /// Returns what its gates are to do, by what its GPU is busy with.
    pub(crate) fn mode(&self, activity: &Activity, now: Nanos) -> Mode {
        let standing = self.standing();
        let (is_held, paces) = (activity.holds(now, standing), activity.paces(now, standing));
        if standing.hand == Hand::Held {
            return Mode::Held;
        }
        let mut ration = lock(&self.ration);
        let was_due = ration.is_due();
        if ration.may_hold(now, is_held, self.has_chains(), standing.min_share) {
            return Mode::Held;
        }
        if ration.is_due() && !was_due {
            self.rations.fetch_add(1, Ordering::Relaxed);
        }
        if paces { Mode::Paced } else { Mode::Open }
    }

    /// Says what gates are to do; returns whether they were shut just now, and there were any.
    pub(crate) fn set_mode(&self, mode: Mode, now: Nanos) -> bool {
        if !lock(&self.chains).set_mode(mode, &self.live, now) {
            return false;
        }
        self.turn(true, false, now);
        mode == Mode::Held && self.has_chains()
    }

    /// Stores into the gates of some more chains, if they are not as ordered; looks before that which chains
    /// there are, and whether they move.
    pub(crate) fn turn(&self, follows: bool, inspects: bool, now: Nanos) {
        let is_paced = self.has_chains() && self.is_paced.load(Ordering::Relaxed);
        if !follows && !inspects && !is_paced && !self.is_unsettled() {
            return;
        }
        let mut chains = lock(&self.chains);
        self.is_paced.store(chains.is_paced(), Ordering::Relaxed);
        if follows {
            chains.follow(&self.live);
            self.running.store(chains.running(), Ordering::Relaxed);
        }
        if inspects {
            chains.inspect(&self.live, now);
        }
        let is_settled = chains.settle(&self.live, now);
        self.unsettled.store(!is_settled, Ordering::Relaxed);
    }

    /// See [`super::Gatekeeper::halt`].
    pub(crate) fn halt(&self) {
        lock(&self.chains).halt(&self.live);
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed)
    }

    /// Returns whether there are chains that may still run, as of the last look.
    pub(crate) fn has_chains(&self) -> bool {
        self.running.load(Ordering::Relaxed) != 0
    }

    /// Returns whether chains have begun since the last look.
    pub(crate) fn has_new_chains(&self) -> bool {
        lock(&self.chains).has_new(&self.live)
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            rations: self.rations.load(Ordering::Relaxed),
            ..lock(&self.chains).seen()
        }
    }
}
