// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The CUDA driver, which is in the process already: its functions that we call, and its table of
//! callbacks.
//!
//! cudarc would load a driver of its own choice, so functions are looked up here, in the one that
//! loaded us. None of them is called while the driver holds its locks (see `lib.rs`), and callbacks
//! of our own calls are ignored.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;

use cudarc::driver::sys::{
    CU_MEMHOSTREGISTER_DEVICEMAP, CU_MEMHOSTREGISTER_PORTABLE, CUdevice_attribute,
    CUfunction_attribute, CUuuid,
};
use lithos_descriptor::hook::{self, Callback, Enable, Subscribe};
use lithos_device::{Arena, BUILD_ID_BYTES};

use crate::local::own;

/// `CUresult` as a number: a newer driver has results that an enumeration does not.
pub(crate) type Status = u32;

/// `CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED`.
const ALREADY_REGISTERED: Status = 712;

/// `CUcontext` and other handles.
type Handle = *mut c_void;

/// Why the driver cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("libcuda.so.1 is not in the process that loaded the LithOS shim")]
    Absent,
    #[error("this CUDA driver has no function {0:?}")]
    Function(&'static CStr),
    #[error("this CUDA driver has no table of callbacks that LithOS knows")]
    Table,
    #[error(
        "somebody else (a profiler?) has subscribed to the CUDA driver's callbacks (error {0})"
    )]
    Subscribed(Status),
    #[error("this CUDA driver does not call back where LithOS needs it (domain {domain:#x}, {id})")]
    Enable { domain: c_int, id: c_int },
    #[error("{call} failed with CUDA error {status}")]
    Call { call: &'static str, status: Status },
}

/// Looks functions up by name, those with a `?` if they are there.
macro_rules! functions {
    (
        $($field:ident: $name:literal fn($($argument:ty),*);)*
        ? $($may_lack:ident: $its_name:literal fn($($its_argument:ty),*);)*
    ) => {
        /// The driver's functions.
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)*
            $($may_lack: Option<unsafe extern "C" fn($($its_argument),*) -> Status>,)*
        }

        impl Functions {
            /// # Safety
            ///
            /// The handle is that of a CUDA driver.
            unsafe fn load(library: *mut c_void) -> Result<Self, DriverError> {
                Ok(Self {
                    $(
                        // SAFETY: the caller's; the name is that of a function of this type.
                        $field: unsafe { lookup(library, $name) }
                            .ok_or(DriverError::Function($name))?,
                    )*
                    $(
                        // SAFETY: as above.
                        $may_lack: unsafe { lookup(library, $its_name) },
                    )*
                })
            }
        }
    };
}

functions! {
    get_export_table: c"cuGetExportTable" fn(*mut *const *const c_void, *const CUuuid);
    push: c"cuCtxPushCurrent_v2" fn(Handle);
    pop: c"cuCtxPopCurrent_v2" fn(*mut Handle);
    context_device: c"cuCtxGetDevice" fn(*mut c_int);
    device_name: c"cuDeviceGetName" fn(*mut c_char, c_int, c_int);
    device_uuid: c"cuDeviceGetUuid" fn(*mut CUuuid, c_int);
    device_attribute: c"cuDeviceGetAttribute" fn(*mut c_int, c_int, c_int);
    register: c"cuMemHostRegister_v2" fn(*mut c_void, usize, c_uint);
    unregister: c"cuMemHostUnregister" fn(*mut c_void);
    device_pointer: c"cuMemHostGetDevicePointer_v2" fn(*mut u64, *mut c_void, c_uint);
    primary_state: c"cuDevicePrimaryCtxGetState" fn(c_int, *mut c_uint, *mut c_int);
    primary_retain: c"cuDevicePrimaryCtxRetain" fn(*mut Handle, c_int);
    primary_release: c"cuDevicePrimaryCtxRelease_v2" fn(c_int);
    ?
    context_id: c"cuCtxGetId" fn(Handle, *mut u64);
    blocks_per_sm: c"cuOccupancyMaxActiveBlocksPerMultiprocessor"
        fn(*mut c_int, Handle, c_int, usize);
    function_attribute: c"cuFuncGetAttribute" fn(*mut c_int, c_int, Handle);
    from_green: c"cuCtxFromGreenCtx" fn(*mut Handle, Handle);
}

