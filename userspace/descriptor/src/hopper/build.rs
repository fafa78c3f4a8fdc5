// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Writing a descriptor from nothing, as the driver writes one: what a simulated driver does, and
//! what a test needs.

use core::borrow::BorrowMut;

use super::fields::*;
use super::{ConstantBuffer, Descriptor, Kind, WORDS, Words};
use crate::field::{Field, TooWide};
use crate::mask::TpcMask;
use crate::template::Template;

/// Why a grid cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A number is too great for its field.
    #[error(transparent)]
    TooWide(#[from] TooWide),
    /// The grid is not made of whole clusters.
    #[error("a grid of {blocks:?} blocks is not made of whole clusters of {cluster:?}")]
    Indivisible {
        /// Blocks of the grid in each direction.
        blocks: [u32; 3],
        /// Blocks of a cluster in each direction.
        cluster: [u32; 3],
    },
}

impl Descriptor<Words> {
    /// A grid of one block of one thread, without program: all that the driver writes into every
    /// plain launch alike. The rest is zero.
    pub const fn blank() -> Self {
        const BLANK: Words = {
            let mut words = [0; WORDS];
            let edits = BLANK_EDITS.edits();
            let mut index = 0;
            while index < edits.len() {
                words[edits[index].word] = edits[index].value;
                index += 1;
            }
            words
        };
        Descriptor(BLANK)
    }

    /// A descriptor that runs nothing and only completes.
    pub const fn null() -> Self {
        let mut null = Self::blank();
        QMD_TYPE.set(&mut null.0, Kind::Null.bits() as u64);
        null
    }
}

/// The values are those of driver 580.159.04 on an H100.
const BLANK_EDITS: Template<WORDS> = Template::new(&[
    (QMD_MAJOR_VERSION, 4),
    (QMD_MINOR_VERSION, 0),
    (QMD_TYPE, Kind::Grid.bits() as u64),
    (QMD_GROUP_ID, 0x3f),
    (SASS_VERSION, 0x90),
    (API_VISIBLE_CALL_LIMIT, 1),
    (SAMPLER_INDEX, 1),
    (INVALIDATE_TEXTURE_HEADER_CACHE, 1),
    (INVALIDATE_TEXTURE_SAMPLER_CACHE, 1),
    (INVALIDATE_TEXTURE_DATA_CACHE, 1),
    (INVALIDATE_SHADER_DATA_CACHE, 1),
    (INVALIDATE_SHADER_CONSTANT_CACHE, 1),
    (CWD_MEMBAR_TYPE, 1),
    (ENABLE_PROGRAM_PRE_EXIT, 1),
    (GRID_WIDTH, 1),
    (GRID_HEIGHT, 1),
    (GRID_DEPTH, 1),
    (CTA_THREAD_DIMENSION0, 1),
    (CTA_THREAD_DIMENSION1, 1),
    (CTA_THREAD_DIMENSION2, 1),
    (REGISTER_COUNT, 16),
    (SHARED_MEMORY_SIZE, 1024),
]);

impl<W: BorrowMut<Words>> Descriptor<W> {
    /// Writes what sort of thing is started.
    pub fn set_kind(&mut self, kind: Kind) -> Result<(), TooWide> {
        self.set(QMD_TYPE, kind.bits().into())
    }

    /// Writes a whole grid of so many blocks as the driver does: plain, in clusters or with all
    /// blocks resident at once.
    pub fn set_blocks(
        &mut self,
        blocks: [u32; 3],
        cluster: Option<[u32; 3]>,
        cooperative: bool,
    ) -> Result<(), ShapeError> {
        let mut units = blocks;
        if let Some(cluster) = cluster {
            for (units, size) in units.iter_mut().zip(cluster) {
                if size == 0 || *units % size != 0 {
                    return Err(ShapeError::Indivisible { blocks, cluster });
                }
                *units /= size;
            }
            self.set_each([GPC_CGA_WIDTH, GPC_CGA_HEIGHT, GPC_CGA_DEPTH], cluster)?;
        }
        if cooperative {
            self.set_each([GPU_CGA_WIDTH, GPU_CGA_HEIGHT, GPU_CGA_DEPTH], units)?;
            units = [1; 3];
        }
        self.set_grid(units)?;
        self.set_kind(match (cluster, cooperative) {
            (None, false) => Kind::Grid,
            (Some(_), false) => Kind::Clusters,
            (None, true) => Kind::Cooperative,
            (Some(_), true) => Kind::CooperativeClusters,
        })?;
        Ok(())
    }

