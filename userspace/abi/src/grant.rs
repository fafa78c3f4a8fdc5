// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The grant page: what a channel may do now.
//!
//! One writer, many readers, no lock: two slots and the number of the latest grant. A reader makes a
//! bounded number of tries, because it runs under the CUDA driver's locks and may never wait for a
//! writer that could have been killed. Whoever reads keeps the last good copy for the case that all
//! tries fail, which takes a writer that laps it eight times.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use crate::Page;
use crate::arena::{Counts, layout};
use crate::bindings::*;
use crate::ring::ring_bytes;

/// What a channel may do, as one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Number of the grant, from 1 on.
    pub sequence: u64,
    /// TPCs that launches may use: bit `i % 64` of word `i / 64` is mask bit `i`.
    pub tpcs: [u64; 2],
    /// Target length of an atom in nanoseconds; 0 if launches are never split.
    pub atom_ns: u64,
    /// Those of `tpcs` that are another partition's.
    pub lent: [u64; 2],
    /// Those of these that it may use now ([`lend`]). Said by readers.
    pub borrowed: [u64; 2],
    /// Bound on predicted unfinished work in nanoseconds; 0 if there is none.
    pub outstanding_ns: u64,
    /// Whether it is what holds when nobody schedules. Said by readers.
    pub is_fail_static: bool,
}

impl Grant {
    /// Returns the TPCs that what is launched now may use.
    #[inline(always)]
    pub fn now(&self) -> [u64; 2] {
        let Self {
            tpcs,
            lent,
            borrowed,
            ..
        } = *self;
        [0, 1].map(|word| tpcs[word] & (!lent[word] | borrowed[word]))
    }

    /// Returns the TPCs that nobody else can need.
    #[inline(always)]
    pub fn own(&self) -> [u64; 2] {
        [0, 1].map(|word| self.tpcs[word] & !self.lent[word])
    }

    /// Returns the TPCs that what is launched now may use if its mask cannot be changed later: what is lent only
    /// to who could not go on without it.
    pub fn lasting(&self) -> [u64; 2] {
        match self.is_own_enough() {
            true => self.own(),
            false => self.now(),
        }
    }

    /// Returns whether atoms would not become too long on these (`LITHOS_ATOM_LONGEST_NS`).
    pub fn is_own_enough(&self) -> bool {
        let count = |words: [u64; 2]| u64::from(words[0].count_ones() + words[1].count_ones());
        let work_ns = self.atom_ns.saturating_mul(count(self.tpcs));
        work_ns <= u64::from(LITHOS_ATOM_LONGEST_NS).saturating_mul(count(self.own()))
    }
}

/// What stays the same while a channel lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Id of the channel, with its generation.
    pub channel: u64,
    /// The scheduler's number for the GPU.
    pub gpu_index: u32,
    /// `LITHOS_OVERSIZE_*`.
    pub oversize: u32,
    /// Size of the ring in bytes.
    pub ring_bytes: u64,
    /// Size of the arena in bytes.
    pub arena_bytes: u64,
    /// Records in the ring; a power of two.
    pub records: u32,
    /// SMs per TPC.
    pub tpc_sms: u32,
    /// Where the regions of the arena lie.
    pub regions: [lithos_region; LITHOS_REGIONS as usize],
    /// TPCs that the GPU has.
    pub present: [u64; 2],
    /// GPC of each TPC, or `LITHOS_GPC_*`.
    pub gpc: [u8; LITHOS_TPCS_MAX as usize],
}

impl Terms {
    /// The terms of a channel whose arena holds so many of each, and whose ring a record per stamp:
    /// channel 0 of a GPU without TPCs, until its maker says more.
    pub fn sized(counts: Counts) -> Self {
        let (regions, arena_bytes) = layout(counts);
        let ring_bytes = ring_bytes(counts.stamps).next_multiple_of(PAGE);
        Self {
            channel: 0,
            gpu_index: 0,
            oversize: LITHOS_OVERSIZE_WIDEN,
            ring_bytes: ring_bytes as u64,
            arena_bytes,
            records: counts.stamps,
            tpc_sms: 2,
            regions,
            present: [0; 2],
            gpc: [LITHOS_GPC_NONE.to_le_bytes()[0]; LITHOS_TPCS_MAX as usize],
        }
    }
}

