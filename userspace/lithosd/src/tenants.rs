// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The socket that tenants connect to, and their connections. What is said on one is a
//! [`Session`](crate::session)'s affair.
//!
//! A connection is one tenant at most. It ends when either end closes it or when the process that made
//! it ends, whoever else holds a copy of the descriptor. Nothing here waits for a peer: one that does
//! not take its replies is dropped, and replies queue nowhere but in its socket. While a tenant waits
//! for its first grant its further requests stay in the socket, so that replies come in the order of
//! requests.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use lithos_abi::bindings::LITHOS_MESSAGE_CHANNEL_RESUME;
use lithos_abi::message::{self, PACKET_BYTES_MAX};
use lithos_device::packet;
use lithos_policy::Nanos;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::broker::{Answer, Broker, Refused};
use crate::listener::Listener;
use crate::peer::Peer;
use crate::session::Session;
use crate::token::{Kind, Token};

/// Connections that have not attached yet. Beyond that the one that has taken longest is closed, so
/// that those who attach at once are not kept out by those who never do.
const STRANGERS_MAX: usize = 64;
/// Requests of one connection that are taken in before others have their turn.
const REQUESTS_AT_ONCE: usize = 16;
/// Threads that close descriptors of peers; while there are so many, no more are received.
const CLOSING_MAX: usize = 4;
static CLOSING: AtomicUsize = AtomicUsize::new(0);
/// How long a connection may take to attach.
const ATTACH_WAIT: Nanos = Nanos::from_secs(10);

/// Tenants' connections.
#[derive(Debug)]
pub(crate) struct Tenants {
    listener: Listener,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// Readable when the process has ended, whoever else holds its socket.
    _pidfd: OwnedFd,
    session: Session,
    /// A first grant is awaited; requests are left in the socket.
    waits: bool,
    attach_by: Nanos,
}

impl Tenants {
    pub(crate) fn new(listener: Listener) -> Self {
        Self {
            listener,
            connections: BTreeMap::new(),
        }
    }

    /// Takes in those who have connected.
    pub(crate) fn accept(&mut self, broker: &mut Broker, epoll: &Epoll, now: Nanos) {
        while let Some(stream) = self.listener.accept(epoll, now) {
            let strangers = self.strangers().map(|(&number, _)| number);
            let strangers: Vec<u64> = strangers.collect();
            // Their numbers are in the order in which they came.
            if let [oldest, ..] = strangers[..]
                && strangers.len() >= STRANGERS_MAX
            {
                let text = "too many connections without a tenant; the oldest one was closed";
                broker.note_refusal(0, &Refused::new(libc::EUSERS, text));
                self.end(oldest, "others want its place", broker, now);
            }
            let number = self.listener.accepted();
            if let Err(error) = self.enter(number, stream.into(), epoll, now) {
                tracing::warn!("a connection was closed: its process is not known: {error}");
            }
        }
    }

    fn enter(&mut self, number: u64, socket: OwnedFd, epoll: &Epoll, now: Nanos) -> io::Result<()> {
        let peer = Peer::of(socket.as_fd())?;
        let watch = |kind, flags| EpollEvent::new(flags, Token { kind, number }.into());
        let readable = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        epoll.add(&socket, watch(Kind::Tenant, readable))?;
        epoll.add(&peer.pidfd, watch(Kind::TenantProcess, EpollFlags::EPOLLIN))?;
        let connection = Connection {
            socket,
            session: Session::new(peer.process),
            _pidfd: peer.pidfd,
            waits: false,
            attach_by: now.after(ATTACH_WAIT),
        };
        self.connections.insert(number, connection);
        Ok(())
    }

