// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The server: a socket, a thread per connection, and the engine.
//!
//! A connection's thread does what can be done without the engine (decoding, mapping what was passed,
//! parsing PTX) and hands on the rest, in order. The end of the connection, for whatever reason, is
//! the end of the client.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

use crate::config::Config;
use crate::engine::{Answer, Engine, Inbound, Summary};
use crate::page::StatusPage;
use crate::ptx;
use crate::shared::SharedMemory;
use crate::wire::{self, Receiver, Refusal, Reply, Request};

/// Connections at a time.
const CLIENTS_MAX: u32 = 256;
/// Messages that may wait for the engine; a client that sends more waits too.
const INBOX_MESSAGES: usize = 4096;
/// How long a reply may wait for a client that does not read.
const REPLY_PATIENCE: Duration = Duration::from_secs(1);

/// A running server.
#[derive(Debug)]
pub struct Server {
    inbox: SyncSender<Inbound>,
    engine: JoinHandle<Summary>,
}

impl Server {
    /// Starts the engine and listens at `socket`.
    pub fn start(config: Config, socket: &Path) -> io::Result<Self> {
        let listener = listen(socket)?;
        let (inbox, engine_inbox) = sync_channel(INBOX_MESSAGES);
        let engine = thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                // The default slack of 50 us would make every block end late.
                // SAFETY: PR_SET_TIMERSLACK takes a number and changes this thread only.
                unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
                let _guard = EngineGuard;
                Engine::new(config).run(&engine_inbox)
            })?;
        let sender = inbox.clone();
        thread::Builder::new()
            .name("listener".into())
            .spawn(move || accept(&listener, &sender))?;
        Ok(Self { inbox, engine })
    }

    /// Ends the simulation.
    pub fn stop(self) -> Summary {
        // An engine that has ended cannot be told to; joining shows why it did.
        let _ = self.inbox.send(Inbound::Stop);
        match self.engine.join() {
            Ok(summary) => summary,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Ends the process's wait for a signal if the engine panics: there is nothing left to serve.
struct EngineGuard;

impl Drop for EngineGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            // A process can always signal itself.
            let _ = kill(Pid::this(), Signal::SIGTERM);
        }
    }
}

/// Listens at a path, also where a server that is gone has left its socket.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(socket) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if !UnixStream::connect(socket).is_err_and(refused) {
                return Err(error);
            }
            std::fs::remove_file(socket)?;
            UnixListener::bind(socket)
        }
        result => result,
    }
}

fn accept(listener: &UnixListener, inbox: &SyncSender<Inbound>) {
    let connected = Arc::new(AtomicU32::new(0));
    for (client, socket) in (1..).zip(listener.incoming()) {
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                eprintln!("simgpu: cannot accept a connection: {error}");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if connected.load(Ordering::Relaxed) >= CLIENTS_MAX {
            eprintln!("simgpu: refusing a connection: there are {CLIENTS_MAX} already");
            continue;
        }
        connected.fetch_add(1, Ordering::Relaxed);
        let inbox = inbox.clone();
        let counter = connected.clone();
        let thread = thread::Builder::new().name(format!("client {client}"));
        let spawned = thread.spawn(move || {
            if let Err(error) = converse(client, &socket, &inbox) {
                eprintln!("simgpu: ending client {client}: {error}");
            }
            // Nobody is left to hear of it if this fails.
            let _ = inbox.send(Inbound::Left { client });
            let _ = socket.shutdown(Shutdown::Both);
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            eprintln!("simgpu: cannot serve a connection: {error}");
            connected.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads a client's requests until it leaves.
fn converse(client: u64, socket: &UnixStream, inbox: &SyncSender<Inbound>) -> io::Result<()> {
    let gone = |_| io::Error::other("the engine has ended");
    let mut receiver = Receiver::default();
    let Some(Request::Hello {
        version,
        priority,
        page,
    }) = receiver.receive(socket)?
    else {
        return Ok(());
    };
    let writer = socket.try_clone()?;
    writer.set_write_timeout(Some(REPLY_PATIENCE))?;
    let answer = SocketAnswer(writer);
    if version != wire::VERSION {
        answer.reply(&Reply::Refused(Refusal::Version));
        return Ok(());
    }
    let pid = Pid::from_raw(getsockopt(socket, sockopt::PeerCredentials)?.pid());
    let page = if page {
        let fd = receiver.take_fd();
        let fd = fd.ok_or_else(|| io::Error::other("the status page is missing"))?;
        let memory = SharedMemory::accept(fd, 0, StatusPage::BYTES)?;
        Some(StatusPage::accept(memory)?)
    } else {
        None
    };
    let joined = Inbound::Joined {
        client,
        pid,
        priority,
        page,
        answer: Box::new(answer),
    };
    inbox.send(joined).map_err(gone)?;
    while let Some(request) = receiver.receive(socket)? {
        let memory = match request {
            Request::MapShared { bytes, offset, .. } => {
                let fd = receiver.take_fd();
                let fd = fd.ok_or_else(|| io::Error::other("the memory to map is missing"))?;
                let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
                Some(SharedMemory::accept(fd, offset, bytes)?)
            }
            _ => None,
        };
        let module = match &request {
            Request::LoadModule { text, .. } => Some(ptx::Module::parse(text)),
            _ => None,
        };
        let asked = Inbound::Asked {
            client,
            request,
            memory,
            module,
        };
        inbox.send(asked).map_err(gone)?;
    }
    Ok(())
}

/// Replies over the client's socket.
#[derive(Debug)]
struct SocketAnswer(UnixStream);

impl Answer for SocketAnswer {
    fn reply(&self, reply: &Reply) {
        if wire::send(&self.0, reply, None).is_err() {
            self.end();
        }
    }

    fn end(&self) {
        // The reading thread sees the end and reports it; it may have seen another before.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
