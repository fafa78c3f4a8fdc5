// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Chains as they lie in an arena: gates, atoms and tails.
//!
//! Both sides look at them through this. The tenant writes chains and can write anything else there, too;
//! so a scheduler takes what a tail says about its gates for a wish, within the bounds of the region
//! ([`Chains::gates_of`]), and stores into gates only what is a gate's word.

use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::Page;
use crate::arena::region;
use crate::bindings::*;
use crate::grant::Order;

/// What is left of a chain that is halted: the atom that runs, and a few microseconds for each other one.
const HALTED_NS: u64 = 1_000_000;
/// Where arenas begin is a multiple of this.
const PAGE: u64 = LITHOS_PAGE_BYTES as u64;
/// The most gates of a chain.
const GATES_MAX: u32 = 254;
/// 64-bit words of a descriptor.
const DESCRIPTOR_WORDS: usize = 48;
/// Bytes of it that chains write, at most; the others stay zero.
const WRITTEN: usize = 320;
/// Bytes of a line of the processor's cache.
const LINE: usize = 64;
/// From one atom to the next, and from a gate to its bounce.
const DESCRIPTOR: usize = crate::arena::DESCRIPTOR_STRIDE as usize;
/// Where in an atom its mask of disabled TPCs is.
const DISABLE_MASK: usize = 304;
const GATE: usize = size_of::<lithos_gate>();
const TAIL: usize = size_of::<lithos_tail>();
const _: () = assert!(GATE == 2 * DESCRIPTOR && TAIL == DESCRIPTOR);
const _: () = assert!(offset_of!(lithos_gate, bounce) == DESCRIPTOR);
const _: () = assert!(offset_of!(lithos_gate, waiting).is_multiple_of(16));
const _: () = assert!(offset_of!(lithos_gate, atom_done).is_multiple_of(16));
const _: () = assert!(offset_of!(lithos_tail, done).is_multiple_of(16));
const _: () = assert!(offset_of!(lithos_tail, first).is_multiple_of(16));

/// Memory for a descriptor, and where the GPU sees it.
pub type Slot<'a> = (&'a [AtomicU64; DESCRIPTOR_WORDS], u64);

/// The regions of an arena that chains are made of.
#[derive(Clone, Copy, Debug)]
pub struct Chains<'a> {
    gates: Page<'a>,
    atoms: [Page<'a>; 2],
    tails: Page<'a>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    gates: u32,
    atoms: u32,
    tails: u32,
}

impl<'a> Chains<'a> {
    /// Takes in the regions; `None` if they do not lie in the arena, are laid out in another way than
    /// this code knows, hold no chain, or begin where a descriptor cannot name what is there in this
    /// process.
    pub fn new(
        arena: &Page<'a>,
        regions: &[lithos_region; LITHOS_REGIONS as usize],
    ) -> Option<Self> {
        let part = |kind: lithos_region_kind, stride: usize| {
            let described = regions[kind as usize];
            let fits = described.stride as usize == stride && described.offset.is_multiple_of(256);
            region(arena, regions, kind)
                .filter(|_| fits)
                .map(|page| (page, described.count))
        };
        let (gates, gate_count) = part(LITHOS_REGION_GATES, GATE)?;
        let (plain, plain_count) = part(LITHOS_REGION_ATOMS, DESCRIPTOR)?;
        let (cluster, cluster_count) = part(LITHOS_REGION_CLUSTER_ATOMS, DESCRIPTOR)?;
        let (tails, tail_count) = part(LITHOS_REGION_TAILS, TAIL)?;
        let atoms = plain_count.checked_add(cluster_count)?;
        if gate_count < atoms || atoms == 0 || tail_count == 0 {
            return None;
        }
        Some(Self {
            gates,
            atoms: [plain, cluster],
            tails,
            counts: Counts {
                gates: atoms,
                atoms: plain_count,
                tails: tail_count,
            },
        })
    }

    /// Returns how many gates can stand before atoms of plain grids: the first so many.
    pub fn plain(&self) -> u32 {
        self.counts.atoms
    }

    /// Returns how many gates can be used in all; those beyond [`plain`](Self::plain) stand before atoms
    /// of clusters.
    pub fn gates(&self) -> u32 {
        self.counts.gates
    }

    /// Returns how many tails there are.
    pub fn tails(&self) -> u32 {
        self.counts.tails
    }

