// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: which instruction it is, comparisons and control. Arithmetic is in
//! `assemble_arithmetic`, moves and conversions in `assemble_move`, memory in `assemble_memory`, what
//! lanes or warps do together in `assemble_sync`.

use super::assemble_memory;
use super::assemble_sync;
use super::body::Body;
use super::code::{Condition, Logic, Operation, RowIndex, SINK_PREDICATE, Test};
use super::cursor::{Operand, Statement};
use super::error::ParseError;
use super::float;
use super::integer;
use super::modifiers::Modifiers;
use super::types::{Kind, Type};

/// A statement being assembled.
pub(super) struct Assembly<'s, 'a> {
    pub(super) body: &'s mut Body<'a>,
    pub(super) statement: &'s Statement<'a>,
    pub(super) modifiers: Modifiers<'a>,
}

/// The instructions of which at least some form is simulated.
const KNOWN: &[&str] = &[
    "abs",
    "activemask",
    "add",
    "addc",
    "and",
    "atom",
    "bar",
    "barrier",
    "bfe",
    "bfi",
    "bfind",
    "bra",
    "brev",
    "brx",
    "clz",
    "cnot",
    "copysign",
    "cos",
    "cvt",
    "cvta",
    "div",
    "elect",
    "ex2",
    "exit",
    "fence",
    "fma",
    "isspacep",
    "ld",
    "ldu",
    "lg2",
    "lop3",
    "mad",
    "madc",
    "match",
    "max",
    "membar",
    "min",
    "mov",
    "mul",
    "mul24",
    "nanosleep",
    "neg",
    "not",
    "or",
    "popc",
    "prefetch",
    "prefetchu",
    "prmt",
    "rcp",
    "red",
    "redux",
    "rem",
    "ret",
    "rsqrt",
    "sad",
    "selp",
    "set",
    "setp",
    "shf",
    "shfl",
    "shl",
    "shr",
    "sin",
    "sqrt",
    "st",
    "sub",
    "subc",
    "tanh",
    "testp",
    "trap",
    "vote",
    "xor",
];

/// Whether some form of the instruction is simulated.
pub(super) fn is_known(mnemonic: &str) -> bool {
    KNOWN.contains(&mnemonic)
}

/// Appends the instructions of one statement.
pub(super) fn assemble<'a>(
    body: &mut Body<'a>,
    statement: &Statement<'a>,
) -> Result<(), ParseError> {
    body.line = statement.line;
    body.guard = Condition::ALWAYS;
    if let Some((name, complement)) = statement.guard {
        let operand = if complement {
            Operand::Not(name)
        } else {
            Operand::Name(name)
        };
        body.guard = body.condition(&operand)?;
    }
    let assembly = Assembly {
        body,
        statement,
        modifiers: Modifiers::new(statement),
    };
    assembly.run().map_err(|error| ParseError {
        // Operand errors do not know the instruction that they are in.
        message: if error.message.starts_with(statement.mnemonic) {
            error.message
        } else {
            format!("{}: {}", statement.name(), error.message)
        },
        ..error
    })
}

