// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who has which part of the arena: tails, and links (a gate with the atom behind it).
//!
//! Tails are taken in turn, by the number of the chain. The links of a chain lie one after another, so
//! that whoever shuts its gates needs two numbers: a run of them within one 64-bit word, as long as the next power
//! of two and aligned to it (a buddy allocator whose free lists are bits); those of a longer chain begin with
//! a whole word, and go on in the next ones. Where there is no such row of words a chain has fewer atoms.
//!
//! ```text
//!   word of links   0b_0000_0000_1111_0011     4 to 7: a chain of 5 atoms    0 and 1: one of 2 or 3
//! ```
//!
//! Both are free again when the GPU says in the tail that the chain has completed. Nobody waits for
//! that: whoever begins a chain looks at the oldest ones, and at all if there is no room; if there is none
//! then, the launch is not split. No locks: a thread may be killed anywhere, and others go on.

use std::sync::atomic::{AtomicU64, Ordering::*};

use lithos_abi::bindings::LITHOS_COUNT_WHOLE_STUCK;
use lithos_abi::chain::Chains;

use crate::operators::{Operator, Operators};

/// Tails that are looked at for each chain that begins: the oldest in use.
const LOOKS: u64 = 2;
/// Links in a word.
const LINKS: u32 = u64::BITS;
/// The atoms of a chain that has a word of links.
const ATOMS_OF_A_WORD: u16 = 65;
/// A tail whose owner is just about to change.
const BUSY: u64 = u64::MAX;

/// Who has what.
#[derive(Debug)]
pub(crate) struct Places {
    /// A bit for each link that somebody has; plain grids first.
    words: Box<[AtomicU64]>,
    /// A bit for each link whose gate is built.
    built: Box<[AtomicU64]>,
    /// How many of the words are for plain grids.
    plain_words: usize,
    /// For each tail a [`Held`], [`BUSY`], or 0 if it is free.
    tails: Box<[AtomicU64]>,
    /// The number of the oldest chain that may have something.
    oldest: AtomicU64,
}

/// What a chain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The first of its links.
    pub(crate) first: u32,
    /// Its atoms; it has a link less.
    pub(crate) atoms: u16,
    /// The TPCs that it runs on.
    pub(crate) tpcs: u32,
    pub(crate) operator: Operator,
}

impl Held {
    const TAKEN: u64 = 1 << 63;

    /// As a word, with what tells it from another chain that had the same in the same tail before.
    fn pack(self, generation: u64) -> u64 {
        Self::TAKEN
            | (generation & 0x7f) << 56
            | u64::from(self.first & 0xff_ffff)
            | u64::from(self.atoms & 0xff) << 24
            | u64::from(self.tpcs & 0xff) << 32
            | u64::from(self.operator.place()) << 40
    }

    fn unpack(word: u64) -> Self {
        Self {
            first: (word & 0xff_ffff) as u32,
            atoms: (word >> 24 & 0xff) as u16,
            tpcs: (word >> 32 & 0xff) as u32,
            operator: Operator::of_place((word >> 40 & 0xffff) as u16),
        }
    }

    /// Its links as words, and which bits of those.
    fn runs(self) -> impl Iterator<Item = (usize, u64)> {
        let word = (self.first / LINKS) as usize;
        let shift = self.first % LINKS;
        (word..).zip(runs_of(self.atoms - 1).map(move |bits| bits << shift))
    }
}

/// So many links as bits of one word after another, from the beginning of the first.
fn runs_of(links: u16) -> impl Iterator<Item = u64> {
    let words = u32::from(links).div_ceil(LINKS);
    let last = u32::from(links) - LINKS * words.saturating_sub(1);
    let last = run_of(u16::try_from(last).unwrap_or(1));
    (1..words).map(|_| u64::MAX).chain([last])
}

/// So many links, rounded up to a power of two, as bits from the lowest on.
fn run_of(links: u16) -> u64 {
    let size = u32::from(links).next_power_of_two();
    u64::MAX >> (LINKS - size.clamp(1, LINKS))
}