/// The driver.
pub(crate) struct Driver {
    functions: Functions,
    subscribe: Subscribe,
    enable: Enable,
}

impl Driver {
    /// Finds the driver that is in the process, and keeps it there.
    pub(crate) fn find() -> Result<Self, DriverError> {
        // SAFETY: RTLD_NOLOAD runs no code of anybody's; the name ends with NUL.
        let library =
            unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
        if library.is_null() {
            return Err(DriverError::Absent);
        }
        // SAFETY: the handle is that of libcuda, and is never closed.
        let functions = unsafe { Functions::load(library) }?;

        let mut table = std::ptr::null();
        let uuid = CUuuid {
            bytes: hook::TABLE.map(u8::cast_signed),
        };
        // SAFETY: both are valid for the call; it may be made inside `cuInit`.
        let status = unsafe { (functions.get_export_table)(&raw mut table, &raw const uuid) };
        if status != 0 || table.is_null() {
            return Err(DriverError::Table);
        }
        let driver = base(functions.get_export_table as *const c_void);
        let entry = |index: usize| {
            // SAFETY: the tables of this driver that are known have more entries than these.
            let found = unsafe { *table.add(index) };
            // A table of another shape has something else there: only functions of the driver's.
            let is_function = driver.is_some() && base(found) == driver;
            is_function.then_some(found).ok_or(DriverError::Table)
        };
        let (subscribe, enable) = (entry(hook::SUBSCRIBE)?, entry(hook::ENABLE)?);
        Ok(Self {
            functions,
            // SAFETY: this is the entry of the table that was measured to be this function.
            subscribe: unsafe { std::mem::transmute::<*const c_void, Subscribe>(subscribe) },
            // SAFETY: as above.
            enable: unsafe { std::mem::transmute::<*const c_void, Enable>(enable) },
        })
    }

    /// Has the driver call `callback` for descriptors, and around the API calls with these numbers;
    /// each is followed by whether nothing works without it.
    pub(crate) fn subscribe(
        &self,
        callback: Callback,
        calls: impl Iterator<Item = (c_int, bool)>,
    ) -> Result<(), DriverError> {
        // The handle has 32 bits on the drivers that were measured; there is room for a pointer.
        let mut handle = [0u32; 2];
        // SAFETY: the callback is a function of this library, which stays (`build.rs`).
        let status =
            unsafe { (self.subscribe)(handle.as_mut_ptr(), callback, std::ptr::null_mut()) };
        if status != 0 {
            return Err(DriverError::Subscribed(status));
        }
        let enable = |domain, id| {
            // SAFETY: the handle came from `subscribe`; a number that the driver does not know is
            // refused.
            match unsafe { (self.enable)(1, handle[0], domain, id) } {
                0 => Ok(()),
                _ => Err(DriverError::Enable { domain, id }),
            }
        };
        for (id, is_needed) in calls {
            let enabled = enable(hook::DOMAIN_API, id);
            if is_needed {
                enabled?;
            }
        }
        enable(hook::DOMAIN_DESCRIPTOR, hook::DESCRIPTOR)
    }

    /// Returns the build id of the driver's library; zeros if it has none.
    pub(crate) fn build_id(&self) -> [u8; BUILD_ID_BYTES] {
        let address = self.functions.get_export_table as *const c_void;
        lithos_device::build_id(address).unwrap_or_default()
    }

