// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The one subscriber of this process: it sees and edits launch descriptors, and watches API calls.
//!
//! Both callbacks run inside a driver call of the thread that made it, so what they are to do is left
//! for them in a static before, and what they saw is taken from there afterwards. A panic in a callback
//! ends the process with its message, which is what a statement that does not hold should do.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys::{self, CUuuid};
use lithos_descriptor::hopper::{Descriptor, Words};

/// The export table with the callback functions.
const CALLBACK_TABLE: [u8; 16] = [
    0x2c, 0x8e, 0x0a, 0xd8, 0x07, 0x10, 0xab, 0x4e, 0x90, 0xdd, 0x54, 0x71, 0x9f, 0xe5, 0xf7, 0x4b,
];
const SUBSCRIBE_ENTRY: usize = 3;
const ENABLE_ENTRY: usize = 6;
/// Domain and id of the callbacks just before the upload of a launch descriptor.
const UPLOAD: (c_int, c_int) = (0xb, 1);
/// The domain of the driver API; ids are the functions' numbers.
const API_DOMAIN: c_int = 6;
/// What the callbacks must get as their first argument.
const USER: usize = 0x115;

type Callback = extern "C" fn(*mut c_void, c_int, c_int, *const usize);
type Subscribe = extern "C" fn(*mut u32, Callback, *mut c_void) -> u32;
type Enable = extern "C" fn(u32, u32, c_int, c_int) -> u32;

/// A descriptor that is about to be uploaded, to be edited.
pub(crate) type Editable<'a> = Descriptor<&'a mut Words>;
type Edit = Box<dyn FnMut(&mut Editable) + Send>;

/// What an upload callback was told.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// The size of its parameters, as they say.
    pub(crate) parameter_bytes: usize,
    pub(crate) context: usize,
    pub(crate) function: usize,
    /// The descriptor as the driver built it.
    pub(crate) descriptor: Descriptor<Words>,
    /// The thread on which the callback ran.
    pub(crate) thread: ThreadId,
}

/// What an API callback was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The size of its parameters, as they say.
    pub(crate) parameter_bytes: usize,
    pub(crate) context_id: usize,
    /// The call's result as it stood.
    pub(crate) result: u32,
    pub(crate) name: String,
    /// The first three words of the function's arguments, or as many as it has.
    pub(crate) arguments: [usize; 3],
    /// Where these stand.
    pub(crate) arguments_at: usize,
    pub(crate) context: usize,
    pub(crate) number: usize,
    pub(crate) is_exit: bool,
}
/// What to do in an API callback; a number becomes the result of the call, which is skipped if it has not
/// begun.
type Answer = Box<dyn FnMut(&Call) -> Option<u32> + Send>;

#[derive(Default)]
struct Uploads {
    edit: Option<Edit>,
    seen: Vec<Upload>,
}

#[derive(Default)]
struct Calls {
    answer: Option<Answer>,
    seen: Vec<Call>,
}

static UPLOADS: Mutex<Uploads> = Mutex::new(Uploads {
    edit: None,
    seen: Vec::new(),
});
static CALLS: Mutex<Calls> = Mutex::new(Calls {
    answer: None,
    seen: Vec::new(),
});

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry of the table of callback functions, as the function that it is.
///
/// # Safety
///
/// The entry must be a function of this type.
unsafe fn entry<F: Copy>(index: usize) -> F {
    assert_eq!(size_of::<F>(), size_of::<usize>());
    let mut table = ptr::null();
    let id = CUuuid {
        bytes: CALLBACK_TABLE.map(u8::cast_signed),
    };
    // SAFETY: gives a table through its first argument.
    let result = unsafe { sys::cuGetExportTable(&raw mut table, &raw const id) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS, "the callback table");
    // SAFETY: the table has the entry, and the caller knows its type.
    unsafe { table.cast::<usize>().add(index).cast::<F>().read() }
}

/// Tries to become the subscriber of this process; gives the driver's answer and the handle.
pub(crate) fn subscribe() -> (u32, u32) {
    // SAFETY: this entry has this type.
    let subscribe: Subscribe = unsafe { entry(SUBSCRIBE_ENTRY) };
    let mut handle = 0;
    let user = ptr::without_provenance_mut(USER);
    (subscribe(&raw mut handle, callback, user), handle)
}

/// The subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    handle: u32,
}

impl Subscriber {
    /// Subscribes to launch descriptors.
    pub(crate) fn new() -> Self {
        let (result, handle) = subscribe();
        assert_eq!(result, 0, "subscribe");
        let subscriber = Self { handle };
        let (domain, id) = UPLOAD;
        subscriber.enable(domain, id);
        subscriber
    }

