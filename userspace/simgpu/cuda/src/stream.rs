// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Streams: what has been submitted, and waiting for it.
//!
//! The client counts what it submits, the server publishes how much is complete; "is it done" is a
//! comparison of two numbers. The counts of a stream's number on the status page go on when the
//! number is used again, so that nothing has to be reset.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use simgpu::page::STREAMS_MAX;
use simgpu::wire::{Op, Request, StreamKind};

use crate::context::{self, Context, PRIORITIES};
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::symbols::Call;

/// The handle of the legacy default stream, apart from null.
const LEGACY: usize = 1;
/// The handle of the calling thread's default stream.
const PER_THREAD: usize = 2;
/// Flag of a stream that does not join the legacy stream.
const NON_BLOCKING: c_uint = 1;
/// Operations of one stream before the next one has to wait: one that runs and, as in a hardware queue of
/// an H100, 1021 that wait for their turn.
const QUEUE_MAX: u64 = 1022;

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) number: u32,
    /// The number of its context.
    pub(crate) context: u32,
    priority: c_int,
    flags: c_uint,
    /// How many operations were submitted.
    submitted: Mutex<u64>,
}

/// Every stream of the process.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// All that live, by number.
    live: Mutex<BTreeMap<u32, Arc<Stream>>>,
    /// Those that programs have handles of.
    handles: Mutex<HashMap<usize, Arc<Stream>>>,
    /// Streams that were destroyed, whose numbers can be used again when their work is done.
    retired: Mutex<Vec<Retired>>,
}

/// A stream that was destroyed.
#[derive(Clone, Copy, Debug)]
struct Retired {
    number: u32,
    context: u32,
    submitted: u64,
}

/// Makes a stream.
pub(crate) fn create(
    driver: &Driver,
    context: u32,
    kind: StreamKind,
    priority: c_int,
    flags: c_uint,
) -> Result<Arc<Stream>, Error> {
    let mut live = lock(&driver.streams.live);
    let mut retired = lock(&driver.streams.retired);
    let idle = retired
        .iter()
        .position(|stream| driver.page.completed(stream.number as usize) >= stream.submitted);
    let (number, completed) = match idle {
        Some(index) => {
            let stream = retired.swap_remove(index);
            (stream.number, stream.submitted)
        }
        None => {
            let count = live.len() + retired.len();
            let number = u32::try_from(count).ok().filter(|_| count < STREAMS_MAX);
            (number.ok_or(Error::OUT_OF_MEMORY)?, 0)
        }
    };
    driver.tell(&Request::OpenStream {
        stream: number,
        context,
        priority,
        kind,
        completed,
    })?;
    let stream = Arc::new(Stream {
        number,
        context,
        priority,
        flags,
        submitted: Mutex::new(completed),
    });
    live.insert(number, stream.clone());
    Ok(stream)
}

impl Streams {
    /// The streams of a context.
    fn of_context(&self, context: u32) -> Vec<Arc<Stream>> {
        lock(&self.live)
            .values()
            .filter(|stream| stream.context == context)
            .cloned()
            .collect()
    }

    /// Forgets the streams of a context that has ended, and what was not complete in them.
    pub(crate) fn retire_context(&self, driver: &Driver, context: u32) {
        lock(&self.handles).retain(|_, stream| stream.context != context);
        let mut live = lock(&self.live);
        let mut retired = lock(&self.retired);
        let ended = live.extract_if(.., |_, stream| stream.context == context);
        retired.extend(ended.map(|(number, _)| Retired {
            number,
            context,
            submitted: 0,
        }));
        for stream in retired.iter_mut().filter(|it| it.context == context) {
            stream.submitted = driver.page.completed(stream.number as usize);
        }
    }

    /// Waits for everything that was submitted so far to the streams of a context, those among them
    /// that were destroyed since.
    pub(crate) fn synchronize_context(&self, driver: &Driver, context: u32) -> Outcome {
        for stream in self.of_context(context) {
            stream.synchronize(driver)?;
        }
        let retired = lock(&self.retired).clone();
        let ours = retired.iter().filter(|stream| stream.context == context);
        ours.copied().try_for_each(|stream| stream.wait(driver))
    }

