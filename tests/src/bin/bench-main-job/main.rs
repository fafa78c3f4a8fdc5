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

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use lithos_tests::testbed::{Hardware, Programs, Testbed};
use lithos_tests::workload;

use figures::{Figure, Results, Values};

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
        device = device_name(&testbed)?;
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
        device: device.clone(),
        driver: driver(cli.gpu),
        commit: commit(cli),
        figures: values.figures(),
    };
    results.print(&steps);
    if cli.only.is_none() {
        let path = write(&cli.results, &device, &results)?;
        println!("written to {}", path.display());
    }
    Ok(results.figures.iter().all(|figure| {
        let asked = steps.iter().any(|step| step.command() == figure.command);
        figure.met || !asked
    }))
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

fn device_name(testbed: &Testbed) -> anyhow::Result<String> {
    let status = testbed.status()?;
    let name = status["gpus"][0]["name"].as_str();
    Ok(name.context("the daemon manages no GPU")?.to_owned())
}

fn driver(gpu: GpuKind) -> String {
    let query = ["--query-gpu=driver_version", "--format=csv,noheader"];
    match gpu {
        GpuKind::Simulated => "simgpu".to_owned(),
        GpuKind::Real => first_line(Command::new("nvidia-smi").args(query)),
    }
}

fn commit(cli: &Cli) -> String {
    cli.commit
        .clone()
        .unwrap_or_else(|| first_line(Command::new("git").args(["rev-parse", "HEAD"])))
}

/// The first line that a command prints; "unknown" if there is none.
fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    output
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Writes the results to the folder of their kind of GPU.
fn write(root: &Path, device: &str, results: &Results) -> anyhow::Result<PathBuf> {
    let place = ["H100", "H200"]
        .into_iter()
        .find(|kind| device.contains(kind) && !device.contains("simulated"))
        .map_or_else(|| "simgpu".to_owned(), str::to_lowercase);
    let folder = root.join(place);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("main-job.json");
    let text = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

impl Figure {
    /// Where a figure comes from.
    fn step(&self) -> Option<Step> {
        Step::ALL
            .into_iter()
            .find(|step| step.command() == self.command)
    }
}
