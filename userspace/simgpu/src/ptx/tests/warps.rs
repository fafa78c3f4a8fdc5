// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Lanes that part and meet, wait for one another, and exchange values.

use super::{BASE, Flat, Launch, module, over_lanes};
use crate::ptx::{Fault, Outcome};

/// Runs a body for one block whose thread `i` leaves its result in `%r0`.
fn by_thread(declarations: &str, body: &str, threads: u32) -> Vec<u32> {
    let text = module(
        ".param .u64 base",
        &format!(
            ".reg .b64 %rd<10>; .reg .b32 %r<20>; .reg .pred %p<8>; {declarations}
             ld.param.u64 %rd9, [base];
             mov.u32 %r9, %tid.x;
             mad.wide.u32 %rd8, %r9, 4, %rd9;
             {body}
             st.global.u32 [%rd8], %r0;"
        ),
    );
    let memory = Flat::new(4096);
    Launch::text(&text, 1, threads)
        .u64(BASE)
        .run(&memory)
        .unwrap();
    (0..threads).map(|i| memory.u32(i as usize)).collect()
}

#[test]
fn lanes_of_one_warp_take_both_sides_of_a_branch() {
    let found = by_thread(
        "",
        "and.b32 %r1, %r9, 1; setp.eq.u32 %p1, %r1, 0;
         @%p1 bra EVEN;
         mul.lo.u32 %r0, %r9, 100;
         bra.uni DONE;
         EVEN: add.u32 %r0, %r9, 7;
         DONE: add.u32 %r0, %r0, 1;",
        70,
    );
    for (i, found) in (0..70).zip(found) {
        assert_eq!(found, if i % 2 == 0 { i + 8 } else { i * 100 + 1 }, "{i}");
    }
}

#[test]
fn each_lane_loops_as_often_as_it_needs() {
    let found = by_thread(
        "",
        "mov.u32 %r0, 0; mov.u32 %r1, 0;
         LOOP: setp.ge.u32 %p1, %r1, %r9;
         @%p1 bra DONE;
         add.u32 %r1, %r1, 1; add.u32 %r0, %r0, %r1;
         bra LOOP;
         DONE:",
        64,
    );
    for (i, found) in (0..64).zip(found) {
        assert_eq!(found, i * (i + 1) / 2);
    }
}

#[test]
fn lanes_meet_again_behind_a_branch() {
    // The mask of active lanes is full again where the sides join.
    let found = by_thread(
        "",
        "setp.lt.u32 %p1, %r9, 11;
         @%p1 bra LOW;
         mov.u32 %r1, 1;
         bra JOIN;
         LOW: mov.u32 %r1, 2; activemask.b32 %r2;
         JOIN: activemask.b32 %r0;",
        32,
    );
    assert_eq!(found, [u32::MAX; 32]);
}

#[test]
fn a_lane_that_spins_for_another_of_its_warp_is_not_waited_for_in_vain() {
    // Lane 0 spins at a low address on a flag that lane 1 sets behind the loop.
    let found = by_thread(
        ".shared .b32 flag;",
        "mov.u32 %r0, 0; st.shared.u32 [flag], %r0;
         setp.ne.u32 %p1, %r9, 0;
         @%p1 bra SETTER;
         SPIN: ld.volatile.shared.u32 %r0, [flag]; setp.eq.u32 %p2, %r0, 0; @%p2 bra SPIN;
         bra DONE;
         SETTER: mov.u32 %r1, 5; st.volatile.shared.u32 [flag], %r1; mov.u32 %r0, 9;
         DONE:",
        2,
    );
    assert_eq!(found, [5, 9]);
}

#[test]
fn every_lane_of_a_warp_takes_a_spin_lock_once() {
    let found = by_thread(
        ".shared .b32 lock; .shared .b32 count;",
        "mov.u32 %r1, 0; st.shared.u32 [lock], %r1; st.shared.u32 [count], %r1; bar.sync 0;
         TAKE: atom.shared.cas.b32 %r2, [lock], 0, 1; setp.ne.u32 %p1, %r2, 0; @%p1 bra TAKE;
         ld.shared.u32 %r3, [count]; add.u32 %r3, %r3, 1; st.shared.u32 [count], %r3;
         membar.cta;
         atom.shared.exch.b32 %r4, [lock], 0;
         bar.sync 0;
         ld.shared.u32 %r0, [count];",
        96,
    );
    assert_eq!(found, [96; 96]);
}

