// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Copying and filling memory.
//!
//! Both are done by the server, in the order of the stream. A host address that the driver knows
//! nothing about is pageable: small asynchronous copies from there carry the bytes, so that the program
//! may change them at once, and all others wait for their end.

use std::ffi::c_void;

use simgpu::wire::{Op, Place};

use crate::context;
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::stream;
use crate::symbols::Call;

/// Bytes that an asynchronous copy from pageable memory takes along.
const CARRIED_BYTES_MAX: u64 = 64 << 10;

/// One end of a copy, and whether the GPU can reach it at its leisure.
fn place(driver: &Driver, address: u64, bytes: u64) -> Result<(Place, bool), Error> {
    Ok(match driver.allocations.classify(address, bytes)? {
        Some(true) => (Place::Gpu(address), true),
        Some(false) => (Place::Client(address), true),
        None => (Place::Client(address), false),
    })
}

/// One end of a copy that must be memory the GPU knows.
fn device_place(driver: &Driver, address: u64, bytes: u64) -> Result<(Place, bool), Error> {
    let (place, known) = place(driver, address, bytes)?;
    if known {
        Ok((place, known))
    } else {
        Err(Error::INVALID_VALUE)
    }
}

/// A copy in a stream; waits for its end if it is `synchronous` or must.
fn copy(
    call: Call,
    stream: *mut c_void,
    to: (Place, bool),
    from: (Place, bool),
    bytes: u64,
    synchronous: bool,
) -> Outcome {
    let driver = driver()?;
    let (_, stream) = stream::resolve(call, stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let ((to, to_known), (from, from_known)) = (to, from);
    if let (false, false, Place::Client(source), Place::Gpu(address)) =
        (synchronous, from_known, from, to)
        && bytes <= CARRIED_BYTES_MAX
    {
        let length = usize::try_from(bytes).map_err(|_| Error::INVALID_VALUE)?;
        let source = std::ptr::with_exposed_provenance::<u8>(
            usize::try_from(source).map_err(|_| Error::INVALID_VALUE)?,
        );
        // SAFETY: the caller of a copy promises that its source can be read.
        let bytes = unsafe { std::slice::from_raw_parts(source, length) }.to_vec();
        return stream.submit(driver, Op::Write { address, bytes });
    }
    let reserved = stream.reserve(driver)?;
    let count = reserved.next();
    reserved.submit(driver, Op::Copy { to, from, bytes })?;
    if synchronous || !to_known || !from_known {
        stream.wait_for(driver, count)?;
    }
    Ok(())
}

fn host_address(pointer: *const c_void) -> Result<u64, Error> {
    if pointer.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    Ok(pointer.expose_provenance() as u64)
}

/// Defines the copies that programs call: with and without a stream, by direction.
macro_rules! copies {
    ($($name:ident, $name_async:ident, $to:ident: $to_type:ty => $to_place:expr, $from:ident: $from_type:ty => $from_place:expr;)*) => {
        $(
            pub(crate) unsafe fn $name(call: Call, $to: $to_type, $from: $from_type, bytes: usize) -> Outcome {
                let driver = driver()?;
                context::current()?;
                let bytes = bytes as u64;
                if bytes == 0 {
                    return Ok(());
                }
                let (to, from) = ($to_place(driver, $to, bytes)?, $from_place(driver, $from, bytes)?);
                copy(call, std::ptr::null_mut(), to, from, bytes, true)
            }

            pub(crate) unsafe fn $name_async(call: Call, $to: $to_type, $from: $from_type, bytes: usize, stream: *mut c_void) -> Outcome {
                let driver = driver()?;
                let bytes = bytes as u64;
                if bytes == 0 {
                    return Ok(());
                }
                let (to, from) = ($to_place(driver, $to, bytes)?, $from_place(driver, $from, bytes)?);
                copy(call, stream, to, from, bytes, false)
            }
        )*
    };
}

fn host_place(driver: &Driver, pointer: *const c_void, bytes: u64) -> Result<(Place, bool), Error> {
    place(driver, host_address(pointer)?, bytes)
}

fn host_place_mut(
    driver: &Driver,
    pointer: *mut c_void,
    bytes: u64,
) -> Result<(Place, bool), Error> {
    host_place(driver, pointer, bytes)
}

copies! {
    copy_to_device, copy_to_device_async, to: u64 => device_place, from: *const c_void => host_place;
    copy_to_host, copy_to_host_async, to: *mut c_void => host_place_mut, from: u64 => device_place;
    copy_on_device, copy_on_device_async, to: u64 => device_place, from: u64 => device_place;
    copy_any, copy_any_async, to: u64 => place, from: u64 => place;
}

pub(crate) unsafe fn copy_peer(
    call: Call,
    to: u64,
    _to_context: *mut c_void,
    from: u64,
    _from_context: *mut c_void,
    bytes: usize,
) -> Outcome {
    // SAFETY: the same contract; addresses are unique among all GPUs of a process.
    unsafe { copy_on_device(call, to, from, bytes) }
}

pub(crate) unsafe fn copy_peer_async(
    call: Call,
    to: u64,
    _to_context: *mut c_void,
    from: u64,
    _from_context: *mut c_void,
    bytes: usize,
    stream: *mut c_void,
) -> Outcome {
    // SAFETY: as in `copy_peer`.
    unsafe { copy_on_device_async(call, to, from, bytes, stream) }
}

/// Defines the fills that programs call, by width.
macro_rules! fills {
    ($($name:ident, $name_async:ident, $type:ty;)*) => {
        $(
            pub(crate) unsafe fn $name(call: Call, address: u64, value: $type, count: usize) -> Outcome {
                fill(call, std::ptr::null_mut(), address, value.into(), size_of::<$type>(), count)
            }

            pub(crate) unsafe fn $name_async(call: Call, address: u64, value: $type, count: usize, stream: *mut c_void) -> Outcome {
                fill(call, stream, address, value.into(), size_of::<$type>(), count)
            }
        )*
    };
}

fills! {
    fill8, fill8_async, u8;
    fill16, fill16_async, u16;
    fill32, fill32_async, u32;
}

/// A fill in a stream. Like the real driver, even the "synchronous" ones do not wait.
fn fill(
    call: Call,
    stream: *mut c_void,
    address: u64,
    value: u32,
    width: usize,
    count: usize,
) -> Outcome {
    let driver = driver()?;
    let (_, stream) = stream::resolve(call, stream)?;
    if count == 0 {
        return Ok(());
    }
    let bytes = (width as u64)
        .checked_mul(count as u64)
        .ok_or(Error::INVALID_VALUE)?;
    if !address.is_multiple_of(width as u64) {
        return Err(Error::INVALID_VALUE);
    }
    device_place(driver, address, bytes)?;
    let op = Op::Fill {
        address,
        value,
        width: u8::try_from(width).map_err(|_| Error::INVALID_VALUE)?,
        count: count as u64,
    };
    stream.submit(driver, op)
}
