// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who is a tenant, by the kernel's word, and until when.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use lithos_abi::bindings::*;
use lithos_vm::device::GPU;
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Process, Scheduler, wait_until};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::getpid;

fn scheduled(parameters: &str) -> (Module, Scheduler) {
    (Module::lithos(parameters), Scheduler::of(GPU))
}

fn tenants(scheduler: &Device) -> Vec<lithos_tenant_info> {
    let mut all = Vec::new();
    let mut next = lithos_tenant_info::default();
    while scheduler.call(LITHOS_TENANT_NEXT, &mut next).is_ok() {
        all.push(next);
    }
    all
}

#[test]
fn a_tenant_is_who_the_kernel_says() {
    let (_module, scheduler) = scheduled("");
    let mut tenant = Process::start(NOBODY, |line| {
        let device = Device::open();
        line.say(device.attach().expect("a tenant"));
        line.hear();
    });
    let id = tenant.line().hear();
    let found = tenants(&scheduler);
    assert_eq!(found.len(), 1);
    let stat = fs::read_to_string(format!("/proc/{}/stat", tenant.pid())).expect("stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks: u64 = fields[20].parse().expect("a start time");
    assert_eq!(
        (
            found[0].tenant,
            found[0].pid,
            found[0].uid,
            found[0].start_ns / 10_000_000
        ),
        (id, tenant.pid().as_raw(), NOBODY, ticks)
    );
    // A process in the root of the hierarchy.
    let root = fs::metadata("/sys/fs/cgroup").expect("cgroups").ino();
    assert_eq!(found[0].cgroup, root);
    let event = scheduler.event_of(LITHOS_EVENT_TENANT);
    assert_eq!(
        (event.tenant, event.pid, event.uid),
        (id, tenant.pid().as_raw(), NOBODY)
    );
    tenant.line().say(0);
    tenant.end();
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
}

#[test]
fn a_tenant_ends_with_its_address_space_though_a_child_holds_its_file() {
    let (_module, scheduler) = scheduled("");
    let mut owner = Process::start(0, |line| {
        let device = Device::open();
        let id = device.attach().expect("a tenant");
        device.open_channel(GPU).expect("a channel");
        let mut child = Process::start(0, |line| {
            // It has the descriptor, and is no tenant.
            assert_eq!(device.open_channel(GPU).err(), Some(Errno::EPERM));
            assert_eq!(device.wait_tenant(1).err(), Some(Errno::EPERM));
            line.say(1);
            line.hear();
        });
        child.line().hear();
        line.say(id);
        line.say(u64::try_from(child.pid().as_raw()).expect("a pid"));
        // The child outlives this process.
        std::mem::forget(child);
        line.hear();
    });
    let id = owner.line().hear();
    let child = owner.line().hear();
    owner.kill();
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
    wait_until("the channel is gone", || {
        scheduler.info().expect("info").channels == 0
    });
    assert_eq!(tenants(&scheduler), []);
    let child = nix::unistd::Pid::from_raw(i32::try_from(child).expect("a pid"));
    assert!(
        fs::exists(format!("/proc/{child}/fd")).expect("proc"),
        "the child lives"
    );
    nix::sys::signal::kill(child, Signal::SIGKILL).expect("the child can be killed");
    wait_until("the child is gone", || {
        nix::sys::signal::kill(child, None).is_err()
            || fs::read_to_string(format!("/proc/{child}/stat"))
                .is_ok_and(|stat| stat.contains(") Z "))
    });
}

#[test]
fn a_descriptor_that_was_passed_on_is_no_tenant() {
    let (_module, scheduler) = scheduled("");
    let device = Device::open();
    let id = device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let raw = device.as_fd_raw();
    Process::run(0, || {
        // By fork, as good as over a socket: another process with the same open file.
        assert!(raw >= 0);
        assert_eq!(device.open_channel(GPU).err(), Some(Errno::EPERM));
        assert_eq!(device.wait_channel(channel.id).err(), Some(Errno::EPERM));
        let map = device.map(channel.id, LITHOS_MAP_GRANT, 4096, ProtFlags::PROT_READ);
        assert_eq!(map.err(), Some(Errno::EPERM));
        assert_eq!(
            device.call_with_id(LITHOS_CHANNEL_CLOSE, channel.id),
            Err(Errno::EPERM)
        );
    });
    // It has cost the tenant nothing.
    assert_eq!(tenants(&scheduler)[0].tenant, id);
    assert_eq!(tenants(&scheduler)[0].pid, getpid().as_raw());
    device.open_channel(GPU).expect("another channel");
}

#[test]
fn a_mapping_is_not_inherited() {
    let (_module, _scheduler) = scheduled("");
    let device = Device::open();
    device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let may = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let arena = device.map(channel.id, LITHOS_MAP_ARENA, channel.arena_bytes, may);
    let arena = arena.expect("an arena");
    let child = Process::start(0, |_| {
        arena
            .words()
            .word(0)
            .store(1, std::sync::atomic::Ordering::Relaxed);
    });
    let pid = child.pid();
    assert_eq!(
        child.wait(),
        WaitStatus::Signaled(pid, Signal::SIGSEGV, false)
    );
    assert_eq!(
        arena
            .words()
            .word(0)
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
}

#[test]
fn exec_ends_a_tenant() {
    let (_module, scheduler) = scheduled("");
    let mut tenant = Process::start(0, |line| {
        let device = Device::open();
        line.say(device.attach().expect("a tenant"));
        // The descriptor stays open over it.
        let fd = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(&device, fd).expect("fcntl");
        let program = c"/bin/client";
        let error = nix::unistd::execv(program, &[program, c"wait"]);
        panic!("{error:?}");
    });
    let id = tenant.line().hear();
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
    assert_eq!(tenants(&scheduler), []);
    tenant.kill();
}

#[test]
fn a_tenant_ends_when_its_file_is_closed() {
    let (_module, scheduler) = scheduled("");
    let device = Device::open();
    let id = device.attach().expect("a tenant");
    drop(device);
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
    assert_eq!(tenants(&scheduler), []);
}

#[test]
fn an_id_is_never_used_again() {
    let (_module, _scheduler) = scheduled("tenants_max=2");
    let mut seen = Vec::new();
    for _ in 0..20 {
        let device = Device::open();
        let id = device.attach().expect("a tenant");
        assert!(!seen.contains(&id), "{id:#x}");
        seen.push(id);
    }
    let places: Vec<u64> = seen.iter().map(|id| id & 0xffff).collect();
    assert!(places.iter().all(|place| *place < 2));
}

#[test]
fn there_are_no_more_tenants_than_the_limits_say() {
    let (_module, _scheduler) = scheduled("tenants_max=5 user_tenants_max=3");
    let mut own: Vec<Device> = Vec::new();
    for _ in 0..3 {
        let device = Device::open();
        device.attach().expect("a tenant");
        own.push(device);
    }
    assert_eq!(Device::open().attach(), Err(Errno::EUSERS));
    Process::run(NOBODY, || {
        let others: Vec<Device> = (0..2).map(|_| Device::open()).collect();
        for device in &others {
            device.attach().expect("a tenant of another user");
        }
        assert_eq!(Device::open().attach(), Err(Errno::EUSERS));
    });
    drop(own.pop());
    Device::open().attach().expect("what was given back");
}

#[test]
fn an_evicted_tenant_is_killed_and_gone() {
    let (_module, scheduler) = scheduled("");
    let mut tenant = Process::start(NOBODY, |line| {
        let device = Device::open();
        let id = device.attach().expect("a tenant");
        device.open_channel(GPU).expect("a channel");
        line.say(id);
        line.hear();
    });
    let id = tenant.line().hear();
    scheduler
        .call_with_id(LITHOS_TENANT_EVICT, id)
        .expect("an eviction");
    let pid = tenant.pid();
    assert_eq!(
        tenant.wait(),
        WaitStatus::Signaled(pid, Signal::SIGKILL, false)
    );
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
    let info = scheduler.info().expect("info");
    assert_eq!((info.tenants, info.channels, info.pinned_bytes), (0, 0, 0));
    let again = scheduler.call_with_id(LITHOS_TENANT_EVICT, id);
    assert_eq!(again, Err(Errno::ENOENT));
}

extern "C" fn wait_for_ever(_: *mut libc::c_void) -> libc::c_int {
    loop {
        // SAFETY: it only waits.
        unsafe { libc::pause() };
    }
}

#[test]
fn a_process_that_shares_a_tenants_memory_is_evicted_with_it() {
    let (_module, scheduler) = scheduled("");
    let mut tenant = Process::start(NOBODY, |line| {
        let device = Device::open();
        let id = device.attach().expect("a tenant");
        let mut stack = vec![0_u8; 65536];
        // SAFETY: within the vector, or right behind it, from where it grows down.
        let top = unsafe { stack.as_mut_ptr().add(stack.len()) }.cast();
        let flags = libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: what runs there uses a stack of its own and touches nothing else.
        let child = unsafe { libc::clone(wait_for_ever, top, flags, std::ptr::null_mut()) };
        assert!(child > 0);
        line.say(id);
        // Its memory and files, and so the tenant, live on in the other.
        std::mem::forget((device, stack));
    });
    let id = tenant.line().hear();
    tenant.end();
    assert_eq!(tenants(&scheduler)[0].tenant, id);
    scheduler
        .call_with_id(LITHOS_TENANT_EVICT, id)
        .expect("an eviction");
    assert_eq!(scheduler.event_of(LITHOS_EVENT_TENANT_END).tenant, id);
    assert_eq!(tenants(&scheduler), []);
}

#[test]
fn what_a_tenant_has_is_in_its_fdinfo() {
    let (_module, _scheduler) = scheduled("");
    let device = Device::open();
    let id = device.attach().expect("a tenant");
    let channel = device.open_channel(GPU).expect("a channel");
    let path = format!("/proc/self/fdinfo/{}", device.as_fd_raw());
    let text = fs::read_to_string(path).expect("fdinfo");
    for line in [
        "lithos-role: tenant".to_owned(),
        format!("lithos-tenant: {id}"),
        format!("lithos-pid: {}", getpid()),
        "lithos-uid: 0".to_owned(),
        "lithos-channels: 1".to_owned(),
        format!(
            "lithos-pinned: {}",
            channel.ring_bytes + channel.arena_bytes
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

trait Raw {
    fn as_fd_raw(&self) -> i32;
}

impl Raw for Device {
    fn as_fd_raw(&self) -> i32 {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}
