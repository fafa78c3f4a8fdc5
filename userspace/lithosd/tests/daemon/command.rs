// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `lithos` against a real daemon: what it prints, how it ends, who may do what.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lithosd::control::{Reply, Request};
use lithosd::status::{OriginStatus, PartitionStatus, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::*;

struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

fn say(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

fn lithos(daemon: &Daemon, line: &str) -> Said {
    say(daemon.lithos().args(line.split_whitespace()))
}

/// A library that stands in for the shim: nothing here loads it.
pub(crate) fn shim(daemon: &Daemon) -> PathBuf {
    let path = daemon.dir().join("liblithos_shim.so");
    fs::write(&path, "").unwrap();
    path.canonicalize().unwrap()
}

fn run(daemon: &Daemon, line: &str, script: &str) -> Command {
    let mut command = daemon.lithos();
    command.env("LITHOS_SHIM", shim(daemon)).arg("run");
    command
        .args(line.split_whitespace())
        .args(["--", "sh", "-c", script]);
    command
}

#[test]
fn partitions_are_created_changed_listed_and_deleted() {
    let daemon = Daemon::start(PARTITIONS);
    let created = lithos(
        &daemon,
        "partition create chat --class lc --guarantee 2 --ceiling 5 --json",
    );
    assert_eq!(created.code, Some(0), "{}", created.error);
    let chat: PartitionStatus = serde_json::from_str(&created.out).unwrap();
    assert_eq!((chat.spec.guarantee, chat.spec.ceiling), (2, Some(5)));
    assert_eq!(chat.origin, OriginStatus::Command);
    let set = lithos(
        &daemon,
        "partition set chat --ceiling none --priority -3 --enforce true",
    );
    assert_eq!(set.code, Some(0), "{}", set.error);
    let spec = daemon.partition("chat").unwrap().spec;
    assert_eq!(
        (spec.ceiling, spec.priority, spec.enforce),
        (None, -3, true)
    );
    let list = lithos(&daemon, "partition list");
    let row = list
        .out
        .lines()
        .find(|line| line.starts_with("chat"))
        .unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words[..10],
        [
            "chat", "lc", "2", "2", "-3", "-", "-", "widen", "yes", "command"
        ]
    );
    let deleted = lithos(&daemon, "partition delete chat");
    assert_eq!((deleted.code, deleted.out.as_str()), (Some(0), ""));
    assert!(daemon.partition("chat").is_none());
}

#[test]
fn what_is_wrong_is_said_in_one_line_and_in_the_exit_status() {
    let daemon = Daemon::start(PARTITIONS);
    for (line, code, expected) in [
        ("partition delete nobody", 1, "there is: a, b, pool"),
        ("partition create a --class lc", 1, "lithos partition set a"),
        (
            "partition create c --class lc --guarantee 99",
            1,
            "ask for at most 5",
        ),
        ("partition set a", 1, "--guarantee"),
        ("partition create c --class fast", 2, "best-effort"),
        (
            "run --partition nobody -- true",
            125,
            "there is: a, b, pool",
        ),
        ("run -- true", 125, "--partition"),
        ("run --tpcs 0 -- true", 2, "--tpcs"),
        ("run --tpcs 14 -- true", 125, "at most 5"),
        ("mps start", 1, "the GPU is simulated"),
    ] {
        let mut command = daemon.lithos();
        let said = say(command
            .env("LITHOS_SHIM", shim(&daemon))
            .args(line.split(' ')));
        assert_eq!(said.code, Some(code), "{line}: {}", said.error);
        assert!(said.error.contains(expected), "{line}: {}", said.error);
        if code != 2 {
            assert_eq!(said.error.lines().count(), 1, "{line}: {}", said.error);
        }
    }
}

#[test]
fn without_a_daemon_the_command_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lithos"));
    let said = say(command
        .env("LITHOS_RUNTIME_DIRECTORY", dir.path())
        .arg("status"));
    assert_eq!(said.code, Some(1));
    let socket = dir.path().join("lithos.sock").display().to_string();
    assert!(said.error.contains("lithosd does not answer at") && said.error.contains(&socket));
}

