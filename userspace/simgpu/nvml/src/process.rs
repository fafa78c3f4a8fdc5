// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Processes: who has a context on a GPU. There is no MPS server that could stand for them, and no
//! graphics.

use std::ffi::{c_char, c_uint};
use std::os::unix::ffi::OsStrExt;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t};
use simgpu::wire::ProcessReport;

use crate::device::index_of;
use crate::error::{Error, Outcome};
use crate::place::{put, put_text};
use crate::session;

/// What NVML has for an instance of MIG where there is none.
const NO_INSTANCE: c_uint = c_uint::MAX;

/// The forms in which NVML has listed processes.
pub(crate) trait ProcessInfo {
    fn new(process: &ProcessReport) -> Self;
}

impl ProcessInfo for nvmlProcessInfo_v1_t {
    fn new(process: &ProcessReport) -> Self {
        Self {
            pid: process.pid,
            usedGpuMemory: process.memory_used_bytes,
        }
    }
}

impl ProcessInfo for nvmlProcessInfo_v2_t {
    fn new(process: &ProcessReport) -> Self {
        Self {
            pid: process.pid,
            usedGpuMemory: process.memory_used_bytes,
            gpuInstanceId: NO_INSTANCE,
            computeInstanceId: NO_INSTANCE,
        }
    }
}

/// Writes a list, or only its length if there is too little room.
///
/// # Safety
///
/// `count` must be null or say how many entries `infos` has room for.
unsafe fn list<T: ProcessInfo>(
    processes: &[ProcessReport],
    count: *mut c_uint,
    infos: *mut T,
) -> Outcome {
    if count.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: not null, so the caller lends it.
    let room = unsafe { count.read() } as usize;
    let needed = c_uint::try_from(processes.len()).unwrap_or(c_uint::MAX);
    // SAFETY: as above.
    unsafe { put(count, needed)? };
    if processes.len() > room {
        return Err(Error::INSUFFICIENT_SIZE);
    }
    for (i, process) in processes.iter().enumerate() {
        if infos.is_null() {
            return Err(Error::INVALID_ARGUMENT);
        }
        // SAFETY: `i` is less than `room`, for which the caller vouches.
        unsafe { infos.add(i).write(T::new(process)) };
    }
    Ok(())
}

/// Processes with a context on the GPU.
pub(crate) unsafe fn compute<T: ProcessInfo>(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut T,
) -> Outcome {
    let report = session::report(index_of(device)?)?;
    // SAFETY: the caller keeps the contract of the list.
    unsafe { list(&report.processes, count, infos) }
}

/// Processes of a kind that does not exist here.
pub(crate) unsafe fn none<T: ProcessInfo>(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut T,
) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller keeps the contract of the list.
    unsafe { list(&[], count, infos) }
}

/// The path of a process's program, cut to the room there is, as NVML does.
pub(crate) unsafe fn name(pid: c_uint, name: *mut c_char, length: c_uint) -> Outcome {
    session::check()?;
    if length == 0 {
        return Err(Error::INVALID_ARGUMENT);
    }
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|_| Error::NOT_FOUND)?;
    let bytes = program.as_os_str().as_bytes();
    let room = length as usize - 1;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(room)]);
    // The replacement of broken characters may be longer than they are.
    let end = text.floor_char_boundary(room);
    // SAFETY: the caller lends the place.
    unsafe { put_text(name, length, &text[..end]) }
}
