// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches that are split into atoms, held up and let go.

use lithos_tests::testbed::{PATIENCE, Process};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::*;

/// A latency-critical partition, and two of best effort whose launches are split, one of which borrows. What
/// is not known to be short is cut into eight atoms.
pub(crate) const SPLIT: &str = r#"
[[partition]]
name = "lc"
class = "lc"
guarantee = 2

[[partition]]
name = "be"
class = "be"
guarantee = 4
atom_us = 100

[[partition]]
name = "borrows"
class = "be"
guarantee = 1
atom_us = 200
borrow = true
"#;

/// Launches of random shapes; the first is not split, and finds out that the others are to be.
const EXACT: [&str; 2] = ["exact", "--wait-for-line"];

fn exact(bed: &Turn, more: &[&str]) -> Process {
    exact_in(bed, "be", more)
}

pub(crate) fn exact_in(bed: &Turn, partition: &str, more: &[&str]) -> Process {
    let arguments = [&EXACT, more].concat();
    let mut tenant = tenant(bed, partition, &arguments);
    assert_eq!(tenant.json().expect("a start")["running"], true);
    tenant
}

/// Lets it end, and fails unless every block ran once and in its turn.
pub(crate) fn ends_exactly(mut tenant: Process) {
    // It may have said that it is done with launching, or is about to.
    tenant.tell().expect("a listener");
    let report = tenant
        .finish(PATIENCE)
        .expect("its end")
        .json()
        .expect("a report");
    assert!(number(&report["blocks"]) > 0, "{report}");
    for key in ["wrong", "early", "misled"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
}

fn chains<'a>(status: &'a Value, key: &str) -> &'a Value {
    &channel(status, "be")["chains"][key]
}

fn counter(status: &Value, key: &str) -> u64 {
    number(&channel(status, "be")["counters"][key])
}

/// Waits until the tenant has a chain under way that is held.
fn until_held(bed: &Turn) {
    bed.status_until("a chain that is held", |status| {
        let held = channels(status, "be").len() == 1
            && *chains(status, "held") == json!(true)
            && number(chains(status, "running")) > 0;
        held.then_some(())
    })
    .expect("it is held");
}

#[test]
fn every_block_of_launches_that_are_split_runs_once_and_in_its_turn() {
    let bed = managed_gpu(SPLIT);
    let mut tenant = exact(&bed, &["--launches", "16"]);
    tenant.tell().expect("a listener");
    assert_eq!(tenant.json().expect("its launches")["running"], true);
    let status = bed.status().expect("a status");
    assert!(counter(&status, "split") > 0, "{}", channel(&status, "be"));
    assert!(counter(&status, "atoms") > 2 * counter(&status, "split"));
    assert_all_within_grant(channel(&status, "be"));
    ends_exactly(tenant);
}

#[test]
fn a_launch_stays_where_it_is_while_its_partition_is_held_and_others_go_on() {
    let bed = managed_gpu(SPLIT);
    let mut held = exact(&bed, &["--launches", "12"]);
    lithos(&bed, &["hold", "be"]);
    held.tell().expect("a listener");
    until_held(&bed);
    let completed = |status: &Value| number(&channel(status, "be")["totals"]["completed"]);
    let before = completed(&bed.status().expect("a status"));
    let other = run(&bed, "lc", &["launches", "--warm-up", "1", "--count", "50"]);
    assert_eq!(other["launches"], 50);
    let status = bed.status().expect("a status");
    assert!(
        completed(&status) <= before + 2,
        "one in each of two streams"
    );
    assert!(number(chains(&status, "running")) > 0);
    lithos(&bed, &["release", "be"]);
    assert_eq!(held.json().expect("its launches")["running"], true);
    ends_exactly(held);
}

/// The channel of who borrows.
fn borrower(status: &Value) -> &Value {
    channel(status, "borrows")
}

