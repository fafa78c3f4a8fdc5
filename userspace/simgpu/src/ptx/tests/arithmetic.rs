// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Each family of arithmetic against Rust's own.

use proptest::prelude::*;

use super::over_lanes;

/// Words that find edges: small, large, signed and floating.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0_u64..8,
        Just(u64::MAX),
        Just(1 << 63),
        Just(0x8000_0000),
        Just(0x7fff_ffff),
        any::<f64>().prop_map(f64::to_bits),
        any::<f32>().prop_map(|value| u64::from(value.to_bits())),
        (-100_i64..100).prop_map(i64::cast_unsigned),
        (-1000.0_f32..1000.0).prop_map(|value| u64::from(value.to_bits())),
        (-1e5_f64..1e5).prop_map(f64::to_bits),
    ]
}

fn lanes_of_words() -> impl Strategy<Value = Vec<[u64; 3]>> {
    prop::collection::vec([word(), word(), word()], 32)
}

/// Declares registers of every width and loads the low parts of the inputs into them.
const NARROW: &str = ".reg .b32 %r<8>; .reg .b16 %h<8>; .reg .pred %p<4>;
    .reg .f32 %f<8>; .reg .f64 %d<8>;";

/// What `%rd1` to `%rd3` look like in narrower registers, and back.
fn b32(instruction: &str) -> String {
    format!(
        "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;
         {instruction} cvt.u64.u32 %rd0, %r0;"
    )
}

fn b16(instruction: &str) -> String {
    format!(
        "cvt.u16.u64 %h1, %rd1; cvt.u16.u64 %h2, %rd2; cvt.u16.u64 %h3, %rd3;
         {instruction} cvt.u64.u16 %rd0, %h0;"
    )
}

fn f32s(instruction: &str) -> String {
    format!(
        "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;
         mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;
         {instruction} mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;"
    )
}

fn f64s(instruction: &str) -> String {
    format!(
        "mov.b64 %d1, %rd1; mov.b64 %d2, %rd2; mov.b64 %d3, %rd3;
         {instruction} mov.b64 %rd0, %d0;"
    )
}

