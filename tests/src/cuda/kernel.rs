// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Modules, their kernels, and launches.

use std::ffi::{CStr, CString, c_void};
use std::ptr;

use cudarc::driver::sys::{
    self, CUfunction, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDimension,
    CUlaunchConfig, CUmodule,
};

use super::{Error, Stream, check};

/// A loaded module. Unloaded when dropped.
#[derive(Debug)]
pub struct Module {
    handle: CUmodule,
}

/// The kernels, as PTX.
pub mod source {
    /// `beat`: blocks that tell the host when one begins and when one ends.
    pub const BEAT: &str = include_str!("../../kernels/beat.ptx");
    /// `saxpy`: y = a x + y, which waits for memory.
    pub const SAXPY: &str = include_str!("../../kernels/saxpy.ptx");
    /// `empty`: nothing.
    pub const EMPTY: &str = include_str!("../../kernels/empty.ptx");
    /// `work`: a set number of multiplications.
    pub const WORK: &str = include_str!("../../kernels/work.ptx");
    /// `meet`: blocks that wait for each other.
    pub const MEET: &str = include_str!("../../kernels/meet.ptx");
    /// `stay`: blocks that stay until they are told to go.
    pub const STAY: &str = include_str!("../../kernels/stay.ptx");
    /// `in_clusters`: blocks that come in clusters.
    pub const CLUSTER: &str = include_str!("../../kernels/cluster.ptx");
    /// `trace`: how often each block of a grid ran, and the grid that it saw; `clock`: the GPU's time.
    pub const TRACE: &str = include_str!("../../kernels/trace.ptx");
    /// `once`: blocks that count how often they run, and look whether it is their turn; `ahead`: a block that
    /// waits for a later one.
    pub const ONCE: &str = include_str!("../../kernels/once.ptx");
    /// `fill`, `reduce`, `matmul`, `histogram`: bits that can be compared.
    pub const CHECKSUM: &str = include_str!("../../kernels/checksum.ptx");
}

impl Module {
    /// Loads PTX into the current context.
    pub fn load(ptx: &str) -> Result<Self, Error> {
        let text = CString::new(ptx).expect("PTX has no NUL");
        let mut handle = ptr::null_mut();
        // SAFETY: the image is a NUL-terminated text.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut handle, text.as_ptr().cast::<c_void>())
        })?;
        Ok(Self { handle })
    }

    /// Finds a kernel. It must not be launched once the module is gone.
    pub fn kernel(&self, name: &CStr) -> Result<Kernel, Error> {
        let mut function = ptr::null_mut();
        // SAFETY: the module is alive and the name a NUL-terminated text.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&raw mut function, self.handle, name.as_ptr())
        })?;
        Ok(Kernel { function })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the handle came from cuModuleLoadData and is not used again.
        unsafe { sys::cuModuleUnload(self.handle) };
    }
}

/// How many threads of which kind a launch has.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    /// Blocks of a cluster; all 1 for none.
    pub cluster: [u32; 3],
    pub cooperative: bool,
}

impl Shape {
    /// So many blocks in a row, of so many threads in a row.
    pub fn row(blocks: u32, threads: u32) -> Self {
        Self::grid([blocks, 1, 1], threads)
    }

    /// A grid of blocks of so many threads in a row.
    pub fn grid(grid: [u32; 3], threads: u32) -> Self {
        Self {
            grid,
            block: [threads, 1, 1],
            shared_bytes: 0,
            cluster: [1; 3],
            cooperative: false,
        }
    }

    /// The same with shared memory for each block.
    pub fn with_shared(self, shared_bytes: u32) -> Self {
        Self {
            shared_bytes,
            ..self
        }
    }

    /// The same in clusters of so many blocks.
    pub fn in_clusters(self, cluster: [u32; 3]) -> Self {
        Self { cluster, ..self }
    }

    /// The same with all blocks resident at once.
    pub fn cooperative(self) -> Self {
        Self {
            cooperative: true,
            ..self
        }
    }
}

/// A kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    function: CUfunction,
}

impl Kernel {
    /// What the driver knows it by.
    pub fn handle(&self) -> CUfunction {
        self.function
    }

    /// Lets blocks of this kernel have so much dynamic shared memory.
    pub fn allow_shared(&self, bytes: u32) -> Result<(), Error> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function's module is alive.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(self.function, attribute, bytes)
        })
    }

    /// Launches it. The words must be what the kernel expects.
    pub fn launch(&self, shape: &Shape, stream: &Stream, words: &[u64]) -> Result<(), Error> {
        let mut parameters: Vec<*mut c_void> = words
            .iter()
            .map(|word| ptr::from_ref(word).cast_mut().cast())
            .collect();
        if shape.cluster != [1; 3] || shape.cooperative {
            return self.launch_with_attributes(shape, stream, &mut parameters);
        }
        // SAFETY: the function and the stream are alive; every parameter points to 8 bytes, which is
        // as much as any kernel here reads of one.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                self.function,
                shape.grid[0],
                shape.grid[1],
                shape.grid[2],
                shape.block[0],
                shape.block[1],
                shape.block[2],
                shape.shared_bytes,
                stream.handle(),
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    fn launch_with_attributes(
        &self,
        shape: &Shape,
        stream: &Stream,
        parameters: &mut [*mut c_void],
    ) -> Result<(), Error> {
        let mut attributes = Vec::new();
        let mut add = |id, value| {
            attributes.push(CUlaunchAttribute {
                id,
                pad: [0; 4],
                value,
            });
        };
        if shape.cluster != [1; 3] {
            add(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                CUlaunchAttributeValue {
                    clusterDim: ClusterDimension {
                        x: shape.cluster[0],
                        y: shape.cluster[1],
                        z: shape.cluster[2],
                    },
                },
            );
        }
        if shape.cooperative {
            add(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                CUlaunchAttributeValue { cooperative: 1 },
            );
        }
        let config = CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: shape.grid[2],
            blockDimX: shape.block[0],
            blockDimY: shape.block[1],
            blockDimZ: shape.block[2],
            sharedMemBytes: shape.shared_bytes,
            hStream: stream.handle(),
            numAttrs: u32::try_from(attributes.len()).expect("at most two"),
            attrs: attributes.as_mut_ptr(),
        };
        // SAFETY: as in `launch`; the attributes outlive the call.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }
}
