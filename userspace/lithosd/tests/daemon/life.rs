// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Starting, ending, starting again; and tenants whose processes are killed.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use lithos_device::Broker;
use lithos_device::embedded::SocketBroker;
use lithosd::control::{FailureKind, Reply, Request};
use lithosd::partition::{ClassWord, PartitionEntry};
use lithosd::status::OriginStatus;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::harness::*;

/// Runs `lithosd` where it is expected to end by itself, and returns what it said.
fn output(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let mut text = String::from_utf8(output.stderr).unwrap();
    text.push_str(&String::from_utf8(output.stdout).unwrap());
    (output.status.success(), text)
}

#[test]
fn the_configuration_is_checked_without_starting() {
    let dir = directory(&[]);
    let good = configure(dir.path(), PARTITIONS);
    let (success, text) = output(lithosd(&good).arg("--check-config"));
    assert!(success && text.contains("3 partitions"), "{text}");
    assert!(!dir.path().join("run").exists());
    let bad = configure(dir.path(), "[limits]\ntenants = 0\n");
    let (success, text) = output(lithosd(&bad).arg("--check-config"));
    assert!(
        !success && text.contains("limits.tenants = 0: it must be from 1"),
        "{text}"
    );
    let missing = dir.path().join("missing.toml");
    let (success, text) = output(lithosd(&missing).arg("--check-config"));
    assert!(!success && text.contains("missing.toml"), "{text}");
}

#[test]
fn a_second_daemon_on_a_runtime_directory_is_refused() {
    let daemon = Daemon::start(PARTITIONS);
    let config = daemon.dir().join("lithosd.toml");
    let (success, text) = output(&mut lithosd(&config));
    assert!(
        !success && text.contains("runs already") && text.contains(&daemon.pid().to_string()),
        "{text}"
    );
    assert!(matches!(
        daemon.ask(&Request::PartitionList),
        Reply::Partitions(_)
    ));
}

#[test]
fn a_daemon_that_is_told_to_end_takes_its_sockets_along_and_tenants_keep_their_guarantees() {
    let daemon = Daemon::start(
        "[[partition]]\nname = \"wide\"\nclass = \"lc\"\nguarantee = 4\nceiling = 9\n",
    );
    let mut tenant = daemon.tenant("wide");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let before = granted(&channel);
    assert_eq!(before.len(), 9);
    // The grant stays as it is, because it is as large as the ceiling; what is guaranteed does not.
    daemon.set_guarantee("wide", 3);
    assert_eq!(granted(&channel), before);
    let (status, dir) = daemon.stop();
    assert!(status.success(), "{status}");
    let after = granted(&channel);
    assert!(after.len() == 3 && after.is_subset(before), "{after}");
    for socket in ["broker.sock", "lithos.sock"] {
        assert!(!dir.path().join("run").join(socket).exists());
    }
}

#[test]
fn what_was_changed_by_command_holds_after_a_restart() {
    let daemon = Daemon::start(PARTITIONS);
    daemon.set_guarantee("a", 6);
    let partition = PartitionEntry::new("new", ClassWord::Lc, 1);
    assert!(matches!(
        daemon.ask(&Request::PartitionCreate { partition }),
        Reply::Partition(_)
    ));
    let delete = Request::PartitionDelete { name: "b".into() };
    assert!(matches!(daemon.ask(&delete), Reply::Partition(_)));
    let (_, dir) = daemon.stop();
    let daemon = Daemon::start_in(dir, PARTITIONS);
    let partitions = daemon.status().partitions;
    let seen: Vec<_> = (partitions.iter())
        .map(|p| (p.spec.name.as_str(), p.spec.guarantee, &p.origin))
        .collect();
    let (configured, command) = (OriginStatus::Configuration, OriginStatus::Command);
    assert_eq!(
        seen,
        [
            ("a", 6, &command),
            ("new", 1, &command),
            ("pool", 0, &configured)
        ]
    );
}

#[test]
fn a_partition_that_does_not_fit_is_left_out_and_reported() {
    let daemon = Daemon::start(&format!(
        "{PARTITIONS}[[partition]]\nname = \"huge\"\nclass = \"lc\"\nguarantee = 12\n"
    ));
    let status = daemon.status();
    assert_eq!(status.partitions.len(), 3);
    assert_eq!(status.problems.len(), 1);
    let problem = &status.problems[0];
    assert!(
        problem.contains("partition huge of the configuration is left out"),
        "{problem}"
    );
}

