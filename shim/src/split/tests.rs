// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches that are split, on a channel as a broker makes it; the GPU's part is played by hand.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};

use lithos_abi::Page;
use lithos_abi::bindings::*;
use lithos_abi::chain::Chains;
use lithos_abi::grant::{Grant, Order};
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Action, Dependent, Kind, Words, fields};

use super::*;
use crate::launch::prepare as prepare_launch;
use crate::launch::tests::{Bench, RECORDS, TAILS, bench, grant, held, mask, ticket, view, words};
use crate::local;

/// A channel of four TPCs of two SMs, whose launches are split into atoms of 100 us.
struct Split {
    bench: &'static Bench,
    pins: &'static AtomicU32,
}

/// What the begin of a launch call comes to.
fn cut(managed: &Managed, launch: &Launch, sequence: u64, local: &local::Local) -> Option<Cut> {
    let foreseen = foresee(managed, launch, local, || 0)?;
    begin(managed, launch, &foreseen, sequence)
}

/// What the driver would upload, and the launch's sequence.
struct Uploaded {
    words: Words,
    sequence: u64,
}

const TPCS: &str = "0-3";

impl Split {
    fn new() -> Self {
        Self::with(&grant(TPCS))
    }

    /// With a grant, of atoms.
    fn with(granted: &Grant) -> Self {
        let mut bench = bench(TPCS);
        let with_atoms = Grant {
            atom_ns: 100_000,
            ..*granted
        };
        // What is left without a scheduler says nothing of atoms.
        bench.pages.publish_with(&with_atoms, &grant(TPCS));
        let (bench, pins) = held(bench);
        let split = Self { bench, pins };
        // The first launch finds out that there is a length of atoms.
        let first = split.launch(1, [1, 1, 1], None);
        assert_eq!(view(&first.words).grid(), [1, 1, 1]);
        assert!(split.bench.managed.splits());
        split.bench.complete(&first.words);
        split
    }

    fn launch(&self, function: u64, grid: [u32; 3], cluster: Option<[u32; 3]>) -> Uploaded {
        self.upload(function, grid, words(grid, cluster, false))
    }

    /// A launch call whose descriptor is this one.
    fn upload(&self, function: u64, grid: [u32; 3], words: Words) -> Uploaded {
        self.upload_after(function, grid, words, || ())
    }

    /// The same, with something that happens after it has begun and before the descriptor comes.
    fn upload_after(
        &self,
        function: u64,
        grid: [u32; 3],
        mut words: Words,
        happens: impl FnOnce(),
    ) -> Uploaded {
        let launch = launch(function, grid);
        local::with(|local| {
            local.set_ticket(Some(ticket(self.bench, self.pins)));
            let (managed, sequence) = local.ticket().expect("a ticket");
            if managed.splits() {
                local.set_cut(cut(managed, &launch, sequence, local));
            }
            happens();
            prepare_launch(managed, &mut words, function, local);
            local.set_ticket(None);
            Uploaded { words, sequence }
        })
    }

    fn chains(&self) -> Chains<'_> {
        self.bench.managed.chains().expect("room for chains")
    }

    /// The tail of the chain of a launch.
    fn tail_of(&self, sequence: u64) -> Option<u64> {
        (0..u64::from(TAILS)).find(|&number| {
            self.chains()
                .tail(number)
                .published()
                .load(Ordering::Relaxed)
                == sequence
        })
    }

    fn gates_of(&self, sequence: u64) -> std::ops::Range<u32> {
        let tail = self.tail_of(sequence).expect("a chain");
        self.chains().gates_of(&self.chains().tail(tail))
    }

    /// Does what the GPU does when a chain completes so long after its first atom has.
    fn complete(&self, sequence: u64, after_first_ns: u64) {
        let arena = self.bench.managed.channel().arena().expect("an arena");
        // SAFETY: 1. the arena is mapped as long as `self` lives. 2. all use atomics on it.
        let page = unsafe { Page::new(arena.start(), arena.bytes()) };
        let tail = self.tail_of(sequence).expect("a chain");
        let at = self.chains().tail(tail).done_address() - page.address() as u64;
        let done = usize::try_from(at).expect("an offset");
        let first = done + offset_of!(lithos_tail, first) - offset_of!(lithos_tail, done);
        page.word(first + 8).store(1_000, Ordering::Relaxed);
        page.word(done + 8)
            .store(1_000 + after_first_ns, Ordering::Relaxed);
        for stamp in [first, done] {
            page.half(stamp)
                .store(low_half(sequence), Ordering::Release);
        }
    }

    fn count(&self, counter: lithos_counter) -> u64 {
        self.bench.count(counter)
    }
}

