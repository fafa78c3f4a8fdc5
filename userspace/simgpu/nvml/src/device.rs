// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! GPUs: handles, identity, memory and utilization.
//!
//! A handle is the GPU's index with a mark above it, so that a wild pointer is no handle.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_ARCH_HOPPER, NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE,
    nvmlBrandType_enum_NVML_BRAND_NVIDIA, nvmlBrandType_t,
    nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT, nvmlComputeMode_t, nvmlDevice_t,
    nvmlDeviceArchitecture_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlReturn_t,
    nvmlUtilization_t,
};
use simgpu::config::uuid_text;
use simgpu::fault::{self, Fault};
use simgpu::wire::{GpuInfo, GpuReport};

use crate::error::{Error, Outcome};
use crate::place::{characters, put, put_text, text};
use crate::session;

/// What a handle has above the index.
const HANDLE_MARK: usize = 0x5349_4d00;
/// The H100's PCI device and vendor.
const PCI_DEVICE_ID: c_uint = 0x2330_10de;
/// The same of its board.
const PCI_SUBSYSTEM_ID: c_uint = 0x16c1_10de;
/// CUDA cores of a TPC on Hopper: two SMs of 128.
const CORES_PER_TPC: u32 = 256;

/// Which GPU a handle means.
pub(crate) fn index_of(device: nvmlDevice_t) -> Outcome<usize> {
    let gpus = session::gpus()?;
    device
        .addr()
        .checked_sub(HANDLE_MARK)
        .filter(|index| *index < gpus.len())
        .ok_or(Error::INVALID_ARGUMENT)
}

fn info(device: nvmlDevice_t) -> Outcome<GpuInfo> {
    let index = index_of(device)?;
    // PANIC: the index was checked against the same list.
    Ok(session::gpus()?.swap_remove(index))
}

fn report(device: nvmlDevice_t) -> Outcome<GpuReport> {
    session::report(index_of(device)?)
}

/// Hands out the handle of the GPU that `is_it` finds.
///
/// # Safety
///
/// `device` must be null or valid for a write.
unsafe fn find(
    device: *mut nvmlDevice_t,
    missing: Error,
    is_it: impl Fn(usize, &GpuInfo) -> bool,
) -> Outcome {
    let gpus = session::gpus()?;
    let found = gpus
        .iter()
        .enumerate()
        .find(|(index, gpu)| is_it(*index, gpu));
    let (index, _) = found.ok_or(missing)?;
    // SAFETY: the caller lends the place.
    unsafe {
        put(
            device,
            std::ptr::without_provenance_mut(HANDLE_MARK + index),
        )
    }
}

pub(crate) unsafe fn count(count: *mut c_uint) -> Outcome {
    let gpus = session::gpus()?.len();
    // SAFETY: the caller lends the place.
    unsafe { put(count, c_uint::try_from(gpus).unwrap_or(c_uint::MAX)) }
}

pub(crate) unsafe fn by_index(index: c_uint, device: *mut nvmlDevice_t) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe {
        find(device, Error::INVALID_ARGUMENT, |found, _| {
            found == index as usize
        })
    }
}

pub(crate) unsafe fn by_uuid(uuid: *const c_char, device: *mut nvmlDevice_t) -> Outcome {
    // SAFETY: the caller passes a string that lives as long as the call.
    let uuid = unsafe { text(uuid)? };
    // SAFETY: the caller lends the place.
    unsafe {
        find(device, Error::NOT_FOUND, |_, gpu| {
            uuid_text(&gpu.uuid) == uuid
        })
    }
}

/// Reads `00000000:10:00.0`, where the domain and the function may be left out.
fn parse_pci(id: &str) -> Option<(u32, u32, u32)> {
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let (address, function) = id.split_once('.').unwrap_or((id, "0"));
    if hex(function)? != 0 {
        return None;
    }
    let parts: Vec<&str> = address.split(':').collect();
    match parts.as_slice() {
        [bus, device] => Some((0, hex(bus)?, hex(device)?)),
        [domain, bus, device] => Some((hex(domain)?, hex(bus)?, hex(device)?)),
        _ => None,
    }
}

pub(crate) unsafe fn by_pci(id: *const c_char, device: *mut nvmlDevice_t) -> Outcome {
    // SAFETY: the caller passes a string that lives as long as the call.
    let id = unsafe { text(id)? };
    session::check()?;
    let pci = parse_pci(id).ok_or(Error::INVALID_ARGUMENT)?;
    // SAFETY: the caller lends the place.
    unsafe { find(device, Error::NOT_FOUND, |_, gpu| gpu.pci == pci) }
}

