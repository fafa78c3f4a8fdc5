// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Host functions: calls in stream order.
//!
//! The server stops a stream at the operation and says so on the status page; one thread of this
//! process, started with the first host function, makes the call and tells the server to go on.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;

use simgpu::wire::{Op, Request};

use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::stream;
use crate::symbols::Call;

/// A call that is to be made.
struct Pending {
    stream: u32,
    context: u32,
    /// Which operation of the stream it is.
    operation: u64,
    call: Box<dyn FnOnce(c_int) + Send>,
    /// Whether it is to be called with the error if the context fails.
    even_after_failure: bool,
}

#[derive(Default)]
struct Queue {
    pending: Mutex<Vec<Pending>>,
    added: Condvar,
}

/// A pointer on its way to the thread that makes the calls.
struct UserData(*mut c_void);

// SAFETY: the pointer is the program's, which gave it away in order to get it back on another thread.
unsafe impl Send for UserData {}

impl UserData {
    /// Takes the wrapper as a whole, so that a closure that calls this captures all of it.
    fn get(self) -> *mut c_void {
        self.0
    }
}

static QUEUE: OnceLock<&'static Queue> = OnceLock::new();

pub(crate) unsafe fn launch(
    call: Call,
    stream: *mut c_void,
    function: Option<extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> Outcome {
    let function = function.ok_or(Error::INVALID_VALUE)?;
    let data = UserData(data);
    submit(call, stream, false, Box::new(move |_| function(data.get())))
}

/// The type of the function that `cuStreamAddCallback` takes.
type StreamCallback = extern "C" fn(*mut c_void, c_int, *mut c_void);

pub(crate) unsafe fn add_callback(
    call: Call,
    stream: *mut c_void,
    function: Option<StreamCallback>,
    data: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let function = function
        .filter(|_| flags == 0)
        .ok_or(Error::INVALID_VALUE)?;
    let (data, handle) = (UserData(data), UserData(stream));
    let made = move |error| function(handle.get(), error, data.get());
    submit(call, stream, true, Box::new(made))
}

fn submit(
    call: Call,
    stream: *mut c_void,
    even_after_failure: bool,
    function: Box<dyn FnOnce(c_int) + Send>,
) -> Outcome {
    let driver = driver()?;
    let (_, stream) = stream::resolve(call, stream)?;
    let queue = *QUEUE.get_or_init(|| {
        let queue: &'static Queue = Box::leak(Box::default());
        thread::spawn(move || serve(driver, queue));
        queue
    });
    let reserved = stream.reserve(driver)?;
    let pending = Pending {
        stream: stream.number,
        context: stream.context,
        operation: reserved.next(),
        call: function,
        even_after_failure,
    };
    reserved.submit(driver, Op::HostFunction)?;
    lock(&queue.pending).push(pending);
    queue.added.notify_one();
    Ok(())
}

/// Makes the calls, for ever.
fn serve(driver: &'static Driver, queue: &'static Queue) {
    loop {
        let idle = lock(&queue.pending);
        let waiting = queue
            .added
            .wait_while(idle, |pending| pending.is_empty())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(waiting);
        let next = driver.wait(|| {
            let mut pending = lock(&queue.pending);
            let ready = pending.iter().position(|next| {
                driver.page.host_function(next.stream as usize) >= next.operation
                    || driver.page.error(next.context as usize) != 0
            });
            ready.map(|index| Ok(pending.remove(index)))
        });
        let Ok(next) = next else {
            // The server is gone.
            return;
        };
        let error = driver.page.error(next.context as usize);
        if error == 0 || next.even_after_failure {
            (next.call)(c_int::try_from(error).unwrap_or(c_int::MAX));
        }
        // If the server is gone, the next wait says so.
        let _ = driver.tell(&Request::HostFunctionDone {
            stream: next.stream,
        });
    }
}
