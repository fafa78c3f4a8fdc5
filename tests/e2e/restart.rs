// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon is killed, stopped and replaced under programs that run on.

use std::collections::BTreeSet;
use std::fmt::Write;

use lithos_tests::testbed::{PATIENCE, Process, Testbed};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::*;

/// Programs that run at once.
const TENANTS: usize = 16;

/// A partition for each of them.
fn partitions() -> String {
    let mut text = String::new();
    for number in 0..TENANTS {
        let _ = write!(
            text,
            "[[partition]]\nname = \"p{number}\"\nclass = \"be\"\nguarantee = 1\n"
        );
    }
    text
}

/// A daemon with sixteen programs that launch without a pause.
fn running(bed: &Testbed) -> Vec<Process> {
    let mut tenants: Vec<Process> = (0..TENANTS)
        .map(|number| tenant(bed, &format!("p{number}"), &["be", "--until-eof"]))
        .collect();
    for tenant in &mut tenants {
        assert_eq!(tenant.json().expect("a start")["running"], true);
    }
    tenants
}

/// The launches that each channel has begun, by the rings; fails if two channels share a TPC, or one
/// launch had a TPC beyond its grant.
fn launches(status: &Value) -> Vec<u64> {
    let channels = status["channels"].as_array().expect("a list");
    let mut taken = BTreeSet::new();
    let mut launches = Vec::new();
    for channel in channels {
        for tpc in tpcs(&channel["tpcs"]) {
            assert!(taken.insert(tpc), "TPC {tpc} twice: {channels:?}");
        }
        let totals = &channel["totals"];
        for key in ["violations", "stale", "unchecked", "unmanaged", "lost"] {
            assert_eq!(number(&totals[key]), 0, "{key} in {channel}");
        }
        launches.push(number(&totals["launches"]));
    }
    launches
}

/// Waits until all tenants are with the daemon that answers.
fn all_taken_over(bed: &Testbed) -> Value {
    bed.status_until("tenants that are back", |status| {
        let channels = status["channels"].as_array()?;
        let back = channels.iter().filter(|c| c["taken_over"] == true).count();
        (back == TENANTS).then(|| status.clone())
    })
    .expect("they come back")
}

/// Waits until every channel has begun more launches.
fn all_go_on(bed: &Testbed) {
    let before = launches(&bed.status().expect("a status"));
    bed.status_until("launches of all", |status| {
        let now = launches(status);
        (now.len() == before.len() && now.iter().zip(&before).all(|(now, then)| now > then))
            .then_some(())
    })
    .expect("they go on");
}

/// Ends the programs; each has run every block of every launch, once.
fn end(tenants: Vec<Process>) {
    for tenant in tenants {
        let pid = tenant.pid();
        let outcome = tenant.finish(PATIENCE).expect("its end");
        assert_eq!(outcome.stderr, "", "what it said");
        let report = outcome.json().expect("a report");
        assert_eq!(report["blocks"], report["blocks_expected"], "{pid}");
        assert_eq!(report["sms"], 2, "{pid}");
    }
}

fn masks(status: &Value) -> Vec<BTreeSet<u64>> {
    let channels = status["channels"].as_array().expect("a list").iter();
    channels.map(|channel| tpcs(&channel["tpcs"])).collect()
}

fn pids(status: &Value) -> BTreeSet<u64> {
    let tenants = status["tenants"].as_array().expect("a list").iter();
    tenants.map(|tenant| number(&tenant["pid"])).collect()
}

#[test]
fn a_daemon_that_is_killed_under_sixteen_programs_is_followed_by_one_that_takes_them_over() {
    let mut bed = managed_gpu(&partitions());
    let tenants = running(&bed);
    all_go_on(&bed);
    let before = bed.status().expect("a status");
    for _ in 0..3 {
        bed.kill_daemon();
        bed.start_daemon(&partitions()).expect("a daemon");
        let status = all_taken_over(&bed);
        assert_eq!(pids(&status), pids(&before));
        assert_eq!(masks(&status), masks(&before), "nothing moves");
        all_go_on(&bed);
    }
    end(tenants);
    bed.status_until("end of the tenants", |status| {
        let none = |key: &str| status[key].as_array().is_some_and(Vec::is_empty);
        (none("tenants") && none("channels") && none("transit")).then_some(())
    })
    .expect("nothing of them stays");
}

#[test]
fn programs_keep_to_their_guarantees_while_the_daemon_is_stopped_and_get_more_when_it_goes_on() {
    let configuration = "[[partition]]\nname = \"a\"\nclass = \"lc\"\nguarantee = 2\nceiling = 6\n";
    let mut bed = managed_gpu(configuration);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    let mut sms = || {
        tenant.tell().expect("a listener");
        number(&tenant.json().expect("an answer")["sms"])
    };
    let mut until = |expected: u64| {
        // A launch may find a heartbeat that is not stale yet, or not fresh yet.
        lithos_tests::testbed::until("SMs as expected", PATIENCE, || {
            Ok((sms() == expected).then_some(()))
        })
        .expect("they change");
    };
    until(12);
    for _ in 0..3 {
        bed.daemon()
            .expect("a daemon")
            .signal(Signal::SIGSTOP)
            .expect("a process");
        until(4);
        bed.daemon()
            .expect("a daemon")
            .signal(Signal::SIGCONT)
            .expect("a process");
        until(12);
    }
    let status = bed.status().expect("a status");
    let channel = channel(&status, "a");
    assert_all_within_grant(channel);
    assert!(number(&channel["totals"]["fail_static"]) > 0, "{channel}");
}

#[test]
fn a_stopped_daemon_that_was_replaced_and_wakes_up_changes_nothing() {
    let mut bed = managed_gpu(&partitions());
    let tenants = running(&bed);
    let before = bed.status().expect("a status");
    bed.daemon()
        .expect("a daemon")
        .signal(Signal::SIGSTOP)
        .expect("a process");
    let old = bed
        .replace_daemon(&["--take-over", "--spare"])
        .expect("a daemon");
    let status = all_taken_over(&bed);
    assert_eq!(pids(&status), pids(&before));
    old.signal(Signal::SIGCONT).expect("a process");
    let outcome = old.finish(PATIENCE).expect("its end");
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("taken over"), "{}", outcome.stderr);
    all_go_on(&bed);
    end(tenants);
}