    /// Returns the tail of the chain of this number.
    #[inline]
    pub fn tail(&self, number: u64) -> Tail<'a> {
        let index = number % u64::from(self.counts.tails);
        #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
        let at = index as usize * TAIL;
        Tail {
            page: self.tails,
            at,
        }
    }

    /// Returns a gate.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`gates`](Self::gates).
    #[inline]
    pub fn gate(&self, index: u32) -> Gate<'a> {
        assert!(index < self.counts.gates, "gate {index}");
        Gate {
            page: self.gates,
            at: index as usize * GATE,
        }
    }

    /// Returns the memory of the atom behind a gate.
    ///
    /// # Panics
    ///
    /// If `gate` is not below [`gates`](Self::gates).
    #[inline]
    pub fn atom(&self, gate: u32) -> Slot<'a> {
        let (page, at) = self.atom_at(gate);
        slot(page, at)
    }

    fn atom_at(&self, gate: u32) -> (&Page<'a>, usize) {
        assert!(gate < self.counts.gates, "atom {gate}");
        match gate.checked_sub(self.counts.atoms) {
            None => (&self.atoms[0], gate as usize * DESCRIPTOR),
            Some(cluster) => (&self.atoms[1], cluster as usize * DESCRIPTOR),
        }
    }

    /// Asks the processor for what is stored of a gate and of the atom behind it when they become a
    /// chain's: lines that the GPU has read are slow to write to.
    ///
    /// # Panics
    ///
    /// If `gate` is not below [`gates`](Self::gates).
    #[inline]
    pub fn prefetch(&self, gate: u32) {
        let (atom, at) = self.atom_at(gate);
        prefetch(atom, at);
        let word = gate as usize * GATE + offset_of!(lithos_gate, word);
        self.gates.prefetch(word);
    }

    /// Stores an order into the gates that a tail says are its chain's, those that do not say so already;
    /// returns whether there were any. What is halted stays so.
    pub fn store(&self, tail: &Tail<'_>, order: Order) -> bool {
        if order == Order::Halt {
            self.halt(tail);
            return true;
        }
        let gates = self.gates_of(tail);
        gates.filter(|&gate| self.store_into(gate, order)).count() > 0
    }

    /// The same for one gate; of halting it is not a whole.
    ///
    /// # Panics
    ///
    /// If `gate` is not below [`gates`](Self::gates).
    pub fn store_into(&self, gate: u32, order: Order) -> bool {
        let gate = self.gate(gate);
        let found = gate.word().load(Relaxed);
        if found == order.gate_word() || found == LITHOS_GATE_HALTED {
            return false;
        }
        if order == Order::Shut {
            gate.forget_waiting();
        }
        // Unless somebody else has just stored there: a halt, which must stay, or the same.
        (gate.word())
            .compare_exchange(found, order.gate_word(), Release, Relaxed)
            .is_ok()
    }

    /// Has a chain run out, and nothing come of it: its atoms end that run, those that have not started
    /// never do, and its launch is never done. Whoever waits for the chain waits for no more than that.
    fn halt(&self, tail: &Tail<'_>) {
        tail.make_silent();
        for gate in self.gates_of(tail).rev() {
            let (page, at) = self.atom_at(gate);
            clear(page, at, LITHOS_ATOM_EXIT_WORD, LITHOS_ATOM_EXIT);
            let kind = word(page, at, LITHOS_ATOM_KIND_WORD);
            let others = kind.load(Relaxed) & !LITHOS_ATOM_KIND;
            kind.store(others | LITHOS_ATOM_NULL, Release);
            self.gate(gate).word().store(LITHOS_GATE_HALTED, Release);
        }
        tail.remaining_ns().store(HALTED_NS, Relaxed);
    }

    /// The same for all chains that may still run.
    pub fn store_into_all(&self, order: Order) {
        for number in 0..u64::from(self.counts.tails) {
            let tail = self.tail(number);
            if tail.running().is_some() {
                self.store(&tail, order);
            }
        }
    }

    /// Returns whether there are chains that may still run.
    pub fn any_running(&self) -> bool {
        (0..u64::from(self.counts.tails)).any(|number| self.tail(number).running().is_some())
    }

    /// Returns whether the chain of a launch is known to have begun: an atom has completed, or it waits before
    /// a gate.
    pub fn has_begun(&self, tail: &Tail<'_>, published: u64) -> bool {
        let mut gates = self.gates_of(tail).map(|gate| self.gate(gate));
        tail.is_first_done(published) || gates.any(|gate| gate.is_waited_at())
    }

    /// Returns whether the chain of a launch stands still before a shut gate: all atoms before it have
    /// completed, and it has come there.
    pub fn is_waiting(&self, tail: &Tail<'_>, published: u64) -> bool {
        if !tail.is_first_done(published) {
            return false;
        }
        let mut gates = self.gates_of(tail).map(|gate| self.gate(gate));
        let next = gates.find(|gate| !gate.is_atom_done(published));
        next.is_some_and(|gate| gate.is_waited_at())
    }

    /// Has the atom behind a gate, if it is one of a plain grid and has not started, run on these TPCs
    /// only: a set of which some exist, of those that its launch may use.
    ///
    /// # Panics
    ///
    /// If `gate` is not below [`gates`](Self::gates).
    pub fn narrow(&self, gate: u32, tpcs: [u64; 2]) {
        assert!(gate < self.counts.gates, "atom {gate}");
        if gate < self.counts.atoms {
            let [low, high] = tpcs.map(|word| !word);
            #[expect(clippy::cast_possible_truncation, reason = "each takes its half")]
            let words = [
                low as u32,
                (low >> 32) as u32,
                high as u32,
                (high >> 32) as u32,
            ];
            self.atoms[0].store_128(gate as usize * DESCRIPTOR + DISABLE_MASK, words);
        }
    }

    /// Returns the gates that a tail says are its chain's, as far as there are such.
    #[inline]
    pub fn gates_of(&self, tail: &Tail<'_>) -> Range<u32> {
        let first = tail.first_gate().load(Relaxed).min(self.counts.gates);
        let count = tail.gates().load(Relaxed).min(GATES_MAX);
        first..first.saturating_add(count).min(self.counts.gates)
    }
}

