// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What operators and other users may do, and what they are told when it is impossible.

use std::process::Command;

use lithos_tests::testbed::Testbed;

use crate::support::*;

#[test]
fn a_partition_that_does_not_fit_is_refused_with_what_would_be_right() {
    let bed = managed_gpu(A_AND_B);
    let said = lithos_refuses(
        &bed,
        &[
            "partition",
            "create",
            "huge",
            "--class",
            "lc",
            "--guarantee",
            "100",
        ],
    );
    assert!(said.contains("100"), "{said}");
    let said = lithos_refuses(&bed, &["partition", "set", "a", "--guarantee", "100"]);
    assert!(said.contains("100"), "{said}");
    let said = lithos_refuses(&bed, &["run", "--tpcs", "100", "--", "true"]);
    assert!(said.contains("100"), "{said}");
    // Nothing of it stays, and what was there still works.
    let status = bed.status().expect("a status");
    assert_eq!(status["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(run(&bed, "a", &["smids"])["sms"], serde_json::json!([8]));
}

#[test]
fn without_the_kernels_broker_there_is_no_admission_and_that_is_said() {
    let bed = managed_gpu(A_AND_B);
    for arguments in [
        &["admission", "set", "enforce"][..],
        &["admission", "admit", "1"],
    ] {
        let said = lithos_refuses(&bed, arguments);
        assert!(said.contains("lithos.ko"), "{arguments:?}: {said}");
    }
    let outcome = bed.outcome(bed.lithos(&["admission", "status"]));
    let lines = outcome.expect("lithos admission status").lines;
    assert!(lines[0].contains("no lithos.ko"), "{lines:?}");
    assert_eq!(
        bed.status().expect("a status")["daemon"]["admission"],
        serde_json::Value::Null
    );
}

#[test]
fn what_cannot_be_done_is_named_with_its_reason() {
    let bed = managed_gpu(A_AND_B);
    for (arguments, expected) in [
        (&["partition", "create", "a", "--class", "lc"][..], "a"),
        (&["partition", "set", "none", "--guarantee", "1"], "none"),
        (&["partition", "delete", "none"], "none"),
        (&["run", "--partition", "none", "--", "true"], "none"),
        (
            &[
                "partition",
                "set",
                "a",
                "--guarantee",
                "3",
                "--ceiling",
                "2",
            ],
            "ceiling",
        ),
    ] {
        let said = lithos_refuses(&bed, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_partition_with_tenants_is_not_deleted() {
    let bed = managed_gpu(A_AND_B);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    tenant.tell().expect("a listener");
    tenant.json().expect("an answer");
    let said = lithos_refuses(&bed, &["partition", "delete", "a"]);
    assert!(said.contains("tenant"), "{said}");
    tenant.tell().expect("a listener");
    assert_eq!(tenant.json().expect("an answer")["sms"], 8);
}

/// The same command as somebody who may only look.
fn as_nobody(bed: &Testbed, arguments: &[&str]) -> Command {
    let lithos = bed.lithos(arguments);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(lithos.get_program())
        .args(lithos.get_args());
    for (name, value) in lithos.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

#[test]
fn others_may_look_and_join_but_change_nothing() {
    let bed = managed_gpu(A_AND_B);
    let status = bed.outcome(as_nobody(&bed, &["status", "--json"]));
    let status = status.expect("lithos");
    assert!(status.status.success(), "{status:?}");
    for arguments in [
        &["partition", "create", "mine", "--class", "be"][..],
        &["partition", "set", "a", "--guarantee", "1"],
        &["partition", "delete", "a"],
        &["run", "--tpcs", "2", "--class", "be", "--", "true"],
    ] {
        let outcome = bed.outcome(as_nobody(&bed, arguments)).expect("lithos");
        assert!(!outcome.status.success(), "{arguments:?} worked");
        assert!(outcome.stderr.contains("root"), "{}", outcome.stderr);
    }
    let tenant = bed.unmanaged(&[]);
    let tenant = tenant.get_program().to_string_lossy().into_owned();
    let joined = as_nobody(&bed, &["run", "--partition", "a", "--", &tenant, "smids"]);
    let report = bed.json(joined).expect("a tenant");
    assert_eq!(report["sms"], serde_json::json!([8]));
}

#[test]
fn a_configuration_can_be_checked_without_starting_anything() {
    let bed = unmanaged_gpu();
    let check = |rest: &str| {
        let path = bed.write_configuration(rest).expect("a file");
        let mut command = bed.command("lithosd");
        command.arg("--check-config").arg("--config").arg(path);
        bed.outcome(command).expect("lithosd")
    };
    let good = check(A_AND_B);
    assert!(good.status.success(), "{good:?}");
    for (rest, expected) in [
        ("[[partition]]\nname = \"a\"\n", "class"),
        ("[[partition]]\nname = \"a\"\nclass = \"fast\"\n", "fast"),
        ("colour = 1", "colour"),
        ("[limits]\ntenants = 0", "limits.tenants"),
    ] {
        let bad = check(rest);
        assert!(!bad.status.success(), "{rest}");
        assert!(bad.stderr.contains(expected), "{rest}: {}", bad.stderr);
    }
    assert!(!bed.runtime_directory().exists());
}

#[test]
fn the_status_for_people_names_partitions_and_tenants() {
    let bed = managed_gpu(A_AND_B);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    tenant.tell().expect("a listener");
    tenant.json().expect("an answer");
    let outcome = bed.outcome(bed.lithos(&["status"])).expect("lithos");
    let text = outcome.lines.join("\n");
    for word in ["a", "b", "tenant", &tenant.pid().to_string()] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}
