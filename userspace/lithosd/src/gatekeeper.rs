// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The gatekeeper: a thread that sees who is active, shuts and opens gates and recalls what is lent, within
//! microseconds.
//!
//! Who borrows TPCs does without them while their owner is active: its chains are held up, or go on on its own
//! TPCs (`lithos_policy::Borrower`). Who is active is seen in the rings, without a
//! system call of anybody's. The thread looks all the time only while that can matter; else it
//! sleeps, and has itself woken by whoever changes that:
//!
//! ```text
//!   wide awake  somebody borrows and is busy, and a lender was active a moment ago
//!   dozing      somebody borrows and is busy: woken by a launch of a lender, looks once a millisecond
//!   asleep      nobody: woken by a launch of who borrows, or by the main loop
//! ```
//!
//! What a tenant says is bounded and not believed: gates are stored into only within their region, of
//! as many chains as there are tails, so many at a time; a launch that never gets a record makes nobody
//! active for long.

mod chains;
mod member;
mod reaction;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lithos_abi::grant::{Order, Recall};
use lithos_device::futex;
use lithos_device::pages::LivePages;
use lithos_policy::{Activity, ChannelId, Class, GpuId, Hand, Lenders, Nanos, RECENT};

use crate::clock;
use member::Member;
pub use member::Seen;
pub(crate) use member::Wanted;
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
        live.recall(Recall::Nobody);
        live.hold(false);
        let member = Arc::new(Member::new(gpu, live));
        self.0.lock().insert(id, member);
        self.0.changed();
        if let Err(error) = self.start() {
            tracing::error!("nobody shuts and opens gates: {error}");
        }
    }

    /// Changes what is wanted of a channel.
    pub(crate) fn set(&self, id: ChannelId, wanted: Wanted) {
        if let Some(member) = self.0.lock().get(&id) {
            member.set(wanted);
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
    /// For each of them, those who lend to it.
    lenders: Vec<Vec<usize>>,
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
            lenders: Vec::new(),
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
                Wakefulness::Dozing => self.sleep(Wakefulness::Dozing, DOZE),
                Wakefulness::Asleep => self.sleep(Wakefulness::Asleep, SLEEP),
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
        let lenders_of = |borrower: &Arc<Member>| {
            let members = self.members.iter().enumerate();
            let lenders = members.filter(|(_, member)| member.lends_to(borrower));
            lenders.map(|(index, _)| index).collect()
        };
        self.lenders = self.members.iter().map(lenders_of).collect();
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
            member.see(now);
        }
        for (gpu, activity) in &mut self.gpus {
            let mut critical = (self.members.iter())
                .filter(|member| member.gpu == *gpu && member.class() == Class::LatencyCritical);
            let is_active = critical.any(|member| member.idle(now) == Some(Nanos(0)));
            activity.see(now, is_active);
        }
        let follows = now.0.saturating_sub(self.followed.0) >= FOLLOW.0;
        let inspects = now.0.saturating_sub(self.inspected.0) >= INSPECT.0;
        if follows {
            self.followed = now;
        }
        if inspects {
            self.inspected = now;
        }
        let mut moved = None;
        for (index, member) in self.members.iter().enumerate() {
            let activity = self.gpus.get(&member.gpu).copied().unwrap_or_default();
            let conduct = member.conduct(&activity, self.lenders_idle(index, now), now);
            member.lend(conduct.without);
            let is_shut = member.set_mode(conduct.gates.into(), now);
            if is_shut && member.standing().hand != Hand::Held {
                moved = Some(index);
            }
            member.turn(follows, inspects, now);
        }
        if let Some(index) = moved {
            self.note_reaction(index);
        } else if inspects {
            lock(&self.shared.reactions).settle();
        }
    }

    /// Those who lend to a member, as far as they are known.
    fn lenders_of(&self, index: usize) -> impl Iterator<Item = &Arc<Member>> {
        let lenders = self.lenders.get(index).into_iter().flatten();
        lenders.filter_map(|&lender| self.members.get(lender))
    }

    fn lenders_idle(&self, index: usize, now: Nanos) -> Lenders {
        let class = self.members[index].class();
        let idle = |equals: bool| {
            let lenders = self.lenders_of(index);
            let those = lenders.filter(|lender| (lender.class() == class) == equals);
            those.filter_map(|lender| lender.idle(now)).min()
        };
        Lenders {
            betters: idle(false),
            equals: idle(true),
        }
    }

    /// Takes note of when a member gave way, and for which launch.
    fn note_reaction(&self, index: usize) {
        let done = clock::now();
        let mut active = (self.lenders_of(index))
            .filter_map(|member| Some((Arc::clone(member), member.oldest_active()?)));
        if let Some((member, launch)) = active.next() {
            lock(&self.shared.reactions).begin(member, launch, done);
        }
    }

    fn wakefulness(&self, now: Nanos) -> Wakefulness {
        let mut wakefulness = Wakefulness::Asleep;
        for (index, member) in self.members.iter().enumerate() {
            if member.is_unsettled() {
                return Wakefulness::Awake;
            }
            if self.lenders_of(index).next().is_none() {
                // Nothing but the watch over what moves.
                if member.has_chains() {
                    wakefulness = Wakefulness::Dozing;
                }
                continue;
            }
            if !member.is_busy(now) {
                continue;
            }
            let mut lenders = self.lenders_of(index);
            let is_recent = |idle: Nanos| idle < RECENT;
            if lenders.any(|lender| lender.idle(now).is_some_and(is_recent)) {
                return Wakefulness::Awake;
            }
            wakefulness = Wakefulness::Dozing;
        }
        wakefulness
    }

    /// Returns whose launches matter now: while it dozes, those of who lends to somebody who is busy; else
    /// those of who borrows.
    fn askers(&self, wakefulness: Wakefulness, now: Nanos) -> Vec<Arc<Member>> {
        let mut askers = BTreeSet::new();
        for (index, member) in self.members.iter().enumerate() {
            let lenders = self.lenders.get(index).map_or(&[][..], Vec::as_slice);
            if wakefulness == Wakefulness::Dozing && member.is_busy(now) {
                askers.extend(lenders);
            } else if wakefulness == Wakefulness::Asleep && !lenders.is_empty() {
                askers.insert(index);
            }
        }
        let members = askers.iter().filter_map(|&index| self.members.get(index));
        // Beyond what the kernel waits on they are looked at when time is up.
        members.take(futex::WORDS_MAX - 1).cloned().collect()
    }

    /// Sleeps until somebody launches something whose launches matter, something has changed, or time is up.
    fn sleep(&mut self, wakefulness: Wakefulness, limit: Duration) {
        self.sleeps += 1;
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        let number = self.sleeps as u32;
        let now = clock::now();
        let askers = self.askers(wakefulness, now);
        for member in &askers {
            member.live.ask_to_ring(u64::from(number).max(1));
        }
        // What was launched before they were asked is in their rings.
        let has_come = askers.iter().any(|member| {
            let is_new = wakefulness == Wakefulness::Asleep
                && (member.has_new_chains() || member.live.ring().is_waiting());
            is_new || member.see(clock::now())
        });
        if !has_come {
            let words = askers.iter().map(|member| {
                let word = member.live.ring().rung();
                (word, word.load(Ordering::SeqCst))
            });
            let awaited: Vec<(&AtomicU32, u32)> = words
                .filter(|(_, value)| *value != number)
                .chain([(&self.shared.changes, self.changes)])
                .collect();
            // None has rung already.
            if awaited.len() > askers.len() {
                // A kernel that cannot do that: looks as often as while it dozes.
                if futex::wait(&awaited, limit).is_err() {
                    std::thread::sleep(limit.min(DOZE));
                }
            }
        }
        for member in &askers {
            member.live.ask_to_ring(0);
        }
    }
}
