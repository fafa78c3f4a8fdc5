// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What lithos.ko costs, as ratios to what the same machine's kernel does otherwise. `scripts/bench
//! kernel-module` starts it in the virtual machine, whose clock is this machine's then, and writes
//! `results/vm/kernel-module.json` from what it writes to `/dev/ttyS1`.
//!
//! | figure | how |
//! | --- | --- |
//! | attach | open of `/dev/lithos` and `TENANT_ATTACH`, against an open of `/dev/null`: medians of turns |
//! | event | a doorbell, read by a scheduler that polls, and the wake-up of the tenant that sleeps, against two eventfds used in the same way: medians of batches of round trips |
//! | 1,000th attach | open, attach and a channel with 64 KiB of arena, each by a process that stays: the median of the last of a thousand against that of the first |
//! | ioctls per launch | those on `/dev/lithos` of a tenant with many launches, less those of one with few |
//! | lines of code | neither blank nor comment; counted by the script |

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use lithos_abi::bindings::*;
use lithos_tests::figures::{Figure, Results, Target, Value};
use lithos_tests::testbed::{Hardware, Programs, Simulation, Testbed};
use lithos_vm::device::GPU;
use lithos_vm::module::LITHOS;
use lithos_vm::{DEADLINE, Device, Module, Process, Scheduler};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, setrlimit};

const PROGRAMS: &str = "/lithos";
const COMMAND: &str = "scripts/bench kernel-module";

/// No limit is in the way of a thousand tenants, and no scheduler is missed.
const PARAMETERS: &str = "silence_ms=60000 tenants_max=4096 user_tenants_max=4096 user_channels_max=4096 \
                          user_pinned_mib_max=4096 events_max=65536";

const TURNS: usize = 2000;
const BATCHES: usize = 40;
const ROUND_TRIPS: u32 = 200;
const TENANTS: usize = 1000;
/// Of the thousand, at each end.
const WINDOW: usize = 20;
const ROUNDS: usize = 5;
const LAUNCHES: (u32, u32) = (10, 1010);

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let commit = arguments.next().expect("a commit");
    let lines = arguments.next().expect("lines of code");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    // A line for each of a thousand processes.
    setrlimit(Resource::RLIMIT_NOFILE, 8192, 8192).expect("a limit");

    let ratio = |parts: (f64, f64)| Some(Value::from(parts.0 / parts.1));
    let figure = |name, unit, target, value| {
        let figure = Figure::new(name, unit, target, COMMAND.to_owned(), value);
        println!("{name}: {:?} {unit} ({})", figure.value, figure.target);
        figure
    };
    let figures = vec![
        figure(
            "attach of a tenant, against an open of /dev/null",
            "ratio",
            Target::AtMost(20.0),
            ratio(attach()),
        ),
        figure(
            "doorbell to the scheduler and wake-up of the tenant, against an eventfd ping-pong",
            "ratio",
            Target::AtMost(2.0),
            ratio(event()),
        ),
        figure(
            "1,000th attach with a channel of 64 KiB, against the first",
            "ratio",
            Target::AtMost(1.5),
            ratio(thousand()),
        ),
        figure(
            "ioctls on /dev/lithos per launch",
            "ioctls",
            Target::Exactly(0.0),
            Some(Value::from(launches())),
        ),
        figure(
            "lines of code of the module",
            "lines",
            Target::AtLeast(1.0),
            lines.parse().ok().map(|lines: f64| Value::from(lines)),
        ),
    ];
    let results = Results {
        device: "QEMU virtual machine, 2 processors, emulated (TCG)".to_owned(),
        driver: format!("lithos.ko, kernel {}", release.trim()),
        commit,
        figures,
    };
    let text = serde_json::to_string_pretty(&results).expect("JSON");
    let mut port = File::create("/dev/ttyS1").expect("a port");
    writeln!(port, "{text}").expect("a listener");
}

/// A scheduler, and the module, which goes after it.
fn scheduled() -> (Scheduler, Module) {
    let module = Module::insert(LITHOS, PARAMETERS).expect("lithos.ko can be inserted");
    (Scheduler::of(GPU), module)
}

/// How long something takes, in nanoseconds, and what came of it.
fn timed<T>(act: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let made = act();
    (start.elapsed().as_secs_f64() * 1e9, made)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds of an attach, and of an open of `/dev/null`.
fn attach() -> (f64, f64) {
    let _scheduled = scheduled();
    let (mut attach, mut open) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (ns, null) = timed(|| File::open("/dev/null").expect("/dev/null"));
        open.push(ns);
        drop(null);
        let (ns, tenant) = timed(|| {
            let device = Device::open();
            device.attach().expect("a tenant");
            device
        });
        attach.push(ns);
        drop(tenant);
    }
    let parts = (median(attach), median(open));
    println!(
        "attach {:.0} ns, open of /dev/null {:.0} ns",
        parts.0, parts.1
    );
    parts
}

fn wait_readable(file: &impl AsFd) {
    let timeout = PollTimeout::try_from(DEADLINE).expect("a deadline that poll takes");
    let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut asked, timeout), Ok(1), "something to read");
}