fn check(body: &str, words: &[[u64; 3]], expected: impl Fn(u64, u64, u64) -> u64) {
    let found = over_lanes(NARROW, body, words);
    for ([a, b, c], found) in words.iter().zip(found) {
        let expected = expected(*a, *b, *c);
        assert_eq!(found, expected, "{body}\na {a:#x} b {b:#x} c {c:#x}");
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low parts are meant")]
fn low32(word: u64) -> u32 {
    word as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the low parts are meant")]
fn low16(word: u64) -> u16 {
    word as u16
}

fn single(word: u64) -> f32 {
    f32::from_bits(low32(word))
}

/// Single-precision results have one NaN.
fn bits32(value: f32) -> u64 {
    if value.is_nan() {
        0x7fff_ffff
    } else {
        u64::from(value.to_bits())
    }
}

/// For results whose NaN may have any payload.
fn check_f64(body: &str, words: &[[u64; 3]], expected: impl Fn(f64, f64, f64) -> f64) {
    let found = over_lanes(NARROW, body, words);
    for ([a, b, c], found) in words.iter().zip(found) {
        let [a, b, c] = [a, b, c].map(|word| f64::from_bits(*word));
        let (found, expected) = (f64::from_bits(found), expected(a, b, c));
        assert!(
            found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
            "{body}\na {a:e} b {b:e} c {c:e} found {found:e} expected {expected:e}"
        );
    }
}

macro_rules! integer_family {
    ($words:expr, $wrap:expr, $low:expr, $u:ty, $s:ty, $wide:ty, $ud:expr, $sd:expr, $r:expr, $bits:expr) => {{
        let words: &[[u64; 3]] = $words;
        let run = |op: &str, f: &dyn Fn($u, $u, $u) -> $u| {
            let body = $wrap(&op.replace('#', $r));
            check(&body, words, |a, b, c| {
                u64::from(f($low(a), $low(b), $low(c)))
            });
        };
        let s = |a: $u| a.cast_signed();
        run(concat!("add.", $ud, " #0, #1, #2;"), &|a, b, _| {
            a.wrapping_add(b)
        });
        run(concat!("sub.", $sd, " #0, #1, #2;"), &|a, b, _| {
            a.wrapping_sub(b)
        });
        run(concat!("mul.lo.", $ud, " #0, #1, #2;"), &|a, b, _| {
            a.wrapping_mul(b)
        });
        run(concat!("mul.hi.", $ud, " #0, #1, #2;"), &|a, b, _| {
            <$u>::try_from((<$wide>::from(a) * <$wide>::from(b)) >> $bits).unwrap()
        });
        run(concat!("mad.lo.", $sd, " #0, #1, #2, #3;"), &|a, b, c| {
            a.wrapping_mul(b).wrapping_add(c)
        });
        run(concat!("div.", $ud, " #0, #1, #2;"), &|a, b, _| {
            a.checked_div(b).unwrap_or(<$u>::MAX)
        });
        run(concat!("rem.", $ud, " #0, #1, #2;"), &|a, b, _| {
            a.checked_rem(b).unwrap_or(a)
        });
        run(concat!("div.", $sd, " #0, #1, #2;"), &|a, b, _| {
            if b == 0 {
                <$u>::MAX
            } else {
                s(a).wrapping_div(s(b)).cast_unsigned()
            }
        });
        run(concat!("rem.", $sd, " #0, #1, #2;"), &|a, b, _| {
            if b == 0 {
                a
            } else {
                s(a).wrapping_rem(s(b)).cast_unsigned()
            }
        });
        run(concat!("min.", $ud, " #0, #1, #2;"), &|a, b, _| a.min(b));
        run(concat!("max.", $ud, " #0, #1, #2;"), &|a, b, _| a.max(b));
        run(concat!("min.", $sd, " #0, #1, #2;"), &|a, b, _| {
            s(a).min(s(b)).cast_unsigned()
        });
        run(concat!("max.", $sd, " #0, #1, #2;"), &|a, b, _| {
            s(a).max(s(b)).cast_unsigned()
        });
        run(concat!("abs.", $sd, " #0, #1;"), &|a, _, _| {
            s(a).wrapping_abs().cast_unsigned()
        });
        run(concat!("neg.", $sd, " #0, #1;"), &|a, _, _| {
            a.wrapping_neg()
        });
        run(concat!("sad.", $ud, " #0, #1, #2, #3;"), &|a, b, c| {
            a.abs_diff(b).wrapping_add(c)
        });
        run(concat!("and.b", $bits, " #0, #1, #2;"), &|a, b, _| a & b);
        run(concat!("or.b", $bits, " #0, #1, #2;"), &|a, b, _| a | b);
        run(concat!("xor.b", $bits, " #0, #1, #2;"), &|a, b, _| a ^ b);
        run(concat!("not.b", $bits, " #0, #1;"), &|a, _, _| !a);
        run(concat!("cnot.b", $bits, " #0, #1;"), &|a, _, _| {
            <$u>::from(a == 0)
        });
        for by in [0_u32, 1, 7, 15, 16, 31, 32, 33, 63, 64, 200] {
            run(
                &format!(concat!("shl.b", $bits, " #0, #1, {};"), by),
                &|a, _, _| a.checked_shl(by).unwrap_or(0),
            );
            run(
                &format!(concat!("shr.", $ud, " #0, #1, {};"), by),
                &|a, _, _| a.checked_shr(by).unwrap_or(0),
            );
            run(
                &format!(concat!("shr.", $sd, " #0, #1, {};"), by),
                &|a, _, _| {
                    s(a).checked_shr(by)
                        .unwrap_or(if s(a) < 0 { -1 } else { 0 })
                        .cast_unsigned()
                },
            );
        }
    }};
}

fn same(text: &str) -> String {
    text.to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn integers_of_16_bits_compute_as_in_rust(words in lanes_of_words()) {
        integer_family!(&words, b16, low16, u16, i16, u32, "u16", "s16", "%h", 16);
        check(&b16("{ .reg .b32 %w; mul.wide.s16 %w, %h1, %h2; cvt.u16.u32 %h0, %w; }"), &words,
            |a, b, _| u64::from(low16(a).wrapping_mul(low16(b))));
    }

    #[test]
    fn integers_of_32_bits_compute_as_in_rust(words in lanes_of_words()) {
        integer_family!(&words, b32, low32, u32, i32, u64, "u32", "s32", "%r", 32);
        let signed = |a: u64| low32(a).cast_signed();
        check(&b32("add.sat.s32 %r0, %r1, %r2;"), &words,
            |a, b, _| u64::from(signed(a).saturating_add(signed(b)).cast_unsigned()));
        check(&b32("sub.sat.s32 %r0, %r1, %r2;"), &words,
            |a, b, _| u64::from(signed(a).saturating_sub(signed(b)).cast_unsigned()));
        check(&b32("popc.b32 %r0, %r1;"), &words, |a, _, _| u64::from(low32(a).count_ones()));
        check(&b32("clz.b32 %r0, %r1;"), &words, |a, _, _| u64::from(low32(a).leading_zeros()));
        check(&b32("brev.b32 %r0, %r1;"), &words, |a, _, _| u64::from(low32(a).reverse_bits()));
        check(&b32("bfind.u32 %r0, %r1;"), &words,
            |a, _, _| u64::from(low32(a).checked_ilog2().unwrap_or(u32::MAX)));
        check(&b32("bfind.shiftamt.s32 %r0, %r1;"), &words, |a, _, _| {
            let a = signed(a);
            let plain = if a < 0 { !a } else { a }.cast_unsigned();
            u64::from(plain.checked_ilog2().map_or(u32::MAX, |bit| 31 - bit))
        });
        check("mul.wide.u32 %rd0, %lane, 3; cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2;
            mul.wide.s32 %rd0, %r1, %r2;", &words,
            |a, b, _| (i64::from(signed(a)) * i64::from(signed(b))).cast_unsigned());
        check("cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mad.wide.u32 %rd0, %r1, %r2, %rd3;",
            &words, |a, b, c| (u64::from(low32(a)) * u64::from(low32(b))).wrapping_add(c));
        check(&b32("mul24.lo.u32 %r0, %r1, %r2;"), &words,
            |a, b, _| u64::from(low32((a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))));
    }

    #[test]
    fn integers_of_64_bits_compute_as_in_rust(words in lanes_of_words()) {
        integer_family!(&words, same, u64::from, u64, i64, u128, "u64", "s64", "%rd", 64);
        check("mul.hi.s64 %rd0, %rd1, %rd2;", &words, |a, b, _| {
            let product = i128::from(a.cast_signed()) * i128::from(b.cast_signed());
            u64::try_from((product >> 64) & i128::from(u64::MAX)).unwrap()
        });
        check("popc.b64 %r0, %rd1; cvt.u64.u32 %rd0, %r0;", &words,
            |a, _, _| u64::from(a.count_ones()));
        check("clz.b64 %r0, %rd1; cvt.u64.u32 %rd0, %r0;", &words,
            |a, _, _| u64::from(a.leading_zeros()));
        check("brev.b64 %rd0, %rd1;", &words, |a, _, _| a.reverse_bits());
    }

    #[test]
    fn carries_chain_through_128_bits(words in lanes_of_words()) {
        let wide = |a: u64, b: u64| u128::from(b) << 64 | u128::from(a);
        let high = |word: u128| u64::try_from(word >> 64).unwrap();
        check(".reg .b64 %x<2>; add.cc.u64 %x0, %rd1, %rd2; addc.u64 %rd0, %rd2, %rd3;", &words,
            |a, b, c| high(wide(a, b).wrapping_add(wide(b, c))));
        check(".reg .b64 %x<2>; sub.cc.u64 %x0, %rd1, %rd2; subc.u64 %rd0, %rd2, %rd3;", &words,
            |a, b, c| high(wide(a, b).wrapping_sub(wide(b, c))));
        check("cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3;
            mad.lo.cc.u32 %r4, %r1, %r2, %r3; madc.hi.u32 %r5, %r1, %r2, 0;
            mov.b64 %rd0, {%r4, %r5};", &words,
            |a, b, c| u64::from(low32(a)) * u64::from(low32(b)) + u64::from(low32(c)));
    }

    #[test]
    fn bit_fields_follow_the_definition(words in lanes_of_words()) {
        let signed_field = |a: i128, at: u32, count: u32, top: u32| {
            let mut d = 0_u64;
            for i in 0..=top {
                let from = (at + i).min(top);
                let from = if i < count { from } else { (at + count.max(1) - 1).min(top) };
                let bit = if count == 0 { 0 } else { a >> from & 1 };
                d |= u64::try_from(bit).unwrap() << i;
            }
            d
        };
        check(&b32("bfe.s32 %r0, %r1, %r2, %r3;"), &words, |a, b, c| {
            signed_field(i128::from(low32(a)), low32(b) & 0xff, low32(c) & 0xff, 31)
        });
        check("cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3; bfe.s64 %rd0, %rd1, %r2, %r3;",
            &words,
            |a, b, c| signed_field(i128::from(a), low32(b) & 0xff, low32(c) & 0xff, 63));
        let field = |a: u64, at: u32, count: u32, width: u32| {
            (0..width).filter(|i| *i < count && at + i < width)
                .fold(0_u64, |d, i| d | (a >> (at + i) & 1) << i)
        };
        check(&b32("bfe.u32 %r0, %r1, %r2, %r3;"), &words,
            |a, b, c| field(a & 0xffff_ffff, low32(b) & 0xff, low32(c) & 0xff, 32));
        check("cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3; bfe.u64 %rd0, %rd1, %r2, %r3;",
            &words, |a, b, c| field(a, low32(b) & 0xff, low32(c) & 0xff, 64));
        let insert = |a: u64, b: u64, at: u32, count: u32, width: u32| {
            (0..count).filter(|i| at + i < width)
                .fold(b, |d, i| d & !(1 << (at + i)) | (a >> i & 1) << (at + i))
        };
        check(&b32("bfi.b32 %r0, %r1, %r2, %r3, 9;"), &words, |a, b, c| {
            insert(a & 0xffff_ffff, b & 0xffff_ffff, low32(c) & 0xff, 9, 32)
        });
        check("cvt.u32.u64 %r3, %rd3; bfi.b64 %rd0, %rd1, %rd2, 5, %r3;", &words,
            |a, b, c| insert(a, b, 5, (low32(c) & 0xff).min(64), 64));
    }

    #[test]
    fn bytes_shifts_and_tables_follow_the_definition(words in lanes_of_words()) {
        let joined = |a: u64, b: u64| (b & 0xffff_ffff) << 32 | (a & 0xffff_ffff);
        check(&b32("shf.l.wrap.b32 %r0, %r1, %r2, %r3;"), &words,
            |a, b, c| joined(a, b) << (c & 31) >> 32);
        check(&b32("shf.l.clamp.b32 %r0, %r1, %r2, %r3;"), &words,
            |a, b, c| joined(a, b) << low32(c).min(32) >> 32);
        check(&b32("shf.r.wrap.b32 %r0, %r1, %r2, %r3;"), &words,
            |a, b, c| joined(a, b) >> (c & 31) & 0xffff_ffff);
        check(&b32("shf.r.clamp.b32 %r0, %r1, %r2, %r3;"), &words,
            |a, b, c| joined(a, b) >> low32(c).min(32) & 0xffff_ffff);
        check(&b32("prmt.b32 %r0, %r1, %r2, %r3;"), &words, |a, b, c| {
            let bytes = joined(a, b).to_le_bytes();
            (0..4).fold(0, |d, i| {
                let selector = c >> (4 * i) & 15;
                let byte = bytes[usize::try_from(selector & 7).unwrap()];
                let byte = if selector < 8 { byte } else if byte & 0x80 != 0 { 0xff } else { 0 };
                d | u64::from(byte) << (8 * i)
            })
        });
        for table in [0x80_u8, 0xe8, 0x96, 0x1b] {
            check(&b32(&format!("lop3.b32 %r0, %r1, %r2, %r3, {table};")), &words, |a, b, c| {
                (0..32).fold(0, |d, i| {
                    let entry = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                    d | u64::from(table >> entry & 1) << i
                })
            });
        }
    }

    #[test]
    fn singles_compute_as_in_rust(words in lanes_of_words()) {
        let run = |op: &str, f: &dyn Fn(f32, f32, f32) -> f32| check(&f32s(op), &words,
            |a, b, c| bits32(f(single(a), single(b), single(c))));
        run("add.f32 %f0, %f1, %f2;", &|a, b, _| a + b);
        run("sub.rn.f32 %f0, %f1, %f2;", &|a, b, _| a - b);
        run("mul.f32 %f0, %f1, %f2;", &|a, b, _| a * b);
        run("div.rn.f32 %f0, %f1, %f2;", &|a, b, _| a / b);
        run("fma.rn.f32 %f0, %f1, %f2, %f3;", &f32::mul_add);
        run("mad.rn.f32 %f0, %f1, %f2, %f3;", &f32::mul_add);
        run("sqrt.rn.f32 %f0, %f1;", &|a, _, _| a.sqrt());
        run("rcp.rn.f32 %f0, %f1;", &|a, _, _| 1.0 / a);
        run("add.sat.f32 %f0, %f1, %f2;", &|a, b, _| {
            let sum = a + b;
            if sum.is_nan() { 0.0 } else { sum.clamp(0.0, 1.0) + 0.0 }
        });
        let flush = |a: f32| if a.is_subnormal() { 0.0_f32.copysign(a) } else { a };
        run("mul.ftz.f32 %f0, %f1, %f2;", &|a, b, _| flush(flush(a) * flush(b)));
        let least = |a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
            (true, _) => b,
            (_, true) => a,
            _ if a.total_cmp(&b).is_lt() => a,
            _ => b,
        };
        run("min.f32 %f0, %f1, %f2;", &|a, b, _| least(a, b));
        run("max.f32 %f0, %f1, %f2;", &|a, b, _| -least(-a, -b));
        check(&f32s("neg.f32 %f0, %f1;"), &words, |a, _, _| a & 0xffff_ffff ^ 0x8000_0000);
        check(&f32s("abs.f32 %f0, %f1;"), &words, |a, _, _| a & 0x7fff_ffff);
        check(&f32s("copysign.f32 %f0, %f1, %f2;"), &words,
            |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff);
    }

    #[test]
    fn approximations_are_within_a_millionth(words in lanes_of_words()) {
        let run = |op: &str, f: &dyn Fn(f64) -> f64| {
            let body = f32s(op);
            for ([a, ..], found) in words.iter().zip(over_lanes(NARROW, &body, &words)) {
                let (found, expected) = (f64::from(single(found)), f(f64::from(single(*a))));
                let close = (found - expected).abs() <= 1e-6 * expected.abs() + 1e-37;
                let overflow = found.is_infinite() && expected.abs() > f64::from(f32::MAX);
                prop_assert!(close || found == expected || overflow
                    || found.is_nan() && expected.is_nan(), "{op} {a:#x}: {found} {expected}");
            }
            Ok(())
        };
        run("rsqrt.approx.f32 %f0, %f1;", &|a| 1.0 / a.sqrt())?;
        run("sin.approx.f32 %f0, %f1;", &f64::sin)?;
        run("cos.approx.f32 %f0, %f1;", &f64::cos)?;
        run("lg2.approx.f32 %f0, %f1;", &f64::log2)?;
        run("ex2.approx.f32 %f0, %f1;", &f64::exp2)?;
        run("tanh.approx.f32 %f0, %f1;", &f64::tanh)?;
        run("sqrt.approx.f32 %f0, %f1;", &f64::sqrt)?;
        run("rcp.approx.f32 %f0, %f1;", &|a| 1.0 / a)?;
    }

    #[test]
    fn doubles_compute_as_in_rust(words in lanes_of_words()) {
        check_f64(&f64s("add.f64 %d0, %d1, %d2;"), &words, |a, b, _| a + b);
        check_f64(&f64s("sub.rn.f64 %d0, %d1, %d2;"), &words, |a, b, _| a - b);
        check_f64(&f64s("mul.f64 %d0, %d1, %d2;"), &words, |a, b, _| a * b);
        check_f64(&f64s("div.rn.f64 %d0, %d1, %d2;"), &words, |a, b, _| a / b);
        check_f64(&f64s("fma.rn.f64 %d0, %d1, %d2, %d3;"), &words, f64::mul_add);
        check_f64(&f64s("sqrt.rn.f64 %d0, %d1;"), &words, |a, _, _| a.sqrt());
        check_f64(&f64s("rcp.rn.f64 %d0, %d1;"), &words, |a, _, _| 1.0 / a);
        check_f64(&f64s("neg.f64 %d0, %d1;"), &words, |a, _, _| -a);
        check_f64(&f64s("abs.f64 %d0, %d1;"), &words, |a, _, _| a.abs());
        check_f64(&f64s("min.f64 %d0, %d1, %d2;"), &words, |a, b, _| {
            if a.is_nan() || a.total_cmp(&b).is_gt() && !b.is_nan() { b } else { a }
        });
    }

    #[test]
    fn comparisons_agree_with_rust(words in lanes_of_words()) {
        let run = |ty: &str, name: &str, f: &dyn Fn(u64, u64) -> bool| {
            let (a, b) = match ty {
                "u64" | "s64" | "b64" => ("%rd1", "%rd2"),
                "f64" => ("%d1", "%d2"),
                "f32" => ("%f1", "%f2"),
                _ => ("%r1", "%r2"),
            };
            let body = format!(
                "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mov.b32 %f1, %r1;
                 mov.b32 %f2, %r2; mov.b64 %d1, %rd1; mov.b64 %d2, %rd2;
                 setp.{name}.{ty} %p1|%p2, {a}, {b};
                 selp.b64 %rd0, 1, 2, %p1; @%p2 add.u64 %rd0, %rd0, 10;"
            );
            check(&body, &words, |a, b, _| if f(a, b) { 1 } else { 12 });
        };
        let s = |a: u64| low32(a).cast_signed();
        run("u32", "lt", &|a, b| low32(a) < low32(b));
        run("u32", "hs", &|a, b| low32(a) >= low32(b));
        run("s32", "lt", &|a, b| s(a) < s(b));
        run("s32", "ge", &|a, b| s(a) >= s(b));
        run("b32", "eq", &|a, b| low32(a) == low32(b));
        run("u64", "gt", &|a, b| a > b);
        run("s64", "le", &|a, b| a.cast_signed() <= b.cast_signed());
        run("b64", "ne", &|a, b| a != b);
        let nan = |a: f32, b: f32| a.is_nan() || b.is_nan();
        for (name, f) in [
            ("eq", (|a, b| a == b) as fn(f64, f64) -> bool),
            ("ne", |a, b| !a.is_nan() && !b.is_nan() && a != b),
            ("lt", |a, b| a < b),
            ("le", |a, b| a <= b),
            ("gt", |a, b| a > b),
            ("ge", |a, b| a >= b),
        ] {
            run("f32", name, &|a, b| f(f64::from(single(a)), f64::from(single(b))));
            run("f64", name, &|a, b| f(f64::from_bits(a), f64::from_bits(b)));
            run("f32", &format!("{name}u"), &|a, b| {
                f(f64::from(single(a)), f64::from(single(b))) || nan(single(a), single(b))
            });
        }
        run("f32", "num", &|a, b| !nan(single(a), single(b)));
        run("f32", "nan", &|a, b| nan(single(a), single(b)));
    }
}

/// The values on which conversions are tried beside random ones.
const EDGES: [f64; 14] = [
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    127.5,
    255.5,
    -129.0,
    65535.9,
    2_147_483_647.5,
    4_294_967_296.0,
    9.3e18,
    1.9e19,
    1e300,
];

#[expect(
    clippy::cast_possible_truncation,
    reason = "the saturating cast is Rust's own rule"
)]
fn saturated(value: f64) -> (i16, i32, u64) {
    (value as i16, value as i32, value as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn conversions_of_floats_to_integers_round_and_clamp(words in lanes_of_words()) {
        let mut words = words;
        for (word, edge) in words.iter_mut().zip(EDGES) {
            word[0] = edge.to_bits();
        }
        for (mode, round) in [
            ("rni", f64::round_ties_even as fn(f64) -> f64),
            ("rzi", f64::trunc),
            ("rmi", f64::floor),
            ("rpi", f64::ceil),
        ] {
            check(&format!("mov.b64 %d1, %rd1; cvt.{mode}.s32.f64 %r0, %d1;
                cvt.u64.u32 %rd0, %r0;"), &words, |a, _, _| {
                let a = f64::from_bits(a);
                let value = if a.is_nan() { i32::MIN } else { saturated(round(a)).1 };
                u64::from(value.cast_unsigned())
            });
            check(&format!("mov.b64 %d1, %rd1; cvt.{mode}.u64.f64 %rd0, %d1;"), &words,
                |a, _, _| {
                    let a = f64::from_bits(a);
                    if a.is_nan() { 1 << 63 } else { saturated(round(a)).2 }
                });
            check(&f32s(&format!("cvt.{mode}.s16.f32 %h0, %f1; cvt.s32.s16 %r0, %h0;
                mov.b32 %f0, %r0;")), &words, |a, _, _| {
                let value = saturated(round(f64::from(single(a)))).0;
                u64::from(i32::from(value).cast_unsigned())
            });
            check(&f32s(&format!("cvt.{mode}.f32.f32 %f0, %f1;")), &words,
                |a, _, _| {
                    let value = round(f64::from(single(a)));
                    #[expect(clippy::cast_possible_truncation, reason = "whole, so exact")]
                    bits32(value as f32)
                });
        }
    }

    #[test]
    fn conversions_of_integers_keep_sign_and_width(words in lanes_of_words()) {
        check("cvt.s64.s8 %rd0, %rd1;", &words,
            |a, _, _| i64::from(a.to_le_bytes()[0].cast_signed()).cast_unsigned());
        check("cvt.u64.u8 %rd0, %rd1;", &words, |a, _, _| a & 0xff);
        check(&b32("cvt.s32.s16 %r0, %r1;"), &words,
            |a, _, _| u64::from(i32::from(low16(a).cast_signed()).cast_unsigned()));
        check(&b32("cvt.s8.s32 %r0, %r1;"), &words,
            |a, _, _| u64::from(i32::from(a.to_le_bytes()[0].cast_signed()).cast_unsigned()));
        check(&b32("cvt.sat.u8.s32 %r0, %r1;"), &words,
            |a, _, _| u64::try_from(low32(a).cast_signed().clamp(0, 255)).unwrap());
        check("cvt.sat.s32.s64 %r0, %rd1; cvt.s64.s32 %rd0, %r0;", &words, |a, _, _| {
            a.cast_signed().clamp(i32::MIN.into(), i32::MAX.into()).cast_unsigned()
        });
        check("cvt.u32.u64 %r1, %rd1; cvt.s64.s32 %rd0, %r1;", &words,
            |a, _, _| i64::from(low32(a).cast_signed()).cast_unsigned());
    }

    #[test]
    fn conversions_to_floats_round_in_each_direction(words in lanes_of_words()) {
        let to_single = |mode: &str, from: &str| over_lanes(NARROW,
            &format!("mov.b64 %d1, %rd1; cvt.{mode}.f32.{from} %f0, {}; mov.b32 %r0, %f0;
                cvt.u64.u32 %rd0, %r0;", if from == "f64" { "%d1" } else { "%rd1" }), &words);
        for from in ["s64", "u64", "f64"] {
            let [near, zero, down, up] = ["rn", "rz", "rm", "rp"].map(|mode| to_single(mode, from));
            for (lane, [a, ..]) in words.iter().enumerate() {
                let [near, zero, down, up] = [&near, &zero, &down, &up].map(|r| single(r[lane]));
                #[expect(clippy::cast_possible_truncation, reason = "the rounding to test")]
                let (expected, exact) = match from {
                    "s64" => (a.cast_signed() as f32, None),
                    "u64" => (*a as f32, None),
                    _ => (f64::from_bits(*a) as f32, Some(f64::from_bits(*a))),
                };
                if expected.is_nan() {
                    prop_assert!(near.is_nan() && zero.is_nan() && down.is_nan() && up.is_nan());
                    continue;
                }
                prop_assert_eq!(near.to_bits(), expected.to_bits());
                prop_assert!(down <= near && near <= up, "{} {} {}", down, near, up);
                prop_assert!(down == up || down.next_up() == up);
                prop_assert!(zero.abs() == down.abs().min(up.abs()));
                if let Some(exact) = exact {
                    prop_assert!(f64::from(down) <= exact && exact <= f64::from(up));
                }
            }
        }
    }

    #[test]
    fn words_are_packed_and_unpacked(words in lanes_of_words()) {
        check("mov.b64 {%r1, %r2}, %rd1; mov.b64 %rd0, {%r2, %r1};", &words,
            |a, _, _| a.rotate_left(32));
        check("mov.b64 {%h1, %h2, %h3, %h4}, %rd1; mov.b64 %rd0, {%h4, %h3, %h2, %h1};", &words,
            |a, _, _| (a & 0xffff) << 48 | (a >> 16 & 0xffff) << 32 | (a >> 32 & 0xffff) << 16
                | a >> 48);
        check(&b32("mov.b32 {%h1, %h2}, %r1; mov.b32 %r0, {%h2, %h1};"), &words,
            |a, _, _| u64::from(low32(a).rotate_left(16)));
        check("mov.b64 {_, %r2}, %rd1; cvt.u64.u32 %rd0, %r2;", &words, |a, _, _| a >> 32);
    }
}
