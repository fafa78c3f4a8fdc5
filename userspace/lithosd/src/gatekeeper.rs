// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The gatekeeper: a thread that sees who is active, shuts and opens gates and recalls what is lent, within
//! microseconds.
//!
//! Who borrows TPCs does without them while their owner is active: its chains go on on those that it keeps, or are held up
//! (`lithos_policy::{Lending, Borrower}`). Who is active is seen in the rings, without a
//! system call of anybody's. The thread looks all the time only while that can matter; else it
//! sleeps, and has itself woken by whoever changes that:
//!
//! ```text
//!   wide awake  somebody is busy on TPCs of a lender who was active a moment ago, or suspended for one
//!   napping     somebody is busy and does without what a lender needs: looks ten times a millisecond
//!   dozing      somebody is busy on lent TPCs: woken by a launch of a lender, looks once a millisecond
//!   asleep      nobody: woken by a launch of who borrows, or by the main loop
//! ```
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
use lithos_policy::{
    ChannelId, GpuId, Lending, Look, Nanos, PartitionName, Party, Portion, Sums, TpcSet,
};

use crate::clock;
use chains::Mode;
use member::Member;
pub use member::Seen;
pub(crate) use member::Wanted;
pub use reaction::ReactionStatus;
use reaction::Reactions;

/// How often it looks while it naps.
const NAP: Duration = Duration::from_micros(100);
/// How often it looks while it dozes.
const DOZE: Duration = Duration::from_millis(1);
/// How often it looks in any case.
const SLEEP: Duration = Duration::from_millis(250);
/// A lender that was active so recently is awaited wide awake: to be woken takes longer than an atom may.
const VIGIL: Nanos = Nanos(100_000_000);
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
    /// What partitions have lent and borrowed, as of the last look.
    sums: Mutex<BTreeMap<(GpuId, PartitionName), Lent>>,
}

/// What a partition lends and borrows on a GPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lent {
    /// Its TPCs that others have.
    pub(crate) lent: TpcSet,
    /// What it has of others.
    pub(crate) portion: Portion,
    /// Sums over time.
    pub(crate) sums: Sums,
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
        live.lend(TpcSet::EMPTY.words());
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

    /// Forgets what a partition has lent and borrowed: it is no more.
    pub(crate) fn forget(&self, partition: &PartitionName) {
        lock(&self.0.sums).retain(|(_, name), _| name != partition);
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

    /// Returns what a partition lends and borrows on a GPU.
    pub(crate) fn lent(&self, gpu: GpuId, partition: &PartitionName) -> Lent {
        let key = (gpu, partition.clone());
        lock(&self.0.sums).get(&key).copied().unwrap_or_default()
    }

    /// Returns how long it took to give way.
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
    /// The channels that it has seen, and of which change.
    members: Vec<Arc<Member>>,
    changes: u32,
    gpus: Vec<Gpu>,
    /// When it last looked at what chains there are; and at whether they move.
    followed: Nanos,
    inspected: Nanos,
    /// Number of its last sleep.
    sleeps: u64,
}

/// A GPU, with the partitions that have channels there.
struct Gpu {
    id: GpuId,
    lending: Lending,
    /// Of each partition, its channels.
    members: Vec<Vec<Arc<Member>>>,
}

/// Partitions with their channels on a GPU.
type Parties = BTreeMap<PartitionName, (Party, Vec<Arc<Member>>)>;

