// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is not simulated, or not PTX, is refused when the module is loaded, with its line.

use proptest::prelude::*;

use super::module;
use crate::ptx::{Module, ParseErrorKind};

fn refusal(text: &str) -> (ParseErrorKind, u32, String) {
    let error = Module::parse(text).expect_err("the text should be refused");
    (error.kind, error.line, error.message)
}

/// The refusal of an instruction on line 8 of a module.
fn of_instruction(instruction: &str) -> (ParseErrorKind, String) {
    let declared = ".reg .b64 %rd<5>; .reg .b32 %r<5>; .reg .f32 %f<5>; .reg .pred %p<5>;
        .reg .b16 %h<5>; .reg .f64 %d<5>; .shared .b32 s[4];";
    let text = module(
        ".param .u64 base",
        &format!("{declared}\n{instruction}\nret;"),
    );
    let (kind, line, message) = refusal(&text);
    assert_eq!(line, 9, "{message}");
    (kind, message)
}

#[test]
fn instructions_that_are_not_simulated_are_named() {
    for (instruction, named) in [
        ("call foo;", "call"),
        (
            "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 %r1, [%rd1];",
            "wmma",
        ),
        ("cp.async.ca.shared.global [%r1], [%rd1], 16;", "cp.async"),
        ("mbarrier.init.shared.b64 [s], 1;", "mbarrier"),
        (
            "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [s, {%f1, %f2}];",
            "tex.2d",
        ),
        ("add.f16 %h1, %h2, %h3;", "add.f16"),
        ("fma.rn.bf16x2 %r1, %r2, %r3, %r4;", "fma.rn.bf16x2"),
        ("add.rz.f32 %f1, %f2, %f3;", "add.rz.f32"),
        (
            "atom.shared::cluster.add.u32 %r1, [%r2], 1;",
            "shared::cluster",
        ),
        ("mapa.shared::cluster.u32 %r1, %r2, 0;", "mapa"),
        (
            "ld.global.L2::cache_hint.u32 %r1, [%rd1], %rd2;",
            "L2::cache_hint",
        ),
        (
            "ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r1, %r2, %r3, %r4}, [%rd1];",
            "v8",
        ),
        ("st.param.u64 [base], %rd1;", "st.param"),
        ("rcp.approx.ftz.f64 %d1, %d2;", "rcp.approx"),
        ("mov.u32 %r1, %pm0;", "%pm0"),
        ("frobnicate.u32 %r1, %r2;", "frobnicate"),
        ("fence.proxy.async;", "fence.proxy"),
    ] {
        let (_, message) = of_instruction(instruction);
        assert!(message.contains(named), "{instruction}: {message}");
    }
    assert_eq!(of_instruction("call foo;").0, ParseErrorKind::Unsupported);
    assert_eq!(
        of_instruction("add.f16 %h1, %h2, %h3;").0,
        ParseErrorKind::Unsupported
    );
}

#[test]
fn operands_that_do_not_fit_are_invalid() {
    for (instruction, named) in [
        ("add.u32 %r1, %rd1, %r2;", "%rd1 has 64 bits"),
        ("add.u64 %rd1, %rd1, %r2;", "%r2 has 32 bits"),
        ("add.u32 %r1, %r2;", "2 operands"),
        ("add.u32 %r1, %r2, %nowhere;", "%nowhere is not declared"),
        ("add.u32 %r1, %r2, %r07;", "%r07 is not declared"),
        ("add.u32 %r1, %r2, %r5;", "%r5 is not declared"),
        ("add.u32 %r1, %r2, 0f3f800000;", "no value"),
        ("add.f32 %f1, %f2, 1;", "no value"),
        ("setp.eq.u32 %r1, %r2, %r3;", "%r1 is not a predicate"),
        ("@%r1 bra L;", "%r1 is not a predicate"),
        ("selp.u32 %r1, %r2, %r3, %r4;", "%r4 is not a predicate"),
        ("ld.global.u32 %h1, [%rd1];", "%h1 has 16 bits"),
        ("ld.global.u32 %r1, [s];", "another state space"),
        ("ld.global.u32 %r1, %rd1;", "in brackets"),
        ("ld.global.v2.u32 %r1, [%rd1];", "another length"),
        ("mov.u32 %r1, %clock64;", "another width"),
        ("cvt.s32.f32 %r1, %f1;", "no such conversion"),
        ("cvt.rzi.f32.s32 %f1, %r1;", "no such conversion"),
        ("mov.u32 5, %r1;", "not a register"),
        ("mov.b64 %rd1, {%rd2, %rd3};", "%rd2 has 64 bits"),
        ("mov.b32 %r1, {%r2, %r3};", "%r2 has 32 bits"),
        ("mov.u16 %h1, %tid.x;", "wider"),
    ] {
        let (kind, message) = of_instruction(instruction);
        assert!(message.contains(named), "{instruction}: {message}");
        assert_eq!(kind, ParseErrorKind::Invalid, "{instruction}");
    }
}