impl Places {
    /// All is free.
    pub(crate) fn new(chains: &Chains<'_>) -> Self {
        let plain_words = (chains.plain() / LINKS) as usize;
        // Gates of clusters begin where those of plain grids end, which need not be a whole word.
        let first_cluster = chains.plain().div_ceil(LINKS);
        let words = (chains.gates() / LINKS).max(first_cluster);
        let new = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let mut places = Self {
            words: new(words),
            built: new(words),
            plain_words,
            tails: new(chains.tails()),
            oldest: AtomicU64::new(1),
        };
        // A word that has gates of both is nobody's.
        if let Some(mixed) = places.words.get_mut(plain_words)
            && first_cluster as usize > plain_words
        {
            *mixed = AtomicU64::new(u64::MAX);
        }
        places
    }

    /// Takes a tail by the number of a chain, which is to be a launch's, and links for all of its atoms but
    /// the first: two to [`ATOMS_MAX`](crate::operators::ATOMS_MAX) atoms. `None` if there is no room.
    pub(crate) fn take(
        &self,
        (number, launch): (u64, u64),
        held: Held,
        has_clusters: bool,
        chains: &Chains<'_>,
        operators: &Operators,
    ) -> Option<Held> {
        self.look_at_oldest(number, LOOKS, chains, operators);
        let tail = self.tail_of(number);
        self.look(tail, chains, operators);
        let owner = &self.tails[tail as usize];
        (owner.compare_exchange(0, BUSY, Acquire, Relaxed)).ok()?;
        let take = |atoms: u16| {
            let first = self.take_links(atoms - 1, has_clusters)?;
            Some(Held {
                first,
                atoms,
                ..held
            })
        };
        let taken = take(held.atoms).or_else(|| {
            self.look_at_oldest(number, u64::MAX, chains, operators);
            take(held.atoms).or_else(|| take(held.atoms.min(ATOMS_OF_A_WORD)))
        });
        let at = chains.tail(number);
        at.number().store(number, Relaxed);
        let Some(held) = taken else {
            at.publish_done(launch);
            owner.store(0, Release);
            return None;
        };
        // Until it is published nobody takes it for one that has completed: the tail says 0.
        at.published().store(0, Release);
        let generation = number / self.tails.len() as u64;
        owner.store(held.pack(generation), Release);
        operators.note_last(held.operator, tail);
        Some(held)
    }

    /// Asks the processor for what will be looked at to take room for the chain of this number.
    pub(crate) fn prefetch(&self, number: u64, chains: &Chains<'_>) {
        let oldest = self.oldest.load(Relaxed);
        (oldest..number.min(oldest + LOOKS))
            .chain([number])
            .for_each(|number| chains.tail(number).prefetch_state());
    }

    /// Returns whether there is room for the chain of this number, as far as can be told before it is taken: for one
    /// of few atoms at least.
    pub(crate) fn has_room(
        &self,
        number: u64,
        has_clusters: bool,
        chains: &Chains<'_>,
        operators: &Operators,
    ) -> bool {
        let tail = self.tail_of(number);
        let words = match has_clusters {
            true => &self.words[self.plain_words..],
            false => &self.words[..self.plain_words],
        };
        let has_links = || words.iter().any(|word| word.load(Relaxed) == 0);
        self.look(tail, chains, operators);
        if !has_links() {
            self.look_at_oldest(number, u64::MAX, chains, operators);
        }
        self.tails[tail as usize].load(Relaxed) == 0 && has_links()
    }