pub(crate) unsafe fn index(device: nvmlDevice_t, index: *mut c_uint) -> Outcome {
    let found = index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(index, c_uint::try_from(found).unwrap_or(c_uint::MAX)) }
}

pub(crate) unsafe fn name(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { put_text(name, length, &info(device)?.name) }
}

pub(crate) unsafe fn uuid(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { put_text(uuid, length, &uuid_text(&info(device)?.uuid)) }
}

pub(crate) unsafe fn brand(device: nvmlDevice_t, brand: *mut nvmlBrandType_t) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(brand, nvmlBrandType_enum_NVML_BRAND_NVIDIA) }
}

pub(crate) unsafe fn architecture(
    device: nvmlDevice_t,
    architecture: *mut nvmlDeviceArchitecture_t,
) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(architecture, NVML_DEVICE_ARCH_HOPPER) }
}

pub(crate) unsafe fn compute_capability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends both places.
    unsafe {
        put(major, 9)?;
        put(minor, 0)
    }
}

pub(crate) unsafe fn cores(device: nvmlDevice_t, cores: *mut c_uint) -> Outcome {
    let tpcs = info(device)?.tpcs;
    // SAFETY: the caller lends the place.
    unsafe { put(cores, tpcs.saturating_mul(CORES_PER_TPC)) }
}

pub(crate) unsafe fn pci(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Outcome {
    let (domain, bus, slot) = info(device)?.pci;
    let value = nvmlPciInfo_t {
        busIdLegacy: characters(&format!("{domain:04X}:{bus:02X}:{slot:02X}.0")),
        domain,
        bus,
        device: slot,
        pciDeviceId: PCI_DEVICE_ID,
        pciSubSystemId: PCI_SUBSYSTEM_ID,
        busId: characters(&format!("{domain:08X}:{bus:02X}:{slot:02X}.0")),
    };
    // SAFETY: the caller lends the place.
    unsafe { put(pci, value) }
}

pub(crate) unsafe fn compute_mode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(mode, nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT) }
}

/// Memory in bytes. The simulated driver takes none for itself.
fn memory_of(device: nvmlDevice_t) -> Outcome<nvmlMemory_t> {
    let report = report(device)?;
    let (total, used) = (report.info.memory_bytes, report.memory_used_bytes);
    let free = total.saturating_sub(used);
    Ok(nvmlMemory_t { total, free, used })
}

pub(crate) unsafe fn memory(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> Outcome {
    // SAFETY: the caller lends the place.
    unsafe { put(memory, memory_of(device)?) }
}

pub(crate) unsafe fn memory_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> Outcome {
    if memory.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: not null, so the caller lends a structure and has filled in its version.
    let version = unsafe { (*memory).version };
    let expected = u32::try_from(size_of::<nvmlMemory_v2_t>()).unwrap_or(0) | 2 << 24;
    if version != expected {
        return Err(Error::ARGUMENT_VERSION);
    }
    let nvmlMemory_t { total, free, used } = memory_of(device)?;
    let value = nvmlMemory_v2_t {
        version,
        total,
        reserved: 0,
        free,
        used,
    };
    // SAFETY: as above.
    unsafe { put(memory, value) }
}

/// The share of the last second in which a block was on the GPU. The memory has no such share here: it
/// counts as idle.
pub(crate) unsafe fn utilization(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) -> Outcome {
    let gpu = report(device)?.utilization_percent;
    // SAFETY: the caller lends the place.
    unsafe { put(rates, nvmlUtilization_t { gpu, memory: 0 }) }
}

pub(crate) unsafe fn mig_mode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Outcome {
    index_of(device)?;
    let mode = match fault::has(Fault::Mig) {
        true => NVML_DEVICE_MIG_ENABLE,
        false => NVML_DEVICE_MIG_DISABLE,
    };
    // SAFETY: the caller lends both places.
    unsafe {
        put(current, mode)?;
        put(pending, mode)
    }
}

pub(crate) unsafe fn set_mig_mode(
    device: nvmlDevice_t,
    mode: c_uint,
    status: *mut nvmlReturn_t,
) -> Outcome {
    index_of(device)?;
    if mode != NVML_DEVICE_MIG_DISABLE {
        return Err(Error::NOT_SUPPORTED);
    }
    // SAFETY: the caller lends the place.
    unsafe { put(status, 0) }
}

pub(crate) unsafe fn is_mig(device: nvmlDevice_t, is: *mut c_uint) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(is, 0) }
}

pub(crate) unsafe fn mig_count(device: nvmlDevice_t, count: *mut c_uint) -> Outcome {
    index_of(device)?;
    // SAFETY: the caller lends the place.
    unsafe { put(count, 0) }
}
