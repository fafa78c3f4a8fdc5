// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Gates: launches that are suspended, resumed, and ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cudarc::driver::sys::{self, CUresult};
use lithos_descriptor::hopper::{
    Action, Dependent, Descriptor, GATE_WORD, GateState, Kind, Release, ReleaseSize, Words, fields,
};
use lithos_tests::cuda::{Gpu, Shape, Stream};

use crate::arena::{Arena, Pieces};
use crate::statement::{from_here_on, statements};
use crate::stay::{Stay, until};
use crate::subject::{Meeting, Subject, buffer, nothing, read};
use crate::subscriber::Editable;

statements! {
    Ends:
        a_shut_gate_suspends_its_chain_and_an_open_one_lets_it_go_on
        a_stream_stays_where_it_is_while_its_chain_is_suspended
        other_streams_go_on_while_a_chain_is_suspended
        a_chain_that_is_suspended_uses_no_sm
        a_chain_that_is_suspended_says_so_again_and_again
        a_gate_that_is_open_says_nothing
        each_gate_of_a_chain_suspends_it
        many_chains_can_be_suspended_at_once
        chains_whose_gates_are_shut_and_opened_at_random_run_every_block_once
        freeing_memory_waits_for_a_shut_gate_and_allocating_does_not
        a_launch_can_be_gated_whole
        a_gated_launch_that_is_not_held_runs_once
        a_chain_whose_atoms_were_made_void_runs_out;
    Hangs:
        a_chain_whose_tail_was_made_silent_completes_nothing_else
        a_gate_that_leads_nowhere_ends_its_chain_for_ever
        a_gated_launch_whose_gate_leads_nowhere_never_runs;
}

/// A subject on which nothing has to be loaded any more, and another stream: loading, and making memory
/// of some kinds, waits for streams that are held.
fn subject() -> (Subject, Stream) {
    let subject = Subject::new();
    let other = Stream::new().expect("a stream");
    let stay = Stay::new(1);
    stay.let_all_go();
    stay.launch(&subject, &other, nothing);
    other.synchronize().expect("the end of the launch");
    assert!(subject.meets(&Shape::row(1, 32), nothing));
    subject.control();
    (subject, other)
}

/// Launches come and go in a stream.
fn go_on(subject: &Subject, stream: &Stream) {
    for _ in 0..20 {
        subject.launch_trace(&Shape::row(4, 32), stream, nothing);
        stream.synchronize().expect("the end of the launch");
    }
}

/// Whether everything in a stream is over.
fn is_over(stream: &Stream) -> bool {
    // SAFETY: the stream lives.
    match unsafe { sys::cuStreamQuery(stream.handle()) } {
        CUresult::CUDA_SUCCESS => true,
        CUresult::CUDA_ERROR_NOT_READY => false,
        error => panic!("{error:?}"),
    }
}

/// A chain of as many atoms as blocks that is held at its first gate.
fn held(subject: &Subject, stream: &Stream, pieces: &Pieces, stay: &Stay, atoms: u16) {
    stay.let_all_go();
    stay.launch(subject, stream, pieces.shut().cut(atoms));
    pieces.wait_until_held(1);
}

fn a_shut_gate_suspends_its_chain_and_an_open_one_lets_it_go_on() {
    let (subject, other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(6));
    held(&subject, &subject.stream, &pieces, &stay, 3);
    until(|| pieces.has_completed(0));
    go_on(&subject, &other);
    assert_eq!([1, 2].map(|atom| pieces.has_completed(atom)), [false; 2]);
    assert!((2..6).all(|block| !stay.has_begun(block)));
    pieces.set_gates(3, GateState::Open);
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 6]);
    assert!(pieces.is_done());
}

fn a_stream_stays_where_it_is_while_its_chain_is_suspended() {
    let (subject, other) = subject();
    let (pieces, stay, next) = (Arena::new().pieces(0), Stay::new(4), Stay::new(1));
    held(&subject, &subject.stream, &pieces, &stay, 2);
    next.let_all_go();
    next.launch(&subject, &subject.stream, nothing);
    go_on(&subject, &other);
    assert!(!is_over(&subject.stream) && !next.has_begun(0));
    pieces.set_gates(2, GateState::Open);
    subject.stream.synchronize().expect("the end of both");
    assert_eq!((stay.counts(), next.counts()), (vec![1; 4], vec![1]));
    assert!((0..4).all(|block| next.begin_ns(0) >= stay.end_ns(block)));
}