#[test]
fn status_is_the_same_for_people_and_machines() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = lithos_device::Broker::create_channel(&mut tenant, GPU0, 1).unwrap();
    let sequence = launch(&channel);
    daemon.set_guarantee("a", 1);
    let said = lithos(&daemon, "status --json");
    let status: Status = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (
            status.tenants.len(),
            status.channels.len(),
            status.transit.len()
        ),
        (1, 1, 1)
    );
    assert!(status.cannot_promise.len() > 3);
    let text = lithos(&daemon, "status").out;
    let process = std::process::id().to_string();
    for expected in [
        "13 TPCs of 2 SMs",
        "In transit",
        "cannot promise",
        "from a to",
        &process,
    ] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    complete(&channel, sequence);
}

#[test]
fn run_gives_a_program_what_a_tenant_needs_and_becomes_it() {
    let daemon = Daemon::start(PARTITIONS);
    let script = "echo $CUDA_INJECTION64_PATH $LITHOS_SOCKET $LITHOS_PARTITION $LITHOS_ENFORCE \
                  $CUDA_MPS_CLIENT_PRIORITY $CUDA_MPS_PIPE_DIRECTORY; exit 7";
    let (shim, socket) = (shim(&daemon), daemon.socket());
    let (shim, socket) = (shim.display(), socket.display());
    let said = say(&mut run(&daemon, "--partition b", script));
    assert_eq!(
        (said.code, said.out),
        (Some(7), format!("{shim} {socket} b 1 1\n"))
    );
    let said = say(&mut run(&daemon, "-p a", script));
    assert_eq!(
        (said.code, said.out),
        (Some(7), format!("{shim} {socket} a 0 0\n"))
    );
    assert_eq!(said.error, "");
}

#[test]
fn programs_that_cannot_be_run_end_as_a_shell_would_say() {
    let daemon = Daemon::start(PARTITIONS);
    for (program, code) in [("/nonexistent", 127), ("/", 126)] {
        let mut command = daemon.lithos();
        command.env("LITHOS_SHIM", shim(&daemon));
        let said = say(command.args(["run", "-p", "a", "--", program]));
        assert_eq!(said.code, Some(code), "{}", said.error);
        assert!(said.error.contains(program), "{}", said.error);
    }
    let mut command = daemon.lithos();
    let said = say(command
        .env("LITHOS_SHIM", "/nonexistent.so")
        .args(["run", "-p", "a", "true"]));
    assert!(
        said.code == Some(125) && said.error.contains("/nonexistent.so"),
        "{}",
        said.error
    );
}

#[test]
fn a_profiler_keeps_run_from_running() {
    let daemon = Daemon::start(PARTITIONS);
    let mut command = run(&daemon, "-p a", "true");
    let said = say(command.env("CUDA_INJECTION64_PATH", "/opt/cupti.so"));
    assert_eq!(said.code, Some(125));
    assert!(
        said.error.contains("/opt/cupti.so") && said.error.contains("unset"),
        "{}",
        said.error
    );
}

#[test]
fn a_partition_that_run_makes_lasts_as_long_as_the_program() {
    let daemon = Daemon::start(PARTITIONS);
    let mut child = run(&daemon, "--tpcs 3 --class lc --enforce", "exec sleep 600")
        .spawn()
        .unwrap();
    let name = format!("run-{}", child.id());
    eventually("the program runs", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
        comm.trim() == "sleep"
    });
    let partition = daemon.partition(&name).unwrap();
    assert_eq!(
        (partition.spec.guarantee, partition.spec.enforce),
        (3, true)
    );
    assert_eq!(
        partition.origin,
        OriginStatus::Run {
            pid: i32::try_from(child.id()).unwrap()
        }
    );
    let tenant = daemon.tenant(&name);
    child.kill().unwrap();
    child.wait().unwrap();
    // It stays while a tenant is left, and a change of the others shows that the daemon knows.
    daemon.set_guarantee("a", 5);
    assert!(daemon.partition(&name).is_some());
    drop(tenant);
    eventually("the partition has gone", || {
        daemon.partition(&name).is_none()
    });
    let kept = fs::read_to_string(daemon.dir().join("state/partitions.toml")).unwrap();
    assert!(!kept.contains("run-"), "{kept}");
}

