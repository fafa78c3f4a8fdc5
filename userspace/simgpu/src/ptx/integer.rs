// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Integer and bit arithmetic: from an instruction's name and type to its function over rows.
//!
//! What PTX leaves open is as the hardware does it: division by zero gives all ones, a remainder by
//! zero the dividend.

use super::code::{Binary, Quaternary, Row, Ternary, Test, Unary};
use super::lanes::{binary, by_integer, by_width, quaternary, ternary, test, unary};
use super::memory::WINDOW_BYTES;
use super::types::{Kind, Lane, Type};

/// `d = op(a)`; the result of `popc`, `clz` and `bfind` is 32 bits wide.
pub(super) fn unary_function(name: &str, ty: Type) -> Option<Unary> {
    match (name, ty.kind) {
        ("abs", Kind::Signed) => by_integer!(ty, T => unary!(T => T, |a| abs(a))),
        ("neg", Kind::Signed) => by_width!(ty, T => unary!(T => T, |a| a.wrapping_neg())),
        ("not", Kind::Bits) => by_width!(ty, T => unary!(T => T, |a| !a)),
        ("cnot", Kind::Bits) => by_width!(ty, T => unary!(T => T, |a| T::from(a == 0))),
        ("popc", Kind::Bits) if ty.bits > 16 => {
            by_width!(ty, T => unary!(T => u32, |a| a.count_ones()))
        }
        ("clz", Kind::Bits) if ty.bits > 16 => {
            by_width!(ty, T => unary!(T => u32, |a| a.leading_zeros()))
        }
        ("brev", Kind::Bits) if ty.bits > 16 => {
            by_width!(ty, T => unary!(T => T, |a| a.reverse_bits()))
        }
        ("bfind", Kind::Unsigned | Kind::Signed) if ty.bits > 16 => {
            by_integer!(ty, T => unary!(T => u32, |a| top_bit(a).unwrap_or(u32::MAX)))
        }
        ("bfind.shiftamt", Kind::Unsigned | Kind::Signed) if ty.bits > 16 => {
            by_integer!(ty, T => unary!(T => u32, |a| {
                top_bit(a).map_or(u32::MAX, |bit| T::BITS - 1 - bit)
            }))
        }
        _ => None,
    }
}

/// `d = op(a, b)` with everything of one type.
pub(super) fn binary_function(name: &str, ty: Type) -> Option<Binary> {
    if ty.kind == Kind::Bits {
        return match name {
            "and" => by_width!(ty, T => binary!(T, T => T, |a, b| a & b)),
            "or" => by_width!(ty, T => binary!(T, T => T, |a, b| a | b)),
            "xor" => by_width!(ty, T => binary!(T, T => T, |a, b| a ^ b)),
            _ => None,
        };
    }
    match name {
        "add" => by_width!(ty, T => binary!(T, T => T, |a, b| a.wrapping_add(b))),
        "sub" => by_width!(ty, T => binary!(T, T => T, |a, b| a.wrapping_sub(b))),
        "add.sat" if ty == S32 => Some(binary!(i32, i32 => i32, |a, b| a.saturating_add(b))),
        "sub.sat" if ty == S32 => Some(binary!(i32, i32 => i32, |a, b| a.saturating_sub(b))),
        "mul.lo" => by_width!(ty, T => binary!(T, T => T, |a, b| a.wrapping_mul(b))),
        "mul.hi" => by_integer!(ty, T => binary!(T, T => T, |a, b| a.high_product(b))),
        "mul.wide" => wide_product(ty),
        "mul24.lo" if ty == Type::U32 => {
            Some(binary!(u32, u32 => u32, |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)))
        }
        "mul24.lo" if ty == S32 => {
            Some(binary!(i32, i32 => i32, |a, b| (a << 8 >> 8).wrapping_mul(b << 8 >> 8)))
        }
        "div" => by_integer!(ty, T => binary!(T, T => T, |a, b| {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        })),
        "rem" => by_integer!(ty, T => binary!(T, T => T, |a, b| {
            if b == 0 { a } else { a.wrapping_rem(b) }
        })),
        "min" => by_integer!(ty, T => binary!(T, T => T, |a, b| a.min(b))),
        "max" => by_integer!(ty, T => binary!(T, T => T, |a, b| a.max(b))),
        _ => None,
    }
}

const S32: Type = Type::new(Kind::Signed, 32);

