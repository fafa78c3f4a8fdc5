// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Modelled time: it follows the instructions, and it is known when it cannot be kept up with.

use cudarc::driver::sys;
use simgpu::config::Options;

use crate::cuda::{NULL, Parameter, Program, get, ok, synchronize, words};
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

/// The modelled time of one block of `mark` with so many turns, in milliseconds.
fn milliseconds(program: &Program, turns: u32) -> f32 {
    let (counts, sms) = (words(1), words(1));
    let parameters = [
        Parameter::Address(counts),
        Parameter::Address(sms),
        Parameter::Word(turns),
    ];
    // SAFETY: events are made, recorded around the launch, read and destroyed.
    unsafe {
        let start = get(|out| sys::cuEventCreate(out, 0));
        let end = get(|out| sys::cuEventCreate(out, 0));
        synchronize();
        ok(sys::cuEventRecord(start, NULL));
        program.launch("mark", [1, 1, 1], 32, NULL, &parameters);
        ok(sys::cuEventRecord(end, NULL));
        ok(sys::cuEventSynchronize(end));
        let elapsed = get(|out| sys::cuEventElapsedTime_v2(out, start, end));
        ok(sys::cuEventDestroy_v2(start));
        ok(sys::cuEventDestroy_v2(end));
        elapsed
    }
}

/// Events carry modelled time, so this holds however slow the machine is: the start is recorded when
/// the stream is idle, and the launch comes later by what the machine takes to submit it, which the
/// shortest of several tries takes out.
fn measured() {
    let program = Program::new();
    let shortest = |turns| {
        let tries = (0..5).map(|_| milliseconds(&program, turns));
        tries.min_by(f32::total_cmp).expect("five tries")
    };
    let (none, some, many) = (shortest(0), shortest(10_000), shortest(40_000));
    // A turn is four instructions: 40 ms at 1 MHz and one cycle each, if nothing else.
    let (some, many) = (some - none, many - none);
    assert!(some > 30.0, "{some}");
    let ratio = many / some;
    assert!((3.5..4.5).contains(&ratio), "{some} ms and {many} ms");
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
