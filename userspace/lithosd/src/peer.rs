// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who is at the other end of a Unix socket, by the kernel's word, as of when it connected.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};

use crate::broker::Process;

/// A process that connected.
#[derive(Debug)]
pub struct Peer {
    /// The process.
    pub process: Process,
    gid: u32,
    groups: Vec<u32>,
    /// Readable when the process has ended, whoever else holds its socket.
    pub pidfd: OwnedFd,
}

impl Peer {
    /// Asks the kernel. An error where the process has ended already.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = getsockopt(&socket, PeerCredentials)?;
        let pid = credentials.pid();
        let pidfd = match getsockopt(&socket, PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Kernels before 6.5 do not know the option.
            Err(nix::Error::ENOPROTOOPT | nix::Error::EOPNOTSUPP) => open_pidfd(pid)?,
            Err(error) => return Err(error.into()),
        };
        let peer = Self {
            process: Process {
                pid,
                uid: credentials.uid(),
                // The pid cannot have passed to another process meanwhile if this one still runs.
                start_ticks: read_start(pid)?,
            },
            gid: credentials.gid(),
            groups: peer_groups(socket)?,
            pidfd,
        };
        if has_ended(peer.pidfd.as_fd())? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(peer)
    }

    /// Returns whether the process may change things: it is root's, the daemon's own user's, or a
    /// member of the group.
    pub fn may_change(&self, group: Option<u32>) -> bool {
        let uid = self.process.uid;
        let member = |gid| self.gid == gid || self.groups.contains(&gid);
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || group.is_some_and(member)
    }

    /// Returns another descriptor that is readable when the process has ended.
    pub fn clone_pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.as_fd().try_clone_to_owned()
    }
}

/// Returns a descriptor that is readable when a process has ended that was seen before, if it has not.
pub(crate) fn watch(process: Process) -> io::Result<Option<OwnedFd>> {
    let pidfd = match open_pidfd(process.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_same = read_start(process.pid).is_ok_and(|start| start == process.start_ticks);
    Ok((is_same && !has_ended(pidfd.as_fd())?).then_some(pidfd))
}

/// Returns whether a process that was seen before is about to end, or has ended.
pub(crate) fn is_ending(process: Process) -> bool {
    /// `PF_EXITING`.
    const EXITING: u64 = 4;
    let stat = match read_stat(process.pid) {
        Ok(stat) => stat,
        Err(error) => return has_gone(&error),
    };
    if stat.start_ticks != process.start_ticks {
        return true;
    }
    // The first thread can end before the others.
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid));
    let lives = |thread: fs::DirEntry| {
        let stat = read_stat_at(&thread.path().join("stat"));
        stat.is_ok_and(|stat| stat.flags & EXITING == 0)
    };
    stat.flags & EXITING != 0
        && match threads {
            Ok(mut threads) => !threads.any(|thread| thread.is_ok_and(lives)),
            Err(error) => has_gone(&error),
        }
}

fn has_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Sends a signal to the process of a descriptor, and to no other.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call takes a descriptor, which is open, and no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as i32,
            none,
            0,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
}

/// Reads when a process started, in clock ticks since the machine did: with its pid, its name for as
/// long as the machine runs.
fn read_start(pid: i32) -> io::Result<u64> {
    Ok(read_stat(pid)?.start_ticks)
}

/// What `/proc/PID/stat` says.
struct Stat {
    flags: u64,
    start_ticks: u64,
}

fn read_stat(pid: i32) -> io::Result<Stat> {
    read_stat_at(Path::new(&format!("/proc/{pid}/stat")))
}

fn read_stat_at(path: &Path) -> io::Result<Stat> {
    let stat = fs::read_to_string(path)?;
    // The program's name comes second, in parentheses, and may hold anything.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let read = |rest: &str| {
        let mut fields = rest.split_ascii_whitespace().map(str::parse);
        Some(Stat {
            flags: fields.nth(6)?.ok()?,
            start_ticks: fields.nth(12)?.ok()?,
        })
    };
    let stat = after_name.and_then(read);
    stat.ok_or_else(|| io::Error::other(format!("{} is not as expected", path.display())))
}

fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has heard of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the supplementary groups, as they were when the peer connected. Those in `/proc` may have
/// changed since: whoever connects and then executes a privileged program would borrow its groups.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let bytes = size_of_val(groups.as_slice());
        let mut bytes = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the buffer has as many bytes as `bytes` says, and lives during the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let error = io::Error::last_os_error();
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        // The kernel says how many there are when they do not fit.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_is_known_by_process_user_and_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one.as_fd()).unwrap();
        assert_eq!(peer.process.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.process.uid, nix::unistd::geteuid().as_raw());
        let mut own: Vec<u32> = (nix::unistd::getgroups().unwrap().iter())
            .map(|gid| gid.as_raw())
            .collect();
        own.sort_unstable();
        let mut seen = peer.groups.clone();
        seen.sort_unstable();
        assert_eq!(seen, own);
    }

    #[test]
    fn a_stranger_may_change_things_only_as_a_member_of_the_group() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut peer = Peer::of(one.as_fd()).unwrap();
        assert!(peer.may_change(None));
        peer.process.uid = nix::unistd::geteuid().as_raw() + 1;
        (peer.gid, peer.groups) = (100, vec![200, 300]);
        assert!(!peer.may_change(None));
        assert!(!peer.may_change(Some(400)));
        assert!(peer.may_change(Some(100)));
        assert!(peer.may_change(Some(300)));
    }
}
