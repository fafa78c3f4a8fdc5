// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory, special registers, time, and blocks that depend on one another.

use super::{BASE, CLOCK_KHZ, Flat, Launch, load, module, over_lanes};
use crate::ptx::{Access, BlockError, Fault, Module, Outcome, SHARED_WINDOW};

#[test]
fn vectors_and_narrow_elements_are_loaded_and_stored() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .b16 %h<9>;
         ld.param.u64 %rd1, [base];
         mov.u32 %r1, %tid.x; mad.wide.u32 %rd2, %r1, 32, %rd1;
         ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd2];
         ld.global.nc.v2.u64 {%rd3, %rd4}, [%rd2+16];
         st.global.v4.b32 [%rd2], {%r5, %r4, %r3, %r2};
         st.global.v2.u64 [%rd2+16], {%rd4, %rd3};
         ld.global.s8 %r6, [%rd2+3]; ld.global.u16 %h1, [%rd2+4]; ld.global.s16 %r7, [%rd2+6];
         ld.global.v2.u8 {%h2, %h3}, [%rd2+8];
         add.s32 %r6, %r6, %r7; cvt.u32.u16 %r7, %h1; add.s32 %r6, %r6, %r7;
         st.global.u16 [%rd2+8], %h3; st.global.u8 [%rd2+10], %h2; st.global.u32 [%rd2+12], %r6;",
    );
    let memory = Flat::new(32 * 32);
    for i in 0..256 {
        memory.put_u32(
            i,
            0x9e37_79b9_u32.wrapping_mul(u32::try_from(i).unwrap() + 1),
        );
    }
    let before: Vec<u32> = (0..256).map(|i| memory.u32(i)).collect();
    Launch::text(&text, 1, 32).u64(BASE).run(&memory).unwrap();
    for lane in 0..32 {
        let old = &before[lane * 8..lane * 8 + 8];
        let new: Vec<u32> = (0..8).map(|i| memory.u32(lane * 8 + i)).collect();
        assert_eq!(new[..2], [old[3], old[2]]);
        assert_eq!(new[4..], [old[6], old[7], old[4], old[5]]);
        let bytes = old[1].to_le_bytes();
        assert_eq!(
            new[2] & 0xff_ffff,
            u32::from_le_bytes([bytes[1], 0, bytes[0], 0])
        );
        let [_, _, _, top] = old[3].to_le_bytes();
        let half = old[2].to_le_bytes();
        let sum = i32::from(top.cast_signed())
            + i32::from(i16::from_le_bytes([half[2], half[3]]))
            + i32::from(u16::from_le_bytes([half[0], half[1]]));
        assert_eq!(new[3], sum.cast_unsigned());
    }
}

#[test]
fn generic_addresses_reach_every_space() {
    let text = module(
        ".param .u64 base, .param .align 8 .b8 pair[16]",
        ".reg .b64 %rd<12>; .reg .b32 %r<9>; .reg .pred %p<4>;
         .shared .align 8 .b8 s[1024]; .local .align 8 .b8 l[32];
         ld.param.u64 %rd1, [base]; cvta.to.global.u64 %rd1, %rd1;
         mov.u32 %r1, %tid.x; cvt.u64.u32 %rd8, %r1;
         mov.u64 %rd2, s; cvta.shared.u64 %rd2, %rd2; mad.lo.u64 %rd2, %rd8, 8, %rd2;
         mov.u64 %rd3, l; cvta.local.u64 %rd3, %rd3;
         mov.b64 %rd4, pair; cvta.param.u64 %rd4, %rd4;
         ld.u64 %rd5, [%rd4+8]; add.u64 %rd5, %rd5, %rd8;
         st.u64 [%rd2], %rd5; st.u64 [%rd3+16], %rd5;
         ld.local.u64 %rd6, [l+16]; cvta.to.shared.u64 %rd7, %rd2; ld.shared.u64 %rd7, [%rd7];
         add.u64 %rd6, %rd6, %rd7;
         setp.lt.u64 %p1, %rd8, 16; selp.b64 %rd9, %rd2, %rd3, %p1; @!%p1 add.u64 %rd9, %rd9, 16;
         ld.u64 %rd10, [%rd9]; add.u64 %rd6, %rd6, %rd10;
         isspacep.shared %p2, %rd9; @%p2 add.u64 %rd6, %rd6, 1000;
         isspacep.local %p3, %rd9; @%p3 add.u64 %rd6, %rd6, 2000;
         isspacep.global %p3, %rd1; @!%p3 trap;
         mad.lo.u64 %rd11, %rd8, 8, %rd1; st.u64 [%rd11], %rd6;",
    );
    let memory = Flat::new(32 * 8);
    let launch = Launch::text(&text, 1, 32).u64(BASE).u64(1).u64(100);
    launch.run(&memory).unwrap();
    for i in 0..32 {
        let extra = if i < 16 { 1000 } else { 2000 };
        assert_eq!(
            memory.u64(usize::try_from(i).unwrap()),
            3 * (100 + i) + extra
        );
    }
}

