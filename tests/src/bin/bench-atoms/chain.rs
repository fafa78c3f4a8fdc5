// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What it costs a kernel to be a chain: one that computes, and one that waits for memory.

use anyhow::Context;
use lithos_tests::bench::words;
use lithos_tests::latency::median;
use lithos_tests::testbed::Testbed;
use serde_json::Value;

use super::figures::{Name, Values};
use super::{GpuKind, lithos};

/// How long the kernel takes, in microseconds.
pub(crate) const KERNEL_US: f64 = 3700.0;
/// The blocks of 256 threads that an H100 holds.
const RESIDENT: f64 = 8.0 * 132.0;
/// Rounds of all sides.
const ROUNDS: usize = 5;
/// How long a saxpy of 2^28 elements is taken to take.
const SAXPY_US: f64 = 1270.0;

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
        let rate = rate(&testbed.json(testbed.unmanaged(&words(&guess.arguments(0.5))))?)?;
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

    /// How long one of its blocks takes.
    fn block_us(&self) -> f64 {
        KERNEL_US * RESIDENT / f64::from(self.blocks)
    }

    /// The arguments of a tenant that launches it back to back.
    pub(crate) fn arguments(&self, seconds: f64) -> Vec<String> {
        let mut arguments = self.of_role("be");
        let more = format!("--queue 2 --seconds {seconds}");
        arguments.extend(more.split(' ').map(str::to_owned));
        arguments
    }

    /// The arguments of a tenant that launches it in a role.
    pub(crate) fn of_role(&self, role: &str) -> Vec<String> {
        let text = format!(
            "{role} --blocks {} --iterations {}",
            self.blocks, self.iterations
        );
        text.split(' ').map(str::to_owned).collect()
    }
}

/// Kernels a second, as a tenant reports them.
fn rate(report: &Value) -> anyhow::Result<f64> {
    report["kernels_per_s"].as_f64().context("no kernels_per_s")
}

pub(crate) fn added(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let kernel = Kernel::of_blocks(testbed, gpu, 20_000)?;
    lithos(testbed, &["partition", "create", "chain", "--class", "be"])?;
    let seconds = if gpu == GpuKind::Real { 1.0 } else { 0.2 };
    let compute = compare(
        testbed,
        gpu,
        &kernel.arguments(seconds),
        (KERNEL_US, kernel.block_us()),
        [1, 16, 64],
    )?;
    values.set(Name::Chain16, compute[1]);
    values.set(Name::Chain64, compute[2]);
    let arguments = [
        "saxpy".to_owned(),
        "--seconds".to_owned(),
        seconds.to_string(),
    ];
    let memory = compare(testbed, gpu, &arguments, (SAXPY_US, 0.0), [1, 4])?;
    values.set(Name::Saxpy, memory[1]);
    lithos(testbed, &["partition", "delete", "chain"])
}

/// The length of atoms that makes so many of a kernel: long chains have a short first one, and blocks are
/// taken off where they are shorter than an atom (`shim/src/operators.rs`).
fn length_us(kernel_us: f64, block_us: f64, atoms: u32) -> f64 {
    let long = if atoms > 8 { atoms - 1 } else { atoms };
    // In the middle between that and one less, for kernels are not exactly as long as wanted.
    let own_us = kernel_us / (f64::from(long) - 0.5);
    if own_us < block_us {
        own_us
    } else {
        own_us + block_us
    }
}

/// By how many per cent a kernel takes longer in so many atoms; the first is the kernel as it is.
fn compare<const N: usize>(
    testbed: &Testbed,
    gpu: GpuKind,
    arguments: &[String],
    (kernel_us, block_us): (f64, f64),
    atoms: [u32; N],
) -> anyhow::Result<[f64; N]> {
    let mut sides = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (side, atoms) in sides.iter_mut().zip(atoms) {
            let us = match (atoms, gpu) {
                (1, _) => 0.0,
                (_, GpuKind::Real) => length_us(kernel_us, block_us, atoms).round(),
                (_, GpuKind::Simulated) => 100.0,
            };
            let us = us.to_string();
            lithos(testbed, &["partition", "set", "chain", "--atom-us", &us])?;
            let command = testbed.managed(&["--partition", "chain"], &words(arguments));
            side.push(1e6 / rate(&testbed.json(command)?)?);
        }
    }
    let us = sides.map(|side| median(&side).unwrap_or(f64::NAN));
    println!("  {}: atoms {atoms:?}: {us:.1?} us", arguments[0]);
    let whole = us[0];
    Ok(us.map(|us| 100.0 * (us / whole - 1.0)))
}
