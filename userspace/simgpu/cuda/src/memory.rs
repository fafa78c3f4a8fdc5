// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory: allocating, registering, asking about.
//!
//! Everything that has an address lives in one table: device memory, pinned host memory (shared with
//! the server) and registered host memory (shared likewise if there is a [`file`] behind it, and otherwise
//! reached by the server at the program's own address).

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::AsFd;
use std::sync::Mutex;

use simgpu::shared::SharedMemory;
use simgpu::wire::{Op, Reply, Request};

use crate::context::{self, Context};
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::file;
use crate::lock;
use crate::stream;
use crate::symbols::Call;

/// Flags of pinned memory: portable, mapped, write-combined.
const HOST_ALLOC_FLAGS: c_uint = 7;
/// Flags of registered memory: portable, mapped, read-only.
const REGISTER_FLAGS: c_uint = 1 | 2 | 8;
/// Flag of registered memory that belongs to a device.
const REGISTER_IO: c_uint = 4;

/// An allocation.
#[derive(Debug)]
struct Allocation {
    bytes: u64,
    /// The number of the context in which it was made.
    context: u32,
    gpu: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Device,
    /// With the flags of `cuMemHostAlloc`.
    Pinned(
        c_uint,
        #[expect(dead_code, reason = "held so that the memory stays mapped")] SharedMemory,
    ),
    Registered(c_uint),
}

/// Everything that has an address, by address.
#[derive(Debug, Default)]
pub(crate) struct Allocations(Mutex<BTreeMap<u64, Allocation>>);

impl Allocations {
    /// Forgets the device memory of a context that has ended. Host memory stays: it is the process's.
    pub(crate) fn retire_context(&self, context: u32) {
        lock(&self.0).retain(|_, allocation| {
            allocation.context != context || !matches!(allocation.kind, Kind::Device)
        });
    }

    /// Notes device memory that the driver itself has made, such as a module's variables.
    pub(crate) fn insert_device(&self, address: u64, bytes: u64, context: &Context) {
        let allocation = Allocation {
            bytes,
            context: context.number,
            gpu: context.gpu,
            kind: Kind::Device,
        };
        lock(&self.0).insert(address, allocation);
    }

    /// Forgets such memory.
    pub(crate) fn remove(&self, address: u64) {
        lock(&self.0).remove(&address);
    }

    /// What `look` finds in the allocation around an address.
    fn at<T>(&self, address: u64, look: impl FnOnce(u64, &Allocation) -> T) -> Option<T> {
        let table = lock(&self.0);
        let (&start, allocation) = table.range(..=address).next_back()?;
        (address - start < allocation.bytes).then(|| look(start, allocation))
    }

    /// Whether a whole range is device memory (`Some(true)`), registered or pinned (`Some(false)`),
    /// or nothing that is known; an error if it only begins so.
    pub(crate) fn classify(&self, address: u64, bytes: u64) -> Result<Option<bool>, Error> {
        let found = self.at(address, |start, allocation| {
            let fits = bytes <= allocation.bytes - (address - start);
            (fits, matches!(allocation.kind, Kind::Device))
        });
        match found {
            None => Ok(None),
            Some((true, device)) => Ok(Some(device)),
            Some((false, true)) => Err(Error::INVALID_VALUE),
            // A copy may reach beyond what was registered: it is the program's own memory.
            Some((false, false)) => Ok(None),
        }
    }
}

pub(crate) unsafe fn alloc(_: Call, out: *mut u64, bytes: usize) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    if out.is_null() || bytes == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let address = allocate(driver, &context, bytes as u64)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, address) }
}

fn allocate(driver: &Driver, context: &Context, bytes: u64) -> Result<u64, Error> {
    let request = Request::Allocate {
        context: context.number,
        bytes,
    };
    let Reply::Address(address) = driver.ask(&request, None)? else {
        return Err(Error::CONNECTION);
    };
    driver.allocations.insert_device(address, bytes, context);
    Ok(address)
}

/// The pitch of allocations with rows, and of textures.
const PITCH_BYTES: usize = 512;

pub(crate) unsafe fn alloc_pitch(
    call: Call,
    out: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> Outcome {
    if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let row = width.next_multiple_of(PITCH_BYTES);
    let bytes = row.checked_mul(height).ok_or(Error::OUT_OF_MEMORY)?;
    // SAFETY: the same contract.
    unsafe {
        crate::write(pitch, row)?;
        alloc(call, out, bytes)
    }
}

pub(crate) unsafe fn alloc_async(
    call: Call,
    out: *mut u64,
    bytes: usize,
    stream: *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let (context, _) = stream::resolve(call, stream)?;
    if out.is_null() || bytes == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let address = allocate(driver, &context, bytes as u64)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, address) }
}

