// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Loads a daemon on a simulated GPU: see `lithos_tests::load`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lithos_tests::load::{self, CONFIGURATION, Load, Until};
use lithos_tests::testbed::{Hardware, Programs, Simulation, Testbed};

/// Has tenants attach, launch and leave in random order, and checks that the daemon holds nothing of it.
#[derive(Parser)]
struct Cli {
    /// Tenants at a time.
    #[arg(long, default_value_t = 200)]
    tenants: usize,
    /// How many of them are processes with the shim; the others are clients of the broker alone.
    #[arg(long, default_value_t = 8)]
    processes: usize,
    /// How long, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Where chance begins [default: another one each time].
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let seed = cli.seed.unwrap_or_else(|| std::process::id().into());
    println!("seed {seed}");
    // Many processes on few CPUs: the simulation may lag.
    let hardware = Hardware::Simulated(Simulation {
        gpus: 1,
        tpcs: 16,
        clock_mhz: 1.0,
        tolerance_ms: 600_000,
        mps_death_ms: None,
    });
    let mut testbed = Testbed::new(Programs::beside_this()?, &hardware)?;
    testbed.start_daemon(CONFIGURATION)?;
    let report = load::run(
        &mut testbed,
        &Load {
            tenants: cli.tenants,
            processes: cli.processes,
            seed,
            until: Until::Elapsed(Duration::from_secs(cli.seconds)),
        },
    )?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
