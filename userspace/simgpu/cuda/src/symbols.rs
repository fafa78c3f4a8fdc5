// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Everything that the library exports, in one table.
//!
//! A row is: the symbol, its number among the driver's callbacks (CUPTI's `cupti_driver_cbid.h`) and
//! the CUDA version that brought it; where there is one, the twin whose null stream is the thread's
//! own, likewise; the name under which `cuGetProcAddress` knows both; the function that does the work,
//! and the arguments under the names that CUDA gives them. The arguments of a call, in this order and
//! with natural alignment, are what a subscriber to the API's callbacks sees.
//!
//! Numbers that programs pass as enumerations are plain numbers here: a program may pass any.

#![expect(
    non_snake_case,
    unreachable_pub,
    reason = "names and visibility are what CUDA's headers promise to other programs"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::launch::LaunchConfig;
use crate::{
    callbacks, context, copy, device, driver, error, event, host_function, launch, library, memory,
    module, occupancy, proc_address, stream,
};

/// How a function was called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Whether the null stream is the calling thread's own default stream.
    pub(crate) per_thread: bool,
}

/// An exported function.
#[derive(Debug)]
pub(crate) struct Symbol {
    /// The name under which `cuGetProcAddress` knows it.
    pub(crate) base: &'static CStr,
    /// The CUDA version that brought it.
    pub(crate) since: c_int,
    /// Whether its null stream is the calling thread's own.
    pub(crate) per_thread: bool,
    /// Where it is.
    pub(crate) address: *const c_void,
}

// SAFETY: the address is that of a function.
unsafe impl Sync for Symbol {}

/// Defines one exported function.
macro_rules! export {
    ($name:ident, $number:literal, $per_thread:literal, $module:ident, $handler:ident,
     ($($arg:ident: $type:ty),*)) => {
        /// # Safety
        ///
        /// As CUDA's headers say of the function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
            #[repr(C)]
            struct Arguments {
                $($arg: $type,)*
            }
            let mut arguments = Arguments { $($arg),* };
            // A subscriber may change them before they are looked at.
            let at = (&raw mut arguments).cast_const();
            const NAME: &CStr = match CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
            let call = Call { per_thread: $per_thread };
            callbacks::around($number, NAME, at.cast(), || {
                // SAFETY: the caller's contract is that of CUDA's headers.
                unsafe { $module::$handler(call, $((*at).$arg),*) }
            })
        }
    };
}

/// Defines the exported functions and the table that `cuGetProcAddress` searches.
macro_rules! exports {
    ($($name:ident [$number:literal, $since:literal]
       $(/ $twin:ident [$twin_number:literal, $twin_since:literal])?
       $base:literal => $module:ident::$handler:ident $arguments:tt;)*) => {
        $(
            export!($name, $number, false, $module, $handler, $arguments);
            $(export!($twin, $twin_number, true, $module, $handler, $arguments);)?
        )*

        pub(crate) static SYMBOLS: &[Symbol] = &[
            $(
                Symbol {
                    base: $base,
                    since: $since,
                    per_thread: false,
                    address: $name as *const c_void,
                },
                $(Symbol {
                    base: $base,
                    since: $twin_since,
                    per_thread: true,
                    address: $twin as *const c_void,
                },)?
            )*
        ];
    };
}

