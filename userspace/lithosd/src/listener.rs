// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A listening Unix socket at a path: open to all users, gone from the file system when it goes.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use lithos_policy::Nanos;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

use crate::token::{Kind, Token};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long to leave the socket alone when the kernel has no descriptors left.
const PAUSE: Nanos = Nanos(100_000_000);

/// A listening socket. Tenants look at the path for a daemon that takes over, so the socket appears there
/// only when it listens.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Which file at the path is its own.
    file: (u64, u64),
    kind: Kind,
    paused_until: Option<Nanos>,
    accepted: u64,
}

impl Listener {
    /// Listens at a path, in place of whatever socket was left there. The caller holds the lock that
    /// says that nobody listens there.
    pub(crate) fn bind(path: &Path, kind: Kind, epoll: &Epoll) -> io::Result<Self> {
        let style = match kind {
            Kind::TenantListener => SockType::SeqPacket,
            _ => SockType::Stream,
        };
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Unix, style, flags, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&new)?)?;
        fs::set_permissions(&new, Permissions::from_mode(0o666))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        fs::rename(&new, path)?;
        let file = identity(path)?;
        // The type only lends its `accept`, which is the same for all kinds of Unix sockets.
        let listener = Self {
            socket: fd.into(),
            path: path.into(),
            file,
            kind,
            paused_until: None,
            accepted: 0,
        };
        listener.watch(epoll)?;
        Ok(listener)
    }

    /// Takes in one connection, if there is one. It does not block.
    pub(crate) fn accept(&mut self, epoll: &Epoll, now: Nanos) -> Option<UnixStream> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => match stream.set_nonblocking(true) {
                    Ok(()) => {
                        self.accepted += 1;
                        return Some(stream);
                    }
                    Err(error) => tracing::error!("a connection was closed: {error}"),
                },
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        tracing::error!("cannot take in connections for a while: {error}");
                        if epoll.delete(&self.socket).is_ok() {
                            self.paused_until = Some(now.after(PAUSE));
                        }
                        return None;
                    }
                },
            }
        }
    }

    /// Returns the number of the connection that was accepted last.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Listens again after a pause.
    pub(crate) fn turn(&mut self, epoll: &Epoll, now: Nanos) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = match self.watch(epoll) {
                Ok(()) => None,
                Err(_) => Some(now.after(PAUSE)),
            };
        }
    }

    /// Returns when [`Listener::turn`] is due.
    pub(crate) fn next_turn(&self) -> Option<Nanos> {
        self.paused_until
    }

    fn watch(&self, epoll: &Epoll) -> io::Result<()> {
        let kind = self.kind;
        let token = Token { kind, number: 0 };
        epoll.add(
            &self.socket,
            EpollEvent::new(EpollFlags::EPOLLIN, token.into()),
        )?;
        Ok(())
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another daemon may have taken over.
        if identity(&self.path).ok() != Some(self.file) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