    /// Takes in requests of a connection, so many at most that others have their turn.
    pub(crate) fn readable(&mut self, number: u64, broker: &mut Broker, epoll: &Epoll, now: Nanos) {
        // Longer than any message, so that one that is too long shows.
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..REQUESTS_AT_ONCE {
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            if connection.waits {
                // Requests stay in the socket, so this is the end of the connection.
                return self.end(number, "the connection was closed", broker, now);
            }
            let (size, files) = match connection.receive(&mut buffer, broker) {
                Ok((0, _)) => return self.end(number, "the connection was closed", broker, now),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    (buffer.len(), Vec::new())
                }
                Err(_) => return self.end(number, "the connection broke", broker, now),
            };
            let packet = &buffer[..size];
            if let Ok(LITHOS_MESSAGE_CHANNEL_RESUME) = message::kind(packet) {
                let handed_over = memory_only(files);
                let (reply, pages) =
                    (connection.session).hand_over(packet, handed_over, broker, now);
                if !connection.send(&reply, &pages) {
                    return self.end(number, "replies were not taken", broker, now);
                }
                continue;
            }
            close_elsewhere(files);
            match connection.session.take(packet, broker, now) {
                Some(reply) => {
                    if !connection.send(&reply, &[]) {
                        return self.end(number, "replies were not taken", broker, now);
                    }
                }
                None => {
                    connection.waits = true;
                    connection.watch(number, epoll);
                    // The answer may be there; it must not be overtaken by the next request's.
                    return;
                }
            }
        }
    }

    /// Ends the connection of a process that has ended.
    pub(crate) fn process_ended(&mut self, number: u64, broker: &mut Broker, now: Nanos) {
        self.end(number, "the process ended", broker, now);
    }

    /// Sends the answers to those who waited.
    pub(crate) fn deliver(
        &mut self,
        answers: Vec<Answer>,
        broker: &mut Broker,
        epoll: &Epoll,
        now: Nanos,
    ) {
        for answer in answers {
            let mut connections = self.connections.iter_mut();
            let found = connections
                .find(|(_, connection)| connection.session.tenant() == Some(answer.tenant));
            let Some((&number, connection)) = found else {
                continue;
            };
            connection.waits = false;
            connection.watch(number, epoll);
            let answer = connection.session.answer(answer, broker);
            let sent = answer.is_some_and(|(reply, pages)| connection.send(&reply, &pages));
            if !sent {
                self.end(number, "replies were not taken", broker, now);
            }
        }
    }

    /// Does what is due: drops those who connected and never attached.
    pub(crate) fn turn(&mut self, broker: &mut Broker, epoll: &Epoll, now: Nanos) {
        self.listener.turn(epoll, now);
        let late = self
            .strangers()
            .filter(|(_, stranger)| stranger.attach_by <= now);
        for number in late.map(|(&number, _)| number).collect::<Vec<_>>() {
            self.end(number, "it did not attach", broker, now);
        }
    }

    /// Returns when [`Tenants::turn`] is due next if nothing happens before.
    pub(crate) fn next_turn(&self) -> Option<Nanos> {
        let dues = self.strangers().map(|(_, stranger)| stranger.attach_by);
        dues.chain(self.listener.next_turn()).min()
    }

    /// The connections that have not attached.
    fn strangers(&self) -> impl Iterator<Item = (&u64, &Connection)> {
        let connections = self.connections.iter();
        connections.filter(|(_, connection)| connection.session.tenant().is_none())
    }

    fn end(&mut self, number: u64, why: &str, broker: &mut Broker, now: Nanos) {
        // Closing the descriptors takes them out of the epoll set.
        let tenant = self
            .connections
            .remove(&number)
            .and_then(|connection| connection.session.tenant());
        if let Some(tenant) = tenant {
            broker.end_tenant(tenant, why, now);
        }
    }
}

impl Connection {
    /// Receives a packet; its descriptors only if it hands a channel over that is expected, because
    /// whoever receives a descriptor has to close it, and its maker may decide how long that takes.
    fn receive(&self, buffer: &mut [u8], broker: &Broker) -> io::Result<(usize, Vec<OwnedFd>)> {
        let socket = self.socket.as_fd();
        let tenant = self.session.tenant();
        let expected = tenant.is_some_and(|tenant| broker.expects_channels(tenant))
            && CLOSING.load(Ordering::Relaxed) < CLOSING_MAX
            && packet::peek(socket)? == LITHOS_MESSAGE_CHANNEL_RESUME;
        if expected {
            return packet::receive_with_descriptors(socket, buffer);
        }
        Ok((packet::receive(socket, buffer)?, Vec::new()))
    }

    /// Sends a reply, and returns whether there was room for it.
    fn send(&self, reply: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        packet::send(self.socket.as_fd(), reply, descriptors).is_ok()
    }

    /// Watches for requests, or while a first grant is awaited only for the end.
    fn watch(&self, number: u64, epoll: &Epoll) {
        let mut flags = EpollFlags::EPOLLRDHUP;
        if !self.waits {
            flags |= EpollFlags::EPOLLIN;
        }
        let kind = Kind::Tenant;
        let mut event = EpollEvent::new(flags, Token { kind, number }.into());
        if let Err(error) = epoll.modify(&self.socket, &mut event) {
            tracing::error!("cannot watch a connection: {error}");
        }
    }
}

/// Returns the two files that come with a channel, if they are memory. A file of another kind is closed
/// elsewhere: a file system of its maker's may make whoever closes it wait.
fn memory_only(handed_over: Vec<OwnedFd>) -> Result<[OwnedFd; 2], Refused> {
    let is_memory = |file: &OwnedFd| fcntl(file, FcntlArg::F_GET_SEALS).is_ok();
    let count = handed_over.len();
    match <[OwnedFd; 2]>::try_from(handed_over) {
        Ok(files) if files.iter().all(is_memory) => Ok(files),
        Ok(files) => {
            close_elsewhere(files.into());
            let text = "a channel is handed over with files in memory, and these are none";
            Err(Refused::new(libc::EINVAL, text))
        }
        Err(files) => {
            close_elsewhere(files);
            let text = format!("a channel is handed over with 2 descriptors, and {count} came");
            Err(Refused::new(libc::EBADMSG, text))
        }
    }
}

fn close_elsewhere(files: Vec<OwnedFd>) {
    if files.is_empty() {
        return;
    }
    /// Ends with the thread, or without one.
    struct Closing(Vec<OwnedFd>);
    impl Drop for Closing {
        fn drop(&mut self) {
            self.0.clear();
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    CLOSING.fetch_add(1, Ordering::Relaxed);
    let closing = Closing(files);
    let thread = std::thread::Builder::new().name("closing".into());
    if let Err(error) = thread.spawn(move || drop(closing)) {
        tracing::warn!("descriptors of a peer were closed here: {error}");
    }
}
