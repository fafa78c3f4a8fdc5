// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What /dev/lithos refuses: each command, with everything right but one thing.

use std::fmt::Debug;

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, answer, attach, channel_open, claim, map_offset, question};
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Pages, Process, Scheduler};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

/// An id that nothing has.
const NOBODYS: u64 = 77 << LITHOS_ID_PLACE_BITS;
/// What is mapped in no process.
const NOWHERE: usize = 0xffff_0000_0000_0000;

/// A scheduler, a tenant and its channel, which all is well with.
struct Bed {
    scheduler: Scheduler,
    tenant: Device,
    tenant_id: u64,
    channel: u64,
    _module: Module,
}

impl Bed {
    fn new() -> Self {
        let module = Module::lithos("");
        let scheduler = Scheduler::of(GPU);
        let tenant = Device::open();
        let tenant_id = tenant.attach().expect("a tenant");
        let channel = tenant.open_channel(GPU).expect("a channel").id;
        Self {
            scheduler,
            tenant,
            tenant_id,
            channel,
            _module: module,
        }
    }
}

/// What is wrong, what it is refused with, and how it comes to be wrong.
type Wrong<'a, T> = (&'a str, Errno, fn(&mut T));

/// Makes a call with a structure in which one thing is wrong, once for each thing, and then as it should be.
fn check<T: Copy + Debug>(
    device: &Device,
    command: lithos_command,
    right: T,
    wrongs: &[Wrong<'_, T>],
) {
    for (what, errno, change) in wrongs {
        let mut wrong = right;
        change(&mut wrong);
        assert_eq!(device.call(command, &mut wrong), Err(*errno), "{what}");
    }
    // SAFETY: nothing is mapped there.
    let refused = unsafe { device.call_at(command, NOWHERE) };
    assert_eq!(refused, Err(Errno::EFAULT), "a pointer to nothing");
    let mut argument = right;
    assert_eq!(device.call(command, &mut argument), Ok(()), "{right:?}");
}

fn id(id: u64) -> lithos_id {
    lithos_id { id }
}

#[test]
fn a_claim_is_refused_with_anything_wrong_in_it() {
    let _module = Module::lithos("");
    let device = Device::open();
    check(
        &device,
        LITHOS_SCHEDULER_CLAIM,
        claim(GPU),
        &[
            ("another version", Errno::EPROTONOSUPPORT, |c| c.version = 2),
            ("an epoch", Errno::EINVAL, |c| c.epoch = 1),
            ("no records", Errno::EINVAL, |c| c.records = 0),
            ("a ring too small", Errno::EINVAL, |c| c.ring_bytes = 4096),
            ("half a page", Errno::EINVAL, |c| c.arena_bytes += 2048),
            ("a huge arena", Errno::EINVAL, |c| c.arena_bytes = 1 << 40),
            ("a region outside", Errno::EINVAL, |c| {
                c.regions[7].offset = 65537
            }),
            ("gates across pages", Errno::EINVAL, |c| {
                c.regions[1].offset += 256
            }),
        ],
    );
}

#[test]
fn a_claim_is_for_administrators() {
    let _module = Module::lithos("");
    let device = Device::open();
    Process::run(NOBODY, || {
        assert_eq!(device.claim(GPU).err(), Some(Errno::EPERM));
    });
    assert_eq!(device.info().expect("info").schedulers, 0);
}

#[test]
fn an_attach_is_refused_with_anything_wrong_in_it() {
    let bed = Bed::new();
    check(
        &Device::open(),
        LITHOS_TENANT_ATTACH,
        attach(),
        &[
            ("another version", Errno::EPROTONOSUPPORT, |a| {
                a.request.version = 0
            }),
            ("a set reserved field", Errno::EINVAL, |a| {
                a.request.reserved = 1
            }),
            ("an id", Errno::EINVAL, |a| a.tenant = 1),
            ("a name without an end", Errno::EINVAL, |a| {
                a.request.partition = [1; 64]
            }),
        ],
    );
    assert_eq!(bed.tenant.attach(), Err(Errno::EALREADY));
    assert_eq!(bed.scheduler.attach(), Err(Errno::EPERM));
    assert_eq!(bed.tenant.claim([9; 16]).err(), Some(Errno::EALREADY));
}

#[test]
fn nobody_is_a_tenant_where_nobody_schedules() {
    let _module = Module::lithos("");
    assert_eq!(Device::open().attach(), Err(Errno::ENXIO));
}

#[test]
fn a_channel_is_refused_with_anything_wrong_in_its_request() {
    let bed = Bed::new();
    check(
        &bed.tenant,
        LITHOS_CHANNEL_OPEN,
        channel_open(GPU),
        &[
            ("a GPU of nobody's", Errno::ENODEV, |o| {
                o.request.gpu[3] ^= 1
            }),
            ("a set reserved field", Errno::EINVAL, |o| {
                o.request.reserved[1] = 1
            }),
            ("an id", Errno::EINVAL, |o| o.channel = 1),
            ("a ring", Errno::EINVAL, |o| o.ring_bytes = 1),
            ("an arena", Errno::EINVAL, |o| o.arena_bytes = 1),
        ],
    );
}

#[test]
fn an_answer_is_refused_with_anything_wrong_in_it_and_given_once() {
    let bed = Bed::new();
    for (command, whose) in [
        (LITHOS_TENANT_ANSWER, bed.tenant_id),
        (LITHOS_CHANNEL_ANSWER, bed.channel),
    ] {
        check(
            &bed.scheduler,
            command,
            answer(whose),
            &[
                ("nobody's id", Errno::ENOENT, |a| a.id = NOBODYS),
                ("no id", Errno::ENOENT, |a| a.id = 0),
                ("another generation", Errno::ENOENT, |a| {
                    a.id += 1 << LITHOS_ID_PLACE_BITS
                }),
                ("a timeout", Errno::EINVAL, |a| a.timeout_ns = 1),
                ("an unknown flag", Errno::EINVAL, |a| a.flags = 4),
                ("a set reserved field", Errno::EINVAL, |a| a.reserved = 1),
                ("one in the reply", Errno::EINVAL, |a| a.reply.reserved = 1),
                ("a text without an end", Errno::EINVAL, |a| {
                    a.reply.text = [1; 256]
                }),
            ],
        );
        assert_eq!(
            bed.scheduler.call(command, &mut answer(whose)),
            Err(Errno::EALREADY)
        );
    }
}

#[test]
fn a_question_is_refused_with_anything_wrong_in_it() {
    let bed = Bed::new();
    bed.scheduler
        .answer_tenant(bed.tenant_id)
        .expect("an answer");
    bed.scheduler
        .answer_channel(bed.channel)
        .expect("an answer");
    for (command, whose) in [
        (LITHOS_TENANT_WAIT, bed.tenant_id),
        (LITHOS_CHANNEL_WAIT, bed.channel),
    ] {
        check(
            &bed.tenant,
            command,
            question(whose),
            &[
                ("nobody's id", Errno::ENOENT, |a| a.id = NOBODYS),
                ("a flag", Errno::EINVAL, |a| a.flags = 1),
                ("a set reserved field", Errno::EINVAL, |a| a.reserved = 1),
                ("an answer", Errno::EINVAL, |a| a.reply.error = 1),
                ("a text", Errno::EINVAL, |a| a.reply.text[255] = 1),
            ],
        );
    }
}

#[test]
fn a_timeout_is_refused_if_it_is_too_long_and_kept_if_it_is_short() {
    let bed = Bed::new();
    for (command, whose) in [
        (LITHOS_TENANT_WAIT, bed.tenant_id),
        (LITHOS_CHANNEL_WAIT, bed.channel),
    ] {
        for (timeout_ns, errno) in [
            (0, Errno::ETIMEDOUT),
            (1, Errno::ETIMEDOUT),
            (10_000_000, Errno::ETIMEDOUT),
            (LITHOS_TIMEOUT_NS_MAX + 1, Errno::EINVAL),
            (u64::MAX, Errno::EINVAL),
        ] {
            let mut wait = question(whose);
            wait.timeout_ns = timeout_ns;
            assert_eq!(
                bed.tenant.call(command, &mut wait),
                Err(errno),
                "{timeout_ns}"
            );
        }
    }
}

#[test]
fn a_sleep_is_refused_with_anything_wrong_in_it() {
    let bed = Bed::new();
    // Awake from the beginning.
    let sleep = lithos_sleep {
        channel: bed.channel,
        timeout_ns: 0,
        seen: 1,
        reserved: 0,
    };
    check(
        &bed.tenant,
        LITHOS_CHANNEL_SLEEP,
        sleep,
        &[
            ("nobody's channel", Errno::ENOENT, |s| s.channel = NOBODYS),
            ("a set reserved field", Errno::EINVAL, |s| s.reserved = 1),
            ("a timeout that is too long", Errno::EINVAL, |s| {
                s.timeout_ns = u64::MAX
            }),
            ("nothing to wake it", Errno::ETIMEDOUT, |s| s.seen = 0),
        ],
    );
}

#[test]
fn a_command_about_an_id_is_refused_for_one_that_nothing_has() {
    let bed = Bed::new();
    let nobodys: &[Wrong<'_, lithos_id>] = &[
        ("nobody's", Errno::ENOENT, |i| i.id = NOBODYS),
        ("none", Errno::ENOENT, |i| i.id = 0),
        ("all bits", Errno::ENOENT, |i| i.id = u64::MAX),
    ];
    check(&bed.tenant, LITHOS_CHANNEL_RING, id(bed.channel), nobodys);
    check(
        &bed.scheduler,
        LITHOS_CHANNEL_WAKE,
        id(bed.channel),
        nobodys,
    );
    check(&bed.tenant, LITHOS_CHANNEL_CLOSE, id(bed.channel), nobodys);
    let again = bed.tenant.call_with_id(LITHOS_CHANNEL_CLOSE, bed.channel);
    assert_eq!(again, Err(Errno::ENOENT));
    for (what, errno, change) in nobodys {
        let mut wrong = id(0);
        change(&mut wrong);
        let refused = bed.scheduler.call(LITHOS_TENANT_EVICT, &mut wrong);
        assert_eq!(refused, Err(*errno), "{what}");
    }
}

#[test]
fn what_comes_next_after_the_last_is_nothing() {
    let bed = Bed::new();
    check(
        &bed.scheduler,
        LITHOS_TENANT_NEXT,
        lithos_tenant_info::default(),
        &[("after the last", Errno::ENOENT, |i| i.tenant = u64::MAX)],
    );
    check(
        &bed.scheduler,
        LITHOS_CHANNEL_NEXT,
        lithos_channel_info::default(),
        &[("after the last", Errno::ENOENT, |i| i.channel = u64::MAX)],
    );
    let mut next = lithos_tenant_info {
        tenant: bed.tenant_id,
        ..lithos_tenant_info::default()
    };
    let after = bed.scheduler.call(LITHOS_TENANT_NEXT, &mut next);
    assert_eq!(after, Err(Errno::ENOENT));
}

#[test]
fn a_file_that_is_nothing_can_call_nothing() {
    let _bed = Bed::new();
    let device = Device::open();
    assert_eq!(device.wait_tenant(1).err(), Some(Errno::EPERM));
    assert_eq!(device.open_channel(GPU).err(), Some(Errno::EPERM));
    assert_eq!(device.wait_channel(1).err(), Some(Errno::EPERM));
    assert_eq!(device.sleep(1, 0), Err(Errno::EPERM));
    for command in [
        LITHOS_CHANNEL_RING,
        LITHOS_CHANNEL_CLOSE,
        LITHOS_CHANNEL_WAKE,
        LITHOS_TENANT_EVICT,
    ] {
        assert_eq!(device.call_with_id(command, 1), Err(Errno::EPERM));
    }
    assert_eq!(device.beat(), Err(Errno::EPERM));
    assert_eq!(device.answer_tenant(1), Err(Errno::EPERM));
    assert_eq!(device.answer_channel(1), Err(Errno::EPERM));
    let next = device.call(LITHOS_TENANT_NEXT, &mut lithos_tenant_info::default());
    assert_eq!(next, Err(Errno::EPERM));
    let next = device.call(LITHOS_CHANNEL_NEXT, &mut lithos_channel_info::default());
    assert_eq!(next, Err(Errno::EPERM));
    assert_eq!(device.event().err(), Some(Errno::EPERM));
    assert_eq!(
        device
            .map(1, LITHOS_MAP_GRANT, 4096, ProtFlags::PROT_READ)
            .err(),
        Some(Errno::EPERM)
    );
}

#[test]
fn a_tenant_and_a_scheduler_cannot_make_each_others_calls() {
    let bed = Bed::new();
    assert_eq!(bed.tenant.beat(), Err(Errno::EPERM));
    assert_eq!(bed.tenant.answer_tenant(bed.tenant_id), Err(Errno::EPERM));
    assert_eq!(bed.tenant.answer_channel(bed.channel), Err(Errno::EPERM));
    assert_eq!(
        bed.tenant.call_with_id(LITHOS_TENANT_EVICT, bed.tenant_id),
        Err(Errno::EPERM)
    );
    assert_eq!(bed.tenant.event().err(), Some(Errno::EPERM));
    assert_eq!(
        bed.scheduler.wait_tenant(bed.tenant_id).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(bed.scheduler.open_channel(GPU).err(), Some(Errno::EPERM));
    assert_eq!(bed.scheduler.sleep(bed.channel, 0), Err(Errno::EPERM));
    assert_eq!(
        bed.scheduler
            .call_with_id(LITHOS_CHANNEL_CLOSE, bed.channel),
        Err(Errno::EPERM)
    );
}

#[test]
fn a_mapping_is_refused_with_anything_wrong_in_it() {
    let bed = Bed::new();
    let (read, write) = (ProtFlags::PROT_READ, ProtFlags::PROT_WRITE);
    let exec = ProtFlags::PROT_EXEC;
    let arena = claim(GPU).arena_bytes;
    let at = |kind| map_offset(bed.channel, kind);
    let (grant, ring, whole) = (
        at(LITHOS_MAP_GRANT),
        at(LITHOS_MAP_RING),
        at(LITHOS_MAP_ARENA),
    );
    let other = map_offset(bed.channel + (1 << LITHOS_ID_PLACE_BITS), LITHOS_MAP_ARENA);
    let map = |who: &Device, offset, bytes, may| Pages::map(who, offset, bytes, may).err();
    for (what, offset, bytes, may, errno) in [
        (
            "to write a grant page",
            grant,
            4096,
            read | write,
            Errno::EACCES,
        ),
        ("to execute", whole, arena, read | exec, Errno::EACCES),
        ("a part", whole, arena - 4096, read, Errno::EINVAL),
        (
            "more than there is",
            whole,
            arena + 4096,
            read,
            Errno::EINVAL,
        ),
        (
            "from the second page",
            whole + 4096,
            arena,
            read,
            Errno::EINVAL,
        ),
        (
            "a piece that there is not",
            at(3),
            4096,
            read,
            Errno::EINVAL,
        ),
        ("another generation", other, arena, read, Errno::ENOENT),
        (
            "nobody's",
            map_offset(NOBODYS, 2),
            arena,
            read,
            Errno::ENOENT,
        ),
    ] {
        assert_eq!(map(&bed.tenant, offset, bytes, may), Some(errno), "{what}");
    }
    let may = map(&bed.scheduler, ring, claim(GPU).ring_bytes, read | write);
    assert_eq!(may, Some(Errno::EACCES), "a scheduler only reads the ring");
    // Another tenant's.
    let stranger = Device::open();
    stranger.attach().expect("a tenant");
    assert_eq!(map(&stranger, whole, arena, read), Some(Errno::ENOENT));
    // A scheduler of another GPU.
    let other = Scheduler::of([3; 16]);
    assert_eq!(map(&other, whole, arena, read), Some(Errno::ENOENT));
    assert_eq!(map(&bed.tenant, whole, arena, read | write), None);
}

#[test]
fn events_are_read_whole() {
    let bed = Bed::new();
    let mut short = [0; size_of::<lithos_event>() - 1];
    let read = nix::unistd::read(&*bed.scheduler, &mut short);
    assert_eq!(read, Err(Errno::EINVAL));
    let event = bed.scheduler.event().expect("an event");
    assert_eq!(
        (event.type_, event.tenant),
        (LITHOS_EVENT_TENANT, bed.tenant_id)
    );
}
