// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory for one chain, as a test has it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Chain, Gate, GateState, Link, Place, Stamp, WORDS, Words};

/// Where the GPU sees the arena.
pub(crate) const BASE: u64 = 0x4_0020_0000;
/// Bytes from one place to the next.
const STEP: u16 = 512;
/// What stamps of a chain say.
pub(crate) const NUMBER: u32 = 0x1234_5678;

/// Places for one chain of up to so many atoms, laid out as in `tests/hardware/chains.h`: the tail,
/// then gate, bounce and atom in turn; and behind them the stamps.
pub(crate) struct Arena {
    pairs: Vec<AtomicU64>,
    atoms: u16,
}

impl Arena {
    /// Zeros.
    pub(crate) fn new(atoms: u16) -> Self {
        let pairs = (1 + 3 * usize::from(atoms)) * usize::from(STEP / 8);
        Arena {
            pairs: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
            atoms,
        }
    }

    /// Where a place lies.
    pub(crate) fn address(place: u16) -> u64 {
        BASE + u64::from(place) * u64::from(STEP)
    }

    fn place(&self, place: u16) -> Place<'_> {
        let address = Self::address(place);
        Place::new(self.at(address).expect("a place"), address).expect("an address")
    }

    /// The words of a descriptor at this address, if that is in the arena.
    pub(crate) fn words_at(&self, address: u64) -> Option<Words> {
        let pairs = self.at(address)?;
        Some(core::array::from_fn(|index| {
            let pair = pairs[index / 2].load(SeqCst);
            u32::try_from(pair >> (32 * (index % 2)) & 0xffff_ffff).expect("a word")
        }))
    }

    /// The same in pairs, as places take them.
    pub(crate) fn at(&self, address: u64) -> Option<&[AtomicU64; WORDS / 2]> {
        let from = usize::try_from(address.checked_sub(BASE)?).ok()? / 8;
        self.pairs.get(from..from + WORDS / 2)?.try_into().ok()
    }

    /// What lies in a place.
    pub(crate) fn words(&self, place: u16) -> Words {
        self.words_at(Self::address(place)).expect("a place")
    }

    /// Edits what lies in a place.
    pub(crate) fn edit(&self, place: u16, edit: impl FnOnce(&mut Words)) {
        let mut words = self.words(place);
        edit(&mut words);
        let pairs = self.at(Self::address(place)).expect("a place");
        for (to, words) in pairs.iter().zip(words.chunks_exact(2)) {
            to.store(u64::from(words[0]) | u64::from(words[1]) << 32, SeqCst);
        }
    }

    /// Where stamp `index` lies: 0 is the chain's, then those of the atoms, those of the gates.
    pub(crate) fn stamp_address(&self, index: u16) -> u64 {
        Self::address(1 + 3 * self.atoms) + u64::from(index) * 16
    }

    fn stamp(&self, index: u16) -> Stamp {
        Stamp::new(self.stamp_address(index), NUMBER).expect("an address")
    }

    /// What a chain in these places has once.
    pub(crate) fn chain(&self, gates: GateState, stamped: bool) -> Chain<'_> {
        Chain {
            tail: self.place(0),
            done: self.stamp(0),
            stamp: stamped.then(|| self.stamp(1)),
            allowed: None,
            gates,
            present: TpcMask::ALL,
        }
    }

    /// The links of a chain of so many atoms, with their gates built.
    pub(crate) fn links(&self, atoms: u16, stamped: bool) -> Vec<Link<'_>> {
        let link = |atom| {
            let (gate, place) = (self.gate(atom), self.place(3 * atom));
            gate.build(&place);
            Link {
                gate,
                atom: place,
                stamp: stamped.then(|| self.stamp(1 + atom)),
                allowed: None,
            }
        };
        (1..atoms).map(link).collect()
    }

    /// The gate before an atom.
    pub(crate) fn gate(&self, atom: u16) -> Gate<'_> {
        Gate {
            descriptor: self.place(3 * atom - 2),
            bounce: self.place(3 * atom - 1),
            waiting: self.stamp(1 + self.atoms + atom),
        }
    }
}
