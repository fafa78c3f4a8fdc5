// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The connection to the server, from the first `nvmlInit` to the last `nvmlShutdown`.
//!
//! A forked child makes a connection of its own: two processes that read one socket would steal each
//! other's answers. So does a process whose server was restarted, once.

use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use simgpu::wire::{self, GpuInfo, GpuReport, Receiver, Reply, Request, SOCKET_VARIABLE};

use crate::error::{Error, Outcome};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `nvmlInit` made.
struct Session {
    /// How many more calls of `nvmlInit` than of `nvmlShutdown` there were.
    uses: u64,
    connection: Connection,
}

struct Connection {
    process: u32,
    socket: UnixStream,
    receiver: Receiver,
    gpus: Vec<GpuInfo>,
}

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

fn session() -> MutexGuard<'static, Option<Session>> {
    // A panic cannot leave a session half made: it is replaced whole.
    SESSION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects, or counts another use of the connection.
pub(crate) fn open() -> Outcome {
    let mut session = session();
    match &mut *session {
        Some(session) => session.uses += 1,
        None => {
            let connection = Connection::open()?;
            *session = Some(Session {
                uses: 1,
                connection,
            });
        }
    }
    Ok(())
}

/// Gives back one use; the last one ends the connection.
pub(crate) fn close() -> Outcome {
    let mut session = session();
    let current = session.as_mut().ok_or(Error::UNINITIALIZED)?;
    current.uses -= 1;
    if current.uses == 0 {
        *session = None;
    }
    Ok(())
}

/// Checks that there was an `nvmlInit`.
pub(crate) fn check() -> Outcome {
    session().as_ref().map(|_| ()).ok_or(Error::UNINITIALIZED)
}

/// What the GPUs are.
pub(crate) fn gpus() -> Outcome<Vec<GpuInfo>> {
    let session = session();
    let session = session.as_ref().ok_or(Error::UNINITIALIZED)?;
    Ok(session.connection.gpus.clone())
}

/// What a GPU is doing.
pub(crate) fn report(index: usize) -> Outcome<GpuReport> {
    let mut session = session();
    let session = session.as_mut().ok_or(Error::UNINITIALIZED)?;
    if session.connection.process != std::process::id() {
        session.connection = Connection::open()?;
    }
    let reports = match session.connection.report() {
        Err(Error::GPU_IS_LOST) => {
            session.connection = Connection::open().map_err(|_| Error::GPU_IS_LOST)?;
            session.connection.report()?
        }
        reports => reports?,
    };
    reports.into_iter().nth(index).ok_or(Error::GPU_IS_LOST)
}

impl Connection {
    fn open() -> Outcome<Self> {
        let path = std::env::var_os(SOCKET_VARIABLE).ok_or(Error::DRIVER_NOT_LOADED)?;
        let socket = UnixStream::connect(path).map_err(|_| Error::DRIVER_NOT_LOADED)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self {
            process: std::process::id(),
            socket,
            receiver: Receiver::default(),
            gpus: Vec::new(),
        };
        let hello = Request::Hello {
            version: wire::VERSION,
            priority: 0,
            page: false,
        };
        match connection.ask(&hello)? {
            Reply::Gpus(gpus) => connection.gpus = gpus,
            _ => return Err(Error::VERSION_MISMATCH),
        }
        Ok(connection)
    }

    fn report(&mut self) -> Outcome<Vec<GpuReport>> {
        match self.ask(&Request::Report)? {
            Reply::Report(reports) => Ok(reports),
            _ => Err(Error::UNKNOWN),
        }
    }

    fn ask(&mut self, request: &Request) -> Outcome<Reply> {
        wire::send(&self.socket, request, None)?;
        self.receiver
            .receive(&self.socket)?
            .ok_or(Error::GPU_IS_LOST)
    }
}
