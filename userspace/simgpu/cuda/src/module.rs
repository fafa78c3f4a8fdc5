// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Modules and functions.
//!
//! A module is PTX; the server compiles it and says what is in it. Its functions are all made at
//! once and keep their handles as long as the module lives.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{CUfunction_attribute as A, CUjit_option as Jit};
use simgpu::board::{BLOCK_SHARED_BYTES, BLOCK_SHARED_BYTES_OPTIN};
use simgpu::wire::{KernelInfo, Reply, Request};

use crate::context::{self, Context};
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::lock;
use crate::symbols::Call;

/// The first bytes of what is no PTX: ELF, and the wrappers of fat binaries.
const BINARY_MAGICS: [[u8; 4]; 3] = [
    *b"\x7fELF",
    0x4662_43b1_u32.to_le_bytes(),
    0xba55_ed50_u32.to_le_bytes(),
];
/// The longest PTX that is looked for its end.
const TEXT_BYTES_MAX: usize = simgpu::wire::MESSAGE_BYTES_MAX - 4096;

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    number: u64,
    /// The number of its context.
    context: u32,
    pub(crate) functions: Vec<Arc<Function>>,
    variables: Vec<(String, u64, u64)>,
}

/// A function of a module.
#[derive(Debug)]
pub(crate) struct Function {
    /// The number of its context.
    pub(crate) context: u32,
    module: u64,
    name: CString,
    pub(crate) info: KernelInfo,
    settings: Settings,
}

/// What can be set about a function.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) dynamic_shared_most: AtomicU32,
    pub(crate) large_clusters: AtomicBool,
    carveout: AtomicU32,
}

impl Settings {
    pub(crate) fn new(static_shared_bytes: u32) -> Self {
        Self {
            dynamic_shared_most: AtomicU32::new(
                BLOCK_SHARED_BYTES.saturating_sub(static_shared_bytes),
            ),
            large_clusters: AtomicBool::new(false),
            carveout: AtomicU32::new(u32::MAX),
        }
    }

    /// The same settings, for another function.
    pub(crate) fn copy_to(&self, other: &Self) {
        for (from, to) in [
            (&self.dynamic_shared_most, &other.dynamic_shared_most),
            (&self.carveout, &other.carveout),
        ] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let large = self.large_clusters.load(Ordering::Relaxed);
        other.large_clusters.store(large, Ordering::Relaxed);
    }
}

/// Every module of the process.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    table: Mutex<HashMap<usize, Arc<Module>>>,
    functions: Mutex<HashMap<usize, Arc<Function>>>,
    numbers: AtomicU64,
}

impl Modules {
    pub(crate) fn find(&self, handle: *mut c_void) -> Result<Arc<Module>, Error> {
        let found = lock(&self.table).get(&handle.addr()).cloned();
        found.ok_or(Error::INVALID_HANDLE)
    }

    /// Forgets the modules of a context that has ended.
    pub(crate) fn retire_context(&self, context: u32) {
        lock(&self.table).retain(|_, module| module.context != context);
        lock(&self.functions).retain(|_, function| function.context != context);
    }
}

/// The function of a handle, which may be that of a library's kernel.
pub(crate) fn find_function(driver: &Driver, handle: *mut c_void) -> Result<Arc<Function>, Error> {
    let found = lock(&driver.modules.functions).get(&handle.addr()).cloned();
    match found {
        Some(function) => Ok(function),
        None => driver.libraries.function(driver, handle),
    }
}

