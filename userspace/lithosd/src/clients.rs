// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The socket that `lithos` connects to, and its connections: a JSON request a line, a JSON reply a
//! line.
//!
//! A connection has one reply under way at a time; until the peer has taken it, its further requests
//! are left alone. So nobody can make the daemon wait, or hold more than a line and a reply.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use lithos_policy::Nanos;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::admission::Admission;
use crate::broker::{Broker, Process};
use crate::control::{Failure, FailureKind, LINE_BYTES_MAX, Reply, Request};
use crate::listener::Listener;
use crate::peer::Peer;
use crate::token::{Kind, Token};

/// Connections at a time. Beyond that the one that was idle longest is closed.
const CLIENTS_MAX: usize = 64;

/// The command's connections.
#[derive(Debug)]
pub(crate) struct Clients {
    listener: Listener,
    group: Group,
    connections: BTreeMap<u64, Connection>,
}

/// The group whose members may change things.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// None if there is no such group.
    pub gid: Option<u32>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    peer: Peer,
    input: Vec<u8>,
    output: Vec<u8>,
    /// No more requests are taken in.
    closing: bool,
    active_at: Nanos,
}

/// Answers requests. The connections know nothing of what they are about.
pub trait Answer {
    /// Does what a process asks for, if it may.
    fn answer(&mut self, request: Request, peer: &Peer, now: Nanos) -> Reply;
}

impl Clients {
    pub(crate) fn new(listener: Listener, group: Group) -> Self {
        Self {
            listener,
            group,
            connections: BTreeMap::new(),
        }
    }

    /// Takes in those who have connected.
    pub(crate) fn accept(&mut self, epoll: &Epoll, now: Nanos) {
        while let Some(stream) = self.listener.accept(epoll, now) {
            if self.connections.len() >= CLIENTS_MAX {
                let idlest = self.connections.iter().min_by_key(|(_, c)| c.active_at);
                if let Some(number) = idlest.map(|(&number, _)| number) {
                    self.connections.remove(&number);
                }
            }
            let number = self.listener.accepted();
            if let Err(error) = self.enter(number, stream, epoll, now) {
                tracing::warn!("a connection was closed: its process is not known: {error}");
            }
        }
    }

    fn enter(
        &mut self,
        number: u64,
        stream: UnixStream,
        epoll: &Epoll,
        now: Nanos,
    ) -> io::Result<()> {
        let peer = Peer::of(stream.as_fd())?;
        let kind = Kind::Client;
        let token = Token { kind, number };
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token.into()))?;
        let connection = Connection {
            stream,
            peer,
            input: Vec::new(),
            output: Vec::new(),
            closing: false,
            active_at: now,
        };
        self.connections.insert(number, connection);
        Ok(())
    }

    /// Goes on with a connection: takes in requests, sends replies.
    pub(crate) fn ready(
        &mut self,
        number: u64,
        answerer: &mut impl Answer,
        epoll: &Epoll,
        now: Nanos,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.active_at = now;
        let flags = match connection.go_on(answerer, &self.group, now) {
            Ok(Some(flags)) => flags,
            Ok(None) | Err(_) => {
                self.connections.remove(&number);
                return;
            }
        };
        let kind = Kind::Client;
        let mut event = EpollEvent::new(flags, Token { kind, number }.into());
        if epoll.modify(&connection.stream, &mut event).is_err() {
            self.connections.remove(&number);
        }
    }

    pub(crate) fn turn(&mut self, epoll: &Epoll, now: Nanos) {
        self.listener.turn(epoll, now);
    }

    pub(crate) fn next_turn(&self) -> Option<Nanos> {
        self.listener.next_turn()
    }
}

impl Connection {
    /// Does what can be done now, one request at most, so that others have their turn. Returns what
    /// to wait for, or none if this is the end.
    fn go_on(
        &mut self,
        answerer: &mut impl Answer,
        group: &Group,
        now: Nanos,
    ) -> io::Result<Option<EpollFlags>> {
        if self.output.is_empty() {
            if !self.fill()? {
                return Ok(None);
            }
            let reply = match self.take_line() {
                Some(line) => reply(&line, &self.peer, answerer, group, now),
                None if self.input.len() < LINE_BYTES_MAX => return Ok(Some(EpollFlags::EPOLLIN)),
                None => {
                    self.closing = true;
                    let text = format!("a request has at most {LINE_BYTES_MAX} bytes");
                    Reply::Error(Failure::new(FailureKind::Malformed, text))
                }
            };
            serde_json::to_writer(&mut self.output, &reply)?;
            self.output.push(b'\n');
        }
        let sent = self.flush()?;
        if sent && self.closing {
            return Ok(None);
        }
        // There may be another request in the input, of which the socket knows nothing any more.
        let more = !sent || self.input.contains(&b'\n');
        Ok(Some(if more {
            EpollFlags::EPOLLOUT
        } else {
            EpollFlags::EPOLLIN
        }))
    }

    /// Reads until there is a line, or too much for one. Returns whether the peer may send more, or
    /// has left a line.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        while !self.input.contains(&b'\n') && self.input.len() < LINE_BYTES_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(size) => self.input.extend_from_slice(&buffer[..size]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends what is to be sent, and returns whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(size) => drop(self.output.drain(..size)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|&byte| byte == b'\n')?;
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}

/// Returns the reply to a line of a process.
pub fn reply(
    line: &[u8],
    peer: &Peer,
    answerer: &mut impl Answer,
    group: &Group,
    now: Nanos,
) -> Reply {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let text = format!("this is no request: {error}");
            return Reply::Error(Failure::new(FailureKind::Malformed, text));
        }
    };
    if request.changes() && !peer.may_change(group.gid) {
        return Reply::Error(Failure::new(FailureKind::Denied, group.denial()));
    }
    answerer.answer(request, peer, now)
}

