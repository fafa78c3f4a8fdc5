// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What frameworks do around launches: the program's results are right and it ends well, and nothing of
//! it stays: no tenant, channel, TPC in transit, descriptor, page or memory of the daemon's.

use std::collections::BTreeSet;

use lithos_tests::footprint::Footprint;
use lithos_tests::testbed::{PATIENCE, Process, until};
use serde_json::{Value, json};

use crate::support::*;

/// What the daemon's allocator may keep for later.
const SLACK_KB: u64 = 2 * 1024;

/// A tenant of partition a with one of the habits.
fn start(bed: &Turn, habit: &[&str]) -> Process {
    tenant(bed, "a", &[&["habit"], habit].concat())
}

/// A daemon that has served already; and when whoever `lives` there has left, it has nothing of it.
fn leaves_nothing(lives: impl FnOnce(&Turn)) {
    let mut bed = managed_gpu(A_AND_B);
    let pid = bed.daemon().expect("a daemon").pid();
    is_served(&bed);
    let held = || Footprint::read(pid).expect("a daemon that lives");
    let before = held();
    lives(&bed);
    bed.status_until("end of all tenants", is_empty)
        .expect("nothing of it stays");
    is_served(&bed);
    let mut after = before;
    until("return to what the daemon held before", PATIENCE, || {
        after = held();
        Ok(after.is_within(&before, SLACK_KB).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {before:?} before, {after:?} after"));
}

/// Fails unless programs of both partitions run where they should.
fn is_served(bed: &Turn) {
    for partition in ["a", "b"] {
        assert_eq!(run(bed, partition, &["smids"])["sms"], json!([8]));
    }
    let status = bed.status_until("end of all tenants", |status| {
        is_empty(status).map(|()| status.clone())
    });
    assert_eq!(status.expect("their end is noticed")["problems"], json!([]));
}

fn is_empty(status: &Value) -> Option<()> {
    let lists = ["tenants", "channels", "transit"];
    lists
        .iter()
        .all(|key| status[key] == json!([]))
        .then_some(())
}

/// Fails unless all blocks that a program launched have run, each once.
fn assert_all_ran(report: &Value) {
    assert!(number(&report["launches"]) > 0, "{report}");
    assert_eq!(report["blocks"], report["blocks_expected"], "{report}");
}

/// Fails unless the daemon knows that all launches of the tenant, which has one channel, kept to their
/// grants and have completed, and so can take TPCs from it.
fn is_known_to_be_idle(bed: &Turn) {
    let status = bed.status_until("completion of all launches", |status| {
        let channel = channel(status, "a");
        // The ring is newer than what the daemon has read of it.
        let has_all = channel["totals"]["launches"] == channel["counters"]["masked"];
        (has_all && channel["outstanding"] == 0).then(|| status.clone())
    });
    let status = status.expect("all have completed");
    let channel = channel(&status, "a");
    assert_all_within_grant(channel);
    assert_eq!(channel["unknowable_tpcs"], json!([]), "{channel}");
    lithos(bed, &["partition", "set", "a", "--guarantee", "1"]);
    bed.status_until("TPCs that have arrived", |status| {
        in_transit(status, "a").is_empty().then_some(())
    })
    .expect("nothing is under way there");
    lithos(bed, &["partition", "set", "a", "--guarantee", "4"]);
}

/// Ends a tenant that stays until its input ends.
fn finish(tenant: Process) {
    let outcome = tenant.finish(PATIENCE).expect("its end");
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_tenant_ends_with_its_process_and_not_with_workers_forked_from_it() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["workers"]);
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        let workers: BTreeSet<u64> = tpcs(&report["workers"]);
        assert_eq!(workers.len(), 4);
        // Those that left at once have taken nothing with them, and those that stay hold nothing.
        is_known_to_be_idle(bed);
        for worker in &workers {
            let worker = Footprint::read(u32::try_from(*worker).expect("a process id"));
            let held = worker.expect("a worker that lives");
            assert_eq!((held.page_files, held.pages), (0, 0), "{held:?}");
        }
        tenant.tell().expect("a listener");
        assert_all_ran(&tenant.json().expect("a report"));
        bed.status_until("end of the tenant", is_empty)
            .expect("it ends with its process");
        for worker in workers {
            let stat = std::fs::read_to_string(format!("/proc/{worker}/stat"));
            let stat = stat.expect("a worker that outlives the tenant");
            assert!(!stat.contains(") Z "), "{stat}");
        }
        // Their input ends, and so do they: only then does the output that they share.
        finish(tenant);
    });
}

#[test]
fn a_process_may_leave_without_cleaning_up_in_the_middle_of_a_launch() {
    leaves_nothing(|bed| {
        for round in 0..6 {
            let arguments: &[&str] = match round % 2 {
                0 => &["leaving"],
                _ => &["leaving", "--in-handler"],
            };
            let outcome = start(bed, arguments).finish(PATIENCE).expect("its end");
            let report = outcome.json().expect("a report");
            assert!(number(&report["launches"]) >= 200);
        }
    });
}

#[test]
fn signals_in_the_middle_of_launches_change_nothing() {
    leaves_nothing(|bed| {
        for arguments in [&["signals"][..], &["signals", "--restart"]] {
            let mut tenant = start(bed, arguments);
            let report = tenant.json().expect("a report");
            assert_all_ran(&report);
            assert!(number(&report["handled"]) >= 3000, "{report}");
            assert!(number(&report["timer"]) > 0, "{report}");
            is_known_to_be_idle(bed);
            finish(tenant);
        }
    });
}

#[test]
fn the_driver_may_be_opened_again_and_closed() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["reopening"]);
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        assert_eq!(report["sms"], 8);
        is_known_to_be_idle(bed);
        finish(tenant);
    });
}

#[test]
fn contexts_that_come_and_go_leave_nothing_in_daemon_and_tenant() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["contexts"]);
        tenant.json().expect("a first context");
        let before = Footprint::read(tenant.pid()).expect("a tenant");
        assert!(before.pages > 0, "{before:?}");
        tenant.tell().expect("a listener");
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        assert!(number(&report["contexts"]) >= 40);
        is_known_to_be_idle(bed);
        let after = Footprint::read(tenant.pid()).expect("a tenant");
        assert_eq!(after.pages, before.pages);
        assert_eq!(after.page_files, before.page_files);
        finish(tenant);
    });
}

#[test]
fn a_primary_context_may_be_reset_under_its_launches() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["resets"]);
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        assert!(number(&report["resets"]) >= 10);
        is_known_to_be_idle(bed);
        finish(tenant);
    });
}

#[test]
fn thousands_of_streams_come_and_go() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["streams"]);
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        assert!(number(&report["streams"]) >= 5000);
        is_known_to_be_idle(bed);
        finish(tenant);
    });
}

#[test]
fn modules_may_be_unloaded_while_their_launches_are_remembered() {
    leaves_nothing(|bed| {
        let mut tenant = start(bed, &["modules"]);
        let report = tenant.json().expect("a report");
        assert_all_ran(&report);
        assert!(number(&report["handles_again"]) > 0, "{report}");
        is_known_to_be_idle(bed);
        finish(tenant);
    });
}
