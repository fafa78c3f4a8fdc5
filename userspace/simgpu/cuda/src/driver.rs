// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! This process's connection to the server, and what hangs on it.
//!
//! Everything begins with `cuInit` and belongs to the process that called it: a forked child has no
//! driver (every function returns CUDA_ERROR_NOT_INITIALIZED) and gives up its copy of the socket, so
//! that the server sees the parent's end.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use simgpu::config::uuid_text;
use simgpu::page::StatusPage;
use simgpu::wire::{self, GpuInfo, Receiver, Reply, Request, SOCKET_VARIABLE};

use crate::context::Contexts;
use crate::error::{Error, Outcome};
use crate::event::Events;
use crate::library::Libraries;
use crate::lock;
use crate::memory::Allocations;
use crate::module::Modules;
use crate::stream::Streams;
use crate::symbols::Call;

/// What `cuDriverGetVersion` says: CUDA 13.0.
pub(crate) const VERSION: c_int = 13_000;

/// How long to wait between two looks at whether the server lives.
const PATIENCE: Duration = Duration::from_millis(100);

/// What `cuInit` made.
#[derive(Debug)]
pub(crate) struct Driver {
    connection: Mutex<Connection>,
    pub(crate) page: StatusPage,
    /// The GPUs that this process may see: index at the server, and what it is.
    pub(crate) gpus: Vec<(u32, GpuInfo)>,
    pub(crate) contexts: Contexts,
    pub(crate) streams: Streams,
    pub(crate) events: Events,
    pub(crate) allocations: Allocations,
    pub(crate) modules: Modules,
    pub(crate) libraries: Libraries,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    receiver: Receiver,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
/// Held while `cuInit` makes the driver.
static INIT: Mutex<()> = Mutex::new(());
/// Set in a child that was forked after `cuInit`.
static FORKED: AtomicBool = AtomicBool::new(false);
/// The socket, for a forked child to close.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// Whether this process was forked from one that had called `cuInit`.
pub(crate) fn is_forked_child() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// The driver, once `cuInit` has made it.
pub(crate) fn driver() -> Result<&'static Driver, Error> {
    DRIVER.get().ok_or(Error::NOT_INITIALIZED)
}

pub(crate) unsafe fn init(_: Call, flags: c_uint) -> Outcome {
    if flags != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let guard = lock(&INIT);
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let driver = Driver::connect()?;
    // Nobody else can have set it: the guard is held.
    let _ = DRIVER.set(driver);
    drop(guard);
    inject();
    Ok(())
}

pub(crate) unsafe fn version(_: Call, version: *mut c_int) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { crate::write(version, VERSION) }
}

extern "C" fn in_forked_child() {
    FORKED.store(true, Ordering::Relaxed);
    let socket = SOCKET.swap(-1, Ordering::Relaxed);
    if socket >= 0 {
        // SAFETY: the child never uses its copy of the driver again, so nobody misses the socket.
        unsafe { libc::close(socket) };
    }
}

/// Loads the library that CUDA_INJECTION64_PATH names and lets it introduce itself.
fn inject() {
    let Some(path) = std::env::var_os("CUDA_INJECTION64_PATH").filter(|path| !path.is_empty())
    else {
        return;
    };
    let Ok(path) = CString::new(path.into_encoded_bytes()) else {
        return;
    };
    // SAFETY: `path` is a string; what the library does when it is loaded is the business of whoever
    // set the variable, as with the real driver.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if library.is_null() {
        return;
    }
    // SAFETY: the library was just loaded and is never closed.
    let symbol = unsafe { libc::dlsym(library, c"InitializeInjection".as_ptr()) };
    if symbol.is_null() {
        return;
    }
    // SAFETY: this is the type that the driver expects of a symbol of this name.
    let initialize: extern "C" fn() -> c_int =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(symbol) };
    // 0 means that the library does not want to take part; either way the program goes on.
    let _ = initialize();
}