fn wide_product(ty: Type) -> Option<Binary> {
    match (ty.kind, ty.bits) {
        (Kind::Unsigned, 16) => Some(binary!(u16, u16 => u32, |a, b| u32::from(a) * u32::from(b))),
        (Kind::Signed, 16) => Some(binary!(i16, i16 => i32, |a, b| i32::from(a) * i32::from(b))),
        (Kind::Unsigned, 32) => Some(binary!(u32, u32 => u64, |a, b| u64::from(a) * u64::from(b))),
        (Kind::Signed, 32) => Some(binary!(i32, i32 => i64, |a, b| i64::from(a) * i64::from(b))),
        _ => None,
    }
}

/// `shl` and `shr`: the amount is 32 bits wide and clamped.
pub(super) fn shift_function(name: &str, ty: Type) -> Option<Binary> {
    match name {
        "shl" if ty.kind == Kind::Bits => by_width!(ty, T => binary!(T, u32 => T, |a, n| {
            a.checked_shl(n).unwrap_or(0)
        })),
        // A signed value clamps to its sign, an unsigned one to zero.
        "shr" if ty.kind == Kind::Signed => by_integer!(ty, T => binary!(T, u32 => T, |a, n| {
            a >> n.min(T::BITS - 1)
        })),
        "shr" => by_width!(ty, T => binary!(T, u32 => T, |a, n| {
            a.checked_shr(n).unwrap_or(0)
        })),
        _ => None,
    }
}

/// `d = op(a, b, c)`.
pub(super) fn ternary_function(name: &str, ty: Type) -> Option<Ternary> {
    match name {
        "mad.lo" => {
            by_width!(ty, T => ternary!(T, T, T => T, |a, b, c| a.wrapping_mul(b).wrapping_add(c)))
        }
        "mad.hi" => by_integer!(ty, T => ternary!(T, T, T => T, |a, b, c| {
            a.high_product(b).wrapping_add(c)
        })),
        "mad.hi.sat" if ty == S32 => Some(ternary!(i32, i32, i32 => i32, |a, b, c| {
            a.high_product(b).saturating_add(c)
        })),
        "mad.wide" => match (ty.kind, ty.bits) {
            (Kind::Unsigned, 16) => Some(ternary!(u16, u16, u32 => u32, |a, b, c| {
                (u32::from(a) * u32::from(b)).wrapping_add(c)
            })),
            (Kind::Signed, 16) => Some(ternary!(i16, i16, i32 => i32, |a, b, c| {
                (i32::from(a) * i32::from(b)).wrapping_add(c)
            })),
            (Kind::Unsigned, 32) => Some(ternary!(u32, u32, u64 => u64, |a, b, c| {
                (u64::from(a) * u64::from(b)).wrapping_add(c)
            })),
            (Kind::Signed, 32) => Some(ternary!(i32, i32, i64 => i64, |a, b, c| {
                (i64::from(a) * i64::from(b)).wrapping_add(c)
            })),
            _ => None,
        },
        "sad" => by_integer!(ty, T => ternary!(T, T, T => T, |a, b, c| {
            a.max(b).wrapping_sub(a.min(b)).wrapping_add(c)
        })),
        "bfe" => match (ty.kind, ty.bits) {
            (Kind::Unsigned, 32) => Some(ternary!(u32, u32, u32 => u32, |a, at, count| {
                let field = u64::from(a).checked_shr(at & 0xff).unwrap_or(0);
                u32::from_lane(field & low_bits(count & 0xff))
            })),
            (Kind::Unsigned, 64) => Some(ternary!(u64, u32, u32 => u64, |a, at, count| {
                a.checked_shr(at & 0xff).unwrap_or(0) & low_bits(count & 0xff)
            })),
            (Kind::Signed, 32) => Some(ternary!(i32, u32, u32 => i32, |a, at, count| {
                i32::from_lane(signed_field(i64::from(a), at & 0xff, count & 0xff, 31).cast_unsigned())
            })),
            (Kind::Signed, 64) => Some(ternary!(i64, u32, u32 => i64, |a, at, count| {
                signed_field(a, at & 0xff, count & 0xff, 63)
            })),
            _ => None,
        },
        _ => None,
    }
}

