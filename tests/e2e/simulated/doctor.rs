// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `lithos doctor`, on a machine that is well, and on ones that are not.

use lithos_tests::testbed::{Hardware, PATIENCE};
use serde_json::Value;

use crate::support::*;

/// What the doctor says, and whether there is something to do.
fn diagnosis(bed: &Turn) -> (Vec<Value>, bool) {
    let mut command = bed.lithos(&["doctor", "--json"]);
    command.env_remove("CUDA_INJECTION64_PATH");
    let outcome = bed.outcome(command).expect("lithos doctor");
    let text = outcome.lines.join("\n");
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{outcome:?}"));
    let is_well = outcome.status.success();
    assert_eq!(said["is_well"], is_well);
    (said["lines"].as_array().expect("lines").clone(), !is_well)
}

/// The states of a topic.
fn states<'a>(lines: &'a [Value], topic: &str) -> Vec<&'a str> {
    let lines = lines.iter().filter(|line| line["topic"] == topic);
    lines.filter_map(|line| line["state"].as_str()).collect()
}

#[test]
fn where_all_is_well_the_doctor_finds_nothing_to_do() {
    let mut bed = on(&Hardware::Simulated(simulation()));
    bed.start_daemon(A_AND_B).expect("a daemon");
    let tenant = tenant(&bed, "a", &["smids", "--wait-for-line"]);
    bed.status_until("a channel", |status| {
        let channels = status["channels"].as_array()?;
        (!channels.is_empty()).then_some(())
    })
    .expect("a channel");
    let (lines, has_to_do) = diagnosis(&bed);
    assert!(!has_to_do, "{lines:?}");
    for topic in [
        "driver",
        "GPU",
        "self-test",
        "broker",
        "processes",
        "injection",
    ] {
        let states = states(&lines, topic);
        assert!(states.iter().all(|state| *state == "fine"), "{lines:?}");
        assert!(!states.is_empty(), "{topic}");
    }
    let outcome = bed.outcome(bed.lithos(&["doctor"])).expect("lithos doctor");
    assert!(outcome.lines.len() >= lines.len(), "{outcome:?}");
    tenant.finish(PATIENCE).expect("its end");
}

#[test]
fn the_doctor_works_without_a_daemon() {
    let bed = on(&Hardware::Simulated(simulation()));
    let (lines, has_to_do) = diagnosis(&bed);
    assert!(has_to_do);
    assert_eq!(states(&lines, "broker"), ["todo"]);
    assert_eq!(states(&lines, "self-test"), ["unseen"]);
    assert_eq!(states(&lines, "driver"), ["fine"]);
}

#[test]
fn the_doctor_works_without_a_gpu() {
    let mut bed = on(&Hardware::Simulated(simulation()));
    bed.stop_simulator().expect("its end");
    let (lines, has_to_do) = diagnosis(&bed);
    assert!(has_to_do);
    assert_eq!(states(&lines, "driver"), ["todo"]);
    assert_eq!(states(&lines, "GPU"), ["unseen"]);
}

#[test]
fn the_doctor_names_what_is_wrong() {
    let mut bed = on(&Hardware::Simulated(simulation()));
    bed.set_variable("SIMGPU_FAULTS", "lost-stamp");
    bed.start_daemon("").expect("a daemon");
    let mut command = bed.lithos(&["doctor"]);
    command.env("CUDA_INJECTION64_PATH", "/opt/profiler.so");
    let outcome = bed.outcome(command).expect("lithos doctor");
    assert_eq!(outcome.status.code(), Some(1));
    let said = outcome.lines.join("\n");
    assert!(said.contains("TO DO   self-test"), "{said}");
    assert!(
        said.contains("TO DO   injection    CUDA_INJECTION64_PATH is /opt/profiler.so"),
        "{said}"
    );
    assert!(said.contains("-> unset CUDA_INJECTION64_PATH"), "{said}");
}