/// Why a page is not a grant page that this code can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantPageError {
    /// The page is shorter than a grant page.
    #[error("a grant page has {LITHOS_PAGE_BYTES} bytes, this one {0}")]
    Short(usize),
    /// The magic number is wrong.
    #[error("this is no grant page: it starts with {0:#x}")]
    Magic(u64),
    /// Another version of `include/lithos.h` made the page.
    #[error("the grant page has ABI version {0}, this code speaks {LITHOS_ABI_VERSION}")]
    Version(u32),
    /// The page, which its tenant reads already, is that of another channel, or of another GPU.
    #[error("the grant page says something else than it should about what never changes")]
    Terms,
}

const PAGE: usize = LITHOS_PAGE_BYTES as usize;
const SLOT_BYTES: usize = size_of::<lithos_grant>();
const SLOT_WORDS: usize = SLOT_BYTES / 8;
const SLOTS: usize = offset_of!(lithos_grant_page, slots);
const FAIL_STATIC: usize = offset_of!(lithos_grant_page, fail_static);
const LATEST: usize = offset_of!(lithos_grant_page, latest);
const BROKER: usize = offset_of!(lithos_grant_page, broker);
const HEARTBEAT: usize = offset_of!(lithos_grant_page, heartbeat_ns);
const ORDER: usize = offset_of!(lithos_grant_page, order);
const RING: usize = offset_of!(lithos_grant_page, ring);
const HELD: usize = offset_of!(lithos_grant_page, held);
const BORROWED: usize = offset_of!(lithos_grant_page, borrowed);
const _: () = assert!(size_of::<lithos_grant_page>() == PAGE);

fn slot(sequence: u64) -> usize {
    if sequence.is_multiple_of(2) {
        SLOTS
    } else {
        SLOTS + SLOT_BYTES
    }
}

/// The tenant's side of a grant page.
#[derive(Clone, Copy, Debug)]
pub struct GrantReader<'a> {
    page: Page<'a>,
}

impl<'a> GrantReader<'a> {
    /// Takes in a page after a look at its magic number, version and size.
    pub fn new(page: Page<'a>) -> Result<Self, GrantPageError> {
        if page.bytes() < PAGE {
            return Err(GrantPageError::Short(page.bytes()));
        }
        let magic = page
            .word(offset_of!(lithos_grant_page, magic))
            .load(Acquire);
        if magic != LITHOS_GRANT_MAGIC {
            return Err(GrantPageError::Magic(magic));
        }
        let version = page
            .half(offset_of!(lithos_grant_page, version))
            .load(Relaxed);
        if version != LITHOS_ABI_VERSION {
            return Err(GrantPageError::Version(version));
        }
        Ok(Self { page })
    }

    /// Reads what the broker says holds now, whether it still lives or not. `None` if there is no grant
    /// yet, or if a writer was in the way each time.
    pub fn read(&self) -> Option<Grant> {
        // At the beginning of time every heartbeat is fresh.
        self.read_at(0)
    }

    /// Reads what holds at a time of the monotonic clock: what the scheduler granted, or, if its
    /// heartbeat has become too old, what holds without one. `None` as for [`Self::read`].
    pub fn read_at(&self, now_ns: u64) -> Option<Grant> {
        (0..LITHOS_GRANT_TRIES)
            .find_map(|_| self.try_read_at(now_ns))
            .or_else(|| (0..LITHOS_GRANT_TRIES).find_map(|_| self.try_slot(false)))
    }

    /// Reads what holds at a time of the monotonic clock, in one attempt. `None` if there is no grant
    /// yet, or if a writer was in the way.
    // Always inlined: a grant that is returned through memory is read back in other widths than it was
    // stored, and that waits (see `words` in `ring.rs`).
    #[inline(always)]
    pub fn try_read_at(&self, now_ns: u64) -> Option<Grant> {
        let state = self.page.word(BROKER).load(SeqCst) & u64::from(LITHOS_BROKER_STATE_MASK);
        self.try_slot(state == u64::from(LITHOS_BROKER_FAIL_STATIC) || self.is_stale(now_ns))
    }

    /// Returns what gates are to do at a time of the monotonic clock (sequentially consistent): what the
    /// scheduler ordered, and to be open where nobody schedules.
    #[inline]
    pub fn order_at(&self, now_ns: u64) -> Order {
        if self.is_deserted_at(now_ns) {
            return Order::Open;
        }
        Order::from_word(self.page.word(ORDER).load(SeqCst))
    }

