// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Daemons that end or stop, and others that take their tenants over.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use lithos_abi::bindings::*;
use lithos_abi::grant::Grant;
use lithos_abi::message::{decode, encode, set_text, text};
use lithos_device::embedded::SocketBroker;
use lithos_device::{Broker, BrokerError, Channel, packet};
use lithos_policy::TpcSet;
use lithosd::control::Request;
use lithosd::status::TenantStatus;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::command::shim;
use crate::harness::*;

/// Two partitions that may have more than their guarantees.
const WIDE: &str = r#"
[[partition]]
name = "a"
class = "lc"
guarantee = 3
ceiling = 6
[[partition]]
name = "b"
class = "be"
guarantee = 4
"#;

/// A tenant of a daemon, with its channel.
struct Tenant {
    broker: SocketBroker,
    id: u64,
    partition: &'static str,
    channel: Channel,
}

impl Tenant {
    fn of(daemon: &Daemon, partition: &'static str) -> Self {
        let mut broker = SocketBroker::connect(&daemon.socket()).unwrap();
        let id = broker.attach(partition).unwrap().tenant;
        let channel = broker.create_channel(GPU0, 7).unwrap();
        Self {
            broker,
            id,
            partition,
            channel,
        }
    }

    /// Connects to the next daemon as who it was.
    fn come_back(&mut self, daemon: &Daemon) {
        self.broker = SocketBroker::connect(&daemon.socket()).unwrap();
        let attached = self.broker.resume(self.id, self.partition).unwrap();
        assert_eq!(attached.tenant, self.id);
    }

    /// Comes back and hands its channel over.
    fn is_taken_over(&mut self, daemon: &Daemon) {
        self.come_back(daemon);
        self.broker.resume_channel(&self.channel).unwrap();
    }

    fn granted(&self) -> TpcSet {
        granted(&self.channel)
    }
}

/// What a status says of the TPCs of a partition.
fn owned(daemon: &Daemon, partition: &str) -> TpcSet {
    daemon.partition(partition).unwrap().shares[0].owned
}

/// A packet as the tenant's, with descriptors of its choice; returns the errno and text of the reply.
fn hand_over(socket: &OwnedFd, channel: u64, files: &[BorrowedFd<'_>]) -> (u32, String) {
    let request = lithos_channel_resume {
        channel,
        reserved: [0; 3],
    };
    packet::send(socket.as_fd(), &encode(&request), files).unwrap();
    let mut buffer = [0; 1024];
    let mut size = None;
    eventually("a reply", || {
        size = packet::receive(socket.as_fd(), &mut buffer).ok();
        size.is_some()
    });
    let reply: lithos_channel = decode(&buffer[..size.unwrap()]).unwrap();
    (reply.reply.error, text(&reply.reply.text).unwrap())
}

/// A raw connection that has come back as a tenant.
fn raw(daemon: &Daemon, tenant: u64, partition: &str) -> OwnedFd {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(&daemon.socket()).unwrap()).unwrap();
    let request = lithos_resume {
        version: LITHOS_ABI_VERSION,
        reserved: 0,
        tenant,
        partition: set_text(partition),
    };
    packet::send(fd.as_fd(), &encode(&request), &[]).unwrap();
    let mut buffer = [0; 1024];
    let mut size = None;
    eventually("a reply", || {
        size = packet::receive(fd.as_fd(), &mut buffer).ok();
        size.is_some()
    });
    let reply: lithos_attached = decode(&buffer[..size.unwrap()]).unwrap();
    assert_eq!(reply.reply.error, 0, "{:?}", text(&reply.reply.text));
    fd
}

/// A connection of another process, for which this one speaks.
fn in_another_process(daemon: &Daemon) -> (std::process::Child, SocketBroker) {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::empty(),
        None,
    )
    .unwrap();
    let (raw, address) = (fd.as_raw_fd(), UnixAddr::new(&daemon.socket()).unwrap());
    let mut command = Command::new("sleep");
    command.arg("600");
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(connect(raw, &address)?));
    }
    // The child has connected when this returns.
    let child = command.spawn().unwrap();
    (child, SocketBroker::from_socket(fd))
}

fn left(daemon: &Daemon) -> Vec<TenantStatus> {
    let tenants = daemon.status().tenants.into_iter();
    tenants.filter(|tenant| !tenant.left.is_empty()).collect()
}