/// Asks for the lines of a descriptor that is about to be written.
#[inline]
fn prefetch(page: &Page<'_>, at: usize) {
    (0..WRITTEN)
        .step_by(LINE)
        .for_each(|offset| page.prefetch(at + offset));
}

/// Returns a word of the descriptor that begins at a byte offset.
fn word<'a>(page: &Page<'a>, at: usize, index: u32) -> &'a AtomicU32 {
    page.half(at + index as usize * size_of::<u32>())
}

/// Takes bits out of a word of a descriptor.
fn clear(page: &Page<'_>, at: usize, index: u32, bits: u32) {
    let word = word(page, at, index);
    word.store(word.load(Relaxed) & !bits, Release);
}

fn slot<'a>(page: &Page<'a>, at: usize) -> Slot<'a> {
    (page.words(at), (page.address() + at) as u64)
}

/// A gate: see `struct lithos_gate`.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    page: Page<'a>,
    at: usize,
}

impl<'a> Gate<'a> {
    /// Returns the memory of its first descriptor.
    #[inline]
    pub fn descriptor(&self) -> Slot<'a> {
        slot(&self.page, self.at)
    }

    /// Returns the memory of its bounce.
    #[inline]
    pub fn bounce(&self) -> Slot<'a> {
        slot(&self.page, self.at + offset_of!(lithos_gate, bounce))
    }

    /// Returns the word that decides.
    #[inline]
    pub fn word(&self) -> &'a AtomicU32 {
        self.page.half(self.at + offset_of!(lithos_gate, word))
    }

    /// Returns where the GPU says that a chain waits.
    #[inline]
    pub fn waiting_address(&self) -> u64 {
        (self.page.address() + self.at + offset_of!(lithos_gate, waiting)) as u64
    }

    /// Returns where the GPU says that the atom behind the gate has completed.
    #[inline]
    pub fn atom_done_address(&self) -> u64 {
        (self.page.address() + self.at + offset_of!(lithos_gate, atom_done)) as u64
    }

    /// Returns whether the atom behind the gate, of the chain of this launch, has completed.
    #[inline]
    pub fn is_atom_done(&self, published: u64) -> bool {
        let done = self.page.half(self.at + offset_of!(lithos_gate, atom_done));
        is_low_half(done.load(Acquire), published)
    }

    /// Returns whether a chain has come here and found the gate shut, which it still is.
    #[inline]
    pub fn is_waited_at(&self) -> bool {
        self.waiting().load(Acquire) != 0 && self.word().load(Relaxed) == LITHOS_GATE_SHUT
    }

    /// Says that nobody waits here: before the gate is shut, for what is said stays there.
    #[inline]
    pub fn forget_waiting(&self) {
        self.waiting().store(0, Relaxed);
    }

    fn waiting(&self) -> &'a AtomicU32 {
        self.page.half(self.at + offset_of!(lithos_gate, waiting))
    }
}

/// A tail: see `struct lithos_tail`.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    page: Page<'a>,
    at: usize,
}