    /// Returns whether nobody schedules at a time of the monotonic clock: the broker says so, or the
    /// scheduler no longer says that it lives.
    pub fn is_deserted_at(&self, now_ns: u64) -> bool {
        let state = self.page.word(BROKER).load(SeqCst) & u64::from(LITHOS_BROKER_STATE_MASK);
        state != u64::from(LITHOS_BROKER_SCHEDULED) || self.is_stale(now_ns)
    }

    /// Returns whether launches that are not split, and are bounded, are not to begin at a time of the
    /// monotonic clock: where somebody schedules, and says so.
    #[inline]
    pub fn is_held_at(&self, now_ns: u64) -> bool {
        self.page.word(HELD).load(SeqCst) != 0 && !self.is_deserted_at(now_ns)
    }

    /// Returns the number of the sleep that the scheduler wants to be woken from; 0 if it does not.
    #[inline]
    pub fn asks_to_ring(&self) -> u64 {
        self.page.word(RING).load(SeqCst)
    }

    /// Returns whether nobody schedules, as far as a launch at this time of the monotonic clock can
    /// tell. A scheduler that never beat is not missed.
    #[inline(always)]
    pub fn is_stale(&self, now_ns: u64) -> bool {
        let beat = self.page.word(HEARTBEAT).load(Relaxed);
        beat != 0 && now_ns.saturating_sub(beat) > u64::from(LITHOS_HEARTBEAT_STALE_NS)
    }

    /// Reads the latest grant, or the fail-static one.
    ///
    /// The first load of each is sequentially consistent, because the ring's promise (a launch that
    /// reserved its sequence after the scheduler looked follows the new grant) needs the
    /// reservation and these loads in one order. On x86 that costs nothing.
    #[inline(always)]
    fn try_slot(&self, is_fail_static: bool) -> Option<Grant> {
        let (at, sequence) = if is_fail_static {
            (FAIL_STATIC, self.page.word(FAIL_STATIC).load(SeqCst))
        } else {
            let latest = self.page.word(LATEST).load(SeqCst);
            (slot(latest), latest)
        };
        let slot = self.page.words::<SLOT_WORDS>(at);
        if sequence == 0 || slot[0].load(Acquire) != sequence {
            return None;
        }
        let word = |offset: usize| slot[offset / 8].load(Relaxed);
        let two = |offset: usize| [word(offset), word(offset + 8)];
        let grant = Grant {
            sequence,
            tpcs: two(offset_of!(lithos_grant, tpcs)),
            lent: two(offset_of!(lithos_grant, lent)),
            borrowed: [0, 8].map(|at| self.page.word(BORROWED + at).load(SeqCst)),
            atom_ns: word(offset_of!(lithos_grant, atom_ns)),
            outstanding_ns: word(offset_of!(lithos_grant, outstanding_ns)),
            is_fail_static,
        };
        fence(Acquire);
        (slot[0].load(Relaxed) == sequence).then_some(grant)
    }

    /// Returns whether the channel has been retired by the broker.
    pub fn is_retired(&self) -> bool {
        let state = self.page.word(BROKER).load(Acquire) & u64::from(LITHOS_BROKER_STATE_MASK);
        state == u64::from(LITHOS_BROKER_RETIRED)
    }

    /// Reads what stays the same while the channel lives.
    pub fn terms(&self) -> Terms {
        let word = |offset| self.page.word(offset).load(Relaxed);
        let half = |offset| self.page.half(offset).load(Relaxed);
        let regions = std::array::from_fn(|i| {
            let at = offset_of!(lithos_grant_page, regions) + i * size_of::<lithos_region>();
            lithos_region {
                offset: word(at + offset_of!(lithos_region, offset)),
                stride: half(at + offset_of!(lithos_region, stride)),
                count: half(at + offset_of!(lithos_region, count)),
            }
        });
        let mut gpc = [0; LITHOS_TPCS_MAX as usize];
        for (i, eight) in gpc.chunks_exact_mut(8).enumerate() {
            let value = word(offset_of!(lithos_grant_page, gpc) + 8 * i);
            eight.copy_from_slice(&value.to_le_bytes());
        }
        Terms {
            channel: word(offset_of!(lithos_grant_page, channel)),
            gpu_index: half(offset_of!(lithos_grant_page, gpu_index)),
            oversize: half(offset_of!(lithos_grant_page, oversize)),
            ring_bytes: word(offset_of!(lithos_grant_page, ring_bytes)),
            arena_bytes: word(offset_of!(lithos_grant_page, arena_bytes)),
            records: half(offset_of!(lithos_grant_page, records)),
            tpc_sms: half(offset_of!(lithos_grant_page, tpc_sms)),
            regions,
            present: std::array::from_fn(|i| word(offset_of!(lithos_grant_page, present) + 8 * i)),
            gpc,
        }
    }
}