#[test]
fn a_modifier_that_means_nothing_here_is_not_overlooked() {
    for instruction in [
        "add.sat.u32 %r1, %r2, %r3;",
        "add.wide.u32 %r1, %r2, %r3;",
        "setp.lt.ftz.u32 %p1, %r1, %r2;",
        "setp.lt.b32 %p1, %r1, %r2;",
        "and.u32 %r1, %r2, %r3;",
        "fma.rn.sat.f64 %d1, %d2, %d3, %d4;",
        "popc.u32 %r1, %r2;",
        "atom.global.add.b32 %r1, [%rd1], %r2;",
        "atom.global.cas.u32 %r1, [%rd1], %r2, %r3;",
        "ld.global.foo.u32 %r1, [%rd1];",
        "ret.foo;",
        "bar.sync.foo 0;",
    ] {
        let (kind, _) = of_instruction(instruction);
        assert_eq!(kind, ParseErrorKind::Unsupported, "{instruction}");
    }
}

#[test]
fn texts_that_are_no_modules_are_invalid() {
    for (text, line, named) in [
        ("", 1, ".version"),
        ("hello", 1, ".version"),
        (".version 8.0\n.entry k() {}", 2, ".target"),
        (
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry k(",
            4,
            ".param",
        ),
        (".version 8.0\n.target sm_90\n.entry k() {\nret;", 4, "'}'"),
        (
            ".version 8.0\n.target sm_90\n.entry k() {\n bra L;\n}",
            4,
            "no label L",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() {\nL: L: ret;\n}",
            4,
            "twice",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() {}\n.entry k() {}",
            4,
            "twice",
        ),
        (".version 8.0\n.target sm_90\n/* open", 3, "does not end"),
        (
            ".version 8.0\n.target sm_90\n.entry k() { mov.u32 %r1, 0xzz; }",
            3,
            "not a number",
        ),
        (".version 8.0\n.target sm_90\n\u{e9}", 3, "character"),
        (
            ".version 8.0\n.target sm_90\n.global .u32 a = {1, 2};",
            3,
            "more initial values",
        ),
        (
            ".version 8.0\n.target sm_90\n.global .align 3 .u32 a;",
            3,
            "alignment",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() .maxntid 2000 { }",
            3,
            "2000",
        ),
    ] {
        let (kind, found, message) = refusal(text);
        assert_eq!(
            (kind, found),
            (ParseErrorKind::Invalid, line),
            "{text}: {message}"
        );
        assert!(message.contains(named), "{text}: {message}");
    }
}

#[test]
fn what_other_gpus_and_modules_need_is_unsupported() {
    for (text, named) in [
        (".version 99.0\n.target sm_90", "version"),
        (".version 8.0\n.target sm_100", "sm_100"),
        (".version 8.0\n.target sm_90\n.address_size 32", "32 bits"),
        (
            ".version 8.0\n.target sm_90\n.extern .global .u32 a;",
            "a is not in this module",
        ),
        (".version 8.0\n.target sm_90\n.global .texref t;", "texref"),
        (".version 8.0\n.target sm_90\n.tex .u32 t;", ".tex"),
        (
            ".version 8.0\n.target sm_90\n.global .b8 a[0xffffffffffff];",
            "too large",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() { .shared .b8 s[49153]; ret; }",
            "shared",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() { .local .b8 s[99999999]; ret; }",
            "local",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k(.param .b8 p[40000]) { ret; }",
            "parameters",
        ),
        (
            ".version 8.0\n.target sm_90\n.entry k() .blocksareclusters { ret; }",
            "blocksareclusters",
        ),
    ] {
        let (kind, _, message) = refusal(text);
        assert_eq!(kind, ParseErrorKind::Unsupported, "{text}: {message}");
        assert!(message.contains(named), "{text}: {message}");
    }
}

#[test]
fn directives_without_effect_are_skipped() {
    let text = "// a comment
        .version 8.3
        .target sm_90a, debug
        .address_size 64
        .file 1 \"kernel.cu\"
        .extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b) ;
        .func helper() { .reg .b32 %r<2>; ret; }
        .visible .entry k(.param .u64 .ptr .align 1 a)
        .maxntid 128, 2 .minnctapersm 2 .reqnctapercluster 2, 1, 1 .pragma \"nounroll\";
        {
            .loc 1 5 0
            .pragma \"nounroll\";
            { .reg .pred %p; setp.eq.u32 %p, 1, 1; @%p bra END; }
            END: ret;
        }
        .section .debug_str { .b8 1, 2 }
        \0garbage behind the terminating zero";
    let module = Module::parse(text).unwrap();
    let kernel = &module.kernels()[0];
    assert_eq!(kernel.max_threads, 256);
    assert_eq!(kernel.required_cluster, Some([2, 1, 1]));
    assert!(kernel.explicit_cluster);
    assert_eq!(module.kernels().len(), 1);
}

