// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: arithmetic, moves, comparisons and control. Memory is in
//! `assemble_memory`, what lanes or warps do together in `assemble_sync`.

use super::assemble_memory;
use super::assemble_sync;
use super::body::Body;
use super::code::{Condition, Logic, Operation, RowIndex, SINK_PREDICATE, Ternary, Test};
use super::convert::{Conversion, Rounding};
use super::cursor::{Operand, Statement};
use super::error::ParseError;
use super::float::{self, Flags};
use super::integer;
use super::memory::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW};
use super::modifiers::Modifiers;
use super::types::{Kind, Type};

/// Modelled cycles of what the special function unit does, and of division.
const SPECIAL_CYCLES: u16 = 8;
/// Modelled cycles of the same in double precision or over 64 bits.
const SPECIAL_64_CYCLES: u16 = 16;

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

    fn ternary(
        &mut self,
        function: Option<Ternary>,
        d_ty: Type,
        types: [Type; 3],
    ) -> Result<(), ParseError> {
        let Some(function) = function else {
            return self.refuse();
        };
        let [d, a, b, c] = self.operands::<4>()?.clone();
        let a = self.body.value(&a, types[0])?;
        let b = self.body.value(&b, types[1])?;
        let c = self.body.value(&c, types[2])?;
        let d = self.body.target(&d, d_ty)?;
        self.body
            .emit(Operation::Ternary(function, d, [a, b, c]), 1)
    }

    /// Takes `.ftz`, `.sat` and a rounding mode, which must be to nearest.
    fn float_flags(&mut self) -> Result<Flags, ParseError> {
        if self.modifiers.take_any(&["rz", "rm", "rp"]).is_some() {
            return self
                .modifiers
                .unsupported("arithmetic rounds to nearest only");
        }
        self.modifiers.take_all(&["rn"]);
        Ok(Flags {
            flush: self.modifiers.take("ftz"),
            saturate: self.modifiers.take("sat"),
        })
    }

    fn one_operand(&mut self) -> Result<(), ParseError> {
        let name = self.statement.mnemonic;
        let ty = self.modifiers.ty()?;
        let (function, cycles) = if ty.is_float() {
            let flags = self.float_flags()?;
            let approximate = self.modifiers.take("approx");
            if ty.bits == 64 && (flags.flush || flags.saturate) {
                return self.refuse();
            }
            // The double-precision approximations drop bits that programs then rely on being zero.
            if ty.bits == 64 && approximate {
                return self.refuse();
            }
            let function = if ty.bits == 32 {
                float::unary_function_32(name, flags)
            } else {
                float::unary_function_64(name)
            };
            let cycles = match name {
                "abs" | "neg" => 1,
                _ if ty.bits == 64 => SPECIAL_64_CYCLES,
                _ => SPECIAL_CYCLES,
            };
            (function, cycles)
        } else {
            (integer::unary_function(name, ty), 1)
        };
        self.modifiers.finish()?;
        let Some(function) = function else {
            return self.refuse();
        };
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.value(&a, ty)?;
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Unary(function, d, a), cycles)
    }

    fn count_bits(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let name = match (self.statement.mnemonic, self.modifiers.take("shiftamt")) {
            ("bfind", true) => "bfind.shiftamt",
            (_, true) => return self.refuse(),
            (name, false) => name,
        };
        self.modifiers.finish()?;
        let Some(function) = integer::unary_function(name, ty) else {
            return self.refuse();
        };
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.value(&a, ty)?;
        let d = self.body.target(&d, Type::U32)?;
        self.body.emit(Operation::Unary(function, d, a), 1)
    }

    fn two_operands(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        if self.modifiers.take("cc") {
            return self.carry(false);
        }
        let mut name = self.statement.mnemonic.to_owned();
        let mut cycles = 1;
        let mut d_ty = ty;
        let function = if ty.is_float() {
            let flags = self.float_flags()?;
            if ty.bits == 64 && (flags.flush || flags.saturate) {
                return self.refuse();
            }
            if name == "div" {
                self.modifiers.take_any(&["approx", "full"]);
                cycles = if ty.bits == 64 {
                    SPECIAL_64_CYCLES
                } else {
                    SPECIAL_CYCLES
                };
            }
            if self.modifiers.take("NaN") {
                name.push_str(".NaN");
            }
            if ty.bits == 32 {
                float::binary_function_32(&name, flags)
            } else {
                float::binary_function_64(&name)
            }
        } else {
            if let Some(half) = self.modifiers.take_any(&["lo", "hi", "wide"]) {
                name.push('.');
                name.push_str(half);
            }
            if self.modifiers.take("sat") {
                name.push_str(".sat");
            }
            if name == "mul.wide" {
                d_ty = Type::new(ty.kind, ty.bits.saturating_mul(2));
            }
            if name == "div" || name == "rem" {
                cycles = if ty.bits == 64 {
                    SPECIAL_64_CYCLES
                } else {
                    SPECIAL_CYCLES
                };
            }
            integer::binary_function(&name, ty)
        };
        self.modifiers.finish()?;
        let Some(function) = function else {
            return self.refuse();
        };
        let [d, a, b] = self.operands::<3>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let d = self.body.target(&d, d_ty)?;
        self.body.emit(Operation::Binary(function, d, a, b), cycles)
    }

    fn shift(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let Some(function) = integer::shift_function(self.statement.mnemonic, ty) else {
            return self.refuse();
        };
        let [d, a, b] = self.operands::<3>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, Type::U32)?;
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Binary(function, d, a, b), 1)
    }

    /// `add.cc`, `addc`, `addc.cc` and the same for `sub`.
    fn carry(&mut self, carry_in: bool) -> Result<(), ParseError> {
        // `two_operands` has taken the type and `.cc` already; `addc` comes here with both.
        let (ty, carry_out) = if carry_in {
            let ty = self.modifiers.ty()?;
            (ty, self.modifiers.take("cc"))
        } else {
            let name = self.statement.modifiers.last();
            (
                name.and_then(|name| Type::parse(name)).unwrap_or(Type::U32),
                true,
            )
        };
        self.modifiers.finish()?;
        let subtract = match self.statement.mnemonic {
            "add" | "addc" => false,
            "sub" | "subc" => true,
            _ => return self.refuse(),
        };
        if !ty.is_integer() || ty.kind == Kind::Bits || ty.bits < 32 {
            return self.refuse();
        }
        let [d, a, b] = self.operands::<3>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let d = self.body.target(&d, ty)?;
        let operation = Operation::Carry {
            wide: ty.bits == 64,
            subtract,
            carry_in,
            carry_out,
            d,
            a,
            b,
        };
        self.body.emit(operation, 1)
    }

    fn fma(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        if !ty.is_float() {
            return self.refuse();
        }
        let flags = self.float_flags()?;
        self.modifiers.finish()?;
        let function = match ty.bits {
            32 => float::fma_function_32(flags),
            _ if flags.flush || flags.saturate => return self.refuse(),
            _ => float::fma_function_64(),
        };
        self.ternary(Some(function), ty, [ty; 3])
    }

    fn mad(&mut self) -> Result<(), ParseError> {
        if self
            .statement
            .modifiers
            .last()
            .is_some_and(|ty| ty.starts_with('f'))
        {
            return self.fma();
        }
        if self.statement.modifiers.contains(&"cc") {
            return self.mad_carry(false);
        }
        let ty = self.modifiers.ty()?;
        let Some(half) = self.modifiers.take_any(&["lo", "hi", "wide"]) else {
            return self.refuse();
        };
        let mut name = format!("mad.{half}");
        if self.modifiers.take("sat") {
            name.push_str(".sat");
        }
        self.modifiers.finish()?;
        let wide = if half == "wide" {
            Type::new(ty.kind, ty.bits.saturating_mul(2))
        } else {
            ty
        };
        let function = integer::ternary_function(&name, ty);
        self.ternary(function, wide, [ty, ty, wide])
    }

    /// `mad.cc`, `madc`, `madc.cc`: a product, then an addition with the carry flag.
    fn mad_carry(&mut self, carry_in: bool) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let carry_out = self.modifiers.take("cc");
        let half = self.modifiers.take_any(&["lo", "hi"]);
        self.modifiers.finish()?;
        let name = format!("mul.{}", half.unwrap_or_default());
        let function = integer::binary_function(&name, ty).filter(|_| ty.bits >= 32);
        let Some(function) = function else {
            return self.refuse();
        };
        let [d, a, b, c] = self.operands::<4>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let c = self.body.value(&c, ty)?;
        let d = self.body.target(&d, ty)?;
        let product = self.body.scratch_row()?;
        self.body
            .emit(Operation::Binary(function, product, a, b), 1)?;
        let operation = Operation::Carry {
            wide: ty.bits == 64,
            subtract: false,
            carry_in,
            carry_out,
            d,
            a: product,
            b: c,
        };
        self.body.emit(operation, 0)
    }

    fn bit_field_extract(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let function = integer::ternary_function("bfe", ty);
        self.ternary(function, ty, [ty, Type::U32, Type::U32])
    }

    /// `shf` and `prmt`.
    fn three_words(&mut self) -> Result<(), ParseError> {
        let mut name = self.statement.mnemonic.to_owned();
        if !self.modifiers.take("b32") {
            return self.refuse();
        }
        while let Some(mode) = self.modifiers.next() {
            name.push('.');
            name.push_str(mode);
        }
        let b32 = Type::B32;
        self.ternary(integer::b32_ternary(&name), b32, [b32; 3])
    }

    /// `bfi` and `lop3`.
    fn four_operands(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let name = self.statement.mnemonic;
        let Some(function) = integer::quaternary_function(name, ty) else {
            return self.refuse();
        };
        let [d, a, b, c, e] = self.operands::<5>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let c = self.body.value(&c, Type::U32)?;
        let e = self.body.value(&e, Type::U32)?;
        let d = self.body.target(&d, ty)?;
        self.body
            .emit(Operation::Quaternary(function, d, [a, b, c, e]), 1)
    }

    fn logic(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let name = self.statement.mnemonic;
        if ty.kind == Kind::Predicate {
            let (d, a, b, logic, flip) = if name == "not" {
                let [d, a] = self.operands::<2>()?.clone();
                let a = self.body.condition(&a)?;
                (d, a, Condition::ALWAYS, Logic::And, u32::MAX)
            } else {
                let [d, a, b] = self.operands::<3>()?.clone();
                let (a, b) = (self.body.condition(&a)?, self.body.condition(&b)?);
                (d, a, b, logic_named(name).unwrap_or(Logic::And), 0)
            };
            let d = self.body.predicate_target(&d)?;
            let operation = Operation::Predicate {
                logic,
                d,
                a,
                b,
                flip,
            };
            return self.body.emit(operation, 1);
        }
        if name == "not" {
            return self.plain_unary(ty);
        }
        let Some(function) = integer::binary_function(name, ty) else {
            return self.refuse();
        };
        let [d, a, b] = self.operands::<3>()?.clone();
        let a = self.body.value(&a, ty)?;
        let b = self.body.value(&b, ty)?;
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Binary(function, d, a, b), 1)
    }

    fn plain_unary(&mut self, ty: Type) -> Result<(), ParseError> {
        let Some(function) = integer::unary_function(self.statement.mnemonic, ty) else {
            return self.refuse();
        };
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.value(&a, ty)?;
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Unary(function, d, a), 1)
    }

    fn mov(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let [d, a] = self.operands::<2>()?.clone();
        if ty.kind == Kind::Predicate {
            let a = self.body.condition(&a)?;
            let d = self.body.predicate_target(&d)?;
            let operation = Operation::Predicate {
                logic: Logic::And,
                d,
                a,
                b: Condition::ALWAYS,
                flip: 0,
            };
            return self.body.emit(operation, 1);
        }
        if let Operand::Vector(elements) = &d {
            return self.unpack(elements, &a, ty);
        }
        if let Operand::Vector(elements) = &a {
            return self.pack(&d, elements, ty);
        }
        if let Some((clock, bits)) = self.body.clock(&a) {
            if bits != ty.bits {
                return self.body.invalid("the clock has another width");
            }
            let d = self.body.target(&d, ty)?;
            return self.body.emit(Operation::ReadClock(clock, d), 1);
        }
        if ty.bits < 16 {
            return self.refuse();
        }
        let (row, function) = match self.body.address_value(&a)? {
            Some(row) if ty.bits == 64 => (row, integer::copy_function()),
            // Only addresses inside a block's own spaces are known to fit.
            Some(row) if ty.bits == 32 && !self.body.is_linked(&a) => {
                (row, integer::low_word_function())
            }
            Some(_) => return self.body.invalid("the address does not fit"),
            None => {
                let function = if ty.bits == 32 {
                    integer::low_word_function()
                } else {
                    integer::copy_function()
                };
                (self.body.value(&a, ty)?, function)
            }
        };
        let d = self.body.target(&d, ty)?;
        self.body.emit(Operation::Unary(function, d, row), 1)
    }

    /// The type of each of `count` equal parts of a type.
    fn part(&self, ty: Type, count: usize) -> Result<Type, ParseError> {
        let bits = match (ty.bits, count) {
            (64, 2) => 32,
            (32, 2) | (64, 4) => 16,
            (16, 2) | (32, 4) => 8,
            _ => return self.refuse(),
        };
        // Bytes travel in registers of 16 bits.
        Ok(Type::new(Kind::Bits, bits))
    }

    fn pack(
        &mut self,
        d: &Operand<'a>,
        elements: &[Operand<'a>],
        ty: Type,
    ) -> Result<(), ParseError> {
        let part = self.part(ty, elements.len())?;
        let mut rows = Vec::new();
        for element in elements {
            rows.push(self.body.wide_value(element, part)?);
        }
        let d = self.body.target(d, ty)?;
        let mut half = part.bits;
        let mut cycles = 1;
        while rows.len() > 1 {
            let mut joined = Vec::new();
            for pair in rows.chunks_exact(2) {
                let row = if rows.len() == 2 {
                    d
                } else {
                    self.body.scratch_row()?
                };
                let Some(function) = integer::pack_function(half) else {
                    return self.refuse();
                };
                self.body
                    .emit(Operation::Binary(function, row, pair[0], pair[1]), cycles)?;
                cycles = 0;
                joined.push(row);
            }
            rows = joined;
            half *= 2;
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        elements: &[Operand<'a>],
        a: &Operand<'a>,
        ty: Type,
    ) -> Result<(), ParseError> {
        let part = self.part(ty, elements.len())?;
        let mut rows = vec![self.body.value(a, ty)?];
        let mut targets = Vec::new();
        for element in elements {
            targets.push(self.body.wide_target(element, part)?.0);
        }
        let mut half = ty.bits / 2;
        let mut cycles = 1;
        while rows.len() < targets.len() {
            let last = rows.len() * 2 == targets.len();
            let mut halves: Vec<RowIndex> = Vec::new();
            for row in &rows {
                let functions = [integer::low_function(half), integer::high_function(half)];
                for function in functions {
                    let Some(function) = function else {
                        return self.refuse();
                    };
                    let target = if last {
                        targets[halves.len()]
                    } else {
                        self.body.scratch_row()?
                    };
                    self.body
                        .emit(Operation::Unary(function, target, *row), cycles)?;
                    cycles = 0;
                    halves.push(target);
                }
            }
            rows = halves;
            half /= 2;
        }
        Ok(())
    }

    fn cvt(&mut self) -> Result<(), ParseError> {
        let from = self.modifiers.ty()?;
        let to = self.modifiers.ty()?;
        let rounding = self
            .modifiers
            .take_any(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"]);
        let flush = self.modifiers.take("ftz");
        let saturate = self.modifiers.take("sat");
        self.modifiers.finish()?;
        let integral = rounding.is_some_and(|name| name.len() == 3);
        let fits = match (from.is_float(), to.is_float(), rounding) {
            // Where rounding can happen, a mode must be given; where it cannot, none may be.
            (true, true, None) => from.bits <= to.bits,
            (true, true, Some(_)) => integral || from.bits > to.bits,
            (true, false, Some(_)) => integral,
            (false, true, Some(_)) => !integral,
            (false, false, rounding) => rounding.is_none(),
            (true, false, None) | (false, true, None) => false,
        };
        let single = from == Type::new(Kind::Float, 32) || to == Type::new(Kind::Float, 32);
        if !fits || from.kind == Kind::Bits || to.kind == Kind::Bits || (flush && !single) {
            return self.body.invalid("no such conversion");
        }
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.wide_value(&a, from)?;
        let (d, register_bits) = self.body.wide_target(&d, to)?;
        let conversion = Conversion {
            from,
            to,
            register_bits,
            rounding: match rounding.and_then(|name| name.as_bytes().get(1)) {
                Some(b'z') => Rounding::Zero,
                Some(b'm') => Rounding::Down,
                Some(b'p') => Rounding::Up,
                _ => Rounding::Nearest,
            },
            integral,
            saturate,
            flush,
        };
        let operation = match conversion.function() {
            Some(function) => Operation::Unary(function, d, a),
            None => Operation::Convert(conversion, d, a),
        };
        self.body.emit(operation, 1)
    }

    fn cvta(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        let to = self.modifiers.take("to");
        let space = self.modifiers.next();
        self.modifiers.finish()?;
        let window = match space {
            Some("global" | "const") => 0,
            Some("shared" | "shared::cta") => SHARED_WINDOW,
            Some("local") => LOCAL_WINDOW,
            Some("param" | "param::entry") => PARAMETER_WINDOW,
            _ => return self.refuse(),
        };
        if ty != Type::new(Kind::Unsigned, 64) {
            return self.refuse();
        }
        let [d, a] = self.operands::<2>()?.clone();
        let a = match self.body.address_value(&a)? {
            Some(row) => row,
            None => self.body.value(&a, ty)?,
        };
        let d = self.body.target(&d, ty)?;
        let operation = if window == 0 {
            Operation::Unary(integer::copy_function(), d, a)
        } else {
            let window = self.body.constant(window)?;
            Operation::Binary(integer::window_function(to), d, a, window)
        };
        self.body.emit(operation, 1)
    }

    fn isspacep(&mut self) -> Result<(), ParseError> {
        let space = self.modifiers.next();
        self.modifiers.finish()?;
        let window = match space {
            Some("global") => 0,
            Some("shared" | "shared::cta") => SHARED_WINDOW,
            Some("local") => LOCAL_WINDOW,
            Some("param" | "param::entry") => PARAMETER_WINDOW,
            _ => return self.refuse(),
        };
        let [d, a] = self.operands::<2>()?.clone();
        let a = self.body.value(&a, Type::new(Kind::Unsigned, 64))?;
        let b = self.body.constant(window)?;
        let d = self.body.predicate_target(&d)?;
        self.compare(
            integer::window_test(window == 0),
            (a, b),
            (d, SINK_PREDICATE),
            None,
        )
    }

    fn compare(
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

fn logic_named(name: &str) -> Option<Logic> {
    match name {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}