/// Says in a grant page that its scheduler lives, beside whoever writes the grants.
pub fn beat(page: &Page<'_>, now_ns: u64) {
    page.word(HEARTBEAT).store(now_ns, Release);
}

/// What the gates of a channel's chains are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// To let pass.
    #[default]
    Open,
    /// To hold up.
    Shut,
    /// To end what comes to them. It is the last order of a channel.
    Halt,
}

impl Order {
    /// What a word of the grant page says; one that says nothing known holds nobody up.
    pub fn from_word(word: u64) -> Self {
        const SHUT: u64 = LITHOS_ORDER_SHUT as u64;
        const HALT: u64 = LITHOS_ORDER_HALT as u64;
        match word {
            SHUT => Self::Shut,
            HALT => Self::Halt,
            _ => Self::Open,
        }
    }

    /// The word for it.
    pub fn word(self) -> u64 {
        u64::from(match self {
            Self::Open => LITHOS_ORDER_OPEN,
            Self::Shut => LITHOS_ORDER_SHUT,
            Self::Halt => LITHOS_ORDER_HALT,
        })
    }

    /// The word of a gate that follows it.
    pub fn gate_word(self) -> u32 {
        match self {
            Self::Open => LITHOS_GATE_OPEN,
            Self::Shut => LITHOS_GATE_SHUT,
            Self::Halt => LITHOS_GATE_HALTED,
        }
    }
}

/// Asks in a grant page to be woken by the next launch from the sleep of this number, or, with 0, not to
/// be; and fences: what was launched before is in the ring by now, or will find this.
pub fn ask_to_ring(page: &Page<'_>, number: u64) {
    page.word(RING).store(number, SeqCst);
    fence(SeqCst);
}

/// Writes in a grant page what gates are to do, beside whoever writes the grants, and fences: of chains
/// that are published later, whoever publishes them sees it.
pub fn order(page: &Page<'_>, order: Order) {
    page.word(ORDER).store(order.word(), SeqCst);
    fence(SeqCst);
}

/// Says in a grant page whether launches that are not split, and are bounded, are not to begin.
pub fn hold(page: &Page<'_>, is_held: bool) {
    page.word(HELD).store(is_held.into(), SeqCst);
}

/// Says in a grant page which TPCs that are lent may be used now, beside whoever writes the grants, and
/// fences: launches that are begun later do without the others.
pub fn lend(page: &Page<'_>, tpcs: [u64; 2]) {
    page.word(BORROWED).store(tpcs[0], SeqCst);
    page.word(BORROWED + 8).store(tpcs[1], SeqCst);
    fence(SeqCst);
}

/// The scheduler's side of a grant page. There is one.
#[derive(Debug)]
pub struct GrantWriter<'a> {
    page: Page<'a>,
    latest: u64,
}

impl<'a> GrantWriter<'a> {
    /// Writes a fresh page: no grant yet, scheduled.
    ///
    /// # Panics
    ///
    /// If the page is shorter than a grant page.
    pub fn create(page: Page<'a>, terms: &Terms) -> Self {
        Self::create_after(page, terms, 0)
    }

    /// Writes a page in the place of another one, whose grants had sequences up to `last` at most:
    /// those of this page are later.
    ///
    /// # Panics
    ///
    /// If the page is shorter than a grant page.
    pub fn create_after(page: Page<'a>, terms: &Terms, last: u64) -> Self {
        assert!(page.bytes() >= PAGE, "a grant page has {PAGE} bytes");
        for offset in (0..PAGE).step_by(8) {
            page.word(offset).store(0, Relaxed);
        }
        Self::write_terms(&page, terms);
        Self { page, latest: last }
    }

    /// Goes on with the page of a broker that keeps it for whoever schedules: grants follow those that
    /// are there, and what the broker itself says in it stays. As long as there is no grant, nobody
    /// reads the page, and the terms are written; after that they have to be the same.
    pub fn take_over(page: Page<'a>, terms: &Terms) -> Result<Self, GrantPageError> {
        if page.bytes() < PAGE {
            return Err(GrantPageError::Short(page.bytes()));
        }
        let latest = page.word(LATEST).load(Acquire);
        if latest == 0 {
            Self::write_terms(&page, terms);
        } else if GrantReader::new(page)?.terms() != *terms {
            return Err(GrantPageError::Terms);
        }
        Ok(Self { page, latest })
    }

