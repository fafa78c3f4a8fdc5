// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The death of a process beside others: what it does to them, and what can be done about it in time.
//!
//! The process and its test share a file in memory, which the GPU sees, too: that is how a scheduler
//! reaches the gates of a process that has died. Where a test is to be in time, it has a minute.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use lithos_descriptor::hopper::{
    Action, Dependent, Descriptor, Kind, StampSlot, Words, fields as f,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use simgpu::config::Options;
use simgpu::shared::SharedMemory;

use crate::cuda::{NULL, Parameter, Program, ok, settle};
use crate::hook;
use crate::simulation::{Running, Simulation, hear, options, say};

pub(crate) const PROGRAMS: &[crate::Program] = &[("circling", circling), ("working", working)];

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "under_mps_who_dies_while_a_gate_is_gone_round_takes_all_with_it",
        || takes_all_along("circling"),
    ),
    (
        "under_mps_who_dies_while_a_kernel_runs_takes_all_with_it",
        || takes_all_along("working"),
    ),
    (
        "under_mps_a_chain_that_is_halted_soon_after_its_process_has_died_harms_nobody",
        || harms_nobody("circling", Some(MINUTE_MS), Doomed::halt),
    ),
    (
        "under_mps_a_kernel_that_ends_soon_after_its_process_has_died_harms_nobody",
        || harms_nobody("working", Some(MINUTE_MS), Doomed::let_go),
    ),
    ("under_mps_who_has_no_work_dies_alone", || {
        let simulation = Simulation::new(&dying(Some(0)));
        let mut other = simulation.start("holder");
        other.expect("held");
        simulation.run("quick");
        other.say("let go");
        other.finish();
    }),
    ("without_mps_everybody_dies_alone", || {
        harms_nobody("circling", None, |_| ());
        harms_nobody("working", None, |_| ());
    }),
];

/// As on hardware.
const DEATH_MS: u64 = 7;
const MINUTE_MS: u64 = 60_000;

/// Names the file that test and program share, by its number.
const VARIABLE: &str = "SIMGPU_TEST_FILE";
const BYTES: usize = 8192;
/// Where the program has it.
const ADDRESS: usize = 0x20_0000_0000;
/// Where in it what is.
const GO: usize = 0;
const WAITING: usize = 16;
const GATE: usize = 512;
const BOUNCE: usize = 1024;

fn dying(mps_death_ms: Option<u64>) -> Options {
    Options {
        mps_death_ms,
        ..options()
    }
}

/// A word of the file, wherever that is mapped.
///
/// # Safety
///
/// So many bytes are mapped there for good.
unsafe fn word(base: *mut u8, offset: usize) -> &'static AtomicU32 {
    assert!(offset.is_multiple_of(4) && offset < BYTES);
    // SAFETY: inside the mapping, of which only atomics are touched.
    unsafe { AtomicU32::from_ptr(base.add(offset).cast()) }
}

/// A program that is to die, and what its test has of it.
struct Doomed {
    running: Running,
    memory: &'static SharedMemory,
}

impl Doomed {
    fn start(simulation: &Simulation, program: &str) -> Self {
        let memory = SharedMemory::create(c"simgpu-test", BYTES).expect("memory");
        let number = fcntl(memory.fd(), FcntlArg::F_DUPFD(3)).expect("a copy to inherit");
        // SAFETY: just made, and nobody else's.
        let inherited = unsafe { OwnedFd::from_raw_fd(number) };
        let number = inherited.as_raw_fd().to_string();
        let mut running = simulation.start_with(program, &[(VARIABLE, &number)]);
        running.expect("in");
        Self {
            running,
            memory: Box::leak(Box::new(memory)),
        }
    }

    fn store(memory: &'static SharedMemory, offset: usize, value: u32) {
        // SAFETY: the memory was leaked.
        unsafe { word(memory.as_ptr(), offset) }.store(value, Ordering::SeqCst);
    }