#[test]
fn a_branch_table_sends_each_lane_to_its_entry() {
    let found = by_thread(
        "",
        "rem.u32 %r1, %r9, 3;
         TABLE: .branchtargets A, B, C;
         brx.idx %r1, TABLE;
         A: mov.u32 %r0, 10; bra DONE;
         B: mov.u32 %r0, 20; bra DONE;
         C: mov.u32 %r0, 30;
         DONE:",
        32,
    );
    for (i, found) in (0..32).zip(found) {
        assert_eq!(found, (i % 3 + 1) * 10);
    }
}

#[test]
fn votes_see_the_lanes_of_their_mask() {
    let found = by_thread(
        "",
        "setp.lt.u32 %p1, %r9, 5;
         vote.sync.ballot.b32 %r0, %p1, 0xffffffff;
         vote.sync.any.pred %p2, %p1, -1; @%p2 or.b32 %r0, %r0, 0x100;
         vote.sync.all.pred %p3, %p1, -1; @%p3 or.b32 %r0, %r0, 0x200;
         vote.sync.uni.pred %p4, %p2, -1; @%p4 or.b32 %r0, %r0, 0x400;
         vote.sync.all.pred %p5, !%p3, -1; @%p5 or.b32 %r0, %r0, 0x800;",
        32,
    );
    assert_eq!(found, [0xd1f; 32]);
}

#[test]
fn halves_of_a_warp_vote_apart() {
    let found = by_thread(
        "",
        "setp.ge.u32 %p1, %r9, 16; selp.b32 %r1, 0xffff0000, 0xffff, %p1;
         and.b32 %r2, %r9, 1; setp.eq.u32 %p2, %r2, 0;
         vote.sync.ballot.b32 %r0, %p2, %r1;",
        32,
    );
    assert_eq!(found[..16], [0x5555; 16]);
    assert_eq!(found[16..], [0x5555_0000; 16]);
}

#[test]
fn a_sync_waits_for_lanes_that_took_another_way() {
    let found = by_thread(
        "",
        "setp.lt.u32 %p1, %r9, 8; mov.u32 %r1, 0;
         @%p1 bra VOTE;
         LOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 50; @%p2 bra LOOP;
         VOTE: setp.eq.u32 %p3, %r1, 50;
         vote.sync.ballot.b32 %r0, %p3, -1;",
        32,
    );
    assert_eq!(found, [0xffff_ff00; 32]);
}

#[test]
fn exited_lanes_are_not_waited_for() {
    let found = by_thread(
        "",
        "setp.ge.u32 %p1, %r9, 30; @%p1 exit;
         setp.eq.u32 %p2, %r9, %r9;
         vote.sync.ballot.b32 %r0, %p2, -1; bar.sync 0;",
        32,
    );
    assert_eq!(found[..30], [0x3fff_ffff; 30]);
    assert_eq!(found[30..], [0, 0]);
}

#[test]
fn shuffles_move_values_between_lanes() {
    let shuffle = |form: &str| {
        by_thread(
            "",
            &format!(
                "mul.lo.u32 %r1, %r9, 3;
                 shfl.sync.{form}, -1; selp.b32 %r3, 0x1000, 0, %p1; or.b32 %r0, %r2, %r3;"
            ),
            32,
        )
    };
    let in_range = |lane: u32| 3 * lane + 0x1000;
    for (i, found) in (0..32).zip(shuffle("bfly.b32 %r2|%p1, %r1, 5, 31")) {
        assert_eq!(found, in_range(i ^ 5));
    }
    for (i, found) in (0..32).zip(shuffle("up.b32 %r2|%p1, %r1, 3, 0")) {
        assert_eq!(found, if i < 3 { 3 * i } else { in_range(i - 3) });
    }
    for (i, found) in (0..32).zip(shuffle("down.b32 %r2|%p1, %r1, 4, 31")) {
        assert_eq!(found, if i < 28 { in_range(i + 4) } else { 3 * i });
    }
    for (i, found) in (0..32).zip(shuffle("idx.b32 %r2|%p1, %r1, 9, 31")) {
        assert_eq!(found, in_range(9), "{i}");
    }
    // Segments of eight lanes: the mask of the segment is 0b11000.
    for (i, found) in (0..32).zip(shuffle("down.b32 %r2|%p1, %r1, 2, 0x181f")) {
        assert_eq!(found, if i % 8 < 6 { in_range(i + 2) } else { 3 * i });
    }
    for (i, found) in (0..32).zip(shuffle("idx.b32 %r2|%p1, %r1, 1, 0x181f")) {
        assert_eq!(found, in_range(i / 8 * 8 + 1));
    }
}