fn other_streams_go_on_while_a_chain_is_suspended() {
    let (subject, other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(4));
    let urgent = Stream::urgent().expect("a stream");
    held(&subject, &subject.stream, &pieces, &stay, 2);
    for _ in 0..5 {
        go_on(&subject, &other);
        go_on(&subject, &urgent);
    }
    assert!(!is_over(&subject.stream));
    pieces.set_gates(2, GateState::Open);
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 4]);
}

fn a_chain_that_is_suspended_uses_no_sm() {
    let (subject, other) = subject();
    let (pieces, stay, meeting) = (Arena::new().pieces(0), Stay::new(4), Meeting::new());
    held(&subject, &subject.stream, &pieces, &stay, 2);
    until(|| pieces.has_completed(0));
    // A block on every SM, each of which fills its own.
    let everywhere = subject.whole_sms(subject.gpu.sms);
    subject.launch_meeting(&meeting, &everywhere, &other, nothing);
    other.synchronize().expect("the end of the launch");
    assert!(meeting.has_met() && !is_over(&subject.stream));
    pieces.set_gates(2, GateState::Open);
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 4]);
}

fn a_chain_that_is_suspended_says_so_again_and_again() {
    let (subject, _other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(4));
    held(&subject, &subject.stream, &pieces, &stay, 2);
    let mut last = 0;
    for _ in 0..20 {
        pieces.wipe_waiting(1);
        pieces.wait_until_held(1);
        let now = pieces.waited_ns(1);
        assert!(now > last, "{now} after {last}");
        last = now;
    }
    pieces.set_gates(2, GateState::Open);
    subject.stream.synchronize().expect("the end of the chain");
}

fn a_gate_that_is_open_says_nothing() {
    let (subject, _other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(8));
    stay.let_all_go();
    stay.launch(&subject, &subject.stream, pieces.cut(8));
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 8]);
    assert!((1..8).all(|atom| !pieces.waits_at(atom)));
}

fn each_gate_of_a_chain_suspends_it() {
    let (subject, other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(8));
    held(&subject, &subject.stream, &pieces, &stay, 8);
    for atom in 1..8 {
        pieces.wait_until_held(atom);
        until(|| pieces.has_completed(atom - 1));
        subject.launch_trace(&Shape::row(4, 32), &other, nothing);
        other.synchronize().expect("the end of the launch");
        assert!(
            (atom.into()..8).all(|block| !stay.has_begun(block)),
            "{atom}"
        );
        pieces.gate(atom).set(GateState::Open);
    }
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 8]);
}

fn many_chains_can_be_suspended_at_once() {
    const MANY: usize = 8;
    let (subject, other) = subject();
    let arena = Arena::new();
    let streams: Vec<Stream> = (0..MANY)
        .map(|_| Stream::new().expect("a stream"))
        .collect();
    let stays: Vec<Stay> = (0..MANY).map(|_| Stay::new(4)).collect();
    for (index, (stream, stay)) in streams.iter().zip(&stays).enumerate() {
        held(&subject, stream, &arena.pieces(index), stay, 2);
    }
    go_on(&subject, &other);
    for (index, stream) in streams.iter().enumerate() {
        let pieces = arena.pieces(index);
        pieces.wipe_waiting(1);
        pieces.wait_until_held(1);
        assert!(!is_over(stream));
    }
    for index in (0..MANY).rev() {
        arena.pieces(index).set_gates(2, GateState::Open);
        streams[index].synchronize().expect("the end of the chain");
        assert_eq!(stays[index].counts(), [1; 4]);
    }
}

