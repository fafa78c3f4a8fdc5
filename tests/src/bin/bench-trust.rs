// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures what makes LithOS one that people can rely on, and writes it down: `results/<where>/trust.json`.
//! `scripts/bench` runs it on the simulated GPU, `scripts/gpu bench trust` on a real one.
//!
//! The figures are the daemon's own, and hardly depend on the GPU: tenants are clients of the broker
//! alone ([`lithos_tests::client`]), so that 200 of them fit beside each other. Conformance is what the
//! program `conformance` says; fuzzing is what `scripts/fuzz` left.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use lithos_tests::client::{Client, Place};
use lithos_tests::figures::{self, Figure, Results, Target, Value, to_f64};
use lithos_tests::footprint::{Footprint, read_cpu_time};
use lithos_tests::load;
use lithos_tests::restart::{self, Restart};
use lithos_tests::testbed::{Hardware, Process, Programs, Simulation, Testbed};

/// Measures the figures of trust and writes RESULTS/<GPU>/trust.json.
#[derive(Parser)]
struct Cli {
    /// Which GPU.
    #[arg(long, value_enum, default_value = "real")]
    gpu: GpuKind,
    /// The folder of results.
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// The revision that is measured [default: what git says].
    #[arg(long)]
    commit: Option<String>,
    /// The program of the conformance suite [default: `conformance` beside this one].
    #[arg(long)]
    conformance: Option<PathBuf>,
    /// What scripts/fuzz wrote; without it nothing is said about fuzzing.
    #[arg(long)]
    fuzz: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GpuKind {
    Real,
    Simulated,
}

const TENANTS: usize = 200;
/// Launches of each tenant before the daemon's memory is looked at.
const LAUNCHES: u32 = 500;
/// How long the daemon is watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How long the conformance suite may take.
const CONFORMANCE: Duration = Duration::from_secs(1800);

/// What was measured; none of what failed.
#[derive(Default)]
struct Measured {
    attach_p99_ms: Option<f64>,
    memory_mb: Option<f64>,
    idle_percent: Option<f64>,
    restart: Option<Restart>,
    conformance: Option<Value>,
    executions: Option<f64>,
    crashes: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-trust: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every figure was measured and met.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let hardware = match cli.gpu {
        GpuKind::Real => Hardware::Real,
        GpuKind::Simulated => Hardware::Simulated(Simulation::of_tpcs(16)),
    };
    let programs = Programs::beside_this()?;
    let commit = cli.commit.clone().unwrap_or_else(figures::commit);
    let mut measured = Measured::default();

    let mut testbed = Testbed::new(programs.clone(), &hardware)?;
    testbed.start_daemon(load::CONFIGURATION)?;
    let device = figures::device_name(&testbed)?;
    println!("attaches, memory, idleness ...");
    note(daemon(&mut testbed, &mut measured), "the daemon");
    testbed.stop_daemon()?;
    drop(testbed);

    println!("restarts ...");
    let mut testbed = Testbed::new(programs.clone(), &hardware)?;
    testbed.start_daemon(&restart::configuration())?;
    measured.restart = note(restart::measure(&mut testbed), "restarts");
    drop(testbed);

    println!("conformance ...");
    let program = cli.conformance.clone();
    let program = program.unwrap_or_else(|| programs.path("conformance"));
    measured.conformance = note(conformance(&program, &hardware), "conformance");
    if let Some(path) = &cli.fuzz
        && let Some((executions, crashes)) = note(fuzzing(path, &commit), "fuzzing")
    {
        measured.executions = Some(executions);
        measured.crashes = Some(crashes);
    }

