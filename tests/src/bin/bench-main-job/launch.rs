// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a launch costs with and without LithOS.

use std::process::Command;

use anyhow::Context;
use lithos_tests::latency::median;
use lithos_tests::testbed::Testbed;
use serde_json::Value;

use super::figures::{Name, Values, to_f64};

/// How a managed program is started.
const RUN: [&str; 4] = ["--tpcs", "8", "--class", "lc"];

/// Processes of each side. They alternate, and which side is first alternates, too, so that neither a
/// warm nor a cold machine favours one.
const REPEATS: usize = 7;

pub(crate) fn latency(
    testbed: &Testbed,
    simulated: bool,
    values: &mut Values,
) -> anyhow::Result<()> {
    let count = if simulated { "500" } else { "20000" };
    let arguments = ["launches", "--count", count];
    let measure = |managed: bool| -> anyhow::Result<(f64, f64)> {
        let command = if managed {
            testbed.managed(&RUN, &arguments)
        } else {
            testbed.unmanaged(&arguments)
        };
        let report = testbed.json(command)?;
        let ns = |key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
        Ok((ns("p50_ns")?, ns("p99_ns")?))
    };
    let mut sides = [Vec::new(), Vec::new()];
    for repeat in 0..REPEATS {
        for turn in 0..2 {
            let managed = (repeat + turn) % 2 == 1;
            sides[usize::from(managed)].push(measure(managed)?);
        }
    }
    let middle = |side: &[(f64, f64)], pick: fn(&(f64, f64)) -> f64| {
        let sample: Vec<f64> = side.iter().map(pick).collect();
        median(&sample).context("no repeats")
    };
    for (name, label, pick) in [
        (
            Name::LaunchP50,
            "p50",
            (|pair| pair.0) as fn(&(f64, f64)) -> f64,
        ),
        (Name::LaunchP99, "p99", |pair| pair.1),
    ] {
        let [without, with] = [middle(&sides[0], pick)?, middle(&sides[1], pick)?];
        println!("  {label}: {without:.0} ns without, {with:.0} ns with (medians of {REPEATS})");
        values.set(name, (with - without) / 1000.0);
    }
    Ok(())
}

pub(crate) fn calls(testbed: &Testbed, simulated: bool, values: &mut Values) -> anyhow::Result<()> {
    let [few, many] = if simulated {
        ["100", "1000"]
    } else {
        ["1000", "100000"]
    };
    let file = testbed.folder().join("calls.json");
    let count = |mut command: Command, launches: &str| -> anyhow::Result<Value> {
        command
            .arg("--output")
            .arg(&file)
            .arg("--")
            .arg(testbed.unmanaged(&[]).get_program())
            .args(["launches", "--count", launches]);
        testbed.json(command)?;
        Ok(serde_json::from_str(&std::fs::read_to_string(&file)?)?)
    };
    let managed = |launches: &str| {
        let mut command = testbed.lithos(&["run"]);
        command
            .args(RUN)
            .arg("--")
            .arg(testbed.command("syscount").get_program());
        count(command, launches)
    };
    let unmanaged = |launches: &str| count(testbed.command("syscount"), launches);
    let added = |few: &Value, many: &Value, key: &str| -> anyhow::Result<f64> {
        let calls = |value: &Value| value[key].as_u64().with_context(|| format!("no {key}"));
        Ok(to_f64(calls(many)?) - to_f64(calls(few)?))
    };
    let with = (managed(few)?, managed(many)?);
    let without = (unmanaged(few)?, unmanaged(many)?);
    for key in ["total", "first_thread"] {
        println!(
            "  {key}: {} more calls with LithOS, {} without, for {many} launches instead of {few}",
            added(&with.0, &with.1, key)?,
            added(&without.0, &without.1, key)?,
        );
    }
    // The driver's own threads wake up now and then, with and without LithOS; launches are made by the
    // first thread.
    values.set(Name::Calls, added(&with.0, &with.1, "first_thread")?);
    Ok(())
}