#[test]
fn matches_reductions_and_elections_cover_the_group() {
    let found = by_thread(
        "",
        "rem.u32 %r1, %r9, 4; match.any.sync.b32 %r0, %r1, -1;",
        32,
    );
    for (i, found) in (0..32).zip(found) {
        assert_eq!(found, 0x1111_1111 << (i % 4));
    }
    let found = by_thread("", "redux.sync.add.u32 %r0, %r9, -1;", 32);
    assert_eq!(found, [496; 32]);
    let found = by_thread(
        "",
        "sub.s32 %r1, 5, %r9; redux.sync.min.s32 %r0, %r1, -1;",
        32,
    );
    assert_eq!(found, [(-26_i32).cast_unsigned(); 32]);
    let found = by_thread(
        "",
        "mov.u32 %r1, 3; match.all.sync.b32 %r0|%p1, %r1, -1; elect.sync %r2|%p2, -1;
         @%p2 mov.u32 %r0, 77;",
        32,
    );
    assert_eq!(found[0], 77);
    assert_eq!(found[1..], [u32::MAX; 31]);
}

#[test]
fn barriers_order_what_warps_write_and_read() {
    // Every thread reads what the next one wrote, round after round.
    let found = by_thread(
        ".shared .b32 cells[256];",
        "mov.u32 %r10, cells; shl.b32 %r1, %r9, 2; add.u32 %r11, %r10, %r1;
         add.u32 %r2, %r9, 1; rem.u32 %r2, %r2, 256; shl.b32 %r2, %r2, 2; add.u32 %r12, %r10, %r2;
         mov.u32 %r0, %r9; mov.u32 %r3, 0;
         LOOP: st.shared.u32 [%r11], %r0; bar.sync 0;
         ld.shared.u32 %r0, [%r12]; barrier.sync 0;
         add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 10; @%p1 bra LOOP;",
        256,
    );
    for (i, found) in (0..256).zip(found) {
        assert_eq!(found, (i + 10) % 256);
    }
}

#[test]
fn a_barrier_of_some_threads_lets_the_others_pass() {
    // The first two warps meet at barrier 3 alone; the third waits for their arrival at barrier 4.
    let found = by_thread(
        ".shared .b32 cell;",
        "shr.u32 %r1, %r9, 5; setp.eq.u32 %p1, %r1, 2; @%p1 bra THIRD;
         setp.eq.u32 %p2, %r9, 40; @!%p2 bra FIRST;
         mov.u32 %r2, 6; st.shared.u32 [cell], %r2;
         FIRST: bar.sync 3, 64; ld.shared.u32 %r0, [cell]; bar.arrive 4, 96; bra DONE;
         THIRD: bar.sync 4, 96; ld.shared.u32 %r0, [cell]; add.u32 %r0, %r0, 1;
         DONE:",
        96,
    );
    assert_eq!(found[..64], [6; 64]);
    assert_eq!(found[64..], [7; 32]);
}

#[test]
fn barriers_reduce_predicates_over_the_block() {
    let found = by_thread(
        "",
        "setp.lt.u32 %p1, %r9, 37; bar.red.popc.u32 %r0, 0, %p1;
         bar.red.and.pred %p2, 1, %p1; bar.red.or.pred %p3, 1, !%p1;
         @%p2 add.u32 %r0, %r0, 1000; @%p3 add.u32 %r0, %r0, 2000;",
        64,
    );
    assert_eq!(found, [2037; 64]);
}

#[test]
fn a_block_that_can_never_go_on_is_hung() {
    let text = module("", "bar.sync 0, 64; ret;");
    let memory = Flat::new(16);
    let outcome = Launch::text(&text, 1, 32).run(&memory).unwrap_err();
    assert_eq!(outcome, Outcome::Hung);
    let text = module("", ".reg .b32 %r<2>; mov.u32 %r0, 16; bar.sync %r0; ret;");
    let outcome = Launch::text(&text, 1, 32).run(&memory).unwrap_err();
    let fault = Fault::IllegalBarrier {
        barrier: 16,
        threads: 0,
    };
    assert_eq!(outcome, Outcome::Faulted { fault, line: 7 });
}

#[test]
fn a_guard_holds_for_its_lanes_only() {
    let found = over_lanes(
        ".reg .pred %p<2>;",
        "mov.u64 %rd0, 1; setp.gt.u64 %p1, %rd1, 4; @%p1 mov.u64 %rd0, 2; @!%p1 add.u64 %rd0, %rd0, 9;",
        &[[0, 0, 0], [5, 0, 0], [4, 0, 0], [9, 0, 0]],
    );
    assert_eq!(found, [10, 2, 10, 2]);
}
