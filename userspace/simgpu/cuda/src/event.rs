// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Events: numbered records on the status page.
//!
//! Each record of an event has a number that goes on when the event's place is used for another
//! event; an event is complete when as many records are published as were submitted.

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use simgpu::page::EVENTS_MAX;
use simgpu::wire::Op;

use crate::context;
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::stream;
use crate::symbols::Call;

/// Flag of an event that keeps no time.
const DISABLE_TIMING: c_uint = 2;
/// Flags that events can have, apart from sharing between processes.
const FLAGS: c_uint = 1 | DISABLE_TIMING;

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    number: u32,
    context: u32,
    flags: c_uint,
    /// The number of the last record when the event was made: nothing was recorded yet.
    first: u64,
    /// The number of the last record.
    records: AtomicU64,
}

/// Every event of the process.
#[derive(Debug, Default)]
pub(crate) struct Events {
    handles: Mutex<HashMap<usize, Arc<Event>>>,
    places: Mutex<Places>,
}

/// Places on the status page.
#[derive(Debug, Default)]
struct Places {
    /// How many were ever used.
    used: u32,
    /// Those that are free again, with the number of their last record.
    free: Vec<(u32, u64)>,
}

impl Events {
    pub(crate) fn find(&self, handle: *mut c_void) -> Result<Arc<Event>, Error> {
        let found = lock(&self.handles).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_HANDLE)
    }

    /// Forgets the events of a context that has ended.
    pub(crate) fn retire_context(&self, context: u32) {
        lock(&self.handles).retain(|_, event| {
            if event.context == context {
                self.give_place_back(event);
            }
            event.context != context
        });
    }

    fn give_place_back(&self, event: &Event) {
        let records = event.records.load(Ordering::Acquire);
        lock(&self.places).free.push((event.number, records));
    }
}

impl Event {
    /// The number of the last record, if there was one.
    pub(crate) fn last_record(&self) -> Option<u64> {
        let records = self.records.load(Ordering::Acquire);
        (records > self.first).then_some(records)
    }

    /// The GPU's time at the last record; an error if there was none, or it is not complete.
    fn time_ns(&self, driver: &Driver) -> Result<u64, Error> {
        let record = self.last_record().ok_or(Error::INVALID_HANDLE)?;
        match driver.page.event(self.number as usize) {
            (complete, at_ns) if complete >= record => Ok(at_ns),
            _ => Err(self.failure(driver).unwrap_or(Error::NOT_READY)),
        }
    }

    fn is_complete(&self, driver: &Driver) -> bool {
        let (complete, _) = driver.page.event(self.number as usize);
        self.last_record().is_none_or(|record| complete >= record)
    }

    fn failure(&self, driver: &Driver) -> Option<Error> {
        let error = driver.page.error(self.context as usize);
        (error != 0).then(|| Error::from_number(error))
    }
}

pub(crate) unsafe fn create(_: Call, out: *mut *mut c_void, flags: c_uint) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    if out.is_null() || flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let mut places = lock(&driver.events.places);
    let (number, records) = match places.free.pop() {
        Some(place) => place,
        None if (places.used as usize) < EVENTS_MAX => {
            places.used += 1;
            (places.used - 1, 0)
        }
        None => return Err(Error::OUT_OF_MEMORY),
    };
    drop(places);
    let event = Arc::new(Event {
        number,
        context: context.number,
        flags,
        first: records,
        records: AtomicU64::new(records),
    });
    let handle: *mut c_void = Arc::as_ptr(&event).cast_mut().cast();
    lock(&driver.events.handles).insert(handle.addr(), event);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, handle) }
}

pub(crate) unsafe fn destroy(_: Call, handle: *mut c_void) -> Outcome {
    let events = &driver()?.events;
    let event = lock(&events.handles).remove(&handle.addr());
    events.give_place_back(&*event.ok_or(Error::INVALID_HANDLE)?);
    Ok(())
}

pub(crate) unsafe fn record(call: Call, event: *mut c_void, stream: *mut c_void) -> Outcome {
    let driver = driver()?;
    let (context, stream) = stream::resolve(call, stream)?;
    let event = driver.events.find(event)?;
    if event.context != context.number {
        return Err(Error::INVALID_HANDLE);
    }
    let reserved = stream.reserve(driver)?;
    let record = event.records.fetch_add(1, Ordering::AcqRel) + 1;
    reserved.submit(
        driver,
        Op::Record {
            event: event.number,
            record,
        },
    )
}

pub(crate) unsafe fn record_with_flags(
    call: Call,
    event: *mut c_void,
    stream: *mut c_void,
    flags: c_uint,
) -> Outcome {
    if flags > 1 {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: the same contract.
    unsafe { record(call, event, stream) }
}

pub(crate) unsafe fn query(_: Call, event: *mut c_void) -> Outcome {
    let driver = driver()?;
    let event = driver.events.find(event)?;
    if event.is_complete(driver) {
        return Ok(());
    }
    Err(event.failure(driver).unwrap_or(Error::NOT_READY))
}

pub(crate) unsafe fn synchronize(_: Call, event: *mut c_void) -> Outcome {
    let driver = driver()?;
    let event = driver.events.find(event)?;
    driver.wait(|| {
        let complete = event.is_complete(driver).then_some(Ok(()));
        complete.or_else(|| event.failure(driver).map(Err))
    })
}

pub(crate) unsafe fn elapsed(
    _: Call,
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let (start, end) = (driver.events.find(start)?, driver.events.find(end)?);
    if (start.flags | end.flags) & DISABLE_TIMING != 0 {
        return Err(Error::INVALID_HANDLE);
    }
    let (from, to) = (start.time_ns(driver)?, end.time_ns(driver)?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the function's result is a float of milliseconds"
    )]
    let elapsed = (to.wrapping_sub(from).cast_signed() as f64 / 1e6) as f32;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(milliseconds, elapsed) }
}

pub(crate) unsafe fn wait(
    call: Call,
    stream: *mut c_void,
    event: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let driver = driver()?;
    if flags > 1 {
        return Err(Error::INVALID_VALUE);
    }
    let (_, stream) = stream::resolve(call, stream)?;
    let event = driver.events.find(event)?;
    match event.last_record() {
        Some(record) => stream.submit(
            driver,
            Op::WaitEvent {
                event: event.number,
                record,
            },
        ),
        None => Ok(()),
    }
}
