// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches of random shapes while their partition is held, squeezed and released at random.

use anyhow::{Context, ensure};
use lithos_tests::figures::to_f64;
use lithos_tests::testbed::{Process, Testbed};
use std::time::{Duration, Instant};

use super::figures::{Name, Values};
use super::{GpuKind, lithos};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(150);

pub(crate) fn exact(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let launches = if gpu == GpuKind::Real { 2500 } else { 8 };
    let count = launches.to_string();
    lithos(
        testbed,
        &[
            "partition",
            "create",
            "random",
            "--class",
            "be",
            "--atom-us",
            "20",
        ],
    )?;
    let arguments = ["exact", "--streams", "4", "--launches", &count];
    let mut command = testbed.managed(&["--partition", "random"], &arguments);
    let mut process = Process::start("random launches", &mut command)?;
    let begin = Instant::now();
    let mut orders = 0_u32;
    let mut split = 0;
    while !process.has_ended()? {
        ensure!(begin.elapsed() < LIMIT, "the launches do not end");
        for order in ["hold", "release", "squeeze", "hold", "squeeze", "release"] {
            lithos(testbed, &[order, "random"])?;
            orders += 1;
        }
        let status = testbed.status()?;
        let counters = &status["channels"][0]["counters"];
        split = counters["split"].as_u64().unwrap_or(split);
    }
    let report = process.finish(Duration::from_secs(1))?.json()?;
    let number = |key: &str| report[key].as_u64().with_context(|| format!("no {key}"));
    println!(
        "  {report}, at least {split} split, {orders} orders in {:.1?}",
        begin.elapsed()
    );
    let wrong = number("wrong")? + number("early")? + number("misled")?;
    let launches = to_f64(number("launches")?);
    // A block that is wrong is a launch that is wrong, at most.
    values.set_of(Name::Random, (launches - to_f64(wrong)).max(0.0), launches);
    lithos(testbed, &["partition", "delete", "random"])
}
