// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Allocations that fail, one after the other, in a module that was built for it: what needs them fails
//! with ENOMEM, whatever was made before is given back, and the next try succeeds.

use lithos_abi::bindings::*;
use lithos_vm::device::{Channel, GPU};
use lithos_vm::{Device, Module, wait_until};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

const DEBUG: &str = "/modules/debug/lithos.ko";
/// More than one use has.
const ALLOCATIONS_MAX: u32 = 200;

/// Does something that may fail for want of memory, once. Says whether it did.
fn try_again<T>(failures: &mut u32, mut what: impl FnMut() -> nix::Result<T>) -> T {
    match what() {
        Ok(done) => done,
        Err(Errno::ENOMEM) => {
            *failures += 1;
            what().expect("the second time")
        }
        Err(error) => panic!("{error}"),
    }
}

/// Everything that a scheduler and a tenant do, and how much of it failed.
fn use_it() -> u32 {
    let mut failures = 0;
    let failed = &mut failures;
    let scheduler = try_again(failed, open);
    let _: lithos_scheduler_claim = try_again(failed, || scheduler.claim(GPU));
    let tenant = try_again(failed, open);
    let id = try_again(failed, || tenant.attach());
    try_again(failed, || scheduler.answer_tenant(id));
    try_again(failed, || tenant.wait_tenant(id));
    let channel: Channel = try_again(failed, || tenant.open_channel(GPU));
    try_again(failed, || scheduler.answer_channel(channel.id));
    try_again(failed, || tenant.wait_channel(channel.id));
    let read = ProtFlags::PROT_READ;
    let (ring, arena) = (channel.ring_bytes, channel.arena_bytes);
    for (kind, bytes) in [
        (LITHOS_MAP_GRANT, 4096),
        (LITHOS_MAP_RING, ring),
        (LITHOS_MAP_ARENA, arena),
    ] {
        for device in [&tenant, &scheduler] {
            drop(try_again(failed, || {
                device.map(channel.id, kind, bytes, read)
            }));
        }
    }
    try_again(failed, || {
        tenant.call_with_id(LITHOS_CHANNEL_RING, channel.id)
    });
    try_again(failed, || {
        scheduler.call_with_id(LITHOS_CHANNEL_WAKE, channel.id)
    });
    assert_eq!(try_again(failed, || tenant.sleep(channel.id, 0)), 1);
    try_again(failed, || {
        tenant.call_with_id(LITHOS_CHANNEL_CLOSE, channel.id)
    });
    drop(tenant);
    let info = scheduler.info().expect("info");
    assert_eq!((info.tenants, info.channels, info.pinned_bytes), (0, 0, 0));
    failures
}

fn open() -> nix::Result<Device> {
    let may = nix::fcntl::OFlag::O_RDWR;
    let file = nix::fcntl::open("/dev/lithos", may, nix::sys::stat::Mode::empty());
    file.map(Device::from)
}

#[test]
fn whatever_allocation_fails_it_is_said_and_nothing_is_lost() {
    let mut nth = 1;
    loop {
        let parameters = format!("silence_ms=60000 fail_nth={nth}");
        match Module::insert(DEBUG, &parameters) {
            Ok(mut module) => {
                let failures = use_it();
                wait_until("the module can be removed", || module.remove().is_ok());
                if failures == 0 {
                    break;
                }
                assert_eq!(failures, 1, "allocation {nth}");
            }
            // It was one that the module itself needs.
            Err(error) => assert_eq!(error, Errno::ENOMEM, "allocation {nth}"),
        }
        nth += 1;
        assert!(nth < ALLOCATIONS_MAX);
    }
    // At least two files, a scheduler, a tenant, its watch, a channel with three pieces, and mappings.
    assert!(nth > 20, "{nth} allocations are too few to be all");
}