fn launch(function: u64, grid: [u32; 3]) -> Launch {
    Launch {
        function,
        grid,
        block: [128, 1, 1],
        ..Default::default()
    }
}

#[test]
fn a_launch_of_which_nothing_is_known_becomes_a_chain_of_eight() {
    let split = Split::new();
    let Uploaded { words, sequence } = split.launch(5, [1000, 1, 1], None);
    let atom = view(&words);
    assert_eq!(atom.grid(), [125, 1, 1]);
    assert_eq!(atom.get(fields::PRE_EXIT_AT_LAST_CTA_LAUNCH), 1);
    assert_eq!(atom.allowed() & mask("0-7,9-16"), mask(TPCS));

    let chains = split.chains();
    let gates = split.gates_of(sequence);
    assert_eq!(gates.len(), 7);
    let next = atom.dependent(0).expect("a gate");
    let first = chains.gate(gates.start);
    assert_eq!(next.action, Action::Schedule);
    assert_eq!(next.address, first.descriptor().1);
    let tail = chains.tail(split.tail_of(sequence).expect("a chain"));
    let counted = atom.dependent(1).expect("the tail");
    assert_eq!(counted.address, tail.descriptor().1);
    assert_eq!(counted.action, Action::DecrementDependence);
    for gate in gates {
        assert_eq!(
            chains.gate(gate).word().load(Ordering::Relaxed),
            LITHOS_GATE_OPEN
        );
        assert!(!chains.gate(gate).is_waited_at());
    }
    assert_eq!(tail.running(), Some(sequence));
    let record = split.bench.record(sequence);
    assert_eq!(record.flags, LITHOS_RECORD_STAMPED | LITHOS_RECORD_SPLIT);
    assert_eq!(record.grid, [1000, 1, 1], "that of the launch");
    assert_eq!(split.count(LITHOS_COUNT_SPLIT), 1);
    assert_eq!(split.count(LITHOS_COUNT_ATOMS), 8);
    split.complete(sequence, 70_000);
    assert_eq!(tail.running(), None);
}

#[test]
fn gates_are_as_ordered_from_the_first_moment() {
    let split = Split::new();
    for (function, order) in [(5, Order::Shut), (6, Order::Halt), (7, Order::Open)] {
        split.bench.pages.live().order(order);
        let Uploaded { sequence, .. } = split.launch(function, [1000, 1, 1], None);
        for gate in split.gates_of(sequence) {
            let word = split.chains().gate(gate).word().load(Ordering::Relaxed);
            assert_eq!(word, order.gate_word(), "{order:?}");
        }
        let tail = split
            .chains()
            .tail(split.tail_of(sequence).expect("a chain"));
        let is_shut = tail.shut().load(Ordering::Relaxed) != 0;
        assert_eq!(is_shut, order == Order::Shut);
    }
}

