// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: loads, stores and atomics.
//!
//! Cache operators, eviction priorities, scopes and orderings are accepted and have no effect: the
//! interpreter's memory has no caches, and every access is done when its instruction is.

use super::assemble::Assembly;
use super::atomic::{Atomic, AtomicOperation, AtomicType};
use super::code::{Operation, Place, RowIndex, SINK_ROW, Space};
use super::cursor::Operand;
use super::error::ParseError;
use super::types::{Kind, Type, mask};

/// Modifiers that say how fresh or how long-lived the data is.
const HINTS: &[&str] = &[
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "mmio",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
];

/// Modelled cycles by space.
const GLOBAL_CYCLES: u16 = 4;
const SHARED_CYCLES: u16 = 2;
const GLOBAL_ATOMIC_CYCLES: u16 = 16;
const SHARED_ATOMIC_CYCLES: u16 = 4;

pub(super) fn assemble(mut assembly: Assembly<'_, '_>) -> Result<(), ParseError> {
    match assembly.statement.mnemonic {
        "ld" | "ldu" => load(&mut assembly),
        "st" => store(&mut assembly),
        "atom" => atomic(&mut assembly, true),
        "red" => atomic(&mut assembly, false),
        _ => prefetch(&mut assembly),
    }
}

/// Takes the state space; generic if none is named.
fn space(assembly: &mut Assembly<'_, '_>) -> Space {
    let named = assembly.modifiers.take_any(&[
        "global",
        "const",
        "shared",
        "shared::cta",
        "local",
        "param",
        "param::entry",
    ]);
    match named {
        Some("global" | "const") => Space::Global,
        Some("shared" | "shared::cta") => Space::Shared,
        Some("local") => Space::Local,
        Some(_) => Space::Parameter,
        None => Space::Generic,
    }
}

fn cycles(space: Space) -> u16 {
    match space {
        Space::Generic | Space::Global => GLOBAL_CYCLES,
        Space::Shared | Space::Local => SHARED_CYCLES,
        Space::Parameter => 1,
    }
}

/// Takes the modifiers that loads and stores share.
fn form(assembly: &mut Assembly<'_, '_>) -> Result<(Type, Space, u8), ParseError> {
    let ty = assembly.modifiers.ty()?;
    assembly.modifiers.take_all(HINTS);
    let space = space(assembly);
    let count = match assembly.modifiers.take_any(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    assembly.modifiers.finish()?;
    if ty.kind == Kind::Predicate || count * ty.bytes() > 16 {
        return assembly.refuse();
    }
    Ok((ty, space, count))
}

/// The elements of a vector operand, or the one operand.
fn elements<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::Vector(elements) => elements,
        _ => std::slice::from_ref(operand),
    }
}

fn load(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let (ty, space, count) = form(assembly)?;
    let [target, address] = assembly.operands::<2>()?.clone();
    let (base, offset) = assembly.body.address(&address, space)?;
    let targets = elements(&target);
    if targets.len() != usize::from(count) {
        return assembly.body.invalid("a vector of another length");
    }
    let mut d: [RowIndex; 4] = [SINK_ROW; 4];
    let mut widest = ty.bits;
    for (d, target) in d.iter_mut().zip(targets) {
        let (row, bits) = assembly.body.wide_target(target, ty)?;
        *d = row;
        if row != SINK_ROW {
            // One extension serves all elements; a narrower register among them has the same type.
            if widest != ty.bits && widest != bits {
                return assembly.refuse();
            }
            widest = bits;
        }
    }
    let place = Place {
        space,
        bytes: ty.bytes(),
        count,
        base,
        offset,
    };
    let extend = if ty.is_signed() && widest > ty.bits {
        mask(widest)
    } else {
        0
    };
    let operation = Operation::Load { place, d, extend };
    assembly.body.emit(operation, cycles(space))
}

fn store(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let (ty, space, count) = form(assembly)?;
    if space == Space::Parameter {
        return assembly.refuse();
    }
    let [address, source] = assembly.operands::<2>()?.clone();
    let (base, offset) = assembly.body.address(&address, space)?;
    let sources = elements(&source);
    if sources.len() != usize::from(count) {
        return assembly.body.invalid("a vector of another length");
    }
    let mut a: [RowIndex; 4] = [SINK_ROW; 4];
    for (a, source) in a.iter_mut().zip(sources) {
        *a = assembly.body.wide_value(source, ty)?;
    }
    let place = Place {
        space,
        bytes: ty.bytes(),
        count,
        base,
        offset,
    };
    assembly
        .body
        .emit(Operation::Store { place, a }, cycles(space))
}

