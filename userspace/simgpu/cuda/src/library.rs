// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Libraries: modules that belong to no context, and their kernels.
//!
//! A library is read when it is loaded, so that it can be asked for its kernels, and becomes a module
//! in each context in which one of them is first used.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};

use simgpu::ptx;
use simgpu::wire::KernelInfo;

use crate::context::{self, Context};
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::module::{self, Function, Module, Settings};
use crate::symbols::Call;

/// A library.
#[derive(Debug)]
struct Library {
    text: String,
    kernels: Vec<Arc<Kernel>>,
    /// The module in each context in which it was needed, by the context's number.
    modules: Mutex<HashMap<u32, Arc<Module>>>,
}

/// A kernel of a library.
#[derive(Debug)]
struct Kernel {
    name: CString,
    info: KernelInfo,
    settings: Settings,
    library: std::sync::Weak<Library>,
}

/// Every library of the process.
#[derive(Debug, Default)]
pub(crate) struct Libraries {
    table: Mutex<HashMap<usize, Arc<Library>>>,
    kernels: Mutex<HashMap<usize, Arc<Kernel>>>,
}

impl Libraries {
    fn find(&self, handle: *mut c_void) -> Result<Arc<Library>, Error> {
        let found = lock(&self.table).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_HANDLE)
    }

    fn kernel(&self, handle: *mut c_void) -> Result<Arc<Kernel>, Error> {
        let found = lock(&self.kernels).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_HANDLE)
    }

    /// The function of a kernel's handle in the current context.
    pub(crate) fn function(
        &self,
        driver: &Driver,
        handle: *mut c_void,
    ) -> Result<Arc<Function>, Error> {
        let kernel = self.kernel(handle)?;
        let context = context::current()?;
        let library = kernel.library.upgrade().ok_or(Error::INVALID_HANDLE)?;
        let module = library.module(driver, &context)?;
        let function = module.function(&kernel.name)?.clone();
        kernel.settings.copy_to(function.settings());
        Ok(function)
    }

    /// Forgets the modules of a context that has ended.
    pub(crate) fn retire_context(&self, context: u32) {
        for library in lock(&self.table).values() {
            lock(&library.modules).remove(&context);
        }
    }
}

impl Library {
    fn module(&self, driver: &Driver, context: &Context) -> Result<Arc<Module>, Error> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&context.number) {
            return Ok(module.clone());
        }
        let module = module::load_text(driver, context, &self.text, |_| ())?;
        modules.insert(context.number, module.clone());
        Ok(module)
    }
}

fn handle_of<T>(object: &Arc<T>) -> *mut c_void {
    Arc::as_ptr(object).cast_mut().cast()
}

fn load(driver: &Driver, text: &str) -> Result<*mut c_void, Error> {
    let parsed = ptx::Module::parse(text).map_err(|error| match error.kind {
        ptx::ParseErrorKind::Invalid => Error::INVALID_PTX,
        ptx::ParseErrorKind::Unsupported => Error::UNSUPPORTED_PTX,
    })?;
    let library = Arc::new_cyclic(|library| Library {
        text: text.to_owned(),
        kernels: parsed
            .kernels()
            .iter()
            .map(|kernel| {
                Arc::new(Kernel {
                    name: CString::new(kernel.name.as_str()).unwrap_or_default(),
                    // The address is that of the module's function, where one is needed.
                    info: KernelInfo::new(kernel, 0),
                    settings: Settings::new(kernel.static_shared_bytes),
                    library: library.clone(),
                })
            })
            .collect(),
        modules: Mutex::default(),
    });
    let mut kernels = lock(&driver.libraries.kernels);
    for kernel in &library.kernels {
        kernels.insert(handle_of(kernel).addr(), kernel.clone());
    }
    let handle = handle_of(&library);
    lock(&driver.libraries.table).insert(handle.addr(), library);
    Ok(handle)
}

#[expect(clippy::too_many_arguments, reason = "the driver's signature")]
pub(crate) unsafe fn load_data(
    _: Call,
    out: *mut *mut c_void,
    code: *const c_void,
    _jit_options: *mut c_uint,
    _jit_values: *mut *mut c_void,
    _jit_count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
    _count: c_uint,
) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller passes an image and lends the place.
    unsafe { crate::write(out, load(driver, module::read_image(code)?)?) }
}

#[expect(clippy::too_many_arguments, reason = "the driver's signature")]
pub(crate) unsafe fn load_file(
    _: Call,
    out: *mut *mut c_void,
    path: *const c_char,
    _jit_options: *mut c_uint,
    _jit_values: *mut *mut c_void,
    _jit_count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
    _count: c_uint,
) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller passes a string.
    let bytes = module::read_file(unsafe { crate::read_text(path)? })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::INVALID_IMAGE)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, load(driver, text)?) }
}