#[test]
fn of_what_is_lent_a_launch_has_what_its_channel_borrows() {
    let split = Split::with(&Grant {
        lent: mask("2-3").bits(),
        ..grant(TPCS)
    });
    let present = mask("0-7,9-16");
    for (function, borrowed, tpcs) in [(5, "", "0-1"), (7, "3", "0-1,3"), (9, "2-3", TPCS)] {
        let borrowed = match borrowed {
            "" => TpcMask::EMPTY,
            some => mask(some),
        };
        split.bench.pages.live().lend(borrowed.bits());
        // One that is not split,
        let whole = split.launch(function, [1, 1, 1], None);
        assert_eq!(view(&whole.words).allowed() & present, mask(tpcs));
        // and one that is.
        let Uploaded { words, sequence } = split.launch(function + 1, [1000, 1, 1], None);
        assert_eq!(view(&words).allowed() & present, mask(tpcs));
        let tail = split.tail_of(sequence).expect("a chain");
        let said = (split.chains().tail(tail).tpcs()).map(|word| word.load(Ordering::Relaxed));
        assert_eq!(TpcMask::from_bits(said) & present, mask(tpcs));
        for gate in split.gates_of(sequence) {
            let atom = read(split.chains().atom(gate));
            assert_eq!(view(&atom).allowed() & present, mask(tpcs));
        }
        let record = split.bench.record(sequence);
        assert_eq!(
            record.tpcs.words,
            mask(TPCS).bits(),
            "where it may come to run"
        );
    }
}

#[test]
fn a_chain_that_was_begun_when_its_process_ended_is_halted() {
    let split = Split::new();
    let managed = &split.bench.managed;
    let plain = words([1000, 1, 1], None, false);
    let Uploaded { sequence, .. } = split.upload_after(5, [1000, 1, 1], plain, || managed.halt());
    assert!(!split.gates_of(sequence).is_empty());
    for gate in split.gates_of(sequence) {
        let word = split.chains().gate(gate).word().load(Ordering::Relaxed);
        assert_eq!(word, LITHOS_GATE_HALTED);
    }
    // Neither is it let go when nobody seems to schedule.
    managed.store_into_gates(Order::Open);
    let gate = split.gates_of(sequence).start;
    let word = split.chains().gate(gate).word().load(Ordering::Relaxed);
    assert_eq!(word, LITHOS_GATE_HALTED);
}

#[test]
fn a_chain_that_is_halted_runs_out_and_completes_nothing_but_itself() {
    let split = Split::new();
    let mut words = words([1000, 1, 1], None, false);
    // What launches of a driver have.
    fields::ARRIVE_AT_LATCH_VALID.set(&mut words, 1);
    fields::RELEASE_ENABLE.at(0).set(&mut words, 1);
    let dependent = Dependent {
        address: 0x2_0000_0000,
        action: Action::DecrementDependence,
        prefetch: false,
    };
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    (descriptor.set_dependent(0, Some(dependent))).expect("an address");
    let Uploaded { sequence, .. } = split.upload(5, [1000, 1, 1], words);
    let number = split.tail_of(sequence).expect("a chain");
    let chains = split.chains();
    let tail = || read(chains.tail(number).descriptor());
    let before = tail();
    let done = view(&before).release(1).expect("a stamp");
    assert!(view(&before).release(0).is_some() && view(&before).arrival_latch().is_some());
    chains.store(&chains.tail(number), Order::Halt);
    for gate in split.gates_of(sequence) {
        let atom = read(chains.atom(gate));
        assert_eq!(view(&atom).kind(), Kind::Null);
        assert_eq!(fields::PRE_EXIT_AT_LAST_CTA_LAUNCH.get(&atom), 0);
        assert_eq!(
            view(&atom).dependent(1).map(|tail| tail.action),
            Some(Action::DecrementDependence)
        );
        assert_eq!(
            chains.gate(gate).word().load(Ordering::Relaxed),
            LITHOS_GATE_HALTED
        );
    }
    let after = tail();
    let view = view(&after);
    assert_eq!(view.release(1), Some(done));
    assert_eq!((view.release(0), view.release(2)), (None, None));
    assert_eq!((view.dependent(0), view.dependent(1)), (None, None));
    assert_eq!(view.arrival_latch(), None);
    // Nobody has it go on, or round.
    for order in [Order::Open, Order::Shut] {
        chains.store(&chains.tail(number), order);
        for gate in split.gates_of(sequence) {
            assert_eq!(
                chains.gate(gate).word().load(Ordering::Relaxed),
                LITHOS_GATE_HALTED
            );
        }
    }
}