#[test]
fn parameters_of_all_sizes_lie_where_their_layout_says() {
    let text = module(
        ".param .u8 a, .param .u16 b, .param .u32 c, .param .u64 .ptr .global .align 16 d,
         .param .f64 e, .param .align 4 .b8 f[12], .param .u8 g",
        ".reg .b64 %rd<4>; .reg .b32 %r<9>; .reg .f64 %d<2>; .reg .b16 %h<3>;
         ld.param.u64 %rd1, [d];
         ld.param.u8 %h1, [a]; ld.param.s16 %r1, [b]; ld.param.u32 %r2, [c];
         ld.param.f64 %d1, [e]; ld.param.u32 %r3, [f+8]; ld.param.u8 %r4, [g];
         cvt.u32.u16 %r5, %h1;
         st.global.v4.u32 [%rd1], {%r5, %r1, %r2, %r3}; st.global.u32 [%rd1+16], %r4;
         st.global.f64 [%rd1+24], %d1;",
    );
    let (module, image) = load(&text);
    let kernel = &module.kernels()[0];
    let layout: Vec<_> = kernel
        .parameters
        .iter()
        .map(|p| (p.name.as_str(), p.offset, p.bytes, p.align))
        .collect();
    assert_eq!(
        layout,
        [
            ("a", 0, 1, 1),
            ("b", 2, 2, 2),
            ("c", 4, 4, 4),
            ("d", 8, 8, 8),
            ("e", 16, 8, 8),
            ("f", 24, 12, 4),
            ("g", 36, 1, 1),
        ]
    );
    assert_eq!(kernel.parameter_bytes, 37);
    let memory = Flat::new(32);
    Launch::new(&image.kernels["k"], [1; 3], [1; 3])
        .parameter(&[200])
        .parameter(&(-2_i16).to_le_bytes())
        .u32(77)
        .u64(BASE)
        .parameter(&2.5_f64.to_le_bytes())
        .u32(1)
        .u32(2)
        .u32(3)
        .parameter(&[9])
        .run(&memory)
        .unwrap();
    let words: Vec<u32> = (0..5).map(|i| memory.u32(i)).collect();
    assert_eq!(words, [200, (-2_i32).cast_unsigned(), 77, 3, 9]);
    assert_eq!(memory.u64(3), 2.5_f64.to_bits());
}

#[test]
fn module_variables_are_linked_with_their_initial_values() {
    let text = ".version 8.0\n.target sm_90\n.address_size 64
        .const .align 4 .f32 scale[3] = {1.5, 0f40000000};
        .global .align 8 .u64 counter = 7, spare;
        .global .align 8 .u64 pointer = generic(counter)+8;
        .global .align 4 .b8 grid[2][3] = {{1, 2, 3}, {4, 5}};
        .visible .entry k() {
            .reg .b64 %rd<5>; .reg .f32 %f<3>; .reg .b16 %h<2>;
            ld.global.u64 %rd1, [pointer]; ld.const.f32 %f1, [scale+4];
            st.global.f32 [%rd1], %f1;
            mov.u64 %rd2, counter; atom.global.add.u64 %rd3, [%rd2], 5;
            ld.global.u8 %h1, [grid+4]; mov.u64 %rd4, grid+5; st.u8 [%rd4], %h1;
        }";
    let module = Module::parse(text).unwrap();
    let sizes: Vec<_> = module
        .variables()
        .iter()
        .map(|variable| (variable.name.as_str(), variable.bytes, variable.align))
        .collect();
    assert_eq!(
        sizes,
        [
            ("scale", 12, 4),
            ("counter", 8, 8),
            ("spare", 8, 8),
            ("pointer", 8, 8),
            ("grid", 6, 4)
        ]
    );
    let place = |name: &str| match name {
        "scale" => Some(BASE),
        "counter" => Some(BASE + 16),
        "pointer" => Some(BASE + 32),
        "grid" => Some(BASE + 40),
        _ => None,
    };
    assert_eq!(module.link(place).unwrap_err().name, "spare");
    let image = module
        .link(|name| {
            if name == "spare" {
                Some(BASE + 24)
            } else {
                place(name)
            }
        })
        .unwrap();
    let memory = Flat::new(48);
    for (address, bytes) in &image.contents {
        crate::ptx::Memory::store(&memory, *address, bytes).unwrap();
    }
    assert_eq!(
        (memory.f32(0), memory.f32(1), memory.f32(2)),
        (1.5, 2.0, 0.0)
    );
    assert_eq!(memory.u64(4), BASE + 24);
    Launch::new(&image.kernels["k"], [1; 3], [1; 3])
        .run(&memory)
        .unwrap();
    assert_eq!(memory.u64(2), 12);
    assert_eq!(memory.f32(6), 2.0);
    assert_eq!(memory.u64(5), u64::from_le_bytes([1, 2, 3, 4, 5, 5, 0, 0]));
}