#[test]
fn a_partition_of_a_program_that_never_started_goes_at_once() {
    let daemon = Daemon::start(PARTITIONS);
    let mut command = daemon.lithos();
    command.env("LITHOS_SHIM", shim(&daemon));
    say(command.args(["run", "--tpcs", "1", "--", "/nonexistent"]));
    eventually("the partition has gone", || {
        daemon.status().partitions.len() == 3
    });
}

/// A command of somebody who is neither root, nor the daemon's user, nor in the group. Where the tests
/// do not run as root nobody else can be had, so there it is `None`.
fn as_stranger(daemon: &Daemon, line: &str) -> Option<Command> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    // Where the build is may be closed to others. This process does not write the copy itself: a
    // child of another test could hold the descriptor, and what is being written is not executed.
    let copy = daemon.dir().join("lithos");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_lithos"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(copy);
    command
        .arg("--socket")
        .arg(daemon.control())
        .args(line.split(' '));
    command.env("LITHOS_SHIM", shim(daemon)).current_dir("/");
    command.uid(65_534).gid(65_534);
    Some(command)
}

#[test]
fn strangers_may_look_and_join_and_change_nothing() {
    let daemon = Daemon::start(PARTITIONS);
    for (line, code) in [
        ("status", 0),
        ("partition list", 0),
        ("run -p a -- true", 0),
        ("partition create c --class be", 1),
        ("partition set a --guarantee 1", 1),
        ("partition delete a", 1),
        ("run --tpcs 1 -- true", 125),
    ] {
        let Some(mut command) = as_stranger(&daemon, line) else {
            // Without root there is no stranger; the decision is tested beside the code that makes it.
            break;
        };
        let said = say(&mut command);
        assert_eq!(said.code, Some(code), "{line}: {}", said.error);
        if code != 0 {
            assert!(
                said.error
                    .contains("only root and members of the group lithos"),
                "{}",
                said.error
            );
        }
    }
    assert_eq!(daemon.status().partitions.len(), 3);
}

#[test]
fn members_of_the_group_may_change_things() {
    let nobody = nix::unistd::Gid::from_raw(65_534);
    let name = nix::unistd::Group::from_gid(nobody).unwrap();
    let name = name.map_or_else(|| "nogroup".into(), |group| group.name);
    let daemon = Daemon::start(&format!("group = {name:?}\n{PARTITIONS}"));
    let line = "partition set a --guarantee 1";
    let mut command = as_stranger(&daemon, line).unwrap_or_else(|| {
        let mut command = daemon.lithos();
        command.args(line.split(' '));
        command
    });
    let said = say(&mut command);
    assert_eq!(said.code, Some(0), "{}", said.error);
    assert_eq!(daemon.partition("a").unwrap().spec.guarantee, 1);
}

#[test]
fn a_daemon_in_the_middle_of_requests_ends_at_once_when_told() {
    let daemon = Daemon::start(PARTITIONS);
    let child = run(&daemon, "--tpcs 1", "exec sleep 600").spawn().unwrap();
    let name = format!("run-{}", child.id());
    eventually("the partition is there", || {
        daemon.partition(&name).is_some()
    });
    let list = daemon.ask(&Request::PartitionList);
    assert!(matches!(list, Reply::Partitions(list) if list.len() == 4));
    let (status, dir) = daemon.stop();
    assert!(status.success());
    assert!(!Path::new(&dir.path().join("run/lithos.sock")).exists());
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let mut child = child;
    child.wait().unwrap();
}
