// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who may have GPU channels, and who has how many.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, answer};
use lithos_vm::log::Log;
use lithos_vm::nvidia::{
    CHANNEL, Client, DOORBELL, GROUP, INVALID_ARGUMENT, Layout, MEMORY, NO_RESOURCES,
    NOT_PERMITTED, Nvidia, SUBDEVICE, Variant,
};
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Process, Program, Scheduler, wait_until};
use nix::errno::Errno;
use nix::unistd::getpid;

/// The driver, lithos.ko with a mode, and a scheduler.
fn inserted(mode: u32) -> (Module, Module, Scheduler) {
    let driver = Variant::Plain.insert();
    let module = Module::lithos(&format!("admission={mode}"));
    let scheduler = Scheduler::of(GPU);
    assert!(scheduler.sees_driver() == (mode != LITHOS_ADMISSION_OFF));
    (driver, module, scheduler)
}

const REFUSED: nix::Result<Result<u32, u32>> = Ok(Err(NOT_PERMITTED));

fn made(outcome: nix::Result<Result<u32, u32>>) -> u32 {
    outcome.expect("a call").expect("an object")
}

fn command(user: &lithos_gpu_user) -> String {
    let name = user.command.iter().take_while(|byte| **byte != 0);
    name.map(|byte| char::from(byte.cast_unsigned())).collect()
}

#[test]
fn audit_counts_what_every_process_has_and_tells_of_those_who_are_no_tenants() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let mut log = Log::from_now();
    let (mut tenant, mut stranger) = (Program::start(0), Program::start(NOBODY));
    assert!(scheduler.gpu_users().is_empty());
    // Anybody may attach, where a test has not made the node anybody's.
    let id = tenant.attach();
    for program in [&mut tenant, &mut stranger] {
        let group = made(program.make(GROUP));
        made(program.make_channel_in(group));
        made(program.make_channel_in(group));
        made(program.make(CHANNEL));
        made(program.make(DOORBELL));
        made(program.make(MEMORY));
    }
    let users = scheduler.gpu_users();
    let mut expected = [(tenant.pid(), id), (stranger.pid(), 0)];
    expected.sort_unstable();
    assert_eq!(users.len(), 2);
    for (user, (pid, tenant)) in users.iter().zip(expected) {
        assert_eq!((user.pid, user.tenant), (pid, tenant));
        assert_eq!((user.channels, user.groups, user.doorbells), (3, 1, 1));
        assert_eq!((user.refused, user.flags), (0, 0));
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a name");
        assert_eq!(command(user), name.trim_end());
    }
    let mut next = lithos_tenant_info::default();
    scheduler
        .call(LITHOS_TENANT_NEXT, &mut next)
        .expect("a tenant");
    assert_eq!(next.gpu_channels, 3);
    let mut told = Vec::new();
    wait_until("the log tells of the stranger", || {
        told.extend(log.lines());
        told.iter()
            .any(|line| line.contains(&format!("(process {} of user {NOBODY})", stranger.pid())))
    });
    assert!(
        !told
            .iter()
            .any(|line| line.contains(&format!("process {} ", tenant.pid())))
    );
    tenant.end();
    stranger.end();
    assert!(scheduler.gpu_users().is_empty());
}

#[test]
fn a_stranger_is_refused_what_reaches_the_gpu_and_nothing_else_when_that_is_enforced() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut log = Log::from_now();
    let mut stranger = Program::start(NOBODY);
    for class in [
        CHANNEL, GROUP, DOORBELL, 0xc46f, 0xc96f, 0xc361, 0xc461, 0xc561,
    ] {
        assert_eq!(stranger.make(class), REFUSED, "{class:#x}");
    }
    made(stranger.make(MEMORY));
    let user = scheduler
        .gpu_user(stranger.pid())
        .expect("what was refused");
    assert_eq!((user.refused, user.channels, user.tenant), (8, 0, 0));
    assert_eq!(Nvidia::open().count(stranger.pid()), [0; 3]);
    let event = scheduler.event_of(LITHOS_EVENT_GPU_REFUSED);
    assert_eq!(
        (event.pid, event.uid, event.tenant, event.value),
        (stranger.pid(), NOBODY, 0, CHANNEL.into())
    );
    wait_until("the log names the process", || {
        let line = format!("(process {} of user {NOBODY}) is refused", stranger.pid());
        log.lines().iter().any(|told| told.contains(&line))
    });
    // In every layout that the driver has, and in the way of long calls.
    let client = Client::new();
    let parent = client.device;
    for layout in [Layout::Short, Layout::Access, Layout::Object] {
        assert_eq!(
            client.driver.make(layout, client.root, parent, 0, CHANNEL),
            REFUSED,
            "{layout:?}"
        );
        made(client.driver.make(layout, client.root, parent, 0, MEMORY));
    }
    assert_eq!(
        client.driver.make_carried(client.root, parent, CHANNEL),
        REFUSED
    );
    made(client.driver.make_carried(client.root, parent, MEMORY));
}

