// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command `simgpu`, as a person uses it, and its socket, as a broken program uses it.
//!
//! `simgpu run` and `simgpu lib-dir` need the two libraries beside the command: `cargo build -p simgpu-cuda
//! -p simgpu-nvml` (or of the whole workspace) puts them there, and has to come before these tests.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use simgpu::wire::{self, Receiver, Refusal, Reply, Request};
use tempfile::TempDir;

fn simgpu() -> Command {
    Command::new(env!("CARGO_BIN_EXE_simgpu"))
}

fn run(arguments: &[&str]) -> Output {
    simgpu().args(arguments).output().expect("simgpu")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A server of its own, ended with the test.
struct Serving {
    child: Child,
    folder: TempDir,
}

impl Serving {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = Self::start(folder.path(), arguments);
        Self { child, folder }
    }

    /// Starts a server and waits until it says that it is ready.
    fn start(folder: &Path, arguments: &[&str]) -> Child {
        let mut child = simgpu()
            .arg("serve")
            .arg("--socket")
            .arg(folder.join("socket"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("simgpu");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert!(line.starts_with("simgpu: ready at "), "{line}");
        child
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).expect("a connection")
    }

    fn status(&self) -> serde_json::Value {
        let output = simgpu()
            .arg("status")
            .env("SIMGPU_SOCKET", self.socket())
            .output()
            .expect("simgpu");
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have been ended by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hello(version: u32) -> Request {
    Request::Hello {
        version,
        priority: 0,
        page: false,
    }
}

#[test]
fn status_describes_every_gpu() {
    let serving = Serving::new(&["--gpus", "3", "--gpcs", "2,3+1", "--memory-mib", "512"]);
    let status = serving.status();
    let gpus = status["gpus"].as_array().expect("GPUs");
    assert_eq!(gpus.len(), 3);
    for gpu in gpus {
        assert_eq!(gpu["tpcs"], 6);
        assert_eq!(gpu["memory_bytes"], 512 << 20);
        assert_eq!(gpu["resident_blocks"], 0);
        assert_eq!(gpu["behind_ns"], 0);
        assert_eq!(gpu["fell_behind"], false);
    }
    assert_ne!(gpus[0]["uuid"], gpus[1]["uuid"]);
}

#[test]
fn a_server_that_is_told_to_stop_removes_its_socket() {
    let mut serving = Serving::new(&[]);
    let pid = nix::unistd::Pid::from_raw(serving.child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");
    assert!(serving.child.wait().expect("its end").success());
    assert!(!serving.socket().exists());
}

#[test]
fn a_server_replaces_the_socket_of_a_dead_one_only() {
    let mut serving = Serving::new(&[]);
    let socket = serving.socket();
    let socket = socket.to_str().expect("a path");
    let second = run(&["serve", "--socket", socket]);
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("cannot listen"));
    serving.child.kill().expect("killed");
    serving.child.wait().expect("its end");
    serving.child = Serving::start(serving.folder.path(), &[]);
    assert_eq!(serving.status()["gpus"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_client_that_makes_no_sense_is_dropped_and_no_other() {
    let serving = Serving::new(&[]);
    let good = serving.connect();
    let mut receiver = Receiver::default();
    wire::send(&good, &hello(wire::VERSION), None).expect("sent");
    assert!(matches!(
        receiver.receive(&good),
        Ok(Some(Reply::Gpus(gpus))) if gpus.len() == 1
    ));
    let nonsense: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[1, 0, 0, 0, 0xff],
        &[0, 0, 0, 0],
    ];
    for bytes in nonsense {
        let mut bad = serving.connect();
        bad.write_all(bytes).expect("sent");
        let mut rest = Vec::new();
        // The end may come as an end or as a reset, depending on what was left unread.
        let _ = bad.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    // A hello must be first, and of the right version.
    let early = serving.connect();
    wire::send(&early, &Request::Report, None).expect("sent");
    let reply = Receiver::default().receive::<Reply>(&early);
    assert!(matches!(reply, Ok(None) | Err(_)), "{reply:?}");
    let old = serving.connect();
    wire::send(&old, &hello(wire::VERSION + 1), None).expect("sent");
    let reply = Receiver::default().receive(&old).expect("a reply");
    assert_eq!(reply, Some(Reply::Refused(Refusal::Version)));
    // Without a status page nothing can be done but look.
    let open = Request::OpenContext { context: 0, gpu: 0 };
    wire::send(&good, &open, None).expect("sent");
    let reply = receiver.receive(&good).expect("a reply");
    assert_eq!(reply, Some(Reply::Refused(Refusal::Unknown)));
    wire::send(&good, &Request::Report, None).expect("sent");
    assert!(matches!(
        receiver.receive(&good),
        Ok(Some(Reply::Report(_)))
    ));
}

#[test]
fn wrong_options_are_explained() {
    for (arguments, expected) in [
        (["--tpcs", "200"], "200 TPCs do not fit into a mask"),
        (["--gpcs", "4,10"], "a GPC of 10 TPCs"),
        (["--clock-mhz", "0"], "a clock of 0 MHz"),
        (["--memory-mib", "0"], "0 MiB of device memory"),
    ] {
        let output = run(&[&["serve", "--socket", "/nowhere/socket"][..], &arguments].concat());
        assert!(!output.status.success());
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn run_gives_the_program_a_gpu_and_ends_with_its_status() {
    let shell = |script: &str| run(&["run", "--tpcs", "2", "--", "sh", "-c", script]);
    let output = shell("test -S \"$SIMGPU_SOCKET\" && echo \"$LD_LIBRARY_PATH\"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let path = text(&output.stdout);
    let first = path.trim_end().split(':').next().expect("a folder");
    let folder = text(&run(&["lib-dir"]).stdout);
    assert_eq!(first, folder.trim_end());
    for library in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        let target = fs::canonicalize(Path::new(first).join(library)).expect("a library");
        assert!(target.is_file(), "{}", target.display());
    }
    assert_eq!(shell("exit 7").status.code(), Some(7));
    assert_eq!(shell("kill -9 $$").status.code(), Some(128 + 9));
    let missing = run(&["run", "--", "/nowhere/at/all"]);
    assert!(text(&missing.stderr).contains("cannot run /nowhere/at/all"));
}
