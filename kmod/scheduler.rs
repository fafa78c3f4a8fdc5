// SPDX-License-Identifier: GPL-2.0
//! A scheduler: an open file that has claimed GPUs, and what it is told.
//!
//! It lives by its heartbeat. When that stops, or the file is closed, it is *revoked*, which is final:
//! its mappings end, so that nothing it writes later reaches anybody; then the kernel says what holds.
//! To be one again it opens the device anew.
//!
//! Its mappings get their pages one by one, as they are touched, under the lock under which it is revoked:
//! so none comes in after the others have been taken away.

use core::ops::Deref;

use kernel::{
    bindings,
    fs::File,
    new_mutex, new_poll_condvar, new_spinlock,
    prelude::*,
    sync::{
        Arc, Mutex, SpinLock,
        atomic::{Atomic, ordering},
        poll::PollCondVar,
    },
};

use crate::{abi::*, pages::Shmem, queue::Queue};

/// A scheduler.
#[pin_data]
pub(crate) struct Scheduler {
    /// What its mappings are listed under, apart from everybody else's.
    mappings: Shmem,
    beat_ns: Atomic<u64>,
    /// Held while a page is mapped, and while it is revoked.
    #[pin]
    mapping: Mutex<()>,
    revoked: Atomic<i32>,
    #[pin]
    events: SpinLock<Queue<KVVec<lithos_event>>>,
    #[pin]
    pub(crate) news: PollCondVar,
}

impl Scheduler {
    /// Makes one that is told so many events at most before it reads them.
    pub(crate) fn new(events: usize) -> Result<Arc<Self>> {
        crate::fault::may_fail()?;
        let mappings = Shmem::new(c"lithos-scheduler", 0)?;
        let mut places = KVVec::with_capacity(events, GFP_KERNEL)?;
        for _ in 0..events {
            places.push(lithos_event::default(), GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                mappings,
                beat_ns: Atomic::new(now_ns()),
                mapping <- new_mutex!((), "lithos_mapping"),
                revoked: Atomic::new(0),
                events <- new_spinlock!(Queue::new(places), "lithos_events"),
                news <- new_poll_condvar!("lithos_news"),
            }),
            GFP_KERNEL,
        )
    }

    /// Lists what will be mapped of a file under this scheduler.
    ///
    /// # Safety
    ///
    /// Nothing of the file was mapped yet, and the scheduler lives as long as the file from now on.
    pub(crate) unsafe fn list_mappings_of(&self, file: &File) {
        // SAFETY: the address space lives as long as the scheduler, and nobody looks at the field
        // before something is mapped.
        unsafe { (*file.as_ptr()).f_mapping = self.mappings.mapping() };
    }

    /// Says that it lives.
    pub(crate) fn beat(&self) {
        self.beat_ns.store(now_ns(), ordering::Relaxed);
    }

    /// Returns for how long it has not beaten, in nanoseconds.
    pub(crate) fn silence_ns(&self) -> u64 {
        now_ns().saturating_sub(self.beat_ns.load(ordering::Relaxed))
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(ordering::Acquire) != 0
    }

    /// Takes away its mappings, so that whoever touches one has SIGBUS, and makes its calls fail from
    /// now on. Returns whether this was what did it.
    pub(crate) fn revoke(&self) -> bool {
        let mapping = self.mapping.lock();
        if self.revoked.xchg(1, ordering::Full) != 0 {
            return false;
        }
        // SAFETY: the address space lives as long as this value. 0, 0: all of it.
        unsafe { bindings::unmap_mapping_range(self.mappings.mapping(), 0, 0, 1) };
        drop(mapping);
        // Under the lock: who has just found nothing to read waits by now.
        let _events = self.events.lock();
        self.news.notify_all();
        true
    }

    /// Does something that must not come after [`Self::revoke`].
    pub(crate) fn unless_revoked<R>(&self, act: impl FnOnce() -> R) -> Option<R> {
        let _mapping = self.mapping.lock();
        (!self.is_revoked()).then(act)
    }

    /// Tells it something, or that something is missing. Returns whether it was the thing itself.
    pub(crate) fn tell(&self, event: lithos_event) -> bool {
        let told = self.events.lock().push(event);
        self.news.notify_all();
        told
    }

    /// Says that an event could not be handed over.
    pub(crate) fn lose(&self) {
        self.events.lock().lose();
    }

    /// Returns whether there is something to read.
    pub(crate) fn has_news(&self) -> bool {
        !self.events.lock().is_empty()
    }

    /// Takes one event; waits for it if it may.
    pub(crate) fn take(&self, may_wait: bool) -> Result<lithos_event> {
        let mut events = self.events.lock();
        loop {
            let event = events.pop(|missing| lithos_event {
                type_: LITHOS_EVENT_LOST,
                time_ns: now_ns(),
                value: missing,
                ..lithos_event::default()
            });
            if let Some(event) = event {
                return Ok(event);
            }
            if self.is_revoked() {
                return Err(ESTALE);
            }
            if !may_wait {
                return Err(EAGAIN);
            }
            if self.news.deref().wait_interruptible(&mut events) {
                return Err(EINTR);
            }
        }
    }
}

/// Returns the monotonic clock's time.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: in any context but that of a non-maskable interrupt.
    unsafe { bindings::ktime_get() as u64 }
}
