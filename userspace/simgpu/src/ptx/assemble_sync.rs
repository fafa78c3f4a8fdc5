// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: barriers, fences, votes, shuffles and sleep.

use super::assemble::Assembly;
use super::assemble_memory::operation_named;
use super::atomic::{Atomic, AtomicOperation, AtomicType};
use super::code::{
    BarrierResult, Collective, Condition, Operation, SINK_PREDICATE, SINK_ROW, Shuffle, Vote,
};
use super::cursor::Operand;
use super::error::ParseError;
use super::types::{Kind, Type};

/// Modelled cycles of a barrier.
const BARRIER_CYCLES: u16 = 4;
/// Modelled cycles of what crosses lanes.
const CROSS_CYCLES: u16 = 2;

pub(super) fn assemble(mut assembly: Assembly<'_, '_>) -> Result<(), ParseError> {
    match assembly.statement.mnemonic {
        "bar" | "barrier" => barrier(&mut assembly),
        "membar" => fence(&mut assembly, &["cta", "gl", "sys"]),
        "fence" => fence(
            &mut assembly,
            &[
                "sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys",
            ],
        ),
        "vote" => vote(&mut assembly),
        "activemask" => {
            assembly.modifiers.take("b32");
            assembly.modifiers.finish()?;
            let [d] = assembly.operands::<1>()?.clone();
            let d = assembly.body.target(&d, Type::B32)?;
            assembly.body.emit(Operation::ActiveMask(d), 1)
        }
        "shfl" => shuffle(&mut assembly),
        "match" => match_lanes(&mut assembly),
        "redux" => reduce(&mut assembly),
        "elect" => elect(&mut assembly),
        "nanosleep" => {
            let ty = assembly.modifiers.ty()?;
            assembly.modifiers.finish()?;
            if ty != Type::U32 {
                return assembly.refuse();
            }
            let [time] = assembly.operands::<1>()?.clone();
            let time = assembly.body.value(&time, ty)?;
            assembly.body.emit(Operation::Sleep(time), 1)
        }
        _ => {
            let message = format!("{}: not simulated", assembly.statement.name());
            Err(ParseError::unsupported(assembly.statement.line, message))
        }
    }
}

fn fence(assembly: &mut Assembly<'_, '_>, known: &[&str]) -> Result<(), ParseError> {
    assembly.modifiers.take_all(known);
    assembly.modifiers.finish()?;
    assembly.operands::<0>()?;
    assembly.body.emit(Operation::Nothing, 1)
}

/// `bar`, `barrier` and `barrier.cluster`.
fn barrier(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    if assembly.modifiers.take("cluster") {
        return cluster_barrier(assembly);
    }
    if assembly.modifiers.take("warp") {
        assembly.modifiers.take("sync");
        assembly.modifiers.finish()?;
        let [members] = assembly.operands::<1>()?.clone();
        let members = assembly.body.value(&members, Type::B32)?;
        let operation = Operation::Collective(members, Collective::Sync);
        return assembly.body.emit(operation, 1);
    }
    assembly.modifiers.take_all(&["cta", "aligned"]);
    let kind = assembly.modifiers.take_any(&["sync", "arrive", "red"]);
    let operands = assembly.statement.operands.clone();
    let mut result = BarrierResult::None;
    let mut source = Condition::ALWAYS;
    let mut rest = operands.as_slice();
    if kind == Some("red") {
        let name = assembly.modifiers.take_any(&["popc", "and", "or"]);
        let ty = assembly.modifiers.ty()?;
        let [d, middle @ .., c] = operands.as_slice() else {
            return assembly.body.invalid("too few operands");
        };
        source = assembly.body.condition(c)?;
        result = match (name, ty) {
            (Some("popc"), Type::U32) => BarrierResult::Count(assembly.body.target(d, ty)?),
            (Some("and"), Type::PREDICATE) => {
                BarrierResult::All(assembly.body.predicate_target(d)?)
            }
            (Some("or"), Type::PREDICATE) => BarrierResult::Any(assembly.body.predicate_target(d)?),
            _ => return assembly.refuse(),
        };
        rest = middle;
    }
    assembly.modifiers.finish()?;
    let waits = match kind {
        Some("sync" | "red") => true,
        Some("arrive") if rest.len() == 2 => false,
        _ => return assembly.refuse(),
    };
    let (barrier, threads) = match rest {
        [barrier] => (barrier, None),
        [barrier, threads] => (barrier, Some(threads)),
        _ => return assembly.body.invalid("a wrong number of operands"),
    };
    let barrier = assembly.body.value(barrier, Type::U32)?;
    let threads = match threads {
        Some(threads) => assembly.body.value(threads, Type::U32)?,
        None => SINK_ROW,
    };
    let operation = Operation::Barrier {
        barrier,
        threads,
        waits,
        result,
        source,
    };
    assembly.body.emit(operation, BARRIER_CYCLES)
}

