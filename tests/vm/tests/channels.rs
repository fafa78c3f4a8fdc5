// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Channels: pages that two processes share, and waiting.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, claim};
use lithos_vm::{Device, Module, Process, Scheduler};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

const READ: ProtFlags = ProtFlags::PROT_READ;

fn write() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn scheduled(parameters: &str) -> (Module, Scheduler) {
    (Module::lithos(parameters), Scheduler::of(GPU))
}

fn tenant() -> Device {
    let device = Device::open();
    device.attach().expect("a tenant");
    device
}

#[test]
fn a_tenant_and_its_scheduler_share_the_pages_of_a_channel() {
    let (_module, scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel");
    assert_eq!(
        (channel.ring_bytes, channel.arena_bytes),
        (claim(GPU).ring_bytes, claim(GPU).arena_bytes)
    );
    let pieces = [
        (LITHOS_MAP_GRANT, 4096, READ, write()),
        (LITHOS_MAP_RING, channel.ring_bytes, write(), READ),
        (LITHOS_MAP_ARENA, channel.arena_bytes, write(), write()),
    ];
    for (kind, bytes, tenants, schedulers) in pieces {
        let here = tenant.map(channel.id, kind, bytes, tenants).expect("pages");
        let there = scheduler
            .map(channel.id, kind, bytes, schedulers)
            .expect("pages");
        let words = usize::try_from(bytes).expect("a size") / 8;
        // The broker's word is there from the beginning.
        let first = usize::from(kind == LITHOS_MAP_GRANT) * 64;
        for word in (0..words).filter(|word| *word * 8 != first || first == 0) {
            assert_eq!(
                here.words().word(word * 8).load(Relaxed),
                0,
                "word {word} of {kind}"
            );
        }
        let at = usize::try_from(bytes).expect("a size") - 8;
        if tenants == READ {
            there.words().word(at).store(71, Release);
            assert_eq!(here.words().word(at).load(Acquire), 71);
        } else {
            here.words().word(at).store(72, Release);
            assert_eq!(there.words().word(at).load(Acquire), 72);
        }
    }
}

#[test]
fn a_channel_opens_with_an_event_and_is_used_when_it_is_answered() {
    let (_module, scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel");
    let event = scheduler.event_of(LITHOS_EVENT_CHANNEL);
    assert_eq!((event.channel, event.value), (channel.id, 1));
    let mut next = lithos_channel_info::default();
    scheduler
        .call(LITHOS_CHANNEL_NEXT, &mut next)
        .expect("a channel");
    assert_eq!(
        (next.channel, next.gpu, next.context, next.flags),
        (channel.id, GPU, 1, 0)
    );
    assert_eq!(
        (next.records, next.regions),
        (claim(GPU).records, claim(GPU).regions)
    );
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| tenant.wait_channel(channel.id));
        let mut answer = lithos_vm::device::answer(channel.id);
        answer.reply.error = 5;
        answer.reply.text[..2].copy_from_slice(&[104, 105]);
        scheduler
            .call(LITHOS_CHANNEL_ANSWER, &mut answer)
            .expect("an answer");
        let heard = waiter.join().expect("the waiter").expect("an answer");
        assert_eq!(
            (heard.reply.error, heard.reply.text),
            (5, answer.reply.text)
        );
    });
    next.channel = 0;
    scheduler
        .call(LITHOS_CHANNEL_NEXT, &mut next)
        .expect("a channel");
    assert_eq!(next.flags, LITHOS_CHANNEL_ANSWERED);
}

#[test]
fn who_sleeps_on_a_channel_is_woken() {
    let (_module, scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel").id;
    for seen in 0..10 {
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| tenant.sleep(channel, seen));
            scheduler
                .call_with_id(LITHOS_CHANNEL_WAKE, channel)
                .expect("a wake");
            assert_eq!(sleeper.join().expect("the sleeper"), Ok(seen + 1));
        });
    }
}

