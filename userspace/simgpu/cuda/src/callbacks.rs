// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The driver's callbacks, and the export table through which a tool subscribes to them.
//!
//! There is one subscriber per process. It can ask to be called with every launch descriptor before
//! it is sent (domain 0xb, id 1), and at the beginning and the end of every function of the driver
//! API (domain 6, the function's number). Layouts are those that were measured on the real driver:
//! words of eight bytes, the first of which is the size of all. Around a function of the API two of
//! them point to what the subscriber may change: the call's result, and whether the call is skipped.
//!
//! The descriptor callback runs inside the launch, with the stream held: a driver call in it would
//! wait for itself, as it would with the real driver. In the API callbacks nothing is held.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use lithos_descriptor::hopper::{WORDS, Words};
use simgpu::fault::{self, Fault};
use simgpu::wire::DESCRIPTOR_BYTES;

use crate::context;
use crate::driver;
use crate::error::{Error, Outcome};
use crate::symbols::Call;

/// The table with the callbacks.
const CALLBACK_TABLE: [u8; 16] = [
    0x2c, 0x8e, 0x0a, 0xd8, 0x07, 0x10, 0xab, 0x4e, 0x90, 0xdd, 0x54, 0x71, 0x9f, 0xe5, 0xf7, 0x4b,
];

/// The domain of the driver API.
const DOMAIN_API: c_int = 6;
/// The domain and the id of launch descriptors.
const DOMAIN_DESCRIPTOR: (c_int, c_int) = (0xb, 1);
/// Functions that can be numbered.
const FUNCTIONS_MAX: usize = 1024;
/// Words that an API callback gets.
const API_WORDS: usize = 13;
/// Words that a descriptor callback gets.
const DESCRIPTOR_WORDS: usize = 11;
/// What their size is said to be when that is the fault.
const SHORT_PARAMETERS: usize = 4 * size_of::<usize>();
/// What stands in the place of a call's result before there is one (`CUDA_ERROR_UNKNOWN`).
const NO_RESULT: c_uint = 999;

/// What a subscriber is called with: its own word, domain, id, and words that depend on the domain.
type Callback = extern "C" fn(*mut c_void, c_int, c_int, *const c_void);

#[derive(Clone, Copy)]
struct Subscriber {
    handle: c_uint,
    callback: Callback,
    user: usize,
}

static SUBSCRIBER: RwLock<Option<Subscriber>> = RwLock::new(None);
static HANDLES: AtomicU32 = AtomicU32::new(1);
static DESCRIPTORS: AtomicBool = AtomicBool::new(false);
/// Numbers the descriptors that the subscriber sees.
static DESCRIPTOR_NUMBERS: AtomicUsize = AtomicUsize::new(0);
static FUNCTIONS: [AtomicU64; FUNCTIONS_MAX / 64] =
    [const { AtomicU64::new(0) }; FUNCTIONS_MAX / 64];