    /// Writes where the grid ends, in the units of its kind.
    pub fn set_grid(&mut self, end: [u32; 3]) -> Result<(), TooWide> {
        self.set_each([GRID_WIDTH, GRID_HEIGHT, GRID_DEPTH], end)
    }

    /// Writes where the grid begins if another descriptor schedules this one.
    pub fn set_resume(&mut self, start: [u32; 3]) -> Result<(), TooWide> {
        self.set_each(
            [GRID_WIDTH_RESUME, GRID_HEIGHT_RESUME, GRID_DEPTH_RESUME],
            start,
        )
    }

    /// Writes the threads of a block.
    pub fn set_block(&mut self, threads: [u32; 3]) -> Result<(), TooWide> {
        self.set_each(
            [
                CTA_THREAD_DIMENSION0,
                CTA_THREAD_DIMENSION1,
                CTA_THREAD_DIMENSION2,
            ],
            threads,
        )
    }

    /// Writes the address of the program's first instruction.
    pub fn set_program(&mut self, address: u64) -> Result<(), TooWide> {
        self.set(PROGRAM_ADDRESS, address)
    }

    /// Writes the shared memory of a block, with the system's part.
    pub fn set_shared_bytes(&mut self, bytes: u32) -> Result<(), TooWide> {
        self.set(SHARED_MEMORY_SIZE, bytes.into())
    }

    /// Writes the registers of a thread.
    pub fn set_registers(&mut self, registers: u32) -> Result<(), TooWide> {
        self.set(REGISTER_COUNT, registers.into())
    }

    /// Binds a constant bank, or unbinds it. The address has to be a multiple of 64 and the size
    /// of 16: what is not does not fit.
    ///
    /// # Panics
    ///
    /// If `bank` is not below [`CONSTANT_BUFFERS`](super::CONSTANT_BUFFERS).
    pub fn set_constant_buffer(
        &mut self,
        bank: u16,
        buffer: Option<ConstantBuffer>,
    ) -> Result<(), TooWide> {
        let Some(buffer) = buffer else {
            return self.set(CONSTANT_BUFFER_VALID.at(bank), 0);
        };
        // A low bit that is set comes out at the top, where it does not fit.
        let address = buffer.address.rotate_right(6);
        let size = u64::from(buffer.size_bytes.rotate_right(4));
        self.set(CONSTANT_BUFFER_ADDR_SHIFTED6.at(bank), address)?;
        self.set(CONSTANT_BUFFER_SIZE_SHIFTED4.at(bank), size)?;
        self.set(CONSTANT_BUFFER_VALID.at(bank), 1)
    }

    /// Writes the mask as a driver does, whatever was there: see [`Descriptor::restrict`] for
    /// what may be done to a driver's descriptor. `None` makes it invalid.
    pub fn set_allowed(&mut self, allowed: Option<TpcMask>) -> Result<(), TooWide> {
        let words = allowed.unwrap_or(TpcMask::ALL).disable_words();
        for (field, word) in TPC_DISABLE_MASK.elements().zip(words) {
            self.set(field, word.into())?;
        }
        self.set(TPC_DISABLE_MASK_VALID, allowed.is_some().into())
    }

    fn set_each(&mut self, fields: [Field; 3], values: [u32; 3]) -> Result<(), TooWide> {
        for (field, value) in fields.into_iter().zip(values) {
            self.set(field, value.into())?;
        }
        Ok(())
    }
}