#[test]
fn special_registers_describe_the_launch() {
    let read = |register: &str| {
        let text = module(
            ".param .u64 base",
            &format!(
                ".reg .b64 %rd<4>; .reg .b32 %r<9>;
                 ld.param.u64 %rd1, [base]; mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y;
                 mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r1;
                 mad.wide.u32 %rd2, %r4, 4, %rd1;
                 mov.u32 %r5, {register}; st.global.u32 [%rd2], %r5;"
            ),
        );
        let memory = Flat::new(60 * 4);
        let (_, image) = load(&text);
        let mut launch = Launch::new(&image.kernels["k"], [8, 4, 6], [20, 3, 1]).u64(BASE);
        launch.cluster = [4, 2, 1];
        launch.dynamic_shared_bytes = 300;
        let mut block = launch.block_at([6, 3, 5]);
        let turn = block.run(&memory, 1000, CLOCK_KHZ, u64::MAX);
        assert_eq!(turn.outcome, Outcome::Finished);
        (memory.u32(0), memory.u32(45))
    };
    assert_eq!(read("%tid.x"), (0, 5));
    assert_eq!(read("%tid.y"), (0, 2));
    assert_eq!(read("%tid.z"), (0, 0));
    assert_eq!(
        (read("%ntid.x").0, read("%ntid.y").0, read("%ntid.z").0),
        (20, 3, 1)
    );
    assert_eq!(
        (read("%ctaid.x").0, read("%ctaid.y").0, read("%ctaid.z").0),
        (6, 3, 5)
    );
    assert_eq!(
        (
            read("%nctaid.x").0,
            read("%nctaid.y").0,
            read("%nctaid.z").0
        ),
        (8, 4, 6)
    );
    assert_eq!(read("%laneid"), (0, 13));
    assert_eq!(read("%warpid"), (0, 1));
    assert_eq!(read("%nwarpid").0, 2);
    assert_eq!((read("%smid").0, read("%nsmid").0), (5, 132));
    assert_eq!((read("%clusterid.x").0, read("%clusterid.y").0), (1, 1));
    assert_eq!((read("%nclusterid.x").0, read("%nclusterid.z").0), (2, 6));
    assert_eq!(
        (read("%cluster_ctaid.x").0, read("%cluster_ctaid.y").0),
        (2, 1)
    );
    assert_eq!(
        (read("%cluster_nctaid.x").0, read("%cluster_nctarank").0),
        (4, 8)
    );
    assert_eq!(read("%cluster_ctarank").0, 6);
    assert_eq!(
        (read("%dynamic_smem_size").0, read("%total_smem_size").0),
        (300, 300)
    );
    assert_eq!(read("%lanemask_eq"), (1, 1 << 13));
    assert_eq!(read("%lanemask_lt"), (0, 0x1fff));
    assert_eq!(read("%lanemask_le"), (1, 0x3fff));
    assert_eq!(read("%lanemask_gt"), (!1, !0x3fff));
    assert_eq!(read("%lanemask_ge"), (!0, !0x1fff));
}