fn chains_whose_gates_are_shut_and_opened_at_random_run_every_block_once() {
    const LAUNCHES: u32 = 100;
    const ATOMS: u16 = 8;
    let (subject, _other) = subject();
    let pieces = Arena::new().pieces(0);
    let (counts, grid) = (buffer(64), buffer(3));
    let words = [counts.address(), grid.address()];
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            while !enough.load(Ordering::Relaxed) {
                // xorshift64.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let atom = 1 + u16::try_from(random >> 32 & 0xffff).expect("16 bits") % (ATOMS - 1);
                let state = [GateState::Open, GateState::Shut][usize::from(random & 3 == 0)];
                pieces.gate(atom).set(state);
            }
            pieces.set_gates(ATOMS, GateState::Open);
        });
        for launch in 1..=LAUNCHES {
            let pieces = pieces.stamping(launch);
            let cut = pieces.cut(ATOMS);
            let shape = Shape::row(64, 32);
            subject.launch(&subject.trace, &shape, &subject.stream, &words, cut);
            until(|| pieces.is_done());
        }
        enough.store(true, Ordering::Relaxed);
    });
    subject.stream.synchronize().expect("their end");
    assert_eq!(read(&counts), [LAUNCHES; 64]);
}

fn freeing_memory_waits_for_a_shut_gate_and_allocating_does_not() {
    let (subject, _other) = subject();
    let (pieces, stay) = (Arena::new().pieces(0), Stay::new(4));
    let allocate = || {
        let mut address = 0;
        // SAFETY: writes one address.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, 1 << 20) };
        assert_eq!(result, CUresult::CUDA_SUCCESS);
        address
    };
    let old = allocate();
    held(&subject, &subject.stream, &pieces, &stay, 2);
    allocate();
    let (freeing, opened) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _context = Gpu::find(0)
                .and_then(|gpu| gpu.primary())
                .expect("the context");
            freeing.store(true, Ordering::Release);
            // SAFETY: allocated above, and used by nobody.
            let result = unsafe { sys::cuMemFree_v2(old) };
            assert_eq!(result, CUresult::CUDA_SUCCESS);
            assert!(opened.load(Ordering::Acquire), "it waited for the gate");
        });
        until(|| freeing.load(Ordering::Acquire));
        // It goes round a good number of times meanwhile.
        for _ in 0..20 {
            pieces.wipe_waiting(1);
            pieces.wait_until_held(1);
        }
        opened.store(true, Ordering::Release);
        pieces.set_gates(2, GateState::Open);
    });
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 4]);
}

/// The word of a gate none of whose dependents is enabled.
const NOWHERE: u32 = 0;

/// Where a launch that is gated whole has its pieces: gate, bounce, and the copy that runs.
const GATE: usize = 0;
const BOUNCE: usize = 1;
const COPY: usize = 2;

/// A dependent that is scheduled.
fn scheduled(arena: Arena, place: usize) -> Dependent {
    Dependent {
        address: arena.place(place).address(),
        action: Action::Schedule,
        prefetch: false,
    }
}

/// A copy of a launch that runs nothing, completes nothing, and schedules others.
fn null(descriptor: &Editable, dependents: [Option<Dependent>; 2]) -> Words {
    let mut null = descriptor.copied();
    null.set_kind(Kind::Null).expect("a kind fits");
    null.set_release(0, None).expect("no release");
    fields::ARRIVE_AT_LATCH_VALID.set(null.words_mut(), 0);
    for (slot, dependent) in (0..).zip(dependents) {
        null.set_dependent(slot, dependent).expect("a place");
    }
    *null.words()
}

/// Puts a gate before a whole launch: the driver's descriptor schedules the gate, and that a copy.
fn gate_whole(arena: Arena, state: GateState) -> impl FnMut(&mut Editable) + Send + 'static {
    let waiting = arena.stamp(GATE, 1).address();
    move |descriptor| {
        arena.put(COPY, descriptor.words());
        let [back, on] = [BOUNCE, COPY].map(|place| Some(scheduled(arena, place)));
        let mut gate = Descriptor::new(null(descriptor, [back, on])).expect("a descriptor");
        let stamp = Release {
            address: waiting,
            payload: 1,
            size: ReleaseSize::FourWords,
            membar: false,
            reduction: None,
            payload64: false,
            trap: 0,
        };
        gate.set_release(2, Some(stamp)).expect("an address");
        gate.words_mut()[GATE_WORD] = state.word();
        arena.put(GATE, gate.words());
        let first = Some(scheduled(arena, GATE));
        arena.put(BOUNCE, &null(descriptor, [first, None]));
        *descriptor.words_mut() = null(descriptor, [first, None]);
    }
}

