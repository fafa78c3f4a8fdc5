// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory in which descriptors name each other, and the pieces of chains in it.
//!
//! It lies below 1 TiB, where descriptors can be named, and the GPU sees it at its own address. Pieces are
//! laid out as `tests/hardware/chains.h` has them: the tail, then gate, bounce and atom in turn.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cudarc::driver::sys;
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{
    Chain, GATE_WORD, Gate, GateState, Kind, Link, Place, Stamp, WORDS, Words, fields,
};
use lithos_descriptor::{Field, Plan};
use lithos_tests::cuda::check;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::stay::until;
use crate::subscriber::Editable;

/// Where a free range is looked for: from 64 to 512 GiB, where nobody is known to grow.
const FIRST: usize = 64 << 30;
const LAST: usize = 512 << 30;
const STEP: usize = 4 << 30;

/// Descriptors, and as many stamps behind them.
const PLACES: usize = 1024;
/// From one descriptor to the next.
const PLACE_BYTES: usize = 512;
const STAMP_BYTES: usize = 16;
const BYTES: usize = PLACES * (PLACE_BYTES + STAMP_BYTES);
/// Atoms of the longest chain.
pub(crate) const ATOMS: u16 = 16;
/// Places, and stamps, that a chain may use.
const CHAIN_PLACES: usize = 1 + 3 * ATOMS as usize;
/// Chains for which there are pieces.
pub(crate) const CHAINS: usize = PLACES / CHAIN_PLACES;

/// The memory; it stays until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arena {
    base: usize,
}

impl Arena {
    /// Maps and registers it.
    pub(crate) fn new() -> Self {
        let base = (FIRST..LAST).step_by(STEP).find_map(map);
        let base = base.expect("a free range of low addresses");
        let memory = std::ptr::with_exposed_provenance_mut(base);
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: registers what was just mapped, which stays.
        let registered = unsafe { sys::cuMemHostRegister_v2(memory, BYTES, flags) };
        check("cuMemHostRegister", registered).expect("memory that the GPU sees");
        Self { base }
    }

    fn words<const N: usize>(self, offset: usize) -> &'static [AtomicU32; N] {
        assert!(offset.is_multiple_of(4) && offset + 4 * N <= BYTES);
        let words = std::ptr::with_exposed_provenance(self.base + offset);
        // SAFETY: inside the memory, which stays mapped and is touched by atomics only, and by the GPU.
        unsafe { &*words }
    }

    fn pairs<const N: usize>(self, offset: usize) -> &'static [AtomicU64; N] {
        assert!(offset.is_multiple_of(8) && offset + 8 * N <= BYTES);
        let pairs = std::ptr::with_exposed_provenance(self.base + offset);
        // SAFETY: as in `words`.
        unsafe { &*pairs }
    }

    /// A place for a descriptor.
    pub(crate) fn place(self, index: usize) -> Place<'static> {
        assert!(index < PLACES);
        let offset = PLACE_BYTES * index;
        let address = (self.base + offset) as u64;
        Place::new(self.pairs(offset), address).expect("an address of a descriptor")
    }

    /// Writes a whole descriptor.
    pub(crate) fn put(self, index: usize, words: &Words) {
        let place = self.words::<WORDS>(PLACE_BYTES * index);
        for (to, &word) in place.iter().zip(words) {
            to.store(word, Ordering::Release);
        }
    }

    /// Stores one word of a descriptor.
    pub(crate) fn store(self, index: usize, word: usize, value: u32) {
        self.words::<WORDS>(PLACE_BYTES * index)[word].store(value, Ordering::Release);
    }

    /// Changes a field of at most 32 bits of a descriptor, which lies in one word of it.
    pub(crate) fn set(self, index: usize, field: Field, value: u32) {
        let word = field.lo() as usize / 32;
        assert_eq!(field.hi() as usize / 32, word);
        let place = &self.words::<WORDS>(PLACE_BYTES * index)[word];
        let mut words: Words = [0; WORDS];
        words[word] = place.load(Ordering::Acquire);
        field.set(&mut words, value.into());
        place.store(words[word], Ordering::Release);
    }

    fn stamp_words(self, index: usize) -> &'static [AtomicU32; 4] {
        assert!(index < PLACES);
        self.words(PLACES * PLACE_BYTES + STAMP_BYTES * index)
    }

    /// A stamp of place `index`.
    pub(crate) fn stamp(self, index: usize, payload: u32) -> Stamp {
        let address = self.stamp_words(index).as_ptr().addr() as u64;
        Stamp::new(address, payload).expect("an address of a stamp")
    }

    /// What the stamp of a place says.
    pub(crate) fn payload(self, index: usize) -> u32 {
        self.stamp_words(index)[0].load(Ordering::Acquire)
    }

    /// Wipes the stamp of a place.
    pub(crate) fn wipe(self, index: usize) {
        self.stamp_words(index)[0].store(0, Ordering::Release);
    }

    /// The time of a stamp that has been written.
    pub(crate) fn time_ns(self, index: usize) -> u64 {
        assert_ne!(self.payload(index), 0, "stamp {index}");
        let words = self.stamp_words(index);
        let [low, high] = [2, 3].map(|word| u64::from(words[word].load(Ordering::Acquire)));
        low | high << 32
    }

    /// The pieces of a chain of at most [`ATOMS`] atoms.
    pub(crate) fn pieces(self, chain: usize) -> Pieces {
        assert!(chain < CHAINS);
        Pieces {
            arena: self,
            first: CHAIN_PLACES * chain,
            payload: 1,
            gates: GateState::Open,
            allowed: None,
        }
    }
}

