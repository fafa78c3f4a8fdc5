// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Daemons come and go; programs that are managed, unmanaged, or must not run.

use std::process::Command;

use lithos_tests::testbed::{PATIENCE, Process, Testbed};
use serde_json::json;

use crate::support::*;

/// What `lithos run` puts into the environment of a tenant, so that the tenant can be started later.
fn environment(bed: &Testbed, partition: &str) -> Vec<(String, String)> {
    let mut command = bed.lithos(&["run", "--partition", partition, "--", "env", "-0"]);
    let output = command.output().expect("lithos run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .split_terminator('\0')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_tenant_goes_on_when_its_daemon_is_killed() {
    let mut bed = managed_gpu(A_AND_B);
    let mut tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    for daemon_is_alive in [true, false] {
        if !daemon_is_alive {
            bed.kill_daemon();
        }
        for _ in 0..3 {
            tenant.tell().expect("a listener");
            assert_eq!(tenant.json().expect("an answer")["sms"], 8);
        }
    }
    let outcome = tenant.finish(PATIENCE).expect("its end");
    assert!(outcome.status.success(), "{outcome:?}");
}

#[test]
fn after_a_restart_partitions_that_were_changed_by_command_are_as_they_were() {
    let mut bed = managed_gpu(A_AND_B);
    lithos(&bed, &["partition", "set", "a", "--guarantee", "2"]);
    lithos(
        &bed,
        &[
            "partition",
            "create",
            "c",
            "--class",
            "be",
            "--guarantee",
            "3",
        ],
    );
    lithos(&bed, &["partition", "delete", "b"]);
    bed.kill_daemon();
    bed.start_daemon(A_AND_B).expect("a daemon");
    assert_eq!(run(&bed, "a", &["smids"])["sms"], json!([4]));
    assert_eq!(run(&bed, "c", &["smids"])["sms"], json!([6]));
    let said = lithos_refuses(&bed, &["run", "--partition", "b", "--", "true"]);
    assert!(said.contains('b'), "{said}");
}

#[test]
fn without_a_daemon_a_program_runs_as_if_lithos_were_not_there() {
    let mut bed = managed_gpu(A_AND_B);
    let environment = environment(&bed, "a");
    bed.stop_daemon().expect("its end");
    let all = all_sms(&bed);
    let mut command = bed.unmanaged(&["smids"]);
    command.envs(environment);
    let outcome = bed.outcome(command).expect("a tenant");
    assert_eq!(outcome.json().expect("a report")["sms"], json!([all]));
    assert!(outcome.stderr.contains("lithos"), "{}", outcome.stderr);
}

#[test]
fn without_a_daemon_a_program_that_must_be_managed_does_not_run() {
    let mut bed = managed_gpu(
        "[[partition]]\nname = \"strict\"\nclass = \"lc\"\nguarantee = 2\nenforce = true\n",
    );
    assert_eq!(run(&bed, "strict", &["smids"])["sms"], json!([4]));
    let environment = environment(&bed, "strict");
    bed.stop_daemon().expect("its end");
    let mut command = bed.unmanaged(&["smids"]);
    command.envs(environment);
    let outcome = bed.outcome(command).expect("a tenant");
    assert!(!outcome.status.success());
    assert_eq!(outcome.lines, [] as [&str; 0]);
    assert!(outcome.stderr.contains("strict"), "{}", outcome.stderr);
}

#[test]
fn lithos_says_so_when_there_is_no_daemon() {
    let bed = unmanaged_gpu();
    for arguments in [
        &["status"][..],
        &["partition", "list"],
        &["run", "--partition", "a", "--", "true"],
    ] {
        let said = lithos_refuses(&bed, arguments);
        assert!(said.contains("lithosd"), "{said}");
    }
}

#[test]
fn a_shell_that_runs_programs_and_becomes_one_keeps_its_partition() {
    let bed = managed_gpu(A_AND_B);
    let tenant = bed.unmanaged(&[]);
    let tenant = tenant.get_program().to_string_lossy().into_owned();
    let script = format!("{tenant} smids; {tenant} smids & wait; exec {tenant} smids");
    let mut command = bed.lithos(&["run", "--partition", "a", "--", "sh", "-c", &script]);
    let shell = Process::start("shell", &mut command).expect("a shell");
    let outcome = shell.finish(PATIENCE).expect("its end");
    assert_eq!(outcome.lines.len(), 3, "{outcome:?}");
    for line in outcome.lines {
        let report: serde_json::Value = serde_json::from_str(&line).expect("a report");
        assert_eq!(report["sms"], json!([8]));
    }
}

#[test]
fn lithos_run_ends_as_its_program_does() {
    let bed = managed_gpu(A_AND_B);
    let run = |script: &str| -> Command {
        bed.lithos(&["run", "--partition", "a", "--", "sh", "-c", script])
    };
    assert_eq!(run("exit 7").status().expect("a shell").code(), Some(7));
    let said = lithos_refuses(&bed, &["run", "--partition", "a", "--", "/nonexistent"]);
    assert!(said.contains("/nonexistent"), "{said}");
}
