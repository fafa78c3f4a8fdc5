// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A descriptor in execution: which blocks are still to be started, and where they may run.
//!
//! The idea: blocks start in raster order from RESUME to the end of the descriptor's box, x fastest,
//! and keep the index that they have in the whole grid. The unit that is started at once is a
//! *cluster*; in a plain grid that is one block. A *cooperative* grid starts its clusters one by one
//! too, but not before there is room for all of them.

use std::rc::Rc;
use std::sync::Arc;

use lithos_descriptor::TpcMask;

use super::space::AddressSpace;
use crate::board::{
    BLOCK_THREADS_MAX, Board, CLUSTER_BLOCKS_MAX, SHARED_RESERVED_BYTES, SM_REGISTERS,
    SM_SHARED_BYTES, SMS_PER_TPC, WARP_THREADS,
};
use crate::descriptor::{Descriptor, PARAMETER_OFFSET, Work};
use crate::ptx::{BlockEnvironment, Kernel, Memory};

/// Registers are given to a warp in multiples of this.
const REGISTER_UNIT: u32 = 256;

/// What a block takes from its SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) warps: u32,
    pub(super) registers: u32,
    pub(super) shared_bytes: u32,
}

/// Whose work something is, and how urgent.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) client: u64,
    pub(super) context: u32,
    pub(super) client_priority: u8,
    pub(super) stream_priority: i32,
    pub(super) space: Rc<AddressSpace>,
}

/// A descriptor in execution.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) owner: Owner,
    /// Where it lies; `None` if the driver brought it.
    pub(super) address: Option<u64>,
    pub(super) descriptor: Descriptor,
    /// Missing for a NULL descriptor.
    pub(super) shape: Option<Shape>,
    /// Blocks on SMs now.
    pub(super) resident: u32,
    /// From when on blocks may start.
    pub(super) from_ns: u64,
    /// When the row of NULL descriptors began of which this is the latest; `None` for one that runs
    /// something.
    pub(super) idle_since_ns: Option<u64>,
    /// When the last block so far ended.
    pub(super) end_ns: u64,
}

/// The blocks of a grid.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) kernel: Arc<Kernel>,
    pub(super) needs: Needs,
    /// The SMs that may be used.
    pub(super) sms: Vec<u32>,
    /// The number under which blocks see each of them.
    smids: Vec<u32>,
    /// The next block or cluster to start; `None` when all have started.
    pub(super) next: Option<[u32; 3]>,
    end: [u32; 3],
    environment: BlockEnvironment,
    /// Whether all blocks have to be resident at once.
    cooperative: bool,
    /// Whether it could run if nothing else did; found when the GPU takes the grid in.
    pub(super) possible: bool,
}

/// Why a descriptor cannot be run. Hardware would end the context too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GridError {
    /// No code was loaded there.
    #[error("no kernel begins at {0:#x}")]
    Program(u64),
    /// Constant bank 0 cannot be read.
    #[error("constant bank 0 at {0:#x} cannot be read")]
    Bank(u64),
    /// A block that no SM can hold.
    #[error(
        "no SM holds a block of {threads} threads, {registers} registers each, with {shared_bytes} bytes of shared memory"
    )]
    Block {
        threads: u32,
        registers: u32,
        shared_bytes: u32,
    },
    /// A cluster that is empty or too large.
    #[error("a cluster of {0} blocks")]
    Cluster(u32),
}

