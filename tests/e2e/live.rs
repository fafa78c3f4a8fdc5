// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Partitions change while programs run; TPCs pass on only when nobody uses them any more.

use lithos_tests::testbed::{PATIENCE, Process};
use nix::sys::signal::Signal;

use crate::support::*;

/// Lets a waiting tenant launch once and says on how many SMs that ran.
fn sms_now(tenant: &mut Process) -> u64 {
    tenant.tell().expect("a listener");
    number(&tenant.json().expect("an answer")["sms"])
}

#[test]
fn a_change_is_in_force_at_the_next_launch() {
    let bed = managed_gpu(A_AND_B);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    assert_eq!(sms_now(&mut tenant), 8);
    for (guarantee, sms) in [("1", 2), ("5", 10), ("2", 4), ("8", 16)] {
        lithos(&bed, &["partition", "set", "a", "--guarantee", guarantee]);
        assert_eq!(sms_now(&mut tenant), sms, "a guarantee of {guarantee}");
    }
    assert_all_within_grant(channel(&bed.status().expect("a status"), "a"));
}

#[test]
fn a_tpc_is_in_transit_until_the_last_launch_that_may_use_it_has_completed() {
    let bed = managed_gpu(A_AND_B);
    let mut holder = tenant(&bed, "a", &["resident", "--blocks", "8", "--hold"]);
    assert_eq!(holder.json().expect("a meeting")["resident"], true);
    let before = tpcs(&channel(&bed.status().expect("a status"), "a")["tpcs"]);

    lithos(&bed, &["partition", "set", "a", "--guarantee", "1"]);
    let status = bed.status().expect("a status");
    let kept = tpcs(&channel(&status, "a")["tpcs"]);
    let on_their_way = in_transit(&status, "a");
    assert_eq!((kept.len(), on_their_way.len()), (1, 3));
    assert_eq!(&kept | &on_their_way, before);

    // Whoever comes meanwhile gets others, even one that wants all that is not reserved.
    lithos(&bed, &["partition", "create", "c", "--class", "be"]);
    let mut other = tenant(&bed, "c", &["smids", "--wait-for-line"]);
    let sms_meanwhile = sms_now(&mut other);
    let status = bed.status().expect("a status");
    let others = tpcs(&channel(&status, "c")["tpcs"]);
    assert!(others.is_disjoint(&before), "{others:?} and {before:?}");
    assert_eq!(in_transit(&status, "a"), on_their_way);

    holder
        .finish(PATIENCE)
        .expect("its end")
        .json()
        .expect("its report");
    bed.status_until("TPCs that have arrived", |status| {
        let has = tpcs(&channel(status, "c")["tpcs"]);
        (in_transit(status, "a").is_empty() && has.is_superset(&on_their_way)).then_some(())
    })
    .expect("they arrive when the launch has completed");
    assert_eq!(sms_now(&mut other), sms_meanwhile + 6);
}

#[test]
fn what_a_tenant_had_is_free_when_it_has_left() {
    let bed = managed_gpu("[[partition]]\nname = \"all\"\nclass = \"be\"\n");
    let all = all_sms(&bed);
    let mut first = tenant(&bed, "all", &["smids", "--wait-for-line"]);
    assert_eq!(sms_now(&mut first), all);
    first.finish(PATIENCE).expect("its end");
    bed.status_until("end of the tenant", |status| {
        channels(status, "all").is_empty().then_some(())
    })
    .expect("it is noticed");
    let mut second = tenant(&bed, "all", &["smids", "--wait-for-line"]);
    assert_eq!(sms_now(&mut second), all);
}

#[test]
fn what_a_killed_tenant_had_passes_on() {
    let bed = managed_gpu(A_AND_B);
    let mut killed = tenant(&bed, "a", &["be", "--until-eof"]);
    assert_eq!(killed.json().expect("a start")["running"], true);
    killed.signal(Signal::SIGKILL).expect("a process");
    bed.status_until("end of the tenant", |status| {
        (channels(status, "a").is_empty() && in_transit(status, "a").is_empty()).then_some(())
    })
    .expect("it is noticed");
    lithos(&bed, &["partition", "delete", "a"]);
    lithos(&bed, &["partition", "set", "b", "--guarantee", "8"]);
    let report = run(&bed, "b", &["smids"]);
    assert_eq!(report["sms"], serde_json::json!([16]));
}

#[test]
fn a_partition_that_is_created_later_takes_from_those_that_live_on_the_rest() {
    let bed = managed_gpu("[[partition]]\nname = \"rest\"\nclass = \"be\"\n");
    let all = all_sms(&bed);
    let mut rest = tenant(&bed, "rest", &["smids", "--wait-for-line"]);
    assert_eq!(sms_now(&mut rest), all);
    lithos(
        &bed,
        &[
            "partition",
            "create",
            "new",
            "--class",
            "lc",
            "--guarantee",
            "4",
        ],
    );
    assert_eq!(sms_now(&mut rest), all - 8);
    assert_eq!(run(&bed, "new", &["smids"])["sms"], serde_json::json!([8]));
    lithos(&bed, &["partition", "delete", "new"]);
    bed.status_until("return of the TPCs", |status| {
        (number(&channel(status, "rest")["sms"]) == all).then_some(())
    })
    .expect("they return");
    assert_eq!(sms_now(&mut rest), all);
}
