// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the GPUs are: counts, names, attributes.

use std::ffi::{CStr, c_char, c_int, c_uint};

use cudarc::driver::sys::CUdevice_attribute as A;
use simgpu::board::{
    BLOCK_SHARED_BYTES, BLOCK_SHARED_BYTES_OPTIN, BLOCK_THREADS_MAX, SHARED_RESERVED_BYTES,
    SM_BLOCKS, SM_REGISTERS, SM_SHARED_BYTES, SM_WARPS, SMS_PER_TPC, WARP_THREADS,
};
use simgpu::fault::{self, Fault};
use simgpu::wire::GpuInfo;

use crate::driver::driver;
use crate::error::{Error, Outcome};
use crate::launch::{BLOCK_MAX, GRID_MAX};
use crate::symbols::Call;

fn gpu(device: c_int) -> Result<&'static GpuInfo, Error> {
    let index = usize::try_from(device).map_err(|_| Error::INVALID_DEVICE)?;
    let gpu = driver()?.gpus.get(index);
    gpu.map(|(_, info)| info).ok_or(Error::INVALID_DEVICE)
}

pub(crate) unsafe fn get(_: Call, out: *mut c_int, ordinal: c_int) -> Outcome {
    gpu(ordinal)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, ordinal) }
}

pub(crate) unsafe fn count(_: Call, out: *mut c_int) -> Outcome {
    let count = c_int::try_from(driver()?.gpus.len()).unwrap_or(c_int::MAX);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, count) }
}

/// Writes text where the caller has `room` bytes for it, cut off if there are too few.
///
/// # Safety
///
/// `out` is null or has room for `room` bytes.
unsafe fn write_text(out: *mut c_char, room: c_int, text: &str) -> Outcome {
    let room = usize::try_from(room).unwrap_or(0);
    if out.is_null() || room == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let length = text.len().min(room - 1);
    // SAFETY: the caller has room for `length + 1` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), length);
        out.add(length).write(0);
    }
    Ok(())
}

pub(crate) unsafe fn name(_: Call, out: *mut c_char, room: c_int, device: c_int) -> Outcome {
    let instance = match fault::has(Fault::Mig) {
        true => " MIG 1g.10gb",
        false => "",
    };
    let name = format!("{}{instance}", gpu(device)?.name);
    // SAFETY: the caller has the room that it says.
    unsafe { write_text(out, room, &name) }
}

pub(crate) unsafe fn uuid(_: Call, out: *mut [u8; 16], device: c_int) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, gpu(device)?.uuid) }
}

pub(crate) unsafe fn luid(
    _: Call,
    _out: *mut c_char,
    _mask: *mut c_uint,
    device: c_int,
) -> Outcome {
    gpu(device)?;
    // There are no LUIDs outside Windows.
    Err(Error::NOT_SUPPORTED)
}

pub(crate) unsafe fn total_memory(_: Call, out: *mut usize, device: c_int) -> Outcome {
    let bytes = usize::try_from(gpu(device)?.memory_bytes).unwrap_or(usize::MAX);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, bytes) }
}

pub(crate) unsafe fn compute_capability(
    _: Call,
    major: *mut c_int,
    minor: *mut c_int,
    device: c_int,
) -> Outcome {
    gpu(device)?;
    // SAFETY: the caller lends the places.
    unsafe {
        crate::write(major, 9)?;
        crate::write(minor, 0)
    }
}

fn pci_text(info: &GpuInfo) -> String {
    let (domain, bus, device) = info.pci;
    format!("{domain:04X}:{bus:02X}:{device:02X}.0")
}

pub(crate) unsafe fn pci_bus_id(_: Call, out: *mut c_char, room: c_int, device: c_int) -> Outcome {
    // SAFETY: the caller has the room that it says.
    unsafe { write_text(out, room, &pci_text(gpu(device)?)) }
}

