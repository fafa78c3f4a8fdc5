// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launching kernels.
//!
//! A launch takes a place in its stream, writes constant bank 0, builds the launch descriptor, hands
//! it to the subscriber (who may edit it) and sends the bytes that come back. From then on nothing is
//! known about the launch but those bytes and the latch that says when it is over.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::CUlaunchAttributeID as Id;
use simgpu::board::{CLUSTER_BLOCKS_MAX, SM_REGISTERS, SMS_PER_TPC};
use simgpu::descriptor::{self, PARAMETER_OFFSET};
use simgpu::wire::{KernelInfo, Op};

use crate::callbacks;
use crate::context::{self, Context};
use crate::driver::{Driver, driver};
use crate::error::{Error, Outcome};
use crate::module::{Function, find_function};
use crate::occupancy;
use crate::stream::{self, Stream};
use crate::symbols::Call;

/// The largest grid: x, y, z.
pub(crate) const GRID_MAX: [u32; 3] = [0x7fff_ffff, 0xffff, 0xffff];
/// The largest block: x, y, z.
pub(crate) const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
/// Blocks of a cluster that every kernel can have.
const PORTABLE_CLUSTER: u32 = 8;

/// What `extra` holds instead of a list of parameters: its end, the buffer, the buffer's size.
const EXTRA_END: usize = 0;
const EXTRA_POINTER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    pub(crate) stream: *mut c_void,
    attributes: *const LaunchAttribute,
    attribute_count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchAttribute {
    id: c_uint,
    padding: u32,
    value: [u32; 16],
}

const _: () = assert!(size_of::<LaunchConfig>() == 56 && size_of::<LaunchAttribute>() == 72);

/// A launch as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared_bytes: u32,
    pub(crate) cluster: Option<[u32; 3]>,
    cooperative: bool,
    priority: Option<c_int>,
}

impl Shape {
    fn plain(grid: [u32; 3], block: [u32; 3], dynamic_shared_bytes: u32) -> Self {
        Self {
            grid,
            block,
            dynamic_shared_bytes,
            cluster: None,
            cooperative: false,
            priority: None,
        }
    }

    /// Reads a launch configuration.
    ///
    /// # Safety
    ///
    /// `config` is null or may be read, and so may as many attributes as it says.
    pub(crate) unsafe fn read(config: *const LaunchConfig) -> Result<(Self, LaunchConfig), Error> {
        if config.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: not null, so the caller promises that it may be read.
        let config = unsafe { config.read() };
        let mut shape = Self::plain(config.grid, config.block, config.shared_bytes);
        for i in 0..config.attribute_count as usize {
            if config.attributes.is_null() {
                return Err(Error::INVALID_VALUE);
            }
            // SAFETY: inside the array.
            let attribute = unsafe { config.attributes.add(i).read() };
            shape.apply(&attribute)?;
        }
        Ok((shape, config))
    }

    fn apply(&mut self, attribute: &LaunchAttribute) -> Outcome {
        let is = |id: Id| attribute.id == id as c_uint;
        let value = attribute.value;
        if is(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
            self.cluster = Some([value[0], value[1], value[2]]);
        } else if is(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
            self.cooperative = value[0] != 0;
        } else if is(Id::CU_LAUNCH_ATTRIBUTE_PRIORITY) {
            let (least, greatest) = context::PRIORITIES;
            self.priority = Some(value[0].cast_signed().clamp(greatest, least));
        } else if is(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT)
            || is(Id::CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT)
            || is(Id::CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE)
        {
            return Err(Error::NOT_SUPPORTED);
        } else if attribute.id > Id::CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as c_uint
        {
            return Err(Error::INVALID_VALUE);
        }
        // The others are hints about caches, memory domains and overlap that change no result.
        Ok(())
    }

