// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A chain: one launch, cut into atoms that the hardware runs one after another.
//!
//! The driver's descriptor becomes atom 0, by moving its end in. Every further atom is a copy with
//! a start and an end of its own, behind a [`Gate`]. The launch's completion (release, latch, the
//! driver's dependent) moves to a *tail* that runs nothing and waits for all atoms:
//!
//! ```text
//!            last block       open            last block
//!             started                          started
//!   atom 0 ------------> gate 1 ----> atom 1 ------------> gate 2 ----> atom 2
//!     |                   | ^           |                   | ^           |
//!     |                   v |           |                   v |           |
//!     |                  bounce 1       |                  bounce 2       |
//!     |                                 |                                 |
//!     +---------------------------------+---------------------------------+--> tail
//!       each, on completion, counts the tail down by one                        |
//!                                                                               v
//!                                                      what the launch does on completion
//! ```
//!
//! An atom schedules what follows when its last block has *started* (NVIDIA:
//! `PRE_EXIT_AT_LAST_CTA_LAUNCH`), so that no SM idles between atoms; so completion needs the
//! tail's count. The words are those of the chains in `tests/hardware/chains.h`, which were
//! measured; but for gates, which are built of nothing ([`Gate::build`]) before any chain has them.
//!
//! Of gates a chain writes only the words that say what they do. It is written from its end to its
//! beginning, and the driver's descriptor last: what is written leads only to what has been
//! written, so a chain that was begun and not finished (its process died) is one that nothing leads
//! to. Everything that may fail does so before the first store.
//!
//! # The protocol
//!
//! The shim writes chains while somebody else shuts and opens gates, with no lock between them.
//! There is an *order* that the scheduler writes (open, shut or halt); and a chain is *published*
//! from when its tail says so until the GPU has written that it is done. What makes it sound, and
//! is searched exhaustively in `tests/protocol/`, where each rule can be left out:
//!
//! 1. **Publish, then look.** The shim publishes a chain, fences, and looks at the order; the
//!    scheduler writes the order, fences, and stores into the gates of all published chains. (Both
//!    fences sequentially consistent.) One of the two sees the other.
//! 2. **Look again.** The shim stores what the order says into the chain's gates, fences, and looks
//!    again, until the order is the one it stored.
//! 3. **Launch last**: only then does the driver get the chain.
//! 4. **One store** changes a gate.
//! 5. **Reuse after the tail's stamp only**, and the tail counts every atom.
//! 6. **Halt is the last order**: who has halted a channel's gates opens and shuts none of them. A
//!    chain that is halted runs out: its tail is made silent and its atoms void, and then its gates
//!    let it pass. (A tail that was counted down in part stays in the hardware's scheduler, which
//!    knows it by its address; seen on an H100 under MPS, where the next process with a tail there
//!    had launches that were done too early.)
//! 7. **Look after the gates**: the scheduler stores the order again into gates that say something
//!    else, because one before it may have died, or be stopped, with a store on its way.

use super::edit::{restricted, stamp_edits};
use super::fields::*;
use super::gate::{GATE_WORD, Gate, GateState};
use super::place::{Form, Place, Stamp, halves, pair};
use super::read::FIRST_MASK_WORD;
use super::split::has_free_release;
use super::{Action, Kind, SplitError, Splittable};
use crate::field::Field;
use crate::mask::TpcMask;
use crate::plan::{Plan, Span};
use crate::template::Template;

/// What a chain has once.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// Where the tail is written.
    pub tail: Place<'a>,
    /// What the GPU writes when every atom has completed, by release semaphore 1, or 2 if the
    /// launch uses that.
    pub done: Stamp,
    /// What it writes when atom 0 has completed.
    pub stamp: Option<Stamp>,
    /// The TPCs that atom 0 may use: as [`Link::allowed`] says it of the others.
    pub allowed: Option<TpcMask>,
    /// The state that gates are in at first.
    pub gates: GateState,
    /// The TPCs that exist: a mask that leaves none of them is not written.
    pub present: TpcMask,
}

/// What every atom but the first has.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// The gate before the atom, which was built to stand there: see [`Gate::build`].
    pub gate: Gate<'a>,
    /// Where the atom is written.
    pub atom: Place<'a>,
    /// What the GPU writes when the atom has completed.
    pub stamp: Option<Stamp>,
    /// The TPCs that the atom may use, of those that the launch may; `None`: all those. An atom
    /// with a set of its own can be given another until it starts. Whether a cluster fits is the
    /// caller's care, as in [`Descriptor::restrict`].
    pub allowed: Option<TpcMask>,
}