impl Function {
    pub(crate) fn handle(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// The PTX in what a program passed as a module's image.
///
/// # Safety
///
/// `image` is null or points to a module of any kind; PTX ends with a zero.
pub(crate) unsafe fn read_image<'a>(image: *const c_void) -> Result<&'a str, Error> {
    if image.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: every kind of image is longer than four bytes; bytes need no alignment.
    let magic = unsafe { image.cast::<[u8; 4]>().read_unaligned() };
    if BINARY_MAGICS.contains(&magic) {
        return Err(Error::NO_BINARY);
    }
    // SAFETY: it is no binary, so it is text that ends with a zero.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    read_text(text.to_bytes())
}

fn read_text(bytes: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::INVALID_IMAGE)?;
    if text.len() > TEXT_BYTES_MAX || !text.contains(".version") {
        return Err(Error::INVALID_IMAGE);
    }
    Ok(text)
}

/// Loads PTX into a context; what was wrong with it goes to `log`.
pub(crate) fn load_text(
    driver: &Driver,
    context: &Context,
    text: &str,
    log: impl FnOnce(&str),
) -> Result<Arc<Module>, Error> {
    let number = driver.modules.numbers.fetch_add(1, Ordering::Relaxed);
    let request = Request::LoadModule {
        context: context.number,
        module: number,
        text: text.to_owned(),
    };
    let info = match driver.ask(&request, None)? {
        Reply::Module(info) => info,
        Reply::ModuleRefused {
            unsupported,
            message,
        } => {
            log(&message);
            return Err(if unsupported {
                Error::UNSUPPORTED_PTX
            } else {
                Error::INVALID_PTX
            });
        }
        _ => return Err(Error::CONNECTION),
    };
    let functions: Vec<Arc<Function>> = info
        .kernels
        .into_iter()
        .map(|kernel| {
            Arc::new(Function {
                context: context.number,
                module: number,
                name: CString::new(kernel.name.as_str()).unwrap_or_default(),
                settings: Settings::new(kernel.static_shared_bytes),
                info: kernel,
            })
        })
        .collect();
    for (_, address, bytes) in &info.variables {
        driver.allocations.insert_device(*address, *bytes, context);
    }
    let module = Arc::new(Module {
        number,
        context: context.number,
        functions,
        variables: info.variables,
    });
    let mut table = lock(&driver.modules.functions);
    for function in &module.functions {
        table.insert(function.handle().addr(), function.clone());
    }
    drop(table);
    lock(&driver.modules.table).insert(module.handle().addr(), module.clone());
    Ok(module)
}

impl Module {
    pub(crate) fn handle(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    pub(crate) fn unload(self: &Arc<Self>, driver: &Driver) -> Outcome {
        lock(&driver.modules.table).remove(&self.handle().addr());
        for (_, address, _) in &self.variables {
            driver.allocations.remove(*address);
        }
        let mut table = lock(&driver.modules.functions);
        for function in &self.functions {
            table.remove(&function.handle().addr());
        }
        drop(table);
        let request = Request::UnloadModule {
            module: self.number,
        };
        driver.ask(&request, None).map(|_| ())
    }

    pub(crate) fn variable(&self, name: &CStr) -> Result<(u64, usize), Error> {
        let found = self
            .variables
            .iter()
            .find(|(other, ..)| other.as_bytes() == name.to_bytes());
        let &(_, address, bytes) = found.ok_or(Error::NOT_FOUND)?;
        Ok((address, usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    pub(crate) fn function(&self, name: &CStr) -> Result<&Arc<Function>, Error> {
        let found = self
            .functions
            .iter()
            .find(|function| function.name.as_c_str() == name);
        found.ok_or(Error::NOT_FOUND)
    }
}

pub(crate) unsafe fn load_data(call: Call, out: *mut *mut c_void, image: *const c_void) -> Outcome {
    // SAFETY: the same contract, without options.
    unsafe {
        load_data_with(
            call,
            out,
            image,
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    }
}

pub(crate) unsafe fn load_data_with(
    _: Call,
    out: *mut *mut c_void,
    image: *const c_void,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    // SAFETY: the caller passes an image.
    let text = unsafe { read_image(image)? };
    // SAFETY: the caller passes so many options and values.
    let log = |message: &str| unsafe { write_log(message, options, names, values) };
    let module = load_text(driver, &context, text, log)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, module.handle()) }
}

/// Puts a message where the options of a load ask for the error log.
///
/// # Safety
///
/// `names` and `values` have `options` elements; the buffer is as long as the options say.
unsafe fn write_log(message: &str, options: c_uint, names: *mut c_uint, values: *mut *mut c_void) {
    if names.is_null() || values.is_null() {
        return;
    }
    let (mut buffer, mut size) = (std::ptr::null_mut::<u8>(), None);
    for i in 0..options as usize {
        // SAFETY: inside the arrays.
        let (name, value) = unsafe { (*names.add(i), values.add(i)) };
        if name == Jit::CU_JIT_ERROR_LOG_BUFFER as c_uint {
            // SAFETY: inside the array.
            buffer = unsafe { *value }.cast();
        } else if name == Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as c_uint {
            size = Some(value);
        }
    }
    let Some(size) = size.filter(|_| !buffer.is_null()) else {
        return;
    };
    // The value itself is the size, low half.
    // SAFETY: inside the array.
    let room = unsafe { *size }.addr() & 0xffff_ffff;
    let length = message.len().min(room.saturating_sub(1));
    if room > 0 {
        // SAFETY: the buffer has `room` bytes, which is more than `length`.
        unsafe {
            std::ptr::copy_nonoverlapping(message.as_ptr(), buffer, length);
            *buffer.add(length) = 0;
            *size = std::ptr::without_provenance_mut(length + 1);
        }
    }
}

pub(crate) unsafe fn load_fat_binary(
    _: Call,
    _out: *mut *mut c_void,
    image: *const c_void,
) -> Outcome {
    driver()?;
    if image.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    Err(Error::NO_BINARY)
}

pub(crate) unsafe fn load_file(_: Call, out: *mut *mut c_void, path: *const c_char) -> Outcome {
    let driver = driver()?;
    let context = context::current()?;
    // SAFETY: the caller passes a string.
    let path = unsafe { crate::read_text(path)? };
    let bytes = read_file(path)?;
    let module = load_text(driver, &context, read_text(&bytes)?, |_| ())?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, module.handle()) }
}

/// Reads a file that should be PTX.
pub(crate) fn read_file(path: &CStr) -> Result<Vec<u8>, Error> {
    let path = std::ffi::OsStr::from_bytes(path.to_bytes());
    let mut bytes = std::fs::read(path).map_err(|_| Error::FILE_NOT_FOUND)?;
    if bytes
        .first_chunk::<4>()
        .is_some_and(|magic| BINARY_MAGICS.contains(magic))
    {
        return Err(Error::NO_BINARY);
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

pub(crate) unsafe fn unload(_: Call, module: *mut c_void) -> Outcome {
    let driver = driver()?;
    driver.modules.find(module)?.unload(driver)
}

pub(crate) unsafe fn get_function(
    _: Call,
    out: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Outcome {
    let module = driver()?.modules.find(module)?;
    // SAFETY: the caller passes a string and lends the place.
    unsafe {
        let name = crate::read_text(name)?;
        crate::write(out, module.function(name)?.handle())
    }
}

pub(crate) unsafe fn function_count(_: Call, out: *mut c_uint, module: *mut c_void) -> Outcome {
    let module = driver()?.modules.find(module)?;
    let count = c_uint::try_from(module.functions.len()).unwrap_or(c_uint::MAX);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, count) }
}

pub(crate) unsafe fn enumerate_functions(
    _: Call,
    out: *mut *mut c_void,
    room: c_uint,
    module: *mut c_void,
) -> Outcome {
    let module = driver()?.modules.find(module)?;
    for (i, function) in module.functions.iter().take(room as usize).enumerate() {
        // SAFETY: the caller lends `room` places.
        unsafe { crate::write(out.wrapping_add(i), function.handle())? };
    }
    Ok(())
}

pub(crate) unsafe fn get_global(
    _: Call,
    address: *mut u64,
    bytes: *mut usize,
    module: *mut c_void,
    name: *const c_char,
) -> Outcome {
    let module = driver()?.modules.find(module)?;
    // SAFETY: the caller passes a string and lends the places, or does not want to know.
    unsafe {
        let (at, size) = module.variable(crate::read_text(name)?)?;
        crate::write_optional(address, at);
        crate::write_optional(bytes, size);
    }
    Ok(())
}

pub(crate) unsafe fn loading_mode(_: Call, out: *mut c_uint) -> Outcome {
    // Eager.
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, 1) }
}

pub(crate) unsafe fn function_name(
    _: Call,
    out: *mut *const c_char,
    function: *mut c_void,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    // SAFETY: the caller lends the place; the name lives as long as the module.
    unsafe { crate::write(out, function.name.as_ptr()) }
}

pub(crate) unsafe fn function_module(
    _: Call,
    out: *mut *mut c_void,
    function: *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let function = find_function(driver, function)?;
    let table = lock(&driver.modules.table);
    let module = table.values().find(|m| m.number == function.module);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, module.ok_or(Error::INVALID_HANDLE)?.handle()) }
}

