// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a launch will do, read from its descriptor.
//!
//! The meanings were compared with launches of all these kinds on an H100; `tests/h100.rs` keeps
//! their descriptors.

use core::borrow::Borrow;

use super::fields::*;
use super::{Descriptor, WORDS, Words};
use crate::field::Field;
use crate::layout::V04_00;
use crate::mask::TpcMask;

/// What sort of thing a descriptor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A queue of work; the driver was not seen to use it.
    Queue,
    /// Nothing: it only completes.
    Null,
    /// A grid of blocks.
    Grid,
    /// A grid of clusters of blocks, each of which runs within one GPC.
    Clusters,
    /// A grid of groups whose blocks are all resident at once: a cooperative launch is one group.
    Cooperative,
    /// A grid of groups of clusters that are all resident at once.
    CooperativeClusters,
    /// A value without a name.
    Unknown(u8),
}

impl Kind {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Kind::Queue,
            1 => Kind::Null,
            2 => Kind::Grid,
            3 => Kind::Clusters,
            4 => Kind::Cooperative,
            5 => Kind::CooperativeClusters,
            other => Kind::Unknown(other),
        }
    }

    /// The value of `QMD_TYPE`.
    pub const fn bits(self) -> u8 {
        match self {
            Kind::Queue => 0,
            Kind::Null => 1,
            Kind::Grid => 2,
            Kind::Clusters => 3,
            Kind::Cooperative => 4,
            Kind::CooperativeClusters => 5,
            Kind::Unknown(other) => other,
        }
    }

    /// Whether the grid counts clusters, so that a mask has to leave room for one in some GPC.
    pub const fn has_clusters(self) -> bool {
        matches!(self, Kind::Clusters | Kind::CooperativeClusters)
    }

    /// Whether all blocks have to be resident at once, so that a mask has to leave room for all.
    pub const fn is_cooperative(self) -> bool {
        matches!(self, Kind::Cooperative | Kind::CooperativeClusters)
    }
}

/// A constant bank of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstantBuffer {
    /// Its address, a multiple of 64.
    pub address: u64,
    /// Its size, a multiple of 16.
    pub size_bytes: u32,
}