#[test]
fn short_launches_of_who_borrows_wait_while_it_is_held_and_others_go_on() {
    let bed = managed_gpu(SPLIT);
    let turns = "launches --warm-up 8 --batch 4 --count 40 --turn 20";
    let arguments: Vec<&str> = turns.split(' ').collect();
    let mut held = tenant(&bed, "borrows", &arguments);
    held.tell().expect("a listener");
    held.line(PATIENCE).expect("a turn");
    // To warm up, to settle, and the turn.
    let launched = |status: &Value| number(&borrower(status)["totals"]["launches"]);
    let before = 8 + 16 + 20;
    bed.status_until("all records", |status| {
        (launched(status) == before).then_some(())
    })
    .expect("so many");
    lithos(&bed, &["hold", "borrows"]);
    bed.status_until("it is held", |status| {
        (borrower(status)["chains"]["held"] == true).then_some(())
    })
    .expect("it is held");
    held.tell().expect("a listener");
    bed.status_until("a launch call that waits", |status| {
        (borrower(status)["chains"]["waiting"] == true).then_some(())
    })
    .expect("it waits");
    let other = run(&bed, "lc", &["launches", "--warm-up", "1", "--count", "50"]);
    assert_eq!(other["launches"], 50);
    let status = bed.status().expect("a status");
    assert_eq!(launched(&status), before, "{}", borrower(&status));
    lithos(&bed, &["release", "borrows"]);
    held.line(PATIENCE).expect("the other turn");
    let report = held.finish(PATIENCE).expect("its end").json();
    assert_eq!(report.expect("a report")["launches"], 40);
}

#[test]
fn launch_calls_wait_where_more_than_the_bound_would_be_under_way() {
    let bed = managed_gpu(SPLIT);
    // One block each, so none is split, and long ones.
    let queue =
        "launches --warm-up 8 --batch 64 --count 128 --turn 64 --blocks 1 --iterations 2000";
    let arguments: Vec<&str> = queue.split(' ').collect();
    let waited = |partition: &str| {
        let mut queues = tenant(&bed, partition, &arguments);
        queues.tell().expect("a listener");
        queues.line(PATIENCE).expect("a turn");
        let status = bed.status().expect("a status");
        queues.tell().expect("a listener");
        queues.line(PATIENCE).expect("the other turn");
        queues.finish(PATIENCE).expect("its end");
        number(&channel(&status, partition)["counters"]["waited"])
    };
    assert!(waited("borrows") > 0);
    assert_eq!(waited("be"), 0, "who does not borrow has no bound");
    assert_eq!(waited("lc"), 0);
}

#[test]
fn a_partition_whose_launches_are_not_split_cannot_be_held() {
    let bed = managed_gpu(SPLIT);
    let said = lithos_refuses(&bed, &["hold", "lc"]);
    assert!(said.contains("--atom-us"), "{said}");
    let said = lithos_refuses(&bed, &["squeeze", "nobody"]);
    assert!(said.contains("be, borrows, lc"), "{said}");
    lithos(&bed, &["release", "lc"]);
}

#[test]
fn a_squeezed_partition_runs_on_two_tpcs_and_moves() {
    let bed = managed_gpu(SPLIT);
    let mut tenant = tenant(&bed, "be", &["smids", "--wait-for-line"]);
    let mut sms = || {
        tenant.tell().expect("a listener");
        number(&tenant.json().expect("an answer")["sms"])
    };
    assert_eq!(sms(), 8);
    lithos(&bed, &["squeeze", "be"]);
    assert_eq!(sms(), 4);
    lithos(&bed, &["release", "be"]);
    assert_eq!(sms(), 8);

    let mut moves = exact(&bed, &["--launches", "12"]);
    moves.tell().expect("a listener");
    for order in [
        "squeeze", "release", "hold", "squeeze", "hold", "release", "squeeze",
    ] {
        lithos(&bed, &[order, "be"]);
    }
    assert_eq!(moves.json().expect("its launches")["running"], true);
    ends_exactly(moves);
}