    /// Gives up a stream; what was submitted still runs, and its number is free when it has.
    pub(crate) fn retire(&self, driver: &Driver, stream: &Stream) -> Outcome {
        let retired = stream.retired();
        let mut live = lock(&self.live);
        // Its context may have ended and its number be somebody else's by now.
        let own = live
            .get(&stream.number)
            .is_some_and(|other| std::ptr::eq(&**other, stream));
        if !own {
            return Ok(());
        }
        live.remove(&stream.number);
        lock(&self.retired).push(retired);
        driver.tell(&Request::CloseStream {
            stream: stream.number,
        })
    }

    /// The streams that must be done for this one to be: the legacy stream joins all blocking ones.
    fn joined(&self, context: &Context, stream: &Arc<Stream>) -> Vec<Arc<Stream>> {
        if !Arc::ptr_eq(&context.legacy, stream) {
            return vec![stream.clone()];
        }
        let mut streams = self.of_context(context.number);
        streams.retain(|other| other.flags & NON_BLOCKING == 0);
        streams
    }

    fn find(&self, handle: *mut c_void) -> Result<Arc<Stream>, Error> {
        let found = lock(&self.handles).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_HANDLE)
    }
}

impl Retired {
    /// Waits until its work is done, or the context has failed.
    fn wait(self, driver: &Driver) -> Outcome {
        wait_for(driver, self.number, self.context, self.submitted)
    }
}

/// Waits until so many operations of a stream are complete, or its context has failed.
fn wait_for(driver: &Driver, number: u32, context: u32, count: u64) -> Outcome {
    driver.wait(|| {
        let is_complete = || driver.page.completed(number as usize) >= count;
        failure(driver, context).or_else(|| is_complete().then_some(Ok(())))
    })
}

fn failure<T>(driver: &Driver, context: u32) -> Option<Result<T, Error>> {
    let error = driver.page.error(context as usize);
    (error != 0).then(|| Err(Error::from_number(error)))
}

impl Stream {
    fn retired(&self) -> Retired {
        Retired {
            number: self.number,
            context: self.context,
            submitted: self.submitted(),
        }
    }

    /// Appends an operation, as soon as the stream has room for it.
    pub(crate) fn submit(&self, driver: &Driver, op: Op) -> Outcome {
        self.reserve(driver)?.submit(driver, op)
    }

    /// Waits until the stream has room and keeps other threads from filling it.
    pub(crate) fn reserve(&self, driver: &Driver) -> Result<Reserved<'_>, Error> {
        let submitted = lock(&self.submitted);
        let number = self.number as usize;
        if *submitted - driver.page.completed(number).min(*submitted) >= QUEUE_MAX {
            driver.wait(|| {
                let room = *submitted - driver.page.completed(number).min(*submitted) < QUEUE_MAX;
                failure(driver, self.context).or(room.then_some(Ok(())))
            })?;
        }
        Ok(Reserved {
            stream: self,
            submitted,
        })
    }

    /// How many operations were submitted so far.
    pub(crate) fn submitted(&self) -> u64 {
        *lock(&self.submitted)
    }

    /// Waits until as many operations are complete, or the context has failed.
    pub(crate) fn wait_for(&self, driver: &Driver, count: u64) -> Outcome {
        wait_for(driver, self.number, self.context, count)
    }

    pub(crate) fn is_complete(&self, driver: &Driver, count: u64) -> bool {
        driver.page.completed(self.number as usize) >= count
    }

    /// Waits for everything that was submitted so far.
    pub(crate) fn synchronize(&self, driver: &Driver) -> Outcome {
        self.wait_for(driver, self.submitted())
    }

    fn handle(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }
}

/// A stream with room, held by one thread.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    stream: &'a Stream,
    submitted: MutexGuard<'a, u64>,
}

