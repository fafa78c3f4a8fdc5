// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Macros that make a function over rows from a function over lanes. Each expands to a loop of 32
//! turns without branches around it, which the compiler turns into vector instructions.

/// `unary!(A => O, |a| ..)`.
macro_rules! unary {
    ($a:ty => $o:ty, $f:expr) => {{
        fn rows(a: &Row, d: &mut Row) {
            for (d, a) in d.iter_mut().zip(a) {
                let f: fn($a) -> $o = $f;
                *d = f(<$a>::from_lane(*a)).to_lane();
            }
        }
        rows as Unary
    }};
}

/// `binary!(A, B => O, |a, b| ..)`.
macro_rules! binary {
    ($a:ty, $b:ty => $o:ty, $f:expr) => {{
        fn rows(a: &Row, b: &Row, d: &mut Row) {
            for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
                let f: fn($a, $b) -> $o = $f;
                *d = f(<$a>::from_lane(*a), <$b>::from_lane(*b)).to_lane();
            }
        }
        rows as Binary
    }};
}

/// `ternary!(A, B, C => O, |a, b, c| ..)`.
macro_rules! ternary {
    ($a:ty, $b:ty, $c:ty => $o:ty, $f:expr) => {{
        fn rows(a: &Row, b: &Row, c: &Row, d: &mut Row) {
            for (((d, a), b), c) in d.iter_mut().zip(a).zip(b).zip(c) {
                let f: fn($a, $b, $c) -> $o = $f;
                *d = f(
                    <$a>::from_lane(*a),
                    <$b>::from_lane(*b),
                    <$c>::from_lane(*c),
                )
                .to_lane();
            }
        }
        rows as Ternary
    }};
}

/// `quaternary!(T, |a, b, c, e| ..)` for four operands; the last two are 32 bits wide.
macro_rules! quaternary {
    ($t:ty, $f:expr) => {{
        fn rows(a: &Row, b: &Row, c: &Row, e: &Row, d: &mut Row) {
            for ((((d, a), b), c), e) in d.iter_mut().zip(a).zip(b).zip(c).zip(e) {
                let f: fn($t, $t, u32, u32) -> $t = $f;
                *d = f(
                    <$t>::from_lane(*a),
                    <$t>::from_lane(*b),
                    u32::from_lane(*c),
                    u32::from_lane(*e),
                )
                .to_lane();
            }
        }
        rows as Quaternary
    }};
}

/// `test!(T, |a, b| ..)`: one bit per lane.
macro_rules! test {
    ($t:ty, $f:expr) => {{
        fn rows(a: &Row, b: &Row) -> u32 {
            let mut mask = 0;
            for (lane, (a, b)) in a.iter().zip(b).enumerate() {
                let f: fn($t, $t) -> bool = $f;
                mask |= u32::from(f(<$t>::from_lane(*a), <$t>::from_lane(*b))) << lane;
            }
            mask
        }
        rows as Test
    }};
}

/// The function for an integer type of 16, 32 or 64 bits; `$call` is one of the macros above
/// with `$t` standing for the type.
macro_rules! by_integer {
    ($ty:expr, $t:ident => $call:expr) => {
        match ($ty.kind, $ty.bits) {
            (Kind::Signed, 16) => {
                type $t = i16;
                Some($call)
            }
            (Kind::Signed, 32) => {
                type $t = i32;
                Some($call)
            }
            (Kind::Signed, 64) => {
                type $t = i64;
                Some($call)
            }
            (Kind::Bits | Kind::Unsigned, 16) => {
                type $t = u16;
                Some($call)
            }
            (Kind::Bits | Kind::Unsigned, 32) => {
                type $t = u32;
                Some($call)
            }
            (Kind::Bits | Kind::Unsigned, 64) => {
                type $t = u64;
                Some($call)
            }
            _ => None,
        }
    };
}

/// The same for the bits of a type, whatever its sign.
macro_rules! by_width {
    ($ty:expr, $t:ident => $call:expr) => {
        match $ty.bits {
            16 => {
                type $t = u16;
                Some($call)
            }
            32 => {
                type $t = u32;
                Some($call)
            }
            64 => {
                type $t = u64;
                Some($call)
            }
            _ => None,
        }
    };
}

pub(super) use {binary, by_integer, by_width, quaternary, ternary, test, unary};