pub(crate) unsafe fn function_parameter(
    _: Call,
    function: *mut c_void,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    // SAFETY: the same contract.
    unsafe { write_parameter(&function.info, index, offset, size) }
}

/// # Safety
///
/// `offset` and `size` are null or may be written.
pub(crate) unsafe fn write_parameter(
    info: &KernelInfo,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let &(at, bytes) = info.parameters.get(index).ok_or(Error::INVALID_VALUE)?;
    // SAFETY: the caller lends the places, the second if it wants to know.
    unsafe {
        crate::write(offset, at as usize)?;
        crate::write_optional(size, bytes as usize);
    }
    Ok(())
}

pub(crate) unsafe fn function_attribute(
    _: Call,
    out: *mut c_int,
    attribute: c_uint,
    function: *mut c_void,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    let value = attribute_of(&function.info, &function.settings, attribute)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, value) }
}

/// What a function's attribute is.
pub(crate) fn attribute_of(
    info: &KernelInfo,
    settings: &Settings,
    attribute: c_uint,
) -> Result<c_int, Error> {
    let cluster = info.required_cluster.unwrap_or([0; 3]);
    let must_be_set = info.explicit_cluster || info.required_cluster.is_some();
    let table = [
        (A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, info.max_threads),
        (
            A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            info.static_shared_bytes,
        ),
        (A::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, 0),
        (A::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, info.local_bytes),
        (A::CU_FUNC_ATTRIBUTE_NUM_REGS, info.registers),
        (A::CU_FUNC_ATTRIBUTE_PTX_VERSION, 90),
        (A::CU_FUNC_ATTRIBUTE_BINARY_VERSION, 90),
        (A::CU_FUNC_ATTRIBUTE_CACHE_MODE_CA, 0),
        (
            A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            settings.dynamic_shared_most.load(Ordering::Relaxed),
        ),
        (
            A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
            settings.carveout.load(Ordering::Relaxed),
        ),
        (
            A::CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET,
            must_be_set.into(),
        ),
        (A::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH, cluster[0]),
        (A::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT, cluster[1]),
        (A::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH, cluster[2]),
        (
            A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
            settings.large_clusters.load(Ordering::Relaxed).into(),
        ),
        (A::CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE, 0),
    ];
    let found = table.iter().find(|(name, _)| *name as c_uint == attribute);
    found
        .map(|(_, value)| value.cast_signed())
        .ok_or(Error::INVALID_VALUE)
}