    /// Has the gates built, of links that were taken, that nobody has built before.
    pub(crate) fn build(&self, held: Held, build: impl Fn(u32)) {
        for (index, bits) in held.runs() {
            let built = &self.built[index];
            let missing = bits & !built.load(Relaxed);
            if missing == 0 {
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "there are as few words as links"
            )]
            let first = index as u32 * LINKS;
            let bit = |bit: &u32| missing >> bit & 1 == 1;
            (0..LINKS).filter(bit).for_each(|bit| build(first + bit));
            built.fetch_or(bits, Relaxed);
        }
    }

    /// Learns from the last chain of an operator, if it has completed.
    pub(crate) fn learn(&self, operator: Operator, chains: &Chains<'_>, operators: &Operators) {
        if let Some(last) = operators.last(operator) {
            self.look(last, chains, operators);
        }
    }

    /// Gives back what a chain has that was never published.
    pub(crate) fn give_back(&self, (number, launch): (u64, u64), held: Held, chains: &Chains<'_>) {
        let owner = &self.tails[self.tail_of(number) as usize];
        owner.store(BUSY, Relaxed);
        chains.tail(number).publish_done(launch);
        self.free(held);
        owner.store(0, Release);
    }

    /// Returns the tail of a chain's number, as an index.
    #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
    pub(crate) fn tail_of(&self, number: u64) -> u32 {
        (number % self.tails.len() as u64) as u32
    }

    /// Looks at so many of the oldest chains before a number.
    fn look_at_oldest(&self, before: u64, looks: u64, chains: &Chains<'_>, operators: &Operators) {
        let tails = self.tails.len() as u64;
        // Of two numbers with the same tail one look is enough.
        let first = self.oldest.load(Relaxed).max(before.saturating_sub(tails));
        let mut oldest = first;
        for number in (first..before).take(usize::try_from(looks).unwrap_or(usize::MAX)) {
            let tail = self.tail_of(number);
            self.look(tail, chains, operators);
            if number == oldest && self.tails[tail as usize].load(Relaxed) == 0 {
                oldest += 1;
            }
        }
        self.oldest.fetch_max(oldest, Relaxed);
    }

    /// Frees what the chain of a tail has, if it has completed.
    fn look(&self, tail: u32, chains: &Chains<'_>, operators: &Operators) {
        let owner = &self.tails[tail as usize];
        let word = owner.load(Acquire);
        if word == 0 || word == BUSY {
            return;
        }
        let at = chains.tail(u64::from(tail));
        let published = at.published().load(Acquire);
        if published == 0 || !at.is_done(published) {
            return;
        }
        // Whoever has it now may be another chain, in the same links even: then this frees what is in
        // use only if that has completed as well.
        if owner
            .compare_exchange(word, BUSY, Acquire, Relaxed)
            .is_err()
        {
            return;
        }
        if at.published().load(Acquire) != published {
            owner.store(word, Release);
            return;
        }
        let held = Held::unpack(word);
        if at.stuck().load(Relaxed) != 0 {
            operators.keep_whole(held.operator, LITHOS_COUNT_WHOLE_STUCK);
        }
        // While gates were shut time passed that says nothing about the operator.
        if at.shut().load(Relaxed) == 0
            && let Some(after_first_ns) = at.after_first_ns(published)
        {
            // There may have been fewer rows than atoms to be.
            let cut = at.gates().load(Relaxed).saturating_add(1);
            let atoms = u16::try_from(cut).unwrap_or(held.atoms).min(held.atoms);
            let [low, high] = at.tpcs().map(|word| word.load(Relaxed).count_ones());
            // Of clusters they are not said.
            let tpcs = match low + high {
                0 => held.tpcs,
                had => had,
            };
            operators.learn(held.operator, after_first_ns, atoms, tpcs);
        }
        self.free(held);
        owner.store(0, Release);
    }

    fn free(&self, held: Held) {
        for (word, bits) in held.runs() {
            if let Some(word) = self.words.get(word) {
                word.fetch_and(!bits, Release);
            }
        }
    }

    fn take_links(&self, links: u16, has_clusters: bool) -> Option<u32> {
        let words = if has_clusters {
            self.plain_words..self.words.len()
        } else {
            0..self.plain_words
        };
        if u32::from(links) > LINKS {
            let more = usize::from(links).div_ceil(LINKS as usize) - 1;
            let mut firsts = words.start..words.end.saturating_sub(more);
            let first = firsts.find(|&first| self.take_words(first, links))?;
            return u32::try_from(first).ok().map(|index| index * LINKS);
        }
        let bits = run_of(links);
        let size = bits.count_ones();
        words.into_iter().find_map(|index| {
            let word = &self.words[index];
            let mut used = word.load(Relaxed);
            loop {
                let at = (0..LINKS)
                    .step_by(size as usize)
                    .find(|at| used & bits << at == 0)?;
                match word.compare_exchange(used, used | bits << at, Acquire, Relaxed) {
                    Ok(_) => return u32::try_from(index).ok().map(|index| index * LINKS + at),
                    Err(now) => used = now,
                }
            }
        })
    }

    /// Takes so many links from the beginning of a word on, all or none.
    fn take_words(&self, first: usize, links: u16) -> bool {
        let take = |word: &AtomicU64, bits: u64| {
            let take = |used: u64| (used & bits == 0).then_some(used | bits);
            word.fetch_update(Acquire, Relaxed, take).is_ok()
        };
        let words = &self.words[first..];
        let refused = (words.iter().zip(runs_of(links))).position(|(word, bits)| !take(word, bits));
        // Those before it were taken whole.
        let whole = &words[..refused.unwrap_or(0)];
        whole.iter().for_each(|word| word.store(0, Release));
        refused.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::Launch;
    use crate::launch::tests::{Bench, TAILS, bench};

    fn operator(operators: &Operators) -> Operator {
        operators.find(&Launch {
            function: 5,
            grid: [1000, 1, 1],
            block: [128, 1, 1],
            ..Default::default()
        })
    }

    fn wanted(operator: Operator, atoms: u16) -> Held {
        Held {
            first: 0,
            atoms,
            tpcs: 4,
            operator,
        }
    }

    fn chains(bench: &Bench) -> Chains<'_> {
        bench.managed.chains().expect("room for chains")
    }

    #[test]
    fn what_is_held_survives_its_packing() {
        let operators = Operators::new();
        for (first, atoms, tpcs) in [(0, 2, 1), (4607, 255, 128), (0xff_ffff, 33, 66)] {
            let held = Held {
                first,
                tpcs,
                ..wanted(operator(&operators), atoms)
            };
            for generation in [0, 1, u64::MAX] {
                assert_eq!(Held::unpack(held.pack(generation)), held);
                assert!(held.pack(generation) != 0 && held.pack(generation) != BUSY);
            }
            assert_ne!(held.pack(1), held.pack(2));
        }
    }

    #[test]
    fn chains_never_share_a_link_and_all_links_come_back() {
        let bench = bench("0-3");
        let chains = chains(&bench);
        let (places, operators) = (Places::new(&chains), Operators::new());
        let operator = operator(&operators);
        let mut chance = 77_u64;
        let mut below = |bound: u64| {
            // xorshift64 (Marsaglia).
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            (chance >> 24) % bound
        };
        // By number: what each has.
        let mut running = BTreeMap::new();
        let mut refused = 0;
        for number in 1..5000_u64 {
            let atoms = u16::try_from(below(254) + 2).expect("255 at most");
            let has_clusters = below(3) == 0;
            let held = wanted(operator, atoms);
            match places.take((number, number), held, has_clusters, &chains, &operators) {
                Some(held) => {
                    let links = |held: &Held| held.first..held.first + u32::from(held.atoms) - 1;
                    let mine = links(&held);
                    assert_eq!(mine.start >= chains.plain(), has_clusters);
                    assert!(mine.end <= chains.gates());
                    let overlaps = |other: &Held| {
                        links(other).start < mine.end && mine.start < links(other).end
                    };
                    assert!(!running.values().any(overlaps), "{held:?} of {running:?}");
                    chains.tail(number).published().store(number, Release);
                    running.insert(number, held);
                }
                None => refused += 1,
            }
            // Some complete, in any order.
            while running.len() as u64 > below(u64::from(TAILS) + 1) {
                let index = usize::try_from(below(running.len() as u64)).expect("few");
                let done = *running.keys().nth(index).expect("one of them");
                running.remove(&done);
                // As the GPU would say it.
                chains.tail(done).publish_done(done);
            }
        }
        assert!((1..4000).contains(&refused), "{refused} of 4999");
        for number in running.keys() {
            chains.tail(*number).publish_done(*number);
        }
        places.look_at_oldest(5000, u64::MAX, &chains, &operators);
        assert!(places.words.iter().all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    fn a_chain_that_is_not_published_keeps_what_it_has() {
        let bench = bench("0-3");
        let chains = chains(&bench);
        let (places, operators) = (Places::new(&chains), Operators::new());
        let held = wanted(operator(&operators), 64);
        let take = |number| places.take((number, number), held, false, &chains, &operators);
        let first = take(1).expect("room");
        for number in 2..20 {
            assert_eq!(take(number), None, "one chain has all links");
        }
        places.give_back((1, 1), first, &chains);
        assert!(take(20).is_some());
    }
}
