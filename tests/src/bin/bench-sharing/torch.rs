// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! ResNet-50 inference beside the training of a transformer, in PyTorch: requests come at random times and keep
//! the GPU busy for half of them.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::bench::{GpuKind, lithos};
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::figures::{Name, Values};

const SCRIPT: &str = include_str!("../../../torch/pair.py");
/// Importing PyTorch alone can take most of a minute on a cold machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The part of the time that requests alone keep the server busy.
const LOAD: f64 = 0.5;
/// Requests of a run.
const REQUESTS: &str = "800";

pub(crate) fn beside(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    anyhow::ensure!(gpu == GpuKind::Real, "PyTorch needs a real GPU");
    let script = testbed.folder().join("pair.py");
    std::fs::write(&script, SCRIPT)?;
    let script = script.to_str().context("a folder's name")?;
    let status = testbed.status()?;
    let tpcs = status["gpus"][0]["tpcs"].as_array().context("no GPU")?;
    let most = (tpcs.len() - 1).to_string();
    let lc = ["partition", "create", "lc", "--class", "lc"];
    lithos(testbed, &[&lc[..], &["--guarantee", &most]].concat())?;
    let be = ["partition", "create", "be", "--class", "be", "--borrow"];
    lithos(testbed, &[&be[..], &["--atom-us", "60"]].concat())?;

    let command = |partition: Option<&str>, arguments: &[&str]| -> Command {
        let mut command = match partition {
            Some(name) => testbed.lithos(&["run", "--partition", name, "--", "python3"]),
            None => Command::new("python3"),
        };
        command.arg(script).args(arguments);
        command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
        command
    };
    let serve = |partition, arguments: &[&str]| -> anyhow::Result<Value> {
        let arguments = [&["serve", "--requests"], arguments].concat();
        let mut server = Process::start("inference", &mut command(partition, &arguments))?;
        ready(&mut server)?;
        let report: Value = serde_json::from_str(&server.line(PATIENCE)?)?;
        println!("    {arguments:?}: {}", report["services_ms"]);
        Ok(report)
    };
    let closed = serve(None, &["200"])?;
    let busy_ms = number(&closed, "p50_ms")?;
    let rate = format!("{:.2}", LOAD * 1e3 / busy_ms);
    let alone = serve(None, &[REQUESTS, "--rate", &rate])?;
    let (alone_ms, seconds) = (number(&alone, "p99_ms")?, number(&alone, "seconds")?);
    let train = |partition, beside: Option<&[&str]>| -> anyhow::Result<[f64; 2]> {
        let mut trainer = Process::start("training", &mut command(partition, &["train"]))?;
        ready(&mut trainer)?;
        let mut p99_ms = f64::NAN;
        match beside {
            Some(arguments) => {
                p99_ms = number(&serve(partition.map(|_| "lc"), arguments)?, "p99_ms")?;
            }
            None => std::thread::sleep(Duration::from_secs_f64(seconds)),
        }
        if let Ok(status) = testbed.status() {
            for channel in status["channels"].as_array().into_iter().flatten() {
                println!("    {} {}", channel["chains"], channel["counters"]);
            }
        }
        let report = trainer.finish(PATIENCE)?.json()?;
        Ok([p99_ms, number(&report, "steps_per_s")?])
    };
    let [_, alone_rate] = train(None, None)?;
    let requests = [REQUESTS, "--rate", &rate];
    let mps = train(None, Some(&requests))?;
    let ours = train(Some("be"), Some(&requests))?;
    println!("  a request takes {busy_ms:.2} ms; {rate} a second");
    println!("  alone: p99 {alone_ms:.2} ms, {alone_rate:.1} steps/s");
    for (name, [p99_ms, steps]) in [("MPS", mps), ("LithOS", ours)] {
        println!(
            "  {name}: p99 {p99_ms:.2} ms ({:.2} x), {steps:.1} steps/s ({:.1} %)",
            p99_ms / alone_ms,
            100.0 * steps / alone_rate
        );
    }
    values.set(Name::TorchLc, ours[0] / alone_ms);
    values.set(Name::TorchMps, mps[0] / ours[0]);
    let left = alone_rate * (1.0 - LOAD);
    values.set(Name::TorchBe, 100.0 * ours[1] / left);
    Ok(())
}

/// Waits until it is warm.
fn ready(process: &mut Process) -> anyhow::Result<()> {
    let line = process.line(PATIENCE)?;
    let word: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
    anyhow::ensure!(word["running"] == true, "{line}");
    Ok(())
}

fn number(report: &Value, key: &str) -> anyhow::Result<f64> {
    report[key].as_f64().with_context(|| format!("no {key}"))
}
