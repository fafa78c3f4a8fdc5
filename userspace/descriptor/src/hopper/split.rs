// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which launches may be split, and why the others may not.
//!
//! Chains were measured with the descriptors that the driver builds for plain launches, of blocks
//! and of clusters. Whatever has a bit that says more than that stays whole: what it means for a
//! part of a grid is not known, or is known to be wrong. The descriptor does not say everything: a
//! graph of one kernel carries no mark, nor does the first node of two, so whoever asks knows that
//! the launch is not one of a graph.

use super::edit::restricted;
use super::fields::*;
use super::place::RUNS;
use super::{Action, Descriptor, Kind, Restricted, StampError, StampSlot, WORDS, Words};
use crate::field::Field;
use crate::layout::V04_00;
use crate::mask::TpcMask;

/// Why a launch is not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A bit is set that belongs to no field.
    #[error("bit {0} is set, which is not known")]
    UnknownBit(u32),
    /// All blocks have to be resident at once: a part of them would wait for the rest.
    #[error("a cooperative launch")]
    Cooperative,
    /// It runs no grid.
    #[error("a descriptor of kind {0:?}")]
    Kind(Kind),
    /// It waits for a latch, or lets others start before it has completed.
    #[error("a programmatic launch")]
    Programmatic,
    /// It is a node of a CUDA graph, which is uploaded once, filled in later and runs often.
    #[error("a node of a graph")]
    GraphNode,
    /// It counts references.
    #[error("a launch that counts references")]
    ReferenceCounted,
    /// It waits until others have counted it down.
    #[error("a launch that others start")]
    Counted,
    /// It belongs to a queue of the hardware's.
    #[error("a launch with a queue")]
    Queue,
    /// Its blocks run one after another.
    #[error("a launch of sequential blocks")]
    Sequential,
    /// It begins in the middle of its grid.
    #[error("a launch that resumes")]
    Resumed,
    /// Its dependents are not what a plain launch has: one at most, which is counted down.
    #[error("a launch with dependents")]
    Dependents,
    /// Both release semaphores that could stamp the end are in use.
    #[error("a launch without a free release semaphore")]
    Releases,
    /// A known field is set that no measured launch had.
    #[error("{0} is set")]
    Unmeasured(&'static str),
    /// The grid cannot be cut, or into more atoms only.
    #[error("a grid of one atom")]
    OneAtom,
    /// The plan is one for another grid, or the links are not one fewer than its atoms.
    #[error("a plan that does not fit")]
    Plan,
}

/// A driver's descriptor of a launch that may be split.
///
/// What else is edited is edited by way of this, after the look at it: that reads several words at
/// once, which would have to wait if some of them had just been stored singly.
#[derive(Debug)]
pub struct Splittable<'d> {
    pub(super) words: &'d mut Words,
    /// What its mask leaves: kept, not read back.
    pub(super) allowed: TpcMask,
}

impl Splittable<'_> {
    /// The descriptor, to read.
    #[inline(always)]
    pub fn view(&self) -> Descriptor<&Words> {
        Descriptor(&*self.words)
    }

    /// Takes away TPCs from the whole launch: see [`Descriptor::restrict`].
    #[inline]
    pub fn restrict(&mut self, allowed: TpcMask, present: TpcMask) -> Restricted {
        if let Some(after) = restricted(self.allowed, allowed, present) {
            self.allowed = after;
        }
        Descriptor(&mut *self.words).restrict(allowed, present)
    }

    /// Stamps the completion of the whole launch: see [`Descriptor::stamp`]. The chain needs the
    /// other slot.
    #[inline]
    pub fn stamp(&mut self, slot: StampSlot, address: u64, payload: u32) -> Result<(), StampError> {
        Descriptor(&mut *self.words).stamp(slot, address, payload)
    }
}

impl<'d> Descriptor<&'d mut Words> {
    /// Finds out whether the launch may be split.
    #[inline]
    pub fn splittable(self) -> Result<Splittable<'d>, SplitError> {
        if let Some(reason) = self.why_whole() {
            return Err(reason);
        }
        let allowed = self.allowed();
        Ok(Splittable {
            words: self.into_inner(),
            allowed,
        })
    }

    #[inline]
    fn why_whole(&self) -> Option<SplitError> {
        // One pass without a branch for the usual case.
        let forbidden = |index: usize| self.words()[index] & FORBIDDEN[index];
        if (0..WORDS).fold(0, |all, index| all | forbidden(index)) != 0 {
            return Some(self.forbidden());
        }
        match self.kind() {
            Kind::Grid | Kind::Clusters => {}
            Kind::Cooperative | Kind::CooperativeClusters => return Some(SplitError::Cooperative),
            kind => return Some(SplitError::Kind(kind)),
        }
        if let Some(dependent) = self.dependent(0)
            && dependent.action != Action::DecrementDependence
        {
            return Some(SplitError::Dependents);
        }
        (!has_free_release(self.words())).then_some(SplitError::Releases)
    }

    /// The first reason in the order of [`REASONS`].
    #[cold]
    fn forbidden(&self) -> SplitError {
        if let Some(bit) = self.unknown_bit() {
            return SplitError::UnknownBit(bit);
        }
        let set = |&&(field, _): &&(Field, SplitError)| self.is_set(field);
        let reason = REASONS.iter().find(set).map(|&(_, reason)| reason);
        // A forbidden bit is unknown or in the table; the tests try every one.
        reason.unwrap_or(SplitError::Unmeasured("a bit"))
    }
}

