// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The NVIDIA driver comes and goes, has what it is looked at by or has not, and is looked at by others.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lithos_abi::bindings::*;
use lithos_vm::device::GPU;
use lithos_vm::module::LITHOS;
use lithos_vm::nvidia::{CHANNEL, Client, MEMORY, NOT_PERMITTED, Nvidia, Variant};
use lithos_vm::{Device, Module, Process, Program, Scheduler};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

const REFUSED: nix::Result<Result<u32, u32>> = Ok(Err(NOT_PERMITTED));

fn made(outcome: nix::Result<Result<u32, u32>>) -> u32 {
    outcome.expect("a call").expect("an object")
}

fn lithos(mode: u32) -> (Module, Scheduler) {
    let module = Module::lithos(&format!("admission={mode}"));
    (module, Scheduler::of(GPU))
}

/// A stranger is refused, a tenant is not, and is counted.
fn assert_enforced(scheduler: &Scheduler) {
    assert!(scheduler.sees_driver());
    let mut program = Program::start(0);
    assert_eq!(program.make(CHANNEL), REFUSED);
    program.attach();
    made(program.make(CHANNEL));
    assert_eq!(scheduler.gpu_count(program.pid()), [1, 0, 0]);
    program.end();
}

#[test]
fn a_driver_that_is_there_already_is_looked_at() {
    let _driver = Variant::Plain.insert();
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    assert_enforced(&scheduler);
}

#[test]
fn a_driver_that_comes_later_is_looked_at() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    assert!(!scheduler.sees_driver());
    let _driver = Variant::Plain.insert();
    assert_enforced(&scheduler);
}

#[test]
fn a_driver_that_goes_and_comes_again_is_looked_at_again() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    for _ in 0..3 {
        let driver = Variant::Plain.insert();
        assert_enforced(&scheduler);
        drop(driver);
        assert!(!scheduler.sees_driver());
    }
}

#[test]
fn it_is_the_same_whether_ftrace_knows_the_function_or_not() {
    let probes = || fs::read_to_string("/sys/kernel/debug/kprobes/list").expect("the probes");
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    for (variant, by_ftrace) in [(Variant::Plain, false), (Variant::Traced, true)] {
        let _driver = variant.insert();
        let list = probes();
        let own = list.lines().filter(|line| line.contains("rm_ioctl"));
        assert_eq!(own.count(), 2, "{list}");
        assert!(!list.contains("[OPTIMIZED]"), "{list}");
        // The probe of its return; no other is where ftrace is.
        assert_eq!(list.matches("[FTRACE]").count(), by_ftrace.into(), "{list}");
        assert_enforced(&scheduler);
    }
    assert!(!probes().contains("rm_ioctl"));
}

#[test]
fn nothing_is_looked_at_unless_that_is_asked_for() {
    let _driver = Variant::Plain.insert();
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_OFF);
    assert!(!scheduler.sees_driver());
    let mut program = Program::start(0);
    made(program.make(CHANNEL));
    assert!(scheduler.gpu_users().is_empty());
    scheduler
        .set_admission(LITHOS_ADMISSION_ENFORCE, 0)
        .expect("enforced");
    assert_enforced(&scheduler);
    scheduler
        .set_admission(LITHOS_ADMISSION_OFF, 0)
        .expect("off");
    assert!(!scheduler.sees_driver());
    made(program.make(CHANNEL));
}

#[test]
fn without_the_symbol_it_is_not_enforced_where_the_driver_is_and_that_is_said() {
    for variant in [Variant::Blind, Variant::Dark] {
        let _driver = variant.insert();
        let refused = Module::insert(LITHOS, "admission=2");
        assert_eq!(refused.map(drop), Err(Errno::EOPNOTSUPP));
        let (_module, scheduler) = lithos(LITHOS_ADMISSION_AUDIT);
        assert!(!scheduler.sees_driver());
        let refused = scheduler.set_admission(LITHOS_ADMISSION_ENFORCE, 0);
        assert_eq!(refused, Err(Errno::EOPNOTSUPP));
        assert_eq!(
            scheduler.info().expect("info").admission,
            LITHOS_ADMISSION_AUDIT
        );
        made(Program::start(0).make(CHANNEL));
        assert!(scheduler.gpu_users().is_empty());
    }
}