/// Nanoseconds of a batch of round trips through lithos.ko, and through eventfds.
fn event() -> (f64, f64) {
    let scheduled = scheduled();
    let scheduler = &scheduled.0;
    let eventfds = [(); 2].map(|()| EventFd::new().expect("an eventfd"));
    let [to, from] = &eventfds;
    let mut tenant = Process::start(0, |line| {
        let device = Device::open();
        device.attach().expect("a tenant");
        let channel = device.open_channel(GPU).expect("a channel").id;
        device.wait_channel(channel).expect("an answer");
        let mut woken = 0;
        for batch in 0..2 * BATCHES {
            line.hear();
            let (ns, ()) = timed(|| {
                for _ in 0..ROUND_TRIPS {
                    if batch % 2 == 0 {
                        let rung = device.call_with_id(LITHOS_CHANNEL_RING, channel);
                        rung.expect("a doorbell");
                        woken = device.sleep(channel, woken).expect("a wake-up");
                    } else {
                        to.write(1).expect("an eventfd");
                        from.read().expect("an eventfd");
                    }
                }
            });
            line.say(ns.to_bits());
        }
        line.hear();
    });
    let channel = scheduler.event_of(LITHOS_EVENT_CHANNEL).channel;
    scheduler.answer_channel(channel).expect("an answer");
    let (mut lithos, mut eventfd) = (Vec::new(), Vec::new());
    for batch in 0..2 * BATCHES {
        tenant.line().say(0);
        for _ in 0..ROUND_TRIPS {
            if batch % 2 == 0 {
                scheduler.wait_readable();
                assert_eq!(
                    scheduler.event().expect("an event").type_,
                    LITHOS_EVENT_DOORBELL
                );
                let woken = scheduler.call_with_id(LITHOS_CHANNEL_WAKE, channel);
                woken.expect("a tenant");
            } else {
                wait_readable(to);
                to.read().expect("an eventfd");
                from.write(1).expect("an eventfd");
            }
        }
        let ns = f64::from_bits(tenant.line().hear());
        if batch % 2 == 0 {
            &mut lithos
        } else {
            &mut eventfd
        }
        .push(ns);
    }
    tenant.line().say(0);
    tenant.end();
    let parts = (median(lithos), median(eventfd));
    let each = f64::from(ROUND_TRIPS);
    println!(
        "round trip {:.0} ns by lithos.ko, {:.0} ns by eventfds",
        parts.0 / each,
        parts.1 / each
    );
    parts
}

/// Nanoseconds of the last attaches of a thousand, and of the first.
fn thousand() -> (f64, f64) {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let _scheduled = scheduled();
        let mut tenants: Vec<Process> = Vec::new();
        for number in 0..TENANTS {
            let mut tenant = Process::start(0, |line| {
                let (ns, device) = timed(|| {
                    let device = Device::open();
                    device.attach().expect("a tenant");
                    device.open_channel(GPU).expect("a channel");
                    device
                });
                line.say(ns.to_bits());
                line.hear();
                drop(device);
            });
            let ns = f64::from_bits(tenant.line().hear());
            if number < WINDOW {
                first.push(ns);
            } else if number >= TENANTS - WINDOW {
                last.push(ns);
            }
            tenants.push(tenant);
        }
    }
    let parts = (median(last), median(first));
    println!(
        "attach with a channel {:.0} ns beside {TENANTS}, {:.0} ns at first",
        parts.0, parts.1
    );
    parts
}

/// Calls on the device per launch.
fn launches() -> f64 {
    let _module = Module::insert(LITHOS, PARAMETERS).expect("lithos.ko can be inserted");
    let programs = Programs::in_folder(Path::new(PROGRAMS)).expect("programs");
    let hardware = Hardware::Simulated(Simulation::of_tpcs(8));
    let mut bed = Testbed::new(programs, &hardware).expect("a testbed");
    bed.set_broker("kernel");
    let partition = "[[partition]]\nname = \"a\"\nclass = \"lc\"\nguarantee = 2\n";
    bed.start_daemon(partition).expect("a daemon");
    let counts = bed.folder().join("calls.json");
    let calls = |launches: u32| {
        let mut command = bed.lithos(&["run", "--partition", "a", "--"]);
        command
            .arg(bed.command("syscount").get_program())
            .arg("--output")
            .arg(&counts)
            .arg("--")
            .arg(bed.unmanaged(&[]).get_program())
            .args(["launches", "--warm-up", "10", "--count"])
            .arg(launches.to_string());
        let outcome = bed.outcome(command).expect("a tenant");
        assert!(outcome.status.success(), "{outcome:?}");
        let text = std::fs::read_to_string(&counts).expect("counts");
        let counts: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        counts["ioctls_by_file"]["/dev/lithos"]
            .as_f64()
            .expect("those with which it became a tenant")
    };
    let (few, many) = LAUNCHES;
    (calls(many) - calls(few)) / f64::from(many - few)
}
