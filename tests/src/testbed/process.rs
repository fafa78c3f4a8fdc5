// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A program that was started: its lines come with deadlines, and it never outlives its owner.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take that is expected to happen: generous, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. It is killed when dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

/// What a program came to.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    /// The lines that nobody had read.
    pub lines: Vec<String>,
    pub stderr: String,
}

impl Outcome {
    /// The last line of its output as JSON, if it ended well.
    pub fn json(&self) -> anyhow::Result<Value> {
        ensure!(self.status.success(), "{}: {}", self.status, self.stderr);
        let line = self.lines.last().context("it printed nothing")?;
        serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))
    }
}

impl Process {
    /// Starts a program with its input and outputs connected to here.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl with these arguments only sets a flag of the new process.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
            })
        };
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no output")?;
        let mut stderr = child.stderr.take().context("no error output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            stderr: Some(stderr),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line.
    pub fn line(&mut self, within: Duration) -> anyhow::Result<String> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} said nothing for {within:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                let stderr = self.take_stderr();
                bail!("{} ended with {status}: {stderr}", self.name)
            }
        }
    }

    /// Its next line, as JSON.
    pub fn json(&mut self) -> anyhow::Result<Value> {
        let line = self.line(PATIENCE)?;
        serde_json::from_str(&line).with_context(|| format!("{}: not JSON: {line}", self.name))
    }

    /// Sends it an empty line.
    pub fn tell(&mut self) -> anyhow::Result<()> {
        self.say("")
    }

    /// Sends it a line.
    pub fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("{} does not listen", self.name))
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(kill(pid, signal)?)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends its input and waits until it ends; kills it if that takes too long.
    pub fn finish(mut self, within: Duration) -> anyhow::Result<Outcome> {
        self.close_input();
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begin.elapsed() > within {
                self.child.kill()?;
                self.child.wait()?;
                let stderr = self.take_stderr();
                bail!("{} did not end within {within:?}: {stderr}", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok(Outcome {
            status,
            lines: self.lines.iter().collect(),
            stderr: self.take_stderr(),
        })
    }

    fn take_stderr(&mut self) -> String {
        match self.stderr.take().map(JoinHandle::join) {
            Some(Ok(text)) => text.trim_end().to_owned(),
            _ => String::new(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until there is something, or it has taken too long.
pub fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < within, "no {what} within {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