    let results = Results {
        device,
        driver: figures::driver_version(&hardware),
        commit,
        figures: measured.figures(cli.gpu),
    };
    results.print(|_| true);
    results.write(&cli.results, "trust")?;
    Ok(results.figures.iter().all(|figure| figure.met))
}

/// What was measured, or says why it was not.
fn note<T>(outcome: anyhow::Result<T>, what: &str) -> Option<T> {
    outcome
        .inspect_err(|error| eprintln!("{what}: {error:#}"))
        .ok()
}

/// The daemon's figures, of one crowd of tenants.
fn daemon(testbed: &mut Testbed, measured: &mut Measured) -> anyhow::Result<()> {
    let pid = testbed.daemon().context("no daemon was started")?.pid();
    let place = Place::of(testbed)?;
    // The first one finds what the others find kept, the verdict of the self-test above all.
    Client::attach(&place, "a")?.open_channel(&place)?;

    // From the first system call to a channel with a grant. One at a time: a process that is tenant 200
    // times looks for room for its arenas among those of all others, which no real one does.
    let partitions = ["a", "b", "pool"].into_iter().cycle().take(TENANTS);
    let mut durations_ms = Vec::new();
    for partition in partitions.clone() {
        let begin = Instant::now();
        let mut client = Client::attach(&place, partition)?;
        client.open_channel(&place)?;
        durations_ms.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    durations_ms.sort_by(f64::total_cmp);
    measured.attach_p99_ms = durations_ms.get(TENANTS * 99 / 100).copied();

    let mut tenants = Vec::new();
    for partition in partitions {
        let mut client = Client::attach(&place, partition)?;
        client.open_channel(&place)?;
        tenants.push(client);
    }
    for client in &mut tenants {
        client.launch(LAUNCHES)?;
        client.complete()?;
    }
    testbed.status_until("all launches of all tenants", |status| {
        let channels = status["channels"].as_array()?;
        let has_all = |channel: &serde_json::Value| channel["totals"]["completed"] == LAUNCHES;
        channels.iter().all(has_all).then_some(())
    })?;
    let memory_kb = Footprint::read(pid)?.memory_kb;
    measured.memory_mb = Some(to_f64(memory_kb) / 1024.0);

    drop(tenants);
    testbed.status_until("end of all tenants", |status| {
        (status["tenants"] == serde_json::json!([])).then_some(())
    })?;
    let (begin, used) = (Instant::now(), read_cpu_time(pid)?);
    sleep(IDLE);
    let used = read_cpu_time(pid)?.saturating_sub(used);
    measured.idle_percent = Some(100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64());
    Ok(())
}

/// How many statements of the conformance suite hold, of how many.
fn conformance(program: &Path, hardware: &Hardware) -> anyhow::Result<Value> {
    let program = program
        .canonicalize()
        .with_context(|| program.display().to_string())?;
    let mut command = Command::new(program);
    if matches!(hardware, Hardware::Real) {
        command
            .env("LITHOS_TEST_GPU", "real")
            .arg("--test-threads=1");
    }
    let outcome = Process::start("conformance", &mut command)?.finish(CONFORMANCE)?;
    let line = outcome
        .lines
        .iter()
        .rev()
        .find(|line| line.starts_with("test result: "));
    let line = line.with_context(|| format!("no result: {}", outcome.stderr))?;
    let count = |what: &str| -> anyhow::Result<u64> {
        let mut words = line
            .split([' ', ';', '.'])
            .collect::<Vec<_>>()
            .into_iter()
            .rev();
        words.find(|word| *word == what).context("no such count")?;
        Ok(words.next().context("no number")?.parse()?)
    };
    let (passed, failed) = (count("passed")?, count("failed")?);
    Ok(Value {
        value: to_f64(passed),
        of: to_f64(passed + failed),
    })
}

/// Executions and crashes of all targets, if they were of this revision.
fn fuzzing(path: &Path, commit: &str) -> anyhow::Result<(f64, f64)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let written: serde_json::Value = serde_json::from_str(&text)?;
    let of = written["commit"].as_str().unwrap_or_default();
    ensure!(commit.starts_with(of), "{} is about {of}", path.display());
    let targets = written["targets"].as_array().context("no targets")?;
    let sum = |key: &str| {
        targets
            .iter()
            .filter_map(|target| target[key].as_u64())
            .sum()
    };
    Ok((to_f64(sum("executions")), to_f64(sum("crashes"))))
}

impl Measured {
    /// A figure per promise.
    fn figures(&self, gpu: GpuKind) -> Vec<Figure> {
        let command = match gpu {
            GpuKind::Real => "scripts/gpu bench trust",
            GpuKind::Simulated => "scripts/bench",
        };
        let figure = |figure, unit, target, value| {
            Figure::new(figure, unit, target, command.to_owned(), value)
        };
        vec![
            figure(
                "attach of a tenant to its first grant, p99 of 200, self-test cached",
                "ms",
                Target::Below(5.0),
                self.attach_p99_ms.map(Value::from),
            ),
            figure(
                "memory of the daemon (RssAnon) with 200 tenants",
                "MB",
                Target::Below(30.0),
                self.memory_mb.map(Value::from),
            ),
            figure(
                "CPU of the daemon without tenants",
                "%",
                Target::Below(1.0),
                self.idle_percent.map(Value::from),
            ),
            figure(
                "kill -9 of the daemon under 16 programs to fail-static launches of all, worst of 5",
                "ms",
                Target::Below(100.0),
                self.restart.map(|it| it.fail_static_ms.into()),
            ),
            figure(
                "start of the next daemon to launches of all 16 that it granted, worst of 5",
                "ms",
                Target::Below(1000.0),
                self.restart.map(|it| it.taken_over_ms.into()),
            ),
            figure(
                "statements of the conformance suite that hold",
                "statements",
                Target::All,
                self.conformance,
            ),
            figure(
                "executions of the fuzz targets",
                "executions",
                Target::AtLeast(1.0),
                self.executions.map(Value::from),
            ),
            figure(
                "crashes of the fuzz targets",
                "crashes",
                Target::Exactly(0.0),
                self.crashes.map(Value::from),
            ),
        ]
    }
}
