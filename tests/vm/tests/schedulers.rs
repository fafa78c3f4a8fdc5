// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who schedules, and what holds when nobody does.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lithos_abi::bindings::*;
use lithos_vm::device::{Channel, GPU, claim};
use lithos_vm::{Device, Module, Pages, Process, Scheduler, wait_until};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

const BROKER: usize = offset_of!(lithos_grant_page, broker);

fn write() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

/// A channel, as its tenant sees it.
struct Tenant {
    device: Device,
    channel: Channel,
    grant: Pages,
    arena: Pages,
}

impl Tenant {
    fn new() -> Self {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel");
        let grant = device.map(channel.id, LITHOS_MAP_GRANT, 4096, ProtFlags::PROT_READ);
        let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
        Self {
            grant: grant.expect("a grant page"),
            arena: arena.expect("an arena"),
            device,
            channel,
        }
    }

    /// State and epoch.
    fn broker(&self) -> (u32, u64) {
        let word = self.grant.words().word(BROKER).load(Acquire);
        let state = u32::try_from(word & u64::from(LITHOS_BROKER_STATE_MASK)).expect("8 bits");
        (state, word >> LITHOS_BROKER_EPOCH_SHIFT)
    }

    /// Words of all gates.
    fn gates(&self) -> Vec<usize> {
        let region = claim(GPU).regions[LITHOS_REGION_GATES as usize];
        let start = usize::try_from(region.offset).expect("an offset");
        let word = offset_of!(lithos_gate, word);
        (0..region.count as usize)
            .map(|gate| start + gate * region.stride as usize + word)
            .collect()
    }

    fn shut_gates(&self) {
        for gate in self.gates() {
            self.arena
                .words()
                .half(gate)
                .store(LITHOS_GATE_SHUT, Release);
        }
    }

    fn are_gates_open(&self) -> bool {
        let words = self.arena.words();
        let mut gates = self.gates().into_iter();
        gates.all(|gate| words.half(gate).load(Acquire) == LITHOS_GATE_OPEN)
    }
}

#[test]
fn a_gpu_has_one_scheduler_at_a_time() {
    let _module = Module::lithos("");
    let first = Scheduler::of(GPU);
    assert_eq!(Device::open().claim(GPU).err(), Some(Errno::EBUSY));
    let _second = Scheduler::of([2; 16]);
    assert_eq!(first.info().expect("info").schedulers, 2);
    // Sizes may change.
    let mut larger = claim(GPU);
    larger.arena_bytes = 128 << 10;
    first
        .call(LITHOS_SCHEDULER_CLAIM, &mut larger)
        .expect("other sizes");
    assert_eq!(larger.epoch, 1);
    drop(first);
    let third = Device::open();
    assert_eq!(third.claim(GPU).expect("a GPU that was freed").epoch, 3);
}

#[test]
fn a_scheduler_may_have_several_gpus_and_is_told_each_thing_once() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    scheduler.claim([2; 16]).expect("a claim");
    let tenant = Device::open();
    let id = tenant.attach().expect("a tenant");
    tenant.open_channel([2; 16]).expect("a channel");
    assert_eq!(
        scheduler.event().map(|event| (event.type_, event.tenant)),
        Ok((LITHOS_EVENT_TENANT, id))
    );
    assert_eq!(
        scheduler.event().map(|event| event.type_),
        Ok(LITHOS_EVENT_CHANNEL)
    );
    assert!(!scheduler.polled().contains(PollFlags::POLLIN));
}

#[test]
fn events_that_find_no_room_are_counted_and_told() {
    let _module = Module::lithos("events_max=16");
    let scheduler = Scheduler::of(GPU);
    let tenants: Vec<Device> = (0..30)
        .map(|_| {
            let device = Device::open();
            device.attach().expect("a tenant");
            device
        })
        .collect();
    for _ in 0..16 {
        assert_eq!(
            scheduler.event().map(|event| event.type_),
            Ok(LITHOS_EVENT_TENANT)
        );
    }
    let lost = scheduler.event().expect("an event");
    assert_eq!((lost.type_, lost.value), (LITHOS_EVENT_LOST, 14));
    assert!(!scheduler.polled().contains(PollFlags::POLLIN));
    // And what there is can be had.
    let mut next = lithos_tenant_info::default();
    for _ in &tenants {
        scheduler
            .call(LITHOS_TENANT_NEXT, &mut next)
            .expect("a tenant");
    }
    assert_eq!(
        scheduler.call(LITHOS_TENANT_NEXT, &mut next),
        Err(Errno::ENOENT)
    );
}

#[test]
fn without_its_scheduler_a_channel_follows_what_was_left_and_its_gates_are_open() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    let tenant = Tenant::new();
    assert_eq!(tenant.broker(), (LITHOS_BROKER_SCHEDULED, 1));
    tenant.shut_gates();
    drop(scheduler);
    assert_eq!(tenant.broker(), (LITHOS_BROKER_FAIL_STATIC, 2));
    assert!(tenant.are_gates_open());
    // A tenant that is there stays one; a new one is none.
    assert_eq!(tenant.device.open_channel(GPU).err(), Some(Errno::ENODEV));
    assert_eq!(Device::open().attach(), Err(Errno::ENXIO));
    let next = Scheduler::of(GPU);
    assert_eq!(tenant.broker(), (LITHOS_BROKER_SCHEDULED, 3));
    let mut found = lithos_channel_info::default();
    next.call(LITHOS_CHANNEL_NEXT, &mut found)
        .expect("the channel");
    assert_eq!(found.channel, tenant.channel.id);
}