/// What lies in the memory of a descriptor.
fn read((words, _): Slot<'_>) -> Words {
    std::array::from_fn(|index| {
        let pair = words[index / 2].load(Ordering::Relaxed);
        u32::try_from(pair >> (32 * (index % 2)) & 0xffff_ffff).expect("a word")
    })
}

#[test]
fn nobody_who_schedules_holds_nobody_up() {
    let split = Split::new();
    split.bench.pages.live().order(Order::Shut);
    split.bench.pages.set_broker(LITHOS_BROKER_FAIL_STATIC, 1);
    let Uploaded { words, .. } = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&words).grid(), [1000, 1, 1]);
    assert!(!split.bench.managed.splits());
}

#[test]
fn what_a_chain_took_says_how_the_next_is_cut() {
    let split = Split::new();
    let first = split.launch(5, [1000, 1, 1], None);
    // Seven of eight atoms in 350 us: 400 us, so four atoms of 100.
    split.complete(first.sequence, 350_000);
    let second = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&second.words).grid(), [250, 1, 1]);
    let chains = split.chains();
    let tail = chains.tail(split.tail_of(second.sequence).expect("a chain"));
    assert_eq!(tail.remaining_ns().load(Ordering::Relaxed), 400_000);
}

#[test]
fn a_launch_that_is_known_to_be_short_stays_whole() {
    let split = Split::new();
    let first = split.launch(5, [1000, 1, 1], None);
    split.complete(first.sequence, 35_000);
    let second = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&second.words).grid(), [1000, 1, 1]);
    assert_eq!(split.tail_of(second.sequence), None);
    assert_eq!(
        split.bench.record(second.sequence).flags,
        LITHOS_RECORD_STAMPED
    );
    assert_eq!(split.count(LITHOS_COUNT_SPLIT), 1);
}

#[test]
fn time_that_passed_behind_shut_gates_says_nothing() {
    let split = Split::new();
    let first = split.launch(5, [1000, 1, 1], None);
    let tail = split
        .chains()
        .tail(split.tail_of(first.sequence).expect("a chain"));
    tail.shut().store(1, Ordering::Relaxed);
    split.complete(first.sequence, 1_000_000_000);
    let second = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&second.words).grid(), [125, 1, 1], "still not known");
}

#[test]
fn without_room_a_launch_stays_whole_until_a_chain_has_completed() {
    let split = Split::new();
    let running: Vec<_> = (0..u64::from(TAILS))
        .map(|n| split.launch(100 + n, [1000, 1, 1], None).sequence)
        .collect();
    assert_eq!(split.count(LITHOS_COUNT_SPLIT), u64::from(TAILS));
    let whole = split.launch(200, [1000, 1, 1], None);
    assert_eq!(view(&whole.words).grid(), [1000, 1, 1]);
    assert_eq!(split.count(LITHOS_COUNT_WHOLE_FULL), 1);
    for sequence in &running {
        split.complete(*sequence, 1);
    }
    let next = split.launch(201, [1000, 1, 1], None);
    assert_eq!(view(&next.words).grid(), [125, 1, 1]);
    assert!(
        next.sequence > u64::from(RECORDS) - 3,
        "the ring went round nearly"
    );
}

#[test]
fn what_all_blocks_have_to_be_resident_for_is_not_split_and_counted() {
    let split = Split::new();
    let mut cooperative = launch(5, [1000, 1, 1]);
    cooperative.is_cooperative = true;
    local::with(|local| {
        assert!(cut(&split.bench.managed, &cooperative, 9, local).is_none());
    });
    assert_eq!(split.count(LITHOS_COUNT_WHOLE_COOPERATIVE), 1);
}