/// How little the thread has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wakefulness {
    Asleep,
    Dozing,
    Napping,
    Awake,
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            members: Vec::new(),
            changes: u32::MAX,
            gpus: Vec::new(),
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
                Wakefulness::Napping => self.sleep(Wakefulness::Napping, NAP),
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
        self.publish_sums();
        self.members = self.shared.lock().values().cloned().collect();
        let mut gpus = BTreeMap::<GpuId, Parties>::new();
        for member in &self.members {
            if let Some(party) = member.party() {
                let parties = gpus.entry(member.gpu).or_default();
                let known = parties.entry(party.name.clone());
                let (_, members) = known.or_insert_with(|| (party, Vec::new()));
                members.push(Arc::clone(member));
            }
        }
        let mut before = std::mem::take(&mut self.gpus);
        let gpu = |(id, parties): (GpuId, Parties)| {
            let known = before.iter_mut().find(|gpu| gpu.id == id);
            let mut lending = known.map(|gpu| std::mem::take(&mut gpu.lending));
            let (parties, members) = parties.into_values().unzip();
            lending.get_or_insert_default().set(parties);
            Gpu {
                id,
                lending: lending.unwrap_or_default(),
                members,
            }
        };
        self.gpus = gpus.into_iter().map(gpu).collect();
        self.followed = Nanos(0);
    }

    /// Sees who is active, and has gates and masks be as they should.
    fn look(&mut self, now: Nanos) {
        let follows = now.0.saturating_sub(self.followed.0) >= FOLLOW.0;
        let inspects = now.0.saturating_sub(self.inspected.0) >= INSPECT.0;
        if follows {
            self.followed = now;
        }
        if inspects {
            self.inspected = now;
        }
        let mut moved = None;
        for (index, gpu) in self.gpus.iter_mut().enumerate() {
            gpu.see(now);
            for (party, members) in gpu.members.iter().enumerate() {
                let portion = gpu.lending.portion(party);
                for member in members {
                    let mode = member.gates(portion, now).into();
                    let tpcs = portion.tpcs & gpu.lending.parties()[party].lent;
                    // Who is held is held before it gets more, and who is let go has its TPCs before.
                    let (is_less, is_shut) = if mode == Mode::Held {
                        let is_shut = member.set_mode(mode, now);
                        (member.lend(tpcs), is_shut)
                    } else {
                        let is_less = member.lend(tpcs);
                        (is_less, member.set_mode(mode, now))
                    };
                    if is_less {
                        member.turn(true, false, now);
                    }
                    if is_less || is_shut && !member.is_held_by_hand() {
                        moved = Some((index, party));
                    }
                    member.turn(follows, inspects, now);
                }
            }
        }
        if let Some((gpu, party)) = moved {
            self.note_reaction(gpu, party);
        } else if inspects {
            lock(&self.shared.reactions).settle();
        }
        if inspects {
            self.publish_sums();
        }
    }

    fn publish_sums(&mut self) {
        let mut all = lock(&self.shared.sums);
        // Of who has no channels any more.
        for known in all.values_mut() {
            (known.lent, known.portion) = (TpcSet::EMPTY, Portion::default());
        }
        for gpu in &mut self.gpus {
            let parties = 0..gpu.members.len();
            let used = parties.clone().map(|party| gpu.portion_in_use(party));
            let used = used.fold(TpcSet::EMPTY, |all, portion| all | portion);
            for party in parties {
                let sums = gpu.lending.take_sums(party);
                let portion = gpu.lending.portion(party);
                let Party { name, own, .. } = &gpu.lending.parties()[party];
                let known = all.entry((gpu.id, name.clone())).or_default();
                known.sums += sums;
                known.portion = portion;
                known.lent = *own & used;
            }
        }
    }

    /// Takes note of when a partition gave way, and for which launch.
    fn note_reaction(&self, gpu: usize, borrower: usize) {
        let done = clock::now();
        let gpu = &self.gpus[gpu];
        let lenders = (0..gpu.members.len()).filter(|&lender| gpu.lending.lends(lender, borrower));
        let mut active = lenders
            .flat_map(|lender| &gpu.members[lender])
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
            if member.has_chains() {
                // Nothing but the watch over what moves.
                wakefulness = wakefulness.max(Wakefulness::Dozing);
            }
        }
        let all = self.gpus.iter().map(|gpu| gpu.wakefulness(now)).max();
        wakefulness.max(all.unwrap_or(Wakefulness::Asleep))
    }

    /// Returns whose launches matter now: while somebody is busy on lent TPCs, those of their lenders; else
    /// those of who borrows.
    fn askers(&self, wakefulness: Wakefulness, now: Nanos) -> Vec<Arc<Member>> {
        let mut askers = Vec::new();
        for gpu in &self.gpus {
            askers.extend(gpu.askers(wakefulness, now));
        }
        // Beyond what the kernel waits on they are looked at when time is up.
        askers.truncate(futex::WORDS_MAX - 1);
        askers
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

impl Gpu {
    /// Sees who is active, and decides who is lent what.
    fn see(&mut self, now: Nanos) {
        for (party, members) in self.members.iter().enumerate() {
            let mut look = Look::default();
            for member in members {
                look.is_active |= member.see(now);
                look.wants |= member.is_busy(now);
                look.in_the_way = look.in_the_way.max(member.in_the_way(now));
            }
            self.lending.see(now, party, look);
        }
        self.lending.decide(now);
    }

    /// Returns whether a partition can be lent anything, and has something to run.
    fn is_busy(&self, party: usize, now: Nanos) -> bool {
        !self.lending.parties()[party].lent.is_empty()
            && self.members[party].iter().any(|member| member.is_busy(now))
    }

    /// Returns what a partition has of others, if it is not suspended.
    fn portion_in_use(&self, party: usize) -> TpcSet {
        let portion = self.lending.portion(party);
        match portion.is_suspended {
            true => TpcSet::EMPTY,
            false => portion.tpcs,
        }
    }

    fn wakefulness(&self, now: Nanos) -> Wakefulness {
        let mut wakefulness = Wakefulness::Asleep;
        for borrower in 0..self.members.len() {
            if !self.is_busy(borrower, now) {
                continue;
            }
            wakefulness = wakefulness.max(Wakefulness::Dozing);
            let portion = self.lending.portion(borrower);
            for lender in 0..self.members.len() {
                let is_recent = self.lending.activity(lender).needs(now, VIGIL);
                if !is_recent || !self.lending.lends(lender, borrower) {
                    continue;
                }
                let own = self.lending.parties()[lender].own;
                if portion.is_suspended || portion.is_paced || !own.is_disjoint(portion.tpcs) {
                    return Wakefulness::Awake;
                }
                wakefulness = Wakefulness::Napping;
            }
        }
        wakefulness
    }

    fn askers(&self, wakefulness: Wakefulness, now: Nanos) -> Vec<Arc<Member>> {
        let parties = 0..self.members.len();
        let asks = |party: usize| match wakefulness {
            Wakefulness::Asleep => !self.lending.parties()[party].lent.is_empty(),
            _ => parties.clone().any(|borrower| {
                let own = self.lending.parties()[party].own;
                self.is_busy(borrower, now) && !own.is_disjoint(self.lending.portion(borrower).tpcs)
            }),
        };
        let askers = parties.clone().filter(|&party| asks(party));
        askers
            .flat_map(|party| &self.members[party])
            .cloned()
            .collect()
    }
}