#[test]
fn a_held_launch_goes_on_while_the_daemon_is_stopped() {
    let mut bed = managed_gpu(SPLIT);
    let mut held = exact(&bed, &["--launches", "12"]);
    lithos(&bed, &["hold", "be"]);
    held.tell().expect("a listener");
    until_held(&bed);
    let mut signal = |signal| {
        let daemon = bed.daemon().expect("a daemon");
        daemon.signal(signal).expect("a process");
    };
    signal(Signal::SIGSTOP);
    assert_eq!(held.json().expect("its launches")["running"], true);
    ends_exactly(held);
    signal(Signal::SIGCONT);
}

#[test]
fn a_held_launch_goes_on_when_the_daemon_is_killed() {
    let mut bed = managed_gpu(SPLIT);
    let mut held = exact(&bed, &["--launches", "12"]);
    lithos(&bed, &["hold", "be"]);
    held.tell().expect("a listener");
    until_held(&bed);
    bed.kill_daemon();
    assert_eq!(held.json().expect("its launches")["running"], true);
    ends_exactly(held);
}

#[test]
fn a_held_launch_goes_on_when_the_daemon_is_restarted() {
    let mut bed = managed_gpu(SPLIT);
    let mut held = exact(&bed, &["--launches", "12"]);
    lithos(&bed, &["hold", "be"]);
    held.tell().expect("a listener");
    until_held(&bed);
    bed.stop_daemon().expect("its end");
    bed.start_daemon(SPLIT).expect("a daemon");
    assert_eq!(held.json().expect("its launches")["running"], true);
    ends_exactly(held);
}

#[test]
fn a_held_tenant_can_be_killed_and_its_partition_goes_on() {
    let bed = managed_gpu_under_mps(SPLIT);
    let mut held = exact(&bed, &["--launches", "12"]);
    lithos(&bed, &["hold", "be"]);
    held.tell().expect("a listener");
    until_held(&bed);
    held.signal(Signal::SIGKILL).expect("a process");
    bed.status_until("its end", |status| {
        channels(status, "be").is_empty().then_some(())
    })
    .expect("it is noticed");
    lithos(&bed, &["release", "be"]);
    let mut next = exact(&bed, &["--launches", "4"]);
    next.tell().expect("a listener");
    assert_eq!(next.json().expect("its launches")["running"], true);
    ends_exactly(next);
}

#[test]
fn a_launch_whose_blocks_wait_for_blocks_behind_a_shut_gate_is_let_pass_and_then_left_whole() {
    let bed = managed_gpu(SPLIT);
    let mut ahead = tenant(&bed, "be", &["ahead", "--repeat", "4"]);
    // The first one finds out that launches are to be split.
    assert_eq!(ahead.json().expect("a line")["running"], true);
    ahead.tell().expect("a listener");
    assert_eq!(ahead.json().expect("a line")["running"], true);
    lithos(&bed, &["hold", "be"]);
    for _ in 0..2 {
        ahead.tell().expect("a listener");
        assert_eq!(ahead.json().expect("a line")["running"], true);
    }
    // Three have completed, and the fourth was not launched.
    let status = bed.status().expect("a status");
    assert_eq!(*chains(&status, "stuck"), json!(1));
    assert_eq!(counter(&status, "whole_stuck"), 1);
    ahead.tell().expect("a listener");
    let report = ahead
        .finish(PATIENCE)
        .expect("its end")
        .json()
        .expect("a report");
    assert_eq!(report["launches"], 4);
}

#[test]
fn what_cannot_be_split_runs_whole_and_is_counted() {
    let bed = managed_gpu(SPLIT);
    let report = run(&bed, "be", &["cooperative", "--blocks", "8"]);
    assert_eq!(
        (&report["result"], &report["met"]),
        (&json!("CUDA_SUCCESS"), &json!(true))
    );
    let report = run(
        &bed,
        "be",
        &[
            "cluster",
            "--ctas",
            "2",
            "--clusters",
            "80",
            "--repeat",
            "4",
        ],
    );
    assert_eq!(
        (&report["met"], &report["clusters"]),
        (&json!(true), &json!(320))
    );
}