fn subscriber() -> Option<Subscriber> {
    *SUBSCRIBER
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn set_subscriber(new: impl FnOnce(&mut Option<Subscriber>) -> Outcome) -> c_int {
    if driver::is_forked_child() {
        return Error::NOT_INITIALIZED.number();
    }
    let mut slot = SUBSCRIBER
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    new(&mut slot).map_or_else(Error::number, |()| 0)
}

extern "C" fn subscribe(
    handle: *mut c_uint,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    set_subscriber(|slot| {
        let callback = callback.ok_or(Error::INVALID_VALUE)?;
        if slot.is_some() || fault::has(Fault::Subscriber) {
            return Err(Error::SUBSCRIBED);
        }
        let new = Subscriber {
            handle: HANDLES.fetch_add(1, Ordering::Relaxed),
            callback,
            user: user.expose_provenance(),
        };
        // SAFETY: the caller lends the place.
        unsafe { crate::write(handle, new.handle)? };
        *slot = Some(new);
        Ok(())
    })
}

extern "C" fn unsubscribe(handle: c_uint) -> c_int {
    set_subscriber(|slot| {
        slot.take_if(|subscriber| subscriber.handle == handle)
            .ok_or(Error::INVALID_VALUE)?;
        DESCRIPTORS.store(false, Ordering::Release);
        for word in &FUNCTIONS {
            word.store(0, Ordering::Release);
        }
        Ok(())
    })
}

extern "C" fn enable(on: c_uint, handle: c_uint, domain: c_int, id: c_int) -> c_int {
    let set = || {
        if subscriber().is_none_or(|subscriber| subscriber.handle != handle) {
            return Err(Error::INVALID_VALUE);
        }
        if (domain, id) == DOMAIN_DESCRIPTOR {
            DESCRIPTORS.store(on != 0, Ordering::Release);
            return Ok(());
        }
        let number = usize::try_from(id).map_err(|_| Error::INVALID_VALUE)?;
        let word = FUNCTIONS.get(number / 64).filter(|_| domain == DOMAIN_API);
        let word = word.ok_or(Error::INVALID_VALUE)?;
        let bit = 1 << (number % 64);
        if on != 0 {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
        Ok(())
    };
    set().map_or_else(Error::number, |()| 0)
}

/// Hands a launch descriptor to the subscriber, who may edit it.
pub(crate) fn descriptor(
    context: *mut c_void,
    function: *mut c_void,
    bytes: &mut [u8; DESCRIPTOR_BYTES],
) {
    if !DESCRIPTORS.load(Ordering::Acquire) {
        return;
    }
    let Some(subscriber) = subscriber() else {
        return;
    };
    let show = |descriptor: &mut Words| {
        let mut words = [0_usize; DESCRIPTOR_WORDS];
        words[0] = match fault::has(Fault::ShortParameters) {
            true => SHORT_PARAMETERS,
            false => size_of_val(&words),
        };
        words[1] = context.addr();
        words[3] = function.addr();
        words[4] = descriptor.as_mut_ptr().expose_provenance();
        words[5] = DESCRIPTOR_NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (domain, id) = DOMAIN_DESCRIPTOR;
        let user = std::ptr::with_exposed_provenance_mut(subscriber.user);
        (subscriber.callback)(user, domain, id, words.as_ptr().cast());
    };
    let mut words: Words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        // PANIC: `chunks_exact(4)` yields four bytes.
        *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
    }
    fault::around(&mut words, show);
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

/// Runs a function of the driver API, telling the subscriber before and after. Before, it can have
/// the function skipped; what it leaves as the result is what the call returns.
pub(crate) fn around(
    number: u32,
    name: &'static CStr,
    arguments: *const c_void,
    function: impl FnOnce() -> Outcome,
) -> c_int {
    if driver::is_forked_child() {
        return Error::NOT_INITIALIZED.number();
    }
    let index = number as usize;
    let is_enabled = || {
        let word = &FUNCTIONS[index / 64];
        word.load(Ordering::Acquire) >> (index % 64) & 1 != 0
    };
    let (result, skip) = (Cell::new(NO_RESULT), Cell::new(0_u32));
    let tell = |is_exit: bool| {
        if !is_enabled() {
            return;
        }
        let Some(subscriber) = subscriber() else {
            return;
        };
        let (context, context_id) = context::peek_current().map_or((0, 0), |context| {
            let id = usize::try_from(context.id).unwrap_or(usize::MAX);
            (context.handle().addr(), id)
        });
        let mut words = [0_usize; API_WORDS];
        words[0] = size_of_val(&words);
        words[1] = context_id;
        words[5] = result.as_ptr().expose_provenance();
        words[6] = name.as_ptr().expose_provenance();
        words[7] = arguments.expose_provenance();
        words[8] = context;
        words[10] = index | usize::from(is_exit) << 32;
        words[11] = skip.as_ptr().expose_provenance();
        let id = c_int::try_from(number).unwrap_or(c_int::MAX);
        let user = std::ptr::with_exposed_provenance_mut(subscriber.user);
        (subscriber.callback)(user, DOMAIN_API, id, words.as_ptr().cast());
    };
    tell(false);
    if skip.get() == 0 {
        let number = function().map_or_else(Error::number, |()| 0);
        result.set(number.cast_unsigned());
    }
    tell(true);
    result.get().cast_signed()
}

/// An entry of a table that nobody is known to use.
extern "C" fn unknown() -> c_int {
    Error::NOT_SUPPORTED.number()
}

/// A table that a program gets a pointer to.
#[repr(transparent)]
struct Table<const N: usize>([*const c_void; N]);

// SAFETY: the pointers are functions and numbers, which any thread may read.
unsafe impl<const N: usize> Sync for Table<N> {}

/// Entry 0 is the size of the table, as in the real driver.
static CALLBACKS: Table<8> = Table([
    std::ptr::without_provenance(size_of::<Table<8>>()),
    unknown as *const c_void,
    unknown as *const c_void,
    subscribe as *const c_void,
    unsubscribe as *const c_void,
    unknown as *const c_void,
    enable as *const c_void,
    unknown as *const c_void,
]);

pub(crate) unsafe fn export_table(
    _: Call,
    out: *mut *const c_void,
    id: *const [u8; 16],
) -> Outcome {
    if id.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: not null, so the caller promises a UUID.
    if unsafe { *id } != CALLBACK_TABLE {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, (&raw const CALLBACKS).cast()) }
}
