// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How soon blocks stop when gates are shut, and how soon they come when gates are opened: by the host's
//! clock, of blocks that tell the host when they begin and end.

use std::time::Duration;

use anyhow::Context;
use lithos_tests::latency::Distribution;
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::chain::{KERNEL_US, Kernel};
use super::figures::{Name, Values};
use super::{GpuKind, lithos};
use lithos_tests::bench::words;

/// Atoms that are asked for.
const ATOMS: f64 = 60.0;
/// Once the atom that runs has long ended, and for longer than what counts as a gap.
const REST: Duration = Duration::from_millis(2);

pub(crate) fn of_gates(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let times = if gpu == GpuKind::Real { 300 } else { 3 };
    let kernel = Kernel::of_blocks(testbed, gpu, 190_000)?;
    let atom_us = (KERNEL_US / ATOMS).ceil();
    let atom = match gpu {
        GpuKind::Real => atom_us.to_string(),
        GpuKind::Simulated => "100".to_owned(),
    };
    let partition = ["reaction", "--class", "be", "--atom-us", &atom];
    lithos(
        testbed,
        &[&["partition", "create"], &partition[..]].concat(),
    )?;
    let arguments = kernel.of_role("beat");
    let mut command = testbed.managed(&["--partition", "reaction"], &words(&arguments));
    let mut process = Process::start("beats", &mut command)?;
    process.json()?;
    std::thread::sleep(10 * REST);
    let mut orders = Vec::new();
    for _ in 0..times {
        lithos(testbed, &["hold", "reaction"])?;
        let shut_ns = since(testbed, true)?;
        std::thread::sleep(REST);
        lithos(testbed, &["release", "reaction"])?;
        orders.push([shut_ns, since(testbed, false)?]);
        std::thread::sleep(REST);
    }
    let status = testbed.status()?;
    let report = process.finish(Duration::from_secs(30))?.json()?;
    let gaps = report["gaps"].as_array().context("no gaps")?;
    let gaps: Vec<[f64; 2]> = gaps
        .iter()
        .filter_map(|gap| Some([gap[0].as_f64()?, gap[1].as_f64()?]))
        .collect();
    let (mut stop_us, mut go_us) = (Vec::new(), Vec::new());
    for [shut_ns, open_ns] in orders {
        // Blocks may have come and gone between the orders, but none comes before gates open.
        let gap = gaps.iter().find(|[_, begin_ns]| *begin_ns > open_ns);
        let [end_ns, begin_ns] = gap.context("nothing runs after the last order")?;
        stop_us.push((end_ns - shut_ns) / 1e3);
        go_us.push((begin_ns - open_ns) / 1e3);
    }
    let [stop, go] = [stop_us, go_us].map(Distribution::of);
    let (stop, go) = stop.zip(go).context("nothing was ordered")?;
    let counters = &status["channels"][0]["counters"];
    println!(
        "  {} atoms of {} launches, {} of {times}: stop p50 {:.1} us, p99 {:.1}, max {:.1} (atoms of {atom_us} us); go p50 {:.1} us, p99 {:.1}, max {:.1}",
        counters["atoms"],
        counters["split"],
        gaps.len(),
        stop.p50,
        stop.p99,
        stop.max,
        go.p50,
        go.p99,
        go.max
    );
    values.set(Name::Stop, stop.p99 - atom_us);
    values.set(Name::GoP50, go.p50);
    values.set(Name::GoP99, go.p99);
    lithos(testbed, &["partition", "delete", "reaction"])
}

/// When the gates were shut, or opened, in nanoseconds.
fn since(testbed: &Testbed, is_held: bool) -> anyhow::Result<f64> {
    testbed.status_until("gates as ordered", |status: &Value| {
        let chains = &status["channels"][0]["chains"];
        let is_so = chains["held"] == is_held;
        is_so.then(|| chains["since_ns"].as_f64()).flatten()
    })
}
