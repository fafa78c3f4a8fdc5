// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! NVML's return codes and what they mean.

use std::ffi::CStr;
use std::io;

use nvml_wrapper_sys::bindings as sys;

/// What a function of NVML comes to.
pub(crate) type Outcome<T = ()> = Result<T, Error>;

/// A return code that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NVML error {0}")]
pub(crate) struct Error(pub(crate) sys::nvmlReturn_t);

impl Error {
    pub(crate) const UNINITIALIZED: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
    pub(crate) const INVALID_ARGUMENT: Self =
        Self(sys::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    pub(crate) const NOT_SUPPORTED: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    pub(crate) const NOT_FOUND: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
    pub(crate) const INSUFFICIENT_SIZE: Self =
        Self(sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    pub(crate) const DRIVER_NOT_LOADED: Self =
        Self(sys::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED);
    pub(crate) const TIMEOUT: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_TIMEOUT);
    pub(crate) const GPU_IS_LOST: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
    pub(crate) const VERSION_MISMATCH: Self =
        Self(sys::nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH);
    pub(crate) const ARGUMENT_VERSION: Self =
        Self(sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    pub(crate) const UNKNOWN: Self = Self(sys::nvmlReturn_enum_NVML_ERROR_UNKNOWN);

    pub(crate) fn code(self) -> sys::nvmlReturn_t {
        self.0
    }

    /// What the code means; any number has an answer.
    pub(crate) fn text(self) -> &'static CStr {
        match self.0 {
            sys::nvmlReturn_enum_NVML_SUCCESS => c"Success",
            sys::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED => c"Uninitialized",
            sys::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT => c"Invalid Argument",
            sys::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED => c"Not Supported",
            sys::nvmlReturn_enum_NVML_ERROR_NO_PERMISSION => c"Insufficient Permissions",
            sys::nvmlReturn_enum_NVML_ERROR_ALREADY_INITIALIZED => c"Already Initialized",
            sys::nvmlReturn_enum_NVML_ERROR_NOT_FOUND => c"Not Found",
            sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE => c"Insufficient Size",
            sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_POWER => c"Insufficient External Power",
            sys::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"Driver Not Loaded",
            sys::nvmlReturn_enum_NVML_ERROR_TIMEOUT => c"Timeout",
            sys::nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND => c"Function Not Found",
            sys::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"GPU is lost",
            sys::nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH => {
                c"Driver/library version mismatch"
            }
            sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH => {
                c"Argument version mismatch"
            }
            _ => c"Unknown Error",
        }
    }
}

impl From<io::Error> for Error {
    /// What a failed conversation with the server looks like: a driver that is gone.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TIMEOUT,
            _ => Self::GPU_IS_LOST,
        }
    }
}
