// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A latency-critical tenant beside one that queues short kernels, as many as the driver takes.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::bench::{GpuKind, lithos};
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::figures::{Name, Values};

/// How the two share the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Mps,
    LithOs,
}

pub(crate) fn beside(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let status = testbed.status()?;
    let tpcs = status["gpus"][0]["tpcs"].as_array().context("no GPU")?;
    let most = (tpcs.len() - 1).to_string();
    let lc = ["partition", "create", "lc", "--class", "lc"];
    lithos(testbed, &[&lc[..], &["--guarantee", &most]].concat())?;
    let be = ["partition", "create", "be", "--class", "be", "--borrow"];
    let bounds = ["--atom-us", "60", "--bound-us", "40"];
    lithos(testbed, &[&be[..], &bounds].concat())?;

    let seconds = if gpu == GpuKind::Real { 3.0 } else { 0.3 };
    let (lc, be) = match gpu {
        GpuKind::Real => {
            let request = format!(
                "lc --kernels 5 --blocks 32 --pause-us 2000 --iterations {}",
                iterations(testbed, "10")?
            );
            // A block for each SM: more of them would share it, and each take longer.
            let kernel = format!("--blocks 132 --iterations {}", iterations(testbed, "20")?);
            (request, kernel)
        }
        GpuKind::Simulated => (
            "lc --kernels 5 --blocks 4 --pause-us 20000".to_owned(),
            "--blocks 8 --iterations 20".to_owned(),
        ),
    };
    let lc = format!("{lc} --seconds {seconds}");
    let alone_lc = testbed.json(command(testbed, None, &lc))?;
    let alone_be = testbed.json(command(
        testbed,
        None,
        &format!("be --queue 10000 {be} --seconds {seconds}"),
    ))?;
    let alone = row(&alone_lc, &alone_be)?;
    print("alone", alone, alone);
    for system in [System::Mps, System::LithOs] {
        let partition = |name: &'static str| (system == System::LithOs).then_some(name);
        let queues = format!("be --queue 10000 {be} --until-eof");
        let mut queues = Process::start(
            "who queues",
            &mut command(testbed, partition("be"), &queues),
        )?;
        queues.json()?;
        let found = testbed.json(command(testbed, partition("lc"), &lc))?;
        let status = testbed.status()?;
        let found = row(&found, &queues.finish(Duration::from_secs(60))?.json()?)?;
        print(&format!("{system:?}"), found, alone);
        if system == System::LithOs {
            for channel in status["channels"].as_array().into_iter().flatten() {
                println!(
                    "    {} {}",
                    channel["chains"], channel["counters"]["waited"]
                );
            }
            values.set(Name::QueueLc, found[0] / alone[0]);
            values.set(Name::QueueBe, 100.0 * found[1] / alone[1]);
        }
    }
    Ok(())
}

fn iterations(testbed: &Testbed, block_us: &str) -> anyhow::Result<u64> {
    let calibrate = testbed.unmanaged(&["calibrate", "--block-us", block_us]);
    let report = testbed.json(calibrate)?;
    report["iterations"].as_u64().context("no iterations")
}

fn command(testbed: &Testbed, partition: Option<&str>, arguments: &str) -> Command {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = match partition {
        Some(name) => testbed.managed(&["--partition", name], &arguments),
        None => testbed.unmanaged(&arguments),
    };
    command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
    command
}

/// The p99 of requests in microseconds, and kernels a second.
fn row(lc: &Value, be: &Value) -> anyhow::Result<[f64; 2]> {
    let number =
        |report: &Value, key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
    Ok([number(lc, "p99_us")?, number(be, "kernels_per_s")?])
}

fn print(name: &str, [p99_us, rate]: [f64; 2], [alone_us, alone_rate]: [f64; 2]) {
    println!(
        "    {name:<10} LC p99 {p99_us:.1} us ({:.2} x); BE {rate:.0} kernels/s ({:.1} %)",
        p99_us / alone_us,
        100.0 * rate / alone_rate
    );
}
