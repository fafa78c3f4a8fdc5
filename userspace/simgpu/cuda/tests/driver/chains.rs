// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Descriptors that follow others: what the GPU makes of their bytes, field by field. (Whole chains, with
//! gates, are statements of the conformance suite, which runs on hardware, too.)

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUresult};
use lithos_descriptor::hopper::{
    Action, Dependent, Descriptor, Kind, StampSlot, Words, fields as f,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::cuda::{NULL, Parameter, Program, ok, read, settle, stream, synchronize, words, write};
use crate::hook;
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("resumed", resumed),
    ("restarted", restarted),
    ("edited", edited),
    ("counted", counted),
    ("early", early),
    ("round", round),
    ("ended", ended),
    ("unmapped", unmapped),
    ("active", active),
    ("miscounted", miscounted),
    ("queued", queued),
];

pub(crate) const TESTS: &[crate::Test] = &[
    ("a_scheduled_descriptor_begins_at_its_own_resume", || {
        Simulation::new(&options()).run("resumed");
    }),
    ("an_invalidated_descriptor_begins_at_block_0", || {
        Simulation::new(&options()).run("restarted");
    }),
    ("a_descriptor_is_read_when_it_is_scheduled", || {
        Simulation::new(&options()).run("edited");
    }),
    ("a_descriptor_runs_when_it_has_been_counted_down", || {
        Simulation::new(&options()).run("counted");
    }),
    (
        "with_pre_exit_dependent_0_follows_the_last_start_and_dependent_1_the_end",
        || {
            Simulation::new(&options()).run("early");
        },
    ),
    ("null_descriptors_go_round_while_all_else_goes_on", || {
        let simulation = Simulation::new(&options());
        let mut other = simulation.start("holder");
        other.expect("held");
        simulation.run("round");
        // They end with their process, and harm nobody.
        simulation.wait_until(|gpu| gpu.kernels_pending == 1 && gpu.processes.len() == 1);
        other.say("let go");
        other.finish();
    }),
    (
        "a_chain_ends_where_nothing_is_scheduled_and_its_stream_stays",
        || {
            let simulation = Simulation::new(&options());
            simulation.run("ended");
            simulation.wait_until(|gpu| gpu.kernels_pending == 0 && gpu.processes.is_empty());
        },
    ),
    (
        "a_descriptor_where_nothing_is_mapped_is_an_illegal_address",
        || {
            Simulation::new(&options()).run("unmapped");
        },
    ),
    (
        "a_descriptor_that_is_scheduled_while_it_is_active_is_a_fault",
        || {
            Simulation::new(&options()).run("active");
        },
    ),
    (
        "a_descriptor_that_is_counted_down_too_often_is_a_fault",
        || {
            Simulation::new(&options()).run("miscounted");
        },
    ),
    ("a_scheduled_queue_is_a_fault", || {
        Simulation::new(&options()).run("queued");
    }),
];

/// Where descriptors can be named, and nothing else is.
const ARENA: usize = 0x10_0000_0000;
const ARENA_BYTES: usize = 1 << 16;
/// From one descriptor to the next.
const STEP: usize = 512;
/// Where stamps begin.
const STAMPS: usize = ARENA_BYTES / 2;

/// Memory that the GPU sees below 1 TiB. It is there as long as the program.
#[derive(Clone, Copy)]
struct Arena;

impl Arena {
    fn new() -> Self {
        let place = NonZeroUsize::new(ARENA).expect("an address");
        let bytes = NonZeroUsize::new(ARENA_BYTES).expect("a size");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: replaces nothing.
        let mapped = unsafe { mmap_anonymous(Some(place), bytes, rights, flags) };
        let mapped = mapped.expect("low memory");
        // SAFETY: registers what was just mapped, which stays.
        ok(unsafe { sys::cuMemHostRegister_v2(mapped.as_ptr(), ARENA_BYTES, 2) });
        Self
    }

    fn word(self, offset: usize) -> &'static AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < ARENA_BYTES);
        let word = std::ptr::with_exposed_provenance_mut(ARENA + offset);
        // SAFETY: inside the arena, which stays mapped and is touched by atomics only.
        unsafe { AtomicU32::from_ptr(word) }
    }

    fn address(self, index: usize) -> u64 {
        (ARENA + STEP * index) as u64
    }

    fn stamp_address(self, index: usize) -> u64 {
        (ARENA + STAMPS + 16 * index) as u64
    }

    fn payload(self, index: usize) -> u32 {
        self.word(STAMPS + 16 * index).load(Ordering::Acquire)
    }

    fn put(self, index: usize, words: &Words) {
        for (at, &word) in (0..).step_by(4).zip(words) {
            self.word(STEP * index + at).store(word, Ordering::Release);
        }
    }

    fn dependent(self, index: usize, action: Action) -> Option<Dependent> {
        Some(Dependent {
            address: self.address(index),
            action,
            prefetch: false,
        })
    }
}