fn cluster_barrier(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let arrives = match assembly.modifiers.take_any(&["arrive", "wait"]) {
        Some("arrive") => true,
        Some(_) => false,
        None => return assembly.refuse(),
    };
    assembly
        .modifiers
        .take_all(&["release", "relaxed", "acquire", "aligned"]);
    assembly.modifiers.finish()?;
    assembly.operands::<0>()?;
    let operation = if arrives {
        Operation::ClusterArrive
    } else {
        Operation::ClusterWait
    };
    assembly.body.emit(operation, BARRIER_CYCLES)
}

/// The member mask, or, in the old forms without `.sync`, whichever lanes are there.
fn members<'a>(
    assembly: &mut Assembly<'_, 'a>,
    sync: bool,
    operand: Option<&Operand<'a>>,
) -> Result<u16, ParseError> {
    match operand {
        Some(operand) if sync => assembly.body.value(operand, Type::B32),
        None if !sync => assembly.body.constant(0),
        _ => assembly.body.invalid("a wrong number of operands"),
    }
}

fn vote(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let sync = assembly.modifiers.take("sync");
    let ty = assembly.modifiers.ty()?;
    let vote = match (assembly.modifiers.next(), ty) {
        (Some("all"), Type::PREDICATE) => Vote::All,
        (Some("any"), Type::PREDICATE) => Vote::Any,
        (Some("uni"), Type::PREDICATE) => Vote::Uniform,
        (Some("ballot"), Type::B32) => Vote::Ballot,
        _ => return assembly.refuse(),
    };
    assembly.modifiers.finish()?;
    let operands = assembly.statement.operands.clone();
    let [d, source, rest @ ..] = operands.as_slice() else {
        return assembly.body.invalid("too few operands");
    };
    let source = assembly.body.condition(source)?;
    let members = members(assembly, sync, rest.first())?;
    let d = if vote == Vote::Ballot {
        assembly.body.target(d, ty)?
    } else {
        assembly.body.predicate_target(d)?
    };
    let collective = Collective::Vote { vote, d, source };
    assembly
        .body
        .emit(Operation::Collective(members, collective), CROSS_CYCLES)
}

/// A destination with or without a predicate beside it: rows and predicates.
fn paired<'a>(
    assembly: &mut Assembly<'_, 'a>,
    operand: &Operand<'a>,
    ty: Type,
) -> Result<(u16, u16), ParseError> {
    match operand {
        Operand::Pair(d, predicate) => {
            let row = assembly.body.target(&Operand::Name(d), ty)?;
            Ok((row, assembly.body.named_predicate(predicate)?))
        }
        _ => Ok((assembly.body.target(operand, ty)?, SINK_PREDICATE)),
    }
}

