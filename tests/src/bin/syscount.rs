// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Counts the system calls of a program, with ptrace: every thread and every child of it.
//!
//! The counts go to standard error (or a file) as one line of JSON, so that the program's own output
//! stays what it is. `first_thread` is the program's main thread alone: the driver's own threads wake up
//! now and then and would blur a comparison.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork};
use serde::Serialize;

/// Counts the system calls of a program.
#[derive(Parser)]
struct Cli {
    /// Where the counts go [default: standard error].
    #[arg(long)]
    output: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Default, Serialize)]
struct Counts {
    total: u64,
    /// Of the program's first thread.
    first_thread: u64,
    /// By the number of the call, as the kernel knows it.
    by_number: BTreeMap<u64, u64>,
    /// The same of the first thread alone.
    first_thread_by_number: BTreeMap<u64, u64>,
    /// The ioctls, by the path of the file that they are for.
    ioctls_by_file: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("syscount: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let command = cli
        .command
        .iter()
        .map(|word| std::ffi::CString::new(word.as_str()))
        .collect::<Result<Vec<_>, _>>()?;
    // SAFETY: this process has one thread; the child calls nothing but what follows here.
    let first = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let error = ptrace::traceme()
                .and_then(|()| raise(Signal::SIGSTOP))
                .and_then(|()| execvp(&command[0], &command).map(|never| match never {}))
                .expect_err("exec returned");
            eprintln!("syscount: cannot run {}: {error}", cli.command[0]);
            // SAFETY: ends the copy without running anything of the original's.
            unsafe { libc::_exit(127) }
        }
    };
    let (counts, status) = count(first)?;
    let line = serde_json::to_string(&counts)?;
    match &cli.output {
        Some(path) => std::fs::write(path, line + "\n")
            .with_context(|| format!("writing {}", path.display()))?,
        None => writeln!(std::io::stderr(), "{line}")?,
    }
    Ok(match status {
        WaitStatus::Exited(_, code) => ExitCode::from(u8::try_from(code & 0xff)?),
        _ => ExitCode::FAILURE,
    })
}

/// Follows the program until everything that it started has ended; returns how the program ended.
fn count(first: Pid) -> anyhow::Result<(Counts, WaitStatus)> {
    waitpid(first, None).context("waiting for the program to start")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, options).context("tracing: is ptrace allowed here?")?;
    ptrace::syscall(first, None)?;

    let mut counts = Counts::default();
    let mut ended = WaitStatus::Exited(first, 0);
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => return Ok((counts, ended)),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(pid) = status.pid() else { continue };
        let signal = match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                if pid == first {
                    ended = status;
                }
                continue;
            }
            WaitStatus::PtraceSyscall(_) => {
                if let Some((number, arguments)) = entered(pid) {
                    counts.total += 1;
                    if i64::try_from(number) == Ok(libc::SYS_ioctl) {
                        let file = path(pid, arguments[0]);
                        *counts.ioctls_by_file.entry(file).or_default() += 1;
                    }
                    *counts.by_number.entry(number).or_default() += 1;
                    if pid == first {
                        counts.first_thread += 1;
                        *counts.first_thread_by_number.entry(number).or_default() += 1;
                    }
                }
                None
            }
            // A new thread or process begins with a stop of ours; every other signal is its own.
            WaitStatus::Stopped(_, Signal::SIGSTOP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        // It may have been killed in the meantime; then its end is what we see next.
        match ptrace::syscall(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The system call that a stopped thread has just entered, and its arguments; `None` where it is leaving
/// one.
fn entered(pid: Pid) -> Option<(u64, [u64; 6])> {
    // PTRACE_SYSCALL_INFO_ENTRY.
    const ENTRY: u8 = 1;
    let info = ptrace::syscall_info(pid).ok()?;
    if info.op != ENTRY {
        return None;
    }
    // SAFETY: an entry fills in this member.
    let entry = unsafe { info.u.entry };
    Some((entry.nr, entry.args))
}

/// What a descriptor of a thread is open for; empty if it is no descriptor.
fn path(pid: Pid, descriptor: u64) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    link.map_or_else(|_| String::new(), |path| path.display().to_string())
}
