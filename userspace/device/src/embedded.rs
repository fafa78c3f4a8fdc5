// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The embedded broker, seen from a tenant: lithosd behind a `SOCK_SEQPACKET` Unix socket.
//!
//! One request, one reply; the connection is the tenant. Every wait ends at a deadline, and a
//! connection on which one passed is not used again, because a late reply would answer the wrong
//! request.

use std::io;
use std::os::fd::RawFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use lithos_abi::bindings::*;
use lithos_abi::message::{Message, PACKET_BYTES_MAX, decode, encode, set_text};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, setsockopt, shutdown, socket,
};
use nix::sys::time::TimeVal;

use crate::broker::{attach_request, granted};
use crate::high;
use crate::{Attached, Broker, BrokerError, Channel, ChannelError, Identity, packet};

/// Where lithosd listens.
pub const DEFAULT_SOCKET: &str = "/run/lithos/broker.sock";

/// How long a broker may take to connect, to attach a tenant or to end a channel.
const SOON: Duration = Duration::from_secs(10);

/// How long a first grant may take: its TPCs pass on only when another tenant's last launch there has
/// completed.
const FIRST_GRANT: Duration = Duration::from_secs(60);

/// A connection to lithosd.
#[derive(Debug)]
pub struct SocketBroker {
    /// `None` once it broke.
    socket: Option<OwnedFd>,
    identity: Identity,
    soon: Duration,
    first_grant: Duration,
}

impl SocketBroker {
    /// Connects to the broker that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, BrokerError> {
        let error = |errno: Errno| BrokerError::Connect {
            path: path.to_owned(),
            source: errno.into(),
        };
        let address = UnixAddr::new(path).map_err(error)?;
        let socket = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .and_then(high::duplicate)
        .map_err(error)?;
        // The only timeout that connect() knows: a broker whose queue is full keeps us waiting.
        let seconds = i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
        setsockopt(&socket, SendTimeout, &TimeVal::new(seconds, 0)).map_err(error)?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(Self::from_socket(socket)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(error(errno)),
            }
        }
    }

    /// Takes over a connected `SOCK_SEQPACKET` socket.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            identity: Identity::default(),
            soon: SOON,
            first_grant: FIRST_GRANT,
        }
    }

    /// Says what this process is made of when it attaches.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Replaces the deadlines: for every reply but a first grant, and for that.
    #[must_use]
    pub fn with_deadlines(mut self, soon: Duration, first_grant: Duration) -> Self {
        self.soon = soon;
        self.first_grant = first_grant;
        self
    }

    /// Returns the descriptor of the connection while it holds: a forked child closes it, so that the
    /// tenant ends with its own process.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Ends the connection; whoever else holds the descriptor, to wait on it, sees it end.
    pub fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            // It may have ended already.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Sends a request and receives its reply.
    fn call<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        limit: Duration,
    ) -> Result<(A, Vec<OwnedFd>), BrokerError> {
        self.call_with(request, &[], limit)
    }

    /// Sends a request with descriptors and receives its reply.
    fn call_with<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(A, Vec<OwnedFd>), BrokerError> {
        let socket = self.socket.as_ref().ok_or(BrokerError::Closed)?;
        let called = exchange(socket.as_fd(), &encode(request), descriptors, limit)
            .and_then(|answer| Ok((decode(&answer.packet)?, answer.descriptors)));
        if called.is_err() {
            // Only a connection on which nothing went wrong is used again.
            self.close();
        }
        called
    }

    /// Makes this process again the tenant that it was under the broker before.
    pub fn resume(&mut self, tenant: u64, partition: &str) -> Result<Attached, BrokerError> {
        let request = lithos_resume {
            version: LITHOS_ABI_VERSION,
            reserved: 0,
            tenant,
            partition: set_text(partition),
        };
        Self::attached(self.call(&request, self.soon))
    }

    /// Hands over a channel of the broker before. From when this returns all its launches follow grants
    /// of this one.
    pub fn resume_channel(&mut self, channel: &Channel) -> Result<(), BrokerError> {
        let request = lithos_channel_resume {
            channel: channel.id(),
            reserved: [0; 3],
        };
        let [_, ring, arena] = channel.descriptors() else {
            return Err(ChannelError::Descriptors {
                found: channel.descriptors().len(),
                wanted: 3,
            }
            .into());
        };
        let handed_over = [ring.as_fd(), arena.as_fd()];
        let (reply, descriptors) =
            self.call_with::<_, lithos_channel>(&request, &handed_over, self.soon)?;
        granted(&reply.reply)?;
        channel.replace_grant(&reply, descriptors)?;
        // Now, and not before: the broker takes it that later launches follow the new page.
        let request = lithos_channel_resumed {
            channel: channel.id(),
        };
        let (reply, _) = self.call::<_, lithos_reply>(&request, self.soon)?;
        granted(&reply)
    }

    fn attached(
        called: Result<(lithos_attached, Vec<OwnedFd>), BrokerError>,
    ) -> Result<Attached, BrokerError> {
        let (reply, _) = called?;
        granted(&reply.reply)?;
        if reply.version != LITHOS_ABI_VERSION {
            return Err(BrokerError::Version(reply.version));
        }
        Ok(Attached {
            tenant: reply.tenant,
            enforce: reply.flags & LITHOS_ATTACHED_ENFORCE != 0,
            least: reply.flags & LITHOS_ATTACHED_LEAST != 0,
            sms: reply.flags >> LITHOS_ATTACHED_SMS_SHIFT,
        })
    }
}

impl Broker for SocketBroker {
    fn attach(&mut self, partition: &str) -> Result<Attached, BrokerError> {
        let request = attach_request(partition, self.identity)?;
        Self::attached(self.call(&request, self.soon))
    }

    fn create_channel(&mut self, gpu: [u8; 16], context: u64) -> Result<Channel, BrokerError> {
        let request = lithos_channel_create {
            gpu,
            context,
            reserved: [0; 2],
        };
        let (reply, descriptors) = self.call::<_, lithos_channel>(&request, self.first_grant)?;
        granted(&reply.reply)?;
        Ok(Channel::map(&reply, descriptors)?)
    }

    fn destroy_channel(&mut self, id: u64) -> Result<(), BrokerError> {
        let request = lithos_channel_destroy { channel: id };
        let (reply, _) = self.call::<_, lithos_reply>(&request, self.soon)?;
        granted(&reply)
    }
}

struct Answer {
    packet: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

fn exchange(
    socket: BorrowedFd<'_>,
    request: &[u8],
    descriptors: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<Answer, BrokerError> {
    let deadline = Instant::now() + limit;
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => BrokerError::Deadline(limit),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => BrokerError::Closed,
        _ => BrokerError::Io(error),
    };
    until(socket, PollFlags::POLLOUT, deadline, || {
        packet::send(socket, request, descriptors)
    })
    .map_err(error)?;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let (size, descriptors) = until(socket, PollFlags::POLLIN, deadline, || {
        packet::receive_with_descriptors(socket, &mut buffer)
    })
    .map_err(error)?;
    if size == 0 {
        return Err(BrokerError::Closed);
    }
    buffer.truncate(size);
    Ok(Answer {
        packet: buffer,
        descriptors,
    })
}

/// Repeats a call that would block, waiting in between, until the deadline.
fn until<T>(
    socket: BorrowedFd<'_>,
    events: PollFlags,
    deadline: Instant,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                packet::wait(socket, events, deadline)?;
            }
            other => return other,
        }
    }
}
