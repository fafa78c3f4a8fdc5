// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures the figures of atoms on one GPU and writes them down: both sides of every comparison in one
//! run. `scripts/gpu bench atoms` runs it.
//!
//! A step that fails leaves its figures unmeasured and the others untouched; every program that a step
//! starts has a deadline.

mod build;
mod chain;
mod figures;
mod kills;
mod pair;
mod random;
mod reaction;
mod torch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lithos_tests::bench::{GpuKind, clear, lithos};
use lithos_tests::figures::{self as written, Results};
use lithos_tests::testbed::{Programs, Testbed};

use figures::Values;

/// Measures the figures of atoms and writes RESULTS/<GPU>/atoms.json.
#[derive(Parser)]
struct Cli {
    /// Which GPU. On a simulated one the times mean nothing; it shows that the benchmark runs.
    #[arg(long, value_enum, default_value = "real")]
    gpu: GpuKind,
    /// The folder of results.
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// The revision that is measured [default: what git says].
    #[arg(long)]
    commit: Option<String>,
    /// Takes only these steps; the figures of the others stay unmeasured, and nothing is written.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Step>,
}

/// The parts of the benchmark, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Chain,
    Build,
    Pair,
    Kills,
    Reaction,
    Random,
    Torch,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Chain,
        Self::Build,
        Self::Pair,
        Self::Kills,
        Self::Reaction,
        Self::Random,
        Self::Torch,
    ];

    /// The command line that takes this step.
    fn command(self) -> String {
        let value = self.to_possible_value().expect("no step is hidden");
        format!("scripts/gpu bench atoms --only {}", value.get_name())
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-atoms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every figure that was asked for was measured and met.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let hardware = cli.gpu.hardware();
    let is_asked = |step: &Step| cli.only.is_empty() || cli.only.contains(step);
    let steps: Vec<Step> = Step::ALL.into_iter().filter(is_asked).collect();
    let mut testbed = Testbed::new(Programs::beside_this()?, &hardware)?;
    testbed.start_daemon(&cli.gpu.configuration())?;
    let device = written::device_name(&testbed)?;
    let mut values = Values::default();
    for &step in &steps {
        println!("{step:?} ...");
        if let Err(error) = take(step, &testbed, cli.gpu, &mut values) {
            eprintln!("{step:?} failed: {error:#}");
            clear(&testbed)?;
        }
    }
    testbed.stop_mps()?;
    testbed.stop_daemon()?;

    let results = Results {
        device,
        driver: written::driver_version(&hardware),
        commit: cli.commit.clone().unwrap_or_else(written::commit),
        figures: figures::figures(&values),
    };
    let asked = |command: &str| steps.iter().any(|step| step.command() == command);
    results.print(asked);
    if cli.only.is_empty() {
        results.write(&cli.results, "atoms")?;
    }
    let mut figures = results.figures.iter();
    Ok(figures.all(|figure| figure.met || !asked(&figure.command)))
}

fn take(step: Step, testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    match step {
        Step::Chain => chain::added(testbed, gpu, values),
        Step::Pair => pair::beside(testbed, gpu, values),
        Step::Random => random::exact(testbed, gpu, values),
        Step::Build => build::cost(testbed, gpu, values),
        Step::Kills => kills::beside(testbed, gpu, values),
        Step::Reaction => reaction::of_gates(testbed, gpu, values),
        Step::Torch => torch::same(testbed, gpu, values),
    }
}