#[test]
fn changes_that_cannot_be_are_refused_and_change_nothing() {
    let daemon = Daemon::start(PARTITIONS);
    let fails = |request: &Request| match daemon.ask(request) {
        Reply::Error(failure) => (failure.kind, failure.message),
        other => panic!("{request:?}: {other:?}"),
    };
    let create = |entry| fails(&Request::PartitionCreate { partition: entry });
    let (kind, text) = create(PartitionEntry::new("a", ClassWord::Lc, 1));
    assert!(
        kind == FailureKind::Exists && text.contains("lithos partition set a"),
        "{text}"
    );
    let (kind, text) = create(PartitionEntry::new("c", ClassWord::Lc, 6));
    assert!(
        kind == FailureKind::Refused && text.contains("ask for at most 5"),
        "{text}"
    );
    let (kind, text) = create(PartitionEntry::new("c d", ClassWord::Lc, 1));
    assert!(
        kind == FailureKind::Invalid && text.contains("letters, digits"),
        "{text}"
    );
    let (kind, _) = fails(&Request::PartitionDelete { name: "x".into() });
    assert_eq!(kind, FailureKind::NotFound);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let (kind, text) = fails(&Request::PartitionDelete { name: "a".into() });
    assert!(
        kind == FailureKind::Refused && text.contains("1 tenants"),
        "{text}"
    );
    assert!(matches!(daemon.set_guarantee("a", 10), Reply::Error(_)));
    assert_eq!(granted(&channel).len(), 4);
    assert_eq!(daemon.partition("a").unwrap().spec.guarantee, 4);
    assert!(!daemon.dir().join("state/partitions.toml").exists());
}

#[test]
fn a_change_that_cannot_be_kept_is_undone() {
    let daemon = Daemon::start(PARTITIONS);
    fs::create_dir(daemon.dir().join("state/partitions.toml")).unwrap();
    let reply = daemon.set_guarantee("a", 2);
    let Reply::Error(failure) = reply else {
        panic!("{reply:?}");
    };
    assert!(
        failure.message.starts_with("nothing was changed"),
        "{failure}"
    );
    assert_eq!(daemon.partition("a").unwrap().spec.guarantee, 4);
    let mut tenant = daemon.tenant("a");
    assert_eq!(granted(&tenant.create_channel(GPU0, 1).unwrap()).len(), 4);
}

#[test]
fn a_tenant_ends_with_its_process_whoever_else_holds_its_connection() {
    let daemon = Daemon::start(PARTITIONS);
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
    // The child has connected when this returns, and this process holds the same connection.
    let mut child = command.spawn().unwrap();
    let mut tenant = SocketBroker::from_socket(fd);
    tenant.attach("a").unwrap();
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let seen = &daemon.status().tenants[0];
    assert_eq!(seen.pid, i32::try_from(child.id()).unwrap());
    assert_eq!(seen.command, "sleep");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    assert!(channel.grant().is_retired());
    assert!(tenant.create_channel(GPU0, 2).is_err());
}

#[test]
fn the_heartbeat_goes_on_while_there_are_tenants() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let page = fs::File::from(channel.descriptors()[0].try_clone().unwrap());
    let beat = || {
        let mut bytes = [0; 8];
        let at = std::mem::offset_of!(lithos_abi::bindings::lithos_grant_page, heartbeat_ns);
        page.read_exact_at(&mut bytes, at as u64).unwrap();
        u64::from_le_bytes(bytes)
    };
    let first = beat();
    eventually("the heart beats on", || beat() > first);
}

#[test]
fn a_daemon_without_tenants_does_not_work() {
    let daemon = Daemon::start(PARTITIONS);
    let tenant = daemon.tenant("a");
    drop(tenant);
    eventually("the tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = stat
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().to_owned()
    };
    // Whatever is due comes within one timer period; after that nothing wakes it.
    let mut last = state();
    eventually("it sleeps for long", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = std::mem::replace(&mut last, state());
        before == last
    });
}

/// Lines as the journal wants them, and what the service manager is told.
#[test]
fn the_service_manager_hears_when_the_daemon_is_ready_and_that_it_ends() {
    let dir = directory(&[GPU0]);
    let config = configure(dir.path(), PARTITIONS);
    let path = dir.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let heard = || {
        let mut buffer = [0; 64];
        let size = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    let mut command = lithosd(&config);
    command.env("NOTIFY_SOCKET", &path).stdin(Stdio::null());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(heard(), "READY=1");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.lines().count() > 2, "{text}");
    for line in text.lines() {
        assert!(line.starts_with("<6>") || line.starts_with("<4>"), "{line}");
    }
}