#[test]
fn a_tenant_gets_what_it_asks_for_for_as_long_as_it_is_one() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut program = Program::start(0);
    assert_eq!(program.make(CHANNEL), REFUSED);
    program.attach();
    made(program.make(CHANNEL));
    made(program.make(GROUP));
    made(program.make(DOORBELL));
    program.detach();
    assert_eq!(program.make(CHANNEL), REFUSED);
    assert_eq!(scheduler.gpu_count(program.pid()), [1, 1, 1]);
    program.attach();
    made(program.make(CHANNEL));
    assert_eq!(scheduler.gpu_count(program.pid()), [2, 1, 1]);
}

#[test]
fn a_tenant_that_its_scheduler_refuses_is_a_stranger() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut program = Program::start(0);
    for _ in 0..2 {
        let id = program.attach();
        made(program.make(CHANNEL));
        let mut refusal = answer(id);
        refusal.reply.error = Errno::ENOENT as u32;
        scheduler
            .call(LITHOS_TENANT_ANSWER, &mut refusal)
            .expect("a refusal");
        assert_eq!(program.make(CHANNEL), REFUSED);
        // That says nothing of the next.
        let id = program.attach();
        scheduler.answer_tenant(id).expect("an answer");
        made(program.make(CHANNEL));
        program.detach();
        assert_eq!(program.make(CHANNEL), REFUSED);
    }
    assert_eq!(scheduler.gpu_count(program.pid()), [4, 0, 0]);
}

/// As many objects as lithos.ko has places for.
const OBJECTS_MAX: usize = 16384;

#[test]
fn strangers_that_make_what_they_may_leave_room_for_tenants() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut strangers = Process::start(NOBODY, |line| {
        let clients: Vec<_> = (0..32).map(|_| Client::new()).collect();
        for client in &clients {
            for _ in 0..OBJECTS_MAX / 32 {
                let Client { root, device, .. } = *client;
                made(
                    client
                        .driver
                        .make(Layout::Short, root, device, 0, SUBDEVICE),
                );
            }
        }
        line.say(0);
        line.hear();
    });
    strangers.line().hear();
    let mut program = Program::start(0);
    program.attach();
    for class in [GROUP, CHANNEL, DOORBELL] {
        made(program.make(class));
    }
    assert_eq!(scheduler.gpu_count(program.pid()), [1, 1, 1]);
    strangers.line().say(0);
    strangers.end();
}

#[test]
fn a_child_of_a_tenant_is_none_though_it_has_its_files() {
    let (_driver, _module, _scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    Process::run(0, || {
        let device = Device::open();
        device.attach().expect("a tenant");
        let client = Client::new();
        made(client.channel());
        Process::run(0, || assert_eq!(client.channel(), REFUSED));
    });
}

#[test]
fn a_tenant_gets_no_more_channels_than_it_may_have() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    scheduler
        .set_admission(LITHOS_ADMISSION_ENFORCE, 3)
        .expect("enforced");
    let (mut one, mut other) = (Program::start(0), Program::start(0));
    for program in [&mut one, &mut other] {
        program.attach();
        let channels = [(); 3].map(|()| made(program.make(CHANNEL)));
        assert_eq!(program.make(CHANNEL), Ok(Err(NO_RESOURCES)));
        made(program.make(GROUP));
        made(program.free(channels[0]));
        made(program.make(CHANNEL));
        assert_eq!(program.make(CHANNEL), Ok(Err(NO_RESOURCES)));
    }
    scheduler
        .set_admission(LITHOS_ADMISSION_ENFORCE, 0)
        .expect("any number");
    made(one.make(CHANNEL));
}