/// `shf` and `prmt`, by their name with mode.
pub(super) fn b32_ternary(name: &str) -> Option<Ternary> {
    Some(match name {
        "shf.l.wrap" => ternary!(u32, u32, u32 => u32, |a, b, n| high(joined(a, b) << (n & 31))),
        "shf.l.clamp" => ternary!(u32, u32, u32 => u32, |a, b, n| high(joined(a, b) << n.min(32))),
        "shf.r.wrap" => ternary!(u32, u32, u32 => u32, |a, b, n| {
            u32::from_lane(joined(a, b) >> (n & 31))
        }),
        "shf.r.clamp" => ternary!(u32, u32, u32 => u32, |a, b, n| {
            u32::from_lane(joined(a, b) >> n.min(32))
        }),
        "prmt" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            permute(a, b, [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15])
        }),
        "prmt.f4e" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            permute(a, b, [0, 1, 2, 3].map(|i| (c & 3) + i))
        }),
        "prmt.b4e" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            permute(a, b, [0, 1, 2, 3].map(|i| (8 + (c & 3) - i) & 7))
        }),
        "prmt.rc8" => ternary!(u32, u32, u32 => u32, |a, b, c| permute(a, b, [c & 3; 4])),
        "prmt.ecl" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            permute(a, b, [0, 1, 2, 3].map(|i: u32| i.max(c & 3)))
        }),
        "prmt.ecr" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            permute(a, b, [0, 1, 2, 3].map(|i: u32| i.min(c & 3)))
        }),
        "prmt.rc16" => ternary!(u32, u32, u32 => u32, |a, b, c| {
            let low = (c & 1) * 2;
            permute(a, b, [low, low + 1, low, low + 1])
        }),
        _ => return None,
    })
}

/// `bfi` and `lop3`.
pub(super) fn quaternary_function(name: &str, ty: Type) -> Option<Quaternary> {
    match (name, ty.kind, ty.bits) {
        ("bfi", Kind::Bits, 32) => Some(quaternary!(u32, |a, b, at, count| {
            let field = low_bits(count & 0xff);
            let place = field.checked_shl(at & 0xff).unwrap_or(0);
            let value = (u64::from(a) & field).checked_shl(at & 0xff).unwrap_or(0);
            u32::from_lane((u64::from(b) & !place) | value)
        })),
        ("bfi", Kind::Bits, 64) => Some(quaternary!(u64, |a, b, at, count| {
            let field = low_bits(count & 0xff);
            let place = field.checked_shl(at & 0xff).unwrap_or(0);
            (b & !place) | (a & field).checked_shl(at & 0xff).unwrap_or(0)
        })),
        ("lop3", Kind::Bits, 32) => Some(quaternary!(u32, |a, b, c, table| {
            let mut d = 0;
            for entry in 0..8 {
                let chosen = 0_u32.wrapping_sub(table >> entry & 1);
                let a = if entry & 4 != 0 { a } else { !a };
                let b = if entry & 2 != 0 { b } else { !b };
                let c = if entry & 1 != 0 { c } else { !c };
                d |= chosen & a & b & c;
            }
            d
        })),
        _ => None,
    }
}

/// Packs two halves: `d = a | b << bits of a`.
pub(super) fn pack_function(half: u8) -> Option<Binary> {
    match half {
        8 => Some(binary!(u64, u64 => u64, |a, b| (a & 0xff) | (b & 0xff) << 8)),
        16 => Some(binary!(u64, u64 => u64, |a, b| a | b << 16)),
        32 => Some(binary!(u64, u64 => u64, |a, b| a | b << 32)),
        _ => None,
    }
}

/// Takes the low half of a word twice as wide.
pub(super) fn low_function(half: u8) -> Option<Unary> {
    match half {
        8 => Some(unary!(u64 => u64, |a| a & 0xff)),
        16 => Some(unary!(u64 => u64, |a| a & 0xffff)),
        32 => Some(unary!(u64 => u64, |a| a & 0xffff_ffff)),
        _ => None,
    }
}

/// Takes the high half of a word twice as wide.
pub(super) fn high_function(half: u8) -> Option<Unary> {
    match half {
        8 => Some(unary!(u64 => u64, |a| a >> 8 & 0xff)),
        16 => Some(unary!(u64 => u64, |a| a >> 16 & 0xffff)),
        32 => Some(unary!(u64 => u64, |a| a >> 32)),
        _ => None,
    }
}

/// Copies a row.
pub(super) fn copy_function() -> Unary {
    unary!(u64 => u64, |a| a)
}

/// Truncates to 32 bits.
pub(super) fn low_word_function() -> Unary {
    unary!(u32 => u32, |a| a)
}

