// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The shim is safe whatever the program around it does.

use crate::support::*;

#[test]
fn threads_contexts_streams_children_and_resets_come_and_go_between_launches() {
    let bed = managed_gpu(A_AND_B);
    let report = run(&bed, "a", &["churn"]);
    assert_eq!(report["blocks"], report["blocks_expected"]);
    assert!(number(&report["contexts"]) > 0 && number(&report["resets"]) > 0);
    let problems = &bed.status().expect("a status")["problems"];
    assert_eq!(problems, &serde_json::json!([]));
    bed.status_until("end of the tenant", |status| {
        channels(status, "a").is_empty().then_some(())
    })
    .expect("its channels end with it");
}

#[test]
fn a_program_may_exit_while_it_launches() {
    let bed = managed_gpu(A_AND_B);
    for _ in 0..5 {
        let report = run(&bed, "a", &["exit-during-launch", "--after", "200"]);
        assert!(number(&report["launches"]) >= 200);
    }
    bed.status_until("end of the tenants", |status| {
        (channels(status, "a").is_empty() && in_transit(status, "a").is_empty()).then_some(())
    })
    .expect("nothing of them stays");
}

#[test]
fn launches_make_no_system_calls_of_lithos() {
    let bed = managed_gpu(A_AND_B);
    // The driver waits by these, and how often depends on how busy the machine is: simgpu's wakes up at
    // every completion, and looks now and then whether its server lives. LithOS has nothing to wait for
    // there but a lock or an answer, which it would have to ask for by another call.
    let waits = [libc::SYS_futex, libc::SYS_poll].map(|number| number.to_string());
    // The calls of the program's main thread: the driver's own threads wake up when they like.
    let calls = |mut command: std::process::Command, count: &str| -> u64 {
        let counts = bed.folder().join("calls.json");
        command
            .arg("--output")
            .arg(&counts)
            .arg("--")
            .arg(bed.unmanaged(&[]).get_program())
            .args(["launches", "--warm-up", "10", "--count", count]);
        let outcome = bed.outcome(command).expect("a tenant");
        assert!(outcome.status.success(), "{outcome:?}");
        let text = std::fs::read_to_string(counts).expect("counts");
        let counts: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let by_number = counts["first_thread_by_number"].as_object();
        let by_number = by_number.expect("counts by number").iter();
        let others = by_number.filter(|(number, _)| !waits.contains(number));
        others.map(|(_, count)| number(count)).sum()
    };
    let managed = |count: &str| {
        let mut command = bed.lithos(&["run", "--partition", "a", "--"]);
        command.arg(bed.command("syscount").get_program());
        calls(command, count)
    };
    let unmanaged = |count: &str| calls(bed.command("syscount"), count);
    // The first run on a machine fills the driver's cache of compiled PTX.
    unmanaged("10");
    let with = managed("400").abs_diff(managed("100"));
    let without = unmanaged("400").abs_diff(unmanaged("100"));
    // The driver's own calls are the same in both, up to a few that depend on the moment.
    assert!(with <= without + 10, "{with} with, {without} without");
}