#[test]
fn threads_at_once_get_no_more_channels_than_their_tenant_may_have() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    fs::write("/sys/module/nvidia/parameters/alloc_ms", "2").expect("a parameter");
    scheduler
        .set_admission(LITHOS_ADMISSION_ENFORCE, 5)
        .expect("enforced");
    Process::run(0, || {
        let device = Device::open();
        device.attach().expect("a tenant");
        let client = Client::new();
        let count = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..4)
                            .filter(|_| client.channel() == Ok(Err(NO_RESOURCES)))
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a thread"))
                .sum::<usize>()
        });
        assert_eq!(count, 16 - 5);
        assert_eq!(client.driver.count(getpid().as_raw()), [5, 0, 0]);
    });
}

#[test]
fn what_the_driver_does_not_give_is_not_counted() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let client = Client::new();
    let pid = getpid().as_raw();
    let wrong = client
        .driver
        .make_wrongly(client.root, client.device, CHANNEL);
    assert_eq!(wrong, Ok(Err(INVALID_ARGUMENT)));
    // No such parent, no such client.
    for (root, parent) in [(client.root, 99), (99, client.device)] {
        let outcome = client.driver.make(Layout::Short, root, parent, 0, CHANNEL);
        assert!(matches!(outcome, Ok(Err(_))), "{outcome:?}");
    }
    assert!(scheduler.gpu_user(pid).is_none());
    let channel = made(client.channel());
    assert!(matches!(client.free(99), Ok(Err(_))));
    // Another file's client is not its own to free.
    assert!(matches!(
        Nvidia::open().free(client.root, channel),
        Ok(Err(_))
    ));
    assert_eq!(scheduler.gpu_count(pid), [1, 0, 0]);
}

#[test]
fn whatever_way_it_is_freed_nothing_is_counted_any_more() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let truth = Nvidia::open();
    let full = || {
        let mut program = Program::start(0);
        let group = made(program.make(GROUP));
        let channels = [
            made(program.make_channel_in(group)),
            made(program.make(CHANNEL)),
        ];
        let doorbell = made(program.make(DOORBELL));
        (program, group, channels, doorbell)
    };
    let same = |program: &Program, expected: [u32; 3]| {
        assert_eq!(truth.count(program.pid()), expected);
        assert_eq!(scheduler.gpu_count(program.pid()), expected);
    };

    let (mut program, group, channels, doorbell) = full();
    same(&program, [2, 1, 1]);
    made(program.free(channels[1]));
    same(&program, [1, 1, 1]);
    made(program.free(doorbell));
    same(&program, [1, 1, 0]);
    // The group with the channel in it.
    made(program.free(group));
    same(&program, [0; 3]);

    let (mut program, ..) = full();
    let subdevice = program.subdevice;
    made(program.free(subdevice));
    same(&program, [2, 1, 0]);
    let device = program.device;
    made(program.free(device));
    same(&program, [0; 3]);

    let (mut program, ..) = full();
    let root = program.root;
    made(program.free(root));
    same(&program, [0; 3]);

    let (program, ..) = full();
    let pid = program.kill().as_raw();
    wait_until("its files are closed", || truth.count(pid) == [0; 3]);
    assert_eq!(scheduler.gpu_count(pid), [0; 3]);
    assert!(scheduler.gpu_users().is_empty());
}

#[test]
fn channels_are_counted_for_who_made_them_until_the_last_copy_of_their_file_is_closed() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let mut owner = Process::start(0, |line| {
        let client = Client::new();
        made(client.channel());
        let mut heir = Process::start(0, |line| {
            made(client.channel());
            line.say(0);
            // It outlives the other end of the line.
            loop {
                nix::unistd::pause();
            }
        });
        heir.line().hear();
        line.say(heir.pid().as_raw().cast_unsigned().into());
        // The heir stays, as somebody else's child.
        std::mem::forget(heir);
    });
    let heir = i32::try_from(owner.line().hear()).expect("a pid");
    let pid = owner.pid().as_raw();
    owner.end();
    assert_eq!(scheduler.gpu_count(pid), [1, 0, 0]);
    assert_eq!(scheduler.gpu_count(heir), [1, 0, 0]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(heir), nix::sys::signal::SIGKILL)
        .expect("kill");
    wait_until("the last copy is closed", || {
        scheduler.gpu_users().is_empty()
    });
}

