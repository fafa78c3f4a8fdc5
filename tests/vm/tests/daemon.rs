// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! LithOS over `/dev/lithos`: the real daemon, its command, and CUDA programs on a simulated GPU.
//!
//! The programs are in `/lithos`, where `scripts/vm` puts them.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::Terms;
use lithos_abi::message::reply;
use lithos_device::Broker;
use lithos_device::kernel::{DEFAULT_DEVICE, KernelBroker};
use lithos_device::scheduler::Scheduler;
use lithos_tests::testbed::{Hardware, PATIENCE, Process, Programs, Simulation, Testbed, until};
use lithos_vm::device::GPU;
use lithos_vm::{Device, Module};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};

const PROGRAMS: &str = "/lithos";

/// A partition that may have more than it is guaranteed: 2 of 6 TPCs, and 4 at most.
const WIDE: &str = "[[partition]]\nname = \"a\"\nclass = \"lc\"\nguarantee = 2\nceiling = 4\n";

/// The module, and a testbed on it.
struct Bed {
    bed: Testbed,
    // Last: a module goes when nobody uses it.
    _module: Module,
}

impl Deref for Bed {
    type Target = Testbed;
    fn deref(&self) -> &Testbed {
        &self.bed
    }
}

impl DerefMut for Bed {
    fn deref_mut(&mut self) -> &mut Testbed {
        &mut self.bed
    }
}

/// A daemon whose configuration leaves the broker to it.
fn managed_gpu(configuration: &str) -> Bed {
    let module = Module::lithos("");
    let programs = Programs::in_folder(Path::new(PROGRAMS)).expect("programs");
    let hardware = Hardware::Simulated(Simulation::of_tpcs(6));
    let mut bed = Testbed::new(programs, &hardware).expect("a testbed");
    bed.set_broker("auto");
    bed.start_daemon(configuration).expect("a daemon");
    Bed {
        bed,
        _module: module,
    }
}

/// A program that says after each line which SMs it ran on.
fn tenant(bed: &Testbed, partition: &str) -> Process {
    let mut command = bed.managed(&["--partition", partition], &["smids", "--wait-for-line"]);
    Process::start("tenant", &mut command).expect("a tenant")
}

fn sms(tenant: &mut Process) -> u64 {
    tenant.tell().expect("a listener");
    let answer = tenant.json().expect("an answer");
    answer["sms"].as_u64().expect("a number")
}

/// Launches until the program has run on so many SMs.
fn until_on(tenant: &mut Process, expected: u64) {
    let found = until("SMs as expected", PATIENCE, || {
        if sms(tenant) == expected {
            return Ok(Some(()));
        }
        // Here it takes no time to wait, and a launch does.
        std::thread::sleep(Duration::from_millis(100));
        Ok(None)
    });
    found.unwrap_or_else(|error| panic!("{expected} SMs: {error}"));
}

fn end(tenant: Process) {
    let outcome = tenant.finish(PATIENCE).expect("its end");
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(outcome.stderr, "", "what it said");
}

/// The TPCs of each channel.
fn masks(status: &Value) -> Vec<BTreeSet<u64>> {
    let channels = status["channels"].as_array().expect("a list").iter();
    channels
        .map(|channel| {
            let tpcs = channel["tpcs"].as_array().expect("a list").iter();
            tpcs.map(|tpc| tpc.as_u64().expect("a number")).collect()
        })
        .collect()
}

/// Waits until the kernel has no tenants and no channels.
fn nobody_is_left() {
    let device = Device::open();
    let empty = until("end of all tenants", PATIENCE, || {
        let info = device.info()?;
        Ok((info.tenants == 0 && info.channels == 0 && info.pinned_bytes == 0).then_some(()))
    });
    empty.expect("nobody is left");
}