exports! {
    cuInit [1, 2000] c"cuInit"
        => driver::init(Flags: c_uint);
    cuDriverGetVersion [2, 2020] c"cuDriverGetVersion"
        => driver::version(driverVersion: *mut c_int);
    cuGetErrorString [372, 6000] c"cuGetErrorString"
        => error::error_string(error: c_int, pStr: *mut *const c_char);
    cuGetErrorName [373, 6000] c"cuGetErrorName"
        => error::error_name(error: c_int, pStr: *mut *const c_char);
    cuGetExportTable [135, 3000] c"cuGetExportTable"
        => callbacks::export_table(ppExportTable: *mut *const c_void, pExportTableId: *const [u8; 16]);
    cuGetProcAddress [626, 11030] c"cuGetProcAddress"
        => proc_address::get_v1(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: c_int, flags: u64);
    cuGetProcAddress_v2 [677, 12000] c"cuGetProcAddress"
        => proc_address::get(symbol: *const c_char, pfn: *mut *mut c_void, cudaVersion: c_int, flags: u64, symbolStatus: *mut c_int);

    cuDeviceGet [3, 2000] c"cuDeviceGet"
        => device::get(device: *mut c_int, ordinal: c_int);
    cuDeviceGetCount [4, 2000] c"cuDeviceGetCount"
        => device::count(count: *mut c_int);
    cuDeviceGetName [5, 2000] c"cuDeviceGetName"
        => device::name(name: *mut c_char, len: c_int, dev: c_int);
    cuDeviceGetUuid [482, 9020] c"cuDeviceGetUuid"
        => device::uuid(uuid: *mut [u8; 16], dev: c_int);
    cuDeviceGetUuid_v2 [647, 11040] c"cuDeviceGetUuid"
        => device::uuid(uuid: *mut [u8; 16], dev: c_int);
    cuDeviceGetLuid [532, 10000] c"cuDeviceGetLuid"
        => device::luid(luid: *mut c_char, deviceNodeMask: *mut c_uint, dev: c_int);
    cuDeviceTotalMem_v2 [259, 3020] c"cuDeviceTotalMem"
        => device::total_memory(bytes: *mut usize, dev: c_int);
    cuDeviceGetAttribute [9, 2000] c"cuDeviceGetAttribute"
        => device::attribute(pi: *mut c_int, attrib: c_int, dev: c_int);
    cuDeviceComputeCapability [6, 2000] c"cuDeviceComputeCapability"
        => device::compute_capability(major: *mut c_int, minor: *mut c_int, dev: c_int);
    cuDeviceGetPCIBusId [332, 4010] c"cuDeviceGetPCIBusId"
        => device::pci_bus_id(pciBusId: *mut c_char, len: c_int, dev: c_int);
    cuDeviceGetByPCIBusId [331, 4010] c"cuDeviceGetByPCIBusId"
        => device::by_pci_bus_id(dev: *mut c_int, pciBusId: *const c_char);
    cuDeviceCanAccessPeer [312, 4000] c"cuDeviceCanAccessPeer"
        => device::can_access_peer(canAccessPeer: *mut c_int, dev: c_int, peerDev: c_int);
    cuCtxEnablePeerAccess [313, 4000] c"cuCtxEnablePeerAccess"
        => device::enable_peer(peerContext: *mut c_void, Flags: c_uint);

    cuDevicePrimaryCtxRetain [386, 7000] c"cuDevicePrimaryCtxRetain"
        => context::primary_retain(pctx: *mut *mut c_void, dev: c_int);
    cuDevicePrimaryCtxRelease_v2 [544, 11000] c"cuDevicePrimaryCtxRelease"
        => context::primary_release(dev: c_int);
    cuDevicePrimaryCtxReset_v2 [545, 11000] c"cuDevicePrimaryCtxReset"
        => context::primary_reset(dev: c_int);
    cuDevicePrimaryCtxGetState [392, 7000] c"cuDevicePrimaryCtxGetState"
        => context::primary_state(dev: c_int, flags: *mut c_uint, active: *mut c_int);
    cuDevicePrimaryCtxSetFlags_v2 [546, 11000] c"cuDevicePrimaryCtxSetFlags"
        => context::primary_set_flags(dev: c_int, flags: c_uint);
    cuDevicePrimaryCtxRelease [387, 7000] c"cuDevicePrimaryCtxRelease"
        => context::primary_release(dev: c_int);
    cuDevicePrimaryCtxReset [389, 7000] c"cuDevicePrimaryCtxReset"
        => context::primary_reset(dev: c_int);
    cuDevicePrimaryCtxSetFlags [388, 7000] c"cuDevicePrimaryCtxSetFlags"
        => context::primary_set_flags(dev: c_int, flags: c_uint);

    cuCtxCreate_v2 [235, 3020] c"cuCtxCreate"
        => context::create(pctx: *mut *mut c_void, flags: c_uint, dev: c_int);
    cuCtxCreate_v3 [645, 11040] c"cuCtxCreate"
        => context::create_v3(pctx: *mut *mut c_void, paramsArray: *mut c_void, numParams: c_int, flags: c_uint, dev: c_int);
    cuCtxCreate_v4 [757, 12050] c"cuCtxCreate"
        => context::create_v4(pctx: *mut *mut c_void, ctxCreateParams: *mut c_void, flags: c_uint, dev: c_int);
    cuCtxDestroy_v2 [322, 4000] c"cuCtxDestroy"
        => context::destroy(ctx: *mut c_void);
    cuCtxPushCurrent_v2 [323, 4000] c"cuCtxPushCurrent"
        => context::push_current(ctx: *mut c_void);
    cuCtxPopCurrent_v2 [324, 4000] c"cuCtxPopCurrent"
        => context::pop_current(pctx: *mut *mut c_void);
    cuCtxSetCurrent [303, 4000] c"cuCtxSetCurrent"
        => context::set_current(ctx: *mut c_void);
    cuCtxGetCurrent [304, 4000] c"cuCtxGetCurrent"
        => context::get_current(pctx: *mut *mut c_void);
    cuCtxGetDevice [16, 2000] c"cuCtxGetDevice"
        => context::get_device(device: *mut c_int);
    cuCtxGetDevice_v2 [795, 13000] c"cuCtxGetDevice"
        => context::get_device_v2(device: *mut c_int, ctx: *mut c_void);
    cuCtxSynchronize [17, 2000] c"cuCtxSynchronize"
        => context::synchronize();
    cuCtxSynchronize_v2 [800, 13000] c"cuCtxSynchronize"
        => context::synchronize_v2(ctx: *mut c_void);
    cuCtxGetStreamPriorityRange [370, 5050] c"cuCtxGetStreamPriorityRange"
        => context::priority_range(leastPriority: *mut c_int, greatestPriority: *mut c_int);
    cuCtxGetApiVersion [296, 3020] c"cuCtxGetApiVersion"
        => context::api_version(ctx: *mut c_void, version: *mut c_uint);
    cuCtxGetFlags [391, 7000] c"cuCtxGetFlags"
        => context::get_flags(flags: *mut c_uint);
    cuCtxSetFlags [705, 12010] c"cuCtxSetFlags"
        => context::set_flags(flags: c_uint);
    cuCtxGetId [695, 12000] c"cuCtxGetId"
        => context::get_id(ctx: *mut c_void, ctxId: *mut u64);
    cuCtxGetLimit [137, 3010] c"cuCtxGetLimit"
        => context::get_limit(pvalue: *mut usize, limit: c_uint);
    cuCtxSetLimit [136, 3010] c"cuCtxSetLimit"
        => context::set_limit(limit: c_uint, value: usize);

    cuMemGetInfo_v2 [242, 3020] c"cuMemGetInfo"
        => memory::info(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2 [243, 3020] c"cuMemAlloc"
        => memory::alloc(dptr: *mut u64, bytesize: usize);
    cuMemAllocPitch_v2 [244, 3020] c"cuMemAllocPitch"
        => memory::alloc_pitch(dptr: *mut u64, pPitch: *mut usize, WidthInBytes: usize, Height: usize, ElementSizeBytes: c_uint);
    cuMemFree_v2 [245, 3020] c"cuMemFree"
        => memory::free(dptr: u64);
    cuMemGetAddressRange_v2 [246, 3020] c"cuMemGetAddressRange"
        => memory::address_range(pbase: *mut u64, psize: *mut usize, dptr: u64);
    cuMemAllocHost_v2 [294, 3020] c"cuMemAllocHost"
        => memory::host_alloc_plain(pp: *mut *mut c_void, bytesize: usize);
    cuMemFreeHost [38, 2000] c"cuMemFreeHost"
        => memory::host_free(p: *mut c_void);
    cuMemHostAlloc [39, 2020] c"cuMemHostAlloc"
        => memory::host_alloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint);
    cuMemHostGetDevicePointer_v2 [247, 3020] c"cuMemHostGetDevicePointer"
        => memory::host_device_pointer(pdptr: *mut u64, p: *mut c_void, Flags: c_uint);
    cuMemHostGetFlags [42, 2030] c"cuMemHostGetFlags"
        => memory::host_flags(pFlags: *mut c_uint, p: *mut c_void);
    cuMemHostRegister_v2 [379, 6050] c"cuMemHostRegister"
        => memory::host_register(p: *mut c_void, bytesize: usize, Flags: c_uint);
    cuMemHostUnregister [302, 4000] c"cuMemHostUnregister"
        => memory::host_unregister(p: *mut c_void);
    cuMemAllocAsync [598, 11020] / cuMemAllocAsync_ptsz [599, 11020] c"cuMemAllocAsync"
        => memory::alloc_async(dptr: *mut u64, bytesize: usize, hStream: *mut c_void);
    cuMemFreeAsync [600, 11020] / cuMemFreeAsync_ptsz [601, 11020] c"cuMemFreeAsync"
        => memory::free_async(dptr: u64, hStream: *mut c_void);
    cuPointerGetAttribute [310, 4000] c"cuPointerGetAttribute"
        => memory::pointer_attribute(data: *mut c_void, attribute: c_int, ptr: u64);

    cuMemcpy [305, 4000] / cuMemcpy_ptds [408, 7000] c"cuMemcpy"
        => copy::copy_any(dst: u64, src: u64, ByteCount: usize);
    cuMemcpyAsync [306, 4000] / cuMemcpyAsync_ptsz [418, 7000] c"cuMemcpyAsync"
        => copy::copy_any_async(dst: u64, src: u64, ByteCount: usize, hStream: *mut c_void);
    cuMemcpyPeer [318, 4000] / cuMemcpyPeer_ptds [409, 7000] c"cuMemcpyPeer"
        => copy::copy_peer(dstDevice: u64, dstContext: *mut c_void, srcDevice: u64, srcContext: *mut c_void, ByteCount: usize);
    cuMemcpyPeerAsync [319, 4000] / cuMemcpyPeerAsync_ptsz [426, 7000] c"cuMemcpyPeerAsync"
        => copy::copy_peer_async(dstDevice: u64, dstContext: *mut c_void, srcDevice: u64, srcContext: *mut c_void, ByteCount: usize, hStream: *mut c_void);
    cuMemcpyHtoD_v2 [276, 3020] / cuMemcpyHtoD_v2_ptds [397, 7000] c"cuMemcpyHtoD"
        => copy::copy_to_device(dstDevice: u64, srcHost: *const c_void, ByteCount: usize);
    cuMemcpyDtoH_v2 [278, 3020] / cuMemcpyDtoH_v2_ptds [398, 7000] c"cuMemcpyDtoH"
        => copy::copy_to_host(dstHost: *mut c_void, srcDevice: u64, ByteCount: usize);
    cuMemcpyDtoD_v2 [280, 3020] / cuMemcpyDtoD_v2_ptds [399, 7000] c"cuMemcpyDtoD"
        => copy::copy_on_device(dstDevice: u64, srcDevice: u64, ByteCount: usize);
    cuMemcpyHtoDAsync_v2 [277, 3020] / cuMemcpyHtoDAsync_v2_ptsz [421, 7000] c"cuMemcpyHtoDAsync"
        => copy::copy_to_device_async(dstDevice: u64, srcHost: *const c_void, ByteCount: usize, hStream: *mut c_void);
    cuMemcpyDtoHAsync_v2 [279, 3020] / cuMemcpyDtoHAsync_v2_ptsz [422, 7000] c"cuMemcpyDtoHAsync"
        => copy::copy_to_host_async(dstHost: *mut c_void, srcDevice: u64, ByteCount: usize, hStream: *mut c_void);
    cuMemcpyDtoDAsync_v2 [281, 3020] / cuMemcpyDtoDAsync_v2_ptsz [423, 7000] c"cuMemcpyDtoDAsync"
        => copy::copy_on_device_async(dstDevice: u64, srcDevice: u64, ByteCount: usize, hStream: *mut c_void);
    cuMemsetD8_v2 [249, 3020] / cuMemsetD8_v2_ptds [411, 7000] c"cuMemsetD8"
        => copy::fill8(dstDevice: u64, uc: u8, N: usize);
    cuMemsetD16_v2 [250, 3020] / cuMemsetD16_v2_ptds [412, 7000] c"cuMemsetD16"
        => copy::fill16(dstDevice: u64, us: u16, N: usize);
    cuMemsetD32_v2 [251, 3020] / cuMemsetD32_v2_ptds [413, 7000] c"cuMemsetD32"
        => copy::fill32(dstDevice: u64, ui: u32, N: usize);
    cuMemsetD8Async [216, 3020] / cuMemsetD8Async_ptsz [428, 7000] c"cuMemsetD8Async"
        => copy::fill8_async(dstDevice: u64, uc: u8, N: usize, hStream: *mut c_void);
    cuMemsetD16Async [218, 3020] / cuMemsetD16Async_ptsz [429, 7000] c"cuMemsetD16Async"
        => copy::fill16_async(dstDevice: u64, us: u16, N: usize, hStream: *mut c_void);
    cuMemsetD32Async [220, 3020] / cuMemsetD32Async_ptsz [430, 7000] c"cuMemsetD32Async"
        => copy::fill32_async(dstDevice: u64, ui: u32, N: usize, hStream: *mut c_void);

    cuModuleLoad [18, 2000] c"cuModuleLoad"
        => module::load_file(module: *mut *mut c_void, fname: *const c_char);
    cuModuleLoadData [19, 2000] c"cuModuleLoadData"
        => module::load_data(module: *mut *mut c_void, image: *const c_void);
    cuModuleLoadDataEx [20, 2010] c"cuModuleLoadDataEx"
        => module::load_data_with(module: *mut *mut c_void, image: *const c_void, numOptions: c_uint, options: *mut c_uint, optionValues: *mut *mut c_void);
    cuModuleLoadFatBinary [21, 2000] c"cuModuleLoadFatBinary"
        => module::load_fat_binary(module: *mut *mut c_void, fatCubin: *const c_void);
    cuModuleUnload [22, 2000] c"cuModuleUnload"
        => module::unload(hmod: *mut c_void);
    cuModuleGetLoadingMode [673, 11070] c"cuModuleGetLoadingMode"
        => module::loading_mode(mode: *mut c_uint);
    cuModuleGetFunction [23, 2000] c"cuModuleGetFunction"
        => module::get_function(hfunc: *mut *mut c_void, hmod: *mut c_void, name: *const c_char);
    cuModuleGetFunctionCount [737, 12040] c"cuModuleGetFunctionCount"
        => module::function_count(count: *mut c_uint, hmod: *mut c_void);
    cuModuleEnumerateFunctions [738, 12040] c"cuModuleEnumerateFunctions"
        => module::enumerate_functions(functions: *mut *mut c_void, numFunctions: c_uint, hmod: *mut c_void);
    cuModuleGetGlobal_v2 [241, 3020] c"cuModuleGetGlobal"
        => module::get_global(dptr: *mut u64, bytes: *mut usize, hmod: *mut c_void, name: *const c_char);
    cuLibraryLoadData [678, 12000] c"cuLibraryLoadData"
        => library::load_data(library: *mut *mut c_void, code: *const c_void, jitOptions: *mut c_uint, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut c_uint, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint);
    cuLibraryLoadFromFile [679, 12000] c"cuLibraryLoadFromFile"
        => library::load_file(library: *mut *mut c_void, fileName: *const c_char, jitOptions: *mut c_uint, jitOptionsValues: *mut *mut c_void, numJitOptions: c_uint, libraryOptions: *mut c_uint, libraryOptionValues: *mut *mut c_void, numLibraryOptions: c_uint);
    cuLibraryUnload [680, 12000] c"cuLibraryUnload"
        => library::unload(library: *mut c_void);
    cuLibraryGetKernel [681, 12000] c"cuLibraryGetKernel"
        => library::get_kernel(pKernel: *mut *mut c_void, library: *mut c_void, name: *const c_char);
    cuLibraryGetKernelCount [739, 12040] c"cuLibraryGetKernelCount"
        => library::kernel_count(count: *mut c_uint, lib: *mut c_void);
    cuLibraryEnumerateKernels [740, 12040] c"cuLibraryEnumerateKernels"
        => library::enumerate_kernels(kernels: *mut *mut c_void, numKernels: c_uint, lib: *mut c_void);
    cuLibraryGetModule [682, 12000] c"cuLibraryGetModule"
        => library::get_module(pMod: *mut *mut c_void, library: *mut c_void);
    cuLibraryGetGlobal [684, 12000] c"cuLibraryGetGlobal"
        => library::get_global(dptr: *mut u64, bytes: *mut usize, library: *mut c_void, name: *const c_char);
    cuKernelGetFunction [683, 12000] c"cuKernelGetFunction"
        => library::kernel_function(pFunc: *mut *mut c_void, kernel: *mut c_void);
    cuKernelGetLibrary [754, 12050] c"cuKernelGetLibrary"
        => library::kernel_library(pLib: *mut *mut c_void, kernel: *mut c_void);
    cuKernelGetName [719, 12030] c"cuKernelGetName"
        => library::kernel_name(name: *mut *const c_char, hfunc: *mut c_void);
    cuKernelGetParamInfo [734, 12040] c"cuKernelGetParamInfo"
        => library::kernel_parameter(kernel: *mut c_void, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize);
    cuKernelGetAttribute [686, 12000] c"cuKernelGetAttribute"
        => library::kernel_attribute(pi: *mut c_int, attrib: c_uint, kernel: *mut c_void, dev: c_int);
    cuKernelSetAttribute [687, 12000] c"cuKernelSetAttribute"
        => library::set_kernel_attribute(attrib: c_uint, val: c_int, kernel: *mut c_void, dev: c_int);

    cuFuncGetAttribute [85, 2020] c"cuFuncGetAttribute"
        => module::function_attribute(pi: *mut c_int, attrib: c_uint, hfunc: *mut c_void);
    cuFuncSetAttribute [481, 9000] c"cuFuncSetAttribute"
        => module::set_function_attribute(hfunc: *mut c_void, attrib: c_uint, value: c_int);
    cuFuncSetCacheConfig [86, 3000] c"cuFuncSetCacheConfig"
        => module::set_cache_config(hfunc: *mut c_void, config: c_uint);
    cuFuncGetName [718, 12030] c"cuFuncGetName"
        => module::function_name(name: *mut *const c_char, hfunc: *mut c_void);
    cuFuncGetModule [566, 11000] c"cuFuncGetModule"
        => module::function_module(hmod: *mut *mut c_void, hfunc: *mut c_void);
    cuFuncGetParamInfo [733, 12040] c"cuFuncGetParamInfo"
        => module::function_parameter(func: *mut c_void, paramIndex: usize, paramOffset: *mut usize, paramSize: *mut usize);
    cuFuncIsLoaded [741, 12040] c"cuFuncIsLoaded"
        => module::is_loaded(state: *mut c_uint, hfunc: *mut c_void);
    cuFuncLoad [742, 12040] c"cuFuncLoad"
        => module::load_function(function: *mut c_void);

    cuLaunchKernel [307, 4000] / cuLaunchKernel_ptsz [442, 7000] c"cuLaunchKernel"
        => launch::kernel(f: *mut c_void, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: *mut c_void, kernelParams: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchKernelEx [652, 11060] / cuLaunchKernelEx_ptsz [653, 11060] c"cuLaunchKernelEx"
        => launch::kernel_with(config: *const LaunchConfig, f: *mut c_void, kernelParams: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchCooperativeKernel [477, 9000] / cuLaunchCooperativeKernel_ptsz [478, 9000] c"cuLaunchCooperativeKernel"
        => launch::cooperative_kernel(f: *mut c_void, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: *mut c_void, kernelParams: *mut *mut c_void);
    cuLaunchHostFunc [527, 10000] / cuLaunchHostFunc_ptsz [528, 10000] c"cuLaunchHostFunc"
        => host_function::launch(hStream: *mut c_void, func: Option<extern "C" fn(*mut c_void)>, userData: *mut c_void);
    cuOccupancyMaxActiveBlocksPerMultiprocessor [374, 6050] c"cuOccupancyMaxActiveBlocksPerMultiprocessor"
        => occupancy::blocks(numBlocks: *mut c_int, func: *mut c_void, blockSize: c_int, dynamicSMemSize: usize);
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags [451, 7000] c"cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"
        => occupancy::blocks_with_flags(numBlocks: *mut c_int, func: *mut c_void, blockSize: c_int, dynamicSMemSize: usize, flags: c_uint);
    cuOccupancyMaxPotentialBlockSize [384, 6050] c"cuOccupancyMaxPotentialBlockSize"
        => occupancy::block_size(minGridSize: *mut c_int, blockSize: *mut c_int, func: *mut c_void, blockSizeToDynamicSMemSize: Option<extern "C" fn(c_int) -> usize>, dynamicSMemSize: usize, blockSizeLimit: c_int);
    cuOccupancyMaxActiveClusters [676, 11070] c"cuOccupancyMaxActiveClusters"
        => occupancy::clusters(numClusters: *mut c_int, func: *mut c_void, config: *const LaunchConfig);
    cuOccupancyMaxPotentialClusterSize [675, 11070] c"cuOccupancyMaxPotentialClusterSize"
        => occupancy::cluster_size(clusterSize: *mut c_int, func: *mut c_void, config: *const LaunchConfig);

    cuStreamCreate [124, 2000] c"cuStreamCreate"
        => stream::create_plain(phStream: *mut *mut c_void, Flags: c_uint);
    cuStreamCreateWithPriority [367, 5050] c"cuStreamCreateWithPriority"
        => stream::create_with_priority(phStream: *mut *mut c_void, flags: c_uint, priority: c_int);
    cuStreamDestroy_v2 [326, 4000] c"cuStreamDestroy"
        => stream::destroy(hStream: *mut c_void);
    cuStreamQuery [125, 2000] / cuStreamQuery_ptsz [439, 7000] c"cuStreamQuery"
        => stream::query(hStream: *mut c_void);
    cuStreamSynchronize [126, 2000] / cuStreamSynchronize_ptsz [440, 7000] c"cuStreamSynchronize"
        => stream::synchronize(hStream: *mut c_void);
    cuStreamGetPriority [368, 5050] / cuStreamGetPriority_ptsz [434, 7000] c"cuStreamGetPriority"
        => stream::get_priority(hStream: *mut c_void, priority: *mut c_int);
    cuStreamGetFlags [369, 5050] / cuStreamGetFlags_ptsz [435, 7000] c"cuStreamGetFlags"
        => stream::get_flags(hStream: *mut c_void, flags: *mut c_uint);
    cuStreamGetId [693, 12000] / cuStreamGetId_ptsz [694, 12000] c"cuStreamGetId"
        => stream::get_id(hStream: *mut c_void, streamId: *mut u64);
    cuStreamGetCtx [483, 9020] / cuStreamGetCtx_ptsz [484, 9020] c"cuStreamGetCtx"
        => stream::get_context(hStream: *mut c_void, pctx: *mut *mut c_void);
    cuStreamGetDevice [774, 12080] / cuStreamGetDevice_ptsz [775, 12080] c"cuStreamGetDevice"
        => stream::get_device(hStream: *mut c_void, device: *mut c_int);
    cuStreamIsCapturing [499, 10000] / cuStreamIsCapturing_ptsz [500, 10000] c"cuStreamIsCapturing"
        => stream::is_capturing(hStream: *mut c_void, captureStatus: *mut c_uint);
    cuStreamWaitEvent [295, 3020] / cuStreamWaitEvent_ptsz [436, 7000] c"cuStreamWaitEvent"
        => event::wait(hStream: *mut c_void, hEvent: *mut c_void, Flags: c_uint);
    cuStreamAddCallback [346, 5000] / cuStreamAddCallback_ptsz [437, 7000] c"cuStreamAddCallback"
        => host_function::add_callback(hStream: *mut c_void, callback: Option<extern "C" fn(*mut c_void, c_int, *mut c_void)>, userData: *mut c_void, flags: c_uint);
    cuEventCreate [118, 2000] c"cuEventCreate"
        => event::create(phEvent: *mut *mut c_void, Flags: c_uint);
    cuEventDestroy_v2 [325, 4000] c"cuEventDestroy"
        => event::destroy(hEvent: *mut c_void);
    cuEventRecord [119, 2000] / cuEventRecord_ptsz [441, 7000] c"cuEventRecord"
        => event::record(hEvent: *mut c_void, hStream: *mut c_void);
    cuEventRecordWithFlags [587, 11010] / cuEventRecordWithFlags_ptsz [588, 11010] c"cuEventRecordWithFlags"
        => event::record_with_flags(hEvent: *mut c_void, hStream: *mut c_void, flags: c_uint);
    cuEventQuery [120, 2000] c"cuEventQuery"
        => event::query(hEvent: *mut c_void);
    cuEventSynchronize [121, 2000] c"cuEventSynchronize"
        => event::synchronize(hEvent: *mut c_void);
    cuEventElapsedTime [123, 2000] c"cuEventElapsedTime"
        => event::elapsed(pMilliseconds: *mut f32, hStart: *mut c_void, hEnd: *mut c_void);
    cuEventElapsedTime_v2 [780, 12080] c"cuEventElapsedTime"
        => event::elapsed(pMilliseconds: *mut f32, hStart: *mut c_void, hEnd: *mut c_void);
}
