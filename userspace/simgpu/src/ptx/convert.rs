// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cvt`: between integers and floats, with every rounding mode.
//!
//! The idea: a value is either an integer, exact in 128 bits, or a float, exact in 64; each conversion
//! goes through that middle and rounds once on the way out.

use super::code::{Row, Unary};
use super::float::{finish_32, flush_32, narrow};
use super::lanes::unary;
use super::types::{Kind, Lane, Type, mask};

/// Where an inexact result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To the nearest, ties to even (`.rn`, `.rni`).
    Nearest,
    /// Towards zero (`.rz`, `.rzi`).
    Zero,
    /// Downwards (`.rm`, `.rmi`).
    Down,
    /// Upwards (`.rp`, `.rpi`).
    Up,
}

/// A conversion between two types.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conversion {
    pub(super) from: Type,
    pub(super) to: Type,
    /// The width of the register that takes the result: a signed narrow result is extended to it.
    pub(super) register_bits: u8,
    pub(super) rounding: Rounding,
    /// Whether a float becomes a float without fraction (`.rni` and its kin from float to float).
    pub(super) integral: bool,
    pub(super) saturate: bool,
    pub(super) flush: bool,
}

#[derive(Clone, Copy)]
enum Value {
    Integer(i128),
    Float(f64),
}

impl Conversion {
    /// A function over rows for the conversions that kernels are full of; the others are done lane by
    /// lane with `apply`, which gives the same.
    pub(super) fn function(&self) -> Option<Unary> {
        if self.flush || self.saturate || self.integral && self.to.is_float() {
            return None;
        }
        let nearest = self.rounding == Rounding::Nearest;
        let extended = self.register_bits == 64;
        let key = |ty: Type| (ty.kind, ty.bits);
        match (key(self.from), key(self.to)) {
            ((Kind::Unsigned, 32), (Kind::Unsigned | Kind::Signed, 64)) => {
                Some(unary!(u32 => u64, |a| u64::from(a)))
            }
            ((Kind::Signed, 32), (Kind::Unsigned | Kind::Signed, 64)) => {
                Some(unary!(i32 => i64, |a| i64::from(a)))
            }
            ((Kind::Unsigned | Kind::Signed, 64 | 32), (Kind::Unsigned, 32)) => {
                Some(unary!(u32 => u32, |a| a))
            }
            ((Kind::Unsigned | Kind::Signed, 64 | 32), (Kind::Signed, 32)) if !extended => {
                Some(unary!(u32 => u32, |a| a))
            }
            ((Kind::Signed, 32), (Kind::Float, 32)) if nearest => {
                Some(unary!(i32 => f32, |a| a as f32))
            }
            ((Kind::Unsigned, 32), (Kind::Float, 32)) if nearest => {
                Some(unary!(u32 => f32, |a| a as f32))
            }
            ((Kind::Signed, 32), (Kind::Float, 64)) => Some(unary!(i32 => f64, |a| f64::from(a))),
            ((Kind::Unsigned, 32), (Kind::Float, 64)) => Some(unary!(u32 => f64, |a| f64::from(a))),
            ((Kind::Float, 64), (Kind::Float, 32)) if nearest => {
                Some(unary!(f64 => u32, |a| finish_32::<false, false>(narrow(a))))
            }
            ((Kind::Float, 32), (Kind::Float, 64)) => Some(unary!(f32 => f64, |a| f64::from(a))),
            _ => None,
        }
    }

    /// Converts one lane's word.
    pub(super) fn apply(&self, word: u64) -> u64 {
        let value = self.read(word & self.from.mask());
        if self.to.is_float() {
            self.to_float(value)
        } else {
            let integer = match value {
                Value::Integer(integer) => integer,
                Value::Float(float) if float.is_nan() => self.not_a_number(),
                Value::Float(float) => whole(self.round(float)),
            };
            let clamps = self.saturate || self.from.is_float();
            self.to_integer(if clamps { self.clamp(integer) } else { integer })
        }
    }

