// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The module, inserted, used, left by processes that are killed, and removed, again and again.

use std::sync::atomic::Ordering::Relaxed;

use lithos_abi::bindings::*;
use lithos_vm::device::GPU;
use lithos_vm::memory::Memory;
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Process, Scheduler, wait_until};
use nix::sys::mman::ProtFlags;

const CYCLES: usize = 100;

fn cycle() {
    let mut module = Module::lithos("death_wait_ms=1");
    let mut scheduler = Process::start(0, |line| {
        let scheduler = Scheduler::of(GPU);
        line.say(0);
        let arenas: Vec<_> = (0..2)
            .map(|_| {
                let event = scheduler.event_of(LITHOS_EVENT_CHANNEL);
                scheduler.answer_channel(event.channel).expect("an answer");
                let may = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
                let arena = scheduler.map(event.channel, LITHOS_MAP_ARENA, 65536, may);
                arena.expect("an arena")
            })
            .collect();
        arenas[0].words().word(0).store(1, Relaxed);
        line.say(0);
        line.hear();
    });
    scheduler.line().hear();
    let mut tenants = [0, NOBODY].map(|uid| {
        Process::start(uid, |line| {
            let device = Device::open();
            device.attach().expect("a tenant");
            let channel = device.open_channel(GPU).expect("a channel");
            device.wait_channel(channel.id).expect("an answer");
            let may = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, may);
            arena.expect("an arena").words().word(8).store(1, Relaxed);
            line.say(0);
            line.hear();
        })
    });
    for tenant in &mut tenants {
        tenant.line().hear();
    }
    scheduler.line().hear();
    let [first, second] = tenants;
    first.kill();
    scheduler.kill();
    second.kill();
    wait_until("the module can be removed", || module.remove().is_ok());
}

#[test]
fn a_module_that_comes_and_goes_a_hundred_times_loses_nothing() {
    cycle();
    let before = Memory::settled();
    for _ in 0..CYCLES {
        cycle();
    }
    Memory::settled().assert_as(&before);
}
