// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A real driver (or simgpu's) as a [`Probe`].
//!
//! Every launch is waited for with a deadline. When one passes, the launch hangs, nothing more can be
//! done with the GPU in this process, and the process ends without cleaning up.

use std::ffi::{CString, c_void};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cudarc::driver::sys::{
    self, CUdevice, CUdevice_attribute as DeviceAttribute, CUdeviceptr, CUfunction,
    CUfunction_attribute as FunctionAttribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDimension,
    CUlaunchConfig, CUresult, CUstream,
};
use lithos_descriptor::TpcMask;

use super::hook::Hook;
use super::map::{CLUSTER_BLOCKS, Probe};

const PTX: &str = include_str!("gather.ptx");
/// How long blocks wait for each other. Starting a block on every SM takes far less.
const PATIENCE: Duration = Duration::from_millis(1);
/// How long a launch may take before it counts as hung.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at whether a launch has completed.
const POLL: Duration = Duration::from_micros(200);

/// A GPU with everything that is needed to count blocks on it.
#[derive(Debug)]
pub(super) struct Gpu {
    hook: &'static Hook,
    stream: CUstream,
    gather: CUfunction,
    /// The kernel's two words.
    board: CUdeviceptr,
    sms: u32,
    shared_bytes: u32,
}

/// Turns a result of the driver into an error that names the call.
pub(super) fn check(call: &'static str, result: CUresult) -> anyhow::Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    bail!("{call} returned {result:?}")
}

impl Gpu {
    /// Finds a GPU by its UUID and prepares it.
    pub(super) fn open(uuid: &str) -> anyhow::Result<Self> {
        // SAFETY: only looks whether the library can be loaded; its constructors are the driver's.
        if !unsafe { sys::is_culib_present() } {
            bail!("there is no CUDA driver (libcuda.so.1)");
        }
        // SAFETY: takes a plain value.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        let device = find(uuid)?;
        let sms = attribute(
            device,
            DeviceAttribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
        )?;
        let shared_bytes = attribute(
            device,
            DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?;
        let shared_sm = attribute(
            device,
            DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?;
        if 2 * shared_bytes <= shared_sm {
            bail!("two blocks of {shared_bytes} bytes of shared memory fit an SM of {shared_sm}");
        }
        let hook = Hook::install()?;
        let mut gpu = Self {
            hook,
            stream: ptr::null_mut(),
            gather: ptr::null_mut(),
            board: 0,
            sms,
            shared_bytes,
        };
        gpu.prepare(device)?;
        Ok(gpu)
    }

    fn prepare(&mut self, device: CUdevice) -> anyhow::Result<()> {
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle; the context is retained until the process ends.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut context, device)
        })?;
        // SAFETY: the context was retained just above.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(context) })?;
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&raw mut self.stream, flags)
        })?;
        // SAFETY: writes one address.
        check("cuMemAlloc", unsafe {
            sys::cuMemAlloc_v2(&raw mut self.board, 8)
        })?;
        let text = CString::new(PTX).context("the PTX holds a NUL")?;
        let mut module = ptr::null_mut();
        // SAFETY: the image is a text that ends with a NUL; the module stays loaded.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        })?;
        // SAFETY: the module is loaded, and the name ends with a NUL.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&raw mut self.gather, module, c"gather".as_ptr())
        })?;
        let bytes = i32::try_from(self.shared_bytes).context("shared memory of a block")?;
        for (attribute, value) in [
            (
                FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                bytes,
            ),
            (
                FunctionAttribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
                1,
            ),
        ] {
            // SAFETY: the function's module is loaded.
            check("cuFuncSetAttribute", unsafe {
                sys::cuFuncSetAttribute(self.gather, attribute, value)
            })?;
        }
        Ok(())
    }

    /// How many of `launched` blocks are on SMs at once. Too low if something else on the GPU holds some
    /// of them up for long, and never too high.
    fn count(&self, launched: u32, cluster: u32, without: TpcMask) -> anyhow::Result<u32> {
        // SAFETY: the board is two words long.
        check("cuMemsetD32Async", unsafe {
            sys::cuMemsetD32Async(self.board, 0, 2, self.stream)
        })?;
        self.wait()?;
        self.hook
            .around(without, || self.launch(launched, cluster))?;
        self.wait().with_context(|| {
            format!("{launched} blocks in clusters of {cluster}, without TPC bits {without}")
        })?;
        let mut words = [0_u32; 2];
        // SAFETY: both ranges are two words long, and the kernel that wrote them has completed.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), self.board, 8)
        })?;
        Ok(words[0])
    }

    fn launch(&self, blocks: u32, cluster: u32) -> anyhow::Result<()> {
        let mut board = self.board;
        let mut expected = blocks;
        let mut patience = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        let mut parameters: [*mut c_void; 3] = [
            (&raw mut board).cast(),
            (&raw mut expected).cast(),
            (&raw mut patience).cast(),
        ];
        let mut attribute = cluster_attribute(cluster);
        let config = self.config(blocks, cluster, &mut attribute);
        // SAFETY: the parameters are those of the kernel in number, order and size; they and the
        // configuration outlive the call, which copies them.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.gather,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    /// A launch of blocks of one thread that have an SM each. The attribute must outlive it.
    fn config(
        &self,
        blocks: u32,
        cluster: u32,
        attribute: &mut CUlaunchAttribute,
    ) -> CUlaunchConfig {
        CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: self.stream,
            attrs: ptr::from_mut(attribute),
            numAttrs: u32::from(cluster > 1),
        }
    }

    /// Waits for the stream, but not for ever.
    fn wait(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LAUNCH_DEADLINE;
        loop {
            // SAFETY: the stream was made by this process and lives as long as it.
            match unsafe { sys::cuStreamQuery(self.stream) } {
                CUresult::CUDA_ERROR_NOT_READY if Instant::now() < deadline => thread::sleep(POLL),
                CUresult::CUDA_ERROR_NOT_READY => {
                    bail!("a launch has hung for {} s", LAUNCH_DEADLINE.as_secs())
                }
                result => return check("cuStreamQuery", result),
            }
        }
    }
}