/// A copy of a descriptor without what it does on completion, which then does this.
fn follow(original: &Words, dependents: [Option<Dependent>; 2]) -> Words {
    let mut words = *original;
    f::RELEASE_ENABLE.at(0).set(&mut words, 0);
    f::ARRIVE_AT_LATCH_VALID.set(&mut words, 0);
    let mut descriptor = Descriptor::new(&mut words).expect("a descriptor");
    for (slot, dependent) in (0..).zip(dependents) {
        descriptor.set_dependent(slot, dependent).expect("a place");
    }
    words
}

/// The same as a NULL descriptor.
fn null(original: &Words, dependents: [Option<Dependent>; 2]) -> Words {
    let mut words = follow(original, dependents);
    f::QMD_TYPE.set(&mut words, Kind::Null.bits().into());
    words
}

/// Launches `mark` with a grid of 5 x 4 x 3 blocks, and does not wait; gives where it counts them.
fn launch(program: &Program, stream: sys::CUstream) -> u64 {
    let (counts, sms) = (words(60), words(60));
    let parameters = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(0),
    ];
    program.launch("mark", [5, 4, 3], 32, stream, &parameters);
    counts
}

/// Which blocks of a launch of 60 ran.
fn ran(range: std::ops::Range<u32>) -> Vec<u32> {
    (0..60).map(|block| range.contains(&block).into()).collect()
}

/// Launches a NULL descriptor that acts on a copy, which is to run from the middle of a row of slice 1 to
/// the end of that slice; gives how often each block ran.
fn act(action: Action) -> Vec<u32> {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    hook::edit(move |words| {
        let mut copy = *words;
        f::GRID_WIDTH_RESUME.set(&mut copy, 2);
        f::GRID_HEIGHT_RESUME.set(&mut copy, 1);
        f::GRID_DEPTH_RESUME.set(&mut copy, 1);
        f::GRID_DEPTH.set(&mut copy, 2);
        arena.put(0, &copy);
        *words = null(words, [arena.dependent(0, action), None]);
    });
    let counts = launch(&program, NULL);
    synchronize();
    read(counts, 60)
}

fn resumed() {
    assert_eq!(act(Action::Schedule), ran(27..40));
}

fn restarted() {
    assert_eq!(act(Action::InvalidateCopySchedule), ran(0..40));
}

fn edited() {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    let go = words(1);
    hook::edit(move |words| {
        arena.put(0, words);
        *words = follow(words, [arena.dependent(0, Action::Schedule), None]);
    });
    let held = [Parameter::Address(go)];
    let queue = stream(0);
    program.launch("hold", [2, 1, 1], 32, queue, &held);
    settle();
    // The copy has not begun: it is to run one block of the two.
    let width = f::GRID_WIDTH.lo() as usize / 8;
    arena.word(width).store(1, Ordering::Release);
    write(go, &[1]);
    synchronize();
    // Two blocks of 32 threads and one have counted on from 1.
    assert_eq!(read(go, 1), [1 + 3 * 32]);
}

fn counted() {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    hook::edit(move |words| {
        let mut tail = *words;
        f::QMD_TYPE.set(&mut tail, Kind::Null.bits().into());
        f::DEPENDENCE_COUNTER.set(&mut tail, 2);
        f::HW_ONLY_DEPENDENCE_COUNTER.set(&mut tail, 2);
        Descriptor::new(&mut tail)
            .expect("a descriptor")
            .stamp(StampSlot::One, arena.stamp_address(0), 7)
            .expect("a free release");
        arena.put(0, &tail);
        let count = arena.dependent(0, Action::DecrementDependence);
        let mut second = follow(words, [None, count]);
        f::GRID_DEPTH_RESUME.set(&mut second, 2);
        arena.put(1, &second);
        let mut first = follow(words, [arena.dependent(1, Action::Schedule), count]);
        f::GRID_DEPTH.set(&mut first, 2);
        *words = first;
    });
    let counts = launch(&program, NULL);
    synchronize();
    assert_eq!(read(counts, 60), ran(0..60));
    assert_eq!(arena.payload(0), 7);
    let left = |field: lithos_descriptor::Field| {
        arena.word(field.lo() as usize / 8).load(Ordering::Acquire) & 0xffff
    };
    assert_eq!(left(f::DEPENDENCE_COUNTER), 0);
    assert_eq!(left(f::HW_ONLY_DEPENDENCE_COUNTER), 0);
}

