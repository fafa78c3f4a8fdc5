// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the hardware does when a launch completes: up to three release semaphores, which it
//! writes, and up to two dependents, other descriptors which it acts on.

use core::borrow::{Borrow, BorrowMut};

use super::{Descriptor, Words, fields};
use crate::field::TooWide;

/// A write to memory at completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Where.
    pub address: u64,
    /// What; its lower half unless `payload64` is set.
    pub payload: u64,
    /// How much is written around the payload.
    pub size: ReleaseSize,
    /// Whether the launch's own writes are visible to everyone before it.
    pub membar: bool,
    /// What is done instead of a store.
    pub reduction: Option<Reduction>,
    /// Whether the payload has 64 bits.
    pub payload64: bool,
    /// NVIDIA's `TRAP_TYPE`; 0 is none.
    pub trap: u8,
}

/// How much a release writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReleaseSize {
    /// Payload, zero, and the time in nanoseconds as 64 bits: 16 bytes.
    FourWords = 0,
    /// The payload.
    OneWord = 1,
    /// Two words.
    TwoWords = 2,
    /// A value without a name.
    Reserved = 3,
}

/// A read-modify-write of the semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// The operation.
    pub op: ReductionOp,
    /// Whether it takes the operands as signed.
    pub signed: bool,
}

/// What a reduction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ReductionOp {
    Add = 0,
    Min = 1,
    Max = 2,
    Inc = 3,
    Dec = 4,
    And = 5,
    Or = 6,
    Xor = 7,
}

/// Another descriptor that the hardware acts on at completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// The descriptor's address: a multiple of 256 below 1 TiB.
    pub address: u64,
    /// What is done to it.
    pub action: Action,
    /// Whether it is fetched early.
    pub prefetch: bool,
}

/// What is done to a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A queue's write position moves on.
    IncrementPut,
    /// It starts, at its own `RESUME` position.
    Schedule,
    /// It is read anew from memory and starts from its beginning.
    InvalidateCopySchedule,
    /// Its dependence counter goes down by one; at zero it starts.
    DecrementDependence,
    /// A value without a name.
    Unknown(u8),
}

impl Action {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Action::IncrementPut,
            1 => Action::Schedule,
            3 => Action::InvalidateCopySchedule,
            4 => Action::DecrementDependence,
            other => Action::Unknown(other),
        }
    }

    /// The value of `DEPENDENT_QMD_ACTION`.
    pub const fn bits(self) -> u8 {
        match self {
            Action::IncrementPut => 0,
            Action::Schedule => 1,
            Action::InvalidateCopySchedule => 3,
            Action::DecrementDependence => 4,
            Action::Unknown(other) => other,
        }
    }
}

/// The address of a dependent is stored in units of so many bits.
pub(super) const POINTER_SHIFT: u32 = 8;

impl<W: Borrow<Words>> Descriptor<W> {
    /// Release semaphore `slot`, if it is enabled.
    ///
    /// # Panics
    ///
    /// If `slot` is not below [`RELEASES`](super::RELEASES).
    pub fn release(&self, slot: u16) -> Option<Release> {
        use fields::*;
        if !self.is_set(RELEASE_ENABLE.at(slot)) {
            return None;
        }
        let op = match self.get(RELEASE_REDUCTION_OP.at(slot)) {
            0 => ReductionOp::Add,
            1 => ReductionOp::Min,
            2 => ReductionOp::Max,
            3 => ReductionOp::Inc,
            4 => ReductionOp::Dec,
            5 => ReductionOp::And,
            6 => ReductionOp::Or,
            _ => ReductionOp::Xor,
        };
        let signed = self.is_set(RELEASE_REDUCTION_FORMAT.at(slot));
        Some(Release {
            address: self.get(RELEASE_SEMAPHORE_ADDR.at(slot)),
            payload: self.get(RELEASE_SEMAPHORE_PAYLOAD.at(slot)),
            size: match self.get(RELEASE_STRUCTURE_SIZE.at(slot)) {
                0 => ReleaseSize::FourWords,
                1 => ReleaseSize::OneWord,
                2 => ReleaseSize::TwoWords,
                _ => ReleaseSize::Reserved,
            },
            membar: self.is_set(RELEASE_MEMBAR_TYPE.at(slot)),
            reduction: self
                .is_set(RELEASE_REDUCTION_ENABLE.at(slot))
                .then_some(Reduction { op, signed }),
            payload64: self.is_set(RELEASE_PAYLOAD64B.at(slot)),
            trap: self.get8(RELEASE_TRAP_TYPE.at(slot)),
        })
    }

