// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A real driver (or simgpu's) as a [`Probe`].
//!
//! Every launch is waited for with a deadline. When one passes, the launch hangs, nothing more can be
//! done with the GPU in this process, and the process ends without cleaning up.

use std::ffi::{CStr, CString, c_void};
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
use lithos_device::BUILD_ID_BYTES;

use super::hook::{Edit, Hook, Seen};
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
pub(crate) struct Gpu {
    hook: &'static Hook,
    context: sys::CUcontext,
    stream: CUstream,
    gather: CUfunction,
    /// The kernel's two words.
    board: CUdeviceptr,
    sms: u32,
    shared_bytes: u32,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) cluster_blocks: u32,
    pub(crate) is_cooperative: bool,
}

impl Shape {
    /// Blocks of so many threads.
    pub(crate) fn plain(blocks: u32, threads: u32) -> Self {
        Self {
            blocks,
            threads,
            shared_bytes: 0,
            cluster_blocks: 1,
            is_cooperative: false,
        }
    }
}

/// Turns a result of the driver into an error that names the call.
pub(crate) fn check(call: &'static str, result: CUresult) -> anyhow::Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    bail!("{call} returned {result:?}")
}

impl Gpu {
    /// Finds a GPU by its UUID and prepares it.
    pub(crate) fn open(uuid: &str) -> anyhow::Result<Self> {
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
            context: ptr::null_mut(),
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
        // SAFETY: writes one handle; the context is retained until the process ends.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut self.context, device)
        })?;
        // SAFETY: the context was retained just above.
        check("cuCtxSetCurrent", unsafe {
            sys::cuCtxSetCurrent(self.context)
        })?;
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&raw mut self.stream, flags)
        })?;
        self.board = self.allocate(2)?;
        [self.gather] = self.load(PTX, [c"gather"])?;
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

    /// The SMs that the driver speaks of.
    pub(crate) fn sms(&self) -> u32 {
        self.sms
    }

    /// The build id of the driver's library.
    pub(crate) fn library(&self) -> Option<[u8; BUILD_ID_BYTES]> {
        self.hook.library()
    }

    /// The context that launches are made in.
    pub(crate) fn context(&self) -> u64 {
        self.context.addr() as u64
    }

    /// Loads functions, which stay loaded.
    pub(crate) fn load<const N: usize>(
        &self,
        ptx: &str,
        names: [&CStr; N],
    ) -> anyhow::Result<[CUfunction; N]> {
        let text = CString::new(ptx).context("the PTX holds a NUL")?;
        let mut module = ptr::null_mut();
        // SAFETY: the image is a text that ends with a NUL; the module stays loaded.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        })?;
        let mut functions = [ptr::null_mut(); N];
        for (function, name) in functions.iter_mut().zip(names) {
            // SAFETY: the module is loaded, and the name ends with a NUL.
            check("cuModuleGetFunction", unsafe {
                sys::cuModuleGetFunction(function, module, name.as_ptr())
            })?;
        }
        Ok(functions)
    }

    /// Allocates words, which stay allocated.
    pub(crate) fn allocate(&self, words: usize) -> anyhow::Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: writes one address.
        check("cuMemAlloc", unsafe {
            sys::cuMemAlloc_v2(&raw mut address, 4 * words)
        })?;
        Ok(address)
    }

    /// Fills words with zeros, in the order of launches.
    pub(crate) fn clear(&self, address: CUdeviceptr, words: usize) -> anyhow::Result<()> {
        // SAFETY: the driver checks the range.
        check("cuMemsetD32Async", unsafe {
            sys::cuMemsetD32Async(address, 0, words, self.stream)
        })
    }

    /// Reads words once what was launched has completed.
    pub(crate) fn read(&self, address: CUdeviceptr, words: &mut [u32]) -> anyhow::Result<()> {
        self.wait()?;
        // SAFETY: the driver checks the address, and there is room for so many bytes.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), address, size_of_val(words))
        })
    }

    /// How many blocks that take an SM each are on SMs at once, of those that are launched. Too low if
    /// something else on the GPU holds some of them up for long, and never too high.
    pub(crate) fn count(&self, shape: Shape, edit: Edit) -> anyhow::Result<u32> {
        self.clear(self.board, 2)?;
        self.wait()?;
        let mut board = self.board;
        let mut expected = shape.blocks;
        let mut patience = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        let mut parameters: [*mut c_void; 3] = [
            (&raw mut board).cast(),
            (&raw mut expected).cast(),
            (&raw mut patience).cast(),
        ];
        let shape = Shape {
            threads: 1,
            shared_bytes: self.shared_bytes,
            ..shape
        };
        // SAFETY: the parameters are those of the kernel in number, order and size.
        unsafe { self.launch(self.gather, shape, &mut parameters, edit) }?;
        let mut words = [0_u32; 2];
        self.read(self.board, &mut words).with_context(|| {
            format!(
                "{} blocks in clusters of {} on TPC bits {}",
                shape.blocks, shape.cluster_blocks, edit.allowed
            )
        })?;
        Ok(words[0])
    }

    /// Launches a function with an edit, and returns what the launch looked like.
    ///
    /// # Safety
    ///
    /// The parameters are those of the function in number, order and size.
    pub(crate) unsafe fn launch(
        &self,
        function: CUfunction,
        shape: Shape,
        parameters: &mut [*mut c_void],
        edit: Edit,
    ) -> anyhow::Result<Box<Seen>> {
        let mut attributes = attributes(shape);
        let config = self.config(shape, &mut attributes);
        self.hook.around(edit, || {
            // SAFETY: the parameters are the caller's; they and the configuration outlive the call,
            // which copies them.
            check("cuLaunchKernelEx", unsafe {
                sys::cuLaunchKernelEx(
                    &raw const config,
                    function,
                    parameters.as_mut_ptr(),
                    ptr::null_mut(),
                )
            })
        })
    }

    /// The configuration of a launch. The attributes must outlive it.
    fn config(&self, shape: Shape, attributes: &mut [CUlaunchAttribute]) -> CUlaunchConfig {
        CUlaunchConfig {
            gridDimX: shape.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: self.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::try_from(attributes.len()).unwrap_or(u32::MAX),
        }
    }

    /// Waits for the stream, but not for ever.
    pub(crate) fn wait(&self) -> anyhow::Result<()> {
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
        self.count(Shape::plain(launched, 1), taking_away(without))
    }

    fn clusters(&mut self, without: TpcMask) -> anyhow::Result<u32> {
        let shape = Shape {
            cluster_blocks: CLUSTER_BLOCKS,
            ..Shape::plain(self.sms / CLUSTER_BLOCKS * CLUSTER_BLOCKS, 1)
        };
        let blocks = self.count(shape, taking_away(without))?;
        if !blocks.is_multiple_of(CLUSTER_BLOCKS) {
            bail!("{blocks} blocks in clusters of {CLUSTER_BLOCKS} ran at once, part of a cluster");
        }
        Ok(blocks / CLUSTER_BLOCKS)
    }

    fn has_room(&mut self, cluster_blocks: u32) -> anyhow::Result<bool> {
        let mut clusters = 0;
        let shape = Shape {
            cluster_blocks,
            shared_bytes: self.shared_bytes,
            ..Shape::plain(cluster_blocks, 1)
        };
        let mut attributes = attributes(shape);
        let config = self.config(shape, &mut attributes);
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

/// Takes TPCs away of which it is not known which there are.
fn taking_away(without: TpcMask) -> Edit {
    Edit {
        allowed: !without,
        ..Edit::NONE
    }
}

fn attributes(shape: Shape) -> Vec<CUlaunchAttribute> {
    let attribute = |id, value| CUlaunchAttribute {
        id,
        pad: [0; 4],
        value,
    };
    let cluster = (shape.cluster_blocks > 1).then(|| {
        attribute(
            CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            CUlaunchAttributeValue {
                clusterDim: ClusterDimension {
                    x: shape.cluster_blocks,
                    y: 1,
                    z: 1,
                },
            },
        )
    });
    let cooperative = shape.is_cooperative.then(|| {
        attribute(
            CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            CUlaunchAttributeValue { cooperative: 1 },
        )
    });
    cluster.into_iter().chain(cooperative).collect()
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