pub(crate) unsafe fn free(_: Call, address: u64) -> Outcome {
    let driver = driver()?;
    context::current()?;
    if address == 0 {
        return Ok(());
    }
    let owner = driver.allocations.at(address, |start, allocation| {
        let whole = start == address && matches!(allocation.kind, Kind::Device);
        whole.then_some(allocation.context)
    });
    let owner = owner.flatten().ok_or(Error::INVALID_VALUE)?;
    // Like the real driver: memory that is in use is not pulled from under a kernel.
    driver.contexts.numbered(owner)?.synchronize(driver)?;
    driver.allocations.remove(address);
    let request = Request::Free {
        context: owner,
        address,
    };
    driver.ask(&request, None).map(|_| ())
}

pub(crate) unsafe fn free_async(call: Call, address: u64, stream: *mut c_void) -> Outcome {
    let driver = driver()?;
    let (context, stream) = stream::resolve(call, stream)?;
    let owned = driver.allocations.at(address, |start, allocation| {
        start == address
            && matches!(allocation.kind, Kind::Device)
            && allocation.context == context.number
    });
    if owned != Some(true) {
        return Err(Error::INVALID_VALUE);
    }
    driver.allocations.remove(address);
    stream.submit(driver, Op::Free { address })
}

pub(crate) unsafe fn info(_: Call, free: *mut usize, total: *mut usize) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    let (index, gpu) = &driver.gpus[context.gpu];
    let Reply::Report(reports) = driver.ask(&Request::Report, None)? else {
        return Err(Error::CONNECTION);
    };
    let report = reports.get(*index as usize).ok_or(Error::CONNECTION)?;
    let left = gpu.memory_bytes.saturating_sub(report.memory_used_bytes);
    // SAFETY: the caller lends the places.
    unsafe {
        crate::write(free, usize::try_from(left).unwrap_or(usize::MAX))?;
        crate::write(
            total,
            usize::try_from(gpu.memory_bytes).unwrap_or(usize::MAX),
        )
    }
}

pub(crate) unsafe fn address_range(
    _: Call,
    base: *mut u64,
    size: *mut usize,
    address: u64,
) -> Outcome {
    let driver = driver()?;
    context::current()?;
    let found = driver
        .allocations
        .at(address, |start, allocation| (start, allocation.bytes));
    let (start, bytes) = found.ok_or(Error::NOT_FOUND)?;
    // SAFETY: the caller lends the places, or does not want to know.
    unsafe {
        crate::write_optional(base, start);
        crate::write_optional(size, usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    Ok(())
}

pub(crate) unsafe fn host_alloc(
    _: Call,
    out: *mut *mut c_void,
    bytes: usize,
    flags: c_uint,
) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    if out.is_null() || bytes == 0 || flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let memory = SharedMemory::create(c"simgpu-pinned", bytes.next_multiple_of(4096));
    let memory = memory.map_err(|_| Error::OUT_OF_MEMORY)?;
    let address = memory.as_ptr();
    let request = Request::MapShared {
        address: address.addr() as u64,
        bytes: memory.bytes() as u64,
        offset: 0,
    };
    driver.ask(&request, Some(memory.fd()))?;
    let allocation = Allocation {
        bytes: bytes as u64,
        context: context.number,
        gpu: context.gpu,
        kind: Kind::Pinned(flags, memory),
    };
    lock(&driver.allocations.0).insert(address.addr() as u64, allocation);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, address.cast()) }
}

pub(crate) unsafe fn host_alloc_plain(call: Call, out: *mut *mut c_void, bytes: usize) -> Outcome {
    // SAFETY: the same contract.
    unsafe { host_alloc(call, out, bytes, 0) }
}

pub(crate) unsafe fn host_free(_: Call, pointer: *mut c_void) -> Outcome {
    let address = pointer.addr() as u64;
    let kind = |kind: &Kind| matches!(kind, Kind::Pinned(..));
    unmap_host(address, kind, Error::INVALID_VALUE)
}

/// Takes host memory away from the GPU once nothing uses it any more.
fn unmap_host(address: u64, wanted: impl Fn(&Kind) -> bool, missing: Error) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    let found = driver.allocations.at(address, |start, allocation| {
        start == address && wanted(&allocation.kind)
    });
    if found != Some(true) {
        return Err(missing);
    }
    context.synchronize(driver)?;
    driver.ask(&Request::Unmap { address }, None)?;
    driver.allocations.remove(address);
    Ok(())
}

