// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Tests that need GPUs that this machine may not have: several, and odd ones.

mod doctor;
mod faults;

use lithos_tests::testbed::{Hardware, Simulation};
use serde_json::json;

use crate::support::*;

#[test]
fn partitions_live_on_the_gpus_that_they_name() {
    let mut bed = on(&Hardware::Simulated(Simulation {
        gpus: 2,
        tpcs: 8,
        ..simulation()
    }));
    bed.start_daemon(
        r#"
[[partition]]
name = "both"
class = "lc"
guarantee = 2

[[partition]]
name = "second"
class = "be"
guarantee = 3
gpus = [1]
"#,
    )
    .expect("a daemon");
    let sms = |partition: &str, device: &str| {
        run(&bed, partition, &["--device", device, "smids"])["sms"].clone()
    };
    assert_eq!(sms("both", "0"), json!([4]));
    assert_eq!(sms("both", "1"), json!([4]));
    assert_eq!(sms("second", "1"), json!([6]));
    let status = bed.status().expect("a status");
    assert_eq!(status["gpus"].as_array().map(Vec::len), Some(2));
}

#[test]
fn boards_with_holes_in_their_masks_and_lone_tpcs_are_learned() {
    for tpcs in [2, 7, 66] {
        let mut bed = on(&Hardware::Simulated(Simulation {
            tpcs,
            ..simulation()
        }));
        bed.start_daemon("[[partition]]\nname = \"all\"\nclass = \"be\"\n")
            .expect("a daemon");
        let status = bed.status().expect("a status");
        let found = super::support::tpcs(&status["gpus"][0]["tpcs"]);
        assert_eq!(found.len(), tpcs as usize, "{found:?}");
        let report = run(&bed, "all", &["smids"]);
        assert_eq!(report["sms"], json!([2 * tpcs]));
    }
}

#[test]
fn a_board_is_learned_once() {
    let mut bed = on(&Hardware::Simulated(simulation()));
    bed.start_daemon("").expect("a daemon");
    let first = bed.status().expect("a status")["gpus"].clone();
    let log = bed.stop_daemon().expect("its end").stderr;
    let kernels = |bed: &Turn| {
        let report = bed.outcome({
            let mut command = bed.command("simgpu");
            command.arg("status");
            command
        });
        let text = report.expect("simgpu").lines.join("\n");
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        number(&report["gpus"][0]["kernels_run"])
    };
    let learned_with = kernels(&bed);
    assert!(learned_with > 0, "{log}");
    bed.start_daemon("").expect("a daemon");
    assert_eq!(bed.status().expect("a status")["gpus"], first);
    assert_eq!(kernels(&bed), learned_with);
}

#[test]
fn a_second_driver_in_a_process_is_not_managed_and_that_is_said() {
    let mut bed = on(&Hardware::Simulated(simulation()));
    bed.start_daemon(
        r#"
[[partition]]
name = "lax"
class = "lc"
guarantee = 4

[[partition]]
name = "strict"
class = "be"
guarantee = 4
enforce = true
"#,
    )
    .expect("a daemon");
    let second = |partition: &str| {
        let command = bed.managed(
            &["--partition", partition],
            &["habit", "reopening", "--copy"],
        );
        bed.outcome(command).expect("a tenant")
    };
    let outcome = second("lax");
    let report = outcome.json().expect("a report");
    assert_eq!(report["blocks"], report["blocks_expected"]);
    assert_eq!(report["sms"], 8, "the first driver is managed");
    assert!(outcome.stderr.contains("two CUDA drivers"), "{outcome:?}");
    let outcome = second("strict");
    assert_eq!(outcome.status.code(), Some(69), "{outcome:?}");
}
