// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A thread that waits for the daemon to end or to be replaced, and then looks for the next one: where the
//! broker is the embedded one, which ends with its daemon.
//!
//! Gates that a daemon has shut it opens, if that has ended or says no more that it lives.
//!
//! It sleeps until the connection hangs up, or until something appears in the folder of the socket:
//! a daemon that was stopped does not hang up, but whoever replaces it puts a socket of its own there. So
//! it costs nothing while nothing happens. Where the kernel has no more watches of folders for
//! this user it looks once a second instead.
//!
//! All signals are blocked in it: they are the program's. A forked child has no such thread, and is no
//! tenant.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use lithos_abi::grant::Order;
use lithos_device::high;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::clock;
use crate::contexts::Contexts;
use crate::link::Connection;
use crate::report;
use crate::start;

/// How often to look where nobody tells.
const LOOK: Duration = Duration::from_secs(1);

/// How often to look whether somebody still schedules, where launches are split.
const LOOK_AT_GATES: Duration = Duration::from_millis(50);

/// Bytes of stack: it calls nothing that recurses.
const STACK_BYTES: usize = 128 << 10;

/// Its descriptors, for a forked child to close: the copy of the connection, the watch, and the bell.
static DESCRIPTORS: [AtomicI32; 3] = [const { AtomicI32::new(-1) }; 3];

/// Wakes the thread: from the first launch that is split on it has gates to look after.
static BELL: OnceLock<EventFd> = OnceLock::new();

/// Wakes the thread, if there is one.
pub(crate) fn wake() {
    if let Some(bell) = BELL.get() {
        // It is woken already if the count is full.
        let _ = bell.write(1);
    }
}

/// Returns the thread's descriptors, -1 for one that it does not have.
pub(crate) fn descriptors() -> impl Iterator<Item = RawFd> {
    DESCRIPTORS.iter().map(|fd| fd.load(Ordering::Relaxed))
}

/// Starts the thread.
pub(crate) fn start() {
    let mut before = SigSet::empty();
    let all = SigSet::all();
    // A thread begins with the mask of the one that starts it.
    let blocked = all
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .inspect(|mask| before = *mask);
    let builder = std::thread::Builder::new()
        .name("lithos".into())
        .stack_size(STACK_BYTES);
    let started = builder.spawn(|| {
        if let Some(shim) = start::shim() {
            watch(&shim.contexts);
        }
    });
    if blocked.is_ok() {
        let _ = before.thread_set_mask();
    }
    if let Err(error) = started {
        report::say(&format!(
            "no thread to wait for a restart of lithosd ({error}); after one, this program keeps to \
             what its partition was guaranteed"
        ));
    }
}

fn watch(contexts: &Contexts) {
    let folder = Folder::new(contexts);
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    if let Ok(bell) = EventFd::from_flags(flags) {
        DESCRIPTORS[2].store(bell.as_fd().as_raw_fd(), Ordering::Relaxed);
        let _ = BELL.set(bell);
    }
    loop {
        // Before the connection is waited for: whoever has it may wait for the daemon.
        let look = open_deserted(contexts);
        let connection = {
            let mut link = contexts.lock();
            let anew = link.connection().is_some_and(Connection::is_replaced);
            let connected = contexts.reconnect(&mut link, anew);
            // Nobody closes this copy while it is waited on; a connection that is given up hangs up.
            let descriptor = link.descriptor().filter(|_| connected);
            descriptor.and_then(|descriptor| {
                // SAFETY: the link's, which is locked.
                let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
                high::duplicate(descriptor).ok()
            })
        };
        wait(connection, folder.as_ref(), look);
    }
}

/// Opens the gates of channels that nobody schedules: whoever shut them is gone, or hangs. Returns when to
/// look again; never, if no channel has gates.
fn open_deserted(contexts: &Contexts) -> Option<Duration> {
    let now_ns = clock::kernel_ns();
    let mut look = None;
    contexts.each(|managed| {
        if managed.has_split() {
            look = Some(LOOK_AT_GATES);
        }
        if managed.channel().grant().is_deserted_at(now_ns) {
            managed.store_into_gates(Order::Open);
        }
    });
    look
}

fn wait(connection: Option<OwnedFd>, folder: Option<&Folder>, look: Option<Duration>) {
    let raw = connection.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    DESCRIPTORS[0].store(raw, Ordering::Relaxed);
    let mut fds = Vec::new();
    if let Some(connection) = &connection {
        // That it hangs up is told in any case.
        fds.push(PollFd::new(connection.as_fd(), PollFlags::empty()));
    }
    if let Some(folder) = folder {
        fds.push(PollFd::new(folder.0.as_fd(), PollFlags::POLLIN));
    }
    let bell = BELL.get();
    if let Some(bell) = bell {
        fds.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
    }
    // Without a connection the folder itself may be gone, and come back as another one.
    let timeout = match (&connection, folder) {
        (Some(_), Some(_)) => look,
        _ => Some(look.unwrap_or(LOOK)),
    };
    let timeout = match timeout {
        Some(timeout) => PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    let _ = poll(&mut fds, timeout);
    if let Some(bell) = bell {
        // It does not block: nothing may have come.
        let _ = bell.read();
    }
    if let Some(folder) = folder {
        // What happened does not matter, only that the watch waits anew.
        while folder.0.read_events().is_ok() {}
    }
    DESCRIPTORS[0].store(-1, Ordering::Relaxed);
}

/// The folder of the socket, watched.
struct Folder(Inotify);

impl Folder {
    fn new(contexts: &Contexts) -> Option<Self> {
        let path = contexts.lock().connection()?.socket().parent()?.to_owned();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        // A daemon's socket gets its name when it listens.
        inotify.add_watch(&path, AddWatchFlags::IN_MOVED_TO).ok()?;
        DESCRIPTORS[1].store(inotify.as_fd().as_raw_fd(), Ordering::Relaxed);
        Some(Self(inotify))
    }
}