/// Whether one of the release semaphores that stamp is free, for the end of a chain.
#[inline(always)]
pub(super) fn has_free_release(words: &Words) -> bool {
    RELEASE_ENABLE.at(1).get(words) == 0 || RELEASE_ENABLE.at(2).get(words) == 0
}

/// Fields that are zero in every launch that may be split.
const REASONS: [(Field, SplitError); 40] = [
    (WAIT_ON_LATCH_VALID, SplitError::Programmatic),
    (PRE_EXIT_AT_LAST_CTA_LAUNCH, SplitError::Programmatic),
    (SELF_COPY_ON_COMPLETION, SplitError::GraphNode),
    (REQUIRE_SCHEDULING_PCAS, SplitError::GraphNode),
    (HW_ONLY_REQUIRE_SCHEDULING_PCAS, SplitError::GraphNode),
    (
        CWD_REFERENCE_COUNT_INCR_ENABLE,
        SplitError::ReferenceCounted,
    ),
    (
        CWD_REFERENCE_COUNT_DECR_ENABLE,
        SplitError::ReferenceCounted,
    ),
    (DEPENDENCE_COUNTER, SplitError::Counted),
    (HW_ONLY_DEPENDENCE_COUNTER, SplitError::Counted),
    (CIRCULAR_QUEUE_SIZE, SplitError::Queue),
    (INNER_GET, SplitError::Queue),
    (INNER_OVERFLOW, SplitError::Queue),
    (INNER_PUT, SplitError::Queue),
    (INNER_STICKY_OVERFLOW, SplitError::Queue),
    (HW_ONLY_INNER_GET, SplitError::Queue),
    (HW_ONLY_INNER_PUT, SplitError::Queue),
    (HW_ONLY_SPAN_LIST_HEAD_INDEX, SplitError::Queue),
    (HW_ONLY_SPAN_LIST_HEAD_INDEX_VALID, SplitError::Queue),
    (HW_ONLY_SKED_NEXT_QMD_POINTER, SplitError::Queue),
    (CIRCULAR_QUEUE_ADDR_LOWER, SplitError::Queue),
    (CIRCULAR_QUEUE_ADDR_UPPER, SplitError::Queue),
    (CIRCULAR_QUEUE_ENTRY_SIZE, SplitError::Queue),
    (COALESCE_WAITING_PERIOD, SplitError::Queue),
    (QUEUE_ENTRIES_PER_CTA_LOG2, SplitError::Queue),
    (OUTER_PUT, SplitError::Queue),
    (OUTER_OVERFLOW, SplitError::Queue),
    (OUTER_GET, SplitError::Queue),
    (OUTER_STICKY_OVERFLOW, SplitError::Queue),
    (SEQUENTIALLY_RUN_CTAS, SplitError::Sequential),
    (GRID_WIDTH_RESUME, SplitError::Resumed),
    (GRID_HEIGHT_RESUME, SplitError::Resumed),
    (GRID_DEPTH_RESUME, SplitError::Resumed),
    (DEPENDENT_QMD_ENABLE.at(1), SplitError::Dependents),
    unmeasured(CTA_LAUNCH_QUEUE),
    unmeasured(ADD_TO_HEAD_OF_QMD_GROUP_LINKED_LIST),
    // The rest of a gate's word, which is a constant.
    unmeasured(RELEASE_RESERVED_INFO.at(2)),
    unmeasured(DEMOTE_L2_EVICT_LAST),
    unmeasured(DISABLE_AUTO_INVALIDATE),
    unmeasured(CORRELATION_ID_INTERNAL),
    unmeasured(CWD_MEMBAR_TASK_CHASING_ENABLE),
];

const fn unmeasured(field: Field) -> (Field, SplitError) {
    (field, SplitError::Unmeasured(field.name()))
}

/// Every bit that no launch that may be split has: those of no field, and those of the table.
static FORBIDDEN: Words = forbidden();

const fn forbidden() -> Words {
    let mut forbidden = V04_00.covered();
    let mut word = 0;
    while word < WORDS {
        forbidden[word] = !forbidden[word];
        word += 1;
    }
    let mut index = 0;
    while index < REASONS.len() {
        let field = REASONS[index].0;
        field.set(&mut forbidden, field.max());
        index += 1;
    }
    forbidden
}

// What a place does not copy is zero in every launch that may be split.
const _: () = {
    let forbidden = forbidden();
    let mut word = 0;
    while word < WORDS {
        let mut copied = false;
        let mut run = 0;
        while run < RUNS.len() {
            copied |= RUNS[run].start <= word / 2 && word / 2 < RUNS[run].end;
            run += 1;
        }
        assert!(copied || forbidden[word] == u32::MAX);
        word += 1;
    }
};
