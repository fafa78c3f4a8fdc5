// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! LithOS on a GPU, with folders and processes of its own: what end-to-end tests, demo and benchmarks
//! run their tenants on.
//!
//! The idea: a testbed is a simulated or a real GPU, a folder, and a daemon that lives in that folder
//! and nowhere else. Everything ends with the testbed, and several can exist side by side.
//!
//! So its daemon is the broker itself, because the kernel's is the machine's. With
//! `LITHOS_TEST_BROKER=kernel` it is the kernel's all the same: for a machine that is there for nothing else.

mod process;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use lithos_device::kernel::DEFAULT_DEVICE;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

pub use process::{Outcome, PATIENCE, Process, until};

/// What is put under LithOS.
#[derive(Clone, Debug)]
pub enum Hardware {
    /// The GPUs that the driver of this machine shows.
    Real,
    /// Simulated ones.
    Simulated(Simulation),
}

/// Simulated GPUs. Their clock is slow enough for the interpreter to keep up with all their SMs.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub gpus: u32,
    /// TPCs of each.
    pub tpcs: u32,
    pub clock_mhz: f64,
    /// How far the simulation may lag before its times mean nothing, and it fails.
    pub tolerance_ms: u64,
    /// As under MPS, who ends stays on the GPU for so long; `None`: not at all.
    pub mps_death_ms: Option<u64>,
}

impl Simulation {
    /// One GPU of so many TPCs for what is about what happens, not when: it may lag.
    pub fn of_tpcs(tpcs: u32) -> Self {
        Self {
            gpus: 1,
            tpcs,
            clock_mhz: 1.0,
            tolerance_ms: 60_000,
            mps_death_ms: None,
        }
    }
}

