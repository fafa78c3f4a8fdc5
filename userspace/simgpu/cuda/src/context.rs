// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Contexts: made, retired, and which one a thread works in.
//!
//! A context's handle is its address, valid while it is in the table; every use looks it up, so that
//! a stale handle is an error and not a crash. Each thread has a stack of contexts whose top is the
//! current one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use simgpu::page::CONTEXTS_MAX;
use simgpu::wire::{Request, StreamKind};

use crate::bank::Banks;
use crate::driver::{Driver, VERSION, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::stream::{self, Stream};
use crate::symbols::Call;

/// Priorities of streams: least and greatest.
pub(crate) const PRIORITIES: (c_int, c_int) = (0, -5);
/// Flags that contexts can have.
const FLAGS: c_uint = 0xff;

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    /// Its number at the server and on the status page.
    pub(crate) number: u32,
    /// The GPU's place among those that this process sees.
    pub(crate) gpu: usize,
    /// A number that no other context of this process ever had.
    pub(crate) id: u64,
    flags: AtomicU32,
    alive: AtomicBool,
    pub(crate) legacy: Arc<Stream>,
    pub(crate) banks: Banks,
    latches: AtomicU32,
}

/// Every context of the process.
#[derive(Debug)]
pub(crate) struct Contexts {
    table: Mutex<HashMap<usize, Arc<Context>>>,
    numbers: Mutex<Vec<u32>>,
    ids: AtomicU64,
    primaries: Vec<Mutex<Primary>>,
}

/// A GPU's primary context.
#[derive(Debug, Default)]
struct Primary {
    context: Option<Arc<Context>>,
    references: u32,
    flags: c_uint,
}

/// The default streams of a thread, by the id of their context. They end with the thread.
#[derive(Default)]
struct OwnStreams(RefCell<HashMap<u64, Arc<Stream>>>);

