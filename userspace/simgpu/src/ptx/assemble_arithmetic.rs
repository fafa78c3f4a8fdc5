// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a statement to instructions: arithmetic, bits and logic.

use super::assemble::{Assembly, logic_named};
use super::code::{Condition, Logic, Operation, Ternary};
use super::error::ParseError;
use super::float::{self, Flags};
use super::integer;
use super::types::{Kind, Type};

/// Modelled cycles of what the special function unit does, and of division.
const SPECIAL_CYCLES: u16 = 8;
/// Modelled cycles of the same in double precision or over 64 bits.
const SPECIAL_64_CYCLES: u16 = 16;

impl<'a> Assembly<'_, 'a> {
    pub(super) fn ternary(
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

    pub(super) fn one_operand(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn count_bits(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn two_operands(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn shift(&mut self) -> Result<(), ParseError> {
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
    pub(super) fn carry(&mut self, carry_in: bool) -> Result<(), ParseError> {
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

    pub(super) fn fma(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn mad(&mut self) -> Result<(), ParseError> {
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
    pub(super) fn mad_carry(&mut self, carry_in: bool) -> Result<(), ParseError> {
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

    pub(super) fn bit_field_extract(&mut self) -> Result<(), ParseError> {
        let ty = self.modifiers.ty()?;
        self.modifiers.finish()?;
        let function = integer::ternary_function("bfe", ty);
        self.ternary(function, ty, [ty, Type::U32, Type::U32])
    }

    /// `shf` and `prmt`.
    pub(super) fn three_words(&mut self) -> Result<(), ParseError> {
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
    pub(super) fn four_operands(&mut self) -> Result<(), ParseError> {
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

    pub(super) fn logic(&mut self) -> Result<(), ParseError> {
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
}