#[test]
fn more_live_values_need_more_registers() {
    let with = |count: usize| {
        let loads: String = (0..count)
            .map(|i| format!("ld.global.u32 %r{i}, [%rd0+{}]; ", 4 * i))
            .collect();
        let uses: String = (0..count)
            .map(|i| format!("xor.b32 %r500, %r500, %r{i}; "))
            .collect();
        let text = module(
            ".param .u64 base",
            &format!(
                ".reg .b64 %rd<2>; .reg .b32 %r<999>; ld.param.u64 %rd0, [base];
                 mov.u32 %r500, 0; {loads} {uses} st.global.u32 [%rd0], %r500;"
            ),
        );
        Module::parse(&text).unwrap().kernels()[0].registers
    };
    assert_eq!(with(1), 16);
    assert_eq!(with(40), 56);
    assert_eq!(with(400), 255);
}

#[test]
fn a_text_of_many_braces_or_registers_does_no_harm() {
    let deep = format!("{}{}", "{".repeat(100_000), "}".repeat(100_000));
    Module::parse(&module("", &deep)).unwrap();
    let vector = format!("mov.b64 %rd1, {}{};", "{".repeat(99), "}".repeat(99));
    assert_eq!(of_instruction(&vector).0, ParseErrorKind::Invalid);
    let module_text = module("", ".reg .b32 %r<4000000000>; mov.u32 %r3999999999, 1;");
    Module::parse(&module_text).unwrap();
    let mut many = String::from(".reg .b32 %r<99999>;");
    for i in 0..20_000 {
        many.push_str(&format!("mov.u32 %r{i}, 1;"));
    }
    assert_eq!(refusal(&module("", &many)).0, ParseErrorKind::Unsupported);
}

const SAMPLE: &str = include_str!("../../../tests/kernels/matmul.ptx");

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutations_of_a_valid_module_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8, any::<u8>()), 1..6)
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (place, edit, byte) in edits {
            let at = place.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at.max(40)),
                _ => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        if let Ok(module) = Module::parse(&String::from_utf8_lossy(&bytes)) {
            let _ = module.link(|_| Some(0));
        }
    }

    #[test]
    fn words_of_ptx_in_any_order_never_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            ".entry", "k", "(", ")", "{", "}", "[", "]", ";", ",", ".reg", ".b32", "%r", "<", ">",
            "5", "mov", ".u32", "@", "!", "%p1", "ld", ".global", ".param", ".u64", "+", "-", "bra",
            "L", ":", ".shared", ".align", "=", "0f3f800000", "1.5", "|", "call", ".v4", "_", ".f64",
            ".func", ".loc", ".section", ".branchtargets", "cvt", "atom", ".cas", "bar", ".sync",
            ".pred", "setp", ".local", ".visible", ".maxntid", ".const", "\"s\"", "%tid", ".x",
        ]), 0..60)
    ) {
        let text = format!(".version 8.0 .target sm_90 .entry z() {{ .reg .b32 %r<9>; {}",
            words.join(" "));
        let _ = Module::parse(&text);
        let text = format!(".version 8.0 .target sm_90 {}", words.join(" "));
        let _ = Module::parse(&text);
    }

    #[test]
    fn any_text_at_all_never_panics(text in "\\PC{0,200}") {
        let _ = Module::parse(&text);
        let _ = Module::parse(&format!(".version 8.0\n.target sm_90\n{text}"));
    }
}
