// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The API calls that we are called around, and their arguments.
//!
//! Numbers are CUPTI's (`cupti_driver_cbid.h`); the structures of arguments are those of its
//! `generated_cuda_meta.h`. They belong to CUDA's stable interface: a call whose arguments change gets
//! a new number.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchAttributeID, CUlaunchConfig};

/// What a call is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// It launches something, with arguments of this form; NULL means the per-thread default stream.
    Launch(Form, bool),
    /// It makes a context: `CUcontext *` comes first.
    Create,
    /// It makes the primary context of a device, or finds it made: `CUcontext *`, `CUdevice`.
    Retain,
    /// It ends a context: `CUcontext`.
    Destroy,
    /// It may end the primary context of a device: `CUdevice`.
    Release,
    /// It ends a green context: `CUgreenCtx`.
    DestroyGreen,
    /// It tells an attribute of a device.
    Attribute,
    /// It makes a stream of some priority.
    MakeStream,
}

/// How the arguments of a launch lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `cuLaunchKernel`.
    Kernel,
    /// `cuLaunchCooperativeKernel`.
    Cooperative,
    /// `cuLaunchKernelEx`.
    Extended,
    /// `cuGraphLaunch`, `cuGraphUpload`.
    Graph,
    /// A call that makes or changes an executable graph, and may upload what it will launch.
    GraphChange,
    /// `cuLaunch`, `cuLaunchGrid`: on the legacy default stream.
    Legacy,
    /// `cuLaunchGridAsync`.
    LegacyStream,
}

impl Form {
    /// Whether what is uploaded during the call belongs to a graph.
    pub(crate) fn is_graph(self) -> bool {
        matches!(self, Form::Graph | Form::GraphChange)
    }
}

/// Every call that we are called around, by number; the last column says that nothing works without.
#[rustfmt::skip]
pub(crate) const CALLS: [(c_int, Call, bool); 38] = [
    (307, Call::Launch(Form::Kernel, false), true),
    (442, Call::Launch(Form::Kernel, true), true),
    (477, Call::Launch(Form::Cooperative, false), false),
    (478, Call::Launch(Form::Cooperative, true), false),
    (652, Call::Launch(Form::Extended, false), false),
    (653, Call::Launch(Form::Extended, true), false),
    (514, Call::Launch(Form::Graph, false), false),
    (515, Call::Launch(Form::Graph, true), false),
    (580, Call::Launch(Form::Graph, false), false),        // cuGraphUpload
    (581, Call::Launch(Form::Graph, true), false),
    (513, Call::Launch(Form::GraphChange, false), false),  // cuGraphInstantiate
    (578, Call::Launch(Form::GraphChange, false), false),  // _v2
    (643, Call::Launch(Form::GraphChange, false), false),  // cuGraphInstantiateWithFlags
    (656, Call::Launch(Form::GraphChange, false), false),  // cuGraphInstantiateWithParams
    (657, Call::Launch(Form::GraphChange, true), false),
    (538, Call::Launch(Form::GraphChange, false), false),  // cuGraphExecKernelNodeSetParams
    (692, Call::Launch(Form::GraphChange, false), false),  // _v2
    (714, Call::Launch(Form::GraphChange, false), false),  // cuGraphExecNodeSetParams
    (561, Call::Launch(Form::GraphChange, false), false),  // cuGraphExecUpdate
    (696, Call::Launch(Form::GraphChange, false), false),  // _v2
    (650, Call::Launch(Form::GraphChange, false), false),  // cuGraphNodeSetEnabled
    (115, Call::Launch(Form::Legacy, false), false),       // cuLaunch
    (116, Call::Launch(Form::Legacy, false), false),       // cuLaunchGrid
    (117, Call::Launch(Form::LegacyStream, false), false), // cuLaunchGridAsync
    (10, Call::Create, false),                             // cuCtxCreate
    (235, Call::Create, false),                            // _v2
    (645, Call::Create, false),                            // _v3
    (757, Call::Create, false),                            // _v4
    (386, Call::Retain, true),
    (11, Call::Destroy, false),                            // cuCtxDestroy
    (322, Call::Destroy, false),                           // _v2
    (387, Call::Release, false),                           // cuDevicePrimaryCtxRelease
    (544, Call::Release, false),                           // _v2
    (389, Call::Release, false),                           // cuDevicePrimaryCtxReset
    (545, Call::Release, false),                           // _v2
    (744, Call::DestroyGreen, false),
    (9, Call::Attribute, false),                           // cuDeviceGetAttribute
    (367, Call::MakeStream, false),                        // cuStreamCreateWithPriority
];

