// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Floating-point arithmetic: from an instruction's name and flags to its function over rows.
//!
//! Rounding is to nearest, ties to even; other modes are refused when the module is loaded. The
//! hardware's approximations (`rcp.approx`, `sin.approx`, ...) are computed as exactly as Rust can,
//! which is within their stated error. Single-precision NaNs come out in the one form that the hardware
//! produces, double-precision ones as the CPU makes them.

use std::cmp::Ordering;

use super::code::{Binary, Row, Ternary, Test, Unary};
use super::lanes::{binary, ternary, test, unary};
use super::types::Lane;

/// What `.ftz` and `.sat` ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// Subnormals are zero, as inputs and as results.
    pub(super) flush: bool,
    /// Results are clamped to 0 to 1.
    pub(super) saturate: bool,
}

/// The NaN of single-precision results.
const NAN_32: u32 = 0x7fff_ffff;

#[inline(always)]
pub(super) fn flush_32<const FLUSH: bool>(a: f32) -> f32 {
    if FLUSH && a.abs() < f32::MIN_POSITIVE {
        a * 0.0
    } else {
        a
    }
}

/// The bits of a result. The NaN is chosen among bits, not floats: to Rust and LLVM all NaNs are one,
/// and a choice between them may be optimised away.
#[inline(always)]
pub(super) fn finish_32<const FLUSH: bool, const SATURATE: bool>(a: f32) -> u32 {
    let a = flush_32::<FLUSH>(a);
    if SATURATE {
        // A NaN saturates to zero, and so does -0.
        let a = if a > 0.0 { a } else { 0.0 };
        return a.min(1.0).to_bits();
    }
    let bits = a.to_bits();
    if bits & 0x7fff_ffff > f32::INFINITY.to_bits() {
        NAN_32
    } else {
        bits
    }
}

/// Expands to the function for each combination of flags.
macro_rules! by_flags {
    ($flags:expr, $flush:ident, $saturate:ident => $call:expr) => {
        match ($flags.flush, $flags.saturate) {
            (false, false) => {
                const $flush: bool = false;
                const $saturate: bool = false;
                $call
            }
            (false, true) => {
                const $flush: bool = false;
                const $saturate: bool = true;
                $call
            }
            (true, false) => {
                const $flush: bool = true;
                const $saturate: bool = false;
                $call
            }
            (true, true) => {
                const $flush: bool = true;
                const $saturate: bool = true;
                $call
            }
        }
    };
}

macro_rules! unary_32 {
    ($flags:expr, $f:expr) => {
        by_flags!($flags, FLUSH, SATURATE => unary!(f32 => u32, |a| {
            let f: fn(f32) -> f32 = $f;
            finish_32::<FLUSH, SATURATE>(f(flush_32::<FLUSH>(a)))
        }))
    };
}

macro_rules! binary_32 {
    ($flags:expr, $f:expr) => {
        by_flags!($flags, FLUSH, SATURATE => binary!(f32, f32 => u32, |a, b| {
            let f: fn(f32, f32) -> f32 = $f;
            finish_32::<FLUSH, SATURATE>(f(flush_32::<FLUSH>(a), flush_32::<FLUSH>(b)))
        }))
    };
}

/// `d = op(a)` in single precision. Approximations and exact forms have one function.
pub(super) fn unary_function_32(name: &str, flags: Flags) -> Option<Unary> {
    // The sign and magnitude of a NaN stay what the bits say.
    if !flags.flush && !flags.saturate {
        match name {
            "neg" => return Some(unary!(u32 => u32, |a| a ^ 0x8000_0000)),
            "abs" => return Some(unary!(u32 => u32, |a| a & 0x7fff_ffff)),
            _ => {}
        }
    }
    Some(match name {
        "neg" => unary_32!(flags, |a| -a),
        "abs" => unary_32!(flags, |a| a.abs()),
        "rcp" => unary_32!(flags, |a| 1.0 / a),
        "sqrt" => unary_32!(flags, |a| a.sqrt()),
        "rsqrt" => unary_32!(flags, |a| narrow(1.0 / f64::from(a).sqrt())),
        "sin" => unary_32!(flags, |a| narrow(f64::from(a).sin())),
        "cos" => unary_32!(flags, |a| narrow(f64::from(a).cos())),
        "lg2" => unary_32!(flags, |a| narrow(f64::from(a).log2())),
        "ex2" => unary_32!(flags, |a| narrow(f64::from(a).exp2())),
        "tanh" => unary_32!(flags, |a| narrow(f64::from(a).tanh())),
        _ => return None,
    })
}

