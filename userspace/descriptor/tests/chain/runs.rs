// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A chain does what the launch would have done, whenever its blocks end and whatever its gates do.

use std::collections::BTreeMap;

use lithos_descriptor::Plan;
use lithos_descriptor::hopper::{Descriptor, GateState, Kind, RELEASES, Words, fields};
use proptest::prelude::*;

use crate::arena::{Arena, NUMBER};
use crate::gpu::{Event, Gpu};
use crate::words::any_launch;

/// A launch that has become a chain.
struct Split {
    arena: Arena,
    plan: Plan,
    first: Descriptor<Words>,
}

impl Split {
    fn new(original: &Descriptor<Words>, atoms: u16, wave: u32, gates: GateState) -> Self {
        let mut first = *original;
        let plan = Plan::new(first.grid(), atoms, wave).unwrap();
        let arena = Arena::new(plan.atoms());
        let split = Descriptor::new(first.words_mut())
            .unwrap()
            .splittable()
            .unwrap();
        let links = arena.links(plan.atoms(), true);
        split
            .split(&plan, &arena.chain(gates, true), links)
            .unwrap();
        Split { arena, plan, first }
    }

    fn set_gates(&self, atoms: impl Iterator<Item = u16>, state: GateState) {
        for atom in atoms {
            self.arena.gate(atom).set(state);
        }
    }

    /// Halts the chain, as `lithos_abi::chain::Chains` does, and lets no more atoms run than before these.
    fn halt(&self, atoms: std::ops::Range<u16>) {
        self.arena.edit(0, |words| {
            let mut tail = Descriptor::new(words).unwrap();
            tail.set_dependent(0, None).unwrap();
            tail.set_dependent(1, None).unwrap();
            let ours = self.arena.stamp_address(0);
            for slot in 0..RELEASES {
                if tail
                    .release(slot)
                    .is_some_and(|release| release.address != ours)
                {
                    tail.set_release(slot, None).unwrap();
                }
            }
            fields::ARRIVE_AT_LATCH_VALID.set(tail.words_mut(), 0);
        });
        for atom in atoms.rev() {
            self.arena.edit(3 * atom, |words| {
                fields::PRE_EXIT_AT_LAST_CTA_LAUNCH.set(words, 0);
                fields::QMD_TYPE.set(words, Kind::Null.bits().into());
            });
            self.arena.gate(atom).set(GateState::Halted);
        }
    }

    /// The units of the first so many atoms, in order.
    fn units(&self, atoms: u16) -> Vec<[u32; 3]> {
        let [width, height, depth] = self.plan.grid();
        let end = self.plan.span(atoms).start;
        let [x, y, z] = end;
        (0..depth)
            .flat_map(|z| (0..height).flat_map(move |y| (0..width).map(move |x| [x, y, z])))
            .take_while(|&[a, b, c]| [c, b, a] < [z, y, x] || atoms == self.plan.atoms())
            .collect()
    }

    /// Stamps of the chain's atoms that were written.
    fn stamps(&self, log: &[Event]) -> Vec<u16> {
        let all = 1..=self.plan.atoms();
        let written = |&index: &u16| {
            log.contains(&Event::Released(
                self.arena.stamp_address(index),
                NUMBER.into(),
            ))
        };
        all.filter(written).map(|index| index - 1).collect()
    }
}

fn started(log: &[Event]) -> Vec<[u32; 3]> {
    log.iter()
        .filter_map(|event| match event {
            Event::Started(at) => Some(*at),
            _ => None,
        })
        .collect()
}

/// What the launch does for others when it completes, in the order of a descriptor.
fn completion(original: &Descriptor<Words>, arena: &Arena) -> Vec<Event> {
    let release = original.release(0).unwrap();
    let done = Event::Released(arena.stamp_address(0), NUMBER.into());
    vec![
        Event::Released(release.address, release.payload),
        done,
        Event::Arrived(original.arrival_latch().unwrap()),
        Event::CountedDown(original.dependent(0).unwrap().address),
    ]
}

