// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A tenant has its TPCs, all of them, and no other.

use lithos_tests::testbed::{PATIENCE, Process};
use serde_json::json;

use crate::support::*;

#[test]
fn a_tenant_runs_on_the_sms_of_its_partition_and_on_no_others() {
    let bed = managed_gpu(A_AND_B);
    let report = run(&bed, "a", &["smids", "--repeat", "3"]);
    assert_eq!(report["sms"], json!([8, 8, 8]));
}

#[test]
fn a_program_is_told_of_the_sms_of_its_partition_if_that_asks_for_it() {
    let bed = managed_gpu(A_AND_B);
    let told = |arguments: &[&str]| {
        lithos(&bed, arguments);
        run(&bed, "a", &["smids"])["device_sms"].clone()
    };
    let set = ["partition", "set", "a"];
    let all = run(&bed, "a", &["smids"])["device_sms"].clone();
    assert_eq!(told(&[&set[..], &["--report-sms", "true"]].concat()), 8);
    assert_eq!(told(&[&set[..], &["--guarantee", "2"]].concat()), 4);
    assert_eq!(told(&[&set[..], &["--report-sms", "false"]].concat()), all);
    let zero = [&set[..], &["--guarantee", "0", "--report-sms", "true"]].concat();
    let said = lithos_refuses(&bed, &zero);
    assert!(said.contains("report_sms = true"), "{said}");
}

#[test]
fn without_lithos_the_same_program_runs_on_every_sm() {
    let bed = managed_gpu(A_AND_B);
    let report = bed.json(bed.unmanaged(&["smids"])).expect("a tenant");
    assert_eq!(report["sms"], json!([report["device_sms"]]));
}

#[test]
fn lithos_run_gives_a_program_so_many_tpcs_for_as_long_as_it_runs() {
    let bed = managed_gpu("");
    let mut command = bed.managed(
        &["--tpcs", "3", "--class", "be"],
        &["smids", "--wait-for-line"],
    );
    let mut tenant = Process::start("tenant", &mut command).expect("a tenant");
    tenant.tell().expect("a listener");
    assert_eq!(tenant.json().expect("an answer")["sms"], 6);
    let partitions = |status: &serde_json::Value| status["partitions"].as_array().map(Vec::len);
    assert_eq!(partitions(&bed.status().expect("a status")), Some(1));
    tenant
        .finish(PATIENCE)
        .expect("its end")
        .json()
        .expect("its report");
    bed.status_until("end of the partition", |status| {
        (partitions(status) == Some(0)).then_some(())
    })
    .expect("the partition ends with the tenant");
}

#[test]
fn every_launch_in_the_ring_carries_a_mask_within_its_grant() {
    let bed = managed_gpu(A_AND_B);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    for _ in 0..5 {
        tenant.tell().expect("a listener");
        tenant.json().expect("an answer");
    }
    let status = bed
        .status_until("five launches, complete", |status| {
            let totals = &channel(status, "a")["totals"];
            (number(&totals["completed"]) >= 5).then(|| status.clone())
        })
        .expect("five launches");
    let channel = channel(&status, "a");
    assert_all_within_grant(channel);
    assert_eq!(tpcs(&channel["tpcs"]).len(), 4);
    assert_eq!(channel["sms"], 8);
    assert_eq!(
        channel["totals"]["launches"],
        channel["totals"]["completed"]
    );
    assert_eq!(channel["outstanding"], 0);
}

#[test]
fn all_blocks_of_two_tenants_that_take_a_whole_sm_each_are_resident_at_once() {
    let bed = managed_gpu(A_AND_B);
    let hold = ["resident", "--blocks", "8", "--hold"];
    let mut tenants = [tenant(&bed, "a", &hold), tenant(&bed, "b", &hold)];
    // Each stays until it is told to go, so when both have met all sixteen blocks are there.
    for tenant in &mut tenants {
        assert_eq!(tenant.json().expect("a meeting")["resident"], true);
    }
    let status = bed.status().expect("a status");
    let [a, b] = ["a", "b"].map(|partition| tpcs(&channel(&status, partition)["tpcs"]));
    assert_eq!((a.len(), b.len()), (4, 4));
    assert!(a.is_disjoint(&b), "{a:?} and {b:?}");
    for tenant in tenants {
        let report = tenant.finish(PATIENCE).and_then(|end| end.json());
        let report = report.expect("a report");
        assert_eq!((&report["met"], &report["sms"]), (&json!(true), &json!(8)));
    }
}

#[test]
fn more_blocks_than_a_partition_has_sms_never_meet() {
    let bed = managed_gpu(A_AND_B);
    let report = run(
        &bed,
        "a",
        &["resident", "--blocks", "9", "--patience-s", "2"],
    );
    assert_eq!(report["met"], false);
    assert_eq!(report["sms"], 8);
}

#[test]
fn a_best_effort_tenant_leaves_a_latency_critical_one_its_sms() {
    let bed = managed_gpu(A_AND_B);
    let mut be = tenant(&bed, "b", &["be", "--until-eof", "--shared-bytes", "whole"]);
    assert_eq!(be.json().expect("a start")["running"], true);
    let lc = run(
        &bed,
        "a",
        &["lc", "--seconds", "0.5", "--shared-bytes", "whole"],
    );
    assert_eq!(lc["sms"], 8);
    assert!(number(&lc["requests"]) > 0);
    let status = bed.status().expect("a status");
    let b = channel(&status, "b");
    assert_all_within_grant(b);
    let report = be.finish(PATIENCE).and_then(|end| end.json());
    let report = report.expect("a report");
    assert_eq!(report["sms"], 8);
    assert_eq!(report["blocks"], report["blocks_expected"]);
}

#[test]
fn what_a_program_computes_is_the_same_bits_with_and_without_lithos() {
    let bed = managed_gpu(A_AND_B);
    let without = bed.json(bed.unmanaged(&["checksum"])).expect("a tenant");
    assert_eq!(run(&bed, "a", &["checksum"]), without);
    assert_eq!(run(&bed, "b", &["checksum"]), without);
}

#[test]
fn tenants_of_one_partition_share_its_tpcs() {
    let bed = managed_gpu(A_AND_B);
    let mut tenants = [0, 1].map(|_| tenant(&bed, "a", &["smids", "--wait-for-line"]));
    for tenant in &mut tenants {
        tenant.tell().expect("a listener");
        assert_eq!(tenant.json().expect("an answer")["sms"], 8);
    }
    let status = bed.status().expect("a status");
    let masks: Vec<_> = channels(&status, "a")
        .iter()
        .map(|channel| tpcs(&channel["tpcs"]))
        .collect();
    assert_eq!(masks.len(), 2);
    assert_eq!(masks[0], masks[1]);
}

#[test]
fn a_partition_without_a_guarantee_lives_from_what_no_guarantee_reserves() {
    let bed = managed_gpu(&format!(
        "{A_AND_B}\n[[partition]]\nname = \"rest\"\nclass = \"be\"\n"
    ));
    let all = all_sms(&bed);
    let report = run(&bed, "rest", &["smids"]);
    assert_eq!(report["sms"], json!([all - 16]));
}