    /// Dependent `slot`, if it is enabled.
    ///
    /// # Panics
    ///
    /// If `slot` is not below [`DEPENDENTS`](super::DEPENDENTS).
    pub fn dependent(&self, slot: u16) -> Option<Dependent> {
        use fields::*;
        self.is_set(DEPENDENT_QMD_ENABLE.at(slot))
            .then(|| Dependent {
                address: self.get(DEPENDENT_QMD_POINTER.at(slot)) << POINTER_SHIFT,
                action: Action::from_bits(self.get8(DEPENDENT_QMD_ACTION.at(slot))),
                prefetch: self.is_set(DEPENDENT_QMD_PREFETCH.at(slot)),
            })
    }
}

impl<W: BorrowMut<Words>> Descriptor<W> {
    /// Writes release semaphore `slot`, or disables it.
    ///
    /// # Panics
    ///
    /// If `slot` is not below [`RELEASES`](super::RELEASES).
    pub fn set_release(&mut self, slot: u16, release: Option<Release>) -> Result<(), TooWide> {
        use fields::*;
        let Some(release) = release else {
            return self.set(RELEASE_ENABLE.at(slot), 0);
        };
        let (op, signed) = match release.reduction {
            Some(Reduction { op, signed }) => (op as u64, signed),
            None => (0, false),
        };
        self.set(RELEASE_SEMAPHORE_ADDR.at(slot), release.address)?;
        self.set(RELEASE_SEMAPHORE_PAYLOAD.at(slot), release.payload)?;
        self.set(RELEASE_TRAP_TYPE.at(slot), release.trap.into())?;
        self.set(RELEASE_STRUCTURE_SIZE.at(slot), release.size as u64)?;
        self.set(RELEASE_MEMBAR_TYPE.at(slot), release.membar.into())?;
        let reduces = release.reduction.is_some();
        self.set(RELEASE_REDUCTION_ENABLE.at(slot), reduces.into())?;
        self.set(RELEASE_REDUCTION_OP.at(slot), op)?;
        self.set(RELEASE_REDUCTION_FORMAT.at(slot), signed.into())?;
        self.set(RELEASE_PAYLOAD64B.at(slot), release.payload64.into())?;
        self.set(RELEASE_ENABLE.at(slot), 1)
    }

    /// Writes dependent `slot`, or disables it. The lowest 8 bits of the address cannot be told
    /// to the hardware and have to be zero: an address with any of them set does not fit.
    ///
    /// # Panics
    ///
    /// If `slot` is not below [`DEPENDENTS`](super::DEPENDENTS).
    pub fn set_dependent(
        &mut self,
        slot: u16,
        dependent: Option<Dependent>,
    ) -> Result<(), TooWide> {
        use fields::*;
        let Some(dependent) = dependent else {
            return self.set(DEPENDENT_QMD_ENABLE.at(slot), 0);
        };
        // A low bit that is set comes out at the top, where it does not fit.
        let pointer = dependent.address.rotate_right(POINTER_SHIFT);
        self.set(DEPENDENT_QMD_POINTER.at(slot), pointer)?;
        let action = dependent.action.bits().into();
        self.set(DEPENDENT_QMD_ACTION.at(slot), action)?;
        self.set(DEPENDENT_QMD_PREFETCH.at(slot), dependent.prefetch.into())?;
        self.set(DEPENDENT_QMD_ENABLE.at(slot), 1)
    }
}