#[test]
fn predicates_take_part_in_logic_and_special_registers_in_mov() {
    let found = over_lanes(
        ".reg .pred %p<8>; .reg .b32 %r<4>;",
        "setp.ne.u64 %p1, %rd1, 0; setp.ne.u64 %p2, %rd2, 0;
         and.pred %p3, %p1, %p2; or.pred %p4, %p1, %p2; xor.pred %p5, %p1, !%p2; not.pred %p6, %p1;
         mov.u64 %rd0, %gridid; @%p3 add.u64 %rd0, %rd0, 10; @%p4 add.u64 %rd0, %rd0, 100;
         @%p5 add.u64 %rd0, %rd0, 1000; mov.pred %p7, %p6; @%p7 add.u64 %rd0, %rd0, 10000;
         setp.eq.or.u64 %p1, %rd3, 5, %p3; @%p1 add.u64 %rd0, %rd0, 100000;
         set.eq.u32.u64 %r1, %rd3, 5; and.b32 %r1, %r1, 0xf4240; cvt.u64.u32 %rd4, %r1;
         add.u64 %rd0, %rd0, %rd4;",
        &[[0, 0, 5], [1, 0, 0], [0, 1, 0], [1, 1, 0]],
    );
    assert_eq!(found, [1_111_007, 107, 10_107, 101_117]);
}

#[test]
fn atomics_of_all_blocks_add_up() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<4>; .reg .b32 %r<9>; .reg .f32 %f<3>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
         red.global.add.u32 [%rd1], 1;
         atom.global.add.f32 %f1, [%rd1+4], 0f3e800000;
         atom.acq_rel.gpu.global.max.s32 %r3, [%rd1+8], %r1;
         atom.global.inc.u32 %r4, [%rd1+12], 9;
         red.relaxed.sys.global.xor.b32 [%rd1+16], %r1;
         atom.global.add.u64 %rd2, [%rd1+24], 0x100000001;
         atom.min.u64 %rd3, [%rd1+32], %rd2;
         atom.global.exch.b32 %r5, [%rd1+40], %r2;
         atom.global.or.b32 %r6, [%rd1+44], %r1;
         atom.global.dec.u32 %r7, [%rd1+48], 6;",
    );
    let memory = Flat::new(64);
    memory.put_u64(4, u64::MAX);
    Launch::text(&text, 5, 60).u64(BASE).run(&memory).unwrap();
    assert_eq!(memory.u32(0), 300);
    assert_eq!(memory.f32(1), 75.0);
    assert_eq!(memory.u32(2), 59);
    assert_eq!(memory.u32(3), 0);
    assert_eq!(memory.u32(4), 0);
    assert_eq!(memory.u64(3), 300 * 0x1_0000_0001);
    assert_eq!(memory.u64(4), 0);
    assert!(memory.u32(10) < 5);
    assert_eq!(memory.u32(11), 63);
    assert_eq!(memory.u32(12), 1);
}

#[test]
fn a_compare_and_exchange_loop_counts_every_thread() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<4>; .reg .b32 %r<9>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base];
         ld.global.u32 %r1, [%rd1];
         AGAIN: add.u32 %r2, %r1, 3; atom.global.cas.b32 %r3, [%rd1], %r1, %r2;
         setp.ne.u32 %p1, %r3, %r1; mov.u32 %r1, %r3; @%p1 bra AGAIN;",
    );
    let memory = Flat::new(8);
    Launch::text(&text, 4, 64).u64(BASE).run(&memory).unwrap();
    assert_eq!(memory.u32(0), 3 * 256);
}

#[test]
fn blocks_that_wait_for_one_another_all_finish() {
    // A barrier over the grid: every block counts itself in and spins until all have.
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<4>; .reg .b32 %r<9>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base]; mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT;
         red.global.add.u32 [%rd1], 1; mov.u32 %r2, %nctaid.x;
         SPIN: ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.lt.u32 %p1, %r3, %r2; @%p1 bra SPIN;
         WAIT: bar.sync 0;
         @!%p1 red.global.add.u32 [%rd1+4], 1;",
    );
    let memory = Flat::new(8);
    let ends = Launch::text(&text, 9, 64).u64(BASE).run(&memory).unwrap();
    assert_eq!(memory.u32(0), 9);
    assert!(memory.u32(1) >= 9);
    assert!(ends.iter().all(|end| *end > 0));
}