fn shuffle(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let sync = assembly.modifiers.take("sync");
    let b32 = assembly.modifiers.take("b32");
    let shuffle = match assembly.modifiers.next() {
        Some("up") => Shuffle::Up,
        Some("down") => Shuffle::Down,
        Some("bfly") => Shuffle::Butterfly,
        Some("idx") => Shuffle::Index,
        _ => return assembly.refuse(),
    };
    assembly.modifiers.finish()?;
    if !b32 {
        return assembly.refuse();
    }
    let operands = assembly.statement.operands.clone();
    let [d, a, b, c, rest @ ..] = operands.as_slice() else {
        return assembly.body.invalid("too few operands");
    };
    let members = members(assembly, sync, rest.first())?;
    let a = assembly.body.value(a, Type::B32)?;
    let b = assembly.body.value(b, Type::U32)?;
    let c = assembly.body.value(c, Type::U32)?;
    let (d, in_range) = paired(assembly, d, Type::B32)?;
    let collective = Collective::Shuffle {
        shuffle,
        d,
        in_range,
        a,
        b,
        c,
    };
    assembly
        .body
        .emit(Operation::Collective(members, collective), CROSS_CYCLES)
}

fn match_lanes(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let ty = assembly.modifiers.ty()?;
    let sync = assembly.modifiers.take("sync");
    let all = match assembly.modifiers.take_any(&["any", "all"]) {
        Some("all") => true,
        Some(_) => false,
        None => return assembly.refuse(),
    };
    assembly.modifiers.finish()?;
    if !sync || ty.kind != Kind::Bits || ty.bits < 32 {
        return assembly.refuse();
    }
    let [d, a, mask] = assembly.operands::<3>()?.clone();
    let a = assembly.body.value(&a, ty)?;
    let members = assembly.body.value(&mask, Type::B32)?;
    let (d, same) = paired(assembly, &d, Type::B32)?;
    let collective = if all {
        Collective::MatchAll { d, same, a }
    } else if same == SINK_PREDICATE {
        Collective::MatchAny { d, a }
    } else {
        return assembly.refuse();
    };
    assembly
        .body
        .emit(Operation::Collective(members, collective), CROSS_CYCLES)
}

fn reduce(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let ty = assembly.modifiers.ty()?;
    let sync = assembly.modifiers.take("sync");
    let operation = assembly.modifiers.next().and_then(operation_named);
    assembly.modifiers.finish()?;
    let arithmetic = matches!(
        operation,
        Some(AtomicOperation::Add | AtomicOperation::Minimum | AtomicOperation::Maximum)
    );
    let logic = matches!(
        operation,
        Some(AtomicOperation::And | AtomicOperation::Or | AtomicOperation::Xor)
    );
    let ty_fits = match ty.kind {
        Kind::Unsigned | Kind::Signed => arithmetic,
        Kind::Bits => logic,
        Kind::Predicate | Kind::Float => false,
    };
    let Some(operation) = operation.filter(|_| sync && ty_fits && ty.bits == 32) else {
        return assembly.refuse();
    };
    let atomic = Atomic {
        operation,
        ty: if ty.is_signed() {
            AtomicType::S32
        } else {
            AtomicType::U32
        },
    };
    let [d, a, members] = assembly.operands::<3>()?.clone();
    let a = assembly.body.value(&a, ty)?;
    let members = assembly.body.value(&members, Type::B32)?;
    let d = assembly.body.target(&d, ty)?;
    let collective = Collective::Reduce { atomic, d, a };
    assembly
        .body
        .emit(Operation::Collective(members, collective), CROSS_CYCLES)
}

fn elect(assembly: &mut Assembly<'_, '_>) -> Result<(), ParseError> {
    let sync = assembly.modifiers.take("sync");
    assembly.modifiers.finish()?;
    if !sync {
        return assembly.refuse();
    }
    let [d, members] = assembly.operands::<2>()?.clone();
    let members = assembly.body.value(&members, Type::B32)?;
    let (d, leader) = match d {
        Operand::Pair("_", leader) => (SINK_ROW, assembly.body.named_predicate(leader)?),
        _ => paired(assembly, &d, Type::B32)?,
    };
    let collective = Collective::Elect { d, leader };
    assembly
        .body
        .emit(Operation::Collective(members, collective), CROSS_CYCLES)
}
