// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One thread block in execution: its warps, its shared memory, its barriers and its clock.

use std::sync::Arc;

use super::memory::{Fault, Memory};
use super::module::Kernel;

/// What a block is told about the launch and about its own place in it.
#[derive(Clone, Debug)]
pub struct BlockEnvironment {
    /// Blocks of the grid (`%nctaid`), of the whole grid even if only a part of it runs.
    pub grid: [u32; 3],
    /// Threads of a block (`%ntid`).
    pub block: [u32; 3],
    /// Blocks of a cluster; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Whether the launch asked for clusters (`%is_explicit_cluster`).
    pub explicit_cluster: bool,
    /// This block's place in the grid (`%ctaid`).
    pub block_index: [u32; 3],
    /// The SM as the block sees it (`%smid`).
    pub sm: u32,
    /// How many SMs there are (`%nsmid`).
    pub sm_count: u32,
    /// The launch's number (`%gridid`).
    pub grid_id: u64,
    /// Shared memory asked for at the launch.
    pub dynamic_shared_bytes: u32,
    /// Constant bank 0 as it is in memory.
    pub constant_bank: Arc<[u8]>,
    /// Where the parameter area begins in it (0x210 on Hopper).
    pub parameter_offset: usize,
}

/// Why a block cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The constant bank ends before the kernel's parameters do.
    #[error("the constant bank has {found} bytes, the kernel's parameters end at {needed}")]
    ParametersMissing {
        /// Bytes that the bank has.
        found: usize,
        /// Bytes that it would need.
        needed: usize,
    },
    /// The block's shape is empty or too large for the kernel.
    #[error("a block of {threads} threads, where 1 to {most} are possible")]
    BlockShape {
        /// Threads asked for.
        threads: u64,
        /// Threads possible.
        most: u32,
    },
    /// The cluster's shape is empty or larger than 16 blocks.
    #[error("a cluster of {blocks} blocks, where 1 to 16 are possible")]
    ClusterShape {
        /// Blocks asked for.
        blocks: u64,
    },
    /// More shared memory than an SM has.
    #[error("{bytes} bytes of shared memory, where {most} are possible")]
    SharedMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes possible.
        most: u64,
    },
}

/// What one call of [`Block::run`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Modelled cycles by which the block's clock advanced, sleep included: it may exceed the budget by
    /// an instruction, or by much if every warp sleeps.
    pub cycles: u64,
    /// The block's modelled time now, in nanoseconds: when it next has something to do.
    pub end_ns: u64,
    /// Why the turn ended.
    pub outcome: Outcome,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The budget is spent: call again.
    Yielded,
    /// No warp can go on before [`Block::release_cluster`].
    WaitingAtClusterBarrier,
    /// No warp can ever go on: hardware would hang here.
    Hung,
    /// Every thread has exited.
    Finished,
    /// The block has failed; it must not be run again.
    Faulted {
        /// What happened.
        fault: Fault,
        /// The line of the PTX text.
        line: u32,
    },
}

/// A block in execution.
#[derive(Debug)]
pub struct Block {
    kernel: Arc<Kernel>,
    environment: BlockEnvironment,
}

impl Block {
    /// Sets up a block before its first instruction.
    pub fn new(kernel: Arc<Kernel>, environment: BlockEnvironment) -> Result<Self, BlockError> {
        Ok(Self {
            kernel,
            environment,
        })
    }

    /// Advances the block's modelled time by about `budget_cycles`.
    ///
    /// `now_ns` is the GPU's time as the block is to see it; a time before the block's own is raised to
    /// that. `clock_khz` is the modelled clock.
    pub fn run<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        now_ns: u64,
        clock_khz: u64,
        budget_cycles: u64,
    ) -> Turn {
        let _ = (memory, now_ns, clock_khz, budget_cycles);
        unimplemented!("{} {:?}", self.kernel.name, self.environment)
    }

    /// How many cluster barriers all threads of this block have arrived at so far. When every block of
    /// the cluster has come to `n`, call `release_cluster(n, latest arrival)` on each.
    pub fn cluster_arrivals(&self) -> u64 {
        unimplemented!()
    }

    /// Lets waits at the first `count` cluster barriers pass, from the GPU time `at_ns` on.
    pub fn release_cluster(&mut self, count: u64, at_ns: u64) {
        let _ = (count, at_ns);
        unimplemented!()
    }
}