// ---- Who is admitted -----------------------------------------------------------------------------

#[test]
fn a_process_that_is_admitted_gets_what_it_asks_for_until_it_is_not() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let (mut server, mut other) = (Program::start(NOBODY), Program::start(NOBODY));
    let pid = u64::try_from(server.pid()).expect("a pid");
    scheduler
        .admit(LITHOS_ADMIT_PROCESS, pid, true)
        .expect("admitted");
    made(server.make(CHANNEL));
    assert_eq!(other.make(CHANNEL), REFUSED);
    scheduler
        .admit(LITHOS_ADMIT_PROCESS, pid, false)
        .expect("no longer");
    assert_eq!(server.make(CHANNEL), REFUSED);
    assert_eq!(scheduler.gpu_count(server.pid()), [1, 0, 0]);
}

#[test]
fn another_process_with_the_pid_of_one_that_was_admitted_is_not() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut server = Program::start(0);
    let pid = u64::try_from(server.pid()).expect("a pid");
    scheduler
        .admit(LITHOS_ADMIT_PROCESS, pid, true)
        .expect("admitted");
    made(server.make(CHANNEL));
    let pid = server.kill();
    // Nothing was looked at in between: what is known of the pid is what was said of the one before.
    let last = "/proc/sys/kernel/ns_last_pid";
    let mut reused = None;
    for _ in 0..100 {
        fs::write(last, (pid.as_raw() - 1).to_string()).expect(last);
        let program = Program::start(0);
        if program.pid() == pid.as_raw() {
            reused = Some(program);
            break;
        }
    }
    let mut reused = reused.expect("a process with that pid");
    assert_eq!(reused.make(CHANNEL), REFUSED);
}

