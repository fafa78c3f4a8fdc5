// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures the figures of sharing on one GPU and writes them down: both sides of every comparison in one
//! run. `scripts/gpu bench sharing` runs it.
//!
//! A step that fails leaves its figures unmeasured and the others untouched; every program that a step
//! starts has a deadline.

mod equals;
mod figures;
mod queue;
mod torch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lithos_tests::bench::{GpuKind, clear};
use lithos_tests::figures::{self as written, Results};
use lithos_tests::testbed::{Programs, Testbed};

use figures::Values;

/// Measures the figures of sharing and writes RESULTS/<GPU>/sharing.json.
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
    Equals,
    Queue,
    Torch,
}

impl Step {
    const ALL: [Self; 3] = [Self::Equals, Self::Queue, Self::Torch];

    /// The command line that takes this step.
    fn command(self) -> String {
        let value = self.to_possible_value().expect("no step is hidden");
        format!("scripts/gpu bench sharing --only {}", value.get_name())
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-sharing: {error:#}");
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
    if cli.gpu == GpuKind::Real {
        testbed.start_mps()?;
    }
    let mut values = Values::default();
    for &step in &steps {
        println!("{step:?} ...");
        let taken = match step {
            Step::Equals => equals::beside(&testbed, cli.gpu, &mut values),
            Step::Queue => queue::beside(&testbed, cli.gpu, &mut values),
            Step::Torch => torch::beside(&testbed, cli.gpu, &mut values),
        };
        if let Err(error) = taken {
            eprintln!("{step:?} failed: {error:#}");
        }
        clear(&testbed)?;
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
        results.write(&cli.results, "sharing")?;
    }
    let mut figures = results.figures.iter();
    Ok(figures.all(|figure| figure.met || !asked(&figure.command)))
}
