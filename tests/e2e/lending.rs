// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Partitions lend each other TPCs that they do not use, and have them back when they need them.

use lithos_tests::testbed::PATIENCE;
use nix::sys::signal::Signal;

use crate::atoms::{SPLIT, ends_exactly, exact_in};
use crate::support::*;

/// Has best effort that borrows give way to somebody latency-critical, and looks at what it says that it did.
fn gives_way(bed: &Turn, how: &str) {
    let mut effort = exact_in(bed, "borrows", &["--launches", "300"]);
    effort.tell().expect("a listener");
    bed.status_until("chains", |status| {
        (number(&channel(status, "borrows")["counters"]["split"]) > 0).then_some(())
    })
    .expect("launches are split");
    let mut critical = tenant(bed, "lc", &["be", "--until-eof"]);
    assert_eq!(critical.json().expect("a start")["running"], true);
    bed.status_until(how, |status| {
        (number(&channel(status, "borrows")["chains"][how]) > 0).then_some(())
    })
    .expect("it gives way");
    let report = critical.finish(PATIENCE).expect("its end").json();
    let report = report.expect("a report");
    assert_eq!(report["blocks"], report["blocks_expected"]);
    assert_eq!(effort.json().expect("its launches")["running"], true);
    ends_exactly(effort);
}

#[test]
fn best_effort_leaves_what_is_lent_to_it_while_its_lender_is_active() {
    let bed = managed_gpu(SPLIT);
    gives_way(&bed, "recalls");
    assert_eq!(suspended_ns(&bed), 0);
}

#[test]
fn best_effort_is_held_up_where_it_would_keep_too_few_tpcs() {
    let bed = managed_gpu(&SPLIT.replace("atom_us = 200", "atom_us = 2000"));
    gives_way(&bed, "holds");
}

/// For how long the partition that borrows was suspended, which has borrowed some.
fn suspended_ns(bed: &Turn) -> u64 {
    let status = bed.status().expect("a status");
    let shares = &status["partitions"].as_array().expect("partitions");
    let borrows = shares
        .iter()
        .find(|partition| partition["spec"]["name"] == "borrows");
    let share = &borrows.expect("it is there")["shares"][0];
    assert!(number(&share["so_far"]["borrowed_tpc_ns"]) > 0, "{share}");
    number(&share["so_far"]["suspended_ns"])
}

/// Two that lend each other their TPCs.
const EQUALS: &str = r#"
[[partition]]
name = "one"
class = "lc"
guarantee = 2
atom_us = 100
borrow = true

[[partition]]
name = "other"
class = "lc"
guarantee = 2
atom_us = 100
borrow = true
"#;

#[test]
fn equals_lend_each_other_what_they_do_not_use() {
    let bed = managed_gpu(EQUALS);
    let mut one = tenant(&bed, "one", &["smids", "--wait-for-line"]);
    let mut sms = || {
        one.tell().expect("a listener");
        number(&one.json().expect("an answer")["sms"])
    };
    let mut comes_to = |sms_wanted: u64| {
        let is_so = (0..1000).any(|_| sms() == sms_wanted);
        assert!(is_so, "it never ran on {sms_wanted} SMs");
    };
    for _ in 0..3 {
        comes_to(8);
        let mut other = tenant(&bed, "other", &["be", "--until-eof"]);
        assert_eq!(other.json().expect("a start")["running"], true);
        comes_to(4);
        let report = other.finish(PATIENCE).expect("its end");
        let report = report.json().expect("a report");
        assert_eq!(report["blocks"], report["blocks_expected"]);
    }
    let recalls = bed.status_until("recalls", |status| {
        (number(&channel(status, "one")["chains"]["recalls"]) >= 3).then_some(())
    });
    recalls.expect("what was lent was recalled");
}

