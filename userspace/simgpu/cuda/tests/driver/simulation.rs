// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A server for a test, and programs that run on it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use simgpu::config::{Config, Options};
use simgpu::engine::Summary;
use simgpu::server::Server;
use simgpu::wire::{self, GpuReport, Receiver, Reply, Request};
use tempfile::TempDir;

/// Names the program that this executable is to play.
pub(crate) const PROGRAM_VARIABLE: &str = "SIMGPU_TEST_PROGRAM";

/// A running server.
pub(crate) struct Simulation {
    server: Server,
    folder: TempDir,
}

/// Options for a small GPU that any machine can simulate in time.
pub(crate) fn options() -> Options {
    Options {
        gpus: 1,
        tpcs: Some(4),
        gpcs: None,
        clock_mhz: 1.0,
        speed_factor: 1.0,
        memory_mib: 1024,
        tolerance_ms: 100,
        mps_death_ms: None,
    }
}

impl Simulation {
    pub(crate) fn new(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(built_library(), folder.path().join(name)).expect("a link");
        }
        let config = Config::try_from(options).expect("a configuration");
        let server = Server::start(config, &folder.path().join("socket")).expect("a server");
        Self { server, folder }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this executable"));
        command
            .env(PROGRAM_VARIABLE, program)
            .env("SIMGPU_SOCKET", self.folder.path().join("socket"))
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env_remove("CUDA_INJECTION64_PATH")
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("CUDA_MPS_CLIENT_PRIORITY");
        command
    }

    /// Runs a program to its end, which must be a good one.
    pub(crate) fn run(&self, program: &str) {
        self.run_with(program, &[]);
    }

    /// The same, with more in its environment.
    pub(crate) fn run_with(&self, program: &str, environment: &[(&str, &str)]) {
        let mut command = self.command(program);
        command.envs(environment.iter().copied());
        let output = command.output().expect("the program");
        assert!(
            output.status.success(),
            "{program}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Starts a program that talks to the test.
    pub(crate) fn start(&self, program: &str) -> Running {
        self.start_with(program, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(&self, program: &str, environment: &[(&str, &str)]) -> Running {
        let mut child = self
            .command(program)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Running { child, output }
    }

    /// Waits until GPU 0 is as wanted.
    pub(crate) fn wait_until(&self, wanted: impl Fn(&GpuReport) -> bool) {
        let socket = UnixStream::connect(self.folder.path().join("socket")).expect("the server");
        let mut receiver = Receiver::default();
        let hello = Request::Hello {
            version: wire::VERSION,
            priority: 0,
            page: false,
        };
        wire::send(&socket, &hello, None).expect("sent");
        let gpus = receiver.receive(&socket).expect("a reply");
        assert!(matches!(gpus, Some(Reply::Gpus(_))));
        loop {
            wire::send(&socket, &Request::Report, None).expect("sent");
            match receiver.receive(&socket).expect("a reply") {
                Some(Reply::Report(gpus)) if wanted(&gpus[0]) => return,
                Some(Reply::Report(_)) => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Ends the server.
    pub(crate) fn stop(self) -> Summary {
        self.server.stop()
    }
}

/// A program that talks to its test.
pub(crate) struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// Waits for the program to say something.
    #[track_caller]
    pub(crate) fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), wanted);
    }

    /// Says something to the program.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{line}").expect("a line");
    }

    /// Waits for the program's end, which must be a good one.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("its end").success());
    }

    /// Kills the program.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("its end");
    }
}

/// Says something to the test.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Waits for the test to say something.
pub(crate) fn hear(wanted: &str) {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
    assert_eq!(line.trim_end(), wanted);
}

/// The library that Cargo built for this test: beside this executable.
fn built_library() -> PathBuf {
    let executable = std::env::current_exe().expect("this executable");
    let library = executable.with_file_name("libsimgpu_cuda.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}