impl<W: Borrow<Words>> Descriptor<W> {
    /// What sort of thing is started.
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        Kind::from_bits(self.get8(QMD_TYPE))
    }

    /// Where the grid ends, in the units of its kind: blocks, clusters or cooperative groups.
    #[inline(always)]
    pub fn grid(&self) -> [u32; 3] {
        self.get_each([GRID_WIDTH, GRID_HEIGHT, GRID_DEPTH])
    }

    /// Where the grid begins if another descriptor schedules this one, in the same units.
    pub fn resume(&self) -> [u32; 3] {
        self.get_each([GRID_WIDTH_RESUME, GRID_HEIGHT_RESUME, GRID_DEPTH_RESUME])
    }

    /// Threads of a block in each direction.
    #[inline(always)]
    pub fn block(&self) -> [u32; 3] {
        self.get_each([
            CTA_THREAD_DIMENSION0,
            CTA_THREAD_DIMENSION1,
            CTA_THREAD_DIMENSION2,
        ])
    }

    /// Threads of a block.
    pub fn block_threads(&self) -> u64 {
        self.block().into_iter().map(u64::from).product()
    }

    /// Blocks of a cluster in each direction; all 1 where the grid has no clusters.
    #[inline(always)]
    pub fn cluster(&self) -> [u32; 3] {
        if self.kind().has_clusters() {
            self.get_each([GPC_CGA_WIDTH, GPC_CGA_HEIGHT, GPC_CGA_DEPTH])
        } else {
            [1; 3]
        }
    }

    /// Blocks, or clusters, of a cooperative group in each direction; all 1 where there is none.
    #[inline(always)]
    pub fn group(&self) -> [u32; 3] {
        if self.kind().is_cooperative() {
            self.get_each([GPU_CGA_WIDTH, GPU_CGA_HEIGHT, GPU_CGA_DEPTH])
        } else {
            [1; 3]
        }
    }

    /// The whole grid in blocks: what the program sees as `gridDim`.
    #[inline(always)]
    pub fn blocks(&self) -> [u64; 3] {
        let (grid, cluster, group) = (self.grid(), self.cluster(), self.group());
        [0, 1, 2].map(|axis| {
            // 32 + 16 + 6 bits.
            u64::from(grid[axis]) * u64::from(group[axis]) * u64::from(cluster[axis])
        })
    }

    /// The number of blocks of the whole grid, or `u64::MAX` if there are more.
    #[inline(always)]
    pub fn block_count(&self) -> u64 {
        let [x, y, z] = self.blocks();
        x.saturating_mul(y).saturating_mul(z)
    }

    /// Shared memory of a block in bytes, with the 1 KiB that the driver adds for the system.
    #[inline(always)]
    pub fn shared_bytes(&self) -> u32 {
        self.get32(SHARED_MEMORY_SIZE)
    }

    /// Registers of a thread: the driver rounds them up and never asks for less than 16.
    pub fn registers(&self) -> u32 {
        self.get32(REGISTER_COUNT)
    }

    /// Barriers of a block.
    pub fn barriers(&self) -> u32 {
        self.get32(BARRIER_COUNT)
    }

    /// The address of the program's first instruction.
    #[inline(always)]
    pub fn program(&self) -> u64 {
        self.get(PROGRAM_ADDRESS)
    }

    /// Constant bank `bank`, if it is bound.
    ///
    /// # Panics
    ///
    /// If `bank` is not below [`CONSTANT_BUFFERS`](super::CONSTANT_BUFFERS).
    pub fn constant_buffer(&self, bank: u16) -> Option<ConstantBuffer> {
        self.is_set(CONSTANT_BUFFER_VALID.at(bank))
            .then(|| ConstantBuffer {
                address: self.get(CONSTANT_BUFFER_ADDR_SHIFTED6.at(bank)) << 6,
                size_bytes: self.get32(CONSTANT_BUFFER_SIZE_SHIFTED4.at(bank)) << 4,
            })
    }

    /// The TPCs that the descriptor's mask leaves; all of them while the mask is not valid.
    #[inline(always)]
    pub fn allowed(&self) -> TpcMask {
        if self.is_set(TPC_DISABLE_MASK_VALID) {
            let words = self.words();
            TpcMask::from_disable_words([0, 1, 2, 3].map(|index| words[FIRST_MASK_WORD + index]))
        } else {
            TpcMask::ALL
        }
    }

    /// Whether this is a node of a CUDA graph, which is uploaded once and runs often. A graph's
    /// head is not marked: it is a grid of no blocks whose dependent 0 schedules the first node.
    #[inline(always)]
    pub fn is_graph_node(&self) -> bool {
        self.is_set(SELF_COPY_ON_COMPLETION)
    }

    /// The latch that it waits for before it starts: a launch that may overlap the one before it
    /// (programmatic dependent launch) does.
    pub fn awaited_latch(&self) -> Option<u32> {
        self.is_set(WAIT_ON_LATCH_VALID)
            .then(|| self.get32(WAIT_ON_LATCH_ID))
    }

    /// The latch that it arrives at when it completes.
    pub fn arrival_latch(&self) -> Option<u32> {
        self.is_set(ARRIVE_AT_LATCH_VALID)
            .then(|| self.get32(ARRIVE_AT_LATCH_ID))
    }

    /// The lowest bit that is set and belongs to no field of NVIDIA's header: a sign that this
    /// is not what we think it is, so hands off.
    #[inline]
    pub fn unknown_bit(&self) -> Option<u32> {
        let unknown = |index: usize| self.words()[index] & !COVERED[index];
        // One pass without a branch for the usual case.
        if (0..WORDS).fold(0, |all, index| all | unknown(index)) == 0 {
            return None;
        }
        (0..)
            .zip(0..WORDS)
            .find(|&(_, index)| unknown(index) != 0)
            .map(|(word, index)| word * 32 + unknown(index).trailing_zeros())
    }

    #[inline(always)]
    fn get_each(&self, [x, y, z]: [Field; 3]) -> [u32; 3] {
        [self.get32(x), self.get32(y), self.get32(z)]
    }

    /// Reads a field of at most 8 bits.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the field has 8 bits at most"
    )]
    pub(super) fn get8(&self, field: Field) -> u8 {
        debug_assert!(field.width() <= 8);
        self.get(field) as u8
    }
}

/// The word that holds the mask of TPCs 0 to 31; those of the others follow.
pub(super) const FIRST_MASK_WORD: usize = (TPC_DISABLE_MASK.lo() / 32) as usize;

const _: () = {
    let repeat = TPC_DISABLE_MASK.repeats()[0];
    assert!(TPC_DISABLE_MASK.lo().is_multiple_of(32) && TPC_DISABLE_MASK.width() == 32);
    assert!(repeat.count == 4 && repeat.stride == 32);
};

/// Every bit that belongs to some field.
static COVERED: Words = V04_00.covered();