impl Drop for OwnStreams {
    fn drop(&mut self) {
        for stream in self.0.take().into_values() {
            if let Ok(driver) = driver() {
                // If the server is gone, so are its streams.
                let _ = driver.streams.retire(driver, &stream);
            }
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Vec<Option<Arc<Context>>>> = const { RefCell::new(Vec::new()) };
    static OWN_STREAMS: OwnStreams = OwnStreams::default();
}

impl Contexts {
    pub(crate) fn new(gpus: usize) -> Self {
        let numbers = u32::try_from(CONTEXTS_MAX).unwrap_or(0);
        Self {
            table: Mutex::default(),
            numbers: Mutex::new((0..numbers).rev().collect()),
            ids: AtomicU64::new(1),
            primaries: (0..gpus).map(|_| Mutex::default()).collect(),
        }
    }

    /// Looks a handle up.
    pub(crate) fn find(&self, handle: *mut c_void) -> Result<Arc<Context>, Error> {
        let found = lock(&self.table).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_CONTEXT)
    }

    /// The context with this number.
    pub(crate) fn numbered(&self, number: u32) -> Result<Arc<Context>, Error> {
        let table = lock(&self.table);
        let found = table.values().find(|context| context.number == number);
        found.cloned().ok_or(Error::DESTROYED)
    }

    fn create(driver: &Driver, gpu: usize, flags: c_uint) -> Result<Arc<Context>, Error> {
        let &(server_gpu, _) = driver.gpus.get(gpu).ok_or(Error::INVALID_DEVICE)?;
        let contexts = &driver.contexts;
        let number = lock(&contexts.numbers).pop().ok_or(Error::OUT_OF_MEMORY)?;
        let open = Request::OpenContext {
            context: number,
            gpu: server_gpu,
        };
        let made = driver.ask(&open, None).and_then(|_| {
            Ok(Context {
                number,
                gpu,
                id: contexts.ids.fetch_add(1, Ordering::Relaxed),
                flags: AtomicU32::new(flags),
                alive: AtomicBool::new(true),
                legacy: stream::create(driver, number, StreamKind::Legacy, 0, 0)?,
                banks: Banks::new(driver)?,
                latches: AtomicU32::new(0),
            })
        });
        match made {
            Ok(context) => {
                let context = Arc::new(context);
                lock(&contexts.table).insert(context.handle().addr(), context.clone());
                Ok(context)
            }
            Err(error) => {
                // The server may never have heard of it.
                let _ = driver.ask(&Request::CloseContext { context: number }, None);
                lock(&contexts.numbers).push(number);
                Err(error)
            }
        }
    }

    fn retire(driver: &Driver, context: &Arc<Context>) -> Outcome {
        if !context.alive.swap(false, Ordering::AcqRel) {
            return Err(Error::DESTROYED);
        }
        let contexts = &driver.contexts;
        lock(&contexts.table).remove(&context.handle().addr());
        // A context ends with its work, not after it; but a healthy one finishes first.
        let _ = context.synchronize(driver);
        driver.modules.retire_context(context.number);
        driver.libraries.retire_context(context.number);
        driver.events.retire_context(context.number);
        driver.allocations.retire_context(context.number);
        let close = Request::CloseContext {
            context: context.number,
        };
        let closed = driver.ask(&close, None);
        driver.streams.retire_context(driver, context.number);
        context.banks.retire(driver);
        lock(&contexts.numbers).push(context.number);
        closed.map(|_| ())
    }
}

impl Context {
    pub(crate) fn handle(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// An error if the context has been destroyed or has failed.
    pub(crate) fn check(&self, driver: &Driver) -> Outcome {
        if !self.alive.load(Ordering::Acquire) {
            return Err(Error::DESTROYED);
        }
        match driver.page.error(self.number as usize) {
            0 => Ok(()),
            error => Err(Error::from_number(error)),
        }
    }

    /// A latch that no recent launch of this context has.
    pub(crate) fn next_latch(&self) -> u32 {
        self.latches.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Waits for everything that was submitted so far.
    pub(crate) fn synchronize(&self, driver: &Driver) -> Outcome {
        driver.streams.synchronize_context(driver, self.number)
    }

    /// The default stream of the calling thread.
    pub(crate) fn per_thread_stream(&self, driver: &Driver) -> Result<Arc<Stream>, Error> {
        OWN_STREAMS.with(|own| {
            let mut streams = own.0.borrow_mut();
            if let Some(stream) = streams.get(&self.id) {
                return Ok(stream.clone());
            }
            let made = stream::create(driver, self.number, StreamKind::Blocking, 0, 0)?;
            streams.insert(self.id, made.clone());
            Ok(made)
        })
    }
}

/// The calling thread's current context, if it has one that lives.
pub(crate) fn current() -> Result<Arc<Context>, Error> {
    let context = peek_current().ok_or(Error::INVALID_CONTEXT)?;
    context.check(driver()?)?;
    Ok(context)
}

/// The calling thread's current context, dead or alive.
pub(crate) fn peek_current() -> Option<Arc<Context>> {
    // A thread that is ending has no context.
    CURRENT
        .try_with(|stack| stack.borrow().last().cloned().flatten())
        .ok()
        .flatten()
}

fn push(context: Option<Arc<Context>>) {
    CURRENT.with(|stack| stack.borrow_mut().push(context));
}

fn gpu_index(device: c_int) -> Result<usize, Error> {
    let index = usize::try_from(device).map_err(|_| Error::INVALID_DEVICE)?;
    if index < driver()?.gpus.len() {
        Ok(index)
    } else {
        Err(Error::INVALID_DEVICE)
    }
}

pub(crate) unsafe fn create(
    _: Call,
    out: *mut *mut c_void,
    flags: c_uint,
    device: c_int,
) -> Outcome {
    let driver = driver()?;
    if out.is_null() || flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let context = Contexts::create(driver, gpu_index(device)?, flags)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, context.handle())? };
    push(Some(context));
    Ok(())
}

pub(crate) unsafe fn create_v3(
    call: Call,
    out: *mut *mut c_void,
    affinity: *mut c_void,
    affinities: c_int,
    flags: c_uint,
    device: c_int,
) -> Outcome {
    if !affinity.is_null() || affinities != 0 {
        return Err(Error::NOT_SUPPORTED);
    }
    // SAFETY: the same contract.
    unsafe { create(call, out, flags, device) }
}

pub(crate) unsafe fn create_v4(
    call: Call,
    out: *mut *mut c_void,
    parameters: *mut c_void,
    flags: c_uint,
    device: c_int,
) -> Outcome {
    if !parameters.is_null() {
        return Err(Error::NOT_SUPPORTED);
    }
    // SAFETY: the same contract.
    unsafe { create(call, out, flags, device) }
}

pub(crate) unsafe fn destroy(_: Call, context: *mut c_void) -> Outcome {
    let driver = driver()?;
    let context = driver.contexts.find(context)?;
    let is_primary = driver.contexts.primaries.iter().any(|primary| {
        let primary = lock(primary);
        primary
            .context
            .as_ref()
            .is_some_and(|c| Arc::ptr_eq(c, &context))
    });
    if is_primary {
        return Err(Error::INVALID_CONTEXT);
    }
    // Popped only where it is current here; other threads keep a dead one.
    CURRENT.with(|stack| {
        let mut stack = stack.borrow_mut();
        if matches!(stack.last(), Some(Some(top)) if Arc::ptr_eq(top, &context)) {
            stack.pop();
        }
    });
    Contexts::retire(driver, &context)
}

pub(crate) unsafe fn push_current(_: Call, context: *mut c_void) -> Outcome {
    push(Some(driver()?.contexts.find(context)?));
    Ok(())
}

pub(crate) unsafe fn pop_current(_: Call, out: *mut *mut c_void) -> Outcome {
    driver()?;
    let popped = CURRENT.with(|stack| stack.borrow_mut().pop()).flatten();
    let popped = popped.ok_or(Error::INVALID_CONTEXT)?;
    // SAFETY: the caller lends the place, or does not want to know.
    unsafe { crate::write_optional(out, popped.handle()) };
    Ok(())
}

pub(crate) unsafe fn set_current(_: Call, context: *mut c_void) -> Outcome {
    let driver = driver()?;
    let context = if context.is_null() {
        None
    } else {
        Some(driver.contexts.find(context)?)
    };
    CURRENT.with(|stack| {
        let mut stack = stack.borrow_mut();
        stack.pop();
        stack.extend(context.map(Some));
    });
    Ok(())
}

pub(crate) unsafe fn get_current(_: Call, out: *mut *mut c_void) -> Outcome {
    driver()?;
    let handle = peek_current().map_or(std::ptr::null_mut(), |context| context.handle());
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, handle) }
}