impl Group {
    fn denial(&self) -> String {
        let name = &self.name;
        let remedy = match self.gid {
            Some(_) => {
                format!("the group {name} (sudo usermod -aG {name} USER, then log in again)")
            }
            None => format!(
                "the group {name}, which does not exist (sudo groupadd {name}, then \
                 restart lithosd)"
            ),
        };
        format!("only root and members of {remedy} may change partitions; all may join and look")
    }
}

/// What answers requests with the broker's help.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The broker.
    pub broker: &'a mut Broker,
    /// What is so for all of them.
    pub facts: &'a mut crate::daemon::Facts,
    /// Processes that partitions were just made for.
    pub owners: Vec<(std::os::fd::OwnedFd, String)>,
}

impl Answer for Desk<'_> {
    fn answer(&mut self, request: Request, peer: &Peer, now: Nanos) -> Reply {
        match self.try_answer(request, peer, now) {
            Ok(reply) => reply,
            Err(failure) => {
                tracing::debug!(pid = peer.process.pid, "refused: {failure}");
                Reply::Error(failure)
            }
        }
    }
}

impl Desk<'_> {
    fn try_answer(&mut self, request: Request, peer: &Peer, now: Nanos) -> Result<Reply, Failure> {
        match request {
            Request::PartitionCreate { partition } => {
                let name = partition.name.clone();
                self.broker.create_partition(partition, now)?;
                self.partition(&name)
            }
            Request::PartitionSet { name, change } => {
                self.broker.change_partition(&name, &change, now)?;
                self.partition(&name)
            }
            Request::PartitionDelete { name } => {
                let before = self.partition(&name);
                self.broker.delete_partition(&name, now)?;
                before
            }
            Request::Order { partition, hand } => {
                self.broker.order(&partition, hand)?;
                self.partition(&partition)
            }
            Request::PartitionList => Ok(Reply::Partitions(self.broker.partition_statuses())),
            Request::Join { partition, enforce } => self.joined(&partition, enforce, peer),
            Request::Run {
                tpcs,
                class,
                enforce,
            } => self.run(peer, now, |broker, owner| {
                broker.create_run_partition(owner, tpcs, class, enforce, now)
            }),
            Request::Status => {
                let daemon = self.facts.status(now, self.broker);
                Ok(Reply::Status(Box::new(self.broker.status(daemon, now))))
            }
            Request::Mps => Ok(Reply::Mps(self.facts.mps.clone())),
            Request::AdmissionSet {
                mode,
                gpu_channels_per_tenant,
            } => {
                let admission = self.admission()?;
                admission.set(mode, gpu_channels_per_tenant)?;
                tracing::info!(%mode, pid = peer.process.pid, "admission set");
                self.admission_status()
            }
            Request::Admit { pid } => {
                let number = i32::try_from(pid).unwrap_or(-1);
                let admitted = self.admission()?.admit(number);
                admitted.map_err(|error| no_process(pid, &error))?;
                self.admission_status()
            }
        }
    }

    fn run(
        &mut self,
        peer: &Peer,
        now: Nanos,
        create: impl FnOnce(&mut Broker, Process) -> Result<String, Failure>,
    ) -> Result<Reply, Failure> {
        let watched = peer.clone_pidfd();
        let pidfd = watched.map_err(|error| Failure::new(FailureKind::Failed, error))?;
        let name = create(self.broker, peer.process)?;
        self.owners.push((pidfd, name.clone()));
        let joined = self.joined(&name, false, peer);
        if joined.is_err() {
            self.broker.end_run_owner(&name, now);
        }
        joined
    }

    fn partition(&self, name: &str) -> Result<Reply, Failure> {
        self.broker.existing(name)?;
        let missing = || {
            Failure::new(
                FailureKind::Failed,
                "the policy does not know the partition",
            )
        };
        self.broker
            .partition_status(name)
            .map(Reply::Partition)
            .ok_or_else(missing)
    }

    fn admission(&mut self) -> Result<&mut Admission, Failure> {
        let text =
            "only lithos.ko can see to who has GPU channels, and it is not this daemon's broker";
        let none = || Failure::new(FailureKind::Refused, text);
        self.facts.admission.as_mut().ok_or_else(none)
    }

    fn admission_status(&mut self) -> Result<Reply, Failure> {
        let status = self.admission()?.status();
        let failed = |error| Failure::new(FailureKind::Failed, error);
        status.map(Reply::Admission).map_err(failed)
    }

    /// Tells a process what it needs. One that may run unmanaged gets what it needs for that, too.
    fn joined(&mut self, name: &str, enforce: bool, peer: &Peer) -> Result<Reply, Failure> {
        let entry = self.broker.existing(name)?.entry;
        if let Some(admission) = &mut self.facts.admission
            && !(enforce || entry.enforce)
        {
            let pid = peer.process.pid;
            let welcomed = admission.welcome(pid);
            welcomed.map_err(|error| no_process(pid.unsigned_abs(), &error))?;
        }
        Ok(Reply::Joined(crate::control::Joined {
            partition: entry.name,
            class: entry.class,
            enforce: entry.enforce,
            broker_socket: self.facts.broker_socket.clone(),
            mps: self.facts.mps.clone(),
        }))
    }
}

fn no_process(pid: u32, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            Failure::new(FailureKind::NotFound, format!("there is no process {pid}"))
        }
        Some(libc::ENOSPC) => Failure::new(
            FailureKind::Refused,
            format!("process {pid} is not admitted: too many are"),
        ),
        _ => Failure::new(
            FailureKind::Failed,
            format!("process {pid} is not admitted: {error}"),
        ),
    }
}
