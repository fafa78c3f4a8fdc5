// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Contexts come and go, and channels with them.
//!
//! Everything here happens around API calls, where the driver holds no lock, and under one mutex, so
//! that two threads that find the same context new make one channel. A handle does not identify a
//! context, because the driver uses handles again; its number does ([`Identity`]).
//!
//! A context ends in two steps. When a call that may end it begins, its launches are no longer
//! stamped: the registration of the arena ends with the context, and a late stamp would be a fault of
//! the whole GPU under MPS. When the call returns and the context has ended, the channel goes,
//! as soon as no descriptor callback uses it.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use lithos_device::{Broker, BrokerError};

use crate::channel::{Identity, Managed};
use crate::driver::{Driver, DriverError};
use crate::link::Link;
use crate::local::Ending;
use crate::table::{Found, Full, Table};
use crate::{report, watch};

/// The generation of GPUs whose descriptors are known: Hopper's major compute capability.
const HOPPER: c_int = 9;

/// How long a descriptor callback may still use a channel whose context has ended. Callbacks take
/// less than a microsecond, so one that takes longer never comes back (its thread was stopped in the
/// middle); then the channel's memory stays.
const LAST_USE: Duration = Duration::from_secs(1);

/// How long a context that is new while the daemon restarts waits for it, before it is left unmanaged.
const RESTART: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(10);

/// Why a context is not managed.
#[derive(Debug, thiserror::Error)]
enum Unmanaged {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("LithOS does not manage slices of a GPU (MIG): {0}")]
    Mig(String),
    #[error("LithOS knows the launch descriptors of Hopper GPUs only, not those of {0}")]
    Generation(String),
    #[error("the broker gives no channel")]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Full(#[from] Full),
}

/// The contexts of this process.
pub(crate) struct Contexts {
    table: Table<Managed>,
    link: Mutex<Link>,
    /// The descriptor of the tie, for a forked child to close; -1 if there is none.
    connection: AtomicI32,
    /// Started with the first channel, where there is something to watch for.
    watcher: Once,
}

impl Contexts {
    /// Begins without contexts.
    pub(crate) fn new(link: Link) -> Self {
        Self {
            table: Table::new(),
            connection: AtomicI32::new(link.descriptor().unwrap_or(-1)),
            link: Mutex::new(link),
            watcher: Once::new(),
        }
    }