#[test]
fn a_daemon_that_may_choose_takes_the_kernels_broker_and_says_so() {
    let bed = managed_gpu(WIDE);
    let mut tenant = tenant(&bed, "a");
    assert_eq!(sms(&mut tenant), 8);
    let status = bed.status().expect("a status");
    assert_eq!(status["daemon"]["broker"], "kernel");
    assert_eq!(status["problems"], json!([]));
    let info = Device::open().info().expect("info");
    assert_eq!((info.schedulers, info.tenants, info.channels), (1, 1, 1));
    let known = &status["tenants"][0];
    assert_eq!(known["pid"], tenant.pid());
    assert_eq!(
        (&known["uid"], &known["partition"]),
        (&json!(0), &json!("a"))
    );
    assert_eq!(known["channels"], json!([status["channels"][0]["channel"]]));
    let outcome = bed.outcome(bed.lithos(&["status"])).expect("lithos status");
    assert!(
        outcome.lines[0].contains("kernel broker at /dev/lithos"),
        "{outcome:?}"
    );
    let diagnosis = bed
        .outcome(bed.lithos(&["doctor", "--json"]))
        .expect("lithos doctor");
    let diagnosis: Value = serde_json::from_str(&diagnosis.lines.join("\n")).expect("JSON");
    let lines = diagnosis["lines"].as_array().expect("a list");
    for topic in ["broker", "module"] {
        let of_topic: Vec<_> = lines.iter().filter(|line| line["topic"] == topic).collect();
        assert!(!of_topic.is_empty(), "{topic}");
        assert!(
            of_topic.iter().all(|line| line["state"] == "fine"),
            "{of_topic:?}"
        );
    }
    end(tenant);
    nobody_is_left();
}

#[test]
fn a_daemon_without_tenants_is_not_taken_for_dead() {
    let bed = managed_gpu(WIDE);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(Device::open().info().expect("info").schedulers, 1);
    let status = bed.status().expect("a daemon that answers");
    assert_eq!(status["problems"], json!([]));
}

#[test]
fn a_daemon_that_is_killed_is_followed_by_one_that_goes_on_in_the_same_pages() {
    let mut bed = managed_gpu(WIDE);
    let mut tenants = [tenant(&bed, "a"), tenant(&bed, "a")];
    tenants.iter_mut().for_each(|tenant| until_on(tenant, 8));
    let before = bed.status().expect("a status");
    let mut grant = 0;
    for _ in 0..2 {
        bed.kill_daemon();
        // What is guaranteed, because the kernel says so.
        tenants.iter_mut().for_each(|tenant| until_on(tenant, 4));
        bed.start_daemon(WIDE).expect("a daemon");
        let status = bed.status().expect("a status");
        for (channel, was) in [0, 1].map(|i| (&status["channels"][i], &before["channels"][i])) {
            assert_eq!(channel["taken_over"], true, "{channel}");
            assert_eq!(channel["channel"], was["channel"], "the same id");
            let now = channel["grant"].as_u64().expect("a number");
            assert!(now > grant, "grants go on after {grant}: {channel}");
        }
        grant = status["channels"][0]["grant"].as_u64().expect("a number");
        assert_eq!(masks(&status), masks(&before), "nothing moves");
        assert_eq!(status["problems"], json!([]));
        tenants.iter_mut().for_each(|tenant| until_on(tenant, 8));
        let status = bed.status().expect("a status");
        let channels = status["channels"].as_array().expect("a list");
        for channel in channels {
            for key in ["violations", "stale", "unchecked", "unmanaged", "lost"] {
                assert_eq!(channel["totals"][key], 0, "{key} in {channel}");
            }
        }
    }
    tenants.into_iter().for_each(end);
    bed.status_until("end of the tenants", |status| {
        let none = |key: &str| status[key].as_array().is_some_and(Vec::is_empty);
        (none("tenants") && none("channels") && none("transit")).then_some(())
    })
    .expect("nothing of them stays");
    nobody_is_left();
}

