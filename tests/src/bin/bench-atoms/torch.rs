// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! PyTorch with long kernels split: the bits of what it computes while its partition is held and released
//! all the time, and what splitting costs while nobody holds it.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::figures::to_f64;
use lithos_tests::latency::median;
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::figures::{Name, Values};
use super::{GpuKind, lithos};

const SCRIPT: &str = include_str!("../../../torch/atoms.py");
const WORKLOADS: [&str; 5] = ["resnet", "transformer", "sort", "cumsum", "matmul"];
/// Importing PyTorch alone can take most of a minute on a cold machine.
const PATIENCE: Duration = Duration::from_secs(150);
/// Rounds of both sides that are compared.
const ROUNDS: usize = 7;
/// Rounds with suspensions.
const SUSPENDED: usize = 3;
/// What is longer is split.
const ATOM_US: &str = "200";

pub(crate) fn same(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    anyhow::ensure!(gpu == GpuKind::Real, "PyTorch needs a real GPU");
    let script = testbed.folder().join("atoms.py");
    std::fs::write(&script, SCRIPT)?;
    let partition = ["torch", "--class", "be", "--atom-us", ATOM_US];
    lithos(
        testbed,
        &[&["partition", "create"], &partition[..]].concat(),
    )?;
    testbed.start_mps()?;
    let mut plain = Command::new("python3");
    plain.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
    let split = testbed.lithos(&["run", "--partition", "torch", "--", "python3"]);
    let mut sides = Vec::new();
    for (name, mut command) in [("PyTorch", plain), ("PyTorch in atoms", split)] {
        sides.push(Process::start(name, command.arg(&script))?);
    }
    // What is learned, compiled and allocated in the first rounds is there afterwards.
    for _ in 0..2 {
        for side in &mut sides {
            round(side)?;
        }
    }
    let mut seconds: [Vec<Vec<f64>>; 2] = Default::default();
    let mut right = Value::Null;
    for _ in 0..ROUNDS {
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let report = round(side)?;
            let of = |name: &&str| report[format!("{name}_s")].as_f64();
            let all: Option<Vec<f64>> = WORKLOADS.iter().map(of).collect();
            seconds.push(all.context("no seconds")?);
            if right.is_null() {
                right = report;
            }
        }
    }
    let [without, with] = seconds.map(|rounds| {
        let of = |index: usize| {
            let all: Vec<f64> = rounds.iter().map(|round: &Vec<f64>| round[index]).collect();
            median(&all).unwrap_or(f64::NAN)
        };
        (0..WORKLOADS.len()).map(of).collect::<Vec<f64>>()
    });
    for ((name, without), with) in WORKLOADS.iter().zip(&without).zip(&with) {
        let added = 100.0 * (with / without - 1.0);
        println!("  {name}: {without:.4} s without, {with:.4} s in atoms, {added:+.2} %");
    }
    let [without, with] = [without, with].map(|all| all.iter().sum::<f64>());
    values.set(Name::TorchCost, 100.0 * (with / without - 1.0));

    let side = sides.last_mut().context("a side")?;
    let mut orders = 0;
    let reports = std::thread::scope(|scope| -> anyhow::Result<Vec<Value>> {
        let rounds = scope.spawn(|| (0..SUSPENDED).map(|_| round(side)).collect());
        while !rounds.is_finished() {
            for order in ["hold", "release"] {
                lithos(testbed, &[order, "torch"])?;
                orders += 1;
            }
        }
        rounds.join().expect("it does not panic")
    })?;
    let same = WORKLOADS.map(|name| {
        let is_right = |report: &Value| report[name] == right[name] && report[name].is_string();
        reports.iter().all(is_right)
    });
    let status = testbed.status()?;
    println!(
        "  {orders} orders; the same: {same:?}; {}",
        status["channels"][0]["counters"]
    );
    let count = |all: &[bool]| to_f64(all.iter().filter(|same| **same).count() as u64);
    values.set_of(Name::TorchBits, count(&same), to_f64(same.len() as u64));
    for side in sides {
        side.finish(PATIENCE)?;
    }
    lithos_tests::bench::delete(testbed, "torch")?;
    testbed.stop_mps()
}

/// Has it compute everything once, and returns what it says.
fn round(side: &mut Process) -> anyhow::Result<Value> {
    side.tell()?;
    let line = side.line(PATIENCE)?;
    serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
}
