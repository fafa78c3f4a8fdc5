// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What happens at the same time: whoever wins, nobody is left behind, and the module can be removed.
//!
//! Bounded in rounds. Where chance decides when something is killed, the seed is printed;
//! `LITHOS_VM_SEED` gives it to `scripts/vm`.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, claim};
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Process, Scheduler, wait_until};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

const ROUNDS: u64 = 20;

fn write() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

/// Nobody is there any more, and nothing of anybody's.
fn assert_nobody(module: &mut Module) {
    wait_until("nobody is there", || {
        let info = Device::open().info().expect("info");
        [info.tenants, info.channels, info.schedulers] == [0; 3] && info.pinned_bytes == 0
    });
    wait_until("the module can be removed", || module.remove().is_ok());
}

/// A tenant that opens, maps, uses and closes channels until it is ended. Nothing that it is refused
/// surprises it: schedulers come and go.
fn use_channels(device: &Device) {
    let Ok(channel) = device.open_channel(GPU) else {
        return;
    };
    let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
    let _ = device.call_with_id(LITHOS_CHANNEL_RING, channel.id);
    if let Ok(arena) = arena {
        arena.words().word(64).store(1, Relaxed);
    }
    let _ = device.call_with_id(LITHOS_CHANNEL_CLOSE, channel.id);
}

/// As [`use_channels`], for ever.
fn tenant_for_ever() {
    loop {
        let device = Device::open();
        if device.attach().is_ok() {
            for _ in 0..10 {
                use_channels(&device);
            }
        }
    }
}

/// A scheduler that claims when it can, answers, and writes into what it maps, for ever.
fn scheduler_for_ever() {
    loop {
        let device = Device::open();
        if device.claim(GPU).is_err() {
            continue;
        }
        while let Ok(()) = device.beat() {
            let mut next = lithos_channel_info::default();
            while device.call(LITHOS_CHANNEL_NEXT, &mut next).is_ok() {
                let _ = device.answer_channel(next.channel);
                let grant = device.map(next.channel, LITHOS_MAP_GRANT, 4096, write());
                drop(grant);
            }
        }
    }
}

#[test]
fn whoever_is_killed_at_whatever_moment_leaves_nothing_behind() {
    let said = std::env::var("LITHOS_VM_SEED").ok();
    let mut chance: u64 = said.and_then(|said| said.parse().ok()).unwrap_or(4);
    println!("LITHOS_VM_SEED={chance}");
    let mut module = Module::insert(lithos_vm::module::LITHOS, "silence_ms=60 death_wait_ms=1")
        .expect("lithos.ko can be inserted");
    let used = Device::open();
    for _ in 0..ROUNDS {
        let processes = [
            Process::start(0, |_| scheduler_for_ever()),
            Process::start(0, |_| scheduler_for_ever()),
            Process::start(NOBODY, |_| tenant_for_ever()),
            Process::start(NOBODY, |_| tenant_for_ever()),
        ];
        let mut processes = Vec::from(processes);
        while !processes.is_empty() {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            std::thread::sleep(std::time::Duration::from_micros(chance >> 49));
            // Never worse than that it is in use.
            assert_eq!(module.remove(), Err(Errno::EAGAIN));
            let one = usize::try_from(chance >> 33).expect("31 bits") % processes.len();
            processes.swap_remove(one).signal(Signal::SIGKILL);
        }
    }
    drop(used);
    assert_nobody(&mut module);
}

#[test]
fn a_file_may_be_closed_while_it_is_mapped_and_called() {
    let mut module = Module::lithos("death_wait_ms=1");
    let scheduler = Scheduler::of(GPU);
    for _ in 0..ROUNDS {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel");
        let fd = device.as_fd().as_raw_fd();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (kind, bytes) = (LITHOS_MAP_ARENA, 65536);
                    while !over.load(Relaxed) {
                        let offset = lithos_vm::device::map_offset(channel.id, kind).cast_signed();
                        // SAFETY: at a place that the kernel chooses; gone again before anything uses it.
                        unsafe {
                            let at = libc::mmap(
                                std::ptr::null_mut(),
                                bytes,
                                3,
                                libc::MAP_SHARED,
                                fd,
                                offset,
                            );
                            if at != libc::MAP_FAILED {
                                libc::munmap(at, bytes);
                            }
                            let mut info = lithos_info::default();
                            libc::ioctl(fd, u64::from(LITHOS_INFO), &raw mut info);
                        }
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_micros(500));
            drop(device);
            over.store(true, Relaxed);
        });
    }
    drop(scheduler);
    assert_nobody(&mut module);
}

