// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which daemon a runtime directory and a state directory belong to: whoever has locked a file in each,
//! which says its pid. With two on one runtime directory tenants would find either; on one state
//! directory each would undo the partitions of the other.
//!
//! A daemon that hangs, or was stopped, keeps its locks. Whoever is told to take over asks it whether it
//! lives; if it does not answer, it is killed, which ends its connections, so that its tenants look for
//! the new one. What cannot be killed (another's process, or one that waits for a device for ever) loses
//! the names instead: new files take the place of its locks. A daemon that wakes up looks whether its
//! lock still has its name before it does anything else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use lithos_policy::Nanos;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::clock;
use crate::config::control_socket;
use crate::control::{LINE_BYTES_MAX, Request};
use crate::peer::{self, Peer};

/// How long a daemon may take to answer before it is taken for dead.
const ANSWER: Duration = Duration::from_millis(500);
/// How long a killed one may take to end.
const END: Nanos = Nanos(300_000_000);

/// What to do about another daemon on the same directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// End with an error.
    Never,
    /// If it does not answer: kill it, or take its place if that cannot be done.
    FromDead,
    /// If it does not answer: take its place.
    SpareIt,
}

/// The locks of a daemon.
#[derive(Debug)]
pub(crate) struct Locks {
    runtime: Lock,
    state: Lock,
    /// The pid of the daemon before, on the runtime directory.
    pub(crate) before: Option<u32>,
}

#[derive(Debug)]
struct Lock {
    file: Flock<File>,
    path: PathBuf,
}

impl Locks {
    /// Takes the locks of a runtime directory and a state directory. They name the daemon before until
    /// [`Locks::sign`].
    pub(crate) fn take(
        run_dir: &Path,
        state_dir: &Path,
        take_over: TakeOver,
    ) -> anyhow::Result<Self> {
        let path = run_dir.join("lithosd.lock");
        let before = read_pid(&path);
        let mut replaced = None;
        let runtime = match Lock::try_at(&path)? {
            Some(lock) => lock,
            None => {
                let other = name(before);
                if take_over == TakeOver::Never {
                    bail!(
                        "lithosd runs already on {} ({other}); stop it, use another \
                         runtime_directory, or, if it hangs, take over with --take-over",
                        run_dir.display()
                    );
                }
                let Some(silent) = ask(run_dir, before)? else {
                    bail!(
                        "lithosd runs on {} ({other}) and answers; to restart it, stop it first",
                        run_dir.display()
                    );
                };
                tracing::warn!("{other} does not answer: taking over");
                match silent.end(&path, take_over)? {
                    Some(lock) => lock,
                    None => {
                        tracing::warn!("{other} goes on without its place");
                        replaced = before;
                        Lock::replace(&path, before)?
                    }
                }
            }
        };
        let path = state_dir.join("state.lock");
        let state = match Lock::try_at(&path)? {
            Some(lock) => lock,
            None if replaced.is_some() && read_pid(&path) == replaced => {
                Lock::replace(&path, replaced)?
            }
            None => bail!(
                "lithosd runs already on {} ({}); stop it, or use another state_directory",
                state_dir.display(),
                name(read_pid(&path))
            ),
        };
        Ok(Self {
            runtime,
            state,
            before,
        })
    }

    /// Writes the pid of this daemon into the locks: from now on what it leaves holds.
    pub(crate) fn sign(&mut self) -> io::Result<()> {
        let pid = Some(std::process::id());
        self.state.sign(pid)?;
        self.runtime.sign(pid)
    }

    /// Returns whether the locks still have their places: nobody has taken over.
    pub(crate) fn hold(&self) -> bool {
        [&self.runtime, &self.state]
            .iter()
            .all(|lock| is_at(&lock.file, &lock.path))
    }
}

impl Lock {
    /// Takes the lock at a path, if nobody else has it.
    fn try_at(path: &Path) -> anyhow::Result<Option<Self>> {
        loop {
            // Nobody else may open the file, or they could take the lock, too.
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            };
            // Somebody may have put another file there since it was opened.
            if is_at(&file, path) {
                let path = path.into();
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Puts another file, locked, in the place of one that is locked.
    fn replace(path: &Path, pid: Option<u32>) -> anyhow::Result<Self> {
        let next = path.with_extension("lock.next");
        let Some(mut lock) = Self::try_at(&next)? else {
            bail!("another lithosd is taking over {}", path.display());
        };
        lock.sign(pid)?;
        fs::rename(&next, path).with_context(|| format!("cannot replace {}", path.display()))?;
        lock.path = path.into();
        Ok(lock)
    }

    fn sign(&mut self, pid: Option<u32>) -> io::Result<()> {
        let text = pid.map(|pid| format!("{pid}\n")).unwrap_or_default();
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => same(own, there),
        _ => false,
    }
}

fn read_pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn name(pid: Option<u32>) -> String {
    pid.map_or("a process that does not say which".into(), |pid| {
        format!("process {pid}")
    })
}

/// A daemon that does not answer, and its process if that is known for sure.
struct Silent(Option<Peer>);

impl Silent {
    /// Kills it, if it may be, and takes the lock that it had; nothing if it still has it.
    fn end(&self, path: &Path, take_over: TakeOver) -> anyhow::Result<Option<Lock>> {
        let Some(peer) = self.0.as_ref().filter(|_| take_over == TakeOver::FromDead) else {
            return Ok(None);
        };
        if let Err(error) = peer::signal(peer.pidfd.as_fd(), Signal::SIGKILL) {
            tracing::warn!("it cannot be killed: {error}");
            return Ok(None);
        }
        let deadline = clock::now().after(END);
        while clock::now() < deadline {
            if let Some(lock) = Lock::try_at(path)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        tracing::warn!("it was killed and has not ended");
        Ok(None)
    }
}

/// Asks the daemon of a directory for anything; nothing if it answers.
fn ask(run_dir: &Path, pid: Option<u32>) -> anyhow::Result<Option<Silent>> {
    let path = control_socket(run_dir);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let micros = i64::try_from(ANSWER.as_micros())?;
    setsockopt(&socket, SendTimeout, &TimeVal::microseconds(micros))?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(&path)?) {
        Ok(()) => {}
        // Its queue of connections is full.
        Err(nix::Error::EAGAIN) => return Ok(Some(Silent(None))),
        Err(error) => bail!(
            "lithosd ({}) has locked {} and does not listen: it starts, or ends; try again ({error})",
            name(pid),
            run_dir.display()
        ),
    }
    let mut stream = UnixStream::from(socket);
    // Whoever listens at the socket, by the kernel's word, is the one that the lock names.
    let peer = Peer::of(stream.as_fd()).ok();
    let peer = peer.filter(|peer| u32::try_from(peer.process.pid).ok() == pid);
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let request = serde_json::to_string(&Request::Mps)?;
    let mut line = String::new();
    let answered = writeln!(stream, "{request}").is_ok()
        && BufReader::new(stream.take(LINE_BYTES_MAX as u64))
            .read_line(&mut line)
            .is_ok_and(|bytes| bytes > 0);
    Ok((!answered).then_some(Silent(peer)))
}
