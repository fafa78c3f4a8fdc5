// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The end of a process whose chains the GPU still runs: they run out, and its arena stays until they
//! have ended, or time is up.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, claim};
use lithos_vm::{Device, Module, Pages, Process, Scheduler};
use nix::sys::mman::ProtFlags;

/// What words of an atom say, of which one bit or another is to go.
const ATOM: u32 = 0xffff_ffff;
/// Far more than any predicted time here.
const LONG_NS: u64 = 600_000_000_000;

fn write() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn offset(kind: lithos_region_kind) -> usize {
    usize::try_from(claim(GPU).regions[kind as usize].offset).expect("an offset")
}

fn gate() -> usize {
    offset(LITHOS_REGION_GATES) + offset_of!(lithos_gate, word)
}

/// A process with one suspended chain, which says so.
fn suspended(remaining_ns: u64) -> Process {
    Process::start(0, move |line| {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel");
        let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
        let arena = arena.expect("an arena");
        let (words, tail) = (arena.words(), offset(LITHOS_REGION_TAILS));
        words.half(gate()).store(LITHOS_GATE_SHUT, Release);
        let set = |at: usize, word: u32, value| {
            let word = usize::try_from(word).expect("an index");
            words.half(at + 4 * word).store(value, Release);
        };
        let atom = offset(LITHOS_REGION_ATOMS);
        for word in [LITHOS_ATOM_KIND_WORD, LITHOS_ATOM_EXIT_WORD] {
            set(atom, word, ATOM);
        }
        let (latch, releases) = (LITHOS_TAIL_LATCH_WORD, LITHOS_TAIL_RELEASE_WORD);
        for word in [latch, releases, LITHOS_TAIL_DEPENDENTS_WORD] {
            set(tail, word, u32::MAX);
        }
        // It is stamped where release 1 is.
        let done = arena.address() + tail + offset_of!(lithos_tail, done);
        let low = u32::try_from(done & 0xffff_ffff).expect("the low half");
        set(tail, LITHOS_TAIL_ADDRESS_WORD, low);
        let remaining = offset_of!(lithos_tail, remaining_ns);
        words.word(tail + remaining).store(remaining_ns, Release);
        words
            .word(tail + offset_of!(lithos_tail, published))
            .store(7, Release);
        line.say(channel.id);
        line.hear();
    })
}

fn arena(scheduler: &Device, channel: u64) -> Pages {
    let bytes = claim(GPU).arena_bytes;
    scheduler
        .map(channel, LITHOS_MAP_ARENA, bytes, write())
        .expect("an arena")
}

#[test]
fn a_process_that_is_killed_while_suspended_ends_when_its_chain_has() {
    let _module = Module::lithos("death_wait_ms=60000");
    let scheduler = Scheduler::of(GPU);
    let mut tenant = suspended(LONG_NS);
    let id = tenant.line().hear();
    let arena = arena(&scheduler, id);
    let pid = tenant.pid();
    tenant.signal(nix::sys::signal::Signal::SIGKILL);
    // The GPU's part: it goes on when the gate lets it, and says when it is done.
    let passes = || arena.words().half(gate()).load(Acquire) == LITHOS_GATE_HALTED;
    lithos_vm::wait_until("the gate lets pass", passes);
    // What is behind it runs nothing, and completes nothing but the chain.
    let word = |kind, index: u32| {
        let at = offset(kind) + 4 * usize::try_from(index).expect("an index");
        arena.words().half(at).load(Acquire)
    };
    let atom = LITHOS_REGION_ATOMS;
    assert_eq!(
        word(atom, LITHOS_ATOM_KIND_WORD),
        ATOM & !LITHOS_ATOM_KIND | LITHOS_ATOM_NULL
    );
    assert_eq!(word(atom, LITHOS_ATOM_EXIT_WORD), ATOM & !LITHOS_ATOM_EXIT);
    let tail = LITHOS_REGION_TAILS;
    assert_eq!(word(tail, LITHOS_TAIL_LATCH_WORD), !LITHOS_TAIL_LATCH);
    assert_eq!(word(tail, LITHOS_TAIL_RELEASE_WORD), !LITHOS_TAIL_RELEASE_0);
    let rest = LITHOS_TAIL_DEPENDENTS | LITHOS_TAIL_RELEASE_2;
    assert_eq!(word(tail, LITHOS_TAIL_DEPENDENTS_WORD), !rest);
    assert_eq!(
        scheduler.event_of(LITHOS_EVENT_TENANT_END).pid,
        pid.as_raw()
    );
    // A scheduler that has not heard yet shuts it again: it lets pass again.
    arena.words().half(gate()).store(LITHOS_GATE_SHUT, Release);
    lithos_vm::wait_until("the gate lets pass again", passes);
    // Its arena is still mapped, in a process that is about to end.
    assert_eq!(scheduler.info().expect("info").channels, 1);
    let done = offset(LITHOS_REGION_TAILS) + offset_of!(lithos_tail, done);
    arena.words().half(done).store(7, Release);
    let end = scheduler.event_of(LITHOS_EVENT_CHANNEL_END);
    assert_eq!((end.channel, end.value), (id, 0));
    tenant.wait();
}