/// `d = op(a, b)` in single precision.
pub(super) fn binary_function_32(name: &str, flags: Flags) -> Option<Binary> {
    Some(match name {
        "add" => binary_32!(flags, |a, b| a + b),
        "sub" => binary_32!(flags, |a, b| a - b),
        "mul" => binary_32!(flags, |a, b| a * b),
        "div" => binary_32!(flags, |a, b| a / b),
        "min" => binary_32!(flags, |a, b| lesser_32(a, b)),
        "max" => binary_32!(flags, |a, b| -lesser_32(-a, -b)),
        "min.NaN" => binary_32!(flags, |a, b| if a.is_nan() || b.is_nan() {
            f32::NAN
        } else {
            lesser_32(a, b)
        }),
        "max.NaN" => binary_32!(flags, |a, b| if a.is_nan() || b.is_nan() {
            f32::NAN
        } else {
            -lesser_32(-a, -b)
        }),
        "copysign" => binary!(u32, u32 => u32, |a, b| (a & 1 << 31) | (b & !(1 << 31))),
        _ => return None,
    })
}

/// `fma` and `mad` in single precision.
pub(super) fn fma_function_32(flags: Flags) -> Ternary {
    by_flags!(flags, FLUSH, SATURATE => ternary!(f32, f32, f32 => u32, |a, b, c| {
        let sum = fused_32(flush_32::<FLUSH>(a), flush_32::<FLUSH>(b), flush_32::<FLUSH>(c));
        finish_32::<FLUSH, SATURATE>(sum)
    }))
}

/// `d = op(a)` in double precision.
pub(super) fn unary_function_64(name: &str) -> Option<Unary> {
    Some(match name {
        "neg" => unary!(u64 => u64, |a| a ^ 1 << 63),
        "abs" => unary!(u64 => u64, |a| a & (u64::MAX >> 1)),
        "rcp" => unary!(f64 => f64, |a| 1.0 / a),
        "sqrt" => unary!(f64 => f64, |a| a.sqrt()),
        "rsqrt" => unary!(f64 => f64, |a| 1.0 / a.sqrt()),
        _ => return None,
    })
}

/// `d = op(a, b)` in double precision.
pub(super) fn binary_function_64(name: &str) -> Option<Binary> {
    Some(match name {
        "add" => binary!(f64, f64 => f64, |a, b| a + b),
        "sub" => binary!(f64, f64 => f64, |a, b| a - b),
        "mul" => binary!(f64, f64 => f64, |a, b| a * b),
        "div" => binary!(f64, f64 => f64, |a, b| a / b),
        "min" => binary!(f64, f64 => f64, |a, b| lesser_64(a, b)),
        "max" => binary!(f64, f64 => f64, |a, b| -lesser_64(-a, -b)),
        "copysign" => binary!(u64, u64 => u64, |a, b| (a & 1 << 63) | (b & !(1 << 63))),
        _ => return None,
    })
}

/// `fma` and `mad` in double precision.
pub(super) fn fma_function_64() -> Ternary {
    ternary!(f64, f64, f64 => f64, |a, b, c| a.mul_add(b, c))
}