/// Maps the memory at an address, if that is free.
fn map(address: usize) -> Option<usize> {
    let place = NonZeroUsize::new(address)?;
    let bytes = NonZeroUsize::new(BYTES)?;
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces no other mapping.
    let mapped = unsafe { mmap_anonymous(Some(place), bytes, rights, flags) }.ok()?;
    let found = mapped.as_ptr().expose_provenance();
    assert_eq!(found, address, "a kernel that knows MAP_FIXED_NOREPLACE");
    Some(found)
}

/// The pieces of one chain, and what is to be written into them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    arena: Arena,
    first: usize,
    /// What stamps say.
    payload: u32,
    /// The state of gates at first.
    gates: GateState,
    /// The TPCs of all atoms but the first.
    allowed: Option<TpcMask>,
}

impl Pieces {
    /// The same with gates that are shut at first.
    pub(crate) fn shut(self) -> Self {
        Self {
            gates: GateState::Shut,
            ..self
        }
    }

    /// The same with all atoms but the first on these TPCs.
    pub(crate) fn on(self, tpcs: TpcMask) -> Self {
        Self {
            allowed: Some(tpcs),
            ..self
        }
    }

    /// The same with stamps of another payload, which is not 0.
    pub(crate) fn stamping(self, payload: u32) -> Self {
        Self { payload, ..self }
    }

    fn tail(&self) -> usize {
        self.first
    }

    /// Where the gate before an atom lies, and its stamp.
    pub(crate) fn gate_place(&self, atom: u16) -> usize {
        self.first + 3 * usize::from(atom) - 2
    }

    /// Where an atom but the first lies.
    pub(crate) fn atom(&self, atom: u16) -> usize {
        self.first + 3 * usize::from(atom)
    }