/// A cgroup below the root; removed when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(path: &str) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(path);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.0).expect("a cgroup").ino()
    }

    fn start(&self) -> Program {
        Program::start_with(0, || {
            fs::write(self.0.join("cgroup.procs"), "0").expect("a member");
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait_until("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn members_of_an_admitted_cgroup_and_of_those_below_get_what_they_ask_for() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let admitted = Cgroup::new("admitted");
    let below = Cgroup::new("admitted/below");
    let beside = Cgroup::new("beside");
    scheduler
        .admit(LITHOS_ADMIT_CGROUP, admitted.id(), true)
        .expect("admitted");
    let (mut member, mut deeper, mut other) = (admitted.start(), below.start(), beside.start());
    made(member.make(CHANNEL));
    made(deeper.make(CHANNEL));
    assert_eq!(other.make(CHANNEL), REFUSED);
    scheduler
        .admit(LITHOS_ADMIT_CGROUP, admitted.id(), false)
        .expect("no longer");
    assert_eq!(member.make(CHANNEL), REFUSED);
    assert_eq!(deeper.make(CHANNEL), REFUSED);
    scheduler
        .admit(LITHOS_ADMIT_CGROUP, below.id(), true)
        .expect("admitted");
    assert_eq!(member.make(CHANNEL), REFUSED);
    made(deeper.make(CHANNEL));
}

#[test]
fn only_who_may_schedule_says_who_is_admitted_and_only_of_what_there_is() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    Process::run(NOBODY, || {
        let nobody = Device::open();
        assert_eq!(
            nobody.set_admission(LITHOS_ADMISSION_ENFORCE, 0),
            Err(Errno::EPERM)
        );
        assert_eq!(
            nobody.admit(LITHOS_ADMIT_CGROUP, 1, true),
            Err(Errno::EPERM)
        );
        let mut next = lithos_gpu_user::default();
        assert_eq!(
            nobody.call(LITHOS_GPU_USER_NEXT, &mut next),
            Err(Errno::EPERM)
        );
    });
    let mut next = lithos_gpu_user::default();
    assert_eq!(
        scheduler.call(LITHOS_GPU_USER_NEXT, &mut next),
        Err(Errno::ENOENT)
    );

    assert_eq!(scheduler.set_admission(3, 0), Err(Errno::EINVAL));
    let mut set = lithos_admission {
        reserved: [0, 1],
        ..lithos_admission::default()
    };
    assert_eq!(
        scheduler.call(LITHOS_ADMISSION_SET, &mut set),
        Err(Errno::EINVAL)
    );
    assert_eq!(scheduler.admit(3, 1, true), Err(Errno::EINVAL));
    let admit = lithos_admit {
        kind: LITHOS_ADMIT_CGROUP,
        admitted: 1,
        id: 1,
        reserved: 0,
    };
    let mut wrong = lithos_admit {
        reserved: 1,
        ..admit
    };
    assert_eq!(scheduler.call(LITHOS_ADMIT, &mut wrong), Err(Errno::EINVAL));
    let mut wrong = lithos_admit {
        admitted: 2,
        ..admit
    };
    assert_eq!(scheduler.call(LITHOS_ADMIT, &mut wrong), Err(Errno::EINVAL));
    for (kind, id) in [
        (LITHOS_ADMIT_PROCESS, 0),
        (LITHOS_ADMIT_PROCESS, 4_000_000),
        (LITHOS_ADMIT_PROCESS, u64::MAX),
        (LITHOS_ADMIT_CGROUP, 0),
        (LITHOS_ADMIT_CGROUP, u64::MAX),
    ] {
        assert_eq!(
            scheduler.admit(kind, id, true),
            Err(Errno::ENOENT),
            "{kind} {id}"
        );
    }
    // None of it has changed anything.
    assert_eq!(
        scheduler.info().expect("info").admission,
        LITHOS_ADMISSION_AUDIT
    );
    made(Program::start(0).make(CHANNEL));
}

#[test]
fn what_is_in_force_stays_so_when_nobody_schedules_and_an_administrator_can_end_it() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    drop(scheduler);
    let mut stranger = Program::start(NOBODY);
    assert_eq!(stranger.make(CHANNEL), REFUSED);
    let administrator = Device::open();
    let pid = u64::try_from(stranger.pid()).expect("a pid");
    administrator
        .admit(LITHOS_ADMIT_PROCESS, pid, true)
        .expect("admitted");
    made(stranger.make(CHANNEL));
    assert_eq!(administrator.gpu_count(stranger.pid()), [1, 0, 0]);
    administrator
        .set_admission(LITHOS_ADMISSION_OFF, 0)
        .expect("off");
    made(Program::start(NOBODY).make(CHANNEL));
}

#[test]
fn more_cgroups_than_there_are_places_for_are_not_admitted_until_one_is_removed() {
    const PLACES: usize = 256;
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_ENFORCE);
    let mut cgroups: Vec<_> = (0..PLACES + 2)
        .map(|number| Cgroup::new(&format!("one-of-{number}")))
        .collect();
    let admit =
        |cgroup: &Cgroup, admitted| scheduler.admit(LITHOS_ADMIT_CGROUP, cgroup.id(), admitted);
    for cgroup in &cgroups[..PLACES] {
        assert_eq!(admit(cgroup, true), Ok(()));
    }
    assert_eq!(admit(&cgroups[PLACES], true), Err(Errno::ENOSPC));
    assert_eq!(admit(&cgroups[3], false), Ok(()));
    assert_eq!(admit(&cgroups[PLACES], true), Ok(()));
    assert_eq!(admit(&cgroups[PLACES + 1], true), Err(Errno::ENOSPC));
    drop(cgroups.remove(5));
    let [.., first, second] = &cgroups[..] else {
        panic!("two cgroups");
    };
    assert_eq!(admit(second, true), Ok(()));
    made(first.start().make(CHANNEL));
    made(second.start().make(CHANNEL));
    assert_eq!(cgroups[3].start().make(CHANNEL), REFUSED);
}

// ---- What is not understood ------------------------------------------------------------------------

#[test]
fn a_layout_that_no_driver_has_yet_is_let_through_and_marked_or_refused() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let pid = getpid().as_raw();
    let client = Client::new();
    made(client.channel());
    let future = |class| {
        client
            .driver
            .make(Layout::Future, client.root, client.device, 0, class)
    };
    made(future(CHANNEL));
    let user = scheduler.gpu_user(pid).expect("a user");
    assert_eq!((user.channels, user.flags), (1, LITHOS_GPU_USER_INEXACT));
    scheduler
        .set_admission(LITHOS_ADMISSION_ENFORCE, 0)
        .expect("enforced");
    // Where its status would be is not known: it fails as a call.
    assert_eq!(future(CHANNEL), Err(Errno::EINVAL));
    made(future(MEMORY));
}

// ---- Much at once ----------------------------------------------------------------------------------

