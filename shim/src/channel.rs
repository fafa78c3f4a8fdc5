// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A managed context: its channel, and what its launches share.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use lithos_abi::arena::Stamps;
use lithos_abi::bindings::*;
use lithos_abi::chain::Chains;
use lithos_abi::grant::{Grant, Order};
use lithos_abi::ring::RingWriter;
use lithos_device::{Channel, futex};

use crate::backlog::Backlog;
use crate::launch::low_half;
use crate::operators::Operators;
use crate::places::Places;
use crate::watch;
use crate::widen::Gpu;

/// What identifies a context beyond its handle, which the driver uses again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The driver's number for it, unique in the process; 0 if the driver knows no such number.
    pub(crate) id: u64,
    /// The device whose primary context it is.
    pub(crate) primary_of: Option<i32>,
}

/// A context that LithOS manages.
#[derive(Debug)]
pub(crate) struct Managed {
    pub(crate) identity: Identity,
    pub(crate) gpu: Gpu,
    channel: Channel,
    /// Whether the GPU can reach the arena, at the arena's own address.
    is_registered: bool,
    /// API calls that may end the context, and with it the registration of its arena.
    endings: AtomicU32,
    /// The grant that the channel came with.
    first: Option<Grant>,
    /// Whether the latest grant that a launch has seen has a length of atoms.
    splits: AtomicBool,
    /// How much predicted work may be under way that no gate holds up, by the same grant; 0: any.
    bound_ns: AtomicU64,
    backlog: Backlog,
    /// Whether no chain is to go on any more: the process ends.
    is_halted: AtomicBool,
    /// Made when a launch is first to be split.
    splitting: OnceLock<Splitting>,
}

/// What it takes to split launches.
#[derive(Debug)]
pub(crate) struct Splitting {
    pub(crate) operators: Operators,
    pub(crate) places: Places,
}

impl Managed {
    /// Takes a channel. `is_registered`: see there.
    pub(crate) fn new(channel: Channel, identity: Identity, is_registered: bool) -> Self {
        Self {
            identity,
            gpu: Gpu::new(channel.terms()),
            first: channel.grant().read(),
            channel,
            is_registered,
            endings: AtomicU32::new(0),
            splits: AtomicBool::new(false),
            bound_ns: AtomicU64::new(0),
            backlog: Backlog::default(),
            is_halted: AtomicBool::new(false),
            splitting: OnceLock::new(),
        }
    }

