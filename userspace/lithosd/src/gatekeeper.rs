// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The gatekeeper: a thread that sees who is active and shuts and opens gates, within microseconds.
//!
//! Best effort that borrows is held up while somebody latency-critical is active on its GPU (`lithos_policy::Activity`);
//! who is active is seen in the rings, without a system call of anybody's. The thread looks all the time
//! only while that can matter; else it sleeps, and has itself woken by whoever changes that:
//!
//! ```text
//!   wide awake  somebody latency-critical was active a moment ago, and there are chains to hold up
//!   dozing      there are chains to hold up: woken by a latency-critical launch, looks once a millisecond
//!   asleep      there are none: woken by a launch of best effort, or by the main loop
//! ```
//!
//! Whoever is always active does not hold best effort up for ever: it is owed a part of the time
//! (`lithos_policy::Ration`).
//!
//! What a tenant says is bounded and not believed: gates are stored into only within their region, of
//! as many chains as there are tails, so many at a time; a launch that never gets a record makes nobody
//! active for long.

mod chains;
mod member;
mod reaction;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lithos_abi::grant::Order;
use lithos_device::futex;
use lithos_device::pages::LivePages;
use lithos_policy::{Activity, ChannelId, Class, GpuId, Hand, Nanos, RECENT, Standing, TpcSet};

use crate::clock;
use member::Member;
pub use member::Seen;
pub use reaction::ReactionStatus;
use reaction::Reactions;

/// How often it looks while it dozes.
const DOZE: Duration = Duration::from_millis(1);
/// How often it looks in any case.
const SLEEP: Duration = Duration::from_millis(250);
/// Between two looks at what chains have come and gone, while wide awake.
const FOLLOW: Nanos = Nanos(20_000);
/// Between two looks for chains that do not move.
const INSPECT: Nanos = Nanos(1_000_000);
/// Looks without giving the processor to others.
const SPINS: u32 = 64;

/// The gatekeeper, from outside.
#[derive(Debug, Default)]
pub(crate) struct Gatekeeper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    members: Mutex<BTreeMap<ChannelId, Arc<Member>>>,
    /// Counts changes of the above, and wakes.
    changes: AtomicU32,
    has_started: AtomicBool,
    has_ended: AtomicBool,
    reactions: Mutex<Reactions>,
}

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::SeqCst);
        self.0.changed();
    }
}

impl Gatekeeper {
    /// Watches over a channel from now on.
    pub(crate) fn add(&self, id: ChannelId, gpu: GpuId, live: LivePages) {
        // A scheduler before this one may have left something else.
        live.order(Order::Open);
        live.ask_to_ring(0);
        let member = Arc::new(Member::new(gpu, live));
        self.0.lock().insert(id, member);
        self.0.changed();
        if let Err(error) = self.start() {
            tracing::error!("nobody shuts and opens gates: {error}");
        }
    }

    /// Changes what an operator wants of a channel.
    pub(crate) fn set(&self, id: ChannelId, standing: Standing, squeezed: Option<TpcSet>) {
        if let Some(member) = self.0.lock().get(&id) {
            member.set(standing, squeezed);
        }
        self.0.changed();
    }

    /// Ceases to watch over a channel, whose gates stay as they are.
    pub(crate) fn remove(&self, id: ChannelId) {
        self.0.lock().remove(&id);
        self.0.changed();
    }

    /// Ends the chains of a channel at their next gates, at once and for ever: its process is dying.
    pub(crate) fn halt(&self, id: ChannelId) {
        let member = self.0.lock().get(&id).cloned();
        if let Some(member) = member {
            member.halt();
        }
    }

    /// Returns what was seen of a channel's chains.
    pub(crate) fn seen(&self, id: ChannelId) -> Seen {
        let members = self.0.lock();
        members
            .get(&id)
            .map(|member| member.seen())
            .unwrap_or_default()
    }

    /// Returns how long it took to shut gates.
    pub(crate) fn reactions(&self) -> ReactionStatus {
        lock(&self.0.reactions).status()
    }

    /// Starts the thread, if there is none yet.
    fn start(&self) -> io::Result<()> {
        if self.0.has_started.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let builder = std::thread::Builder::new().name("gatekeeper".into());
        builder.spawn(move || {
            let keep = || Keeper::new(shared).keep();
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(keep)).is_err() {
                // Gates would stay as they are, and nobody would know: without a daemon they open.
                tracing::error!("the gatekeeper has failed");
                std::process::abort();
            }
        })?;
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Arc<Member>>> {
        lock(&self.members)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        futex::wake(&self.changes);
    }
}

/// Locks what a panic leaves as it was, or as what is stored next makes it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
struct Keeper {
    shared: Arc<Shared>,
    /// Those of the members that it has seen, and of which change.
    members: Vec<Arc<Member>>,
    changes: u32,
    gpus: BTreeMap<GpuId, Activity>,
    /// When it last looked at what chains there are; and at whether they move.
    followed: Nanos,
    inspected: Nanos,
    /// Number of its last sleep.
    sleeps: u64,
}