    fn enable(&self, domain: c_int, id: c_int) {
        // SAFETY: this entry has this type.
        let enable: Enable = unsafe { entry(ENABLE_ENTRY) };
        assert_eq!(
            enable(1, self.handle, domain, id),
            0,
            "enable {domain} {id}"
        );
    }

    /// Edits every descriptor that is uploaded while something is done; gives what was uploaded, as it
    /// was before.
    pub(crate) fn editing<T>(
        &self,
        edit: impl FnMut(&mut Editable) + Send + 'static,
        act: impl FnOnce() -> T,
    ) -> (T, Vec<Upload>) {
        *lock(&UPLOADS) = Uploads {
            edit: Some(Box::new(edit)),
            seen: Vec::new(),
        };
        let done = act();
        (done, mem::take(&mut *lock(&UPLOADS)).seen)
    }

    /// Watches every call of a function of the driver API while something is done.
    pub(crate) fn watching<T>(
        &self,
        number: c_int,
        answer: impl FnMut(&Call) -> Option<u32> + Send + 'static,
        act: impl FnOnce() -> T,
    ) -> (T, Vec<Call>) {
        self.enable(API_DOMAIN, number);
        *lock(&CALLS) = Calls {
            answer: Some(Box::new(answer)),
            seen: Vec::new(),
        };
        let done = act();
        (done, mem::take(&mut *lock(&CALLS)).seen)
    }
}

extern "C" fn callback(user: *mut c_void, domain: c_int, id: c_int, words: *const usize) {
    assert_eq!(user.addr(), USER);
    // SAFETY: parameters begin with their size.
    let bytes = unsafe { words.cast::<u32>().read() };
    let parameter_bytes = usize::try_from(bytes).expect("a size");
    let word = |index: usize| {
        assert!(8 * index < parameter_bytes, "word {index} of {bytes} bytes");
        // SAFETY: as far as the size goes, parameters are words of 8 bytes.
        unsafe { words.add(index).read() }
    };
    if (domain, id) == UPLOAD {
        on_upload(parameter_bytes, word);
    } else {
        assert_eq!(domain, API_DOMAIN);
        on_call(parameter_bytes, id, word);
    }
}

fn on_upload(parameter_bytes: usize, word: impl Fn(usize) -> usize) {
    let words = ptr::with_exposed_provenance_mut::<Words>(word(4));
    // SAFETY: element 4 points to a descriptor that may be edited as long as the callback lasts.
    let words = unsafe { &mut *words };
    let mut descriptor = Descriptor::new(words).expect("a descriptor of version 4.0");
    let mut uploads = lock(&UPLOADS);
    uploads.seen.push(Upload {
        parameter_bytes,
        context: word(1),
        function: word(3),
        descriptor: descriptor.copied(),
        thread: thread::current().id(),
    });
    if let Some(edit) = &mut uploads.edit {
        edit(&mut descriptor);
    }
}

fn on_call(parameter_bytes: usize, id: c_int, word: impl Fn(usize) -> usize) {
    let mut calls = lock(&CALLS);
    let Some(mut answer) = calls.answer.take() else {
        return;
    };
    let result = ptr::with_exposed_provenance_mut::<u32>(word(5));
    let name = ptr::with_exposed_provenance::<c_char>(word(6));
    let arguments = ptr::with_exposed_provenance::<usize>(word(7));
    let number = word(10) & 0xffff_ffff;
    assert_eq!(Ok(id), c_int::try_from(number));
    let call = Call {
        parameter_bytes,
        context_id: word(1),
        // SAFETY: element 5 points to the result.
        result: unsafe { result.read() },
        // SAFETY: element 6 is the function's name.
        name: unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned(),
        arguments: [0, 1, 2].map(|index| match index < words_of(id) {
            // SAFETY: element 7 points to the arguments, of which there are so many words.
            true => unsafe { arguments.add(index).read() },
            false => 0,
        }),
        arguments_at: word(7),
        context: word(8),
        number,
        is_exit: word(10) >> 32 == 1,
    };
    calls.seen.push(call.clone());
    // An answer may call the driver.
    drop(calls);
    if let Some(other) = answer(&call) {
        // SAFETY: elements 5 and 11 point to the result and the flag that says to skip the call; the
        // driver reads both when this returns.
        unsafe {
            result.write(other);
            if !call.is_exit {
                ptr::with_exposed_provenance_mut::<u32>(word(11)).write(1);
            }
        }
    }
    lock(&CALLS).answer = Some(answer);
}

/// Words of the arguments of a function that is watched.
fn words_of(number: c_int) -> usize {
    match number {
        super::hook::DEVICE_GET_ATTRIBUTE | super::hook::STREAM_CREATE_WITH_PRIORITY => 2,
        _ => 3,
    }
}