#[test]
fn a_stopped_daemon_is_taken_for_dead_and_ends_when_it_wakes_up() {
    let mut bed = managed_gpu(WIDE);
    let mut tenant = tenant(&bed, "a");
    until_on(&mut tenant, 8);
    let old = bed.daemon().expect("a daemon");
    old.signal(Signal::SIGSTOP).expect("a process");
    until_on(&mut tenant, 4);
    let old = bed
        .replace_daemon(&["--take-over", "--spare"])
        .expect("a daemon");
    until_on(&mut tenant, 8);
    let status = bed.status().expect("a status");
    assert_eq!(status["channels"][0]["taken_over"], true, "{status}");
    old.signal(Signal::SIGCONT).expect("a process");
    let outcome = old.finish(PATIENCE).expect("its end");
    assert!(!outcome.status.success(), "{outcome:?}");
    assert!(outcome.stderr.contains("taken over"), "{}", outcome.stderr);
    assert_eq!(sms(&mut tenant), 8);
    end(tenant);
    nobody_is_left();
}

#[test]
fn a_program_that_came_or_went_while_there_was_no_daemon_is_known_to_the_next() {
    let mut bed = managed_gpu(WIDE);
    let [mut stays, mut goes] = [tenant(&bed, "a"), tenant(&bed, "a")];
    until_on(&mut stays, 8);
    until_on(&mut goes, 8);
    bed.kill_daemon();
    let pid = goes.pid();
    goes.signal(Signal::SIGKILL).expect("a process");
    drop(goes);
    bed.start_daemon(WIDE).expect("a daemon");
    let status = bed.status().expect("a status");
    let tenants = status["tenants"].as_array().expect("a list");
    assert_eq!(tenants.len(), 1, "not {pid}: {tenants:?}");
    assert_eq!(tenants[0]["pid"], stays.pid());
    until_on(&mut stays, 8);
    let mut comes = tenant(&bed, "a");
    until_on(&mut comes, 8);
    end(comes);
    end(stays);
    nobody_is_left();
}

#[test]
fn where_nobody_schedules_by_the_kernel_programs_come_to_the_daemon_itself() {
    let mut bed = managed_gpu(WIDE);
    bed.stop_daemon().expect("its end");
    bed.set_broker("embedded");
    // The device is there, and nobody schedules by it.
    bed.set_variable("LITHOS_DEVICE", "/dev/lithos");
    bed.start_daemon(WIDE).expect("a daemon");
    let status = bed.status().expect("a status");
    assert_eq!(status["daemon"]["broker"], "embedded");
    let mut tenant = tenant(&bed, "a");
    assert_eq!(sms(&mut tenant), 8);
    assert_eq!(Device::open().info().expect("info").tenants, 0);
    let status = bed.status().expect("a status");
    assert_eq!(status["tenants"][0]["pid"], tenant.pid());
    end(tenant);
}

#[test]
fn gpus_that_somebody_else_schedules_are_not_the_daemons() {
    let mut bed = managed_gpu(WIDE);
    let programs = Programs::in_folder(Path::new(PROGRAMS)).expect("programs");
    let mut other = Testbed::new(programs, &Hardware::Real).expect("a testbed");
    other.set_broker("auto");
    let configuration = other.write_configuration("").expect("a file");
    let mut command = bed.command("lithosd");
    command.arg("--config").arg(configuration);
    let outcome = bed.outcome(command).expect("lithosd");
    assert!(!outcome.status.success());
    assert!(
        outcome.stderr.contains("another process schedules GPU-"),
        "{}",
        outcome.stderr
    );
    assert!(
        !bed.daemon()
            .expect("a daemon")
            .has_ended()
            .expect("a state")
    );
}

