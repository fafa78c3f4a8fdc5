// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many SMs a program is told that a GPU has, where its partition wants that to be its own share. Programs size
//! their grids by it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::CUdevice_attribute;

/// So many; 0: what the GPU has.
static SMS: AtomicU32 = AtomicU32::new(0);

/// Arguments of `cuDeviceGetAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
}

/// From now on a GPU has at most so many SMs, as far as the program is told; 0: all.
pub(crate) fn set_sms(sms: u32) {
    SMS.store(sms, Ordering::Relaxed);
}

/// Changes what a call has found, if it asked for the number of SMs.
///
/// # Safety
///
/// `arguments` is NULL or points to those of a `cuDeviceGetAttribute` that has succeeded and is about to return.
pub(crate) unsafe fn tell(arguments: *const c_void) {
    let sms = SMS.load(Ordering::Relaxed);
    if sms == 0 || arguments.is_null() {
        return;
    }
    // SAFETY: the caller's.
    let arguments = unsafe { arguments.cast::<Arguments>().read() };
    let asked = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    if arguments.attribute != asked as c_int || arguments.value.is_null() {
        return;
    }
    // SAFETY: the driver has just stored the number there.
    let value = unsafe { &mut *arguments.value };
    *value = c_int::try_from(sms).map_or(*value, |sms| sms.min(*value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(attribute: CUdevice_attribute, mut value: c_int) -> c_int {
        let arguments = Arguments {
            value: &raw mut value,
            attribute: attribute as c_int,
            device: 0,
        };
        // SAFETY: these are such arguments.
        unsafe { tell((&raw const arguments).cast()) };
        value
    }

    #[test]
    fn the_number_of_sms_is_that_of_the_partition_and_never_more_than_there_are() {
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK as THREADS,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as COUNT,
        };
        assert_eq!(told(COUNT, 132), 132);
        set_sms(40);
        assert_eq!(told(COUNT, 132), 40);
        assert_eq!(told(COUNT, 16), 16);
        assert_eq!(told(THREADS, 1024), 1024);
        set_sms(0);
        assert_eq!(told(COUNT, 132), 132);
        // SAFETY: there are none.
        unsafe { tell(std::ptr::null()) };
    }
}