    fn read(&self, word: u64) -> Value {
        match (self.from.kind, self.from.bits) {
            (Kind::Float, 32) => {
                let float = f32::from_lane(word);
                let float = if self.flush {
                    flush_32::<true>(float)
                } else {
                    float
                };
                Value::Float(f64::from(float))
            }
            (Kind::Float, _) => Value::Float(f64::from_bits(word)),
            (Kind::Signed, 8) => Value::Integer(i8::from_lane(word).into()),
            (Kind::Signed, 16) => Value::Integer(i16::from_lane(word).into()),
            (Kind::Signed, 32) => Value::Integer(i32::from_lane(word).into()),
            (Kind::Signed, _) => Value::Integer(i64::from_lane(word).into()),
            _ => Value::Integer(word.into()),
        }
    }

    /// What a NaN becomes: 0, or the sign bit where 64 bits are involved.
    fn not_a_number(&self) -> i128 {
        if self.from.bits == 64 || self.to.bits == 64 {
            if self.to.is_signed() {
                -(1 << (self.to.bits - 1))
            } else {
                1 << (self.to.bits - 1)
            }
        } else {
            0
        }
    }

    fn round(&self, float: f64) -> f64 {
        match self.rounding {
            Rounding::Nearest => float.round_ties_even(),
            Rounding::Zero => float.trunc(),
            Rounding::Down => float.floor(),
            Rounding::Up => float.ceil(),
        }
    }

    fn clamp(&self, integer: i128) -> i128 {
        let bits = self.to.bits;
        if self.to.is_signed() {
            integer.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        } else {
            integer.clamp(0, i128::from(mask(bits)))
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits are the result"
    )]
    fn to_integer(self, integer: i128) -> u64 {
        let word = integer.cast_unsigned() as u64;
        let narrow = word & self.to.mask();
        if self.to.is_signed() && narrow >> (self.to.bits - 1) != 0 {
            (narrow | !self.to.mask()) & mask(self.register_bits)
        } else {
            narrow
        }
    }

    fn to_float(self, value: Value) -> u64 {
        if self.to.bits == 32 {
            let float = match value {
                Value::Integer(integer) => self.integer_to_single(integer),
                Value::Float(float) if self.integral => narrow(self.round(float)),
                Value::Float(float) => self.double_to_single(float),
            };
            let bits = match (self.flush, self.saturate) {
                (false, false) => finish_32::<false, false>(float),
                (false, true) => finish_32::<false, true>(float),
                (true, false) => finish_32::<true, false>(float),
                (true, true) => finish_32::<true, true>(float),
            };
            bits.to_lane()
        } else {
            let float = match value {
                Value::Integer(integer) => self.integer_to_double(integer),
                Value::Float(float) if self.integral => self.round(float),
                Value::Float(float) => float,
            };
            let float = if self.saturate {
                if float > 0.0 { float.min(1.0) } else { 0.0 }
            } else {
                float
            };
            float.to_lane()
        }
    }

    /// Corrects a result rounded to nearest, given how it compares with the exact value.
    fn correct(self, too_low: bool, too_high: bool, negative: bool) -> Correction {
        match self.rounding {
            Rounding::Zero if too_high && !negative => Correction::Below,
            Rounding::Zero if too_low && negative => Correction::Above,
            Rounding::Down if too_high => Correction::Below,
            Rounding::Up if too_low => Correction::Above,
            _ => Correction::None,
        }
    }

    fn integer_to_single(self, integer: i128) -> f32 {
        let near = integer as f32;
        // Integers of 64 bits are far below the largest f32, so `near` is finite and whole.
        let back = whole(f64::from(near));
        match self.correct(back < integer, back > integer, integer < 0) {
            Correction::None => near,
            Correction::Below => near.next_down(),
            Correction::Above => near.next_up(),
        }
    }

    fn integer_to_double(self, integer: i128) -> f64 {
        let near = integer as f64;
        let back = whole(near);
        match self.correct(back < integer, back > integer, integer < 0) {
            Correction::None => near,
            Correction::Below => near.next_down(),
            Correction::Above => near.next_up(),
        }
    }

    fn double_to_single(self, float: f64) -> f32 {
        let near = narrow(float);
        let back = f64::from(near);
        match self.correct(back < float, back > float, float < 0.0) {
            Correction::None => near,
            Correction::Below => near.next_down(),
            Correction::Above => near.next_up(),
        }
    }
}

enum Correction {
    None,
    Below,
    Above,
}

/// An integral float as an integer. It saturates, far outside the range of every type of PTX.
#[expect(clippy::cast_possible_truncation, reason = "the value is whole")]
fn whole(float: f64) -> i128 {
    float as i128
}