#[test]
fn a_daemon_that_is_killed_leaves_last_grants_and_the_next_one_takes_its_tenants_over() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut a, mut pool) = (Tenant::of(&daemon, "a"), Tenant::of(&daemon, "pool"));
    let before = (a.granted(), pool.granted());
    let grant: Grant = a.channel.grant().read().unwrap();
    let dir = daemon.kill();
    assert_eq!(a.channel.grant().read().unwrap(), grant);

    let daemon = Daemon::start_in(dir, PARTITIONS);
    assert_eq!(left(&daemon).len(), 2);
    assert_eq!((owned(&daemon, "a"), owned(&daemon, "pool")), before);
    a.is_taken_over(&daemon);
    pool.is_taken_over(&daemon);
    assert_eq!((a.granted(), pool.granted()), before);
    let after = a.channel.grant().read().unwrap();
    assert!(after.sequence > grant.sequence, "{after:?} after {grant:?}");
    let status = daemon.status();
    assert!(left(&daemon).is_empty());
    assert_eq!(status.channels.len(), 2);
    assert!(status.channels.iter().all(|channel| channel.taken_over));

    // From now on it is a channel like any other.
    daemon.set_guarantee("a", 2);
    assert_eq!(a.granted().len(), 2);
    drop(a.broker);
    eventually("the tenant has ended", || {
        daemon.status().tenants.len() == 1
    });
    assert!(a.channel.grant().is_retired());
}

#[test]
fn a_daemon_that_was_told_to_end_leaves_its_tenants_to_the_next_one_too() {
    let daemon = Daemon::start(WIDE);
    let mut a = Tenant::of(&daemon, "a");
    let before = a.granted();
    let (_, dir) = daemon.stop();
    assert_eq!(a.granted().len(), 3, "what is guaranteed");
    let daemon = Daemon::start_in(dir, WIDE);
    a.is_taken_over(&daemon);
    assert_eq!(a.granted(), before);
}

