// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! PyTorch in a partition and without.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use lithos_tests::cuda::source;
use lithos_tests::figures::to_f64;
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::figures::{Name, Values};
use super::partitions::Watch;

const SCRIPT: &str = include_str!("../../../torch/confine.py");
const WORKLOADS: [&str; 3] = ["inference", "training", "matmul"];
/// Importing PyTorch alone can take most of a minute on a cold machine.
const PATIENCE: Duration = Duration::from_secs(150);

pub(crate) fn confined(testbed: &Testbed, values: &mut Values) -> anyhow::Result<()> {
    let script = testbed.folder().join("confine.py");
    let ptx = testbed.folder().join("work.ptx");
    std::fs::write(&script, SCRIPT)?;
    std::fs::write(&ptx, source::WORK)?;

    let mut plain = Command::new("python3");
    plain.arg(&script).arg(&ptx);
    let without = Process::start("PyTorch", &mut plain)?
        .finish(PATIENCE)?
        .json()?;

    let mut command = testbed.lithos(&["run", "--tpcs", "16", "--class", "be", "--", "python3"]);
    command.arg(&script).arg(&ptx);
    let process = Process::start("PyTorch under lithos run", &mut command)?;
    let mut watch = Watch::default();
    let with = watch.until_end(testbed, process, PATIENCE)?.json()?;
    watch.note(values);

    // The largest number of SMs that any of the counts found.
    let sms = |report: &Value| {
        let counts = report["sms"].as_array().context("no counts of SMs")?;
        ensure!(counts.len() == 1 + WORKLOADS.len(), "{counts:?}");
        counts
            .iter()
            .filter_map(Value::as_u64)
            .max()
            .context("no counts of SMs")
    };
    println!("  SMs: {} without, {} with", sms(&without)?, sms(&with)?);
    values.set(Name::TorchSms, to_f64(sms(&with)?));
    let mut same = 0;
    for workload in WORKLOADS {
        let equal = with[workload] == without[workload] && with[workload].is_string();
        println!(
            "  {workload}: {} without, {} with; {} s, {} s",
            without[workload],
            with[workload],
            without[format!("{workload}_s")],
            with[format!("{workload}_s")],
        );
        same += u64::from(equal);
    }
    values.set_of(
        Name::TorchBits,
        to_f64(same),
        to_f64(WORKLOADS.len() as u64),
    );
    Ok(())
}
