// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Shows what LithOS is for: a latency-critical and a best-effort program on one GPU, first alone, then
//! together without LithOS, then together in partitions. `scripts/demo` runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use lithos_device::kernel::DEFAULT_DEVICE;
use lithos_tests::plot::{self, Series};
use lithos_tests::testbed::{Hardware, Programs, Testbed};
use lithos_tests::workload::{self, Be, Lc, Pace, Pair};
use serde_json::Value;

/// Runs an LC and a BE program alone, together, and together in partitions; prints a table and draws
/// the latencies.
#[derive(Parser)]
struct Cli {
    /// Which GPU.
    #[arg(long, value_enum)]
    gpu: GpuKind,
    /// How long each case takes.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Clock of a simulated GPU [default: one that an ordinary machine can follow].
    #[arg(long)]
    clock_mhz: Option<f64>,
    /// Where the plot goes [default: nowhere].
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Which broker lithosd uses, as its configuration says it. All but `embedded` needs the machine for
    /// itself.
    #[arg(long, default_value = "embedded")]
    broker: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum GpuKind {
    Real,
    Simulated,
}

/// One line of the table.
struct Case {
    name: &'static str,
    lc: Option<Lc>,
    be: Option<Be>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lithos-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let hardware = match cli.gpu {
        GpuKind::Real => Hardware::Real,
        GpuKind::Simulated => {
            let mut simulation = workload::simulation();
            simulation.clock_mhz = cli.clock_mhz.unwrap_or(simulation.clock_mhz);
            Hardware::Simulated(simulation)
        }
    };
    let mut testbed = Testbed::new(Programs::beside_this()?, &hardware)?;
    let pair = Pair::for_hardware(&hardware, &testbed)?;
    testbed.set_broker(&cli.broker);
    println!("Starting lithosd in {}", testbed.folder().display());
    testbed.start_daemon("")?;
    let status = testbed.status()?;
    println!("{}", broker(&status));
    let gpu = &status["gpus"][0];
    let name = gpu["name"].as_str().unwrap_or("a GPU").to_owned();
    let tpcs = gpu["tpcs"].as_array().map_or(0, Vec::len);
    println!("On {name}, {tpcs} TPCs, {} SMs", 2 * tpcs);

    let cases = measure(&testbed, &pair, cli, tpcs)?;
    print_table(&cases);
    if let Some(svg) = &cli.svg {
        draw(svg, &name, &cases)?;
    }

    testbed.stop_mps()?;
    testbed.stop_daemon()?;
    if let Some(simulator) = testbed.stop_simulator()? {
        ensure!(
            simulator.status.success(),
            "the simulation did not keep up with its clock, so these times mean nothing: {}",
            simulator.stderr
        );
    }
    Ok(())
}

/// Who hands out channels, as the daemon says it.
fn broker(status: &Value) -> String {
    match status["daemon"]["broker"].as_str() {
        Some("kernel") => format!("Its broker is the kernel's: lithos.ko, by {DEFAULT_DEVICE}"),
        Some(other) => format!("Its broker is its own ({other})"),
        None => "It does not say which broker it uses".to_owned(),
    }
}

fn draw(svg: &Path, gpu: &str, cases: &[Case]) -> anyhow::Result<()> {
    let series: Vec<Series> = cases.iter().filter_map(series_of).collect();
    if let Some(folder) = svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let title = format!("Latency of requests beside a program that computes, {gpu}");
    plot::draw(svg, &title, "us", &series)?;
    println!("The plot is {}", absolute(svg).display());
    Ok(())
}

fn measure(testbed: &Testbed, pair: &Pair, cli: &Cli, tpcs: usize) -> anyhow::Result<Vec<Case>> {
    let pace = Pace {
        seconds: cli.seconds,
    };
    let half = (tpcs / 2).to_string();
    let plain = |arguments: &[&str]| testbed.unmanaged(arguments);
    let shared = |arguments: &[&str]| under_mps(testbed, testbed.unmanaged(arguments));
    let partition = |class: &'static str| {
        let half = half.clone();
        move |arguments: &[&str]| testbed.managed(&["--tpcs", &half, "--class", class], arguments)
    };

    let mut cases = Vec::new();
    let mut add = |case: Case| {
        println!("  {}: done", case.name);
        cases.push(case);
    };
    add(Case {
        name: "LC alone",
        lc: Some(pair.lc_alone(testbed, pace, plain)?),
        be: None,
    });
    add(Case {
        name: "BE alone",
        lc: None,
        be: Some(pair.be_alone(testbed, pace, plain)?),
    });
    if matches!(cli.gpu, GpuKind::Real) {
        let (lc, be) = pair.together(testbed, pace, plain, plain)?;
        add(Case {
            name: "together, no LithOS or MPS",
            lc: Some(lc),
            be: Some(be),
        });
        testbed.start_mps()?;
    }
    // The simulated GPU runs several programs at a time by itself.
    let (lc, be) = pair.together(testbed, pace, shared, shared)?;
    add(Case {
        name: "together, no LithOS",
        lc: Some(lc),
        be: Some(be),
    });
    let (lc, be) = pair.together(testbed, pace, partition("lc"), partition("be"))?;
    add(Case {
        name: "together in partitions",
        lc: Some(lc),
        be: Some(be),
    });
    Ok(cases)
}

/// A program that shares the GPU through the testbed's MPS, as it would without LithOS.
fn under_mps(testbed: &Testbed, mut command: Command) -> Command {
    command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
    command
}

fn series_of(case: &Case) -> Option<Series> {
    let lc = case.lc.as_ref()?;
    let name = match &case.be {
        Some(be) => format!("{} (BE {:.0} kernels/s)", case.name, be.kernels_per_s),
        None => case.name.to_owned(),
    };
    Some(Series {
        name,
        percentiles: lc.latency_us.percentiles.clone(),
    })
}

fn print_table(cases: &[Case]) {
    let row = |cells: [&str; 7]| {
        println!(
            "{:<28}{:>11}{:>11}{:>13}{:>8}{:>14}{:>8}",
            cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]
        );
    };
    println!();
    row([
        "",
        "LC p50 us",
        "LC p99 us",
        "requests/s",
        "LC SMs",
        "BE kernels/s",
        "BE SMs",
    ]);
    for case in cases {
        let lc = |cell: fn(&Lc) -> String| case.lc.as_ref().map_or_else(dash, cell);
        let be = |cell: fn(&Be) -> String| case.be.as_ref().map_or_else(dash, cell);
        row([
            case.name,
            &lc(|lc| format!("{:.0}", lc.p50_us)),
            &lc(|lc| format!("{:.0}", lc.p99_us)),
            &lc(|lc| format!("{:.1}", lc.requests_per_s)),
            &lc(|lc| lc.sms.to_string()),
            &be(|be| format!("{:.1}", be.kernels_per_s)),
            &be(|be| be.sms.to_string()),
        ]);
    }
    println!();
}

fn dash() -> String {
    "-".to_owned()
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path)
        .with_context(|| path.display().to_string())
        .unwrap_or_else(|_| path.to_owned())
}