/// How little the thread has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wakefulness {
    Awake,
    Dozing,
    Asleep,
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            members: Vec::new(),
            changes: u32::MAX,
            gpus: BTreeMap::new(),
            followed: Nanos(0),
            inspected: Nanos(0),
            sleeps: 0,
        }
    }

    fn keep(mut self) {
        let mut spins = 0;
        while !self.shared.has_ended.load(Ordering::Relaxed) {
            self.take_over_changes();
            let now = clock::now();
            self.look(now);
            match self.wakefulness(now) {
                Wakefulness::Awake if spins < SPINS => {
                    spins += 1;
                    std::hint::spin_loop();
                }
                Wakefulness::Awake => {
                    spins = 0;
                    std::thread::yield_now();
                }
                Wakefulness::Dozing => self.sleep(Class::LatencyCritical, DOZE),
                Wakefulness::Asleep => self.sleep(Class::BestEffort, SLEEP),
            }
        }
    }

    fn take_over_changes(&mut self) {
        let changes = self.shared.changes.load(Ordering::SeqCst);
        if changes == self.changes {
            return;
        }
        self.changes = changes;
        self.members = self.shared.lock().values().cloned().collect();
        self.gpus = (self.members.iter())
            .map(|member| {
                let known = self.gpus.get(&member.gpu).copied();
                (member.gpu, known.unwrap_or_default())
            })
            .collect();
        self.followed = Nanos(0);
    }

    /// Sees who is active, and has gates be as they should.
    fn look(&mut self, now: Nanos) {
        for member in &self.members {
            if member.class() == Class::LatencyCritical
                && let Some(activity) = self.gpus.get_mut(&member.gpu)
            {
                activity.see(now, member.is_active(now));
            }
        }
        let follows = now.0.saturating_sub(self.followed.0) >= FOLLOW.0;
        let inspects = now.0.saturating_sub(self.inspected.0) >= INSPECT.0;
        if follows {
            self.followed = now;
        }
        if inspects {
            self.inspected = now;
        }
        let mut shut = None;
        for member in &self.members {
            let activity = self.gpus.get(&member.gpu).copied().unwrap_or_default();
            let mode = member.mode(&activity, now);
            if member.set_mode(mode, now) && member.standing().hand != Hand::Held {
                shut = Some(member.gpu);
            }
            member.turn(follows, inspects, now);
        }
        if let Some(gpu) = shut {
            self.note_reaction(gpu);
        } else if inspects {
            lock(&self.shared.reactions).settle();
        }
    }

    /// Takes note of when gates were shut, and for which launch.
    fn note_reaction(&self, gpu: GpuId) {
        let done = clock::now();
        let mut active = (self.members.iter())
            .filter(|member| member.gpu == gpu && member.class() == Class::LatencyCritical)
            .filter_map(|member| Some((Arc::clone(member), member.oldest_active()?)));
        if let Some((member, launch)) = active.next() {
            lock(&self.shared.reactions).begin(member, launch, done);
        }
    }

    fn wakefulness(&self, now: Nanos) -> Wakefulness {
        let mut wakefulness = Wakefulness::Asleep;
        for member in &self.members {
            if member.is_unsettled() {
                return Wakefulness::Awake;
            }
            if !member.has_chains() {
                continue;
            }
            let is_critical = |other: &Arc<Member>| {
                other.gpu == member.gpu && other.class() == Class::LatencyCritical
            };
            if !member.is_in_the_way() || !self.members.iter().any(is_critical) {
                // Nothing but the watch over what moves.
                wakefulness = Wakefulness::Dozing;
                continue;
            }
            let idle = self.gpus.get(&member.gpu).and_then(|gpu| gpu.idle(now));
            if idle.is_some_and(|idle| idle < RECENT) {
                return Wakefulness::Awake;
            }
            wakefulness = Wakefulness::Dozing;
        }
        wakefulness
    }

    /// Returns whether a channel has to be told of: a latency-critical one if there are chains that it would
    /// find in its way, one of best effort if it could be in anybody's way.
    fn concerns(&self, member: &Member) -> bool {
        let class = member.class();
        (class == Class::LatencyCritical || member.is_in_the_way())
            && self.members.iter().any(|other| {
                other.gpu == member.gpu
                    && other.class() != class
                    && (class == Class::BestEffort || other.is_in_the_way() && other.has_chains())
            })
    }

    /// Sleeps until a channel of this class launches something, something has changed, or time is up.
    fn sleep(&mut self, class: Class, limit: Duration) {
        self.sleeps += 1;
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        let number = self.sleeps as u32;
        let askers = || {
            let of_class = self.members.iter().filter(|member| member.class() == class);
            // Beyond what the kernel waits on they are looked at when time is up.
            (of_class.filter(|member| self.concerns(member))).take(futex::WORDS_MAX - 1)
        };
        askers().for_each(|member| member.live.ask_to_ring(u64::from(number).max(1)));
        // What was launched before they were asked is in their rings.
        let now = clock::now();
        let has_come = match class {
            Class::LatencyCritical => askers().any(|member| member.is_active(now)),
            Class::BestEffort => askers().any(|member| member.has_new_chains()),
        };
        if !has_come {
            let words = askers().map(|member| {
                let word = member.live.ring().rung();
                (word, word.load(Ordering::SeqCst))
            });
            let awaited: Vec<(&AtomicU32, u32)> = words
                .filter(|(_, value)| *value != number)
                .chain([(&self.shared.changes, self.changes)])
                .collect();
            // None has rung already.
            if awaited.len() > askers().count() {
                // A kernel that cannot do that: looks as often as while it dozes.
                if futex::wait(&awaited, limit).is_err() {
                    std::thread::sleep(limit.min(DOZE));
                }
            }
        }
        askers().for_each(|member| member.live.ask_to_ring(0));
    }
}