/// Where the programs are: beside each other in one folder.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those in a folder, which must hold all of them.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let needed = ["lithosd", "lithos", "tenant", "liblithos_shim.so"];
        for name in needed {
            ensure!(
                folder.join(name).exists(),
                "{} is missing: build everything with `cargo build --workspace`",
                folder.join(name).display()
            );
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Those beside the program that runs; Cargo puts tests one folder deeper.
    pub fn beside_this() -> anyhow::Result<Self> {
        let this = std::env::current_exe()?;
        let folder = this.parent().context("a program lies in a folder")?;
        if folder.ends_with("deps") {
            return Self::in_folder(folder.parent().unwrap_or(folder));
        }
        Self::in_folder(folder)
    }

    /// One of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// LithOS on a GPU.
#[derive(Debug)]
pub struct Testbed {
    programs: Programs,
    /// What programs need in their environment to find the GPU.
    environment: Vec<(&'static str, OsString)>,
    /// As the daemon's configuration has it.
    broker: String,
    daemon: Option<Process>,
    simulator: Option<Process>,
    // Last, so that the folders go after those who use them.
    run: TempDir,
    folder: TempDir,
}

impl Testbed {
    /// Finds or simulates the GPUs, and makes a folder. Nobody manages anything yet.
    pub fn new(programs: Programs, hardware: &Hardware) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lithos-").tempdir()?;
        // Tenants of other users come here, too.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let run = runtime_folder()?;
        let mut testbed = Self {
            programs,
            environment: Vec::new(),
            broker: String::new(),
            daemon: None,
            simulator: None,
            run,
            folder,
        };
        match std::env::var("LITHOS_TEST_BROKER") {
            Ok(broker) => testbed.set_broker(&broker),
            Err(_) => testbed.set_broker("embedded"),
        }
        if let Hardware::Simulated(simulation) = hardware {
            testbed.simulate(simulation)?;
        }
        Ok(testbed)
    }

    /// Sets what the configuration of the next daemon says about its broker. Programs look for the
    /// kernel's unless it is `embedded`.
    pub fn set_broker(&mut self, broker: &str) {
        self.broker = broker.into();
        self.set_variable(
            "LITHOS_DEVICE",
            match broker {
                "embedded" => "/nonexistent",
                _ => DEFAULT_DEVICE,
            },
        );
    }

    fn simulate(&mut self, simulation: &Simulation) -> anyhow::Result<()> {
        let program = self.programs.path("simgpu");
        let socket = self.folder.path().join("simgpu.sock");
        let libraries = Process::start("simgpu lib-dir", Command::new(&program).arg("lib-dir"))?
            .finish(PATIENCE)?;
        let libraries = libraries
            .lines
            .first()
            .with_context(|| format!("simgpu lib-dir: {}", libraries.stderr))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--socket")
            .arg(&socket)
            .args(["--gpus", &simulation.gpus.to_string()])
            .args(["--tpcs", &simulation.tpcs.to_string()])
            .args(["--clock-mhz", &simulation.clock_mhz.to_string()])
            .args(["--tolerance-ms", &simulation.tolerance_ms.to_string()]);
        if let Some(ms) = simulation.mps_death_ms {
            command.args(["--mps-death-ms", &ms.to_string()]);
        }
        let mut server = Process::start("simgpu serve", &mut command)?;
        // Its first line says that it is ready.
        server.line(PATIENCE)?;
        // A GPU's device files are everybody's.
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        self.simulator = Some(server);
        self.environment.extend([
            ("SIMGPU_SOCKET", socket.into()),
            ("LD_LIBRARY_PATH", libraries.into()),
        ]);
        Ok(())
    }

    /// The folder of this testbed.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the daemon's sockets are.
    pub fn runtime_directory(&self) -> PathBuf {
        self.run.path().join("run")
    }

    /// Writes the daemon's configuration: the folders of this testbed and whatever else is given, as
    /// TOML.
    pub fn write_configuration(&self, rest: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("lithosd.toml");
        let text = format!(
            "runtime_directory = {:?}\nstate_directory = {:?}\nbroker = {:?}\n{rest}\n",
            self.runtime_directory(),
            self.folder.path().join("state"),
            self.broker,
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_daemon(&mut self, rest: &str) -> anyhow::Result<()> {
        let configuration = self.write_configuration(rest)?;
        let before = self.socket();
        let mut command = self.command("lithosd");
        command.arg("--config").arg(configuration);
        let mut daemon = Process::start("lithosd", &mut command)?;
        let answers = until("answer of lithosd", PATIENCE, || {
            if daemon.has_ended()? {
                return Ok(Some(false));
            }
            // To ask costs more than to look.
            if self.socket() == before {
                return Ok(None);
            }
            Ok(self.status().ok().map(|_| true))
        })?;
        if !answers {
            let outcome = daemon.finish(PATIENCE)?;
            anyhow::bail!("lithosd ended with {}: {}", outcome.status, outcome.stderr);
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Starts another daemon in the place of one that is stopped, with these options, and returns the
    /// one that was stopped.
    pub fn replace_daemon(&mut self, options: &[&str]) -> anyhow::Result<Process> {
        let old = self.daemon.take().context("no daemon was started")?;
        let before = self.socket();
        let mut command = self.command("lithosd");
        command
            .arg("--config")
            .arg(self.folder.path().join("lithosd.toml"))
            .args(options);
        let mut daemon = Process::start("lithosd", &mut command)?;
        // What answers at the old socket does not answer.
        until("socket of another lithosd", PATIENCE, || {
            ensure!(!daemon.has_ended()?, "lithosd ended");
            Ok((self.socket() != before).then_some(()))
        })?;
        self.daemon = Some(daemon);
        Ok(old)
    }

    /// What tells the socket of one daemon from that of another.
    fn socket(&self) -> Option<(u64, i64, i64)> {
        let file = std::fs::metadata(self.runtime_directory().join("lithos.sock")).ok()?;
        Some((file.ino(), file.ctime(), file.ctime_nsec()))
    }

    /// The daemon, if it was started.
    pub fn daemon(&mut self) -> Option<&mut Process> {
        self.daemon.as_mut()
    }

    /// Kills the daemon where it stands.
    pub fn kill_daemon(&mut self) {
        self.daemon = None;
    }

    /// Asks the daemon to end and returns what it came to.
    pub fn stop_daemon(&mut self) -> anyhow::Result<Outcome> {
        let daemon = self.daemon.take().context("no daemon was started")?;
        daemon.signal(Signal::SIGTERM)?;
        daemon.finish(PATIENCE)
    }

    /// The CUDA driver's library that programs of this testbed load.
    pub fn driver_library(&self) -> PathBuf {
        let paths = self.environment.iter();
        let folder = paths.filter(|(name, _)| *name == "LD_LIBRARY_PATH");
        let folder = folder.map(|(_, folder)| PathBuf::from(folder)).next();
        folder.unwrap_or_default().join("libcuda.so.1")
    }

    /// Sets a variable for everything that is started from now on.
    pub fn set_variable(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
    }

    /// One of the programs, in an environment in which it finds the GPU.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.path(program));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The program that runs here, once more, in an environment in which it finds the GPU.
    pub fn this_program(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// The command `lithos`, for this testbed's daemon.
    pub fn lithos(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("lithos");
        command
            .env("LITHOS_RUNTIME_DIRECTORY", self.runtime_directory())
            .args(arguments);
        command
    }

    /// A tenant that nobody manages.
    pub fn unmanaged(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("tenant");
        command.args(arguments);
        command
    }

    /// A tenant under LithOS: `run` are the options of `lithos run`.
    pub fn managed(&self, run: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.lithos(&["run"]);
        command
            .args(run)
            .arg("--")
            .arg(self.programs.path("tenant"))
            .args(arguments);
        command
    }

    /// Runs a command to its end and returns what it came to.
    pub fn outcome(&self, mut command: Command) -> anyhow::Result<Outcome> {
        let name = format!("{command:?}");
        Process::start(&name, &mut command)?.finish(PATIENCE)
    }

    /// Runs a command that is expected to work and to print JSON.
    pub fn json(&self, command: Command) -> anyhow::Result<Value> {
        let name = format!("{command:?}");
        self.outcome(command)?.json().context(name)
    }

    /// What `lithos status --json` says.
    pub fn status(&self) -> anyhow::Result<Value> {
        let outcome = self.outcome(self.lithos(&["status", "--json"]))?;
        ensure!(
            outcome.status.success(),
            "lithos status: {}: {}",
            outcome.status,
            outcome.stderr
        );
        let text = outcome.lines.join("\n");
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Looks at the status until it is as wished, and returns what was found in it.
    pub fn status_until<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&Value) -> Option<T>,
    ) -> anyhow::Result<T> {
        until(what, PATIENCE, || Ok(found(&self.status()?)))
    }

    /// Starts MPS in the folders that the daemon's configuration names, as `lithos run` would.
    pub fn start_mps(&self) -> anyhow::Result<()> {
        let outcome = self.outcome(self.lithos(&["mps", "start"]))?;
        ensure!(
            outcome.status.success(),
            "lithos mps start: {}",
            outcome.stderr
        );
        Ok(())
    }

    /// Ends MPS, if it runs. This needs no daemon, and `lithos` may have started it by itself.
    pub fn stop_mps(&self) -> anyhow::Result<()> {
        if self.mps_pipe_directory().join("control").exists() {
            let mut command = Command::new("nvidia-cuda-mps-control");
            command.env("CUDA_MPS_PIPE_DIRECTORY", self.mps_pipe_directory());
            let mut control = Process::start("nvidia-cuda-mps-control", &mut command)?;
            control.say("quit")?;
            control.finish(PATIENCE)?;
        }
        Ok(())
    }

    /// Where MPS is found.
    pub fn mps_pipe_directory(&self) -> PathBuf {
        self.runtime_directory().join("mps").join("pipe")
    }

    /// Stops the simulator, if there is one, and says whether it kept up with the clock.
    pub fn stop_simulator(&mut self) -> anyhow::Result<Option<Outcome>> {
        let Some(server) = self.simulator.take() else {
            return Ok(None);
        };
        server.signal(Signal::SIGTERM)?;
        server.finish(Duration::from_secs(10)).map(Some)
    }
}

/// Makes the folder of a runtime directory. `/run` lies in memory, so this one does, too, where it can.
fn runtime_folder() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("lithos-")
        .permissions(Permissions::from_mode(0o755));
    let memory = Path::new("/dev/shm");
    Ok(match memory.is_dir() {
        true => builder.tempdir_in(memory)?,
        false => builder.tempdir()?,
    })
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // The daemon before the GPU that it uses. What it said matters if something went wrong.
        if std::thread::panicking()
            && let Ok(outcome) = self.stop_daemon()
        {
            eprintln!("lithosd said:\n{}", outcome.stderr);
        }
        self.daemon = None;
        let _ = self.stop_mps();
        self.simulator = None;
    }
}