#[test]
fn a_driver_without_the_symbol_makes_nothing_for_strangers_where_it_is_enforced() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    let driver = Variant::Blind.insert();
    assert!(!scheduler.sees_driver());
    let mut tenant = Process::start(0, |line| {
        let device = Device::open();
        device.attach().expect("a tenant");
        let client = Client::new();
        made(client.channel());
        line.say(0);
        line.hear();
        // It is none any more.
        drop(device);
        assert_eq!(client.make(MEMORY), Err(Errno::EPERM));
        assert_eq!(client.free(client.root), Ok(Ok(client.root)));
    });
    tenant.line().hear();
    let stranger = Nvidia::open();
    for class in [CHANNEL, MEMORY, 0x41] {
        let outcome = stranger.make(lithos_vm::nvidia::Layout::Short, 0, 0, 0, class);
        assert_eq!(outcome, Err(Errno::EPERM), "{class:#x}");
    }
    assert_eq!(stranger.make_carried(0, 0, CHANNEL), Err(Errno::EPERM));
    let event = scheduler.event_of(LITHOS_EVENT_GPU_REFUSED);
    assert_eq!(event.pid, nix::unistd::getpid().as_raw());
    tenant.line().say(0);
    tenant.end();
    // No longer, if it is not enforced.
    scheduler
        .set_admission(LITHOS_ADMISSION_AUDIT, 0)
        .expect("audit");
    made(Client::of(stranger).channel());
    drop(driver);
    let _driver = Variant::Plain.insert();
    assert!(scheduler.sees_driver());
}

#[test]
fn a_driver_that_cannot_be_looked_at_is_not_loaded_where_it_is_enforced() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    assert_eq!(
        Variant::Dark.insert_with("").map(drop),
        Err(Errno::EOPNOTSUPP)
    );
    assert!(!fs::exists("/dev/nvidiactl").expect("/dev"));
    let _driver = Variant::Plain.insert();
    assert_enforced(&scheduler);
}

#[test]
fn a_driver_that_fails_to_load_is_let_go_of() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
    // Its parameters are read after it was looked at.
    let failed = Variant::Plain.insert_with("alloc_ms=many");
    assert_eq!(failed.map(drop), Err(Errno::EINVAL));
    assert!(!scheduler.sees_driver());
    let _driver = Variant::Plain.insert();
    assert_enforced(&scheduler);
}

/// Makes and frees channels in another process, until it is dropped.
fn busy() -> Process {
    let mut process = Process::start(0, |line| {
        let until = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&until);
        let hammer = std::thread::spawn(move || {
            while !until.load(Relaxed) {
                let client = Client::new();
                for _ in 0..20 {
                    if let Ok(Ok(handle)) = client.channel() {
                        assert_eq!(client.free(handle), Ok(Ok(handle)));
                    }
                }
            }
        });
        line.say(0);
        line.hear();
        told.store(true, Relaxed);
        hammer.join().expect("a thread");
    });
    process.line().hear();
    process
}

#[test]
fn lithos_comes_and_goes_while_programs_use_the_driver() {
    let _driver = Variant::Plain.insert();
    fs::write("/sys/module/nvidia/parameters/alloc_ms", "1").expect("a parameter");
    let mut programs = [busy(), busy()];
    for round in 0..20 {
        let (mut module, scheduler) = lithos(1 + round % 2);
        std::thread::sleep(std::time::Duration::from_millis(5));
        scheduler.gpu_users();
        drop(scheduler);
        lithos_vm::wait_until("it can be removed", || module.remove().is_ok());
    }
    for program in &mut programs {
        program.line().say(0);
    }
    for program in programs {
        program.end();
    }
}

#[test]
fn the_driver_goes_only_when_nobody_uses_it_and_then_nobody_has_anything() {
    let (_module, scheduler) = lithos(LITHOS_ADMISSION_AUDIT);
    for _ in 0..10 {
        let mut driver = Variant::Plain.insert();
        let mut program = Program::start(0);
        made(program.make(CHANNEL));
        assert_eq!(driver.remove(), Err(Errno::EAGAIN));
        program.kill();
        drop(driver);
        assert!(scheduler.gpu_users().is_empty());
    }
}

/// tracefs, for as long as it is there.
fn probe_events() -> &'static str {
    let place = "/sys/kernel/tracing";
    let flags = MsFlags::empty();
    match mount(Some("tracefs"), place, Some("tracefs"), flags, None::<&str>) {
        Ok(()) | Err(Errno::EBUSY) => "/sys/kernel/tracing/kprobe_events",
        Err(error) => panic!("tracefs: {error}"),
    }
}

#[test]
fn it_is_enforced_though_others_look_at_the_same_function() {
    let events = probe_events();
    let switch = |on: &str| {
        let enable = "/sys/kernel/tracing/events/kprobes/enable";
        fs::write(enable, on).expect("the switch of the probes");
    };
    // The kernel lets nobody from outside of it look at what ftrace does not know.
    for before in [true, false] {
        let _driver = Variant::Traced.insert();
        let look = || {
            let probes = b"p:kprobes/begin nvidia:rm_ioctl\nr:kprobes/end nvidia:rm_ioctl\n";
            fs::write(events, probes).expect("probes");
            switch("1");
        };
        if before {
            look();
        }
        let (_module, scheduler) = lithos(LITHOS_ADMISSION_ENFORCE);
        if !before {
            look();
        }
        for _ in 0..10 {
            assert_enforced(&scheduler);
        }
        switch("0");
        fs::write(events, "").expect("no probes");
        assert_enforced(&scheduler);
    }
}