#[test]
fn blocks_of_a_cluster_meet_at_its_barrier() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<4>; .reg .b32 %r<9>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base]; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %tid.x;
         mad.wide.u32 %rd2, %r1, 4, %rd1;
         mul.lo.u32 %r3, %r1, 100; nanosleep.u32 %r3;
         add.u32 %r4, %r1, 1; setp.eq.u32 %p1, %r2, 33; @%p1 st.global.u32 [%rd2], %r4;
         barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
         sub.u32 %r5, 3, %r1; mad.wide.u32 %rd3, %r5, 4, %rd1; ld.global.u32 %r6, [%rd3];
         barrier.cluster.arrive; barrier.cluster.wait;
         @%p1 st.global.u32 [%rd2], %r6;",
    );
    let memory = Flat::new(16);
    let mut launch = Launch::text(&text, 4, 64).u64(BASE);
    launch.cluster = [4, 1, 1];
    let ends = launch.run(&memory).unwrap();
    let words: Vec<u32> = (0..4).map(|i| memory.u32(i)).collect();
    assert_eq!(words, [4, 3, 2, 1]);
    // Nobody passes before the slowest has arrived.
    assert!(ends.iter().all(|end| *end >= 300), "{ends:?}");
}

#[test]
fn a_block_alone_is_its_own_cluster() {
    let text = module("", "barrier.cluster.arrive; barrier.cluster.wait; ret;");
    let memory = Flat::new(0);
    Launch::text(&text, 1, 96).run(&memory).unwrap();
}

#[test]
fn clocks_show_modelled_time() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base];
         mov.u64 %rd2, %clock64; mov.u64 %rd3, %globaltimer;
         mov.u32 %r1, 0;
         LOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 1000; @%p1 bra LOOP;
         mov.u64 %rd4, %clock64; mov.u64 %rd5, %globaltimer;
         sub.u64 %rd6, %rd4, %rd2; sub.u64 %rd7, %rd5, %rd3;
         st.global.u64 [%rd1], %rd6; st.global.u64 [%rd1+8], %rd7; st.global.u64 [%rd1+16], %rd3;
         nanosleep.u32 5000; mov.u64 %rd5, %globaltimer; sub.u64 %rd7, %rd5, %rd3;
         st.global.u64 [%rd1+24], %rd7; mov.u32 %r2, %clock; st.global.u32 [%rd1+32], %r2;",
    );
    let memory = Flat::new(40);
    let launch = Launch::text(&text, 1, 32).u64(BASE);
    let mut block = launch.block_at([0; 3]);
    // Two cycles to the nanosecond.
    let mut now = 1_700_000_000_000_000_000;
    loop {
        let turn = block.run(&memory, now, 2 * CLOCK_KHZ, 50);
        assert!(turn.end_ns >= now);
        now = turn.end_ns;
        if turn.outcome == Outcome::Finished {
            break;
        }
        assert_eq!(turn.outcome, Outcome::Yielded);
    }
    assert_eq!(memory.u64(0), 3003);
    assert!((1501..=1502).contains(&memory.u64(1)));
    assert!(memory.u64(2) >= 1_700_000_000_000_000_000);
    assert!((6500..6600).contains(&memory.u64(3)), "{}", memory.u64(3));
    let lasted = now - 1_700_000_000_000_000_000;
    assert!(
        (memory.u64(3)..memory.u64(3) + 20).contains(&lasted),
        "{lasted}"
    );
}

#[test]
fn time_moves_on_while_a_block_is_not_run() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<9>; ld.param.u64 %rd1, [base]; mov.u64 %rd2, %globaltimer;
         st.global.u64 [%rd1], %rd2;",
    );
    let memory = Flat::new(8);
    let mut block = Launch::text(&text, 1, 1).u64(BASE).block_at([0; 3]);
    assert_eq!(
        block.run(&memory, 100, CLOCK_KHZ, 1).outcome,
        Outcome::Yielded
    );
    assert_eq!(
        block.run(&memory, 90_000, CLOCK_KHZ, 100).outcome,
        Outcome::Finished
    );
    assert!(memory.u64(0) >= 90_000);
}