    /// Enables no dependent of the gate.
    fn halt(memory: &'static SharedMemory) {
        let enables = f::DEPENDENT_QMD_ENABLE.at(0).lo() as usize / 32;
        Self::store(memory, GATE + 4 * enables, 0);
    }

    /// Lets the kernel end.
    fn let_go(memory: &'static SharedMemory) {
        Self::store(memory, GO, 1);
    }
}

fn takes_all_along(program: &str) {
    let simulation = Simulation::new(&dying(Some(DEATH_MS)));
    let mut victim = simulation.start("victim");
    victim.expect("waiting");
    Doomed::start(&simulation, program).running.kill();
    victim.finish();
    // Those who come afterwards are well.
    simulation.run("quick");
}

fn harms_nobody(program: &str, mps_death_ms: Option<u64>, act: fn(&'static SharedMemory)) {
    let simulation = Simulation::new(&dying(mps_death_ms));
    let mut other = simulation.start("holder");
    other.expect("held");
    let doomed = Doomed::start(&simulation, program);
    doomed.running.kill();
    act(doomed.memory);
    simulation.wait_until(|gpu| gpu.kernels_pending == 1 && gpu.processes.len() == 1);
    other.say("let go");
    other.finish();
}

/// A program that the GPU sees the file of.
fn program() -> Program {
    let program = Program::new();
    let number = std::env::var(VARIABLE).expect("a file");
    // SAFETY: inherited for this purpose, and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(number.parse().expect("a number")) };
    let place = NonZeroUsize::new(ADDRESS).expect("an address");
    let bytes = NonZeroUsize::new(BYTES).expect("a size");
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: replaces nothing.
    let mapped = unsafe { mmap(Some(place), bytes, rights, flags, &file, 0) };
    let mapped = mapped.expect("low memory");
    // SAFETY: registers what was just mapped, which stays.
    ok(unsafe { cudarc::driver::sys::cuMemHostRegister_v2(mapped.as_ptr(), BYTES, 2) });
    // It stays open, too.
    let _ = file.into_raw_fd();
    program
}

fn circling() {
    let program = program();
    hook::subscribe();
    hook::edit(|words| {
        let (gate, bounce) = (null(words, BOUNCE), null(words, GATE));
        for (place, descriptor) in [(GATE, gate), (BOUNCE, bounce)] {
            for (at, value) in (0..).step_by(4).zip(descriptor) {
                here(place + at).store(value, Ordering::Release);
            }
        }
        *words = null(words, GATE);
    });
    program.launch("stray", [1, 1, 1], 32, NULL, &[]);
    while here(WAITING).load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    say("in");
    hear("die");
}

/// A word of the file where this program has it.
fn here(offset: usize) -> &'static AtomicU32 {
    // SAFETY: `program` has mapped it.
    unsafe { word(std::ptr::with_exposed_provenance_mut(ADDRESS), offset) }
}

/// A NULL descriptor that stamps and schedules another.
fn null(original: &Words, next: usize) -> Words {
    let mut words = *original;
    f::QMD_TYPE.set(&mut words, Kind::Null.bits().into());
    f::RELEASE_ENABLE.at(0).set(&mut words, 0);
    f::ARRIVE_AT_LATCH_VALID.set(&mut words, 0);
    let next = Dependent {
        address: (ADDRESS + next) as u64,
        action: Action::Schedule,
        prefetch: false,
    };
    let mut descriptor = Descriptor::new(&mut words).expect("a descriptor");
    descriptor.set_dependent(0, Some(next)).expect("a place");
    let stamp = (ADDRESS + WAITING) as u64;
    descriptor
        .stamp(StampSlot::Two, stamp, 1)
        .expect("a free release");
    words
}

fn working() {
    let program = program();
    let address = Parameter::Address((ADDRESS + GO) as u64);
    program.launch("hold", [1, 1, 1], 32, NULL, &[address]);
    settle();
    say("in");
    hear("die");
}
