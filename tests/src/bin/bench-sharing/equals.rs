// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Two tenants of equal guarantee: one is busy, the other idle but for a request now and then.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::bench::{GpuKind, lithos};
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::figures::{Name, Values};

/// Length of atoms.
const ATOM_US: f64 = 60.0;

pub(crate) fn beside(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let status = testbed.status()?;
    let tpcs = status["gpus"][0]["tpcs"].as_array().context("no GPU")?;
    let half = (tpcs.len() / 2).to_string();
    let atom_us = match gpu {
        GpuKind::Real => ATOM_US.to_string(),
        GpuKind::Simulated => "200".to_owned(),
    };
    for name in ["busy", "idle"] {
        let partition = ["partition", "create", name, "--class", "be", "--guarantee"];
        let more = [half.as_str(), "--atom-us", &atom_us];
        // Who borrows may use more than its guarantee.
        let ceiling = ["--ceiling", "none"];
        lithos(testbed, &[&partition[..], &more, &ceiling].concat())?;
    }
    let mut kept = Vec::new();
    let mut requests: Vec<[f64; 2]> = Vec::new();
    for borrows in ["false", "true"] {
        for name in ["busy", "idle"] {
            let change = ["partition", "set", name, "--borrow", borrows];
            lithos(testbed, &change)?;
        }
        kept.push(throughput(testbed, gpu, None)?.0);
        requests.push(throughput(testbed, gpu, Some(REQUESTS))?.1);
    }
    println!(
        "  kernels/s, on the guarantee and with what is lent: {kept:.1?}; requests, p50 and p99 in us: {requests:.1?}"
    );
    values.set(Name::Busy, kept[1] / kept[0]);
    values.set(Name::Wakes, requests[1][1] - requests[0][1] - ATOM_US);
    Ok(())
}

/// One kernel each, after a rest.
const REQUESTS: &str = "lc --kernels 1 --pause-us 20000";

/// Returns the kernels per second of who is busy, and the p50 and p99 of the other's requests in microseconds,
/// if it makes any.
fn throughput(
    testbed: &Testbed,
    gpu: GpuKind,
    requests: Option<&str>,
) -> anyhow::Result<(f64, [f64; 2])> {
    let size = match gpu {
        // Blocks of 20 us, kernels of 3.7 ms on the whole GPU.
        GpuKind::Real => "--blocks 190000 --iterations 532",
        GpuKind::Simulated => "--blocks 64 --iterations 20",
    };
    // Of requests as many as make a 99th percentile.
    let seconds = match (gpu, requests) {
        (GpuKind::Simulated, _) => 0.3,
        (GpuKind::Real, None) => 3.0,
        (GpuKind::Real, Some(_)) => 12.0,
    };
    let text = format!("be --queue 2 {size} --seconds {seconds} --until-eof");
    let mut busy = start(testbed, "busy", &text)?;
    busy.json()?;
    let idle = match requests {
        // It is there, and does nothing.
        None => "launches --warm-up 1 --count 1 --turn 1".to_owned(),
        Some(requests) => format!("{requests} --seconds {seconds}"),
    };
    let mut idle = start(testbed, "idle", &idle)?;
    let mut latency_us = [f64::NAN; 2];
    if requests.is_some() {
        let report = idle.finish(Duration::from_secs(30))?.json()?;
        latency_us = [number(&report, "p50_us")?, number(&report, "p99_us")?];
    } else {
        std::thread::sleep(Duration::from_secs_f64(seconds));
        idle.tell()?;
        idle.line(Duration::from_secs(30))?;
        idle.finish(Duration::from_secs(30))?;
    }
    let report = busy.finish(Duration::from_secs(30))?.json()?;
    Ok((number(&report, "kernels_per_s")?, latency_us))
}

fn start(testbed: &Testbed, partition: &str, arguments: &str) -> anyhow::Result<Process> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command: Command = testbed.managed(&["--partition", partition], &arguments);
    command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
    Process::start(partition, &mut command)
}

fn number(report: &Value, key: &str) -> anyhow::Result<f64> {
    report[key].as_f64().with_context(|| format!("no {key}"))
}
