// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a driver function returns, and what the numbers are called.

use std::ffi::{CStr, c_char, c_int};

use cudarc::driver::sys::CUresult;
use simgpu::wire::Refusal;

use crate::symbols::Call;

/// A `CUresult` that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Error(c_int);

/// What the functions behind the exported symbols return.
pub(crate) type Outcome = Result<(), Error>;

impl Error {
    pub(crate) const INVALID_VALUE: Self = Self::new(CUresult::CUDA_ERROR_INVALID_VALUE);
    pub(crate) const OUT_OF_MEMORY: Self = Self::new(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    pub(crate) const NOT_INITIALIZED: Self = Self::new(CUresult::CUDA_ERROR_NOT_INITIALIZED);
    pub(crate) const NO_DEVICE: Self = Self::new(CUresult::CUDA_ERROR_NO_DEVICE);
    pub(crate) const INVALID_DEVICE: Self = Self::new(CUresult::CUDA_ERROR_INVALID_DEVICE);
    pub(crate) const INVALID_IMAGE: Self = Self::new(CUresult::CUDA_ERROR_INVALID_IMAGE);
    pub(crate) const INVALID_CONTEXT: Self = Self::new(CUresult::CUDA_ERROR_INVALID_CONTEXT);
    pub(crate) const NO_BINARY: Self = Self::new(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    pub(crate) const SUBSCRIBED: Self = Self::new(CUresult::CUDA_ERROR_ALREADY_ACQUIRED);
    pub(crate) const INVALID_PTX: Self = Self::new(CUresult::CUDA_ERROR_INVALID_PTX);
    pub(crate) const UNSUPPORTED_PTX: Self =
        Self::new(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    pub(crate) const FILE_NOT_FOUND: Self = Self::new(CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    pub(crate) const INVALID_HANDLE: Self = Self::new(CUresult::CUDA_ERROR_INVALID_HANDLE);
    pub(crate) const NOT_FOUND: Self = Self::new(CUresult::CUDA_ERROR_NOT_FOUND);
    pub(crate) const NOT_READY: Self = Self::new(CUresult::CUDA_ERROR_NOT_READY);
    pub(crate) const OUT_OF_RESOURCES: Self =
        Self::new(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    pub(crate) const DESTROYED: Self = Self::new(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
    pub(crate) const PEER_UNSUPPORTED: Self =
        Self::new(CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    pub(crate) const REGISTERED: Self =
        Self::new(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    pub(crate) const NOT_REGISTERED: Self =
        Self::new(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    pub(crate) const COOPERATIVE_TOO_LARGE: Self =
        Self::new(CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    pub(crate) const NOT_SUPPORTED: Self = Self::new(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    pub(crate) const CONNECTION: Self = Self::new(CUresult::CUDA_ERROR_MPS_CONNECTION_FAILED);
    pub(crate) const INVALID_CLUSTER: Self = Self::new(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);

    const fn new(result: CUresult) -> Self {
        Self(result as c_int)
    }

    /// The error with this number, as the status page tells it.
    pub(crate) fn from_number(number: u32) -> Self {
        Self(c_int::try_from(number).unwrap_or(CUresult::CUDA_ERROR_UNKNOWN as c_int))
    }

    pub(crate) fn number(self) -> c_int {
        self.0
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Version => Self::new(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH),
            Refusal::Unknown => Self::INVALID_VALUE,
            Refusal::Exhausted => Self::OUT_OF_MEMORY,
            Refusal::Overlap => Self::REGISTERED,
            Refusal::OutOfReach => Self::new(CUresult::CUDA_ERROR_OPERATING_SYSTEM),
            Refusal::Failed => Self::new(CUresult::CUDA_ERROR_LAUNCH_FAILED),
        }
    }
}

pub(crate) unsafe fn error_name(_: Call, error: c_int, name: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's contract is `describe`'s.
    unsafe { describe(error, name, |(_, name, _)| name) }
}

pub(crate) unsafe fn error_string(_: Call, error: c_int, text: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's contract is `describe`'s.
    unsafe { describe(error, text, |(.., text)| text) }
}

/// # Safety
///
/// `out` is null or may be written.
unsafe fn describe(
    error: c_int,
    out: *mut *const c_char,
    pick: impl Fn((c_int, &'static CStr, &'static CStr)) -> &'static CStr,
) -> Outcome {
    let known = ERRORS.iter().find(|(number, ..)| *number == error);
    let text = known.map_or(std::ptr::null(), |&entry| pick(entry).as_ptr());
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, text)? };
    known.map(|_| ()).ok_or(Error::INVALID_VALUE)
}

/// Every number with its name and what it means here.
const ERRORS: [(c_int, &CStr, &CStr); 101] = [
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (
        3,
        c"CUDA_ERROR_NOT_INITIALIZED",
        c"not initialized, or in a forked child",
    ),
    (
        4,
        c"CUDA_ERROR_DEINITIALIZED",
        c"the driver is shutting down",
    ),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"profiler disabled"),
    (
        6,
        c"CUDA_ERROR_PROFILER_NOT_INITIALIZED",
        c"profiler not initialized",
    ),
    (
        7,
        c"CUDA_ERROR_PROFILER_ALREADY_STARTED",
        c"profiler already started",
    ),
    (
        8,
        c"CUDA_ERROR_PROFILER_ALREADY_STOPPED",
        c"profiler already stopped",
    ),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"stub library"),
    (
        36,
        c"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
        c"call requires newer driver",
    ),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"device unavailable"),
    (
        100,
        c"CUDA_ERROR_NO_DEVICE",
        c"no simulated GPU: is SIMGPU_SOCKET set and a server running?",
    ),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"no such device"),
    (
        102,
        c"CUDA_ERROR_DEVICE_NOT_LICENSED",
        c"device not licensed",
    ),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"the image is no module"),
    (
        201,
        c"CUDA_ERROR_INVALID_CONTEXT",
        c"no current context, or an invalid one",
    ),
    (
        202,
        c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT",
        c"context already current",
    ),
    (205, c"CUDA_ERROR_MAP_FAILED", c"map failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmap failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"already mapped"),
    (
        209,
        c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        c"only PTX can be loaded on a simulated GPU",
    ),
    (
        210,
        c"CUDA_ERROR_ALREADY_ACQUIRED",
        c"somebody is subscribed already",
    ),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"not mapped"),
    (
        212,
        c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY",
        c"not mapped as array",
    ),
    (
        213,
        c"CUDA_ERROR_NOT_MAPPED_AS_POINTER",
        c"not mapped as pointer",
    ),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"ecc uncorrectable"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"unsupported limit"),
    (
        216,
        c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE",
        c"context already in use",
    ),
    (
        217,
        c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
        c"peer access unsupported",
    ),
    (
        218,
        c"CUDA_ERROR_INVALID_PTX",
        c"the PTX cannot be compiled",
    ),
    (
        219,
        c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT",
        c"invalid graphics context",
    ),
    (
        220,
        c"CUDA_ERROR_NVLINK_UNCORRECTABLE",
        c"nvlink uncorrectable",
    ),
    (
        221,
        c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
        c"jit compiler not found",
    ),
    (
        222,
        c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        c"the PTX asks for what is not simulated",
    ),
    (
        223,
        c"CUDA_ERROR_JIT_COMPILATION_DISABLED",
        c"jit compilation disabled",
    ),
    (
        224,
        c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY",
        c"unsupported exec affinity",
    ),
    (
        225,
        c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC",
        c"unsupported devside sync",
    ),
    (226, c"CUDA_ERROR_CONTAINED", c"contained"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"invalid source"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found"),
    (
        302,
        c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND",
        c"shared object symbol not found",
    ),
    (
        303,
        c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED",
        c"shared object init failed",
    ),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"operating system"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid handle"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"illegal state"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"lossy query"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"not ready"),
    (
        700,
        c"CUDA_ERROR_ILLEGAL_ADDRESS",
        c"an illegal memory access was encountered",
    ),
    (
        701,
        c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        c"too many resources requested for launch",
    ),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"launch timeout"),
    (
        703,
        c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING",
        c"launch incompatible texturing",
    ),
    (
        704,
        c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
        c"peer access already enabled",
    ),
    (
        705,
        c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED",
        c"peer access not enabled",
    ),
    (
        708,
        c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE",
        c"primary context active",
    ),
    (
        709,
        c"CUDA_ERROR_CONTEXT_IS_DESTROYED",
        c"the context has been destroyed",
    ),
    (710, c"CUDA_ERROR_ASSERT", c"assert"),
    (
        711,
        c"CUDA_ERROR_TOO_MANY_PEERS",
        c"peer access was enabled before",
    ),
    (
        712,
        c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        c"part or all of the memory is registered already",
    ),
    (
        713,
        c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        c"the memory was never registered",
    ),
    (
        714,
        c"CUDA_ERROR_HARDWARE_STACK_ERROR",
        c"hardware stack error",
    ),
    (
        715,
        c"CUDA_ERROR_ILLEGAL_INSTRUCTION",
        c"an illegal instruction was encountered",
    ),
    (
        716,
        c"CUDA_ERROR_MISALIGNED_ADDRESS",
        c"a misaligned address was encountered",
    ),
    (
        717,
        c"CUDA_ERROR_INVALID_ADDRESS_SPACE",
        c"invalid address space",
    ),
    (
        718,
        c"CUDA_ERROR_INVALID_PC",
        c"the program counter is invalid",
    ),
    (
        719,
        c"CUDA_ERROR_LAUNCH_FAILED",
        c"unspecified launch failure",
    ),
    (
        720,
        c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        c"too many blocks in a cooperative launch",
    ),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory leak"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"not permitted"),
    (
        801,
        c"CUDA_ERROR_NOT_SUPPORTED",
        c"not supported on a simulated GPU",
    ),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not ready"),
    (
        803,
        c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        c"system driver mismatch",
    ),
    (
        804,
        c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        c"compat not supported on device",
    ),
    (
        805,
        c"CUDA_ERROR_MPS_CONNECTION_FAILED",
        c"the connection to the simulated GPU is lost",
    ),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"mps rpc failure"),
    (
        807,
        c"CUDA_ERROR_MPS_SERVER_NOT_READY",
        c"mps server not ready",
    ),
    (
        808,
        c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
        c"mps max clients reached",
    ),
    (
        809,
        c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",
        c"mps max connections reached",
    ),
    (
        810,
        c"CUDA_ERROR_MPS_CLIENT_TERMINATED",
        c"mps client terminated",
    ),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"cdp not supported"),
    (
        812,
        c"CUDA_ERROR_CDP_VERSION_MISMATCH",
        c"cdp version mismatch",
    ),
    (
        900,
        c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        c"stream capture unsupported",
    ),
    (
        901,
        c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        c"stream capture invalidated",
    ),
    (
        902,
        c"CUDA_ERROR_STREAM_CAPTURE_MERGE",
        c"stream capture merge",
    ),
    (
        903,
        c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        c"stream capture unmatched",
    ),
    (
        904,
        c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        c"stream capture unjoined",
    ),
    (
        905,
        c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        c"stream capture isolation",
    ),
    (
        906,
        c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        c"stream capture implicit",
    ),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"captured event"),
    (
        908,
        c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        c"stream capture wrong thread",
    ),
    (909, c"CUDA_ERROR_TIMEOUT", c"timeout"),
    (
        910,
        c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
        c"graph exec update failure",
    ),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"external device"),
    (
        912,
        c"CUDA_ERROR_INVALID_CLUSTER_SIZE",
        c"the cluster size is impossible",
    ),
    (
        913,
        c"CUDA_ERROR_FUNCTION_NOT_LOADED",
        c"function not loaded",
    ),
    (
        914,
        c"CUDA_ERROR_INVALID_RESOURCE_TYPE",
        c"invalid resource type",
    ),
    (
        915,
        c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION",
        c"invalid resource configuration",
    ),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"key rotation"),
    (999, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];