impl Probe for Gpu {
    fn sms(&self) -> u32 {
        self.sms
    }

    fn blocks(&mut self, launched: u32, without: TpcMask) -> anyhow::Result<u32> {
        self.count(launched, 1, without)
    }

    fn clusters(&mut self, without: TpcMask) -> anyhow::Result<u32> {
        let launched = self.sms / CLUSTER_BLOCKS * CLUSTER_BLOCKS;
        let blocks = self.count(launched, CLUSTER_BLOCKS, without)?;
        if !blocks.is_multiple_of(CLUSTER_BLOCKS) {
            bail!("{blocks} blocks in clusters of {CLUSTER_BLOCKS} ran at once, part of a cluster");
        }
        Ok(blocks / CLUSTER_BLOCKS)
    }

    fn has_room(&mut self, cluster_blocks: u32) -> anyhow::Result<bool> {
        let mut clusters = 0;
        let mut attribute = cluster_attribute(cluster_blocks);
        let config = self.config(cluster_blocks, cluster_blocks, &mut attribute);
        // SAFETY: writes one integer; the configuration outlives the call.
        let result = unsafe {
            sys::cuOccupancyMaxActiveClusters(&raw mut clusters, self.gather, &raw const config)
        };
        if result == CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE {
            return Ok(false);
        }
        check("cuOccupancyMaxActiveClusters", result)?;
        Ok(clusters > 0)
    }
}

fn cluster_attribute(blocks: u32) -> CUlaunchAttribute {
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: CUlaunchAttributeValue {
            clusterDim: ClusterDimension {
                x: blocks,
                y: 1,
                z: 1,
            },
        },
    }
}

fn find(uuid: &str) -> anyhow::Result<CUdevice> {
    let mut count = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGetCount", unsafe {
        sys::cuDeviceGetCount(&raw mut count)
    })?;
    let mut others = Vec::new();
    for ordinal in 0..count {
        let mut device = 0;
        // SAFETY: writes one handle.
        check("cuDeviceGet", unsafe {
            sys::cuDeviceGet(&raw mut device, ordinal)
        })?;
        let found = uuid_of(device)?;
        if found == uuid {
            return Ok(device);
        }
        others.push(found);
    }
    bail!("the driver has no GPU {uuid}, but {}", others.join(", "))
}

/// A GPU's UUID as NVML writes it.
fn uuid_of(device: CUdevice) -> anyhow::Result<String> {
    let mut uuid = sys::CUuuid_st { bytes: [0; 16] };
    // SAFETY: writes 16 bytes.
    check("cuDeviceGetUuid", unsafe {
        sys::cuDeviceGetUuid_v2(&raw mut uuid, device)
    })?;
    let mut text = "GPU".to_owned();
    for (at, byte) in uuid.bytes.iter().enumerate() {
        if matches!(at, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", byte.cast_unsigned()));
    }
    Ok(text)
}

fn attribute(device: CUdevice, attribute: DeviceAttribute) -> anyhow::Result<u32> {
    let mut value = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGetAttribute", unsafe {
        sys::cuDeviceGetAttribute(&raw mut value, attribute, device)
    })?;
    u32::try_from(value).with_context(|| format!("{attribute:?} is {value}"))
}
