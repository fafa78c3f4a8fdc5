// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures the figures of the main job on one GPU and writes them down: both sides of every
//! comparison in one run. `scripts/gpu bench` runs it.
//!
//! The idea: each step is a function from a testbed to the values of the figures that it is about. A
//! step that fails leaves its figures unmeasured and the others untouched; every program that a step
//! starts has a deadline.

mod figures;
mod launch;
mod partitions;
mod torch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use lithos_tests::figures::{self as written, Results};
use lithos_tests::testbed::{Hardware, Programs, Testbed};
use lithos_tests::workload;

use figures::Values;

/// Measures the figures of the main job and writes RESULTS/<GPU>/main-job.json.
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
    /// Takes only this step; the figures of the others stay unmeasured, and nothing is written.
    #[arg(long, value_enum)]
    only: Option<Step>,
}

#[derive(Clone, Copy, ValueEnum)]
enum GpuKind {
    Real,
    Simulated,
}

/// The parts of the benchmark, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Launch,
    Calls,
    Torch,
    Resident,
    Live,
    Beside,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Launch,
        Self::Calls,
        Self::Torch,
        Self::Resident,
        Self::Live,
        Self::Beside,
    ];

    /// Whether several programs run on the GPU at a time.
    fn needs_mps(self) -> bool {
        matches!(self, Self::Resident | Self::Live | Self::Beside)
    }

    /// The command line that takes this step.
    fn command(self) -> String {
        let value = self.to_possible_value().expect("no step is hidden");
        format!("scripts/gpu bench --only {}", value.get_name())
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-main-job: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every figure that was asked for was measured and met.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let hardware = match cli.gpu {
        GpuKind::Real => Hardware::Real,
        GpuKind::Simulated => Hardware::Simulated(workload::simulation()),
    };
    let programs = Programs::beside_this()?;
    let steps: Vec<Step> = Step::ALL
        .into_iter()
        .filter(|step| cli.only.is_none_or(|only| only == *step))
        .collect();

    let mut values = Values::default();
    let mut device = String::new();
    // Without MPS first: there is one process at a time, and nothing between it and the GPU.
    for mps in [false, true] {
        let part: Vec<Step> = steps
            .iter()
            .copied()
            .filter(|step| step.needs_mps() == mps)
            .collect();
        if part.is_empty() {
            continue;
        }
        let mut testbed = Testbed::new(programs.clone(), &hardware)?;
        testbed.start_daemon(&configuration(mps, cli.gpu))?;
        device = written::device_name(&testbed)?;
        for step in part {
            println!("{step:?} ...");
            if let Err(error) = take(step, &testbed, &hardware, &mut values) {
                eprintln!("{step:?} failed: {error:#}");
            }
        }
        testbed.stop_mps()?;
        testbed.stop_daemon()?;
    }

    let results = Results {
        device,
        driver: written::driver_version(&hardware),
        commit: cli.commit.clone().unwrap_or_else(written::commit),
        figures: values.figures(),
    };
    let asked = |command: &str| steps.iter().any(|step| step.command() == command);
    results.print(asked);
    if cli.only.is_none() {
        results.write(&cli.results, "main-job")?;
    }
    let mut figures = results.figures.iter();
    Ok(figures.all(|figure| figure.met || !asked(&figure.command)))
}

fn take(
    step: Step,
    testbed: &Testbed,
    hardware: &Hardware,
    values: &mut Values,
) -> anyhow::Result<()> {
    let simulated = matches!(hardware, Hardware::Simulated(_));
    match step {
        Step::Launch => launch::latency(testbed, simulated, values),
        Step::Calls => launch::calls(testbed, simulated, values),
        Step::Torch => torch::confined(testbed, values),
        Step::Resident => partitions::resident(testbed, values),
        Step::Live => partitions::live(testbed, values),
        Step::Beside => partitions::beside(testbed, hardware, values),
    }
}

fn configuration(mps: bool, gpu: GpuKind) -> String {
    let enable = match gpu {
        GpuKind::Real if mps => "on",
        _ => "off",
    };
    format!("[mps]\nenable = \"{enable}\"\n")
}