#[test]
fn nobody_gets_what_a_tenant_had_that_has_not_come_back() {
    let pool = "[limits]\ngrant_wait_ms = 100\nlinger_ms = 0\n\
                [[partition]]\nname = \"p\"\nclass = \"be\"\n\
                [[partition]]\nname = \"q\"\nclass = \"be\"\n";
    let daemon = Daemon::start(pool);
    let mut p = Tenant::of(&daemon, "p");
    assert_eq!(p.granted().len(), 13, "it has all");
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, pool);
    // Its share becomes smaller, but it may still launch on all that it had.
    let (mut child, mut q) = in_another_process(&daemon);
    q.attach("q").unwrap();
    let error = q.create_channel(GPU0, 1).unwrap_err();
    assert!(matches!(error, BrokerError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("of p"), "{error}");

    p.is_taken_over(&daemon);
    let channel = q.create_channel(GPU0, 1).unwrap();
    assert!(granted(&channel).is_disjoint(p.granted()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_a_tenant_had_passes_on_when_its_process_has_ended() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut child, mut broker) = in_another_process(&daemon);
    let id = broker.attach("a").unwrap().tenant;
    let _channel = broker.create_channel(GPU0, 1).unwrap();

    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    assert_eq!(left(&daemon)[0].pid, i32::try_from(child.id()).unwrap());
    let mut stranger = SocketBroker::connect(&daemon.socket()).unwrap();
    let error = stranger.resume(id, "a").unwrap_err().to_string();
    assert!(error.contains("this process was not tenant"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    eventually("its TPCs are free", || owned(&daemon, "a").is_empty());

    // One that ended while no daemon ran.
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    assert!(daemon.status().tenants.is_empty());
}

#[test]
fn launches_from_before_hold_their_tpcs_until_they_complete() {
    let daemon = Daemon::start(WIDE);
    let mut a = Tenant::of(&daemon, "a");
    let before = a.granted();
    let launched = launch(&a.channel);
    let dir = daemon.kill();
    let blind = launch(&a.channel);
    let daemon = Daemon::start_in(dir, WIDE);
    a.is_taken_over(&daemon);
    daemon.set_guarantee("b", 10);
    let kept = a.granted();
    assert!(kept.len() == 3 && kept.is_subset(before), "{kept}");
    for sequence in [launched, blind] {
        let awaited = daemon.status().transit;
        assert_eq!(awaited.len(), 1, "{sequence}: {awaited:?}");
        assert_eq!(awaited[0].tpcs, before - kept);
        complete(&a.channel, sequence);
    }
    eventually("the TPCs pass on", || daemon.status().transit.is_empty());
    let totals = daemon.status().channels[0].totals;
    assert_eq!((totals.launches, totals.inherited), (2, 2));
    assert_eq!((totals.violations, totals.lost), (0, 0));
}

#[test]
fn a_launch_that_read_the_old_page_is_waited_for_whenever_it_began() {
    let daemon = Daemon::start(WIDE);
    let a = Tenant::of(&daemon, "a");
    let before = a.granted();
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, WIDE);
    daemon.set_guarantee("b", 10);
    // It has handed over and not confirmed: nothing is known to be out of use.
    let connection = raw(&daemon, a.id, "a");
    let [_, ring, arena] = a.channel.descriptors() else {
        panic!("three pages")
    };
    let (error, text) = hand_over(&connection, a.channel.id(), &[ring.as_fd(), arena.as_fd()]);
    assert_eq!(error, 0, "{text}");
    let late = launch(&a.channel);
    assert_eq!(daemon.status().transit[0].tpcs.len(), 3);
    let request = lithos_channel_resumed {
        channel: a.channel.id(),
    };
    packet::send(connection.as_fd(), &encode(&request), &[]).unwrap();
    eventually("it is taken over", || {
        let transit = daemon.status().transit;
        transit.len() == 1 && !transit[0].awaiting[0].drains.is_empty()
    });
    assert!(daemon.status().transit[0].tpcs.is_subset(before));
    complete(&a.channel, late);
    eventually("the TPCs are free", || daemon.status().transit.is_empty());
}

/// What can be handed over that is no ring and no arena.
#[test]
fn files_that_are_no_ring_and_arena_are_refused_and_the_tenant_keeps_what_it_had() {
    let daemon = Daemon::start(WIDE);
    let a = Tenant::of(&daemon, "a");
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, WIDE);
    let connection = raw(&daemon, a.id, "a");
    let id = a.channel.id();
    let [_, ring, arena] = a.channel.descriptors() else {
        panic!("three pages")
    };
    let (ring, arena) = (ring.as_fd(), arena.as_fd());
    let open = daemon.descriptors();
    let memory = |bytes: u64, seals: SealFlag| {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"forged", flags).unwrap());
        file.set_len(bytes).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        file
    };
    let bytes = File::from(ring.try_clone_to_owned().unwrap())
        .metadata()
        .unwrap()
        .len();
    let shrinks = memory(bytes, SealFlag::F_SEAL_GROW);
    let short = memory(bytes - 4096, SealFlag::F_SEAL_SHRINK);
    let on_disk = File::open(daemon.dir().join("lithosd.toml")).unwrap();
    let (reads, _writes) = std::io::pipe().unwrap();
    let cases: [(u64, &[BorrowedFd<'_>], &str); 9] = [
        (id, &[], "0 came"),
        (id, &[ring], "1 came"),
        (id, &[ring, arena, ring], "3 came"),
        (id, &[arena, ring], "bytes"),
        (id, &[shrinks.as_fd(), arena], "not sealed"),
        (id, &[short.as_fd(), arena], "bytes"),
        (id, &[on_disk.as_fd(), arena], "none"),
        (id, &[reads.as_fd(), arena], "none"),
        (id + 1, &[ring, arena], "none that this process had"),
    ];
    for (channel, files, expected) in cases {
        let (error, text) = hand_over(&connection, channel, files);
        assert!(error != 0 && text.contains(expected), "{expected}: {text}");
    }
    eventually("nothing of it stays open", || daemon.descriptors() == open);
    assert_eq!(left(&daemon).len(), 1);
    let (error, text) = hand_over(&connection, id, &[ring, arena]);
    assert_eq!(error, 0, "{text}");
    let (error, text) = hand_over(&connection, id, &[ring, arena]);
    assert!(error != 0 && text.contains("2 descriptors"), "{text}");
}

#[test]
fn a_process_that_attaches_anew_gives_up_what_it_had() {
    let daemon = Daemon::start(PARTITIONS);
    let a = Tenant::of(&daemon, "a");
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    let _again = daemon.tenant("a");
    assert!(left(&daemon).is_empty());
    let mut broker = SocketBroker::connect(&daemon.socket()).unwrap();
    assert!(broker.resume(a.id, "a").is_err());
}

#[test]
fn partitions_of_tenants_outlive_the_configuration_and_the_daemon() {
    let daemon = Daemon::start(PARTITIONS);
    let mut a = Tenant::of(&daemon, "a");
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, "");
    let problems = daemon.status().problems;
    assert!(
        problems[0].contains("partition a is not configured"),
        "{problems:?}"
    );
    a.is_taken_over(&daemon);
    assert_eq!(a.granted().len(), 4);
    drop(a);
    eventually("it goes with its tenant", || {
        daemon.partition("a").is_none()
    });
}