fn atomic_type(operation: AtomicOperation, ty: Type) -> Option<AtomicType> {
    use AtomicOperation as Op;
    let fits = match operation {
        Op::Add => ty.kind != Kind::Bits,
        Op::Minimum | Op::Maximum => ty.kind == Kind::Unsigned || ty.is_signed(),
        Op::Increment | Op::Decrement => ty == Type::U32,
        Op::Exchange | Op::CompareExchange | Op::And | Op::Or | Op::Xor => ty.kind == Kind::Bits,
    };
    match (ty.kind, ty.bits) {
        _ if !fits => None,
        (Kind::Bits | Kind::Unsigned, 32) => Some(AtomicType::U32),
        (Kind::Bits | Kind::Unsigned, 64) => Some(AtomicType::U64),
        (Kind::Signed, 32) => Some(AtomicType::S32),
        (Kind::Signed, 64) => Some(AtomicType::S64),
        (Kind::Float, 32) => Some(AtomicType::F32),
        (Kind::Float, 64) => Some(AtomicType::F64),
        _ => None,
    }
}

pub(super) fn operation_named(name: &str) -> Option<AtomicOperation> {
    Some(match name {
        "add" => AtomicOperation::Add,
        "exch" => AtomicOperation::Exchange,
        "cas" => AtomicOperation::CompareExchange,
        "min" => AtomicOperation::Minimum,
        "max" => AtomicOperation::Maximum,
        "and" => AtomicOperation::And,
        "or" => AtomicOperation::Or,
        "xor" => AtomicOperation::Xor,
        "inc" => AtomicOperation::Increment,
        "dec" => AtomicOperation::Decrement,
        _ => return None,
    })
}

fn atomic(assembly: &mut Assembly<'_, '_>, returns: bool) -> Result<(), ParseError> {
    let ty = assembly.modifiers.ty()?;
    assembly.modifiers.take_all(HINTS);
    let space = space(assembly);
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return assembly.refuse();
    }
    let Some(operation) = assembly.modifiers.next().and_then(operation_named) else {
        return assembly.refuse();
    };
    assembly.modifiers.finish()?;
    let Some(atomic_ty) = atomic_type(operation, ty) else {
        return assembly.refuse();
    };
    let operands = &assembly.statement.operands;
    let (d, rest) = match operands.as_slice() {
        [d, rest @ ..] if returns => (Some(d), rest),
        rest => (None, rest),
    };
    let compares = operation == AtomicOperation::CompareExchange;
    let (address, a, compare) = match rest {
        [address, a] if !compares => (address, a, None),
        // PTX names the comparand first.
        [address, compare, a] if compares && returns => (address, a, Some(compare)),
        _ => return assembly.body.invalid("a wrong number of operands"),
    };
    let (base, offset) = assembly.body.address(address, space)?;
    let a = assembly.body.value(a, ty)?;
    let compare = match compare {
        Some(compare) => assembly.body.value(compare, ty)?,
        None => a,
    };
    let d = match d {
        Some(d) => assembly.body.target(d, ty)?,
        None => SINK_ROW,
    };
    let operation = Operation::Atomic {
        place: Place {
            space,
            bytes: ty.bytes(),
            count: 1,
            base,
            offset,
        },
        atomic: Atomic {
            operation,
            ty: atomic_ty,
        },
        d,
        a,
        compare,
    };
    let cycles = if space == Space::Shared {
        SHARED_ATOMIC_CYCLES
    } else {
        GLOBAL_ATOMIC_CYCLES
    };
    assembly.body.emit(operation, cycles)
}

/// A prefetch changes nothing that a program can see, except that its operands must make sense.
fn prefetch(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let space = space(assembly);
    assembly.modifiers.take_all(HINTS);
    assembly.modifiers.take_all(&["L1", "L2"]);
    assembly.modifiers.finish()?;
    let [address] = assembly.operands::<1>()?.clone();
    assembly.body.address(&address, space)?;
    assembly.body.emit(Operation::Nothing, 1)
}
