// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The library as programs use it: loaded by nvml-wrapper, talking to a real server.
//!
//! This executable is both the tests and the programs that they run: a library reads its environment
//! once per process, so every program needs a process of its own.

mod programs;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};
use simgpu::config::{Config, Options};
use simgpu::server::Server;

/// The environment variable that names the program to be.
const PROGRAM_VARIABLE: &str = "SIMGPU_NVML_TEST_PROGRAM";

fn main() -> ExitCode {
    if let Ok(program) = std::env::var(PROGRAM_VARIABLE) {
        programs::run(&program);
        return ExitCode::SUCCESS;
    }
    let trial = |name: &'static str, program: &'static str| {
        Trial::test(name, move || {
            Simulation::new().run(program);
            Ok(())
        })
    };
    let trials = vec![
        trial("gpus_are_known_by_index_uuid_and_pci_address", "identity"),
        trial(
            "a_process_with_a_context_is_listed_with_its_memory",
            "activity",
        ),
        trial("what_comes_later_is_absent", "absent"),
        trial("bad_arguments_are_refused", "arguments"),
        trial("uses_are_counted_until_the_last_shutdown", "uses"),
        trial("a_forked_child_asks_for_itself", "forked"),
        Trial::test("without_a_server_there_is_no_driver", || {
            let mut command = command("unloaded");
            let status = command.env_remove("SIMGPU_SOCKET").status()?;
            assert!(status.success());
            let status = command.env("SIMGPU_SOCKET", "/nonexistent").status()?;
            assert!(status.success());
            Ok(())
        }),
        Trial::test("a_gpu_whose_server_has_ended_is_lost", || {
            Simulation::new().outlive("bereft");
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The library that Cargo built for this test: beside this executable.
fn built_library() -> PathBuf {
    let executable = std::env::current_exe().expect("this executable");
    let library = executable.with_file_name("libsimgpu_nvml.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

fn command(program: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this executable"));
    command.env(PROGRAM_VARIABLE, program);
    command
}

/// A server with two GPUs of different places.
struct Simulation {
    server: Server,
    folder: tempfile::TempDir,
}

impl Simulation {
    fn new() -> Self {
        let options = Options {
            gpus: 2,
            tpcs: Some(66),
            gpcs: None,
            clock_mhz: 1.0,
            speed_factor: 1.0,
            memory_mib: 1024,
            tolerance_ms: 10_000,
            mps_death_ms: None,
        };
        let config = Config::try_from(&options).expect("a configuration");
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(config, &folder.path().join("socket")).expect("a server");
        Self { server, folder }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command.env("SIMGPU_SOCKET", self.folder.path().join("socket"));
        command
    }

    /// Runs a program to its end, which must be a good one.
    fn run(self, program: &str) {
        let output = self.command(program).output().expect("the program");
        assert!(
            output.status.success(),
            "{program}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        self.server.stop();
    }

    /// Runs a program that says a line, then is told of the server's end.
    fn outlive(self, program: &str) {
        let mut child = self
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        assert_eq!(line.trim_end(), "ready");
        self.server.stop();
        writeln!(child.stdin.take().expect("its input"), "go").expect("a line");
        assert!(child.wait().expect("its end").success());
    }
}