/// Returns what a call is to us.
#[inline]
pub(crate) fn call(cbid: c_int) -> Option<Call> {
    let found = CALLS.iter().find(|(number, ..)| *number == cbid)?;
    Some(found.1)
}

/// The arguments of a launch that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Launch {
    /// `CUfunction` or `CUkernel`; 0 for graphs.
    pub(crate) function: u64,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// `CUstream`.
    pub(crate) stream: u64,
    pub(crate) is_cooperative: bool,
    /// Blocks of a cluster, where the call says so; 0 if it does not.
    pub(crate) cluster_blocks: u64,
}

/// Arguments of `cuLaunchKernel`; those of `cuLaunchCooperativeKernel` begin in the same way.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelArguments {
    function: u64,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: u64,
}

/// Arguments of `cuLaunchKernelEx`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExtendedArguments {
    config: *const CUlaunchConfig,
    function: u64,
}

/// Arguments of `cuGraphLaunch` and `cuGraphUpload`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GraphArguments {
    graph: u64,
    stream: u64,
}

/// Arguments of `cuLaunchGridAsync`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LegacyStreamArguments {
    function: u64,
    grid: [c_int; 2],
    stream: u64,
}

impl Launch {
    /// Reads the arguments of a launch; `None` if there are none.
    ///
    /// # Safety
    ///
    /// `arguments` is NULL or points to the arguments of a call of this form, as the driver has them.
    #[inline]
    pub(crate) unsafe fn read(form: Form, arguments: *const c_void) -> Option<Self> {
        if arguments.is_null() {
            return None;
        }
        Some(match form {
            Form::Kernel | Form::Cooperative => {
                // SAFETY: the caller's.
                let found = unsafe { arguments.cast::<KernelArguments>().read() };
                Self {
                    function: found.function,
                    grid: found.grid,
                    block: found.block,
                    shared_bytes: found.shared_bytes,
                    stream: found.stream,
                    is_cooperative: form == Form::Cooperative,
                    cluster_blocks: 0,
                }
            }
            Form::Extended => {
                // SAFETY: the caller's.
                let found = unsafe { arguments.cast::<ExtendedArguments>().read() };
                // SAFETY: the driver is about to read the program's configuration, too.
                let config = unsafe { found.config.as_ref() }?;
                let mut launch = Self {
                    function: found.function,
                    grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
                    block: [config.blockDimX, config.blockDimY, config.blockDimZ],
                    shared_bytes: config.sharedMemBytes,
                    stream: config.hStream.addr() as u64,
                    ..Default::default()
                };
                // SAFETY: as above.
                unsafe { launch.read_attributes(config) };
                launch
            }
            Form::Graph => Self {
                // SAFETY: the caller's.
                stream: unsafe { arguments.cast::<GraphArguments>().read() }.stream,
                ..Default::default()
            },
            Form::LegacyStream => Self {
                // SAFETY: the caller's.
                stream: unsafe { arguments.cast::<LegacyStreamArguments>().read() }.stream,
                ..Default::default()
            },
            Form::Legacy | Form::GraphChange => Self::default(),
        })
    }

    /// Reads those attributes of a launch that bear on where it fits.
    ///
    /// # Safety
    ///
    /// The configuration's array of attributes can be read.
    unsafe fn read_attributes(&mut self, config: &CUlaunchConfig) {
        if config.attrs.is_null() {
            return;
        }
        for index in 0..config.numAttrs as usize {
            let attribute = config.attrs.cast_const().wrapping_add(index);
            // A driver knows attributes that this code's enumeration does not: as a number.
            // SAFETY: the caller's; the kind of an attribute comes first and has 32 bits.
            let kind = unsafe { attribute.cast::<u32>().read() };
            // SAFETY: the caller's; no reference is made to the kind.
            let value = unsafe { &raw const (*attribute).value };
            if kind == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE as u32 {
                // SAFETY: this is an attribute of this kind.
                self.is_cooperative = unsafe { (*value).cooperative } != 0;
            } else if kind == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as u32 {
                // SAFETY: this is an attribute of this kind.
                let size = unsafe { (*value).clusterDim };
                self.cluster_blocks = [size.x, size.y, size.z]
                    .into_iter()
                    .map(u64::from)
                    .fold(1, u64::saturating_mul);
            }
        }
    }