/// Threads that make and free whatever there is, until they are told to end. Returns how many calls were let
/// through and how many were refused.
fn hammer(threads: usize, until: &AtomicBool) -> (u64, u64) {
    std::thread::scope(|scope| {
        let hammers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let (mut passed, mut refused) = (0, 0);
                    let mut client = Client::new();
                    let mut handles = Vec::new();
                    let mut round = thread;
                    while !until.load(Relaxed) {
                        round += 1;
                        let class = [CHANNEL, GROUP, DOORBELL, CHANNEL, MEMORY][round % 5];
                        match client.make(class) {
                            Ok(Ok(handle)) => {
                                passed += 1;
                                handles.push(handle);
                            }
                            Ok(Err(NOT_PERMITTED)) => refused += 1,
                            other => panic!("{other:?}"),
                        }
                        if round % 7 == 0 && !handles.is_empty() {
                            let handle = handles.swap_remove(round % handles.len());
                            assert_eq!(client.free(handle), Ok(Ok(handle)));
                        }
                        if round % 50 == 0 {
                            match round % 3 {
                                0 => assert_eq!(client.free(client.root), Ok(Ok(client.root))),
                                1 => assert_eq!(client.free(client.device), Ok(Ok(client.device))),
                                _ => {}
                            }
                            client = Client::new();
                            handles.clear();
                        }
                    }
                    (passed, refused)
                })
            })
            .collect();
        hammers
            .into_iter()
            .fold((0, 0), |(passed, refused), hammer| {
                let (more_passed, more_refused) = hammer.join().expect("a thread");
                (passed + more_passed, refused + more_refused)
            })
    })
}

#[test]
fn counts_are_right_after_threads_have_hammered_the_driver() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_AUDIT);
    let mut program = Process::start(0, |line| {
        let until = AtomicBool::new(false);
        let (passed, _) = std::thread::scope(|scope| {
            let hammers = scope.spawn(|| hammer(3, &until));
            line.hear();
            until.store(true, Relaxed);
            hammers.join().expect("hammers")
        });
        assert!(passed > 0);
        // One that keeps what it has, for the counts to be compared.
        let client = Client::new();
        made(client.channel());
        line.say(passed);
        line.hear();
    });
    let pid = program.pid().as_raw();
    std::thread::sleep(std::time::Duration::from_millis(500));
    program.line().say(0);
    program.line().hear();
    let truth = Nvidia::open();
    assert_eq!(truth.count(pid), [1, 0, 0]);
    assert_eq!(scheduler.gpu_count(pid), [1, 0, 0]);
    let user = scheduler.gpu_user(pid).expect("a user");
    assert_eq!(user.flags, 0);
    program.line().say(0);
    program.end();
    assert!(scheduler.gpu_users().is_empty());
}

#[test]
fn modes_change_while_threads_hammer_the_driver() {
    let (_driver, _module, scheduler) = inserted(LITHOS_ADMISSION_OFF);
    let hammers: Vec<_> = (0..2)
        .map(|_| {
            Process::start(0, |line| {
                let until = AtomicBool::new(false);
                let (passed, refused) = std::thread::scope(|scope| {
                    let hammers = scope.spawn(|| hammer(2, &until));
                    line.hear();
                    until.store(true, Relaxed);
                    hammers.join().expect("hammers")
                });
                line.say(passed);
                line.say(refused);
            })
        })
        .collect();
    for round in 0..30 {
        let mode = [
            LITHOS_ADMISSION_AUDIT,
            LITHOS_ADMISSION_ENFORCE,
            LITHOS_ADMISSION_AUDIT,
            LITHOS_ADMISSION_ENFORCE,
            LITHOS_ADMISSION_OFF,
        ][round % 5];
        scheduler.set_admission(mode, 0).expect("a mode");
        std::thread::sleep(std::time::Duration::from_millis(10));
        scheduler.gpu_users();
    }
    scheduler
        .set_admission(LITHOS_ADMISSION_AUDIT, 0)
        .expect("a mode");
    for mut hammer in hammers {
        hammer.line().say(0);
        let (passed, refused) = (hammer.line().hear(), hammer.line().hear());
        assert!(
            passed > 0 && refused > 0,
            "{passed} passed, {refused} were refused"
        );
        hammer.end();
    }
    assert!(scheduler.gpu_users().iter().all(|user| user.channels == 0));
}
