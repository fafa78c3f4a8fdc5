// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One ordinary CUDA program in many roles: what the end-to-end tests, the demo and the benchmarks
//! run as tenants. It knows nothing of LithOS. Each role prints one JSON object on standard output.

mod be;
mod beat;
mod checksum;
mod churn;
mod exact;
mod grids;
mod habits;
mod launches;
mod lc;
mod queue;
mod resident;
mod saxpy;
mod smids;
mod work;

use std::io::{BufRead, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lithos_tests::cuda::{self, Gpu};
use serde::Serialize;

/// Runs one role of a test tenant on a GPU.
#[derive(Parser)]
struct Cli {
    /// The GPU, as CUDA numbers them.
    #[arg(long, global = true, default_value_t = 0)]
    device: i32,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Finds how many iterations make a block as long as asked.
    Calibrate(work::Calibrate),
    /// Latency-critical: a few short kernels per request, on an urgent stream.
    Lc(lc::Arguments),
    /// Best-effort: kernels back to back.
    Be(be::Arguments),
    /// The same of kernels that wait for memory.
    Saxpy(saxpy::Arguments),
    /// The same, and says when blocks ran and when none did.
    Beat(beat::Arguments),
    /// How many SMs a grid that fills the GPU runs on.
    Smids(smids::Arguments),
    /// Blocks that take a whole SM each and wait for each other.
    Resident(resident::Arguments),
    /// What the launch of an empty kernel costs the host.
    Launches(launches::Arguments),
    /// Hashes of what deterministic kernels compute.
    Checksum(checksum::Arguments),
    /// Launches of random shapes, every block of which has to run once.
    Exact(exact::Arguments),
    /// Launches a grid whose first block waits for its last.
    Ahead(exact::Ahead),
    /// Launches blocks in clusters.
    Cluster(grids::Cluster),
    /// Launches a cooperative grid.
    Cooperative(grids::Cooperative),
    /// Threads, streams, contexts and child processes that come and go between launches.
    Churn(churn::Arguments),
    /// Ends the process while another thread launches.
    ExitDuringLaunch(churn::Exit),
    /// What frameworks do around launches.
    #[command(subcommand)]
    Habit(habits::Habit),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenant: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let gpu = || {
        cuda::initialise()?;
        Gpu::find(cli.device)
    };
    match &cli.role {
        Role::Calibrate(arguments) => print(&work::calibrate(gpu()?, arguments)?),
        Role::Lc(arguments) => print(&lc::run(gpu()?, arguments)?),
        Role::Be(arguments) => print(&be::run(gpu()?, arguments)?),
        Role::Saxpy(arguments) => print(&saxpy::run(gpu()?, arguments)?),
        Role::Beat(arguments) => print(&beat::run(gpu()?, arguments)?),
        Role::Smids(arguments) => smids::run(gpu()?, arguments),
        Role::Resident(arguments) => print(&resident::run(gpu()?, arguments)?),
        Role::Launches(arguments) => print(&launches::run(gpu()?, arguments)?),
        Role::Checksum(arguments) => print(&checksum::run(gpu()?, arguments)?),
        Role::Exact(arguments) => print(&exact::run(gpu()?, arguments)?),
        Role::Ahead(arguments) => print(&exact::ahead(gpu()?, arguments)?),
        Role::Cluster(arguments) => print(&grids::cluster(gpu()?, arguments)?),
        Role::Cooperative(arguments) => print(&grids::cooperative(gpu()?, arguments)?),
        Role::Churn(arguments) => print(&churn::run(gpu()?, arguments)?),
        Role::ExitDuringLaunch(arguments) => churn::exit_during_launch(gpu()?, arguments),
        // Some of them begin before there is a driver.
        Role::Habit(habit) => habits::run(cli.device, habit),
    }
}

/// What a role says when it is under way.
#[derive(Serialize)]
struct Running {
    running: bool,
}

/// Prints one line of JSON, and lets whoever reads it have it at once.
fn print(result: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, result)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Waits for a line on standard input; `false` at its end.
fn read_line() -> anyhow::Result<bool> {
    Ok(std::io::stdin().lock().read_line(&mut String::new())? > 0)
}