#[test]
fn who_waits_on_a_channel_that_ends_is_told() {
    let (_module, _scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel").id;
    std::thread::scope(|scope| {
        let waits = [
            scope.spawn(|| tenant.wait_channel(channel).map(drop)),
            scope.spawn(|| tenant.sleep(channel, 0).map(drop)),
        ];
        tenant
            .call_with_id(LITHOS_CHANNEL_CLOSE, channel)
            .expect("closed");
        for wait in waits {
            assert_eq!(wait.join().expect("a wait"), Err(Errno::ENOENT));
        }
    });
}

#[test]
fn a_doorbell_is_one_event_until_it_is_heard() {
    let (_module, scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel").id;
    scheduler.event_of(LITHOS_EVENT_CHANNEL);
    for _ in 0..3 {
        for _ in 0..100 {
            tenant
                .call_with_id(LITHOS_CHANNEL_RING, channel)
                .expect("rung");
        }
        assert_eq!(scheduler.event_of(LITHOS_EVENT_DOORBELL).channel, channel);
        assert!(!scheduler.polled().contains(nix::poll::PollFlags::POLLIN));
    }
}

#[test]
fn pages_live_as_long_as_anybody_maps_them() {
    let (_module, scheduler) = scheduled("");
    let mut owner = Process::start(0, |line| {
        let tenant = tenant();
        let channel = tenant.open_channel(GPU).expect("a channel");
        let arena = tenant.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, write());
        arena
            .as_ref()
            .expect("an arena")
            .words()
            .word(8)
            .store(81, Release);
        line.say(channel.id);
        line.hear();
    });
    let id = owner.line().hear();
    let arena = scheduler.map(id, LITHOS_MAP_ARENA, claim(GPU).arena_bytes, write());
    let arena = arena.expect("an arena");
    owner.kill();
    assert_eq!(scheduler.event_of(LITHOS_EVENT_CHANNEL_END).channel, id);
    assert_eq!(arena.words().word(8).load(Acquire), 81);
    let pinned = scheduler.info().expect("info").pinned_bytes;
    assert_eq!(pinned, claim(GPU).ring_bytes + claim(GPU).arena_bytes);
    drop(arena);
    assert_eq!(scheduler.info().expect("info").pinned_bytes, 0);
}

#[test]
fn there_are_no_more_channels_and_pages_than_the_limits_say() {
    let (_module, scheduler) = scheduled("user_channels_max=3 pinned_mib_max=1");
    let tenant = tenant();
    let small: Vec<u64> = (0..3)
        .map(|_| tenant.open_channel(GPU).expect("a channel").id)
        .collect();
    assert_eq!(tenant.open_channel(GPU).err(), Some(Errno::EUSERS));
    for channel in small {
        tenant
            .call_with_id(LITHOS_CHANNEL_CLOSE, channel)
            .expect("closed");
    }
    let mut large = claim(GPU);
    large.arena_bytes = 512 << 10;
    scheduler
        .call(LITHOS_SCHEDULER_CLAIM, &mut large)
        .expect("other sizes");
    tenant.open_channel(GPU).expect("a channel of half a MiB");
    assert_eq!(tenant.open_channel(GPU).err(), Some(Errno::EDQUOT));
    assert_eq!(scheduler.info().expect("info").channels, 1);
}

#[test]
fn an_arena_can_be_mapped_where_its_tenant_wants_it() {
    let (_module, _scheduler) = scheduled("");
    let tenant = tenant();
    let channel = tenant.open_channel(GPU).expect("a channel");
    let wanted = std::num::NonZeroUsize::new((1 << 40) - (1 << 30)).expect("an address");
    let bytes = usize::try_from(channel.arena_bytes).expect("a size");
    let offset = lithos_vm::device::map_offset(channel.id, LITHOS_MAP_ARENA).cast_signed();
    use nix::sys::mman::{MapFlags, mmap, munmap};
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
    let size = std::num::NonZeroUsize::new(bytes).expect("a size");
    // SAFETY: nothing is replaced.
    let at = unsafe { mmap(Some(wanted), size, write(), flags, &tenant, offset) };
    let at = at.expect("an arena below 1 TiB");
    assert_eq!(at.as_ptr() as usize, wanted.get());
    // SAFETY: mapped above; half of it cannot go.
    assert_eq!(unsafe { munmap(at, bytes / 2) }, Err(Errno::EINVAL));
    // SAFETY: as above.
    unsafe { munmap(at, bytes) }.expect("all of it can");
}