#[test]
fn a_scheduler_that_is_silent_is_missed_and_what_it_writes_later_reaches_nobody() {
    let _module = Module::lithos("");
    let mut scheduler = Process::start(0, |line| {
        let mut device = Scheduler::of(GPU);
        line.say(0);
        let channel = line.hear();
        let arena = claim(GPU).arena_bytes;
        let arena = device
            .map(channel, LITHOS_MAP_ARENA, arena, write())
            .expect("an arena");
        arena.words().word(0).store(1, Relaxed);
        line.say(0);
        // No beat any more, and then a late store, of which this process dies.
        device.silence();
        line.hear();
        assert_eq!(device.beat(), Err(Errno::ESTALE));
        let event = device.event_of(LITHOS_EVENT_WATCHDOG);
        assert!(event.value > u64::from(LITHOS_HEARTBEAT_STALE_NS));
        assert_eq!(device.event().err(), Some(Errno::ESTALE));
        assert!(device.polled().contains(PollFlags::POLLHUP));
        arena.words().word(0).store(2, Relaxed);
    });
    scheduler.line().hear();
    let tenant = Tenant::new();
    tenant.shut_gates();
    scheduler.line().say(tenant.channel.id);
    scheduler.line().hear();
    wait_until("the scheduler is missed", || {
        tenant.broker().0 == LITHOS_BROKER_FAIL_STATIC
    });
    wait_until("the gates are open", || tenant.are_gates_open());
    scheduler.line().say(0);
    let pid = scheduler.pid();
    assert_eq!(
        scheduler.wait(),
        WaitStatus::Signaled(pid, Signal::SIGBUS, false)
    );
    assert_eq!(tenant.arena.words().word(0).load(Acquire), 1);
}

#[test]
fn a_scheduler_that_was_missed_can_come_back_only_as_a_new_one() {
    let _module = Module::lithos("");
    let mut scheduler = Scheduler::of(GPU);
    let tenant = Tenant::new();
    scheduler.silence();
    wait_until("it is missed", || {
        tenant.broker().0 == LITHOS_BROKER_FAIL_STATIC
    });
    assert_eq!(scheduler.claim(GPU).err(), Some(Errno::ESTALE));
    assert_eq!(
        scheduler.answer_channel(tenant.channel.id),
        Err(Errno::ESTALE)
    );
    let next = Scheduler::of(GPU);
    next.answer_channel(tenant.channel.id).expect("an answer");
    assert_eq!(tenant.broker().0, LITHOS_BROKER_SCHEDULED);
}

#[test]
fn a_file_whose_claim_was_refused_can_still_be_a_tenant() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    let device = Device::open();
    assert_eq!(device.claim(GPU).err(), Some(Errno::EBUSY));
    device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
    let arena = arena.expect("an arena");
    drop(scheduler);
    // Its mappings are its own.
    arena.words().word(0).store(1, Relaxed);
    assert_eq!(arena.words().word(0).load(Relaxed), 1);
}

#[test]
fn who_waits_for_events_hears_that_it_is_over() {
    let _module = Module::lithos("silence_ms=100");
    let scheduler = Device::open();
    scheduler.claim(GPU).expect("a claim");
    assert_eq!(
        scheduler.event().map(|event| event.type_),
        Ok(LITHOS_EVENT_WATCHDOG)
    );
    assert_eq!(scheduler.event().err(), Some(Errno::ESTALE));
}

#[test]
fn a_doorbell_that_found_no_room_can_be_rung_again() {
    let _module = Module::lithos("events_max=16");
    let scheduler = Scheduler::of(GPU);
    let tenant = Tenant::new();
    for _ in 0..20 {
        Device::open().attach().expect("a tenant");
    }
    let ring = || {
        tenant
            .device
            .call_with_id(LITHOS_CHANNEL_RING, tenant.channel.id)
    };
    ring().expect("rung");
    scheduler.event_of(LITHOS_EVENT_LOST);
    ring().expect("rung again");
    let event = scheduler.event_of(LITHOS_EVENT_DOORBELL);
    assert_eq!(event.channel, tenant.channel.id);
}

#[test]
fn a_doorbell_that_a_scheduler_did_not_hear_can_be_rung_for_the_next() {
    let _module = Module::lithos("");
    let scheduler = Scheduler::of(GPU);
    let tenant = Tenant::new();
    let ring = || {
        tenant
            .device
            .call_with_id(LITHOS_CHANNEL_RING, tenant.channel.id)
    };
    ring().expect("rung, and not heard");
    drop(scheduler);
    ring().expect("rung, and there is nobody");
    let next = Scheduler::of(GPU);
    ring().expect("rung");
    let event = next.event_of(LITHOS_EVENT_DOORBELL);
    assert_eq!(event.channel, tenant.channel.id);
}