#[test]
fn a_process_may_end_while_its_threads_wait_in_calls() {
    let mut module = Module::lithos("death_wait_ms=1");
    let scheduler = Scheduler::of(GPU);
    for _ in 0..ROUNDS {
        Process::run(NOBODY, || {
            let device = std::sync::Arc::new(Device::open());
            let id = device.attach().expect("a tenant");
            let channel = device.open_channel(GPU).expect("a channel").id;
            let waits: [fn(&Device, u64, u64); 3] = [
                |device, id, _| _ = device.wait_tenant(id),
                |device, _, channel| _ = device.wait_channel(channel),
                |device, _, channel| _ = device.sleep(channel, 0),
            ];
            for wait in waits {
                let device = std::sync::Arc::clone(&device);
                std::thread::spawn(move || wait(&device, id, channel));
            }
            std::thread::sleep(std::time::Duration::from_micros(300));
        });
    }
    drop(scheduler);
    assert_nobody(&mut module);
}

#[test]
fn a_tenant_may_unmap_and_close_what_its_scheduler_writes() {
    let mut module = Module::lithos("death_wait_ms=1");
    let scheduler = Scheduler::of(GPU);
    for _ in 0..ROUNDS {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel").id;
        let bytes = claim(GPU).arena_bytes;
        let own = device
            .map(channel, LITHOS_MAP_ARENA, bytes, write())
            .expect("an arena");
        let other = scheduler
            .map(channel, LITHOS_MAP_ARENA, bytes, write())
            .expect("an arena");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                while !over.load(Relaxed) {
                    other.words().word(at).store(1, Relaxed);
                    at = (at + 4096) % other.bytes();
                }
            });
            std::thread::sleep(std::time::Duration::from_micros(300));
            drop(own);
            device
                .call_with_id(LITHOS_CHANNEL_CLOSE, channel)
                .expect("closed");
            drop(device);
            over.store(true, Relaxed);
        });
    }
    drop(scheduler);
    assert_nobody(&mut module);
}

#[test]
fn a_tenant_may_fork_while_it_is_one() {
    let mut module = Module::lithos("death_wait_ms=1");
    let scheduler = Scheduler::of(GPU);
    let device = Device::open();
    device.attach().expect("a tenant");
    for _ in 0..ROUNDS {
        let channel = device.open_channel(GPU).expect("a channel");
        let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
        let children: Vec<_> = (0..5)
            .map(|_| {
                Process::start(NOBODY, |_| {
                    assert_eq!(device.open_channel(GPU).err(), Some(Errno::EPERM));
                    let own = Device::open();
                    own.attach().expect("a tenant of its own");
                    own.open_channel(GPU).expect("a channel");
                })
            })
            .collect();
        drop(arena);
        device
            .call_with_id(LITHOS_CHANNEL_CLOSE, channel.id)
            .expect("closed");
        children.into_iter().for_each(Process::end);
    }
    drop((device, scheduler));
    assert_nobody(&mut module);
}

#[test]
fn a_descriptor_that_is_passed_over_a_socket_while_in_use_is_no_tenant_elsewhere() {
    let mut module = Module::lithos("death_wait_ms=1");
    let scheduler = Scheduler::of(GPU);
    for _ in 0..ROUNDS {
        let device = Device::open();
        device.attach().expect("a tenant");
        let (kind, flags) = (SockType::SeqPacket, SockFlag::empty());
        let (here, there) = socketpair(AddressFamily::Unix, kind, None, flags).expect("sockets");
        let receiver = Process::start(NOBODY, |_| {
            let mut space = nix::cmsg_space!([i32; 1]);
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let flags = MsgFlags::empty();
            let message = recvmsg::<()>(there.as_raw_fd(), &mut bytes, Some(&mut space), flags);
            let message = message.expect("a message");
            for control in message.cmsgs().expect("descriptors") {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    // SAFETY: just received, and nobody else's.
                    let passed = Device::from(unsafe { OwnedFd::from_raw_fd(fds[0]) });
                    for _ in 0..20 {
                        assert_eq!(passed.open_channel(GPU).err(), Some(Errno::EPERM));
                    }
                }
            }
        });
        let fds = [device.as_fd().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let bytes = [IoSlice::new(&[1])];
        let sent = sendmsg::<()>(here.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None);
        sent.expect("sent");
        for _ in 0..5 {
            use_channels(&device);
        }
        drop(device);
        receiver.end();
    }
    drop(scheduler);
    assert_nobody(&mut module);
}