    /// Returns the number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.grid
            .into_iter()
            .map(u64::from)
            .fold(1, u64::saturating_mul)
    }

    /// Returns the number of threads of a block, 0 if it is no number that a block can have.
    pub(crate) fn block_threads(&self) -> c_int {
        self.block
            .into_iter()
            .try_fold(1u32, u32::checked_mul)
            .and_then(|threads| c_int::try_from(threads).ok())
            .unwrap_or(0)
    }
}

const _: () = {
    assert!(std::mem::offset_of!(KernelArguments, stream) == 40);
    assert!(std::mem::offset_of!(LegacyStreamArguments, stream) == 16);
    assert!(std::mem::offset_of!(CUlaunchAttribute, value) == 8);
    assert!(size_of::<CUlaunchAttribute>() == 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of arguments that the test keeps alive.
    fn read<T>(form: Form, arguments: &T) -> Option<Launch> {
        // SAFETY: each test below passes the structure that belongs to the form.
        unsafe { Launch::read(form, (&raw const *arguments).cast()) }
    }

    #[test]
    fn no_number_stands_twice() {
        let mut numbers: Vec<_> = CALLS.iter().map(|(number, ..)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), CALLS.len());
        assert_eq!(call(442), Some(Call::Launch(Form::Kernel, true)));
        assert_eq!(call(1), None);
    }

    #[test]
    fn a_kernels_arguments_are_read() {
        let arguments = KernelArguments {
            function: 0xf,
            grid: [2, 3, 4],
            block: [32, 2, 1],
            shared_bytes: 4096,
            stream: 0x5,
        };
        let launch = read(Form::Kernel, &arguments).expect("arguments");
        assert_eq!((launch.blocks(), launch.block_threads()), (24, 64));
        assert_eq!((launch.function, launch.stream), (0xf, 0x5));
        assert!(!launch.is_cooperative);
        assert!(
            read(Form::Cooperative, &arguments)
                .expect("arguments")
                .is_cooperative
        );
    }

    #[test]
    fn attributes_are_read_and_unknown_ones_are_passed_over() {
        // SAFETY: attributes and configurations are plain data.
        let mut attributes: [CUlaunchAttribute; 3] = unsafe { std::mem::zeroed() };
        let unknown = (&raw mut attributes[0]).cast::<u32>();
        // SAFETY: the kind of an attribute comes first; nobody reads it as its enumeration.
        unsafe { unknown.write(4711) };
        attributes[1].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attributes[1].value.cooperative = 1;
        attributes[2].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes[2].value.clusterDim.x = 2;
        attributes[2].value.clusterDim.y = 4;
        attributes[2].value.clusterDim.z = 1;
        // SAFETY: as above.
        let mut config: CUlaunchConfig = unsafe { std::mem::zeroed() };
        config.gridDimX = 8;
        config.gridDimY = 4;
        config.gridDimZ = 1;
        config.attrs = attributes.as_mut_ptr();
        config.numAttrs = 3;
        let arguments = ExtendedArguments {
            config: &raw const config,
            function: 7,
        };
        let launch = read(Form::Extended, &arguments).expect("arguments");
        assert!(launch.is_cooperative);
        assert_eq!((launch.cluster_blocks, launch.blocks()), (8, 32));
        let nothing = ExtendedArguments {
            config: std::ptr::null(),
            function: 7,
        };
        assert_eq!(read(Form::Extended, &nothing), None);
    }

    #[test]
    fn streams_of_graphs_and_old_launches_are_read() {
        let graph = GraphArguments {
            graph: 1,
            stream: 22,
        };
        assert_eq!(read(Form::Graph, &graph).map(|l| l.stream), Some(22));
        let old = LegacyStreamArguments {
            function: 1,
            grid: [1, 1],
            stream: 23,
        };
        assert_eq!(read(Form::LegacyStream, &old).map(|l| l.stream), Some(23));
        assert_eq!(read(Form::Legacy, &1u64), Some(Launch::default()));
    }

    #[test]
    fn sizes_that_overflow_are_not_believed() {
        let launch = Launch {
            grid: [u32::MAX; 3],
            block: [u32::MAX; 3],
            ..Default::default()
        };
        assert_eq!(launch.blocks(), u64::MAX);
        assert_eq!(launch.block_threads(), 0);
    }
}
