// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the NVIDIA driver does with an arena: it pins it, for longer than anybody maps it, and its GPU walks
//! it until the file of the driver is closed.

use std::mem::offset_of;
use std::sync::atomic::Ordering::Release;

use lithos_abi::bindings::*;
use lithos_vm::device::{Channel, GPU, claim};
use lithos_vm::nvidia::{Nvidia, Variant};
use lithos_vm::{Device, Module, Pages, Process, Scheduler, wait_until};
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;

const MARK: u64 = 0x6c69_7468_6f73;

fn tenant() -> (Device, Channel, Pages) {
    let device = Device::open();
    device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let may = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, may);
    (device, channel, arena.expect("an arena"))
}

#[test]
fn pages_of_an_arena_live_until_the_last_pin_of_them_is_gone() {
    let _driver = Variant::Plain.insert();
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    // The file, in the test's hands: it outlives the process whose pages it has pinned.
    let driver = Nvidia::open();
    let mut owner = Process::start(0, |line| {
        let (device, channel, arena) = tenant();
        let last = arena.bytes() - 8;
        arena.words().word(last).store(MARK, Release);
        line.say(driver.pin(arena.address(), arena.bytes()).expect("pinned"));
        let ring = device.map(
            channel.id,
            LITHOS_MAP_RING,
            channel.ring_bytes,
            ProtFlags::PROT_WRITE,
        );
        let ring = ring.expect("a ring");
        let pin = driver.pin(ring.address(), ring.bytes()).expect("pinned");
        driver.unpin(pin).expect("unpinned");
        line.hear();
        // The GPU sees what is written now, after the pages were pinned.
        arena.words().word(last - 8).store(MARK + 1, Release);
        line.say(0);
        line.hear();
    });
    let pin = owner.line().hear();
    owner.line().say(0);
    owner.line().hear();
    let last = claim(GPU).arena_bytes - 8;
    owner.kill();
    scheduler.event_of(LITHOS_EVENT_CHANNEL_END);
    assert_eq!(scheduler.info().expect("info").channels, 0);
    // Others come and go, and get other pages.
    for _ in 0..20 {
        Process::run(0, || {
            let (_device, channel, arena) = tenant();
            for word in (0..channel.arena_bytes).step_by(8) {
                let at = usize::try_from(word).expect("an offset");
                arena.words().word(at).store(7, Release);
            }
        });
    }
    assert_eq!(driver.peek(pin, last), Ok(MARK));
    assert_eq!(driver.peek(pin, last - 8), Ok(MARK + 1));
    assert_eq!(driver.unpin(pin), Ok(()));
}

/// A process whose GPU walks a chain of its arena, and waits at a gate.
fn suspended(run_ms: u64) -> Process {
    let mut process = Process::start(0, move |line| {
        let (device, _, arena) = tenant();
        let driver = Nvidia::open();
        let regions = claim(GPU).regions;
        let at = |kind| usize::try_from(regions[kind as usize].offset).expect("an offset");
        let (gate, tail) = (at(LITHOS_REGION_GATES), at(LITHOS_REGION_TAILS));
        let words = arena.words();
        words
            .half(gate + offset_of!(lithos_gate, word))
            .store(LITHOS_GATE_SHUT, Release);
        words
            .word(tail + offset_of!(lithos_tail, remaining_ns))
            .store(60_000_000_000, Release);
        words
            .word(tail + offset_of!(lithos_tail, published))
            .store(7, Release);
        let walk = driver.walk((arena.address(), arena.bytes()), gate, tail, run_ms);
        walk.expect("a chain");
        // The kernel unmaps and closes, in its order.
        std::mem::forget((device, arena, driver));
        line.say(0);
        line.hear();
    });
    process.line().hear();
    process
}

fn note_of(pid: i32) -> String {
    let mut note = None;
    wait_until("the driver's file is closed", || {
        let start = format!("closed by {pid}: ");
        let notes = Nvidia::notes();
        note = notes
            .iter()
            .find_map(|line| line.strip_prefix(&start).map(str::to_owned));
        note.is_some()
    });
    note.expect("a note")
}

#[test]
fn the_gpu_has_left_the_arena_of_a_killed_process_when_the_driver_closes() {
    let _driver = Variant::Plain.insert();
    let _module = Module::lithos("death_wait_ms=60000");
    let scheduler = Scheduler::of(GPU);
    for _ in 0..5 {
        let process = suspended(50);
        let pid = process.pid().as_raw();
        process.signal(Signal::SIGKILL);
        assert_eq!(note_of(pid), "gate open, chain done");
        process.wait();
        assert_eq!(scheduler.event_of(LITHOS_EVENT_CHANNEL_END).value, 0);
    }
}

#[test]
fn the_gpu_has_left_the_arena_of_a_process_that_ends_by_itself_when_the_driver_closes() {
    let _driver = Variant::Plain.insert();
    let _module = Module::lithos("death_wait_ms=60000");
    let _scheduler = Scheduler::of(GPU);
    let mut process = suspended(50);
    let pid = process.pid().as_raw();
    process.line().say(0);
    process.end();
    assert_eq!(note_of(pid), "gate open, chain done");
}

#[test]
fn a_chain_that_takes_too_long_is_still_under_way_when_the_driver_closes() {
    let _driver = Variant::Plain.insert();
    let _module = Module::lithos("death_wait_ms=10");
    let _scheduler = Scheduler::of(GPU);
    let process = suspended(30_000);
    let pid = process.pid().as_raw();
    process.kill();
    assert_eq!(note_of(pid), "gate open, chain running");
}
