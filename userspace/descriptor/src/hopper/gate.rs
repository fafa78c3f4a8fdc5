// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A gate: what stands before every atom of a chain but the first, and lets it pass or not.
//!
//! A gate is two descriptors that run nothing (NULL), the gate itself and its *bounce*. One word
//! of the gate decides what the hardware's scheduler does when it has come there:
//!
//! ```text
//!   open     gate ------> atom            goes on
//!   shut     gate <-----> bounce          goes round, using no SM, and stamps that it waits
//!   halted   gate ------> atom            goes on; the atom was made void before
//! ```
//!
//! Each state is one constant, the same for every gate, and one plain 32-bit store makes it so,
//! whoever maps the memory. That is why gates have a region of their own in the arena: a store that
//! comes late still meets a gate. Two stores would not do: between "not the atom" and "the bounce"
//! lies a gate that schedules nothing, at which a chain ends for ever.
//!
//! Nothing of a gate is a launch's but that word: it leads to the same atom and the same bounce for as long
//! as it stands, so it is built once ([`Gate::build`]), and a chain costs a store for each of its gates.
//!
//! *Halted* tells who looks that nobody may change the gate any more. It does not end the chain there:
//! a tail that is counted down in part must not stay behind (rule 6 of [`super::chain`]).

use core::sync::atomic::{AtomicU64, Ordering};

use super::fields::*;
use super::place::{Form, Place, Stamp, halves, pair};
use super::{Action, Dependent, Descriptor, Release, ReleaseSize};
use crate::template::Template;

/// The word of a gate's descriptor that decides: bytes 44 to 47.
pub const GATE_WORD: usize = DEPENDENT_QMD_ENABLE.at(0).lo() as usize / 32;

/// What a gate does with the chain that has come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateState {
    /// The atom runs.
    Open,
    /// The chain goes round until the gate is open.
    Shut,
    /// What is behind it is void, and stays so.
    Halted,
}

impl GateState {
    /// The value of the gate's word.
    #[inline]
    pub const fn word(self) -> u32 {
        const OPEN: u32 = word(false, true, Action::Schedule);
        const SHUT: u32 = word(true, false, Action::Schedule);
        // The action of a dependent that is off means nothing.
        const HALTED: u32 = word(false, true, Action::DecrementDependence);
        match self {
            GateState::Open => OPEN,
            GateState::Shut => SHUT,
            GateState::Halted => HALTED,
        }
    }

    /// The state that a gate's word stands for; `None` if nobody of ours wrote it.
    pub const fn from_word(word: u32) -> Option<Self> {
        let mut index = 0;
        let all = [GateState::Open, GateState::Shut, GateState::Halted];
        while index < all.len() {
            if all[index].word() == word {
                return Some(all[index]);
            }
            index += 1;
        }
        None
    }
}

/// The word with the bounce or the atom enabled. Who goes round stamps it, by release semaphore 2.
const fn word(bounces: bool, passes: bool, bounce: Action) -> u32 {
    let template: Template<1> = Template::new(&[
        (RELEASE_ENABLE.at(2), bounces as u64),
        (DEPENDENT_QMD_ENABLE.at(0), bounces as u64),
        (DEPENDENT_QMD_ACTION.at(0), bounce.bits() as u64),
        (DEPENDENT_QMD_ENABLE.at(1), passes as u64),
        (DEPENDENT_QMD_ACTION.at(1), Action::Schedule.bits() as u64),
    ]);
    template.edits()[0].value
}

/// A gate in memory that the GPU reads.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    /// The descriptor with the word.
    pub descriptor: Place<'a>,
    /// The descriptor that sends the chain back.
    pub bounce: Place<'a>,
    /// What the GPU writes each time it has come by and found the gate shut.
    pub waiting: Stamp,
}

impl Gate<'_> {
    /// Writes both descriptors (relaxed), so that the gate stands before this atom in whatever chain
    /// has them. Its word says nothing yet.
    pub fn build(&self, atom: &Place<'_>) {
        let to = |place: &Place<'_>| {
            Some(Dependent {
                address: place.address(),
                action: Action::Schedule,
                prefetch: false,
            })
        };
        let waits = Release {
            address: self.waiting.address(),
            payload: self.waiting.payload().into(),
            size: ReleaseSize::FourWords,
            membar: false,
            reduction: None,
            payload64: false,
            trap: 0,
        };
        let (mut gate, mut bounce) = (Descriptor::null(), Descriptor::null());
        let built = gate
            .set_release(2, Some(waits))
            .and_then(|()| gate.set_dependent(0, to(&self.bounce)))
            .and_then(|()| gate.set_dependent(1, to(atom)))
            .and_then(|()| bounce.set_dependent(0, to(&self.descriptor)));
        built.expect("a place can be named, and a stamp's address is one");
        gate.words_mut()[GATE_WORD] = 0;
        debug_assert_eq!(gate.words()[GATE_WORD - 1], 0, "see `set`");
        const AS_IT_IS: Form = Form::of(&Template::<0>::EMPTY);
        self.descriptor.write(&AS_IT_IS.image(gate.words()), [], []);
        self.bounce.write(&AS_IT_IS.image(bounce.words()), [], []);
    }

    /// Opens, shuts or halts the gate, with one store (release). Halted is what it then says:
    /// whoever halts has made void what is behind it.
    #[inline]
    pub fn set(&self, state: GateState) {
        // The other word of the pair is zero in every gate that was built.
        self.decides()
            .store(pair(0, state.word()), Ordering::Release);
    }

    /// What the gate's word says now (acquire).
    #[inline]
    pub fn state(&self) -> Option<GateState> {
        let [_, word] = halves(self.decides().load(Ordering::Acquire));
        GateState::from_word(word)
    }

    /// The pair whose high word decides.
    #[inline(always)]
    fn decides(&self) -> &AtomicU64 {
        const { assert!(GATE_WORD % 2 == 1) };
        self.descriptor.pair(GATE_WORD / 2)
    }
}
