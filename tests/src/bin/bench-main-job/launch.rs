// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a launch costs with and without LithOS.

use std::process::Command;

use anyhow::Context;
use lithos_tests::figures::to_f64;
use lithos_tests::latency::{Distribution, median};
use lithos_tests::testbed::{PATIENCE, Process, Testbed};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use super::figures::{Name, Values};

/// How a managed program is started.
const RUN: [&str; 4] = ["--tpcs", "8", "--class", "lc"];

/// Pairs of processes, one of each side.
const PAIRS: usize = 7;
/// Launches of one process before it is the other's turn: a few milliseconds.
const TURN: u32 = 512;

/// Two processes, one under LithOS and one not, take turns of a few milliseconds on one CPU, so that
/// what else the machine does, and how it drifts, hits both alike. Processes differ, too (in where
/// their memory lies), so there are several pairs, and the figure is the median of their differences.
pub(crate) fn latency(
    testbed: &Testbed,
    simulated: bool,
    values: &mut Values,
) -> anyhow::Result<()> {
    let turns = if simulated { 1 } else { 60 };
    let _pinned = Pinned::to_one_cpu()?;
    let pairs = (0..PAIRS)
        .map(|_| pair(testbed, turns))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (name, label, key) in [
        (Name::LaunchP50, "p50", "p50_ns"),
        (Name::LaunchP99, "p99", "p99_ns"),
    ] {
        let ns = |report: &Value| report[key].as_f64().with_context(|| format!("no {key}"));
        let mut sides = [Vec::new(), Vec::new()];
        let mut added = Vec::new();
        for pair in &pairs {
            let [without, with] = [ns(&pair[0])?, ns(&pair[1])?];
            sides[0].push(without);
            sides[1].push(with);
            added.push(with - without);
        }
        let middle = |sample: &[f64]| median(sample).context("no pairs");
        let range = Distribution::of(added.clone()).context("no pairs")?;
        println!(
            "  {label}: {:.0} ns without, {:.0} ns with; added {:.0} ns, {:.0} to {:.0} in {PAIRS} pairs",
            middle(&sides[0])?,
            middle(&sides[1])?,
            range.p50,
            range.percentiles[0],
            range.max,
        );
        values.set(name, middle(&added)? / 1000.0);
    }
    Ok(())
}

/// Runs a process without LithOS and one with it and returns what each reports.
fn pair(testbed: &Testbed, turns: u32) -> anyhow::Result<[Value; 2]> {
    let [count, turn] = [(turns * TURN).to_string(), TURN.to_string()];
    let arguments = ["launches", "--count", &count, "--turn", &turn];
    let mut sides = [
        Process::start("unmanaged", &mut testbed.unmanaged(&arguments))?,
        Process::start("managed", &mut testbed.managed(&RUN, &arguments))?,
    ];
    for index in 0..turns as usize {
        // Which side is first alternates, too.
        for side in [index % 2, (index + 1) % 2] {
            sides[side].say("go")?;
            sides[side].line(PATIENCE)?;
        }
    }
    let [without, with] = sides;
    Ok([
        without.finish(PATIENCE)?.json()?,
        with.finish(PATIENCE)?.json()?,
    ])
}

/// This thread, and what it starts, on one CPU while it lasts.
struct Pinned(CpuSet);

impl Pinned {
    fn to_one_cpu() -> anyhow::Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        // The first one serves more interrupts.
        let last = (0..CpuSet::count())
            .rev()
            .find(|cpu| before.is_set(*cpu).unwrap_or(false))
            .context("no CPU to run on")?;
        let mut one = CpuSet::new();
        one.set(last)?;
        sched_setaffinity(this, &one)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
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
