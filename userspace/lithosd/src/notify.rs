// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the service manager is told: that the daemon is ready, that it lives, that it ends.
//!
//! The protocol is sd_notify(3): datagrams of text to the socket that the environment names. Without one
//! nobody wants to know.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use lithos_policy::Nanos;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    socket: Option<(OwnedFd, UnixAddr)>,
    /// How often it wants to hear that the daemon lives.
    pace: Option<Nanos>,
    due: Option<Nanos>,
}

impl Manager {
    /// Takes from the environment who the service manager is. What cannot be used is as good as none.
    pub(crate) fn from_environment() -> Self {
        Self::new(std::env::var_os("NOTIFY_SOCKET"), |name| {
            std::env::var(name).ok()?.parse().ok()
        })
    }

    fn new(path: Option<OsString>, number: impl Fn(&str) -> Option<u64>) -> Self {
        let address = path.and_then(|path| match path.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name).ok(),
            _ => UnixAddr::new(path.as_bytes()).ok(),
        });
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = || socket(AddressFamily::Unix, SockType::Datagram, flags, None).ok();
        let socket = address.and_then(|address| Some((open()?, address)));
        // The variable may be meant for another process, whose child this is.
        let is_meant =
            number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let limit = number("WATCHDOG_USEC").filter(|_| is_meant && socket.is_some());
        // Twice in the time, as sd_watchdog_enabled(3) says.
        let pace = limit.map(|micros| Duration::from_micros(micros / 2));
        let pace = pace.and_then(|pace| u64::try_from(pace.as_nanos()).ok());
        Self {
            socket,
            pace: pace.map(Nanos),
            due: pace.map(|_| Nanos(0)),
        }
    }

    /// Says something, if anybody listens.
    pub(crate) fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            if let Err(error) = sendto(socket.as_raw_fd(), text.as_bytes(), address, flags) {
                tracing::debug!("the service manager does not listen: {error}");
            }
        }
    }

    /// Says that the daemon lives, if that is due.
    pub(crate) fn turn(&mut self, now: Nanos) {
        if let (Some(pace), Some(due)) = (self.pace, self.due)
            && due <= now
        {
            self.say("WATCHDOG=1");
            self.due = Some(now.after(pace));
        }
    }

    /// Returns when [`Manager::turn`] is due.
    pub(crate) fn next_turn(&self) -> Option<Nanos> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_service_manager_hears_that_the_daemon_lives_twice_in_the_time_that_it_allows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = || {
            let mut buffer = [0; 64];
            let size = manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
        };
        let number = |name: &str| (name == "WATCHDOG_USEC").then_some(2_000_000);
        let mut told = Manager::new(Some(path.into()), number);
        told.say("READY=1");
        assert_eq!(heard().as_deref(), Some("READY=1"));
        for second in 5..8 {
            assert_eq!(heard(), None);
            told.turn(Nanos::from_secs(second));
            assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
            told.turn(Nanos::from_secs(second).after(Nanos(999_999_999)));
        }
        assert_eq!(told.next_turn(), Some(Nanos::from_secs(8)));
    }

    #[test]
    fn without_a_service_manager_nothing_is_said_and_nothing_is_due() {
        let mut told = Manager::new(None, |_| Some(1));
        told.say("READY=1");
        told.turn(Nanos::from_secs(1));
        assert_eq!(told.next_turn(), None);
        let gone = Manager::new(Some("/nonexistent/notify".into()), |_| None);
        gone.say("READY=1");
        // A watchdog that is another process's.
        let other = Manager::new(Some("/nonexistent/notify".into()), |_| Some(1));
        assert_eq!(other.next_turn(), None);
    }
}