#[test]
fn two_runs_of_a_launch_are_the_same() {
    let text = module(
        ".param .u64 base",
        ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<2>;
         ld.param.u64 %rd1, [base]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
         mul.lo.u32 %r3, %r2, 37; xor.b32 %r3, %r3, %r1; rem.u32 %r3, %r3, 50;
         LOOP: atom.global.add.u32 %r4, [%rd1], 1; sub.u32 %r3, %r3, 1; setp.gt.s32 %p1, %r3, 0;
         @%p1 bra LOOP;
         mad.lo.u32 %r5, %r2, 96, %r1; mad.wide.u32 %rd2, %r5, 4, %rd1; st.global.u32 [%rd2+4], %r4;",
    );
    let run = || {
        let memory = Flat::new(4 + 96 * 6 * 4);
        let ends = Launch::text(&text, 6, 96).u64(BASE).run(&memory).unwrap();
        let words: Vec<u32> = (0..=96 * 6).map(|i| memory.u32(i)).collect();
        (ends, words)
    };
    assert_eq!(run(), run());
}

#[test]
fn faults_name_address_and_line() {
    let run = |body: &str| {
        let text = module(".param .u64 base", &format!("{DECLARED}\n{body}"));
        let memory = Flat::new(64);
        Launch::text(&text, 1, 32)
            .u64(BASE)
            .run(&memory)
            .unwrap_err()
    };
    const DECLARED: &str = ".reg .b64 %rd<9>; .reg .b32 %r<9>; .shared .b32 s[8];
        mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [base]; mad.wide.u32 %rd2, %r1, 4, %rd1;";
    let fault = |fault, line| Outcome::Faulted { fault, line };
    let illegal = |address, access| Fault::IllegalAddress {
        address,
        bytes: 4,
        access,
    };
    // Sixteen lanes are inside; the seventeenth is named.
    assert_eq!(
        run("ld.global.u32 %r2, [%rd2];"),
        fault(illegal(BASE + 64, Access::Load), 9)
    );
    assert_eq!(
        run("\nst.global.u32 [%rd2], %r1;"),
        fault(illegal(BASE + 64, Access::Store), 10)
    );
    assert_eq!(
        run("st.shared.u32 [s+32], %r1;"),
        fault(illegal(SHARED_WINDOW + 32, Access::Store), 9)
    );
    assert_eq!(
        run("atom.global.add.u32 %r2, [%rd1+64], 1;"),
        fault(illegal(BASE + 64, Access::Atomic), 9)
    );
    assert_eq!(
        run("ld.global.u32 %r2, [%rd1+2];"),
        fault(
            Fault::Misaligned {
                address: BASE + 2,
                bytes: 4
            },
            9
        )
    );
    assert_eq!(run("trap;"), fault(Fault::Trap, 9));
}

#[test]
fn a_block_that_does_not_fit_is_refused() {
    let (_, image) = load(
        ".version 8.0 .target sm_90 .address_size 64
         .entry k(.param .u64 a) .maxntid 64, 1, 1 { ret; }",
    );
    let kernel = &image.kernels["k"];
    assert_eq!(kernel.max_threads, 64);
    let refused = |launch: Launch| {
        let mut environment = super::BlockEnvironment {
            grid: launch.grid,
            block: launch.block,
            cluster: launch.cluster,
            explicit_cluster: false,
            block_index: [0; 3],
            sm: 0,
            sm_count: 1,
            grid_id: 0,
            dynamic_shared_bytes: launch.dynamic_shared_bytes,
            constant_bank: vec![0; 0x218].into(),
            parameter_offset: 0x210,
        };
        let error = super::Block::new(launch.kernel.clone(), environment.clone()).unwrap_err();
        environment.block = [64, 1, 1];
        environment.cluster = [1; 3];
        environment.dynamic_shared_bytes = 0;
        assert!(super::Block::new(launch.kernel.clone(), environment.clone()).is_ok());
        environment.parameter_offset += 1;
        assert_eq!(
            super::Block::new(launch.kernel, environment).unwrap_err(),
            BlockError::ParametersMissing {
                found: 0x218,
                needed: 0x219
            }
        );
        error
    };
    let threads = |x| Launch::new(kernel, [1; 3], [x, 1, 1]);
    assert_eq!(
        refused(threads(65)),
        BlockError::BlockShape {
            threads: 65,
            most: 64
        }
    );
    assert_eq!(
        refused(threads(0)),
        BlockError::BlockShape {
            threads: 0,
            most: 64
        }
    );
    let mut launch = threads(1);
    launch.cluster = [17, 1, 1];
    assert_eq!(refused(launch), BlockError::ClusterShape { blocks: 17 });
    let mut launch = threads(1);
    launch.dynamic_shared_bytes = 232_449;
    assert_eq!(
        refused(launch),
        BlockError::SharedMemory {
            bytes: 232_449,
            most: 232_448
        }
    );
}