impl Splittable<'_> {
    /// Cuts the launch's grid: see [`Plan::new`].
    #[inline]
    pub fn plan(&self, atoms: u16, wave: u32) -> Result<Plan, SplitError> {
        Plan::new(self.view().grid(), atoms, wave).ok_or(SplitError::OneAtom)
    }

    /// Writes the chain and makes the driver's descriptor its atom 0. There is one link for each
    /// other atom, in the order in which they run, and nothing of them may be in use. The stores
    /// are relaxed: whoever publishes the chain does so with release.
    #[inline]
    pub fn split<'a, L>(self, plan: &Plan, chain: &Chain<'_>, links: L) -> Result<(), SplitError>
    where
        L: IntoIterator<Item = Link<'a>, IntoIter: DoubleEndedIterator + ExactSizeIterator>,
    {
        let links = links.into_iter();
        let atoms = plan.atoms();
        let fits = links.len() + 1 == usize::from(atoms);
        if !fits || plan.grid() != self.view().grid() {
            return Err(SplitError::Plan);
        }
        if !has_free_release(self.words) {
            return Err(SplitError::Releases);
        }
        let image = ATOM_FORM.image(self.words);
        self.write_tail(chain, atoms);
        let tail = chain.tail.pointer();
        let whole = self.allowed;
        let mut next = None;
        for (atom, link) in (1..atoms).rev().zip(links.rev()) {
            let allowed = link
                .allowed
                .and_then(|allowed| restricted(whole, allowed, chain.present));
            let own = self.atom(plan.span(atom), tail, next, link.stamp, allowed);
            link.atom.write(&image, ATOM_PAIRS, own);
            link.gate.set(chain.gates);
            next = Some(link.gate.descriptor.pointer());
        }
        let allowed = chain
            .allowed
            .and_then(|allowed| restricted(whole, allowed, chain.present));
        let own = self.atom(plan.span(0), tail, next, chain.stamp, allowed);
        ATOM.apply(self.words);
        for (index, own) in ATOM_PAIRS.into_iter().zip(own) {
            let [low, high] = halves(own);
            self.words[2 * index] |= low;
            self.words[2 * index + 1] |= high;
        }
        Ok(())
    }

    /// Writes what completes the launch when so many atoms have counted it down.
    #[inline(always)]
    fn write_tail(&self, chain: &Chain<'_>, atoms: u16) {
        let [low, high, payload, zero] = chain.done.words();
        let count = u32::from(atoms);
        let own = [
            pair(count, 0),
            pair(0, count),
            pair(low, high),
            pair(payload, zero),
        ];
        let (form, pairs) = if RELEASE_ENABLE.at(1).get(self.words) == 0 {
            (&const { Form::of(&TAIL_1) }, [0, 4, 12, 13])
        } else {
            (&const { Form::of(&TAIL_2) }, [0, 4, 14, 15])
        };
        chain.tail.write(&form.image(self.words), pairs, own);
    }

    /// What [`ATOM`] does not know of an atom, in [`ATOM_PAIRS`]; `next` is the gate behind it, if there is one.
    #[inline(always)]
    fn atom(
        &self,
        span: Span,
        tail: u32,
        next: Option<u32>,
        stamp: Option<Stamp>,
        allowed: Option<TpcMask>,
    ) -> [u64; 10] {
        let words = &*self.words;
        let (then, next) = match next {
            Some(next) => (SCHEDULE, next),
            // A dependent that is off keeps what the driver wrote.
            None => (words[GATE_WORD] & OFF, words[NEXT_WORD]),
        };
        let (stamps, [low, high, payload, zero]) = match stamp {
            Some(stamp) => (STAMPS, stamp.words()),
            None => (0, [0; 4]),
        };
        let (masked, [a, b, c, d]) = match allowed {
            Some(allowed) => (MASKED, allowed.disable_words()),
            None => (
                words[0] & MASKED,
                [0, 1, 2, 3].map(|index| words[FIRST_MASK_WORD + index]),
            ),
        };
        let ([width, height, depth], [x, y, z]) = (span.end, span.start);
        [
            pair(masked, 0),
            pair(stamps, then),
            pair(next, tail),
            pair(low, high),
            pair(payload, zero),
            pair(width, height),
            pair(depth, 0),
            pair(x, y | z << 16),
            pair(a, b),
            pair(c, d),
        ]
    }
}

/// What no copy has, but that a tail has a counter: it is OR-ed in.
const ALONE: [(Field, u64); 3] = [
    (DEPENDENCE_COUNTER, 0),
    (WAIT_ON_LATCH_VALID, 0),
    (HW_ONLY_DEPENDENCE_COUNTER, 0),
];

