// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One channel, as the gatekeeper sees it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lithos_abi::ring::Progress;
use lithos_device::pages::LivePages;
use lithos_policy::{Borrower, Gates, GpuId, Hand, Nanos, Party, Portion, RECENT, TpcSet};
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
    wanted: Mutex<Wanted>,
    /// What is ordered, and the chains that it is about. Whoever stores into gates has this.
    chains: Mutex<Chains>,
    launches: Mutex<Launches>,
    borrower: Mutex<Borrower>,
    /// What it has been told that it may use of what is lent; and how often that became less.
    borrowed: Mutex<TpcSet>,
    recalls: AtomicU64,
    /// Lately, how much predicted work it had under way that no gate holds up.
    backlog: Mutex<Most>,
    /// When it was last seen to have launched what had not completed; 0: never.
    last_active: AtomicU64,
    /// Gates may not be as ordered yet.
    unsettled: AtomicBool,
    /// Gates are opened one after another.
    is_paced: AtomicBool,
    /// Chains that may still run.
    running: AtomicU64,
}

/// What is wanted of a channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Its partition, as lender and borrower; `None` until there is a grant.
    pub(crate) party: Option<Party>,
    /// Those of its TPCs that are not lent to it; fewer than the partition's if it is squeezed.
    pub(crate) own: TpcSet,
}

/// The most of what was seen lately: since the beginning of this span, or of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    begin: Nanos,
    now: u64,
    before: u64,
}

impl Most {
    const SPAN: Nanos = Nanos(100_000_000);
    /// Tenants say it, and are believed that far.
    const LIMIT: u64 = 10_000_000;

    fn note(&mut self, now: Nanos, value: u64) -> u64 {
        if now.0.saturating_sub(self.begin.0) >= Self::SPAN.0 {
            (self.begin, self.before, self.now) = (now, self.now, 0);
        }
        self.now = self.now.max(value.min(Self::LIMIT));
        self.now.max(self.before)
    }
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
    /// For how long, in nanoseconds, up to the last time that they were opened.
    pub held_ns: u64,
    /// How often they were let pass although somebody latency-critical was active, because the partition is
    /// owed a part of the time.
    pub rations: u64,
    /// Those of the TPCs that are lent to it that it may use now.
    pub borrowed: TpcSet,
    /// How often these became fewer.
    pub recalls: u64,
    /// Predicted work under way that no gate holds up, in nanoseconds, as the tenant says.
    pub backlog_ns: u64,
    /// Whether launch calls wait before they begin: it is held, or enough is under way.
    pub waiting: bool,
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
            wanted: Mutex::new(Wanted::default()),
            launches: Mutex::new(Launches {
                oldest,
                since: None,
            }),
            borrower: Mutex::new(Borrower::default()),
            borrowed: Mutex::new(TpcSet::EMPTY),
            recalls: AtomicU64::new(0),
            backlog: Mutex::new(Most::default()),
            last_active: AtomicU64::new(0),
            unsettled: AtomicBool::new(true),
            is_paced: AtomicBool::new(false),
            running: AtomicU64::new(0),
        }
    }

    /// Returns its partition, as lender and borrower.
    pub(crate) fn party(&self) -> Option<Party> {
        lock(&self.wanted).party.clone()
    }

    /// Changes what is wanted.
    pub(crate) fn set(&self, wanted: Wanted) {
        *lock(&self.wanted) = wanted;
        let borrowed = *lock(&self.borrowed);
        self.allow(borrowed);
    }

    /// Has atoms that have not started use the channel's own TPCs and these.
    fn allow(&self, borrowed: TpcSet) {
        let own = lock(&self.wanted).own;
        lock(&self.chains).allow(own | borrowed);
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// Takes note whether something was launched that has not completed.
    pub(crate) fn see(&self, now: Nanos) -> bool {
        let is_active = self.is_active(now);
        if is_active {
            self.last_active.store(now.0.max(1), Ordering::Relaxed);
        }
        is_active
    }

    /// Returns for how long it has been idle; `None` if it was never active.
    pub(crate) fn idle(&self, now: Nanos) -> Option<Nanos> {
        let last = self.last_active.load(Ordering::Relaxed);
        (last != 0).then(|| Nanos(now.0.saturating_sub(last)))
    }

    /// Returns whether it has something to run, or had a moment ago.
    pub(crate) fn is_busy(&self, now: Nanos) -> bool {
        self.runs() || self.idle(now).is_some_and(|idle| idle < RECENT)
    }

    /// Returns whether something was launched that has not completed.
    fn is_active(&self, now: Nanos) -> bool {
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

    /// Returns what its gates are to do, by what its partition is lent.
    pub(crate) fn gates(&self, portion: Portion, now: Nanos) -> Gates {
        let standing = lock(&self.wanted)
            .party
            .as_ref()
            .map(|party| party.standing);
        let Some(standing) = standing else {
            return Gates::Open;
        };
        lock(&self.borrower).gates(now, standing, portion, self.runs())
    }

    /// Says which TPCs that are lent to it may be used from now on; returns whether it lost any.
    pub(crate) fn lend(&self, tpcs: TpcSet) -> bool {
        let before = std::mem::replace(&mut *lock(&self.borrowed), tpcs);
        if before == tpcs {
            return false;
        }
        self.live.lend(tpcs.words());
        self.allow(tpcs);
        let is_less = !(before - tpcs).is_empty();
        self.recalls.fetch_add(is_less.into(), Ordering::Relaxed);
        is_less
    }

    /// Returns how long somebody would have to wait for launches of it that no gate holds up.
    pub(crate) fn in_the_way(&self, now: Nanos) -> Nanos {
        let backlog_ns = self.live.ring().backlog_ns();
        Nanos(lock(&self.backlog).note(now, backlog_ns))
    }

    /// Returns whether an operator has ordered something about its gates.
    pub(crate) fn is_held_by_hand(&self) -> bool {
        let wanted = lock(&self.wanted);
        (wanted.party.as_ref()).is_some_and(|party| party.standing.hand == Hand::Held)
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

    /// Returns whether it has something that can be held up: chains, or launch calls that wait.
    fn runs(&self) -> bool {
        self.has_chains() || self.live.ring().is_waiting()
    }

    /// Returns whether chains have begun since the last look.
    pub(crate) fn has_new_chains(&self) -> bool {
        lock(&self.chains).has_new(&self.live)
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            rations: lock(&self.borrower).rations(),
            waiting: self.live.ring().is_waiting(),
            borrowed: *lock(&self.borrowed),
            backlog_ns: self.live.ring().backlog_ns(),
            recalls: self.recalls.load(Ordering::Relaxed),
            ..lock(&self.chains).seen()
        }
    }
}