fn early() {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    let stamp = move |words: &mut Words, index: usize| {
        Descriptor::new(words)
            .expect("a descriptor")
            .stamp(StampSlot::One, arena.stamp_address(index), 1)
            .expect("a free release");
    };
    hook::edit(move |words| {
        for (index, dependents) in [[None; 2]; 2].into_iter().enumerate() {
            let mut last = null(words, dependents);
            stamp(&mut last, index);
            arena.put(index, &last);
        }
        let mut first = *words;
        f::PRE_EXIT_AT_LAST_CTA_LAUNCH.set(&mut first, 1);
        stamp(&mut first, 2);
        let mut descriptor = Descriptor::new(&mut first).expect("a descriptor");
        for slot in [0, 1] {
            let dependent = arena.dependent(slot.into(), Action::Schedule);
            descriptor.set_dependent(slot, dependent).expect("a place");
        }
        *words = first;
    });
    // More than are resident at once.
    let go = words(1);
    let queue = stream(0);
    let held = [Parameter::Address(go)];
    program.launch("hold", [4, 1, 1], 1024, queue, &held);
    hook::leave_alone();
    while arena.payload(0) == 0 {
        std::thread::yield_now();
    }
    // Another launch has come and gone since.
    launch(&program, stream(0));
    assert_eq!([1, 2].map(|index| arena.payload(index)), [0, 0]);
    write(go, &[1]);
    synchronize();
    while arena.payload(1) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(arena.payload(2), 1);
}

fn round() {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    let streams = [0; 16].map(|_| stream(0));
    for (pair, &stream) in streams.iter().enumerate() {
        hook::edit(move |words| {
            let places = [2 * pair, 2 * pair + 1];
            for (place, other) in [(0, 1), (1, 0)] {
                let next = arena.dependent(places[other], Action::Schedule);
                let mut half = null(words, [next, None]);
                Descriptor::new(&mut half)
                    .expect("a descriptor")
                    .stamp(StampSlot::Two, arena.stamp_address(places[place]), 1)
                    .expect("a free release");
                arena.put(places[place], &half);
            }
            *words = null(words, [arena.dependent(places[0], Action::Schedule), None]);
        });
        launch(&program, stream);
    }
    hook::leave_alone();
    let free = stream(0);
    for _ in 0..20 {
        let counts = launch(&program, free);
        // SAFETY: the stream lives.
        ok(unsafe { sys::cuStreamSynchronize(free) });
        assert_eq!(read(counts, 60), ran(0..60));
    }
    for place in 0..2 * streams.len() {
        // Each of them has come round and does so again.
        for _ in 0..2 {
            arena.word(STAMPS + 16 * place).store(0, Ordering::Release);
            while arena.payload(place) == 0 {
                std::thread::yield_now();
            }
        }
    }
    for stream in streams {
        // SAFETY: asks for the state of a stream.
        let state = unsafe { sys::cuStreamQuery(stream) };
        assert_eq!(state, CUresult::CUDA_ERROR_NOT_READY);
    }
    // The process ends here, with all of them going round.
    std::process::exit(0);
}

fn ended() {
    let program = Program::new();
    hook::subscribe();
    hook::edit(|words| *words = follow(words, [None; 2]));
    let queue = stream(0);
    let counts = launch(&program, queue);
    hook::leave_alone();
    let free = stream(0);
    let others = launch(&program, free);
    // SAFETY: the streams live.
    unsafe {
        ok(sys::cuStreamSynchronize(free));
        assert_eq!(sys::cuStreamQuery(queue), CUresult::CUDA_ERROR_NOT_READY);
    }
    assert_eq!(read(others, 60), ran(0..60));
    assert_eq!(read(counts, 60), ran(0..60));
    assert_eq!(
        // SAFETY: as above.
        unsafe { sys::cuStreamQuery(queue) },
        CUresult::CUDA_ERROR_NOT_READY
    );
    std::process::exit(0);
}

/// Launches what an edit makes of `mark`, and gives what becomes of the context.
fn fail(edit: impl Fn(Arena, &mut Words) + Send + 'static) -> CUresult {
    let program = Program::new();
    let arena = Arena::new();
    hook::subscribe();
    hook::edit(move |words| edit(arena, words));
    launch(&program, NULL);
    // SAFETY: takes nothing.
    unsafe { sys::cuCtxSynchronize() }
}

fn unmapped() {
    let result = fail(|arena, words| {
        let beyond = arena.dependent(ARENA_BYTES / STEP, Action::Schedule);
        *words = null(words, [beyond, None]);
    });
    assert_eq!(result, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

fn active() {
    let result = fail(|arena, words| {
        arena.put(0, &follow(words, [None; 2]));
        *words = null(words, [arena.dependent(0, Action::Schedule); 2]);
    });
    assert_eq!(result, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

fn miscounted() {
    let result = fail(|arena, words| {
        arena.put(0, &follow(words, [None; 2]));
        *words = null(
            words,
            [arena.dependent(0, Action::DecrementDependence), None],
        );
    });
    assert_eq!(result, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

fn queued() {
    let result = fail(|arena, words| {
        let mut queue = follow(words, [None; 2]);
        f::QMD_TYPE.set(&mut queue, Kind::Queue.bits().into());
        arena.put(0, &queue);
        *words = null(words, [arena.dependent(0, Action::Schedule), None]);
    });
    assert_eq!(result, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}