    fn write_terms(page: &Page<'_>, terms: &Terms) {
        let word = |offset, value| page.word(offset).store(value, Relaxed);
        let half = |offset, value| page.half(offset).store(value, Relaxed);
        half(offset_of!(lithos_grant_page, version), LITHOS_ABI_VERSION);
        half(offset_of!(lithos_grant_page, bytes), LITHOS_PAGE_BYTES);
        word(offset_of!(lithos_grant_page, channel), terms.channel);
        half(offset_of!(lithos_grant_page, gpu_index), terms.gpu_index);
        half(offset_of!(lithos_grant_page, oversize), terms.oversize);
        word(offset_of!(lithos_grant_page, ring_bytes), terms.ring_bytes);
        word(
            offset_of!(lithos_grant_page, arena_bytes),
            terms.arena_bytes,
        );
        half(offset_of!(lithos_grant_page, records), terms.records);
        half(offset_of!(lithos_grant_page, tpc_sms), terms.tpc_sms);
        for (i, region) in terms.regions.iter().enumerate() {
            let at = offset_of!(lithos_grant_page, regions) + i * size_of::<lithos_region>();
            word(at + offset_of!(lithos_region, offset), region.offset);
            half(at + offset_of!(lithos_region, stride), region.stride);
            half(at + offset_of!(lithos_region, count), region.count);
        }
        for (i, value) in terms.present.iter().enumerate() {
            word(offset_of!(lithos_grant_page, present) + 8 * i, *value);
        }
        for (i, eight) in terms.gpc.chunks_exact(8).enumerate() {
            let value = u64::from_le_bytes(eight.try_into().expect("chunks of eight"));
            word(offset_of!(lithos_grant_page, gpc) + 8 * i, value);
        }
        page.word(offset_of!(lithos_grant_page, magic))
            .store(LITHOS_GRANT_MAGIC, Release);
    }

    /// Publishes a grant all of which holds also when nobody schedules; see [`Self::publish_with`].
    pub fn publish(&mut self, grant: &Grant) -> u64 {
        self.publish_with(grant, grant)
    }

    /// Publishes a grant, and what of it holds when nobody schedules; returns its sequence.
    /// `sequence` of either is not looked at. Something must be left of either without what is lent.
    ///
    /// Ends with a full fence: what is read from the ring afterwards tells which launches may
    /// still have followed an older grant, or what was left of one without a scheduler.
    pub fn publish_with(&mut self, grant: &Grant, fail_static: &Grant) -> u64 {
        let next = self.latest + 1;
        self.write_slot(slot(next), next, grant);
        self.page.word(LATEST).store(next, Release);
        self.write_slot(FAIL_STATIC, next, fail_static);
        self.latest = next;
        fence(SeqCst);
        next
    }

    /// Says that the scheduler lives.
    pub fn beat(&self, now_ns: u64) {
        beat(&self.page, now_ns);
    }

    /// Writes the broker's word: a `LITHOS_BROKER_*` state and the epoch.
    pub fn set_broker(&self, state: u32, epoch: u64) {
        let word = (epoch << LITHOS_BROKER_EPOCH_SHIFT) | u64::from(state);
        self.page.word(BROKER).store(word, SeqCst);
    }

    /// Returns the sequence of the latest grant; that before the first if there is none.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    fn write_slot(&self, at: usize, sequence: u64, grant: &Grant) {
        let word = |offset: usize| self.page.word(at + offset);
        word(0).store(0, Relaxed);
        fence(Release);
        let tpcs = offset_of!(lithos_grant, tpcs);
        word(tpcs).store(grant.tpcs[0], Relaxed);
        word(tpcs + 8).store(grant.tpcs[1], Relaxed);
        let lent = offset_of!(lithos_grant, lent);
        word(lent).store(grant.lent[0], Relaxed);
        word(lent + 8).store(grant.lent[1], Relaxed);
        word(offset_of!(lithos_grant, atom_ns)).store(grant.atom_ns, Relaxed);
        word(offset_of!(lithos_grant, outstanding_ns)).store(grant.outstanding_ns, Relaxed);
        word(0).store(sequence, Release);
    }
}
