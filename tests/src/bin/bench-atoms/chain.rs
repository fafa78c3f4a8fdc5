// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What it costs a kernel to be a chain.

use anyhow::Context;
use lithos_tests::latency::median;
use lithos_tests::testbed::Testbed;
use serde_json::Value;

use super::figures::{Name, Values};
use super::{GpuKind, lithos};

/// How long the kernel takes, in microseconds.
const KERNEL_US: f64 = 3700.0;
/// Rounds of all sides.
const ROUNDS: usize = 5;
/// Atoms that are asked for; 1 is the kernel as it is.
const ATOMS: [u32; 3] = [1, 16, 64];

/// The shape of a best-effort kernel, and how many iterations make its length.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    blocks: u32,
    iterations: u64,
}

impl Kernel {
    /// A kernel of so many blocks that takes [`KERNEL_US`] on the whole GPU, or what a simulated one can do.
    pub(crate) fn of_blocks(testbed: &Testbed, gpu: GpuKind, blocks: u32) -> anyhow::Result<Self> {
        if gpu == GpuKind::Simulated {
            return Ok(Self {
                blocks: 64,
                iterations: 20,
            });
        }
        let guess = Self {
            blocks,
            iterations: 1000,
        };
        let rate = guess.rate(&testbed.json(testbed.unmanaged(&words(&guess.arguments(0.5))))?)?;
        // So many kernels a second now; the length grows with the iterations.
        let wanted = 1e6 / KERNEL_US;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and `as` saturates"
        )]
        let iterations = (1000.0 * rate / wanted).round() as u64;
        Ok(Self { blocks, iterations })
    }

    /// The arguments of a tenant that launches it back to back.
    pub(crate) fn arguments(&self, seconds: f64) -> Vec<String> {
        let text = format!(
            "be --queue 2 --blocks {} --iterations {} --seconds {seconds}",
            self.blocks, self.iterations
        );
        text.split(' ').map(str::to_owned).collect()
    }

    /// Kernels a second, as the tenant reports them.
    pub(crate) fn rate(&self, report: &Value) -> anyhow::Result<f64> {
        report["kernels_per_s"].as_f64().context("no kernels_per_s")
    }
}

pub(crate) fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

pub(crate) fn added(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let kernel = Kernel::of_blocks(testbed, gpu, 20_000)?;
    lithos(testbed, &["partition", "create", "chain", "--class", "be"])?;
    let seconds = if gpu == GpuKind::Real { 1.0 } else { 0.2 };
    let arguments = kernel.arguments(seconds);
    let mut sides = [const { Vec::new() }; ATOMS.len()];
    for _ in 0..ROUNDS {
        for (side, atoms) in sides.iter_mut().zip(ATOMS) {
            let us = match (atoms, gpu) {
                (1, _) => 0.0,
                (_, GpuKind::Real) => (KERNEL_US / f64::from(atoms)).ceil(),
                (_, GpuKind::Simulated) => 100.0,
            };
            lithos(
                testbed,
                &["partition", "set", "chain", "--atom-us", &us.to_string()],
            )?;
            let command = testbed.managed(&["--partition", "chain"], &words(&arguments));
            side.push(1e6 / kernel.rate(&testbed.json(command)?)?);
        }
    }
    let [whole, sixteen, sixty_four] = sides.map(|side| median(&side).unwrap_or(f64::NAN));
    println!("  {kernel:?}: {whole:.1} us whole, {sixteen:.1} in 16 atoms, {sixty_four:.1} in 64");
    values.set(Name::Chain16, 100.0 * (sixteen / whole - 1.0));
    values.set(Name::Chain64, 100.0 * (sixty_four / whole - 1.0));
    lithos(testbed, &["partition", "delete", "chain"])
}
