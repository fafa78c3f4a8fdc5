// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: moves, packing, conversions of numbers and of addresses.

use super::assemble::Assembly;
use super::code::{Condition, Logic, Operation, RowIndex, SINK_PREDICATE};
use super::convert::{Conversion, Rounding};
use super::cursor::Operand;
use super::error::ParseError;
use super::integer;
use super::memory::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW};
use super::types::{Kind, Type};

impl<'a> Assembly<'_, 'a> {
    pub(super) fn mov(&mut self) -> Result<(), ParseError> {
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
            // Bytes travel in registers of 16 bits.
            rows.push(if part.bits == 8 {
                self.body.wide_value(element, part)?
            } else {
                self.body.value(element, part)?
            });
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
            targets.push(if part.bits == 8 {
                self.body.wide_target(element, part)?.0
            } else {
                self.body.target(element, part)?
            });
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

    pub(super) fn cvt(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn cvta(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn isspacep(&mut self) -> Result<(), ParseError> {
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
}