pub(crate) unsafe fn set_function_attribute(
    _: Call,
    function: *mut c_void,
    attribute: c_uint,
    value: c_int,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    set_attribute_of(&function.info, &function.settings, attribute, value)
}

/// Sets a function's attribute.
pub(crate) fn set_attribute_of(
    info: &KernelInfo,
    settings: &Settings,
    attribute: c_uint,
    value: c_int,
) -> Outcome {
    let is = |name: A| name as c_uint == attribute;
    if is(A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        let most = BLOCK_SHARED_BYTES_OPTIN.saturating_sub(info.static_shared_bytes);
        let bytes = u32::try_from(value).ok().filter(|&bytes| bytes <= most);
        let bytes = bytes.ok_or(Error::INVALID_VALUE)?;
        settings.dynamic_shared_most.store(bytes, Ordering::Relaxed);
    } else if is(A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) {
        settings.large_clusters.store(value != 0, Ordering::Relaxed);
    } else if is(A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
        if !(-1..=100).contains(&value) {
            return Err(Error::INVALID_VALUE);
        }
        settings
            .carveout
            .store(value.cast_unsigned(), Ordering::Relaxed);
    } else if !is(A::CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE) {
        return Err(Error::INVALID_VALUE);
    }
    Ok(())
}

/// Caches are not modelled: any preference is as good as another.
pub(crate) unsafe fn set_cache_config(_: Call, function: *mut c_void, config: c_uint) -> Outcome {
    find_function(driver()?, function)?;
    if config <= 3 {
        Ok(())
    } else {
        Err(Error::INVALID_VALUE)
    }
}

/// Everything is loaded with its module.
pub(crate) unsafe fn load_function(_: Call, function: *mut c_void) -> Outcome {
    find_function(driver()?, function).map(|_| ())
}

pub(crate) unsafe fn is_loaded(_: Call, out: *mut c_uint, function: *mut c_void) -> Outcome {
    find_function(driver()?, function)?;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, 1) }
}
