// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Green contexts, which simgpu does not have.

use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys::{
    self, CUdevResource, CUdevResourceType, CUgreenCtx, CUgreenCtxCreate_flags, CUresult,
};
use lithos_tests::cuda;

use crate::statement::statements;
use crate::subscriber::Subscriber;

statements! {
    Ends:
        a_green_context_cannot_be_made_while_there_is_a_subscriber;
}

/// SMs that are asked for.
const SMS: u32 = 8;

/// Calls a function that gives its result through its first argument.
fn get<T>(function: impl FnOnce(*mut T) -> CUresult) -> Result<T, CUresult> {
    let mut value = MaybeUninit::zeroed();
    match function(value.as_mut_ptr()) {
        // SAFETY: every function that is called so writes its result when it succeeds.
        CUresult::CUDA_SUCCESS => Ok(unsafe { value.assume_init() }),
        result => Err(result),
    }
}

/// Makes a green context of some SMs, which stays until the process ends.
fn make() -> Result<CUgreenCtx, CUresult> {
    let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    let flags = CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
    let mut groups = 1;
    // SAFETY: the functions are used as CUDA's headers say.
    unsafe {
        let device = get(|out| sys::cuDeviceGet(out, 0))?;
        let all = get(|out| sys::cuDeviceGetDevResource(device, out, kind))?;
        let mut group: CUdevResource = get(|out| {
            let (groups, all) = (&raw mut groups, &raw const all);
            sys::cuDevSmResourceSplitByCount(out, groups, all, ptr::null_mut(), 0, SMS)
        })?;
        let description = get(|out| sys::cuDevResourceGenerateDesc(out, &raw mut group, 1))?;
        get(|out| sys::cuGreenCtxCreate(out, description, device, flags))
    }
}

fn a_green_context_cannot_be_made_while_there_is_a_subscriber() {
    cuda::initialise().expect("the driver");
    assert!(make().is_ok_and(|context| !context.is_null()));
    let _subscriber = Subscriber::new();
    assert_eq!(make(), Err(CUresult::CUDA_ERROR_NOT_SUPPORTED));
}
