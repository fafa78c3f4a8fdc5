// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What it costs the host to make a launch a chain: the length of the launch call, by the number of atoms.

use std::time::Duration;

use anyhow::{Context, ensure};
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::chain::{KERNEL_US, Kernel};
use super::figures::{Name, Values};
use super::{GpuKind, lithos};
use lithos_tests::bench::words;

/// Atoms that are asked for; 1 is the kernel as it is.
const ATOMS: [u32; 4] = [1, 4, 16, 60];
/// Rounds of all of them.
const ROUNDS: usize = 3;

pub(crate) fn cost(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let kernel = Kernel::of_blocks(testbed, gpu, 20_000)?;
    lithos(testbed, &["partition", "create", "build", "--class", "be"])?;
    // For each number of atoms, what it was and how long the call took, the shortest of the rounds.
    let mut found = [[f64::NAN, f64::INFINITY]; ATOMS.len()];
    for _ in 0..ROUNDS {
        for (place, atoms) in found.iter_mut().zip(ATOMS) {
            let [atoms, ns] = measure(testbed, gpu, &kernel, atoms)?;
            if ns < place[1] {
                *place = [atoms, ns];
            }
        }
    }
    let [[_, whole_ns], chains @ ..] = found;
    let [[few, few_ns], .., [many, many_ns]] = chains;
    ensure!(many > few, "{many} atoms where {few} were");
    let atom_ns = (many_ns - few_ns) / (many - few);
    let launch_ns = few_ns - whole_ns - few * atom_ns;
    println!("  atoms, ns of a launch call: {found:.1?}");
    values.set(Name::BuildAtom, atom_ns);
    values.set(Name::BuildLaunch, launch_ns);
    lithos(testbed, &["partition", "delete", "build"])
}

/// Returns into how many atoms launches were cut, and the median length of a launch call.
fn measure(
    testbed: &Testbed,
    gpu: GpuKind,
    kernel: &Kernel,
    atoms: u32,
) -> anyhow::Result<[f64; 2]> {
    let us = match (atoms, gpu) {
        (1, _) => 0.0,
        (_, GpuKind::Real) => (KERNEL_US / f64::from(atoms)).ceil(),
        // Kernels of two atoms or four.
        (_, GpuKind::Simulated) => (2000.0 / f64::from(atoms).sqrt()).round(),
    };
    let us = us.to_string();
    lithos(testbed, &["partition", "set", "build", "--atom-us", &us])?;
    let count = if gpu == GpuKind::Real { 100 } else { 4 };
    let mut arguments = kernel.of_role("launches");
    // As many as the GPU's queue and the room for chains hold easily, so that calls wait for nothing.
    let text = format!(
        "--batch 8 --warm-up 16 --count {} --turn {count}",
        2 * count
    );
    arguments.extend(text.split(' ').map(str::to_owned));
    let mut command = testbed.managed(&["--partition", "build"], &words(&arguments));
    let mut process = Process::start("launches", &mut command)?;
    process.tell()?;
    process.line(Duration::from_secs(30))?;
    let status = testbed.status()?;
    let counter = |name: &str| {
        let counters: &Value = &status["channels"][0]["counters"];
        counters[name]
            .as_f64()
            .with_context(|| format!("no {name}"))
    };
    let (chains, cut) = (counter("split")?, counter("atoms")?);
    process.tell()?;
    process.line(Duration::from_secs(30))?;
    let report = process.finish(Duration::from_secs(30))?.json()?;
    let ns = report["p50_ns"].as_f64().context("no p50_ns")?;
    Ok([if chains > 0.0 { cut / chains } else { 1.0 }, ns])
}