impl<'a> Assembly<'_, 'a> {
    fn run(mut self) -> Result<(), ParseError> {
        match self.statement.mnemonic {
            "mov" => self.mov(),
            "cvt" => self.cvt(),
            "cvta" => self.cvta(),
            "isspacep" => self.isspacep(),
            "setp" => self.setp(),
            "set" => self.set(),
            "selp" => self.selp(),
            "testp" => self.testp(),
            "fma" => self.fma(),
            "mad" => self.mad(),
            "madc" => self.mad_carry(true),
            "addc" | "subc" => self.carry(true),
            "shl" | "shr" => self.shift(),
            "shf" | "prmt" => self.three_words(),
            "bfe" => self.bit_field_extract(),
            "bfi" | "lop3" => self.four_operands(),
            "popc" | "clz" | "bfind" => self.count_bits(),
            "and" | "or" | "xor" | "not" => self.logic(),
            "sad" => {
                let ty = self.modifiers.ty()?;
                self.modifiers.finish()?;
                self.ternary(integer::ternary_function("sad", ty), ty, [ty; 3])
            }
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "mul24" | "copysign" => {
                self.two_operands()
            }
            "abs" | "neg" | "cnot" | "brev" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2"
            | "ex2" | "tanh" => self.one_operand(),
            "bra" => self.bra(),
            "brx" => self.brx(),
            "ret" | "exit" => {
                self.modifiers.take("uni");
                self.modifiers.finish()?;
                self.operands::<0>()?;
                self.body.emit(Operation::Exit, 1)
            }
            "trap" => {
                self.modifiers.finish()?;
                self.operands::<0>()?;
                self.body.emit(Operation::Trap, 1)
            }
            "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" => {
                assemble_memory::assemble(self)
            }
            _ => assemble_sync::assemble(self),
        }
    }

    /// The operands, of which there must be so many.
    pub(super) fn operands<const N: usize>(&self) -> Result<&[Operand<'a>; N], ParseError> {
        let operands = &self.statement.operands;
        operands.as_slice().try_into().map_err(|_| {
            let message = format!("{} operands, where {N} are needed", operands.len());
            ParseError::invalid(self.statement.line, message)
        })
    }

    pub(super) fn refuse<T>(&self) -> Result<T, ParseError> {
        self.modifiers.unsupported("this form is not simulated")
    }

    pub(super) fn compare(
        &mut self,
        test: Test,
        (a, b): (RowIndex, RowIndex),
        (d, complement): (u16, u16),
        combined: Option<(Logic, Condition)>,
    ) -> Result<(), ParseError> {
        let (logic, with) = combined.unwrap_or((Logic::And, Condition::ALWAYS));
        let operation = Operation::Compare {
            test,
            a,
            b,
            d,
            complement,
            logic,
            with,
        };
        self.body.emit(operation, 1)
    }

    /// The comparison of `setp` and `set`, and how it is combined with a predicate.
    fn comparison(&mut self, ty: Type) -> Result<(Test, Option<Logic>), ParseError> {
        let flush = self.modifiers.take("ftz");
        let Some(name) = self.modifiers.next() else {
            return self.refuse();
        };
        let logic = self.modifiers.take_any(&["and", "or", "xor"]);
        self.modifiers.finish()?;
        let test = if ty.is_float() {
            float::comparison(name, ty.bits, flush)
        } else if flush {
            None
        } else {
            integer::comparison(name, ty)
        };
        match test {
            Some(test) => Ok((test, logic.and_then(logic_named))),
            None => self.refuse(),
        }
    }

    fn combined(
        &mut self,
        logic: Option<Logic>,
        operands: &[Operand<'a>],
    ) -> Result<Option<(Logic, Condition)>, ParseError> {
        match (logic, operands) {
            (None, []) => Ok(None),
            (Some(logic), [with]) => Ok(Some((logic, self.body.condition(with)?))),
            _ => self.body.invalid("a wrong number of operands"),
        }
    }

    fn setp(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let (test, logic) = self.comparison(ty)?;
        let operands = &self.statement.operands;
        let [d, a, b, with @ ..] = operands.as_slice() else {
            return self.body.invalid("too few operands");
        };
        let combined = self.combined(logic, with)?;
        let a = self.body.value(a, ty)?;
        let b = self.body.value(b, ty)?;
        let targets = match d {
            Operand::Pair(d, complement) => (
                self.body.named_predicate(d)?,
                self.body.named_predicate(complement)?,
            ),
            _ => (self.body.predicate_target(d)?, SINK_PREDICATE),
        };
        self.compare(test, (a, b), targets, combined)
    }

    /// `set`: a comparison, then all ones (or 1.0) where it holds.
    fn set(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let d_ty = self.modifiers.ty()?;
        let (test, logic) = self.comparison(ty)?;
        let yes = match (d_ty.kind, d_ty.bits) {
            (Kind::Unsigned | Kind::Signed, 32) => u64::from(u32::MAX),
            (Kind::Float, 32) => u64::from(1.0_f32.to_bits()),
            _ => return self.refuse(),
        };
        let operands = &self.statement.operands;
        let [d, a, b, with @ ..] = operands.as_slice() else {
            return self.body.invalid("too few operands");
        };
        let combined = self.combined(logic, with)?;
        let a = self.body.value(a, ty)?;
        let b = self.body.value(b, ty)?;
        let d = self.body.target(d, d_ty)?;
        let holds = self.body.scratch_predicate()?;
        self.compare(test, (a, b), (holds, SINK_PREDICATE), combined)?;
        let (a, b) = (self.body.constant(yes)?, self.body.constant(0)?);
        let condition = Condition {
            predicate: holds,
            flip: 0,
        };
        self.body.emit(Operation::Select { d, a, b, condition }, 0)
    }

    fn selp(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        if ty.bits < 16 {
            return self.refuse();
        }
        let [d, a, b, condition] = self.operands::<4>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let condition = self.body.condition(&condition)?;
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Select { d, a, b, condition }, 1)
    }

    fn testp(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let class = self.modifiers.next().unwrap_or_default();
        self.modifiers.finish()?;
        let test = float::classification(class, ty.bits).filter(|_| ty.is_float());
        let Some(test) = test else {
            return self.refuse();
        };
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.value(&a, ty)?;
        let d = self.body.predicate_target(&d)?;
        self.compare(test, (a, a), (d, SINK_PREDICATE), None)
    }

    fn bra(&mut self) -> Result<(), ParseError> {
        self.modifiers.take("uni");
        self.modifiers.finish()?;
        match *self.operands::<1>()? {
            [Operand::Name(label)] => self.body.emit_branch(label),
            _ => self.body.invalid("expected a label"),
        }
    }

    fn brx(&mut self) -> Result<(), ParseError> {
        self.modifiers.take("uni");
        if !self.modifiers.take("idx") {
            return self.refuse();
        }
        self.modifiers.finish()?;
        let [index, table] = self.operands::<2>()?.clone();
        let index = self.body.value(&index, Type::U32)?;
        match table {
            Operand::Name(table) => self.body.emit_branch_table(index, table),
            _ => self.body.invalid("expected a branch table"),
        }
    }
}

pub(super) fn logic_named(name: &str) -> Option<Logic> {
    match name {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}
