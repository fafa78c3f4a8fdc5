// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! GPUs and drivers that are not what LithOS was made for: hands off, and said so.
//!
//! Some faults are there when the daemon starts, so that discovery or self-test finds them; others only
//! in a tenant, so that its shim has to.

use lithos_tests::testbed::Hardware;
use serde_json::{Value, json};

use crate::support::*;

/// Two partitions, of which one demands that its programs be managed.
const LAX_AND_STRICT: &str = r#"
[[partition]]
name = "lax"
class = "lc"
guarantee = 4

[[partition]]
name = "strict"
class = "be"
guarantee = 4
enforce = true
"#;

const FAULTS: &str = "SIMGPU_FAULTS";

fn simulated() -> Turn {
    on(&Hardware::Simulated(simulation()))
}

/// A program of a partition runs on all SMs and says why, or does not run if it must be managed.
#[track_caller]
fn assert_hands_off(bed: &Turn, all: u64, parts: &[&str]) {
    let outcome = bed.outcome(bed.managed(&["--partition", "lax"], &["smids"]));
    let outcome = outcome.expect("a tenant");
    assert_eq!(outcome.json().expect("a report")["sms"], json!([all]));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let [said] = lines[..] else {
        panic!("not one line: {lines:?}");
    };
    assert!(said.starts_with("lithos: "), "{said}");
    for part in parts.iter().chain(&["run"]) {
        assert!(said.contains(part), "{part}: {said}");
    }
    let outcome = bed.outcome(bed.managed(&["--partition", "strict"], &["smids"]));
    let outcome = outcome.expect("a tenant");
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
    assert_eq!(outcome.lines, [] as [&str; 0]);
    for part in parts.iter().chain(&["demands"]) {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
}

/// A daemon that starts with a fault manages nothing; its status says why.
fn daemon_with(fault: &str, parts: &[&str]) -> Value {
    let mut bed = simulated();
    let all = all_sms(&bed);
    bed.set_variable(FAULTS, fault);
    bed.start_daemon(LAX_AND_STRICT).expect("a daemon");
    bed.set_variable(FAULTS, "");
    assert_hands_off(&bed, all, parts);
    let status = bed.status().expect("a status");
    let problems = status["problems"].to_string();
    for part in parts {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    status
}

#[test]
fn a_gpu_whose_descriptors_cannot_be_shown_or_known_is_not_managed() {
    for (fault, part) in [
        ("version", "version is"),
        ("unknown-bit", "bit 26"),
        ("short-parameters", "32 bytes of parameters"),
        ("subscriber", "profiler"),
        ("ignored-mask", "SMs"),
    ] {
        let status = daemon_with(fault, &["GPU 0", part]);
        assert_eq!(status["gpus"], json!([]));
        assert_eq!(status["unfit"][0]["index"], 0);
    }
}

#[test]
fn a_gpu_in_mig_mode_is_not_managed() {
    let status = daemon_with("mig", &["MIG"]);
    assert_eq!(status["gpus"], json!([]));
}

#[test]
fn a_gpu_that_fails_its_self_test_is_not_managed() {
    for (fault, part) in [("lost-stamp", "stamp"), ("wrong-stamp", "stamp")] {
        let status = daemon_with(fault, &["GPU 0", part]);
        assert_eq!(status["gpus"][0]["self_test"]["is"], "failed");
    }
}

#[test]
fn a_mask_that_changes_something_else_fails_the_self_test() {
    let mut bed = simulated();
    // Discovery tells nothing of it where the board is known already.
    bed.start_daemon(LAX_AND_STRICT).expect("a daemon");
    bed.stop_daemon().expect("its end");
    let proofs = bed.folder().join("state/proof");
    std::fs::remove_dir_all(proofs).expect("the proof was kept");
    let all = all_sms(&bed);
    for (fault, part) in [("neighbour", "SMs"), ("ignored-mask", "SMs")] {
        bed.set_variable(FAULTS, fault);
        bed.start_daemon(LAX_AND_STRICT).expect("a daemon");
        bed.set_variable(FAULTS, "");
        assert_hands_off(&bed, all, &["self-test", part]);
        bed.stop_daemon().expect("its end");
    }
    // A failure is not kept: the reason may have gone.
    bed.start_daemon(LAX_AND_STRICT).expect("a daemon");
    assert_eq!(run(&bed, "strict", &["smids"])["sms"], json!([8]));
}

#[test]
fn a_tenant_whose_driver_is_odd_is_left_alone_by_its_shim() {
    let mut bed = simulated();
    let all = all_sms(&bed);
    bed.start_daemon(LAX_AND_STRICT).expect("a daemon");
    for (fault, part) in [
        ("version", "a version that LithOS does not know"),
        ("unknown-bit", "bits that LithOS does not know"),
        ("subscriber", "profiler"),
        ("mig", "MIG"),
    ] {
        bed.set_variable(FAULTS, fault);
        assert_hands_off(&bed, all, &[part]);
    }
    bed.set_variable(FAULTS, "");
    assert_eq!(run(&bed, "strict", &["smids"])["sms"], json!([8]));
}

#[test]
fn a_proof_is_kept_and_the_test_is_made_again_where_others_could_have_written_it() {
    use std::os::unix::fs::PermissionsExt;
    let mut bed = simulated();
    bed.start_daemon("").expect("a daemon");
    let status = bed.status().expect("a status");
    assert_eq!(status["gpus"][0]["self_test"]["is"], "passed");
    let log = |bed: &mut Turn| bed.stop_daemon().expect("its end").stderr;
    assert!(log(&mut bed).contains("the self-test has passed"));
    bed.start_daemon("").expect("a daemon");
    assert!(!log(&mut bed).contains("the self-test has"));
    let folder = bed.folder().join("state/proof");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("our folder");
    bed.start_daemon("").expect("a daemon");
    let log = log(&mut bed);
    assert!(log.contains("others than lithosd can write it"), "{log}");
    assert!(log.contains("the self-test has passed"), "{log}");
}
