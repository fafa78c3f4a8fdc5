// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Several processes on one GPU, as under MPS: they share its SMs, its faults, and nothing else.

use cudarc::driver::sys::{self, CUresult};
use simgpu::config::Options;

use crate::cuda::{NULL, Parameter, Program, get, ok, read, settle, stream, words, write};
use crate::simulation::{Simulation, hear, options, say};

pub(crate) const PROGRAMS: &[crate::Program] = &[
    ("holder", holder),
    ("quick", quick),
    ("urgent", urgent),
    ("victim", victim),
    ("culprit", culprit),
    ("hoarder", hoarder),
    ("whole_memory", whole_memory),
];

pub(crate) const TESTS: &[crate::Test] = &[
    ("two_processes_have_blocks_resident_at_once", || {
        let simulation = Simulation::new(&options());
        let mut holder = simulation.start("holder");
        holder.expect("held");
        simulation.run("quick");
        holder.say("let go");
        holder.finish();
    }),
    ("blocks_of_an_urgent_stream_start_first", || {
        Simulation::new(&options()).run("urgent");
    }),
    (
        "a_fault_ends_every_process_on_the_gpu_and_no_later_one",
        || {
            let simulation = Simulation::new(&options());
            let mut victim = simulation.start("victim");
            victim.expect("waiting");
            simulation.run("culprit");
            victim.finish();
            simulation.run("quick");
        },
    ),
    (
        "a_killed_process_leaves_no_memory_and_no_blocks_behind",
        || {
            let options = Options {
                memory_mib: 64,
                ..options()
            };
            let simulation = Simulation::new(&options);
            let mut hoarder = simulation.start("hoarder");
            hoarder.expect("full");
            let mut other = simulation.start("holder");
            other.expect("held");
            hoarder.kill();
            simulation.run("whole_memory");
            other.say("let go");
            other.finish();
        },
    ),
];

/// Starts a kernel that waits for a word in this process's memory to change.
struct Held {
    program: Program,
    word: *mut u32,
    stream: sys::CUstream,
}

impl Held {
    fn new(blocks: u32) -> Self {
        let program = Program::new();
        // SAFETY: plain pinned memory for one word.
        let word: *mut u32 = unsafe {
            let word: *mut u32 = get(|out| sys::cuMemHostAlloc(out, 4, 2)).cast();
            word.write_volatile(0);
            word
        };
        let stream = stream(0);
        let address = Parameter::Address(word.expose_provenance() as u64);
        program.launch("hold", [blocks, 1, 1], 32, stream, &[address]);
        Self {
            program,
            word,
            stream,
        }
    }

    fn is_waiting(&self) -> bool {
        // SAFETY: the stream lives.
        unsafe { sys::cuStreamQuery(self.stream) == CUresult::CUDA_ERROR_NOT_READY }
    }

    fn let_go(&self) {
        settle();
        // SAFETY: the word lives; the GPU sees it change.
        unsafe {
            self.word.write_volatile(1);
            ok(sys::cuStreamSynchronize(self.stream));
        }
    }
}

fn holder() {
    let held = Held::new(1);
    assert!(held.is_waiting());
    say("held");
    hear("let go");
    assert!(held.is_waiting());
    held.let_go();
}

fn quick() {
    let program = Program::new();
    let out = words(256);
    program.launch(
        "fill",
        [4, 1, 1],
        64,
        NULL,
        &[Parameter::Address(out), Parameter::Word(7)],
    );
    assert_eq!(read(out, 2), [7, 8]);
}

fn urgent() {
    let held = Held::new(1);
    let program = &held.program;
    let (least, most) = (stream(0), stream(-5));
    let priority = |s| {
        // SAFETY: the stream lives.
        get(|out| unsafe { sys::cuStreamGetPriority(s, out) })
    };
    assert_eq!((priority(least), priority(most)), (0, -5));
    let (counts, sms) = (words(200), words(200));
    let slow = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(200),
    ];
    let quick = [Parameter::Address(words(32)), Parameter::Word(1)];
    // SAFETY: streams and events live to the end.
    unsafe {
        let event = || get(|out| sys::cuEventCreate(out, 0));
        let (start, slow_end, quick_end) = (event(), event(), event());
        // Both are let go at one moment, the slow one first: 200 blocks, of which 16 fit at a time.
        ok(sys::cuEventRecord(start, held.stream));
        for stream in [least, most] {
            ok(sys::cuStreamWaitEvent(stream, start, 0));
        }
        program.launch("mark", [200, 1, 1], 1024, least, &slow);
        ok(sys::cuEventRecord(slow_end, least));
        program.launch("fill", [1, 1, 1], 32, most, &quick);
        ok(sys::cuEventRecord(quick_end, most));
        held.let_go();
        ok(sys::cuCtxSynchronize());
        let since_start = |end| get(|out| sys::cuEventElapsedTime_v2(out, start, end));
        let (slow, quick) = (since_start(slow_end), since_start(quick_end));
        assert!(4.0 * quick < slow, "{quick} ms and {slow} ms");
    }
    assert_eq!(read(counts, 200), vec![1; 200]);
}

fn victim() {
    let held = Held::new(1);
    say("waiting");
    // SAFETY: the stream lives.
    unsafe {
        let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        assert_eq!(sys::cuStreamSynchronize(held.stream), failed);
        assert_eq!(sys::cuCtxSynchronize(), failed, "the error stays");
        let mut address = 0;
        assert_eq!(sys::cuMemAlloc_v2(&raw mut address, 16), failed);
    }
    let parameters = [Parameter::Address(0)];
    let launch = held
        .program
        .try_launch("hold", [1, 1, 1], 32, 0, NULL, &parameters);
    assert_eq!(launch, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

fn culprit() {
    let program = Program::new();
    program.launch("stray", [1, 1, 1], 1, NULL, &[]);
    // SAFETY: takes nothing.
    let result = unsafe { sys::cuCtxSynchronize() };
    assert_eq!(result, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

fn hoarder() {
    let held = Held::new(8);
    // SAFETY: allocations that are never freed.
    let address = get(|out| unsafe { sys::cuMemAlloc_v2(out, 60 << 20) });
    write(address, &[1, 2, 3]);
    // SAFETY: an allocation that must fail.
    let more = unsafe { sys::cuMemAlloc_v2(&mut 0, 8 << 20) };
    assert_eq!(more, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(held.is_waiting());
    say("full");
    hear("die");
}

/// Waits until the dead process's memory is free, then takes it: the server notices a death at once,
/// but not before it has happened.
fn whole_memory() {
    let _program = Program::new();
    let address = loop {
        let mut address = 0;
        // SAFETY: a plain allocation.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, 60 << 20) } {
            CUresult::CUDA_SUCCESS => break address,
            error => assert_eq!(error, CUresult::CUDA_ERROR_OUT_OF_MEMORY),
        }
        std::thread::yield_now();
    };
    assert_eq!(
        read(address, 3),
        [0, 0, 0],
        "memory is not handed on with what was in it"
    );
}