    /// The gate before an atom.
    pub(crate) fn gate(&self, atom: u16) -> Gate<'static> {
        let place = self.gate_place(atom);
        Gate {
            descriptor: self.arena.place(place),
            bounce: self.arena.place(place + 1),
            waiting: self.arena.stamp(place, self.payload),
        }
    }

    /// Changes all gates of a chain of so many atoms.
    pub(crate) fn set_gates(&self, atoms: u16, state: GateState) {
        for atom in 1..atoms {
            self.gate(atom).set(state);
        }
    }

    /// Makes all atoms of so many void, but the first, and lets the chain pass.
    pub(crate) fn make_void(&self, atoms: u16) {
        for atom in (1..atoms).rev() {
            let place = self.atom(atom);
            self.arena
                .set(place, fields::PRE_EXIT_AT_LAST_CTA_LAUNCH, 0);
            self.arena
                .set(place, fields::QMD_TYPE, Kind::Null.bits().into());
            self.gate(atom).set(GateState::Halted);
        }
    }

    /// Has the tail complete nothing but the chain.
    pub(crate) fn make_silent(&self) {
        let tail = self.tail();
        self.arena.set(tail, fields::ARRIVE_AT_LATCH_VALID, 0);
        self.arena.set(tail, fields::RELEASE_ENABLE.at(0), 0);
        for slot in 0..2 {
            self.arena
                .set(tail, fields::DEPENDENT_QMD_ENABLE.at(slot), 0);
        }
    }

    /// Stores into the word that decides of a gate.
    pub(crate) fn set_word(&self, atom: u16, word: u32) {
        self.arena.store(self.gate_place(atom), GATE_WORD, word);
    }

    /// Whether the chain has come by the gate before an atom and found it shut, since that was wiped.
    pub(crate) fn waits_at(&self, atom: u16) -> bool {
        self.arena.payload(self.gate_place(atom)) == self.payload
    }

    /// When it last did.
    pub(crate) fn waited_ns(&self, atom: u16) -> u64 {
        self.arena.time_ns(self.gate_place(atom))
    }

    /// Wipes what says so.
    pub(crate) fn wipe_waiting(&self, atom: u16) {
        self.arena.wipe(self.gate_place(atom));
    }

    /// Waits until the chain is held at the gate before an atom.
    pub(crate) fn wait_until_held(&self, atom: u16) {
        until(|| self.waits_at(atom));
    }

    /// Whether an atom has completed.
    pub(crate) fn has_completed(&self, atom: u16) -> bool {
        self.arena.payload(self.stamp_place(atom)) == self.payload
    }

    /// When an atom completed.
    pub(crate) fn completed_ns(&self, atom: u16) -> u64 {
        self.arena.time_ns(self.stamp_place(atom))
    }

    /// Whether the whole chain has.
    pub(crate) fn is_done(&self) -> bool {
        self.arena.payload(self.tail()) == self.payload
    }

    /// When it did.
    pub(crate) fn done_ns(&self) -> u64 {
        self.arena.time_ns(self.tail())
    }

    /// An atom stamps in its own place; the first in that of a bounce, which has no stamp.
    fn stamp_place(&self, atom: u16) -> usize {
        if atom == 0 {
            self.first + 2
        } else {
            self.atom(atom)
        }
    }

    /// Makes a launch a chain of so many atoms, or of fewer where it has not so many rows or slices; gives
    /// how many.
    pub(crate) fn make(&self, descriptor: &mut Editable, atoms: u16) -> u16 {
        let mut edited = descriptor.copied();
        let splittable = lithos_descriptor::hopper::Descriptor::new(edited.words_mut())
            .expect("a descriptor")
            .splittable()
            .expect("a launch that can be split");
        let plan: Plan = splittable.plan(atoms, 0).expect("two atoms at least");
        let stamp = |atom| self.arena.stamp(self.stamp_place(atom), self.payload);
        let chain = Chain {
            tail: self.arena.place(self.tail()),
            done: self.arena.stamp(self.tail(), self.payload),
            stamp: Some(stamp(0)),
            allowed: None,
            gates: self.gates,
            present: TpcMask::ALL,
        };
        let link = |atom| {
            let (gate, place) = (self.gate(atom), self.arena.place(self.atom(atom)));
            gate.build(&place);
            Link {
                gate,
                atom: place,
                stamp: Some(stamp(atom)),
                allowed: self.allowed,
            }
        };
        let links: Vec<Link<'_>> = (1..plan.atoms()).map(link).collect();
        let made = splittable.split(&plan, &chain, links);
        made.expect("pieces for every atom");
        *descriptor.words_mut() = *edited.words();
        plan.atoms()
    }

    /// The edit that does so.
    pub(crate) fn cut(self, atoms: u16) -> impl FnMut(&mut Editable) + Send + 'static {
        move |descriptor| {
            self.make(descriptor, atoms);
        }
    }

    /// The same for atoms of which each starts when the one before it has completed.
    pub(crate) fn cut_without_pre_exit(
        self,
        atoms: u16,
    ) -> impl FnMut(&mut Editable) + Send + 'static {
        move |descriptor| {
            let made = self.make(descriptor, atoms);
            let pre_exit = fields::PRE_EXIT_AT_LAST_CTA_LAUNCH;
            pre_exit.set(descriptor.words_mut(), 0);
            for atom in 1..made {
                self.arena.set(self.atom(atom), pre_exit, 0);
            }
        }
    }
}