    /// Finds what belongs to a context. Never waits.
    #[inline]
    pub(crate) fn find(&self, context: u64) -> Found<'_, Managed> {
        self.table.find(context)
    }

    /// Finds what belongs to a context for a launch call of the thread of this number, which is in no
    /// other launch call. Never waits.
    #[inline]
    pub(crate) fn find_for(&self, thread: u64, context: u64) -> Found<'_, Managed> {
        self.table.find_for(thread, context)
    }

    /// Does something with each managed context.
    pub(crate) fn each(&self, mut act: impl FnMut(&Managed)) {
        for context in self.table.contexts() {
            if let Found::Managed(managed) = self.table.find(context) {
                act(&managed);
            }
        }
    }

    /// Takes in a context, if it is new. `primary_of` is the device whose primary context it is, where
    /// that is known.
    pub(crate) fn adopt(&self, driver: &Driver, context: u64, primary_of: Option<c_int>) {
        if context == 0 {
            return;
        }
        let mut link = self.lock();
        let id = driver.context_id(context);
        let known = match self.table.find(context) {
            Found::Unknown => None,
            Found::Unmanaged => return,
            Found::Managed(managed) => Some(managed.identity.id),
        };
        match known {
            Some(known) if known == id => return,
            // The handle of a context that ended without our seeing it.
            Some(_) => self.dispose(&mut link, context),
            None => {}
        }
        let mut made = make(driver, context, id, primary_of, link.broker());
        if matches!(made, Err(Unmanaged::Broker(_)))
            && link.is_dead()
            && self.await_daemon(&mut link)
        {
            made = make(driver, context, id, primary_of, link.broker());
        }
        self.note_connection(&link);
        let inserted = match made {
            Ok(managed) => self.insert(&mut link, context, managed),
            // What cannot be managed now is left alone for good, and not tried at every launch.
            Err(reason) => {
                let _ = self.table.insert(context, None);
                Err(reason)
            }
        };
        if inserted.is_ok() && link.connection().is_some() {
            self.watcher.call_once(watch::start);
        }
        drop(link);
        if let Err(reason) = inserted {
            report::unmanaged(&reason);
        }
    }

    /// Begins a call that may end a context.
    pub(crate) fn end_begins(&self, context: u64) -> Option<Ending> {
        let channel = match self.table.find(context) {
            Found::Unknown => return None,
            Found::Unmanaged => 0,
            Found::Managed(managed) => {
                managed.end_begins();
                managed.channel().id()
            }
        };
        Some(Ending { context, channel })
    }

    /// Begins a call that may end the primary context of a device.
    pub(crate) fn primary_end_begins(&self, device: c_int) -> Option<Ending> {
        let primary = self.table.contexts().find(|context| {
            matches!(
                self.table.find(*context),
                Found::Managed(managed) if managed.identity.primary_of == Some(device)
            )
        })?;
        self.end_begins(primary)
    }

    /// Ends such a call, whether the context has ended or not.
    pub(crate) fn end(&self, ending: Ending, has_ended: bool) {
        let mut link = self.lock();
        match self.table.find(ending.context) {
            Found::Managed(managed) if managed.channel().id() == ending.channel => {
                if !has_ended {
                    return managed.end_failed();
                }
            }
            Found::Unmanaged if ending.channel == 0 && has_ended => {}
            // Another thread was here, or the handle belongs to a new context already.
            _ => return,
        }
        self.dispose(&mut link, ending.context);
    }

    /// Closes, in a forked child, what the child has of the channels: they are its parent's, and the
    /// tenant is to end with it. Makes system calls only.
    pub(crate) fn close_in_child(&self) {
        let close = |descriptor: RawFd| {
            // SAFETY: the descriptor is the child's copy of one that nothing in the child uses.
            unsafe { libc::close(descriptor) };
        };
        let connection = self.connection.load(Ordering::Relaxed);
        if connection >= 0 {
            close(connection);
        }
        watch::descriptors().filter(|fd| *fd >= 0).for_each(close);
        for context in self.table.contexts() {
            if let Found::Managed(managed) = self.table.find(context) {
                for descriptor in managed.channel().descriptors() {
                    close(descriptor.as_raw_fd());
                }
            }
        }
    }

    fn insert(&self, link: &mut Link, context: u64, managed: Managed) -> Result<(), Unmanaged> {
        let id = managed.channel().id();
        let inserted = self.table.insert(context, Some(Box::new(managed)));
        if inserted.is_err() {
            // No launch used it.
            link.end_channel(id);
        }
        Ok(inserted?)
    }

    /// Ends the channel of a context that is gone.
    fn dispose(&self, link: &mut Link, context: u64) {
        let Some(managed) = self.table.remove(context, LAST_USE) else {
            return;
        };
        let id = managed.channel().id();
        drop(managed);
        link.end_channel(id);
        self.note_connection(link);
    }

    /// If the connection has ended, or `anew`: looks for a daemon, and hands all channels over to it.
    /// Returns whether there is one.
    pub(crate) fn reconnect(&self, link: &mut Link, anew: bool) -> bool {
        if !anew && !link.is_dead() {
            return true;
        }
        let contexts: Vec<_> = self.table.contexts().collect();
        let channels = contexts
            .iter()
            .filter_map(|context| match self.table.find(*context) {
                Found::Managed(managed) => Some(managed),
                Found::Unmanaged | Found::Unknown => None,
            });
        let reconnected = link.reconnect(channels);
        self.note_connection(link);
        reconnected
    }

    fn await_daemon(&self, link: &mut Link) -> bool {
        let deadline = Instant::now() + RESTART;
        while !self.reconnect(link, false) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        true
    }

    fn note_connection(&self, link: &Link) {
        let descriptor = link.descriptor().unwrap_or(-1);
        self.connection.store(descriptor, Ordering::Relaxed);
    }

    /// Has the connection for itself. Not for the launch path.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Link> {
        // A panic leaves the broker as it is: at worst its connection counts as broken.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the channel of a context.
fn make(
    driver: &Driver,
    context: u64,
    id: u64,
    primary_of: Option<c_int>,
    broker: &mut dyn Broker,
) -> Result<Managed, Unmanaged> {
    let current = driver.enter(context)?;
    let device = current.device()?;
    let name = current.device_name(device)?;
    if name.split(' ').any(|word| word == "MIG") {
        return Err(Unmanaged::Mig(name));
    }
    if current.generation(device)? != HOPPER {
        return Err(Unmanaged::Generation(name));
    }
    let primary_of = primary_of.or_else(|| driver.is_primary(context, device).then_some(device));
    let channel = broker.create_channel(current.device_uuid(device)?, context)?;
    let is_registered = match channel.arena().map(|arena| current.register(arena)) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            report::say(&format!(
                "{error}; launches are masked, their completions not seen"
            ));
            false
        }
        None => {
            report::say(
                "no free address below 1 TiB; launches are masked, their completions not seen",
            );
            false
        }
    };
    let identity = Identity { id, primary_of };
    Ok(Managed::new(channel, identity, is_registered))
}
