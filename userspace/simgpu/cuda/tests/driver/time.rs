// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Modelled time: it follows the instructions, and it is known when it cannot be kept up with.

use cudarc::driver::sys;
use simgpu::config::Options;

use crate::cuda::{NULL, Parameter, Program, get, ok, settle, synchronize, words};
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] =
    &[("measured", measured), ("meeting", meeting), ("busy", busy)];

pub(crate) const TESTS: &[crate::Test] = &[
    ("a_block_takes_the_time_of_its_instructions", || {
        Simulation::new(&options()).run("measured");
    }),
    ("blocks_that_wait_for_each_other_all_finish", || {
        Simulation::new(&options()).run("meeting");
    }),
    ("falling_behind_the_clock_is_reported", || {
        // No interpreter runs 8 SMs at 100 GHz.
        let options = Options {
            clock_mhz: 100_000.0,
            tolerance_ms: 1,
            ..options()
        };
        let simulation = Simulation::new(&options);
        simulation.run("busy");
        let summary = simulation.stop();
        assert!(!summary.kept_up());
        assert!(summary.gpus[0].fell_behind && summary.gpus[0].behind_ns > 1_000_000);
    }),
];

/// The modelled time of one block of `mark` with so many turns, in milliseconds. Everything is
/// submitted while the stream is held up, so that the machine's own time has no part in it.
fn milliseconds(program: &Program, turns: u32) -> f32 {
    let (counts, sms, word) = (words(1), words(1), pinned_word());
    let gate = [Parameter::Address(word.expose_provenance() as u64)];
    let turns = Parameter::Word(turns);
    let parameters = [Parameter::Address(counts), Parameter::Address(sms), turns];
    // SAFETY: events are made, recorded around the launch, read and destroyed; the word lives.
    unsafe {
        let start = get(|out| sys::cuEventCreate(out, 0));
        let end = get(|out| sys::cuEventCreate(out, 0));
        program.launch("hold", [1, 1, 1], 32, NULL, &gate);
        ok(sys::cuEventRecord(start, NULL));
        program.launch("mark", [1, 1, 1], 32, NULL, &parameters);
        ok(sys::cuEventRecord(end, NULL));
        settle();
        word.write_volatile(1);
        ok(sys::cuEventSynchronize(end));
        let elapsed = get(|out| sys::cuEventElapsedTime_v2(out, start, end));
        ok(sys::cuEventDestroy_v2(start));
        ok(sys::cuEventDestroy_v2(end));
        ok(sys::cuMemFreeHost(word.cast()));
        elapsed
    }
}

/// A word of pinned memory.
fn pinned_word() -> *mut u32 {
    // SAFETY: pinned memory for one word.
    unsafe {
        let word: *mut u32 = get(|out| sys::cuMemHostAlloc(out, 4, 2)).cast();
        word.write_volatile(0);
        word
    }
}

fn measured() {
    let program = Program::new();
    let none = milliseconds(&program, 0);
    let some = milliseconds(&program, 1000);
    let many = milliseconds(&program, 4000);
    // A turn is four instructions: at 1 MHz and a cycle each, 1000 of them take 4 ms.
    assert!(some - none > 3.9, "{none} {some}");
    let ratio = (many - none) / (some - none);
    assert!((3.99..4.01).contains(&ratio), "{none} {some} {many}");
    assert_eq!(
        milliseconds(&program, 1000),
        some,
        "the same work takes the same time"
    );
}

fn meeting() {
    let program = Program::new();
    let counter = words(1);
    // As many blocks as fit at once, and each waits for all.
    let blocks = 8 * 2;
    program.launch(
        "meet",
        [blocks, 1, 1],
        1024,
        NULL,
        &[Parameter::Address(counter)],
    );
    synchronize();
}

fn busy() {
    let program = Program::new();
    let (counts, sms) = (words(64), words(64));
    let turns = Parameter::Word(200_000);
    let parameters = [Parameter::Address(counts), Parameter::Address(sms), turns];
    program.launch("mark", [64, 1, 1], 32, NULL, &parameters);
    synchronize();
}
