// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What ties this process to its broker: the kernel's if somebody schedules by it, else the embedded one.
//!
//! The kernel's outlives daemons, and so do its pages: there is nothing to do when a daemon ends or starts.
//! The connection to the embedded one ends with the daemon and is made again with the next. The process
//! stays the tenant that it is: it names itself, hands over the memory of its channels, and follows the
//! new daemon's grants from then on. Launches do not notice; until they have a new grant they keep to
//! what their partition is guaranteed.

use std::fs;
use std::io;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lithos_device::embedded::SocketBroker;
use lithos_device::kernel::KernelBroker;
use lithos_device::{Attached, Broker, BrokerError, Identity};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::Managed;
use crate::config::Config;
use crate::report;

/// The tie.
#[derive(Debug)]
pub(crate) enum Link {
    Kernel(KernelBroker),
    Socket(Connection),
}

/// The connection to the embedded broker.
#[derive(Debug)]
pub(crate) struct Connection {
    broker: SocketBroker,
    partition: String,
    identity: Identity,
    tenant: u64,
    socket: PathBuf,
    /// The file at the path of the socket when it was last connected to, or tried.
    file: Option<Place>,
    /// Channels that ended while there was no daemon.
    ended: Vec<u64>,
    /// The daemon that is there does not want this process; the next one may.
    is_refused: bool,
}

/// Which file is at a path; another one differs, also in the same place of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Link {
    /// Makes this process a tenant.
    pub(crate) fn attach(
        config: &Config,
        identity: Identity,
    ) -> Result<(Self, Attached), BrokerError> {
        let at_kernel = KernelBroker::open(&config.device).and_then(|broker| {
            let mut broker = broker.with_identity(identity);
            let attached = broker.attach(&config.partition)?;
            Ok((Self::Kernel(broker), attached))
        });
        match at_kernel {
            // No such device, or nobody schedules there.
            Err(BrokerError::Connect { .. }) => {
                let (connection, attached) = Connection::attach(config, identity)?;
                Ok((Self::Socket(connection), attached))
            }
            attached => attached,
        }
    }

    /// Returns the connection, where the broker is the embedded one.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Kernel(_) => None,
            Self::Socket(connection) => Some(connection),
        }
    }

    /// Returns the broker.
    pub(crate) fn broker(&mut self) -> &mut dyn Broker {
        match self {
            Self::Kernel(broker) => broker,
            Self::Socket(connection) => &mut connection.broker,
        }
    }

    /// Returns the descriptor that makes this process a tenant, for a forked child to close.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Kernel(broker) => Some(broker.descriptor()),
            Self::Socket(connection) => connection.broker.descriptor(),
        }
    }

    /// Returns whether there is no daemon behind it now.
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Kernel(broker) => !broker.is_scheduled(),
            Self::Socket(connection) => connection.is_dead(),
        }
    }

    /// Ends a channel, at once or when there is a daemon again.
    pub(crate) fn end_channel(&mut self, id: u64) {
        match self {
            // It may have ended.
            Self::Kernel(broker) => drop(broker.destroy_channel(id)),
            Self::Socket(connection) => connection.end_channel(id),
        }
    }

    /// Looks for the daemon that there is now, and sees to it that it knows the channels. Returns whether
    /// this process is its tenant.
    pub(crate) fn reconnect<M: Deref<Target = Managed>>(
        &mut self,
        channels: impl Iterator<Item = M>,
    ) -> bool {
        match self {
            Self::Kernel(broker) => broker.is_scheduled(),
            Self::Socket(connection) => connection.reconnect(channels),
        }
    }
}

impl Connection {
    fn attach(config: &Config, identity: Identity) -> Result<(Self, Attached), BrokerError> {
        let file = file_at(&config.socket);
        let mut broker = SocketBroker::connect(&config.socket)?.with_identity(identity);
        let attached = broker.attach(&config.partition)?;
        let link = Self {
            broker,
            partition: config.partition.clone(),
            identity,
            tenant: attached.tenant,
            socket: config.socket.clone(),
            file,
            ended: Vec::new(),
            is_refused: false,
        };
        Ok((link, attached))
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns whether the daemon has ended the connection, or it broke.
    fn is_dead(&self) -> bool {
        let Some(descriptor) = self.broker.descriptor() else {
            return true;
        };
        // SAFETY: the broker's, which is borrowed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        // That it has hung up is told in any case.
        let mut fds = [PollFd::new(descriptor, PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Returns whether another socket is at the path than the one that was last connected to.
    pub(crate) fn is_replaced(&self) -> bool {
        let there = file_at(&self.socket);
        there.is_some() && there != self.file
    }

    fn end_channel(&mut self, id: u64) {
        match self.broker.destroy_channel(id) {
            Ok(()) | Err(BrokerError::Refused { .. }) => {}
            Err(_) => self.ended.push(id),
        }
    }

    /// Connects to the daemon that there is now, and hands the channels over to it.
    fn reconnect<M: Deref<Target = Managed>>(&mut self, channels: impl Iterator<Item = M>) -> bool {
        if self.is_refused && !self.is_replaced() {
            return false;
        }
        let reconnected = self.try_reconnect(channels);
        self.is_refused = false;
        match reconnected {
            Ok(()) => true,
            // There is none, or it ends, too.
            Err(
                BrokerError::Connect { .. }
                | BrokerError::Closed
                | BrokerError::Io(_)
                | BrokerError::Deadline(_),
            ) => false,
            Err(error) => {
                let error = report::chain(&error);
                report::say(&format!(
                    "{error}; the program keeps to what its partition was guaranteed"
                ));
                self.is_refused = true;
                self.broker.close();
                false
            }
        }
    }

    fn try_reconnect<M: Deref<Target = Managed>>(
        &mut self,
        channels: impl Iterator<Item = M>,
    ) -> Result<(), BrokerError> {
        let file = file_at(&self.socket);
        self.broker = SocketBroker::connect(&self.socket)?.with_identity(self.identity);
        self.file = file;
        let tenant = match self.broker.resume(self.tenant, &self.partition) {
            Err(BrokerError::Refused { errno, .. }) if errno == Errno::ENOENT as i32 => {
                // It knows nothing of us; channels to come can be managed all the same.
                self.broker.attach(&self.partition)?.tenant
            }
            resumed => resumed?.tenant,
        };
        self.tenant = tenant;
        for channel in channels {
            match self.broker.resume_channel(channel.channel()) {
                Ok(()) => {}
                Err(error @ (BrokerError::Refused { .. } | BrokerError::Channel(_))) => {
                    let error = report::chain(&error);
                    report::say(&format!(
                        "{error}; a context keeps to what its partition was guaranteed"
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        for ended in std::mem::take(&mut self.ended) {
            self.end_channel(ended);
        }
        Ok(())
    }
}

fn file_at(path: &Path) -> Option<Place> {
    let file: io::Result<fs::Metadata> = fs::symlink_metadata(path);
    let file = file.ok()?;
    Some(Place {
        device: file.dev(),
        inode: file.ino(),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}