pub(crate) unsafe fn host_register(
    _: Call,
    pointer: *mut c_void,
    bytes: usize,
    flags: c_uint,
) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    if flags & REGISTER_IO != 0 {
        return Err(Error::NOT_SUPPORTED);
    }
    if pointer.is_null() || bytes == 0 || flags & !REGISTER_FLAGS != 0 || !is_mapped(pointer, bytes)
    {
        return Err(Error::INVALID_VALUE);
    }
    let address = pointer.addr() as u64;
    let bytes = bytes as u64;
    match file::behind(address, bytes) {
        Some((file, offset)) => {
            let request = Request::MapShared {
                address,
                bytes,
                offset,
            };
            driver.ask(&request, Some(file.as_fd()))?;
        }
        None => {
            driver.ask(&Request::MapRemote { address, bytes }, None)?;
        }
    }
    let allocation = Allocation {
        bytes,
        context: context.number,
        gpu: context.gpu,
        kind: Kind::Registered(flags),
    };
    lock(&driver.allocations.0).insert(address, allocation);
    Ok(())
}

/// Whether there is memory behind all of a range.
fn is_mapped(pointer: *mut c_void, bytes: usize) -> bool {
    let page = 4096;
    let start = pointer.map_addr(|address| address & !(page - 1));
    let length = bytes + (pointer.addr() - start.addr());
    // SAFETY: MS_ASYNC does nothing but fail where nothing is mapped.
    unsafe { libc::msync(start, length.next_multiple_of(page), libc::MS_ASYNC) == 0 }
}

pub(crate) unsafe fn host_unregister(_: Call, pointer: *mut c_void) -> Outcome {
    let address = pointer.addr() as u64;
    let kind = |kind: &Kind| matches!(kind, Kind::Registered(_));
    unmap_host(address, kind, Error::NOT_REGISTERED)
}

pub(crate) unsafe fn host_device_pointer(
    _: Call,
    out: *mut u64,
    pointer: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let driver = driver()?;
    context::current()?;
    let address = pointer.addr() as u64;
    let host = driver.allocations.at(address, |_, allocation| {
        !matches!(allocation.kind, Kind::Device)
    });
    if flags != 0 || host != Some(true) {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, address) }
}

pub(crate) unsafe fn host_flags(_: Call, out: *mut c_uint, pointer: *mut c_void) -> Outcome {
    let driver = driver()?;
    let address = pointer.addr() as u64;
    let flags = driver
        .allocations
        .at(address, |_, allocation| match allocation.kind {
            // Every pinned allocation is mapped.
            Kind::Pinned(flags, _) => Some(flags | 2),
            Kind::Registered(flags) => Some(flags),
            Kind::Device => None,
        });
    let flags = flags.flatten().ok_or(Error::INVALID_VALUE)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, flags) }
}

pub(crate) unsafe fn pointer_attribute(
    _: Call,
    out: *mut c_void,
    attribute: c_int,
    address: u64,
) -> Outcome {
    use cudarc::driver::sys::{CUmemorytype, CUpointer_attribute as A};
    let driver = driver()?;
    let found = driver.allocations.at(address, |start, allocation| {
        let device = matches!(allocation.kind, Kind::Device);
        (
            start,
            allocation.bytes,
            allocation.context,
            allocation.gpu,
            device,
        )
    });
    let (start, bytes, context, gpu, device) = found.ok_or(Error::INVALID_VALUE)?;
    let is = |wanted: A| attribute == wanted as c_int;
    // SAFETY: the caller lends a place of the attribute's type.
    unsafe {
        if is(A::CU_POINTER_ATTRIBUTE_CONTEXT) {
            let context = driver.contexts.numbered(context);
            let handle = context.map_or(std::ptr::null_mut(), |context| context.handle());
            crate::write(out.cast(), handle)
        } else if is(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
            let kind = if device {
                CUmemorytype::CU_MEMORYTYPE_DEVICE
            } else {
                CUmemorytype::CU_MEMORYTYPE_HOST
            };
            crate::write(out.cast(), kind as c_uint)
        } else if is(A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
            || is(A::CU_POINTER_ATTRIBUTE_HOST_POINTER) && !device
        {
            crate::write(out.cast(), address)
        } else if is(A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) {
            crate::write(out.cast(), c_int::try_from(gpu).unwrap_or(c_int::MAX))
        } else if is(A::CU_POINTER_ATTRIBUTE_IS_MANAGED) {
            crate::write(out.cast(), 0_u8)
        } else if is(A::CU_POINTER_ATTRIBUTE_MAPPED) {
            crate::write(out.cast(), 1_u8)
        } else if is(A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR) {
            crate::write(out.cast(), start)
        } else if is(A::CU_POINTER_ATTRIBUTE_RANGE_SIZE) {
            crate::write(out.cast(), bytes)
        } else if is(A::CU_POINTER_ATTRIBUTE_BUFFER_ID) {
            crate::write(out.cast(), start)
        } else {
            Err(Error::INVALID_VALUE)
        }
    }
}