#[test]
fn a_partition_made_for_a_process_lives_as_long_as_the_process() {
    let daemon = Daemon::start(PARTITIONS);
    let mut command = daemon.lithos();
    command.env("LITHOS_SHIM", shim(&daemon));
    command.args(["run", "--tpcs", "2", "--class", "be", "--", "sleep", "600"]);
    let mut run = command.stdin(Stdio::null()).spawn().unwrap();
    let name = format!("run-{}", run.id());
    eventually("it is there", || daemon.partition(&name).is_some());
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    assert!(daemon.partition(&name).is_some());
    run.kill().unwrap();
    run.wait().unwrap();
    eventually("it is gone", || daemon.partition(&name).is_none());
}

#[test]
fn what_a_daemon_left_that_cannot_be_read_is_a_problem_and_no_reason_not_to_start() {
    let daemon = Daemon::start(PARTITIONS);
    let _a = Tenant::of(&daemon, "a");
    let file = daemon
        .dir()
        .join(format!("run/tenants/{}.json", daemon.pid()));
    let dir = daemon.kill();
    fs::write(&file, "{}").unwrap();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    let problems = daemon.status().problems;
    assert!(problems[0].contains("are not taken over"), "{problems:?}");
    assert!(!file.exists(), "and is not read again");
}

/// Runs a second daemon in the place of one that is stopped.
fn second(dir: &Path, arguments: &[&str]) -> std::process::Child {
    let mut command = lithosd(&dir.join("lithosd.toml"));
    command.args(arguments).stdin(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn a_daemon_that_answers_is_not_taken_over() {
    let daemon = Daemon::start(PARTITIONS);
    let mut command = lithosd(&daemon.dir().join("lithosd.toml"));
    let output = command.arg("--take-over").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("stop it first"),
        "{text}"
    );
    daemon.status();
}

#[test]
fn a_daemon_that_is_stopped_is_killed_and_taken_over() {
    let mut daemon = Daemon::start(PARTITIONS);
    let mut a = Tenant::of(&daemon, "a");
    let before = a.granted();
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let next = second(daemon.dir(), &["--take-over"]);
    let status = daemon.replace(next).wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    a.is_taken_over(&daemon);
    assert_eq!(a.granted(), before);
}

#[test]
fn a_daemon_that_wakes_up_after_it_was_replaced_writes_where_nobody_reads_and_ends() {
    let mut daemon = Daemon::start(PARTITIONS);
    let (mut a, mut b) = (Tenant::of(&daemon, "a"), Tenant::of(&daemon, "b"));
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let next = second(daemon.dir(), &["--take-over", "--spare"]);
    let mut old = daemon.replace(next);
    a.is_taken_over(&daemon);
    b.is_taken_over(&daemon);
    daemon.set_guarantee("a", 2);
    let (of_a, of_b) = (a.granted(), b.granted());
    assert_eq!(of_a.len(), 2);
    kill(
        nix::unistd::Pid::from_raw(i32::try_from(old.id()).unwrap()),
        Signal::SIGCONT,
    )
    .unwrap();
    let status = old.wait().unwrap();
    assert!(!status.success(), "{status}");
    assert_eq!((a.granted(), b.granted()), (of_a, of_b));
    // The new one is still where tenants and operators look, and so is what it leaves.
    assert!(matches!(
        daemon.ask(&Request::PartitionList),
        lithosd::control::Reply::Partitions(_)
    ));
    let dir = daemon.kill();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    assert_eq!(left(&daemon).len(), 2);
    assert_eq!(owned(&daemon, "a"), of_a);
}
