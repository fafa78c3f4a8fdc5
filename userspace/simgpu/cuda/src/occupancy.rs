// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many blocks of a kernel fit.

use std::ffi::{c_int, c_uint, c_void};

use simgpu::board::{
    CLUSTER_BLOCKS_MAX, SM_BLOCKS, SM_REGISTERS, SM_SHARED_BYTES, SM_WARPS, SMS_PER_TPC,
    WARP_THREADS,
};
use simgpu::descriptor::shared_allocation;

use crate::context;
use crate::driver::driver;
use crate::error::{Error, Outcome};
use crate::launch::{LaunchConfig, Shape, registers_of_block};
use crate::module::{Function, find_function};
use crate::symbols::Call;

/// Blocks of so many threads that fit on one SM at a time.
pub(crate) fn blocks_per_sm(function: &Function, threads: u32, dynamic_shared_bytes: u32) -> u32 {
    let info = &function.info;
    if threads == 0 || threads > info.max_threads {
        return 0;
    }
    let shared = info
        .static_shared_bytes
        .saturating_add(dynamic_shared_bytes);
    if shared > SM_SHARED_BYTES {
        return 0;
    }
    [
        SM_BLOCKS,
        SM_WARPS / threads.div_ceil(WARP_THREADS),
        SM_REGISTERS / registers_of_block(info, threads).max(1),
        SM_SHARED_BYTES / shared_allocation(shared),
    ]
    .into_iter()
    .min()
    .unwrap_or(0)
}

pub(crate) unsafe fn blocks(
    _: Call,
    out: *mut c_int,
    function: *mut c_void,
    block_threads: c_int,
    dynamic_shared_bytes: usize,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    let threads = u32::try_from(block_threads).map_err(|_| Error::INVALID_VALUE)?;
    if threads == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let shared = u32::try_from(dynamic_shared_bytes).unwrap_or(u32::MAX);
    let count = blocks_per_sm(&function, threads, shared);
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, count.cast_signed()) }
}

pub(crate) unsafe fn blocks_with_flags(
    call: Call,
    out: *mut c_int,
    function: *mut c_void,
    block_threads: c_int,
    dynamic_shared_bytes: usize,
    flags: c_uint,
) -> Outcome {
    if flags > 1 {
        return Err(Error::INVALID_VALUE);
    }
    // SAFETY: the same contract.
    unsafe { blocks(call, out, function, block_threads, dynamic_shared_bytes) }
}

/// Clusters that fit on an otherwise empty GPU. The server alone knows how the TPCs are spread over
/// GPCs; this counts as if they were spread evenly, and so may promise too many, never too few of
/// those that fit in one TPC.
pub(crate) unsafe fn clusters(
    _: Call,
    out: *mut c_int,
    function: *mut c_void,
    config: *const LaunchConfig,
) -> Outcome {
    let driver = driver()?;
    let function = find_function(driver, function)?;
    // SAFETY: the caller passes a configuration.
    let (shape, _) = unsafe { Shape::read(config)? };
    let shape = shape.check(&function)?;
    let context = context::current()?;
    let (_, gpu) = &driver.gpus[context.gpu];
    let per_sm = blocks_per_sm(&function, shape.threads(), shape.dynamic_shared_bytes);
    let cluster: u32 = shape.cluster.unwrap_or([1; 3]).iter().product();
    let per_gpc = gpu.tpcs.div_ceil(gpu.gpcs.max(1)) * SMS_PER_TPC * per_sm;
    let count = per_gpc / cluster.max(1) * gpu.gpcs;
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, count.cast_signed()) }
}

pub(crate) unsafe fn cluster_size(
    _: Call,
    out: *mut c_int,
    function: *mut c_void,
    _config: *const LaunchConfig,
) -> Outcome {
    let function = find_function(driver()?, function)?;
    let large = function
        .settings()
        .large_clusters
        .load(std::sync::atomic::Ordering::Relaxed);
    let most = if large { CLUSTER_BLOCKS_MAX } else { 8 };
    // SAFETY: the caller lends the place.
    unsafe { crate::write(out, most.cast_signed()) }
}

/// The type of the function that says how much shared memory a block of a size needs.
type SharedBytesOf = extern "C" fn(c_int) -> usize;

pub(crate) unsafe fn block_size(
    _: Call,
    grid: *mut c_int,
    block: *mut c_int,
    function: *mut c_void,
    shared_of: Option<SharedBytesOf>,
    dynamic_shared_bytes: usize,
    limit: c_int,
) -> Outcome {
    let driver = driver()?;
    let function = find_function(driver, function)?;
    let context = context::current()?;
    let (_, gpu) = &driver.gpus[context.gpu];
    let limit = u32::try_from(limit).map_err(|_| Error::INVALID_VALUE)?;
    let most = if limit == 0 { u32::MAX } else { limit };
    let most = most.min(function.info.max_threads);
    let sizes = (1..=most / WARP_THREADS).map(|warps| warps * WARP_THREADS);
    let best = sizes.map(|threads| {
        let shared = match shared_of {
            Some(shared_of) => shared_of(threads.cast_signed()),
            None => dynamic_shared_bytes,
        };
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        let blocks = blocks_per_sm(&function, threads, shared);
        (blocks * threads, threads, blocks)
    });
    // Among the sizes that keep most threads resident, the largest.
    let (_, threads, blocks) = best.max().unwrap_or((0, most, 0));
    let sms = gpu.tpcs * SMS_PER_TPC;
    // SAFETY: the caller lends the places.
    unsafe {
        crate::write(grid, (blocks * sms).cast_signed())?;
        crate::write(block, threads.cast_signed())
    }
}
