// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command `simgpu`.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use simgpu::config::{Config, Options, uuid_text};
use simgpu::engine::Summary;
use simgpu::library;
use simgpu::server::Server;
use simgpu::wire::{self, GpuReport, Receiver, Reply, Request, SOCKET_VARIABLE};

/// A simulated GPU for programs that use the CUDA driver API and PTX.
///
/// It obeys launch descriptors as an H100 does: TPC masks, parts of a grid, clusters, release
/// semaphores, chains and their gates. Kernels are interpreted; a block occupies its SM for the time that its instructions
/// would take at the clock that was set, and a simulation that cannot keep up says so and fails.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Simulates GPUs until it is interrupted.
    Serve {
        /// Where programs find it; they are told by SIMGPU_SOCKET.
        #[arg(long)]
        socket: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Runs a program on simulated GPUs of its own and ends with its status.
    Run {
        #[command(flatten)]
        options: Options,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<OsString>,
    },
    /// Says what simulated GPUs are doing, as JSON.
    Status {
        /// The server's socket.
        #[arg(long, env = "SIMGPU_SOCKET")]
        socket: PathBuf,
    },
    /// Prints the folder that holds libcuda.so.1 and libnvidia-ml.so.1 of the simulated GPU.
    LibDir,
}

/// The exit status when modelled time fell behind the clock and nothing else was wrong.
const FELL_BEHIND: u8 = 75;

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("simgpu: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &CliCommand) -> anyhow::Result<ExitCode> {
    match command {
        CliCommand::Serve { socket, options } => serve(socket, options),
        CliCommand::Run { options, command } => run_program(options, command),
        CliCommand::Status { socket } => status(socket),
        CliCommand::LibDir => {
            println!("{}", library::folder()?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve(socket: &PathBuf, options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::try_from(options)?;
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // Before any thread starts, so that all of them leave these signals to us.
    signals.thread_block()?;
    let server = Server::start(config, socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    println!("simgpu: ready at {}", socket.display());
    signals.wait()?;
    let summary = server.stop();
    std::fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
    report(&summary);
    Ok(if summary.kept_up() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FELL_BEHIND)
    })
}

fn run_program(options: &Options, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let config = Config::try_from(options)?;
    let libraries = library::folder()?;
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // The program gets them from us, so that we outlive it and can say what became of it. (What is
    // blocked here is not blocked in the program: Rust resets that.)
    signals.thread_block()?;
    let folder = tempfile::Builder::new().prefix("simgpu").tempdir()?;
    let socket = folder.path().join("socket");
    let server = Server::start(config, &socket).context("cannot start the server")?;
    let (program, arguments) = command.split_first().context("no program was named")?;
    let path = library::search_path(&libraries, std::env::var_os("LD_LIBRARY_PATH"));
    let mut child = Command::new(program)
        .args(arguments)
        .env(SOCKET_VARIABLE, &socket)
        .env("LD_LIBRARY_PATH", path)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // A program that has ended needs no signals.
            let _ = kill(pid, signal);
        }
    });
    let status = child.wait()?;
    let summary = server.stop();
    report(&summary);
    let code = exit_code(status);
    Ok(if code == 0 && !summary.kept_up() {
        ExitCode::from(FELL_BEHIND)
    } else {
        ExitCode::from(code)
    })
}

/// A program's exit status as a shell would give it on.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|n| 128 + n));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn report(summary: &Summary) {
    for (index, gpu) in summary.gpus.iter().enumerate() {
        let behind = Duration::from_nanos(gpu.behind_ns);
        if gpu.fell_behind {
            eprintln!(
                "simgpu: GPU {index} fell {behind:.1?} behind the clock: its times mean nothing; \
                 use a lower --clock-mhz or fewer --tpcs"
            );
        }
    }
}

fn status(socket: &PathBuf) -> anyhow::Result<ExitCode> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("no server at {}", socket.display()))?;
    let mut receiver = Receiver::default();
    let hello = Request::Hello {
        version: wire::VERSION,
        priority: 0,
        page: false,
    };
    for request in [hello, Request::Report] {
        wire::send(&stream, &request, None)?;
    }
    let Some(Reply::Gpus(_)) = receiver.receive(&stream)? else {
        bail!("the server speaks another version");
    };
    let Some(Reply::Report(gpus)) = receiver.receive(&stream)? else {
        bail!("the server did not answer");
    };
    let gpus: Vec<serde_json::Value> = gpus.iter().map(gpu_json).collect();
    println!("{:#}", serde_json::json!({ "gpus": gpus }));
    Ok(ExitCode::SUCCESS)
}

fn gpu_json(gpu: &GpuReport) -> serde_json::Value {
    serde_json::json!({
        "name": gpu.info.name,
        "uuid": uuid_text(&gpu.info.uuid),
        "tpcs": gpu.info.tpcs,
        "clock_khz": gpu.info.clock_khz,
        "memory_bytes": gpu.info.memory_bytes,
        "memory_used_bytes": gpu.memory_used_bytes,
        "resident_blocks": gpu.resident_blocks,
        "kernels_run": gpu.kernels_run,
        "kernels_pending": gpu.kernels_pending,
        "utilization_percent": gpu.utilization_percent,
        "behind_ns": gpu.behind_ns,
        "fell_behind": gpu.fell_behind,
        "processes": gpu.processes,
    })
}
