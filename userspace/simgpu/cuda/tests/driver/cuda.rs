// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a test program does with CUDA, in few words. Everything goes through cudarc, which loads
//! `libcuda.so` as it would on any machine. Calls that must succeed panic with CUDA's own number.

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUcontext, CUfunction, CUmodule, CUresult, CUstream};

/// The kernels.
pub(crate) const KERNELS: &str = include_str!("kernels.ptx");

/// A call that must succeed.
#[track_caller]
pub(crate) fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// Calls a function that gives its result through its first argument.
#[track_caller]
pub(crate) fn get<T>(call: impl FnOnce(*mut T) -> CUresult) -> T {
    let mut value = MaybeUninit::uninit();
    ok(call(value.as_mut_ptr()));
    // SAFETY: every function that is called so writes its result when it succeeds.
    unsafe { value.assume_init() }
}

/// A program with a context and the kernels in it.
pub(crate) struct Program {
    pub(crate) context: CUcontext,
    pub(crate) module: CUmodule,
}

impl Program {
    /// Sets everything up on GPU 0.
    pub(crate) fn new() -> Self {
        // SAFETY: the functions are used as CUDA's headers say, here and below.
        unsafe {
            ok(sys::cuInit(0));
            let device = get(|out| sys::cuDeviceGet(out, 0));
            let context = get(|out| sys::cuDevicePrimaryCtxRetain(out, device));
            ok(sys::cuCtxSetCurrent(context));
            let module = load(KERNELS);
            Self { context, module }
        }
    }

    pub(crate) fn function(&self, name: &str) -> CUfunction {
        let name = CString::new(name).expect("a name");
        // SAFETY: the module lives and the name is a string.
        get(|out| unsafe { sys::cuModuleGetFunction(out, self.module, name.as_ptr()) })
    }

    /// Launches a kernel in a stream and does not wait.
    #[track_caller]
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: u32,
        stream: CUstream,
        parameters: &[Parameter],
    ) {
        ok(self.try_launch(name, grid, block, 0, stream, parameters));
    }

    pub(crate) fn try_launch(
        &self,
        name: &str,
        [x, y, z]: [u32; 3],
        block: u32,
        shared: u32,
        stream: CUstream,
        parameters: &[Parameter],
    ) -> CUresult {
        let mut pointers: Vec<*mut c_void> = parameters.iter().map(Parameter::pointer).collect();
        let function = self.function(name);
        // SAFETY: each pointer points to a parameter of the kernel's type.
        unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                block,
                1,
                1,
                shared,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
    }
}

/// Loads PTX into the current context.
pub(crate) fn load(text: &str) -> CUmodule {
    let text = CString::new(text).expect("PTX");
    // SAFETY: the image is text that ends with a zero.
    get(|out| unsafe { sys::cuModuleLoadData(out, text.as_ptr().cast()) })
}

/// A kernel's parameter.
pub(crate) enum Parameter {
    Word(u32),
    Address(u64),
}

impl Parameter {
    pub(crate) fn pointer(&self) -> *mut c_void {
        match self {
            Self::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            Self::Address(address) => std::ptr::from_ref(address).cast_mut().cast(),
        }
    }
}

/// Zeroed device memory for so many words.
pub(crate) fn words(count: usize) -> u64 {
    // SAFETY: a plain allocation and a fill that stays inside it.
    unsafe {
        let address = get(|out| sys::cuMemAlloc_v2(out, 4 * count));
        ok(sys::cuMemsetD32_v2(address, 0, count));
        address
    }
}

/// Waits for everything before and reads words.
#[track_caller]
pub(crate) fn read(address: u64, count: usize) -> Vec<u32> {
    let mut words = vec![0; count];
    // SAFETY: the buffer has room for so many words.
    ok(unsafe { sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), address, 4 * count) });
    words
}

/// Writes words.
pub(crate) fn write(address: u64, words: &[u32]) {
    // SAFETY: the buffer has so many words.
    ok(unsafe { sys::cuMemcpyHtoD_v2(address, words.as_ptr().cast(), size_of_val(words)) });
}

/// Waits for everything.
#[track_caller]
pub(crate) fn synchronize() {
    // SAFETY: takes nothing.
    ok(unsafe { sys::cuCtxSynchronize() });
}

/// Waits until the server has everything that was submitted: it takes requests in order, so that it
/// has all of them once it has answered one.
pub(crate) fn settle() {
    let mut total = 0;
    // SAFETY: gives two numbers.
    get(|free| unsafe { sys::cuMemGetInfo_v2(free, &raw mut total) });
}

/// The null stream.
pub(crate) const NULL: CUstream = std::ptr::null_mut();

/// A stream that does not join the null stream.
pub(crate) fn stream(priority: i32) -> CUstream {
    // SAFETY: gives a stream through its first argument.
    get(|out| unsafe { sys::cuStreamCreateWithPriority(out, 1, priority) })
}
