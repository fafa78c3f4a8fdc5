// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The status page: what the server tells a client without a message.
//!
//! The idea: asking whether work is done costs a load, and waiting for it a futex, as on hardware
//! where completions are semaphores in memory. One page per connection, made by the client, written
//! by the server only; it holds for every stream how many of its operations are complete, for every
//! event what it recorded, and for every context the error that ended it.
//!
//! A waiter reads `ticks`, looks at what it waits for, and sleeps while `ticks` is unchanged; the
//! server publishes first, then counts `ticks` up and wakes whoever announced itself in `waiters`.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::shared::SharedMemory;

/// Contexts that one process can have.
pub const CONTEXTS_MAX: usize = 64;
/// Streams that one process can have.
pub const STREAMS_MAX: usize = 4096;
/// Events that one process can have.
pub const EVENTS_MAX: usize = 65_536;

/// What an event recorded last.
#[repr(C)]
#[derive(Debug)]
struct EventCell {
    /// How many records are complete.
    records: AtomicU64,
    /// The GPU's time at the last one.
    at_ns: AtomicU64,
}

#[repr(C)]
#[derive(Debug)]
struct Layout {
    ticks: AtomicU32,
    waiters: AtomicU32,
    errors: [AtomicU32; CONTEXTS_MAX],
    completed: [AtomicU64; STREAMS_MAX],
    host_functions: [AtomicU64; STREAMS_MAX],
    events: [EventCell; EVENTS_MAX],
}

/// A status page, mapped by the client or by the server.
#[derive(Debug)]
pub struct StatusPage {
    memory: SharedMemory,
}

impl StatusPage {
    /// The size of the page.
    pub const BYTES: usize = size_of::<Layout>();

    /// Makes an empty page, on the client's side.
    pub fn create() -> io::Result<Self> {
        let memory = SharedMemory::create(c"simgpu-status", Self::BYTES)?;
        Ok(Self { memory })
    }

    /// The page in memory that a client passed, on the server's side.
    pub fn accept(memory: SharedMemory) -> io::Result<Self> {
        if memory.bytes() < Self::BYTES {
            return Err(io::Error::other("the status page is too small"));
        }
        Ok(Self { memory })
    }

    /// The memory behind the page.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    fn layout(&self) -> &Layout {
        // SAFETY: both constructors made sure of the size; a mapping is aligned to a page and lives
        // as long as `self`; every field is an atomic, for which all bytes are valid and which the
        // other process may change at any time.
        unsafe { &*self.memory.as_ptr().cast::<Layout>() }
    }

    /// Operations of a stream that are complete.
    pub fn completed(&self, stream: usize) -> u64 {
        self.layout().completed[stream].load(Ordering::Acquire)
    }

    /// Says how many operations of a stream are complete.
    pub fn set_completed(&self, stream: usize, count: u64) {
        self.layout().completed[stream].store(count, Ordering::Release);
    }

    /// Which operation of a stream, counted from 1, is a host function that waits to be called; 0 if
    /// there was none yet.
    pub fn host_function(&self, stream: usize) -> u64 {
        self.layout().host_functions[stream].load(Ordering::Acquire)
    }

    /// Says which operation of a stream waits for a host function.
    pub fn set_host_function(&self, stream: usize, operation: u64) {
        self.layout().host_functions[stream].store(operation, Ordering::Release);
    }

    /// The error that ended a context, 0 while it lives.
    pub fn error(&self, context: usize) -> u32 {
        self.layout().errors[context].load(Ordering::Acquire)
    }

    /// Ends a context with an error, or clears the word for a new context.
    pub fn set_error(&self, context: usize, error: u32) {
        self.layout().errors[context].store(error, Ordering::Release);
    }

    /// How many records of an event are complete, and the GPU's time at the last.
    pub fn event(&self, event: usize) -> (u64, u64) {
        let cell = &self.layout().events[event];
        let records = cell.records.load(Ordering::Acquire);
        (records, cell.at_ns.load(Ordering::Acquire))
    }

    /// Says what an event recorded.
    pub fn set_event(&self, event: usize, records: u64, at_ns: u64) {
        let cell = &self.layout().events[event];
        cell.at_ns.store(at_ns, Ordering::Release);
        cell.records.store(records, Ordering::Release);
    }

    /// Wakes everybody who waits for a change of the page.
    pub fn notify(&self) {
        let layout = self.layout();
        layout.ticks.fetch_add(1, Ordering::SeqCst);
        if layout.waiters.load(Ordering::SeqCst) > 0 {
            // SAFETY: the futex word lives in the mapping; FUTEX_WAKE does not touch it.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    layout.ticks.as_ptr(),
                    libc::FUTEX_WAKE,
                    i32::MAX,
                )
            };
        }
    }

    /// Waits until `done` returns something, looking again at every change of the page and at least
    /// once per `patience`.
    pub fn wait<T>(&self, patience: Duration, mut done: impl FnMut() -> Option<T>) -> T {
        let layout = self.layout();
        layout.waiters.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            let ticks = layout.ticks.load(Ordering::SeqCst);
            if let Some(result) = done() {
                break result;
            }
            let timeout = libc::timespec {
                tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: patience.subsec_nanos().into(),
            };
            // SAFETY: the futex word lives in the mapping and the timeout on this stack; the call
            // only sleeps, and every way in which it ends leads to another look.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    layout.ticks.as_ptr(),
                    libc::FUTEX_WAIT,
                    ticks,
                    &raw const timeout,
                )
            };
        };
        layout.waiters.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sees_what_was_published() {
        let page = StatusPage::create().expect("a page");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                page.wait(Duration::from_secs(60), || {
                    (page.completed(7) == 3).then(|| page.event(9))
                })
            });
            page.set_event(9, 1, 42);
            page.set_completed(7, 3);
            page.notify();
            assert_eq!(waiter.join().expect("the waiter"), (1, 42));
        });
    }
}