#[test]
fn launches_are_exact_while_their_tpcs_come_and_go() {
    let bed = managed_gpu(EQUALS);
    let mut one = exact_in(&bed, "one", &["--launches", "200"]);
    one.tell().expect("a listener");
    let mut others = 0;
    loop {
        let mut other = tenant(&bed, "other", &["be", "--until-eof"]);
        assert_eq!(other.json().expect("a start")["running"], true);
        others += 1;
        let report = other.finish(PATIENCE).expect("its end");
        let report = report.json().expect("a report");
        assert_eq!(report["blocks"], report["blocks_expected"]);
        let status = bed.status().expect("a status");
        let seen = channel(&status, "one");
        if others >= 3 && number(&seen["chains"]["recalls"]) > 0 {
            assert!(number(&seen["counters"]["split"]) > 0);
            break;
        }
    }
    assert_eq!(one.json().expect("its launches")["running"], true);
    ends_exactly(one);
}

#[test]
fn streams_of_best_effort_that_borrows_have_the_least_priority() {
    let bed = managed_gpu(SPLIT);
    let priority = |partition| run(&bed, partition, &["smids"])["priority"].clone();
    assert_eq!(priority("borrows"), 0);
    for partition in ["be", "lc"] {
        let found = priority(partition);
        assert!(found.as_i64().is_some_and(|found| found < 0), "{found}");
    }
}

#[test]
fn launches_are_exact_while_everything_about_partitions_changes() {
    let bed = managed_gpu(EQUALS);
    let mut one = exact_in(&bed, "one", &["--launches", "200"]);
    one.tell().expect("a listener");
    let mut other = tenant(&bed, "other", &["be", "--until-eof"]);
    assert_eq!(other.json().expect("a start")["running"], true);
    let changes = [
        "one --weight 3",
        "other --borrow false",
        "one --guarantee 1",
        "other --guarantee 3 --ceiling none",
        "one --ceiling none --atom-us 50",
        "other --class be --borrow true",
        "one --class be --min-share 20 --bound-us 50",
        "other --class lc --priority 2",
        "one --borrow false",
        "one --borrow true --guarantee 0",
        "other --guarantee 1",
        "one --class lc --guarantee 3",
        "other --report-sms true",
    ];
    for round in 0..3 {
        for change in changes {
            let arguments: Vec<&str> = change.split(' ').collect();
            lithos(&bed, &[&["partition", "set"][..], &arguments].concat());
        }
        let refused = [
            "partition",
            "set",
            "one",
            "--guarantee",
            "9",
            "--ceiling",
            "2",
        ];
        let said = lithos_refuses(&bed, &refused);
        assert!(said.contains("ceiling = 2"), "round {round}: {said}");
    }
    let report = other.finish(PATIENCE).expect("its end").json();
    let report = report.expect("a report");
    assert_eq!(report["blocks"], report["blocks_expected"]);
    assert_eq!(one.json().expect("its launches")["running"], true);
    ends_exactly(one);
    let status = bed.status().expect("a status");
    assert_eq!(status["problems"], serde_json::json!([]));
}

#[test]
fn launches_are_exact_while_borrowers_and_lenders_come_and_die() {
    let bed = managed_gpu(EQUALS);
    let mut one = exact_in(&bed, "one", &["--launches", "150"]);
    one.tell().expect("a listener");
    for round in 0..12 {
        let partition = ["other", "one"][round % 2];
        let mut storm: Vec<_> = (0..3)
            .map(|_| tenant(&bed, partition, &["be", "--until-eof"]))
            .collect();
        for (index, process) in storm.iter_mut().enumerate() {
            // Some die before they have begun.
            if index != round % 3 {
                assert_eq!(process.json().expect("a start")["running"], true);
            }
            process.signal(Signal::SIGKILL).expect("a process");
        }
    }
    bed.status_until("the end of all who died", |status| {
        (channels(status, "other").is_empty() && channels(status, "one").len() == 1).then_some(())
    })
    .expect("they are noticed");
    assert_eq!(one.json().expect("its launches")["running"], true);
    ends_exactly(one);
}
