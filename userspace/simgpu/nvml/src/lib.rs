// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `libnvidia-ml.so.1` of the simulated GPU.
//!
//! The idea: every answer is read from the server when it is asked for, as NVML reads the kernel's
//! driver; this library remembers nothing but its connection. What is not here is absent from
//! the library, so that a client learns it when it looks the symbol up, as with an older NVML: clocks,
//! power, temperatures, MIG instances. MIG itself is answered, because clients ask before anything
//! else: it is there and disabled.
//!
//! Units are NVML's: bytes, and percent of the last second.

mod device;
mod error;
mod place;
mod process;
mod session;
mod system;

use std::ffi::{c_char, c_int, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper_sys::bindings::{
    nvmlBrandType_t, nvmlComputeMode_t, nvmlDevice_t, nvmlDeviceArchitecture_t, nvmlMemory_t,
    nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlReturn_t,
    nvmlUtilization_t,
};

use error::{Error, Outcome};

/// What a function came to, as NVML says it.
fn code(call: impl FnOnce() -> Outcome) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error.code(),
        Err(_) => Error::UNKNOWN.code(),
    }
}

/// Exports functions under NVML's names.
macro_rules! exports {
    ($(fn $name:ident($($argument:ident: $ty:ty),*) = $call:path;)*) => {$(
        /// As NVML's header says.
        ///
        /// # Safety
        ///
        /// Every pointer must be null or valid for what NVML reads or writes there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $ty),*) -> nvmlReturn_t {
            // SAFETY: the caller keeps NVML's contract, which the called function shares.
            code(|| unsafe { $call($($argument),*) })
        }
    )*};
}

exports! {
    fn nvmlInit() = system::init;
    fn nvmlInit_v2() = system::init;
    fn nvmlInitWithFlags(flags: c_uint) = system::init_with_flags;
    fn nvmlShutdown() = system::shutdown;
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) = system::driver_version;
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) = system::nvml_version;
    fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) = system::cuda_version;
    fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) = system::cuda_version;
    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) =
        process::name;

    fn nvmlDeviceGetCount(count: *mut c_uint) = device::count;
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) = device::count;
    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) = device::by_index;
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) = device::by_index;
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) = device::by_uuid;
    fn nvmlDeviceGetHandleByPciBusId(id: *const c_char, device: *mut nvmlDevice_t) =
        device::by_pci;
    fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, device: *mut nvmlDevice_t) =
        device::by_pci;
    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) = device::index;
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) = device::index;
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) = device::name;
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) = device::uuid;
    fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut nvmlBrandType_t) = device::brand;
    fn nvmlDeviceGetArchitecture(
        device: nvmlDevice_t,
        architecture: *mut nvmlDeviceArchitecture_t
    ) = device::architecture;
    fn nvmlDeviceGetCudaComputeCapability(
        device: nvmlDevice_t,
        major: *mut c_int,
        minor: *mut c_int
    ) = device::compute_capability;
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, cores: *mut c_uint) = device::cores;
    fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = device::pci;
    fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = device::pci;
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) = device::pci;
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) =
        device::compute_mode;
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) = device::memory;
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) =
        device::memory_v2;
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) =
        device::utilization;
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) =
        device::mig_mode;
    fn nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: c_uint, status: *mut nvmlReturn_t) =
        device::set_mig_mode;
    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is: *mut c_uint) = device::is_mig;
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) =
        device::mig_count;

    fn nvmlDeviceGetComputeRunningProcesses(
        device: nvmlDevice_t,
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_v1_t
    ) = process::compute;
    fn nvmlDeviceGetComputeRunningProcesses_v2(
        device: nvmlDevice_t,
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t
    ) = process::compute;
    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t
    ) = process::compute;
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t,
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t
    ) = process::none;
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        count: *mut c_uint,
        infos: *mut nvmlProcessInfo_v2_t
    ) = process::none;
}

/// What a return code means, in English.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    Error(result).text().as_ptr()
}