pub(crate) unsafe fn get_device(_: Call, out: *mut c_int) -> Outcome {
    driver()?;
    let context = peek_current().ok_or(Error::INVALID_CONTEXT)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, device_number(&context)) }
}

pub(crate) unsafe fn get_device_v2(_: Call, out: *mut c_int, context: *mut c_void) -> Outcome {
    let context = find_or_current(context)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, device_number(&context)) }
}

pub(crate) fn device_number(context: &Context) -> c_int {
    c_int::try_from(context.gpu).unwrap_or(c_int::MAX)
}

pub(crate) unsafe fn synchronize(_: Call) -> Outcome {
    current()?.synchronize(driver()?)
}

pub(crate) unsafe fn synchronize_v2(_: Call, context: *mut c_void) -> Outcome {
    let driver = driver()?;
    let context = find_or_current(context)?;
    context.check(driver)?;
    context.synchronize(driver)
}

/// The context of a handle; of null, the current one.
fn find_or_current(context: *mut c_void) -> Result<Arc<Context>, Error> {
    if context.is_null() {
        peek_current().ok_or(Error::INVALID_CONTEXT)
    } else {
        driver()?.contexts.find(context)
    }
}

pub(crate) unsafe fn priority_range(_: Call, least: *mut c_int, greatest: *mut c_int) -> Outcome {
    current()?;
    // SAFETY: the caller lends the places, or does not want to know.
    unsafe {
        crate::write_optional(least, PRIORITIES.0);
        crate::write_optional(greatest, PRIORITIES.1);
    }
    Ok(())
}