#[test]
fn a_chain_that_does_not_end_holds_its_process_up_no_longer_than_the_parameter_says() {
    let _module = Module::lithos("death_wait_ms=50");
    let scheduler = Scheduler::of(GPU);
    let mut tenant = suspended(LONG_NS);
    let id = tenant.line().hear();
    tenant.kill();
    let end = scheduler.event_of(LITHOS_EVENT_CHANNEL_END);
    assert_eq!((end.channel, end.value), (id, 1));
}

#[test]
fn a_chain_holds_its_process_up_no_longer_than_was_predicted() {
    // Ten minutes, which a test would not wait for.
    let _module = Module::lithos("death_wait_ms=600000");
    let scheduler = Scheduler::of(GPU);
    let mut tenant = suspended(20_000_000);
    let id = tenant.line().hear();
    let start = Instant::now();
    tenant.kill();
    assert!(start.elapsed() < Duration::from_secs(600));
    let end = scheduler.event_of(LITHOS_EVENT_CHANNEL_END);
    assert_eq!((end.channel, end.value), (id, 1));
}

#[test]
fn a_process_without_chains_is_not_held_up() {
    let _module = Module::lithos("death_wait_ms=600000");
    let scheduler = Scheduler::of(GPU);
    let mut tenant = Process::start(0, |line| {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel");
        let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
        arena.expect("an arena").words().word(0).store(1, Release);
        line.say(channel.id);
        line.hear();
    });
    let id = tenant.line().hear();
    tenant.kill();
    let end = scheduler.event_of(LITHOS_EVENT_CHANNEL_END);
    assert_eq!((end.channel, end.value), (id, 0));
}

#[test]
fn a_gate_at_which_a_chain_is_to_end_stays_as_it_is() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    let device = Device::open();
    device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let arena = arena(&scheduler, channel.id);
    arena
        .words()
        .half(gate())
        .store(LITHOS_GATE_HALTED, Release);
    device
        .call_with_id(LITHOS_CHANNEL_CLOSE, channel.id)
        .expect("closed");
    assert_eq!(arena.words().half(gate()).load(Acquire), LITHOS_GATE_HALTED);
}

#[test]
fn a_channel_that_is_closed_opens_its_gates_and_is_retired() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    let device = Device::open();
    device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let grant = device.map(channel.id, LITHOS_MAP_GRANT, 4096, ProtFlags::PROT_READ);
    let grant = grant.expect("a grant page");
    let arena = arena(&scheduler, channel.id);
    arena.words().half(gate()).store(LITHOS_GATE_SHUT, Release);
    device
        .call_with_id(LITHOS_CHANNEL_CLOSE, channel.id)
        .expect("closed");
    assert_eq!(arena.words().half(gate()).load(Acquire), LITHOS_GATE_OPEN);
    let broker = grant
        .words()
        .word(offset_of!(lithos_grant_page, broker))
        .load(Acquire);
    assert_eq!(
        broker & u64::from(LITHOS_BROKER_STATE_MASK),
        u64::from(LITHOS_BROKER_RETIRED)
    );
    assert_eq!(
        scheduler.event_of(LITHOS_EVENT_CHANNEL_END).channel,
        channel.id
    );
}

#[test]
fn a_process_with_many_chains_is_held_up_no_longer_than_with_one() {
    // Each says that it takes a second.
    let second_ns = 1_000_000_000;
    let _module = Module::lithos("death_wait_ms=600000");
    let scheduler = Scheduler::of(GPU);
    let start = Instant::now();
    let mut tenant = Process::start(0, |line| {
        let device = Device::open();
        device.attach().expect("a tenant");
        let arenas: Vec<Pages> = (0..10)
            .map(|_| {
                let channel = device.open_channel(GPU).expect("a channel");
                let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
                let arena = arena.expect("an arena");
                let (words, tail) = (arena.words(), offset(LITHOS_REGION_TAILS));
                let remaining = offset_of!(lithos_tail, remaining_ns);
                words.word(tail + remaining).store(second_ns, Release);
                words
                    .word(tail + offset_of!(lithos_tail, published))
                    .store(7, Release);
                arena
            })
            .collect();
        line.say(0);
        line.hear();
        drop(arenas);
    });
    tenant.line().hear();
    tenant.kill();
    let waited = start.elapsed();
    for _ in 0..10 {
        assert_eq!(scheduler.event_of(LITHOS_EVENT_CHANNEL_END).value, 1);
    }
    assert!(waited < Duration::from_secs(9), "{waited:?}");
}