pub(crate) unsafe fn unload(_: Call, library: *mut c_void) -> Outcome {
    let driver = driver()?;
    let found = lock(&driver.libraries.table).remove(&library.addr());
    let library = found.ok_or(Error::INVALID_HANDLE)?;
    for kernel in &library.kernels {
        lock(&driver.libraries.kernels).remove(&handle_of(kernel).addr());
    }
    let modules = std::mem::take(&mut *lock(&library.modules));
    modules
        .values()
        .try_for_each(|module| module.unload(driver))
}

pub(crate) unsafe fn get_kernel(
    _: Call,
    out: *mut *mut c_void,
    library: *mut c_void,
    name: *const c_char,
) -> Outcome {
    let library = driver()?.libraries.find(library)?;
    // SAFETY: the caller passes a string.
    let name = unsafe { crate::read_text(name)? };
    let kernel = library.kernels.iter().find(|k| k.name.as_c_str() == name);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, handle_of(kernel.ok_or(Error::NOT_FOUND)?)) }
}

pub(crate) unsafe fn kernel_count(_: Call, out: *mut c_uint, library: *mut c_void) -> Outcome {
    let library = driver()?.libraries.find(library)?;
    let count = c_uint::try_from(library.kernels.len()).unwrap_or(c_uint::MAX);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, count) }
}

pub(crate) unsafe fn enumerate_kernels(
    _: Call,
    out: *mut *mut c_void,
    room: c_uint,
    library: *mut c_void,
) -> Outcome {
    let library = driver()?.libraries.find(library)?;
    for (i, kernel) in library.kernels.iter().take(room as usize).enumerate() {
        // SAFETY: the caller lends `room` places.
        unsafe { crate::write(out.wrapping_add(i), handle_of(kernel))? };
    }
    Ok(())
}

pub(crate) unsafe fn get_module(_: Call, out: *mut *mut c_void, library: *mut c_void) -> Outcome {
    let driver = driver()?;
    let library = driver.libraries.find(library)?;
    let module = library.module(driver, &*context::current()?)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, module.handle()) }
}

pub(crate) unsafe fn get_global(
    _: Call,
    address: *mut u64,
    bytes: *mut usize,
    library: *mut c_void,
    name: *const c_char,
) -> Outcome {
    let driver = driver()?;
    let library = driver.libraries.find(library)?;
    let module = library.module(driver, &*context::current()?)?;
    // SAFETY: the caller passes a string and lends the places, or does not want to know.
    unsafe {
        let (at, size) = module.variable(crate::read_text(name)?)?;
        crate::write_optional(address, at);
        crate::write_optional(bytes, size);
    }
    Ok(())
}

pub(crate) unsafe fn kernel_function(
    _: Call,
    out: *mut *mut c_void,
    kernel: *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let function = driver.libraries.function(driver, kernel)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, function.handle()) }
}

pub(crate) unsafe fn kernel_library(
    _: Call,
    out: *mut *mut c_void,
    kernel: *mut c_void,
) -> Outcome {
    let kernel = driver()?.libraries.kernel(kernel)?;
    let library = kernel.library.upgrade().ok_or(Error::INVALID_HANDLE)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, handle_of(&library)) }
}

pub(crate) unsafe fn kernel_name(_: Call, out: *mut *const c_char, kernel: *mut c_void) -> Outcome {
    let kernel = driver()?.libraries.kernel(kernel)?;
    // SAFETY: the caller lends the place; the name lives as long as the library.
    unsafe { crate::write(out, kernel.name.as_ptr()) }
}

pub(crate) unsafe fn kernel_parameter(
    _: Call,
    kernel: *mut c_void,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let kernel = driver()?.libraries.kernel(kernel)?;
    // SAFETY: the same contract.
    unsafe { module::write_parameter(&kernel.info, index, offset, size) }
}

pub(crate) unsafe fn kernel_attribute(
    _: Call,
    out: *mut c_int,
    attribute: c_uint,
    kernel: *mut c_void,
    _device: c_int,
) -> Outcome {
    let kernel = driver()?.libraries.kernel(kernel)?;
    let value = module::attribute_of(&kernel.info, &kernel.settings, attribute)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, value) }
}

pub(crate) unsafe fn set_kernel_attribute(
    _: Call,
    attribute: c_uint,
    value: c_int,
    kernel: *mut c_void,
    _device: c_int,
) -> Outcome {
    let kernel = driver()?.libraries.kernel(kernel)?;
    module::set_attribute_of(&kernel.info, &kernel.settings, attribute, value)
}