pub(crate) unsafe fn by_pci_bus_id(_: Call, out: *mut c_int, id: *const c_char) -> Outcome {
    // SAFETY: the caller passes a string.
    let wanted: &CStr = unsafe { crate::read_text(id)? };
    let wanted = wanted.to_str().map_err(|_| Error::INVALID_VALUE)?;
    let found = driver()?.gpus.iter().position(|(_, info)| {
        let text = pci_text(info);
        [&text[..], &text[5..], &text[..text.len() - 2]]
            .iter()
            .any(|form| form.eq_ignore_ascii_case(wanted))
    });
    let index = c_int::try_from(found.ok_or(Error::INVALID_DEVICE)?);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, index.unwrap_or(c_int::MAX)) }
}

pub(crate) unsafe fn can_access_peer(
    _: Call,
    out: *mut c_int,
    device: c_int,
    peer: c_int,
) -> Outcome {
    gpu(device)?;
    gpu(peer)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, 0) }
}

pub(crate) unsafe fn enable_peer(
    _: Call,
    _context: *mut std::ffi::c_void,
    _flags: c_uint,
) -> Outcome {
    driver()?;
    Err(Error::PEER_UNSUPPORTED)
}

pub(crate) unsafe fn attribute(_: Call, out: *mut c_int, number: c_int, device: c_int) -> Outcome {
    let info = gpu(device)?;
    let clock_khz = c_int::try_from(info.clock_khz).unwrap_or(c_int::MAX);
    let (domain, bus, slot) = info.pci;
    let found = KNOWN.iter().find(|(name, _)| *name as c_int == number);
    let value = match found {
        Some(&(_, value)) => value,
        None => {
            let own = [
                (
                    A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                    info.tpcs * SMS_PER_TPC,
                ),
                (A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, clock_khz.cast_unsigned()),
                (A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, domain),
                (A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, bus),
                (A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, slot),
            ];
            let found = own.iter().find(|(name, _)| *name as c_int == number);
            match found {
                Some((_, value)) => value.cast_signed(),
                // Textures, surfaces, managed memory and other things that are not simulated.
                None if (1..A::CU_DEVICE_ATTRIBUTE_MAX as c_int).contains(&number) => 0,
                None => return Err(Error::INVALID_VALUE),
            }
        }
    };
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, value) }
}

/// Attributes that every simulated GPU shares with an H100. Those that are missing are 0.
const KNOWN: [(A, c_int); 47] = [
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
        BLOCK_THREADS_MAX.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X,
        BLOCK_MAX[0].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
        BLOCK_MAX[1].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z,
        BLOCK_MAX[2].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,
        GRID_MAX[0].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
        GRID_MAX[1].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z,
        GRID_MAX[2].cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
        BLOCK_SHARED_BYTES.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        BLOCK_SHARED_BYTES_OPTIN.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        SM_SHARED_BYTES.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
        SHARED_RESERVED_BYTES.cast_signed(),
    ),
    (A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65_536),
    (A::CU_DEVICE_ATTRIBUTE_WARP_SIZE, WARP_THREADS.cast_signed()),
    (A::CU_DEVICE_ATTRIBUTE_MAX_PITCH, c_int::MAX),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK,
        SM_REGISTERS.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
        SM_REGISTERS.cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        (SM_WARPS * WARP_THREADS).cast_signed(),
    ),
    (
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR,
        SM_BLOCKS.cast_signed(),
    ),
    (A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512),
    (A::CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32),
    (A::CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512),
    (A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1),
    (A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3),
    (A::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT, 0),
    (A::CU_DEVICE_ATTRIBUTE_INTEGRATED, 0),
    (A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1),
    (A::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0),
    (A::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1),
    (A::CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1),
    (A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2_619_000),
    (A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120),
    (A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20),
    (A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
    (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9),
    (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0),
    (A::CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1),
    (A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 1),
    (A::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1),
    (
        A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
        1,
    ),
    (A::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1),
    (A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
    (
        A::CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO,
        2,
    ),
    (A::CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED, 0),
];