impl<'a> Tail<'a> {
    /// Returns the memory of its descriptor.
    #[inline]
    pub fn descriptor(&self) -> Slot<'a> {
        slot(&self.page, self.at)
    }

    /// Asks the processor for what is stored when it becomes a chain's.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.page, self.at);
    }

    /// Asks the processor for what tells whose it is, and what the GPU has said in it.
    #[inline]
    pub fn prefetch_state(&self) {
        self.page
            .prefetch(self.at + offset_of!(lithos_tail, published));
        self.page
            .prefetch(self.at + offset_of!(lithos_tail, number));
    }

    /// Returns `published`.
    #[inline]
    pub fn published(&self) -> &'a AtomicU64 {
        self.page.word(self.at + offset_of!(lithos_tail, published))
    }

    /// Returns `number`.
    #[inline]
    pub fn number(&self) -> &'a AtomicU64 {
        self.page.word(self.at + offset_of!(lithos_tail, number))
    }

    /// Returns `remaining_ns`.
    #[inline]
    pub fn remaining_ns(&self) -> &'a AtomicU64 {
        let at = self.at + offset_of!(lithos_tail, remaining_ns);
        self.page.word(at)
    }

    /// Returns `first_gate`.
    #[inline]
    pub fn first_gate(&self) -> &'a AtomicU32 {
        self.half(offset_of!(lithos_tail, first_gate))
    }

    /// Returns `gates`.
    #[inline]
    pub fn gates(&self) -> &'a AtomicU32 {
        self.half(offset_of!(lithos_tail, gates))
    }

    /// Returns `shut`.
    #[inline]
    pub fn shut(&self) -> &'a AtomicU32 {
        self.half(offset_of!(lithos_tail, shut))
    }

    /// Returns `stuck`.
    #[inline]
    pub fn stuck(&self) -> &'a AtomicU32 {
        self.half(offset_of!(lithos_tail, stuck))
    }

    /// Returns the two words of `tpcs`.
    #[inline]
    pub fn tpcs(&self) -> [&'a AtomicU64; 2] {
        [0, 8].map(|at| self.page.word(self.at + offset_of!(lithos_tail, tpcs) + at))
    }

    /// Returns where the GPU says that the chain is done.
    #[inline]
    pub fn done_address(&self) -> u64 {
        (self.page.address() + self.at + offset_of!(lithos_tail, done)) as u64
    }

    /// Returns where the GPU says that the first atom has completed.
    #[inline]
    pub fn first_address(&self) -> u64 {
        (self.page.address() + self.at + offset_of!(lithos_tail, first)) as u64
    }

    /// Returns the launch of the chain that may still run.
    #[inline]
    pub fn running(&self) -> Option<u64> {
        let published = self.published().load(Acquire);
        (published != 0 && !self.is_done(published)).then_some(published)
    }

    /// Returns whether the chain of this launch has completed.
    #[inline]
    pub fn is_done(&self, published: u64) -> bool {
        let done = self.half(offset_of!(lithos_tail, done)).load(Acquire);
        is_low_half(done, published)
    }

    /// Returns whether the first atom of the chain of this launch has completed.
    #[inline]
    pub fn is_first_done(&self, published: u64) -> bool {
        let first = self.half(offset_of!(lithos_tail, first)).load(Acquire);
        is_low_half(first, published)
    }

    /// Returns for how long the chain of this launch ran after its first atom had completed, in
    /// nanoseconds; `None` if it is not done, or if the GPU did not say.
    #[inline]
    pub fn after_first_ns(&self, published: u64) -> Option<u64> {
        if !self.is_done(published) || !self.is_first_done(published) {
            return None;
        }
        let time = |offset| self.page.word(self.at + offset).load(Relaxed);
        let done_ns = time(offset_of!(lithos_tail, done_gpu_ns));
        done_ns.checked_sub(time(offset_of!(lithos_tail, first_gpu_ns)))
    }

    /// Has it complete nothing but the chain.
    fn make_silent(&self) {
        let clear = |index, bits| clear(&self.page, self.at, index, bits);
        let stamp = word(&self.page, self.at, LITHOS_TAIL_ADDRESS_WORD).load(Relaxed);
        let is_first = u64::from(stamp) % PAGE == self.done_address() % PAGE;
        let (first, second) = match is_first {
            true => (0, LITHOS_TAIL_RELEASE_2),
            false => (LITHOS_TAIL_RELEASE_1, 0),
        };
        clear(LITHOS_TAIL_LATCH_WORD, LITHOS_TAIL_LATCH);
        clear(LITHOS_TAIL_RELEASE_WORD, LITHOS_TAIL_RELEASE_0 | first);
        clear(LITHOS_TAIL_DEPENDENTS_WORD, LITHOS_TAIL_DEPENDENTS | second);
    }

    /// Says that the chain of this launch never ran, so that nobody waits for it.
    pub fn publish_done(&self, launch: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        let low = launch as u32;
        (self.half(offset_of!(lithos_tail, done))).store(low, Relaxed);
        self.published().store(launch, Release);
    }

    #[inline]
    fn half(&self, offset: usize) -> &'a AtomicU32 {
        self.page.half(self.at + offset)
    }
}

fn is_low_half(low: u32, of: u64) -> bool {
    u64::from(low) == of & 0xffff_ffff
}