impl Reserved<'_> {
    pub(crate) fn submit(mut self, driver: &Driver, op: Op) -> Outcome {
        driver.tell(&Request::Submit {
            stream: self.stream.number,
            op,
        })?;
        *self.submitted += 1;
        Ok(())
    }

    /// Which operation of the stream the next one is, counted from 1.
    pub(crate) fn next(&self) -> u64 {
        *self.submitted + 1
    }
}

/// The stream of a handle; null is the default stream that the called function's name implies.
pub(crate) fn resolve(
    call: Call,
    handle: *mut c_void,
) -> Result<(Arc<Context>, Arc<Stream>), Error> {
    let driver = driver()?;
    let stream = match handle.addr() {
        0 | LEGACY | PER_THREAD => {
            let context = context::current()?;
            let per_thread = handle.addr() == PER_THREAD || handle.addr() == 0 && call.per_thread;
            let stream = if per_thread {
                context.per_thread_stream(driver)?
            } else {
                context.legacy.clone()
            };
            return Ok((context, stream));
        }
        _ => driver.streams.find(handle)?,
    };
    let context = driver.contexts.numbered(stream.context)?;
    context.check(driver)?;
    Ok((context, stream))
}

pub(crate) unsafe fn create_plain(call: Call, out: *mut *mut c_void, flags: c_uint) -> Outcome {
    // SAFETY: the same contract.
    unsafe { create_with_priority(call, out, flags, 0) }
}

pub(crate) unsafe fn create_with_priority(
    _: Call,
    out: *mut *mut c_void,
    flags: c_uint,
    priority: c_int,
) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    if out.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let kind = if flags & NON_BLOCKING != 0 {
        StreamKind::NonBlocking
    } else {
        StreamKind::Blocking
    };
    let (least, greatest) = PRIORITIES;
    let priority = priority.clamp(greatest, least);
    let stream = create(driver, context.number, kind, priority, flags)?;
    let handle = stream.handle();
    lock(&driver.streams.handles).insert(handle.addr(), stream);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, handle) }
}

pub(crate) unsafe fn destroy(_: Call, handle: *mut c_void) -> Outcome {
    let driver = driver()?;
    let stream = lock(&driver.streams.handles).remove(&handle.addr());
    let stream = stream.ok_or(Error::INVALID_HANDLE)?;
    driver.streams.retire(driver, &stream)
}

pub(crate) unsafe fn query(call: Call, handle: *mut c_void) -> Outcome {
    let (context, stream) = resolve(call, handle)?;
    let driver = driver()?;
    let joined = driver.streams.joined(&context, &stream);
    let done = |stream: &Arc<Stream>| stream.is_complete(driver, stream.submitted());
    if joined.iter().all(done) {
        Ok(())
    } else {
        Err(Error::NOT_READY)
    }
}

pub(crate) unsafe fn synchronize(call: Call, handle: *mut c_void) -> Outcome {
    let (context, stream) = resolve(call, handle)?;
    let driver = driver()?;
    let joined = driver.streams.joined(&context, &stream);
    joined
        .iter()
        .try_for_each(|stream| stream.synchronize(driver))
}

pub(crate) unsafe fn get_priority(call: Call, handle: *mut c_void, out: *mut c_int) -> Outcome {
    let (_, stream) = resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, stream.priority) }
}

pub(crate) unsafe fn get_flags(call: Call, handle: *mut c_void, out: *mut c_uint) -> Outcome {
    let (_, stream) = resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, stream.flags) }
}

pub(crate) unsafe fn get_context(
    call: Call,
    handle: *mut c_void,
    out: *mut *mut c_void,
) -> Outcome {
    let (context, _) = resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, context.handle()) }
}

pub(crate) unsafe fn get_id(call: Call, handle: *mut c_void, out: *mut u64) -> Outcome {
    let (_, stream) = resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, u64::from(stream.number) + 1) }
}

pub(crate) unsafe fn get_device(call: Call, handle: *mut c_void, out: *mut c_int) -> Outcome {
    let (context, _) = resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, context::device_number(&context)) }
}

/// No stream is ever being captured into a graph.
pub(crate) unsafe fn is_capturing(call: Call, handle: *mut c_void, out: *mut c_uint) -> Outcome {
    resolve(call, handle)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, 0) }
}