impl Shape {
    /// Finds everything that a descriptor's work needs from its bytes and from memory.
    pub(super) fn new(
        work: &Work,
        board: &Board,
        space: &AddressSpace,
        grid_id: u64,
    ) -> Result<Self, GridError> {
        let kernel = space
            .program(work.program)
            .ok_or(GridError::Program(work.program))?;
        let (address, bytes) = work.bank;
        let mut bank = vec![0; bytes as usize];
        space
            .load(address, &mut bank)
            .map_err(|_| GridError::Bank(address))?;
        let threads = work.threads();
        let warps = threads.div_ceil(WARP_THREADS);
        let registers_per_warp = (work.registers * WARP_THREADS).next_multiple_of(REGISTER_UNIT);
        let needs = Needs {
            warps,
            registers: registers_per_warp.saturating_mul(warps),
            shared_bytes: work.shared_allocation,
        };
        let system = SHARED_RESERVED_BYTES + kernel.static_shared_bytes;
        let fits = (1..=BLOCK_THREADS_MAX).contains(&threads)
            && needs.registers <= SM_REGISTERS
            && (system..=SM_SHARED_BYTES).contains(&needs.shared_bytes);
        if !fits {
            return Err(GridError::Block {
                threads,
                registers: work.registers,
                shared_bytes: work.shared_allocation,
            });
        }
        let cluster = work.cluster.unwrap_or([1; 3]);
        let blocks = cluster.iter().fold(1_u32, |n, &d| n.saturating_mul(d));
        if !(1..=CLUSTER_BLOCKS_MAX).contains(&blocks) {
            return Err(GridError::Cluster(blocks));
        }
        let environment = BlockEnvironment {
            grid: Work::grid(&bank),
            block: work.block,
            cluster,
            explicit_cluster: work.cluster.is_some(),
            block_index: [0; 3],
            sm: 0,
            sm_count: board.sms(),
            grid_id,
            dynamic_shared_bytes: needs.shared_bytes - system,
            constant_bank: bank.into(),
            parameter_offset: PARAMETER_OFFSET,
        };
        let inside = (0..3).all(|i| work.resume[i] < work.end[i]);
        let sms = allowed_sms(work.tpcs, board);
        Ok(Self {
            kernel,
            needs,
            smids: sms.iter().map(|&sm| board.smid(sm)).collect(),
            sms,
            next: inside.then_some(work.resume),
            end: work.end,
            environment,
            cooperative: work.cooperative,
            possible: false,
        })
    }

    /// Blocks of a cluster.
    pub(super) fn cluster_blocks(&self) -> u32 {
        self.environment.cluster.iter().product()
    }

    /// Whether blocks are started in clusters.
    pub(super) fn has_clusters(&self) -> bool {
        self.environment.explicit_cluster
    }

    /// Clusters that have to find room at once for the next of them to start.
    pub(super) fn clusters_at_once(&self) -> u64 {
        if self.cooperative {
            self.end.iter().fold(1, |n, &d| n.saturating_mul(d.into()))
        } else {
            1
        }
    }

    /// What the blocks of the next cluster are told, and moves on to the one after it. `sms` are
    /// indices into `self.sms`, one for each block.
    pub(super) fn start_next(&mut self, sms: &[usize]) -> Vec<BlockEnvironment> {
        let Some([x, y, z]) = self.next else {
            return Vec::new();
        };
        let [width, height, depth] = self.environment.cluster;
        let blocks = (0..depth)
            .flat_map(|k| (0..height).flat_map(move |j| (0..width).map(move |i| [i, j, k])))
            .zip(sms)
            .map(|([i, j, k], &sm)| BlockEnvironment {
                block_index: [x * width + i, y * height + j, z * depth + k],
                sm: self.smids[sm],
                ..self.environment.clone()
            })
            .collect();
        let end = self.end;
        self.next = if x + 1 < end[0] {
            Some([x + 1, y, z])
        } else if y + 1 < end[1] {
            Some([0, y + 1, z])
        } else if z + 1 < end[2] {
            Some([0, 0, z + 1])
        } else {
            None
        };
        blocks
    }
}

/// The SMs of the TPCs in a mask.
fn allowed_sms(tpcs: TpcMask, board: &Board) -> Vec<u32> {
    (0..)
        .zip(board.tpcs())
        .filter(|(_, tpc)| tpcs.contains(tpc.bit))
        .flat_map(|(index, _)| (0..SMS_PER_TPC).map(move |i| SMS_PER_TPC * index + i))
        .collect()
}

impl Grid {
    /// Whether every block has started and ended.
    pub(super) fn is_complete(&self) -> bool {
        self.resident == 0 && self.shape.as_ref().is_none_or(|shape| shape.next.is_none())
    }
}
