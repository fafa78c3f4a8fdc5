// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Version 4.0, which Hopper (H100, H200, GH200) runs: the one version that may be edited.
//!
//! A [`Descriptor`] is a view of 96 words that somebody else owns: `Descriptor<&mut Words>` for
//! one that the driver is about to upload, `Descriptor<&Words>` to look, `Descriptor<Words>` for
//! one of our own. The driver aligns a descriptor to 4 bytes, not more (seen with graphs), so
//! words are also the widest stores that can be made.
//!
//! - `read.rs`: what a launch will do.
//! - `edit.rs`: the edits on the launch path, a few word stores each.
//! - `split.rs`, `chain.rs`, `gate.rs`: which launches are split into atoms, and how.
//! - `place.rs`: memory that the GPU reads descriptors from and writes stamps to.
//! - `build.rs`: writing a descriptor from nothing.
//! - `proof.rs`: what is proven of the edits on a GPU before they are used there.

use core::borrow::{Borrow, BorrowMut};

use crate::field::{Field, TooWide};
use crate::layout::{V04_00, Version};

mod build;
mod chain;
mod edit;
pub mod fields;
mod gate;
mod place;
mod proof;
mod read;
mod slots;
mod split;

pub use build::ShapeError;
pub use chain::{Chain, Link};
pub use edit::{Restricted, StampError, StampSlot};
pub use gate::{GATE_WORD, Gate, GateState};
pub use place::{Place, PlaceError, Stamp};
pub use proof::{edits, stray_bit};
pub use read::{ConstantBuffer, Kind};
pub use slots::{Action, Dependent, Reduction, ReductionOp, Release, ReleaseSize};
pub use split::{SplitError, Splittable};

/// The number of 32-bit words of a descriptor: 384 bytes.
pub const WORDS: usize = V04_00.words();

/// A whole descriptor.
pub type Words = [u32; WORDS];

/// The number of release semaphores.
pub const RELEASES: u16 = fields::RELEASE_ENABLE.repeats()[0].count;
/// The number of dependents.
pub const DEPENDENTS: u16 = fields::DEPENDENT_QMD_ENABLE.repeats()[0].count;
/// The number of constant buffers.
pub const CONSTANT_BUFFERS: u16 = fields::CONSTANT_BUFFER_VALID.repeats()[0].count;

/// A launch descriptor of version 4.0, owned or borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor<W>(W);

/// A descriptor of another version than 4.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the launch descriptor says that its version is {found}, not {}",
    Version::V04_00
)]
pub struct WrongVersion {
    /// The version that it seems to have.
    pub found: Version,
}

impl<W: Borrow<Words>> Descriptor<W> {
    /// Takes words for a descriptor, if they say that they are one of version 4.0.
    #[inline]
    pub fn new(words: W) -> Result<Self, WrongVersion> {
        let found = version_of(words.borrow());
        if found == Version::V04_00 {
            Ok(Descriptor(words))
        } else {
            Err(WrongVersion { found })
        }
    }

    /// The words.
    #[inline]
    pub fn words(&self) -> &Words {
        self.0.borrow()
    }

    /// The same, to read.
    #[inline(always)]
    pub fn view(&self) -> Descriptor<&Words> {
        Descriptor(self.words())
    }

    /// The words, or the borrow of them, that this was made from.
    pub fn into_inner(self) -> W {
        self.0
    }

    /// A copy to keep.
    pub fn copied(&self) -> Descriptor<Words> {
        Descriptor(*self.words())
    }

    /// The bytes, as the hardware reads them.
    pub fn to_bytes(&self) -> [u8; WORDS * 4] {
        let mut bytes = [0; WORDS * 4];
        for (to, word) in bytes.chunks_exact_mut(4).zip(self.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a field.
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        field.get(self.words())
    }

    /// Reads a field of at most 32 bits.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the field has 32 bits at most"
    )]
    fn get32(&self, field: Field) -> u32 {
        debug_assert!(field.width() <= 32);
        self.get(field) as u32
    }

    /// Whether a field is anything but zero.
    #[inline(always)]
    fn is_set(&self, field: Field) -> bool {
        self.get(field) != 0
    }
}

impl Descriptor<Words> {
    /// Reads a descriptor from its bytes, if they say that they are one of version 4.0.
    pub fn from_bytes(bytes: &[u8; WORDS * 4]) -> Result<Self, WrongVersion> {
        let mut words = [0; WORDS];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
        Self::new(words)
    }
}

impl<W: BorrowMut<Words>> Descriptor<W> {
    /// The words, to be changed.
    #[inline]
    pub fn words_mut(&mut self) -> &mut Words {
        self.0.borrow_mut()
    }

    /// Writes a field, unless the value does not fit.
    #[inline]
    pub fn set(&mut self, field: Field, value: u64) -> Result<(), TooWide> {
        field.try_set(self.words_mut(), value)
    }
}

/// The version that a descriptor says it has, if it is of version 4 or less.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the fields have 4 bits")]
fn version_of(words: &Words) -> Version {
    Version {
        major: fields::QMD_MAJOR_VERSION.get(words) as u8,
        minor: fields::QMD_MINOR_VERSION.get(words) as u8,
    }
}