#[test]
fn launches_make_no_calls_on_the_device() {
    let bed = managed_gpu(WIDE);
    let counts = bed.folder().join("calls.json");
    let calls = |launches: &str| {
        let mut command = bed.lithos(&["run", "--partition", "a", "--"]);
        command
            .arg(bed.command("syscount").get_program())
            .arg("--output")
            .arg(&counts)
            .arg("--")
            .arg(bed.unmanaged(&[]).get_program())
            .args(["launches", "--warm-up", "10", "--count", launches]);
        let outcome = bed.outcome(command).expect("a tenant");
        assert!(outcome.status.success(), "{outcome:?}");
        let text = std::fs::read_to_string(&counts).expect("counts");
        let counts: Value = serde_json::from_str(&text).expect("JSON");
        let calls = &counts["ioctls_by_file"][DEFAULT_DEVICE];
        calls.as_u64().unwrap_or_else(|| panic!("none: {counts}"))
    };
    // Those with which it became a tenant.
    assert_eq!(calls("100"), calls("10"));
}

/// A signal every 3 ms, which nobody does anything about but a call that it interrupts; and so many mappings
/// that to become a tenant, for which the kernel locks each, takes as long.
fn signals_and_mappings() {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a handler");
    let page = NonZero::new(4096).expect("a size");
    for index in 0..1024 {
        // Neighbours that are alike would be one mapping.
        let access = match index % 2 {
            0 => ProtFlags::PROT_NONE,
            _ => ProtFlags::PROT_READ,
        };
        // SAFETY: at an address that the kernel chooses.
        unsafe { mmap_anonymous(None, page, access, MapFlags::MAP_PRIVATE) }.expect("a mapping");
    }
    let interval = libc::timeval {
        tv_sec: 0,
        tv_usec: 3000,
    };
    let timer = libc::itimerval {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: reads the structure.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

#[test]
fn signals_only_delay_who_becomes_a_tenant() {
    let _bed = managed_gpu(WIDE);
    lithos_vm::Process::run(0, || {
        signals_and_mappings();
        until("a call that a signal ends", PATIENCE, || {
            Ok((Device::open().attach() == Err(Errno::EINTR)).then_some(()))
        })
        .expect("it can be interrupted");
        for _ in 0..20 {
            let mut broker = KernelBroker::open(Path::new(DEFAULT_DEVICE)).expect("the device");
            broker.attach("a").expect("a tenant");
        }
    });
    nobody_is_left();
}

#[test]
fn an_evicted_tenant_is_killed_and_its_scheduler_hears_of_its_end() {
    let _module = Module::lithos("");
    let path = Path::new(DEFAULT_DEVICE);
    let scheduler = Scheduler::open(path).expect("the device");
    let counts = Counts {
        stamps: 64,
        ..Counts::default()
    };
    let claimed = scheduler.claim(GPU, &Terms::sized(counts));
    claimed.expect("a claim");
    let tenant = lithos_vm::Process::start(0, |line| {
        let mut broker = KernelBroker::open(path).expect("the device");
        assert!(broker.is_scheduled());
        let attached = broker.attach("a").expect("an answer");
        assert!(attached.enforce);
        line.say(attached.tenant);
        line.hear();
    });
    let next = |wanted: u32| {
        let mut events = [lithos_event::default()];
        let found = until("an event", PATIENCE, || {
            scheduler.beat()?;
            let count = scheduler.read_events(&mut events)?;
            Ok((count == 1).then(|| events[0]))
        });
        let event = found.expect("an event");
        assert_eq!(event.type_, wanted, "{event:?}");
        event
    };
    let event = next(LITHOS_EVENT_TENANT);
    assert_eq!(event.pid, tenant.pid().as_raw());
    let info = scheduler.tenant(event.tenant).expect("a call");
    let info = info.expect("a tenant");
    assert_eq!((info.pid, info.uid, info.flags), (event.pid, 0, 0));
    let answered = scheduler.answer_tenant(event.tenant, LITHOS_ATTACHED_ENFORCE, reply(0, ""));
    answered.expect("an answer");
    scheduler.evict(event.tenant).expect("an eviction");
    assert_eq!(next(LITHOS_EVENT_TENANT_END).tenant, event.tenant);
    let pid = tenant.pid();
    assert_eq!(
        tenant.wait(),
        WaitStatus::Signaled(pid, Signal::SIGKILL, false)
    );
    assert_eq!(scheduler.tenants().expect("a list"), []);
}