    /// Returns the channel.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the ring.
    #[inline]
    pub(crate) fn ring(&self) -> RingWriter<'_> {
        self.channel.ring()
    }

    /// Returns whether a launch that needs more than the grant is to fail.
    pub(crate) fn refuses_oversize(&self) -> bool {
        self.channel.terms().oversize == LITHOS_OVERSIZE_REFUSE
    }

    /// Returns what the channel may do now: the time tells whether anybody schedules, `last` is the
    /// thread's copy for the case that the page cannot be read. `None` if nothing was ever granted.
    #[inline(always)]
    pub(crate) fn grant(&self, now_ns: u64, last: &Cell<(u64, Option<Grant>)>) -> Option<Grant> {
        if let Some(grant) = self.channel.grant().try_read_at(now_ns) {
            last.set((self.channel.id(), Some(grant)));
            return Some(grant);
        }
        self.look_again(now_ns, last);
        last.get().1
    }

    /// Tries harder, and else keeps the last good copy.
    #[cold]
    #[inline(never)]
    fn look_again(&self, now_ns: u64, last: &Cell<(u64, Option<Grant>)>) {
        let grant = self.channel.grant().read_at(now_ns).or_else(|| {
            let (whose, last) = last.get();
            let grant = last.filter(|_| whose == self.channel.id()).or(self.first)?;
            self.ring().count(LITHOS_COUNT_STALE_GRANT);
            Some(grant)
        });
        last.set((self.channel.id(), grant));
    }

    /// Returns the completion stamps, if the GPU can write them.
    #[inline]
    pub(crate) fn stamps(&self) -> Option<Stamps<'_>> {
        if !self.is_registered {
            return None;
        }
        Some(self.channel.arena()?.stamps())
    }

    /// Returns where chains can be, if the GPU can reach them.
    pub(crate) fn chains(&self) -> Option<Chains<'_>> {
        let arena = self.channel.arena().filter(|_| self.is_registered)?;
        arena.chains()
    }

    /// Returns what it takes to split launches into these regions. Not under the driver's locks: the
    /// first one makes it.
    pub(crate) fn splitting(&self, chains: &Chains<'_>) -> &Splitting {
        if let Some(splitting) = self.splitting.get() {
            return splitting;
        }
        let splitting = self.splitting.get_or_init(|| Splitting {
            operators: Operators::new(),
            places: Places::new(chains),
        });
        // From now on there are gates to look after.
        watch::wake();
        splitting
    }

    /// Returns whether launches were ever to be split.
    pub(crate) fn has_split(&self) -> bool {
        self.splitting.get().is_some()
    }

    /// Returns whether launches may be split, as far as the launches before know.
    #[inline(always)]
    pub(crate) fn splits(&self) -> bool {
        self.splits.load(Ordering::Relaxed)
    }

    /// Takes note of the latest grant.
    #[inline(always)]
    pub(crate) fn note_grant(&self, grant: &Grant) {
        let splits = grant.atom_ns != 0;
        if splits != self.splits() {
            self.splits.store(splits, Ordering::Relaxed);
        }
        if grant.outstanding_ns != self.bound_ns() {
            self.bound_ns.store(grant.outstanding_ns, Ordering::Relaxed);
        }
    }

    /// Returns how much predicted work may be under way that no gate holds up, as far as the launches before
    /// know; 0: any.
    #[inline(always)]
    pub(crate) fn bound_ns(&self) -> u64 {
        self.bound_ns.load(Ordering::Relaxed)
    }

    /// Returns what is under way that no gate holds up, where that is bounded.
    pub(crate) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Returns whether launches that no gate holds up are not to begin. One that is about to end is never
    /// held: others may wait for it to.
    pub(crate) fn is_held(&self, now_ns: u64) -> bool {
        self.channel.grant().is_held_at(now_ns)
            && !self.is_halted.load(Ordering::SeqCst)
            && self.may_stamp()
    }

    /// Returns what the gates of a chain are to do.
    pub(crate) fn order(&self, now_ns: u64) -> Order {
        match self.is_halted.load(Ordering::SeqCst) {
            true => Order::Halt,
            false => self.channel.grant().order_at(now_ns),
        }
    }

    /// Returns whether the scheduler sleeps and wants to be woken by a launch.
    #[inline(always)]
    pub(crate) fn asks_to_ring(&self) -> bool {
        self.channel.grant().asks_to_ring() != 0
    }

    /// Wakes it, once for each sleep.
    #[cold]
    #[inline(never)]
    pub(crate) fn ring_bell(&self) {
        let number = low_half(self.channel.grant().asks_to_ring());
        let rung = self.channel.ring().rung();
        if rung.swap(number, Ordering::SeqCst) != number {
            futex::wake(rung);
        }
    }

    /// Has all chains run out, those too that another thread is just publishing: it looks at the order
    /// afterwards.
    pub(crate) fn halt(&self) {
        self.is_halted.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.store_into_gates(Order::Halt);
    }

    /// Stores an order into the gates of all chains that may still run.
    pub(crate) fn store_into_gates(&self, order: Order) {
        if let Some(chains) = self.chains() {
            chains.store_into_all(order);
        }
    }

    /// Returns whether a launch may be stamped now.
    #[inline]
    pub(crate) fn may_stamp(&self) -> bool {
        self.is_registered && self.endings.load(Ordering::Acquire) == 0
    }

    /// Says that the context may be about to end: no launch is stamped any more.
    pub(crate) fn end_begins(&self) {
        self.endings.fetch_add(1, Ordering::AcqRel);
    }

    /// Says that it did not end.
    pub(crate) fn end_failed(&self) {
        self.endings.fetch_sub(1, Ordering::AcqRel);
    }
}
