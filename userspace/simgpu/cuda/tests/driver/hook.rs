// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A subscriber to the driver's callbacks, as LithOS's shim is one.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUuuid};
use lithos_descriptor::hopper::Words;

use crate::cuda::ok;

/// The table with the callbacks.
const CALLBACK_TABLE: [u8; 16] = [
    0x2c, 0x8e, 0x0a, 0xd8, 0x07, 0x10, 0xab, 0x4e, 0x90, 0xdd, 0x54, 0x71, 0x9f, 0xe5, 0xf7, 0x4b,
];

type Callback = extern "C" fn(*mut c_void, c_int, c_int, *const usize);
type Subscribe = extern "C" fn(*mut c_uint, Callback, *mut c_void) -> c_int;
type Unsubscribe = extern "C" fn(c_uint) -> c_int;
type Enable = extern "C" fn(c_uint, c_uint, c_int, c_int) -> c_int;

/// What to do with the next descriptors.
type Edit = Box<dyn FnMut(&mut Words) + Send>;
static EDIT: Mutex<Option<Edit>> = Mutex::new(None);

/// What an API callback saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: c_int,
    pub(crate) name: String,
    pub(crate) is_exit: bool,
    pub(crate) context: usize,
    pub(crate) context_id: usize,
    /// The result as it stood.
    pub(crate) result: u32,
    /// The first words of the arguments.
    pub(crate) arguments: [usize; 3],
}
static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());
/// What a subscriber makes of the calls that it watches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meddling {
    /// It skips them, with this result.
    Skip(u32),
    /// It changes their result when they are over.
    Change(u32),
}
static MEDDLING: Mutex<Option<Meddling>> = Mutex::new(None);
/// What to do inside an API callback.
static INSIDE: Mutex<Option<fn()>> = Mutex::new(None);

/// Launch descriptors that were seen.
static DESCRIPTORS: AtomicU32 = AtomicU32::new(0);

/// The entries of the table with the callbacks.
fn table() -> *const usize {
    let mut table = std::ptr::null();
    let id = CUuuid {
        // SAFETY: bytes are bytes, whatever their sign.
        bytes: unsafe { std::mem::transmute::<[u8; 16], [c_char; 16]>(CALLBACK_TABLE) },
    };
    // SAFETY: gives a table through its first argument.
    ok(unsafe { sys::cuGetExportTable(&raw mut table, &raw const id) });
    table.cast()
}

/// An entry of the table, as the function that it is.
///
/// # Safety
///
/// The entry must be a function of this type.
unsafe fn entry<F: Copy>(index: usize) -> F {
    assert_eq!(size_of::<F>(), size_of::<usize>());
    // SAFETY: the table has the entry, and the caller knows its type.
    unsafe { table().add(index).cast::<F>().read() }
}

pub(crate) fn subscribe_raw(handle: &mut c_uint) -> c_int {
    // SAFETY: entry 3 of this table.
    let subscribe: Subscribe = unsafe { entry(3) };
    subscribe(handle, callback, std::ptr::without_provenance_mut(7))
}

pub(crate) fn unsubscribe(handle: c_uint) -> c_int {
    // SAFETY: entry 4 of this table.
    let unsubscribe: Unsubscribe = unsafe { entry(4) };
    unsubscribe(handle)
}

pub(crate) fn enable(on: bool, handle: c_uint, domain: c_int, id: c_int) -> c_int {
    // SAFETY: entry 6 of this table.
    let enable: Enable = unsafe { entry(6) };
    enable(on.into(), handle, domain, id)
}

/// Subscribes to launch descriptors.
pub(crate) fn subscribe() -> c_uint {
    let mut handle = 0;
    assert_eq!(subscribe_raw(&mut handle), 0);
    assert_eq!(enable(true, handle, 0xb, 1), 0);
    handle
}

/// Calls `edit` with every launch descriptor from now on.
pub(crate) fn edit(edit: impl FnMut(&mut Words) + Send + 'static) {
    *EDIT.lock().expect("the edit") = Some(Box::new(edit));
}

/// How many launch descriptors were seen.
pub(crate) fn descriptors() -> u32 {
    DESCRIPTORS.load(Ordering::Relaxed)
}

/// Leaves launch descriptors alone from now on.
pub(crate) fn leave_alone() {
    *EDIT.lock().expect("the edit") = None;
}

/// What API callbacks have seen since the last time.
pub(crate) fn take_seen() -> Vec<Seen> {
    std::mem::take(&mut SEEN.lock().expect("the calls"))
}

/// Calls `inside` in every API callback that is not inside another.
pub(crate) fn call_inside(inside: Option<fn()>) {
    *INSIDE.lock().expect("the function") = inside;
}

/// Meddles with every call that is watched from now on, or leaves them alone.
pub(crate) fn meddle(meddling: Option<Meddling>) {
    *MEDDLING.lock().expect("the meddling") = meddling;
}

extern "C" fn callback(user: *mut c_void, domain: c_int, id: c_int, words: *const usize) {
    assert_eq!(user.addr(), 7);
    // SAFETY: the first word says how many bytes there are.
    let word = |index: usize| unsafe { words.add(index).read() };
    if domain == 0xb {
        assert_eq!((id, word(0)), (1, 0x58));
        DESCRIPTORS.fetch_add(1, Ordering::Relaxed);
        if let Some(edit) = EDIT.lock().expect("the edit").as_mut() {
            // SAFETY: element 4 points to a descriptor that may be edited during the call.
            edit(unsafe { &mut *std::ptr::with_exposed_provenance_mut::<Words>(word(4)) });
        }
        return;
    }
    assert_eq!((domain, word(0)), (6, 0x68));
    // SAFETY: element 6 is the function's name.
    let name = unsafe { CStr::from_ptr(std::ptr::with_exposed_provenance(word(6))) };
    let arguments = std::ptr::with_exposed_provenance::<usize>(word(7));
    assert_eq!(word(10) & 0xffff_ffff, usize::try_from(id).expect("an id"));
    let result = std::ptr::with_exposed_provenance_mut::<u32>(word(5));
    let skip = std::ptr::with_exposed_provenance_mut::<u32>(word(11));
    let is_exit = word(10) >> 32 == 1;
    let seen = Seen {
        id,
        name: name.to_str().expect("a name").to_owned(),
        is_exit,
        context: word(8),
        context_id: word(1),
        // SAFETY: element 5 points to the call's result.
        result: unsafe { result.read() },
        // SAFETY: only functions with at least three words of arguments are watched.
        arguments: unsafe { [*arguments, *arguments.add(1), *arguments.add(2)] },
    };
    SEEN.lock().expect("the calls").push(seen);
    // SAFETY: elements 5 and 11 point to the result and to whether the call is skipped, which the
    // driver reads when this returns.
    unsafe {
        match *MEDDLING.lock().expect("the meddling") {
            Some(Meddling::Skip(refusal)) if !is_exit => {
                assert_eq!(skip.read(), 0);
                result.write(refusal);
                skip.write(1);
            }
            Some(Meddling::Change(other)) if is_exit => result.write(other),
            _ => {}
        }
    }
    let inside = INSIDE.lock().expect("the function").take();
    if let Some(inside) = inside {
        inside();
        *INSIDE.lock().expect("the function") = Some(inside);
    }
}