fn a_launch_can_be_gated_whole() {
    let (subject, other) = subject();
    let (arena, stay) = (Arena::new(), Stay::new(4));
    stay.let_all_go();
    stay.launch(
        &subject,
        &subject.stream,
        gate_whole(arena, GateState::Shut),
    );
    until(|| arena.payload(GATE) == 1);
    go_on(&subject, &other);
    assert!(!is_over(&subject.stream) && (0..4).all(|block| !stay.has_begun(block)));
    arena.store(GATE, GATE_WORD, GateState::Open.word());
    subject.stream.synchronize().expect("the end of the launch");
    assert_eq!(stay.counts(), [1; 4]);
}

fn a_gated_launch_that_is_not_held_runs_once() {
    let (subject, _other) = subject();
    let (arena, stay) = (Arena::new(), Stay::new(4));
    stay.let_all_go();
    for launch in 1..=20 {
        stay.launch(
            &subject,
            &subject.stream,
            gate_whole(arena, GateState::Open),
        );
        subject.stream.synchronize().expect("the end of the launch");
        assert_eq!(stay.counts(), [launch; 4]);
    }
    assert_eq!(arena.payload(GATE), 0);
}

/// Launches come and go until a gate that leads nowhere is not gone round any more.
fn until_still(subject: &Subject, other: &Stream, arena: Arena, gate: usize) {
    let mut still = 0;
    while still < 50 {
        arena.wipe(gate);
        go_on(subject, other);
        still = if arena.payload(gate) == 0 {
            still + 1
        } else {
            0
        };
    }
}

fn a_chain_whose_atoms_were_made_void_runs_out() {
    let (subject, _other) = subject();
    let (pieces, stay, next) = (Arena::new().pieces(0), Stay::new(8), Stay::new(1));
    next.let_all_go();
    for launch in 1..=10 {
        let pieces = pieces.stamping(launch);
        held(&subject, &subject.stream, &pieces, &stay, 8);
        next.launch(&subject, &subject.stream, nothing);
        pieces.make_void(8);
        subject.stream.synchronize().expect("the end of both");
        assert_eq!(stay.counts(), [launch, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(next.counts(), [launch]);
        assert!((0..8).all(|atom| pieces.has_completed(atom)) && pieces.is_done());
    }
}

fn a_chain_whose_tail_was_made_silent_completes_nothing_else() {
    let (subject, other) = subject();
    let (pieces, stay, next) = (Arena::new().pieces(0), Stay::new(3), Stay::new(1));
    next.let_all_go();
    held(&subject, &subject.stream, &pieces, &stay, 3);
    next.launch(&subject, &subject.stream, nothing);
    until(|| pieces.has_completed(0));
    pieces.make_silent();
    pieces.make_void(3);
    until(|| pieces.is_done());
    go_on(&subject, &other);
    assert!((1..3).all(|block| !stay.has_begun(block)));
    from_here_on();
    until(|| next.has_begun(0) || is_over(&subject.stream));
}

fn a_gate_that_leads_nowhere_ends_its_chain_for_ever() {
    let (subject, other) = subject();
    let (arena, stay) = (Arena::new(), Stay::new(6));
    let pieces = arena.pieces(0);
    held(&subject, &subject.stream, &pieces, &stay, 3);
    (1..3).for_each(|atom| pieces.set_word(atom, NOWHERE));
    until_still(&subject, &other, arena, pieces.gate_place(1));
    assert!(pieces.has_completed(0) && !pieces.is_done());
    // Too late.
    pieces.set_gates(3, GateState::Open);
    from_here_on();
    until(|| stay.has_begun(2) || is_over(&subject.stream));
}

fn a_gated_launch_whose_gate_leads_nowhere_never_runs() {
    let (subject, other) = subject();
    let (arena, stay) = (Arena::new(), Stay::new(4));
    stay.let_all_go();
    stay.launch(
        &subject,
        &subject.stream,
        gate_whole(arena, GateState::Shut),
    );
    until(|| arena.payload(GATE) == 1);
    arena.store(GATE, GATE_WORD, NOWHERE);
    until_still(&subject, &other, arena, GATE);
    arena.store(GATE, GATE_WORD, GateState::Open.word());
    from_here_on();
    until(|| stay.has_begun(0) || is_over(&subject.stream));
}