/// Adds or subtracts, wrapping, at full width: what `cvta` does.
pub(super) fn window_function(to: bool) -> Binary {
    if to {
        binary!(u64, u64 => u64, |a, b| a.wrapping_sub(b))
    } else {
        binary!(u64, u64 => u64, |a, b| a.wrapping_add(b))
    }
}

/// Whether a generic address lies in device memory, or in the window that begins at `b`.
pub(super) fn window_test(global: bool) -> Test {
    if global {
        test!(u64, |a, _| a >> 56 == 0)
    } else {
        test!(u64, |a, b| a & !(WINDOW_BYTES - 1) == b)
    }
}

/// The comparisons of `setp` and `set`.
pub(super) fn comparison(name: &str, ty: Type) -> Option<Test> {
    // `lo`, `ls`, `hi` and `hs` are for unsigned types; bits are only equal or not.
    let name = match (name, ty.kind) {
        ("lo", Kind::Unsigned) => "lt",
        ("ls", Kind::Unsigned) => "le",
        ("hi", Kind::Unsigned) => "gt",
        ("hs", Kind::Unsigned) => "ge",
        ("eq" | "ne", _) | (_, Kind::Unsigned | Kind::Signed) => name,
        _ => return None,
    };
    match name {
        "eq" => by_integer!(ty, T => test!(T, |a, b| a == b)),
        "ne" => by_integer!(ty, T => test!(T, |a, b| a != b)),
        "lt" => by_integer!(ty, T => test!(T, |a, b| a < b)),
        "le" => by_integer!(ty, T => test!(T, |a, b| a <= b)),
        "gt" => by_integer!(ty, T => test!(T, |a, b| a > b)),
        "ge" => by_integer!(ty, T => test!(T, |a, b| a >= b)),
        _ => None,
    }
}

/// What the standard library has under different names, or not, for its integer types.
trait Integer: Sized {
    /// The upper half of the product.
    fn high_product(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    /// The highest bit that is not a copy of the sign.
    fn highest(self) -> Option<u32>;
}

macro_rules! integers {
    ($($t:ty, $wide:ty, $bits:expr, $magnitude:expr, $highest:expr;)*) => {$(
        impl Integer for $t {
            #[inline(always)]
            fn high_product(self, other: Self) -> Self {
                ((<$wide>::from(self) * <$wide>::from(other)) >> $bits) as Self
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                let f: fn(Self) -> Self = $magnitude;
                f(self)
            }
            #[inline(always)]
            fn highest(self) -> Option<u32> {
                let f: fn(Self) -> Self = $highest;
                f(self).checked_ilog2()
            }
        }
    )*};
}

integers! {
    u16, u32, 16, |a| a, |a| a;
    u32, u64, 32, |a| a, |a| a;
    u64, u128, 64, |a| a, |a| a;
    i16, i32, 16, i16::wrapping_abs, |a| a ^ (a >> 15);
    i32, i64, 32, i32::wrapping_abs, |a| a ^ (a >> 31);
    i64, i128, 64, i64::wrapping_abs, |a| a ^ (a >> 63);
}

#[inline(always)]
fn abs<T: Integer>(a: T) -> T {
    a.magnitude()
}

#[inline(always)]
fn top_bit<T: Integer>(a: T) -> Option<u32> {
    a.highest()
}

#[inline(always)]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[inline(always)]
fn high(word: u64) -> u32 {
    u32::from_lane(word >> 32)
}

#[inline(always)]
fn low_bits(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// The field of `count` bits from bit `at`, sign-extended; beyond `top` the sign continues.
#[inline(always)]
fn signed_field(a: i64, at: u32, count: u32, top: u32) -> i64 {
    if count == 0 {
        return 0;
    }
    let last = at.saturating_add(count - 1).min(top);
    let sign = a >> last & 1;
    let shifted = a >> at.min(63);
    let kept = if at > top { 0 } else { (last - at + 1).min(64) };
    let bits = low_bits(kept).cast_signed();
    (shifted & bits) | (0_i64.wrapping_sub(sign) & !bits)
}

/// Picks four bytes out of eight; bit 3 of a selector copies the byte's sign instead.
#[inline(always)]
fn permute(a: u32, b: u32, selectors: [u32; 4]) -> u32 {
    let source = joined(a, b);
    let mut d = 0;
    for (place, selector) in (0..4).zip(selectors) {
        let byte = u32::from_lane(source >> ((selector & 7) * 8) & 0xff);
        let value = if selector & 8 == 0 {
            byte
        } else {
            (byte >> 7) * 0xff
        };
        d |= value << (place * 8);
    }
    d
}