/// No completion of the launch: it is the tail's.
const SILENT: [(Field, u64); 4] = [
    (ARRIVE_AT_LATCH_VALID, 0),
    (RELEASE_ENABLE.at(0), 0),
    (RELEASE_ENABLE.at(1), 0),
    (RELEASE_ENABLE.at(2), 0),
];

/// An atom. What [`Splittable::atom`] gives is OR-ed in.
const ATOM: Template<20> = checked(
    Template::new(&ALONE)
        .with_each(&SILENT)
        .with_each(&dependent(0, None))
        .with_each(&dependent(1, Some(Action::DecrementDependence)))
        .with_each(&stamp_edits(1))
        .with_each(&[
            (RELEASE_ENABLE.at(1), 0),
            (GRID_WIDTH, 0),
            (GRID_HEIGHT, 0),
            (GRID_DEPTH, 0),
            (PRE_EXIT_AT_LAST_CTA_LAUNCH, 1),
            (GRID_WIDTH_RESUME, 0),
            (GRID_HEIGHT_RESUME, 0),
            (GRID_DEPTH_RESUME, 0),
            (TPC_DISABLE_MASK_VALID, 0),
            (TPC_DISABLE_MASK.at(0), 0),
            (TPC_DISABLE_MASK.at(1), 0),
            (TPC_DISABLE_MASK.at(2), 0),
            (TPC_DISABLE_MASK.at(3), 0),
        ]),
    [
        0, 9, 10, 11, 14, 15, 24, 25, 26, 27, 32, 33, 34, 35, 44, 45, 76, 77, 78, 79,
    ],
);

const ATOM_FORM: Form = Form::of(&ATOM);

/// Where an atom has what [`Splittable::atom`] gives.
const ATOM_PAIRS: [usize; 10] = [0, 5, 7, 12, 13, 16, 17, 22, 38, 39];

/// A tail that stamps by release semaphore 1. The counters and the stamp are OR-ed in.
const TAIL_1: Template<7> = checked(tail(1), [0, 9, 10, 24, 25, 26, 27]);
/// A tail that stamps by release semaphore 2.
const TAIL_2: Template<7> = checked(tail(2), [0, 9, 11, 28, 29, 30, 31]);

/// It keeps everything that the launch does on completion.
const fn tail(slot: u16) -> Template<7> {
    Template::new(&ALONE)
        .with(QMD_TYPE, Kind::Null.bits() as u64)
        .with_each(&stamp_edits(slot))
}

/// Dependent `slot` with an action, or off and with nothing; its address is OR-ed in.
const fn dependent(slot: u16, action: Option<Action>) -> [(Field, u64); 4] {
    let (enable, action) = match action {
        Some(action) => (1, action.bits()),
        None => (0, 0),
    };
    [
        (DEPENDENT_QMD_ENABLE.at(slot), enable),
        (DEPENDENT_QMD_ACTION.at(slot), action as u64),
        (DEPENDENT_QMD_PREFETCH.at(slot), 0),
        (DEPENDENT_QMD_POINTER.at(slot), 0),
    ]
}

/// Dependent 0 schedules.
const SCHEDULE: u32 = dependent_0(1, Action::Schedule.bits(), 0);
/// What of dependent 0 means nothing while it is off.
const OFF: u32 = dependent_0(0, 7, 1);
const STAMPS: u32 = RELEASE_ENABLE.at(1).part(0).mask;
const MASKED: u32 = TPC_DISABLE_MASK_VALID.part(0).mask;
/// Where dependent 0 lies.
const NEXT_WORD: usize = DEPENDENT_QMD_POINTER.at(0).part(0).word;

const fn dependent_0(enable: u64, action: u8, prefetch: u64) -> u32 {
    let template: Template<1> = Template::new(&[
        (DEPENDENT_QMD_ENABLE.at(0), enable),
        (DEPENDENT_QMD_ACTION.at(0), action as u64),
        (DEPENDENT_QMD_PREFETCH.at(0), prefetch),
    ]);
    assert!(template.edits()[0].word == GATE_WORD);
    template.edits()[0].value
}

/// The template, if it is about these words in this order: that of what is OR-ed in.
const fn checked<const N: usize>(template: Template<N>, words: [usize; N]) -> Template<N> {
    let edits = template.edits();
    assert!(edits.len() == N);
    let mut index = 0;
    while index < N {
        assert!(edits[index].word == words[index]);
        index += 1;
    }
    template
}