impl Driver {
    fn connect() -> Result<Self, Error> {
        let path = std::env::var_os(SOCKET_VARIABLE).ok_or(Error::NO_DEVICE)?;
        let socket = UnixStream::connect(path).map_err(|_| Error::NO_DEVICE)?;
        allow_server(&socket);
        let page = StatusPage::create().map_err(|_| Error::OUT_OF_MEMORY)?;
        let background = std::env::var("CUDA_MPS_CLIENT_PRIORITY").is_ok_and(|p| p.trim() == "1");
        let mut connection = Connection {
            socket,
            receiver: Receiver::default(),
        };
        let hello = Request::Hello {
            version: wire::VERSION,
            priority: u8::from(background),
            page: true,
        };
        let gpus = match connection.ask(&hello, Some(page.memory().fd()))? {
            Reply::Gpus(gpus) => visible((0..).zip(gpus).collect()),
            Reply::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(Error::CONNECTION),
        };
        if gpus.is_empty() {
            return Err(Error::NO_DEVICE);
        }
        let probe = Request::Probe {
            address: (&raw const DRIVER).expose_provenance() as u64,
        };
        if let Reply::Refused(refusal) = connection.ask(&probe, None)? {
            return Err(refusal.into());
        }
        SOCKET.store(connection.socket.as_raw_fd(), Ordering::Relaxed);
        // SAFETY: the handler only touches atomics and closes a descriptor: both are allowed there.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
        Ok(Self {
            contexts: Contexts::new(gpus.len()),
            connection: Mutex::new(connection),
            page,
            gpus,
            streams: Streams::default(),
            events: Events::default(),
            allocations: Allocations::default(),
            modules: Modules::default(),
            libraries: Libraries::default(),
        })
    }

    /// Sends a request and waits for its answer; a refusal is an error.
    pub(crate) fn ask(
        &self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, Error> {
        if is_forked_child() {
            return Err(Error::NOT_INITIALIZED);
        }
        match lock(&self.connection).ask(request, fd)? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    /// Sends a request that has no answer.
    pub(crate) fn tell(&self, request: &Request) -> Outcome {
        // A thread of a forked child may end and tidy up: its socket may be another file by now.
        if is_forked_child() {
            return Err(Error::NOT_INITIALIZED);
        }
        wire::send(&lock(&self.connection).socket, request, None).map_err(|_| Error::CONNECTION)
    }

    /// Waits until `done` returns something, or the server is gone.
    pub(crate) fn wait<T>(
        &self,
        mut done: impl FnMut() -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut looked = std::time::Instant::now();
        self.page.wait(PATIENCE, || {
            done().or_else(|| {
                if looked.elapsed() < PATIENCE {
                    return None;
                }
                looked = std::time::Instant::now();
                (!self.server_lives()).then_some(Err(Error::CONNECTION))
            })
        })
    }

    fn server_lives(&self) -> bool {
        let socket = SOCKET.load(Ordering::Relaxed);
        if socket < 0 {
            return false;
        }
        // SAFETY: the connection lives as long as the driver, which is for ever.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        // Only hang-ups and errors are asked for; a signal is no sign of either.
        !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(count) if count > 0)
    }
}

impl Connection {
    fn ask(&mut self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<Reply, Error> {
        wire::send(&self.socket, request, fd).map_err(|_| Error::CONNECTION)?;
        match self.receiver.receive(&self.socket) {
            Ok(Some(reply)) => Ok(reply),
            _ => Err(Error::CONNECTION),
        }
    }
}

/// Lets the server reach this process's memory where the system restricts that (Yama).
fn allow_server(socket: &UnixStream) {
    if let Ok(server) = getsockopt(socket, sockopt::PeerCredentials) {
        let pid = libc::c_ulong::from(server.pid().cast_unsigned());
        // SAFETY: PR_SET_PTRACER takes a number. Where there is no Yama it fails and is not needed.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, pid) };
    }
}

/// The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: indices or beginnings of UUIDs, up to the
/// first that is neither.
fn visible(gpus: Vec<(u32, GpuInfo)>) -> Vec<(u32, GpuInfo)> {
    let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") else {
        return gpus;
    };
    list.split(',')
        .map_while(|item| {
            let item = item.trim();
            let by_uuid = |gpu: &(u32, GpuInfo)| uuid_text(&gpu.1.uuid).starts_with(item);
            match item.parse::<usize>() {
                Ok(index) => gpus.get(index).cloned(),
                Err(_) if item.starts_with("GPU-") => gpus.iter().find(|g| by_uuid(g)).cloned(),
                Err(_) => None,
            }
        })
        .collect()
}