#[test]
fn a_launch_that_lets_others_start_early_is_not_split_and_counted_each_time() {
    let split = Split::new();
    for count in 1..=2 {
        let mut words = words([1000, 1, 1], None, false);
        fields::WAIT_ON_LATCH_VALID.set(&mut words, 1);
        let uploaded = split.upload(5, [1000, 1, 1], words);
        assert_eq!(view(&uploaded.words).grid(), [1000, 1, 1]);
        assert_eq!(split.count(LITHOS_COUNT_WHOLE_PROGRAMMATIC), count);
        assert_eq!(
            split.bench.record(uploaded.sequence).flags,
            LITHOS_RECORD_STAMPED
        );
    }
    let next = split.launch(6, [1000, 1, 1], None);
    assert_eq!(
        view(&next.words).grid(),
        [125, 1, 1],
        "all room was given back"
    );
}

#[test]
fn atoms_of_clusters_have_a_region_of_their_own_and_no_masks_of_theirs() {
    let split = Split::new();
    let (grid, cluster) = ([1000, 1, 1], Some([2, 1, 1]));
    let first = split.launch(5, grid, cluster);
    assert_eq!(
        view(&first.words).grid(),
        [500, 1, 1],
        "clusters; it was not known"
    );
    let second = split.launch(5, grid, cluster);
    assert_eq!(view(&second.words).kind(), Kind::Clusters);
    assert_eq!(view(&second.words).grid(), [62, 1, 1]);
    let gates = split.gates_of(second.sequence);
    assert!(gates.start >= split.chains().plain(), "{gates:?}");
}

#[test]
fn an_operator_that_was_stuck_is_not_split_again() {
    let split = Split::new();
    let first = split.launch(5, [1000, 1, 1], None);
    let tail = split
        .chains()
        .tail(split.tail_of(first.sequence).expect("a chain"));
    tail.stuck().store(1, Ordering::Relaxed);
    split.complete(first.sequence, 1_000_000);
    let second = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&second.words).grid(), [1000, 1, 1]);
    assert_eq!(split.count(LITHOS_COUNT_WHOLE_STUCK), 1);
}

#[test]
fn a_context_that_is_about_to_end_gets_no_chains() {
    let split = Split::new();
    split.bench.managed.end_begins();
    let whole = split.launch(5, [1000, 1, 1], None);
    assert_eq!(view(&whole.words).grid(), [1000, 1, 1]);
    assert_eq!(split.count(LITHOS_COUNT_WHOLE_ENDING), 1);
}

#[test]
fn a_call_that_launches_nothing_or_something_else_gives_its_room_back() {
    let split = Split::new();
    let other = words([999, 1, 1], None, false);
    for _ in 0..10 * TAILS {
        local::with(|local| {
            local.set_ticket(Some(ticket(split.bench, split.pins)));
            let (managed, sequence) = local.ticket().expect("a ticket");
            let cut = cut(managed, &launch(5, [1000, 1, 1]), sequence, local);
            assert!(cut.is_some(), "there is room");
            local.set_cut(cut);
            local.set_ticket(None);
        });
        let uploaded = split.upload(5, [1000, 1, 1], other);
        assert_eq!(view(&uploaded.words).grid(), [999, 1, 1]);
        split.bench.complete(&uploaded.words);
    }
    assert_eq!(split.count(LITHOS_COUNT_SPLIT), 0);
    assert_eq!(split.chains().tail(0).running(), None);
}

#[test]
fn a_grid_of_fewer_rows_than_atoms_has_an_atom_for_each_row() {
    let split = Split::new();
    let uploaded = split.launch(5, [100, 3, 1], None);
    assert_eq!(view(&uploaded.words).grid(), [100, 1, 1]);
    assert_eq!(split.gates_of(uploaded.sequence).len(), 2);
}