    /// Makes a context current for a while.
    pub(crate) fn enter(&self, context: u64) -> Result<Current<'_>, DriverError> {
        // SAFETY: the driver checks the handle, which it has just given to the program.
        let status = own(|| unsafe { (self.functions.push)(context as Handle) });
        done("cuCtxPushCurrent", status)?;
        Ok(Current { driver: self })
    }

    /// Returns the driver's number for a context, 0 if it has none.
    pub(crate) fn context_id(&self, context: u64) -> u64 {
        let Some(context_id) = self.functions.context_id else {
            return 0;
        };
        let mut id = 0;
        // SAFETY: as in `enter`.
        match own(|| unsafe { context_id(context as Handle, &raw mut id) }) {
            0 => id,
            _ => 0,
        }
    }

    /// Returns whether a device's primary context exists.
    pub(crate) fn primary_is_active(&self, device: c_int) -> bool {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the driver checks the device.
        let status = own(|| unsafe {
            (self.functions.primary_state)(device, &raw mut flags, &raw mut active)
        });
        // A driver that is going away does not tell; then nothing is taken for ended.
        status != 0 || active != 0
    }

    /// Returns whether a context is the primary one of a device.
    pub(crate) fn is_primary(&self, context: u64, device: c_int) -> bool {
        if !self.primary_is_active(device) {
            return false;
        }
        let mut primary = std::ptr::null_mut();
        own(|| {
            // SAFETY: the context exists, so this only counts one use more ...
            if unsafe { (self.functions.primary_retain)(&raw mut primary, device) } != 0 {
                return false;
            }
            // SAFETY: ... which ends here.
            unsafe { (self.functions.primary_release)(device) };
            primary.addr() as u64 == context
        })
    }

    /// Returns how many blocks of a launch an SM holds, 0 if the driver does not say. May be called
    /// at the entry of a launch call.
    pub(crate) fn blocks_per_sm(&self, function: u64, threads: c_int, shared_bytes: u32) -> u32 {
        let Some(blocks_per_sm) = self.functions.blocks_per_sm else {
            return 0;
        };
        let mut blocks = 0;
        // SAFETY: the program is about to launch this function: the driver checks it.
        let status = own(|| unsafe {
            let bytes = usize::try_from(shared_bytes).unwrap_or(usize::MAX);
            blocks_per_sm(&raw mut blocks, function as Handle, threads, bytes)
        });
        if status == 0 {
            u32::try_from(blocks).unwrap_or(0)
        } else {
            0
        }
    }

    /// Returns the blocks of the clusters that a function is compiled for, 0 if it is for none. May
    /// be called at the entry of a launch call.
    pub(crate) fn cluster_blocks(&self, function: u64) -> u64 {
        use CUfunction_attribute::{
            CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT,
            CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH,
        };
        let Some(attribute) = self.functions.function_attribute else {
            return 0;
        };
        [
            CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH,
            CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT,
            CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH,
        ]
        .into_iter()
        .map(|which| {
            let mut value = 0;
            // SAFETY: as in `blocks_per_sm`.
            let status =
                own(|| unsafe { attribute(&raw mut value, which as c_int, function as Handle) });
            if status == 0 {
                u64::try_from(value).unwrap_or(0)
            } else {
                0
            }
        })
        .fold(1, u64::saturating_mul)
    }

    /// Returns the `CUcontext` of a green context, 0 if there is none.
    pub(crate) fn of_green(&self, green: u64) -> u64 {
        let mut context = std::ptr::null_mut();
        if let Some(from_green) = self.functions.from_green {
            // SAFETY: the program is about to use this handle: the driver checks it.
            own(|| unsafe { from_green(&raw mut context, green as Handle) });
        }
        context.addr() as u64
    }
}

/// A context that is current, until this ends.
pub(crate) struct Current<'a> {
    driver: &'a Driver,
}