pub(crate) unsafe fn api_version(_: Call, context: *mut c_void, out: *mut c_uint) -> Outcome {
    find_or_current(context)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, VERSION.cast_unsigned()) }
}

pub(crate) unsafe fn get_flags(_: Call, out: *mut c_uint) -> Outcome {
    let flags = current()?.flags.load(Ordering::Relaxed);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, flags) }
}

pub(crate) unsafe fn set_flags(_: Call, flags: c_uint) -> Outcome {
    if flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    current()?.flags.store(flags, Ordering::Relaxed);
    Ok(())
}

pub(crate) unsafe fn get_id(_: Call, context: *mut c_void, out: *mut u64) -> Outcome {
    let id = find_or_current(context)?.id;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, id) }
}

/// Limits that programs ask for; none of them means anything here, and none can be changed.
const LIMITS: [(c_uint, usize); 5] = [
    // Stack of a thread, printf buffer, device malloc heap, nested launch depth and count.
    (0, 1024),
    (1, 1 << 20),
    (2, 8 << 20),
    (3, 0),
    (4, 0),
];

pub(crate) unsafe fn get_limit(_: Call, out: *mut usize, limit: c_uint) -> Outcome {
    current()?;
    let found = LIMITS.iter().find(|(number, _)| *number == limit);
    let &(_, value) = found.ok_or(Error::NOT_SUPPORTED)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, value) }
}

pub(crate) unsafe fn set_limit(_: Call, limit: c_uint, value: usize) -> Outcome {
    current()?;
    let found = LIMITS.iter().find(|(number, _)| *number == limit);
    let &(_, most) = found.ok_or(Error::NOT_SUPPORTED)?;
    if value <= most {
        Ok(())
    } else {
        Err(Error::NOT_SUPPORTED)
    }
}

pub(crate) unsafe fn primary_retain(_: Call, out: *mut *mut c_void, device: c_int) -> Outcome {
    let driver = driver()?;
    let gpu = gpu_index(device)?;
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let mut primary = lock(&driver.contexts.primaries[gpu]);
    let context = match &primary.context {
        Some(context) => context.clone(),
        None => {
            let context = Contexts::create(driver, gpu, primary.flags)?;
            primary.context = Some(context.clone());
            context
        }
    };
    primary.references += 1;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, context.handle()) }
}

pub(crate) unsafe fn primary_release(_: Call, device: c_int) -> Outcome {
    let driver = driver()?;
    let mut primary = lock(&driver.contexts.primaries[gpu_index(device)?]);
    primary.references = primary
        .references
        .checked_sub(1)
        .ok_or(Error::INVALID_CONTEXT)?;
    let unused = primary.references == 0;
    match primary.context.take_if(|_| unused) {
        Some(context) => Contexts::retire(driver, &context),
        None => Ok(()),
    }
}

pub(crate) unsafe fn primary_reset(_: Call, device: c_int) -> Outcome {
    let driver = driver()?;
    let mut primary = lock(&driver.contexts.primaries[gpu_index(device)?]);
    match primary.context.take() {
        Some(context) => Contexts::retire(driver, &context),
        None => Ok(()),
    }
}

pub(crate) unsafe fn primary_state(
    _: Call,
    device: c_int,
    flags: *mut c_uint,
    active: *mut c_int,
) -> Outcome {
    let driver = driver()?;
    let primary = lock(&driver.contexts.primaries[gpu_index(device)?]);
    // SAFETY: the caller lends the places.
    unsafe {
        crate::write(flags, primary.flags)?;
        crate::write(active, c_int::from(primary.context.is_some()))
    }
}

pub(crate) unsafe fn primary_set_flags(_: Call, device: c_int, flags: c_uint) -> Outcome {
    let driver = driver()?;
    if flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let mut primary = lock(&driver.contexts.primaries[gpu_index(device)?]);
    primary.flags = flags;
    if let Some(context) = &primary.context {
        context.flags.store(flags, Ordering::Relaxed);
    }
    Ok(())
}