    /// Checks the shape against what a kernel allows; fills in what the kernel insists on.
    pub(crate) fn check(mut self, function: &Function) -> Result<Self, Error> {
        let info = &function.info;
        let inside = |value: [u32; 3], most: [u32; 3]| {
            value
                .iter()
                .zip(most)
                .all(|(&value, most)| (1..=most).contains(&value))
        };
        let threads: u32 = self.block.iter().fold(1, |n, &d| n.saturating_mul(d));
        let registers = registers_of_block(info, threads);
        if !inside(self.grid, GRID_MAX) || !inside(self.block, BLOCK_MAX) {
            return Err(Error::INVALID_VALUE);
        }
        if threads > info.max_threads || info.required_block.is_some_and(|b| b != self.block) {
            return Err(Error::INVALID_VALUE);
        }
        if registers > SM_REGISTERS {
            return Err(Error::OUT_OF_RESOURCES);
        }
        let most = function
            .settings()
            .dynamic_shared_most
            .load(Ordering::Relaxed);
        if self.dynamic_shared_bytes > most {
            return Err(Error::INVALID_VALUE);
        }
        self.cluster = match (self.cluster, info.required_cluster) {
            (Some(asked), Some(required)) if asked != required => {
                return Err(Error::INVALID_CLUSTER);
            }
            (None, None) if info.explicit_cluster => return Err(Error::INVALID_CLUSTER),
            (asked, required) => asked.or(required),
        };
        if let Some(cluster) = self.cluster {
            let blocks: u32 = cluster.iter().fold(1, |n, &d| n.saturating_mul(d));
            let most = if function.settings().large_clusters.load(Ordering::Relaxed) {
                CLUSTER_BLOCKS_MAX
            } else {
                PORTABLE_CLUSTER
            };
            let divides = (0..3).all(|i| cluster[i] > 0 && self.grid[i].is_multiple_of(cluster[i]));
            if !divides || blocks > most {
                return Err(Error::INVALID_CLUSTER);
            }
        }
        Ok(self)
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().fold(1, |n, &d| n.saturating_mul(d.into()))
    }

    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

/// Registers that a block takes: given to warps in units of 256.
pub(crate) fn registers_of_block(info: &KernelInfo, threads: u32) -> u32 {
    let warps = threads.div_ceil(32);
    (info.registers * 32)
        .next_multiple_of(256)
        .saturating_mul(warps)
}

#[expect(clippy::too_many_arguments, reason = "the driver's signature")]
pub(crate) unsafe fn kernel(
    call: Call,
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let shape = Shape::plain(grid, block, shared_bytes);
    // SAFETY: the caller passes the kernel's parameters in one of the two ways.
    unsafe { start(call, function, shape, stream, parameters, extra) }
}

pub(crate) unsafe fn kernel_with(
    call: Call,
    config: *const LaunchConfig,
    function: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    // SAFETY: the caller passes a configuration, and the parameters in one of the two ways.
    unsafe {
        let (shape, config) = Shape::read(config)?;
        start(call, function, shape, config.stream, parameters, extra)
    }
}

#[expect(clippy::too_many_arguments, reason = "the driver's signature")]
pub(crate) unsafe fn cooperative_kernel(
    call: Call,
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
) -> Outcome {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let mut shape = Shape::plain(grid, block, shared_bytes);
    shape.cooperative = true;
    let extra = std::ptr::null_mut();
    // SAFETY: the caller passes the kernel's parameters.
    unsafe { start(call, function, shape, stream, parameters, extra) }
}

/// # Safety
///
/// `parameters` or `extra` describe the kernel's parameters as CUDA says.
unsafe fn start(
    call: Call,
    function: *mut c_void,
    shape: Shape,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let (context, stream) = stream::resolve(call, stream)?;
    let function = find_function(driver, function)?;
    if function.context != context.number {
        return Err(Error::INVALID_HANDLE);
    }
    let shape = shape.check(&function)?;
    let (_, gpu) = &driver.gpus[context.gpu];
    if shape.cooperative {
        let per_sm =
            occupancy::blocks_per_sm(&function, shape.threads(), shape.dynamic_shared_bytes);
        if shape.blocks() > u64::from(per_sm) * u64::from(gpu.tpcs * SMS_PER_TPC) {
            return Err(Error::COOPERATIVE_TOO_LARGE);
        }
    }
    let mut bank = descriptor::bank_header(shape.grid, shape.block).to_vec();
    // SAFETY: the caller's promise.
    unsafe { append_parameters(&mut bank, &function.info, parameters, extra)? };
    submit(driver, &context, &stream, &function, &shape, &bank)
}

fn submit(
    driver: &Driver,
    context: &Arc<Context>,
    stream: &Stream,
    function: &Arc<Function>,
    shape: &Shape,
    bank: &[u8],
) -> Outcome {
    let reserved = stream.reserve(driver)?;
    let place = context
        .banks
        .place(driver, bank, || context.check(driver))?;
    let latch = context.next_latch();
    let mut bytes = descriptor::build(&descriptor::Launch {
        program: function.info.address,
        grid: shape.grid,
        block: shape.block,
        cluster: shape.cluster,
        cooperative: shape.cooperative,
        shared_bytes: function.info.static_shared_bytes + shape.dynamic_shared_bytes,
        registers: function.info.registers,
        bank: place.address,
        bank_bytes: u32::try_from(bank.len()).map_err(|_| Error::INVALID_VALUE)?,
        latch,
        release: place.release,
        payload: place.payload,
    });
    callbacks::descriptor(context.handle(), function.handle(), &mut bytes);
    reserved.submit(
        driver,
        Op::Launch {
            descriptor: bytes.to_vec(),
            latch,
            priority: shape.priority,
        },
    )
}

/// Appends a kernel's parameters to its constant bank.
///
/// # Safety
///
/// `parameters` is null or an array of pointers to the kernel's parameters; `extra` is null or the
/// list that describes a buffer with all of them.
unsafe fn append_parameters(
    bank: &mut Vec<u8>,
    info: &KernelInfo,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    bank.resize(PARAMETER_OFFSET + info.parameter_bytes as usize, 0);
    let area = &mut bank[PARAMETER_OFFSET..];
    if info.parameters.is_empty() {
        return Ok(());
    }
    if !parameters.is_null() {
        for (i, &(offset, bytes)) in info.parameters.iter().enumerate() {
            // SAFETY: the array has a pointer for each of the kernel's parameters.
            let from = unsafe { *parameters.add(i) };
            if from.is_null() {
                return Err(Error::INVALID_VALUE);
            }
            let place = &mut area[offset as usize..(offset + bytes) as usize];
            // SAFETY: the pointer points to a parameter of this size.
            unsafe {
                std::ptr::copy_nonoverlapping(from.cast(), place.as_mut_ptr(), place.len());
            }
        }
        return Ok(());
    }
    if extra.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), None);
    let mut at = extra;
    loop {
        // SAFETY: the list goes on until its end mark, in pairs.
        let (key, value) = unsafe { ((*at).addr(), at.add(1)) };
        match key {
            EXTRA_END => break,
            // SAFETY: a key is followed by its value.
            EXTRA_POINTER => buffer = unsafe { *value }.cast(),
            // SAFETY: a key is followed by its value, here a pointer to a size.
            EXTRA_SIZE => size = Some(unsafe { (*value).cast::<usize>().read() }),
            _ => return Err(Error::INVALID_VALUE),
        }
        // SAFETY: not at the end mark, so another pair follows.
        at = unsafe { at.add(2) };
    }
    let size = size.filter(|_| !buffer.is_null());
    let size = size.ok_or(Error::INVALID_VALUE)?;
    let needed = info.parameters.iter().map(|(at, n)| at + n).max();
    if size < needed.unwrap_or(0) as usize {
        return Err(Error::INVALID_VALUE);
    }
    let length = size.min(area.len());
    // SAFETY: the buffer has `size` bytes.
    unsafe { std::ptr::copy_nonoverlapping(buffer, area.as_mut_ptr(), length) };
    Ok(())
}