impl Current<'_> {
    /// Returns the context's device.
    pub(crate) fn device(&self) -> Result<c_int, DriverError> {
        let mut device = 0;
        // SAFETY: a context is current.
        let status = own(|| unsafe { (self.driver.functions.context_device)(&raw mut device) });
        done("cuCtxGetDevice", status)?;
        Ok(device)
    }

    /// Returns the name of a device.
    pub(crate) fn device_name(&self, device: c_int) -> Result<String, DriverError> {
        let mut name = [0u8; 256];
        // SAFETY: the driver writes so many bytes at most, and ends them with NUL.
        let status = own(|| unsafe {
            (self.driver.functions.device_name)(name.as_mut_ptr().cast(), 256, device)
        });
        done("cuDeviceGetName", status)?;
        let text = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// Returns the UUID of a device.
    pub(crate) fn device_uuid(&self, device: c_int) -> Result<[u8; 16], DriverError> {
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: there is room for a UUID.
        let status = own(|| unsafe { (self.driver.functions.device_uuid)(&raw mut uuid, device) });
        done("cuDeviceGetUuid", status)?;
        Ok(uuid.bytes.map(c_char::cast_unsigned))
    }

    /// Returns the major version of a device's compute capability: 9 is Hopper.
    pub(crate) fn generation(&self, device: c_int) -> Result<c_int, DriverError> {
        let which = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as c_int;
        let mut value = 0;
        // SAFETY: there is room for a number.
        let status = own(|| unsafe {
            (self.driver.functions.device_attribute)(&raw mut value, which, device)
        });
        done("cuDeviceGetAttribute", status)?;
        Ok(value)
    }

    /// Registers an arena with the context, so that the GPU reaches it at the arena's own address.
    /// The registration ends with the context: only then may the arena be unmapped.
    pub(crate) fn register(&self, arena: &Arena) -> Result<(), DriverError> {
        let functions = &self.driver.functions;
        let start = arena.start().as_ptr().cast::<c_void>();
        let flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
        own(|| {
            // SAFETY: the arena is mapped, and nobody else registers it.
            let register = || unsafe { (functions.register)(start, arena.bytes(), flags) };
            let mut status = register();
            if status == ALREADY_REGISTERED {
                // The driver remembers what lay here for a context that is gone.
                // SAFETY: the memory here is ours alone, so whatever is registered is no more.
                unsafe { (functions.unregister)(start) };
                status = register();
            }
            done("cuMemHostRegister", status)?;
            let mut address = 0;
            // SAFETY: the arena is registered.
            let status = unsafe { (functions.device_pointer)(&raw mut address, start, 0) };
            if status == 0 && address == start.addr() as u64 {
                return Ok(());
            }
            // SAFETY: it was registered above, and nothing used it.
            unsafe { (functions.unregister)(start) };
            done("cuMemHostGetDevicePointer", status)?;
            Err(DriverError::Call {
                call: "mapping the arena at its own address",
                status,
            })
        })
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: `enter` pushed it. A failure leaves it where it is, which nobody could mend.
        let _ = own(|| unsafe { (self.driver.functions.pop)(&raw mut context) });
    }
}

fn done(call: &'static str, status: Status) -> Result<(), DriverError> {
    match status {
        0 => Ok(()),
        _ => Err(DriverError::Call { call, status }),
    }
}

/// Looks a function up.
///
/// # Safety
///
/// `T` is a pointer to a function of the type that the one of this name has in the library.
unsafe fn lookup<T: Copy>(library: *mut c_void, name: &CStr) -> Option<T> {
    const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
    // SAFETY: the library is open and the name ends with NUL.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: a pointer to a function has the size of a pointer (above) and this type (the caller's).
    (!found.is_null()).then(|| unsafe { std::mem::transmute_copy(&found) })
}

/// Returns where the library lies that has something at this address.
fn base(address: *const c_void) -> Option<usize> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked about, and there is room for the answer.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: zero is a valid value, and `dladdr` fills it in where it finds something.
    (found != 0).then(|| unsafe { info.assume_init() }.dli_fbase.addr())
}