proptest! {
    #[test]
    fn every_block_runs_once_and_in_order_and_completion_comes_last(
        original in any_launch(),
        atoms in 2_u16..12,
        wave in 0_u32..30,
        born in prop::sample::select(vec![GateState::Open, GateState::Shut]),
        choices in prop::collection::vec(any::<u16>(), 0..2000),
    ) {
        let chain = Split::new(&original, atoms, wave, born);
        let gates = 1..chain.plan.atoms();
        let mut gpu = Gpu::launch(&chain.arena, &chain.first);
        for choice in choices {
            // A gate now and then, mostly the GPU.
            match choice % 16 {
                0 | 1 => {
                    let state = if choice % 16 == 0 { GateState::Shut } else { GateState::Open };
                    let gate = 1 + choice / 16 % (chain.plan.atoms() - 1);
                    chain.arena.gate(gate).set(state);
                }
                _ => gpu.step(usize::from(choice / 16)),
            }
        }
        chain.set_gates(gates, GateState::Open);
        gpu.settle();
        prop_assert!(gpu.is_idle());
        prop_assert_eq!(started(&gpu.log), chain.units(chain.plan.atoms()));
        let mut ended: BTreeMap<[u32; 3], u32> = BTreeMap::new();
        for event in &gpu.log {
            if let Event::Ended(at) = event {
                *ended.entry(*at).or_default() += 1;
            }
        }
        prop_assert_eq!(ended.len(), chain.units(chain.plan.atoms()).len());
        prop_assert!(ended.values().all(|&times| times == 1));
        prop_assert_eq!(chain.stamps(&gpu.log), (0..chain.plan.atoms()).collect::<Vec<_>>());
        let expected = completion(&original, &chain.arena);
        prop_assert!(gpu.log.ends_with(&expected), "{:?}", gpu.log);
        for event in &expected {
            let times = gpu.log.iter().filter(|&other| other == event).count();
            prop_assert_eq!(times, 1);
        }
    }

    #[test]
    fn no_block_runs_behind_a_shut_gate(
        original in any_launch(),
        atoms in 2_u16..12,
        choices in prop::collection::vec(any::<u16>(), 0..500),
    ) {
        let chain = Split::new(&original, atoms, 0, GateState::Shut);
        let mut gpu = Gpu::launch(&chain.arena, &chain.first);
        for choice in choices {
            gpu.step(choice.into());
        }
        for atom in 0..chain.plan.atoms() {
            gpu.settle();
            prop_assert_eq!(started(&gpu.log), chain.units(atom + 1));
            prop_assert_eq!(chain.stamps(&gpu.log), (0..=atom).collect::<Vec<_>>());
            if atom + 1 < chain.plan.atoms() {
                let waiting = chain.arena.gate(atom + 1).waiting;
                let stamp = Event::Released(waiting.address(), waiting.payload().into());
                prop_assert!(gpu.log.contains(&stamp), "it says that it waits");
                prop_assert!(!gpu.is_idle());
                chain.arena.gate(atom + 1).set(GateState::Open);
            }
        }
        prop_assert!(gpu.is_idle());
        prop_assert!(gpu.log.ends_with(&completion(&original, &chain.arena)));
    }

    #[test]
    fn a_chain_that_is_halted_runs_out_and_completes_nothing(
        original in any_launch(),
        atoms in 2_u16..12,
        halted in any::<u16>(),
        shut_first in any::<bool>(),
        choices in prop::collection::vec(any::<u16>(), 0..500),
    ) {
        let chain = Split::new(&original, atoms, 0, GateState::Open);
        let count = chain.plan.atoms();
        let halted = 1 + halted % (count - 1);
        let mut gpu = Gpu::launch(&chain.arena, &chain.first);
        if shut_first {
            // It goes round when it is halted.
            chain.arena.gate(halted).set(GateState::Shut);
            for choice in choices {
                gpu.step(choice.into());
            }
            gpu.settle();
        }
        chain.halt(halted..count);
        // Each time some of the atoms that are void count the tail down.
        for _ in 0..count {
            gpu.settle();
        }
        prop_assert!(gpu.is_idle());
        prop_assert_eq!(started(&gpu.log), chain.units(halted));
        prop_assert_eq!(chain.stamps(&gpu.log), (0..count).collect::<Vec<_>>());
        // Of all that the launch does on completion there is the stamp alone.
        let done = completion(&original, &chain.arena);
        let told: Vec<_> = done.iter().filter(|event| gpu.log.contains(event)).collect();
        let stamp = chain.arena.stamp_address(0);
        prop_assert!(matches!(told[..], [Event::Released(address, _)] if *address == stamp), "{told:?}");
        prop_assert_eq!(chain.arena.words(0)[0] & 0xffff, 0, "all have counted");
    }
}
