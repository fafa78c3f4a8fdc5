// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A kernel's instructions as they are executed.
//!
//! The idea: every value operand is a *row* of a warp's register file, one word per lane. Constants and
//! those special registers that never change while a block runs are rows too, filled in when the warp
//! starts, so an instruction is a function pointer and a few row numbers. Predicates are bit masks over
//! the lanes. A narrow value is kept with zeroes above it.

use std::collections::HashMap;

use super::atomic::Atomic;
use super::convert::Conversion;
use super::error::LinkError;
use super::special::{Clock, Special};

/// The lanes of a warp.
pub(super) const LANES: usize = 32;

/// One register of every lane.
pub(super) type Row = [u64; LANES];

pub(super) type Unary = fn(&Row, &mut Row);
pub(super) type Binary = fn(&Row, &Row, &mut Row);
pub(super) type Ternary = fn(&Row, &Row, &Row, &mut Row);
pub(super) type Quaternary = fn(&Row, &Row, &Row, &Row, &mut Row);
/// A comparison: one bit per lane.
pub(super) type Test = fn(&Row, &Row) -> u32;

/// The number of a row.
pub(super) type RowIndex = u16;
/// The number of a predicate.
pub(super) type PredicateIndex = u16;

/// The row that takes what nobody wants (`_`).
pub(super) const SINK_ROW: RowIndex = 0;
/// The predicate that is always true.
pub(super) const TRUE: PredicateIndex = 0;
/// The predicate that takes what nobody wants.
pub(super) const SINK_PREDICATE: PredicateIndex = 1;
/// The carry flag of `add.cc` and its kin.
pub(super) const CARRY: PredicateIndex = 2;
/// Predicates that every kernel has.
pub(super) const FIXED_PREDICATES: u16 = 3;

/// A predicate or its complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) predicate: PredicateIndex,
    /// All ones for the complement.
    pub(super) flip: u32,
}

impl Condition {
    pub(super) const ALWAYS: Self = Self {
        predicate: TRUE,
        flip: 0,
    };
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) operation: Operation,
    pub(super) guard: Condition,
    /// Modelled cycles.
    pub(super) cycles: u16,
    /// The line of the text.
    pub(super) line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub(super) fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        }
    }
}

/// Where an address points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Generic,
    /// Also constant variables: they are device memory.
    Global,
    Shared,
    Local,
    Parameter,
}

/// One lane's share of a memory instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) space: Space,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub(super) bytes: u8,
    /// Elements: 1, 2 or 4.
    pub(super) count: u8,
    pub(super) base: RowIndex,
    pub(super) offset: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a barrier reduces, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BarrierResult {
    None,
    Count(RowIndex),
    All(PredicateIndex),
    Any(PredicateIndex),
}

/// An operation in which the lanes named by a member mask act together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Collective {
    Sync,
    Vote {
        vote: Vote,
        /// A row for ballots, else a predicate.
        d: u16,
        source: Condition,
    },
    Shuffle {
        shuffle: Shuffle,
        d: RowIndex,
        in_range: PredicateIndex,
        a: RowIndex,
        b: RowIndex,
        c: RowIndex,
    },
    MatchAny {
        d: RowIndex,
        a: RowIndex,
    },
    MatchAll {
        d: RowIndex,
        same: PredicateIndex,
        a: RowIndex,
    },
    Reduce {
        atomic: Atomic,
        d: RowIndex,
        a: RowIndex,
    },
    Elect {
        d: RowIndex,
        leader: PredicateIndex,
    },
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Orders memory; the interpreter's memory is always in order.
    Nothing,
    Unary(Unary, RowIndex, RowIndex),
    Binary(Binary, RowIndex, RowIndex, RowIndex),
    Ternary(Ternary, RowIndex, [RowIndex; 3]),
    Quaternary(Quaternary, RowIndex, [RowIndex; 4]),
    Convert(Conversion, RowIndex, RowIndex),
    Compare {
        test: Test,
        a: RowIndex,
        b: RowIndex,
        d: PredicateIndex,
        /// Takes the complement of the comparison, combined likewise.
        complement: PredicateIndex,
        logic: Logic,
        with: Condition,
    },
    Select {
        d: RowIndex,
        a: RowIndex,
        b: RowIndex,
        condition: Condition,
    },
    Predicate {
        logic: Logic,
        d: PredicateIndex,
        a: Condition,
        b: Condition,
        /// All ones to complement the result.
        flip: u32,
    },
    /// Addition or subtraction with the carry flag.
    Carry {
        wide: bool,
        subtract: bool,
        carry_in: bool,
        carry_out: bool,
        d: RowIndex,
        a: RowIndex,
        b: RowIndex,
    },
    Load {
        place: Place,
        d: [RowIndex; 4],
        /// The mask to apply after sign extension; zero for no extension.
        extend: u64,
    },
    Store {
        place: Place,
        a: [RowIndex; 4],
    },
    Atomic {
        place: Place,
        atomic: Atomic,
        d: RowIndex,
        a: RowIndex,
        /// The comparand of a compare-and-exchange.
        compare: RowIndex,
    },
    Branch(u32),
    /// Branches to the entry of a table that a row names.
    BranchTable(RowIndex, Box<[u32]>),
    Exit,
    Trap,
    Barrier {
        barrier: RowIndex,
        /// How many threads take part; `SINK_ROW` for all of the block.
        threads: RowIndex,
        waits: bool,
        result: BarrierResult,
        source: Condition,
    },
    ClusterArrive,
    ClusterWait,
    Collective(RowIndex, Collective),
    ActiveMask(RowIndex),
    Sleep(RowIndex),
    ReadClock(Clock, RowIndex),
}

/// A constant's value once the variables have addresses.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    pub(super) row: RowIndex,
    pub(super) value: u64,
    /// The variable whose address is added to `value`.
    pub(super) variable: Option<String>,
}

/// A kernel's code.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    pub(super) instructions: Vec<Instruction>,
    pub(super) rows: u16,
    pub(super) predicates: u16,
    pub(super) constants: Vec<Constant>,
    pub(super) specials: Vec<(Special, RowIndex)>,
}

impl Code {
    /// Fills in the addresses of variables.
    pub(super) fn link(
        &mut self,
        find: impl Fn(&str) -> Result<u64, LinkError>,
    ) -> Result<(), LinkError> {
        let mut known = HashMap::new();
        for constant in &mut self.constants {
            if let Some(name) = constant.variable.take() {
                let address = match known.get(&name) {
                    Some(address) => *address,
                    None => find(&name)?,
                };
                constant.value = constant.value.wrapping_add(address);
                known.insert(name, address);
            }
        }
        Ok(())
    }
}
