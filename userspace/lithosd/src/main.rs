// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The program `lithosd`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use lithosd::admission::admit_this_process;
use lithosd::board::Board;
use lithosd::config::{Config, DEFAULT_PATH};
use lithosd::daemon::{self, TakeOver};
use lithosd::gpu::Machine;
use lithosd::{discover, log, selftest};
use tracing_subscriber::EnvFilter;

/// Shares GPUs between processes in partitions of TPCs.
///
/// Tenants, which are CUDA programs started with `lithos run`, connect to broker.sock in the runtime
/// directory; the command `lithos` connects to lithos.sock there. One daemon serves one runtime
/// directory. When it ends, however it does, tenants keep the TPCs that their partitions guarantee; the
/// next one takes them over.
///
/// It logs to standard error, a line each. SIGTERM and SIGINT end it.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The configuration. The default path may be missing; then everything has its default.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,

    /// Only say whether the configuration is right.
    #[arg(long)]
    check_config: bool,

    /// If another lithosd holds the runtime directory and does not answer, kill it and go on in its place.
    /// Tenants are taken over, as after any restart.
    #[arg(long)]
    take_over: bool,

    /// With --take-over: do not kill it, as if that could not be done.
    #[arg(long, hide = true, requires = "take_over")]
    spare: bool,

    /// Do not ask NVML for GPUs, but make them up from the topologies in the state directory.
    #[arg(long, hide = true)]
    without_driver: bool,

    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find out what the bits of a GPU's TPC masks mean, and print it as JSON.
    #[command(hide = true)]
    Discover {
        /// The GPU's UUID, `GPU-...`.
        #[arg(long)]
        gpu: String,
    },
    /// Show that LithOS's edits of launches do what they should on a GPU, and print the build id of the
    /// driver's library as JSON.
    #[command(hide = true)]
    SelfTest {
        /// The GPU's UUID, `GPU-...`.
        #[arg(long)]
        gpu: String,
        /// Where the GPU's topology is.
        #[arg(long)]
        state_directory: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lithosd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.task.is_some() {
        admit_this_process().context("this process is not admitted to GPUs")?;
    }
    match &cli.task {
        Some(Task::Discover { gpu }) => {
            println!("{}", serde_json::to_string(&discover::run(gpu)?)?);
            return Ok(());
        }
        Some(Task::SelfTest {
            gpu,
            state_directory,
        }) => {
            let board = Board::load(state_directory, gpu)?.context("its topology is not known")?;
            println!("{}", serde_json::to_string(&selftest::run(&board)?)?);
            return Ok(());
        }
        None => {}
    }
    let config = load(&cli.config)?;
    if cli.check_config {
        let partitions = config.partitions.len();
        println!("{}: right; {partitions} partitions", cli.config.display());
        return Ok(());
    }
    let filter = EnvFilter::try_new(&config.log).context("the log filter is wrong")?;
    log::start(filter);
    let machine = if cli.without_driver {
        let boards = Machine::of_boards(&config.state_directory);
        Some(boards.context("there are no topologies in the state directory")?)
    } else {
        None
    };
    let take_over = match (cli.take_over, cli.spare) {
        (false, _) => TakeOver::Never,
        (true, false) => TakeOver::FromDead,
        (true, true) => TakeOver::SpareIt,
    };
    daemon::run(config, machine, take_over)
}

fn load(path: &Path) -> anyhow::Result<Config> {
    if path == Path::new(DEFAULT_PATH) && !path.exists() {
        return Ok(Config::default());
    }
    let config = Config::load(path);
    config.with_context(|| format!("the configuration {} is wrong", path.display()))
}