macro_rules! comparisons {
    ($t:ident, $name:expr, $prepare:expr) => {{
        macro_rules! compare {
            (|$a:ident, $b:ident| $body:expr) => {
                test!($t, |a, b| {
                    let prepare: fn($t) -> $t = $prepare;
                    let ($a, $b) = (prepare(a), prepare(b));
                    $body
                })
            };
        }
        Some(match $name {
            "eq" => compare!(|a, b| a == b),
            // Ordered: a NaN is not unequal to anything.
            "ne" => compare!(|a, b| a.partial_cmp(&b).is_some_and(Ordering::is_ne)),
            "lt" => compare!(|a, b| a < b),
            "le" => compare!(|a, b| a <= b),
            "gt" => compare!(|a, b| a > b),
            "ge" => compare!(|a, b| a >= b),
            "equ" => compare!(|a, b| a == b || a.is_nan() || b.is_nan()),
            "neu" => compare!(|a, b| a != b),
            "ltu" => compare!(|a, b| a < b || a.is_nan() || b.is_nan()),
            "leu" => compare!(|a, b| a <= b || a.is_nan() || b.is_nan()),
            "gtu" => compare!(|a, b| a > b || a.is_nan() || b.is_nan()),
            "geu" => compare!(|a, b| a >= b || a.is_nan() || b.is_nan()),
            "num" => compare!(|a, b| !a.is_nan() && !b.is_nan()),
            "nan" => compare!(|a, b| a.is_nan() || b.is_nan()),
            _ => return None,
        })
    }};
}

/// The comparisons of `setp` and `set`.
pub(super) fn comparison(name: &str, bits: u8, flush: bool) -> Option<Test> {
    match (bits, flush) {
        (32, false) => comparisons!(f32, name, |a| a),
        (32, true) => comparisons!(f32, name, |a| flush_32::<true>(a)),
        (64, false) => comparisons!(f64, name, |a| a),
        _ => None,
    }
}

/// `testp`; the second operand is ignored.
pub(super) fn classification(name: &str, bits: u8) -> Option<Test> {
    macro_rules! classes {
        ($t:ty) => {
            Some(match name {
                "finite" => test!($t, |a, _| a.is_finite()),
                "infinite" => test!($t, |a, _| a.is_infinite()),
                "number" => test!($t, |a, _| !a.is_nan()),
                "notanumber" => test!($t, |a, _| a.is_nan()),
                "normal" => test!($t, |a, _| a.is_normal()),
                "subnormal" => test!($t, |a, _| a.is_subnormal()),
                _ => return None,
            })
        };
    }
    match bits {
        32 => classes!(f32),
        64 => classes!(f64),
        _ => None,
    }
}

/// The lesser, where -0 is less than +0 and a number is preferred to a NaN.
#[inline(always)]
fn lesser_32(a: f32, b: f32) -> f32 {
    if a < b || b.is_nan() || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
fn lesser_64(a: f64, b: f64) -> f64 {
    if a < b || b.is_nan() || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
pub(super) fn narrow(a: f64) -> f32 {
    a as f32
}

/// `a * b + c`, rounded once.
///
/// The product is exact in double precision. The sum is made *odd* there: if it is inexact its last bit
/// is set, so that rounding it again cannot go wrong (Boldo and Melquiond, "Emulation of FMA and
/// correctly rounded sums", 2008). Unlike a call of the library's `fma` this vectorises on any CPU.
#[inline(always)]
pub(super) fn fused_32(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    // What the sum lost (Knuth's TwoSum); not a number where the sum is infinite or none.
    let back = sum - product;
    let error = (product - (sum - back)) + (addend - back);
    let bits = sum.to_bits();
    let inexact = error.abs() > 0.0;
    let outward = (error > 0.0) == (sum > 0.0);
    let even = bits & 1 == 0;
    let step = if outward { 1 } else { u64::MAX };
    let odd = if inexact && even {
        bits.wrapping_add(step)
    } else {
        bits
    };
    narrow(f64::from_bits(odd))
}
