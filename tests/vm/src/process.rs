// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Other processes, made by fork: closures of a test that run in them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgroups, setresgid, setresuid};

/// A user without any right.
pub const NOBODY: u32 = 65534;

/// A process; killed, if it still runs, and waited for, when it is dropped.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    is_waited_for: bool,
    line: Line,
}

/// Between a process and its parent.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// Says a number to the other.
    ///
    /// # Panics
    ///
    /// If the other is gone.
    pub fn say(&mut self, number: u64) {
        let said = self.0.write_all(&number.to_ne_bytes());
        said.expect("the other process is there");
    }

    /// Waits for a number that the other says.
    ///
    /// # Panics
    ///
    /// If the other ends before.
    pub fn hear(&mut self) -> u64 {
        let mut number = [0; 8];
        let heard = self.0.read_exact(&mut number);
        heard.expect("the other process says something before it ends");
        u64::from_ne_bytes(number)
    }
}

impl Process {
    /// Starts a process that runs a closure, as a user, and ends: with 0, or, if the closure panics, 1.
    ///
    /// # Panics
    ///
    /// If there can be no process.
    pub fn start(uid: u32, run: impl FnOnce(&mut Line)) -> Self {
        let (line, childs) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: the child runs on in one thread alone. libtest's others hold no lock that it takes:
        // tests run one at a time, and the thread that waits for this one neither allocates nor prints
        // meanwhile.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self {
                pid: child,
                is_waited_for: false,
                line: Line(line),
            },
            ForkResult::Child => {
                drop(line);
                // libtest would keep it, in a memory that ends with this process.
                std::panic::set_hook(Box::new(|panic| {
                    let text = format!("in the process {}: {panic}\n", std::process::id());
                    let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
                }));
                let end = catch_unwind(AssertUnwindSafe(|| {
                    become_user(uid);
                    run(&mut Line(childs));
                }));
                // SAFETY: it only ends the process; nothing of libtest's is to run here.
                unsafe { libc::_exit(i32::from(end.is_err())) }
            }
        }
    }

    /// Runs a closure in a process of its own, as a user, to its end.
    ///
    /// # Panics
    ///
    /// If the closure does.
    pub fn run(uid: u32, run: impl FnOnce()) {
        Self::start(uid, |_| run()).end();
    }

    /// Returns its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the line to it.
    pub fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the process can be signalled");
    }

    /// Waits until it ends, however it does.
    ///
    /// # Panics
    ///
    /// If it is no child.
    pub fn wait(mut self) -> WaitStatus {
        self.is_waited_for = true;
        waitpid(self.pid, None).expect("a child")
    }

    /// Waits until it ends.
    ///
    /// # Panics
    ///
    /// If it does not end as it should.
    pub fn end(self) {
        let pid = self.pid;
        assert_eq!(self.wait(), WaitStatus::Exited(pid, 0));
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_waited_for {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

fn become_user(uid: u32) {
    if uid == 0 {
        return;
    }
    setgroups(&[]).expect("setgroups");
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setresgid(group, group, group).expect("setresgid");
    setresuid(user, user, user).expect("setresuid");
}
