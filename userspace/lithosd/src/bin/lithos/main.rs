// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command `lithos`.

mod admission;
mod client;
mod doctor;
mod mps;
mod run;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lithos_policy::{Hand, Oversize};
use lithosd::config::{DEFAULT_RUNTIME_DIRECTORY, control_socket};
use lithosd::control::{Reply, Request};
use lithosd::partition::{Ceiling, ClassWord, Gpus, PartitionChange, PartitionEntry};
use serde::Serialize;

use crate::client::Client;

/// Runs CUDA programs in partitions of a GPU's TPCs, and looks after the partitions.
///
/// A partition is a named share of each of its GPUs: TPCs (pairs of SMs) that it can always have, its
/// guarantee, and perhaps more while nobody else wants them. A program that is started with
/// `lithos run` is a tenant of one partition, and runs on its TPCs and no others; the program itself is
/// not changed. Partitions outlive their tenants and can be changed while these run.
///
/// Everybody may run programs in partitions that exist, and look at everything. Creating, setting and
/// deleting partitions, `run --tpcs`, and changes of admission need root or membership of the group that the daemon's
/// configuration names (lithos).
///
/// Exit status: 0 if it worked, 1 if not, 2 if the command line is wrong; of `lithos run`: the
/// program's own, 127 if there is no such program, 126 if it cannot be executed, 125 if LithOS could
/// not run it.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
struct Cli {
    /// Where lithosd answers. Default: lithos.sock in the directory that LITHOS_RUNTIME_DIRECTORY
    /// names, or in /run/lithos.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Run(run::Run),
    /// Create, change, list and delete partitions.
    #[command(subcommand)]
    Partition(Partition),
    /// Stop the chains of a partition's launches at their next atoms, until it is released.
    ///
    /// Its launches go nowhere meanwhile, and programs of it that wait for the GPU wait. Launches that are
    /// not split into atoms run on.
    Hold(Order),
    /// Have the chains of a partition's launches go on by few TPCs, two if atoms stay short, until it is
    /// released.
    Squeeze(Order),
    /// End a hold, or a squeeze.
    Release(Order),
    /// Show partitions, tenants, channels, TPCs in transit, and what the broker cannot promise.
    Status(Output),
    Doctor(doctor::Doctor),
    /// Start, stop and look at MPS, which lets processes run on a GPU at the same time.
    ///
    /// MPS is a process of NVIDIA's that all tenants of a real GPU go through. It is started apart from
    /// lithosd and outlives it, because programs end when it does. `lithos run` starts it where that is
    /// needed and allowed by the configuration (mps.enable). MPS serves one user at a time: programs of
    /// another user wait until those of the first have ended.
    #[command(subcommand)]
    Mps(Mps),
    #[command(subcommand)]
    Admission(admission::Admission),
}

#[derive(Debug, Subcommand)]
enum Partition {
    /// Create a partition. It is kept over restarts of the daemon.
    Create(Create),
    /// Change a partition. What is not named stays; the change is in force at the next launch.
    Set(Set),
    /// Delete a partition that has no tenants. It stays deleted over restarts.
    Delete {
        /// The partition.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the partitions.
    List(Output),
}

#[derive(Debug, Args)]
struct Order {
    /// The partition.
    partition: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Create {
    /// The partition: letters, digits, '.', '_' and '-'.
    name: String,
    /// lc (latency-critical, served first) or be (best-effort).
    #[arg(long)]
    class: ClassWord,
    /// TPCs that it can always have, on each of its GPUs. With 0 it lives from what no guarantee
    /// reserves.
    #[arg(long, value_name = "TPCS", default_value_t = 0)]
    guarantee: u32,
    /// TPCs that it may have at most. Default: the guarantee, or no limit if that is 0.
    #[arg(long, value_name = "TPCS|none")]
    ceiling: Option<Ceiling>,
    /// Its place within its class; larger is served first.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// How much it gets of what equals divide, as against them: of TPCs that no guarantee reserves, and of those that
    /// are lent [default: 1].
    #[arg(long)]
    weight: Option<u32>,
    /// How long an atom of a launch that is split may be, in microseconds: what is held stops within that
    /// time, if its blocks are shorter. 0: none is split. Default: 0 for lc.
    #[arg(long, value_name = "US")]
    atom_us: Option<u32>,
    /// Let it use TPCs of other partitions, too, while nobody there is active: best effort those of
    /// latency-critical ones, and either those that are guaranteed to its like. Its launches have to be split.
    #[arg(long)]
    borrow: bool,
    /// The part of each second, in percent, in which it is not held up for latency-critical partitions, even if
    /// these are never idle [default: 1].
    #[arg(long, value_name = "PERCENT")]
    min_share: Option<u32>,
    /// How much predicted work of launches that are not split it may have under way if it borrows, in
    /// microseconds; launch calls wait for that [default: 200].
    #[arg(long, value_name = "US")]
    bound_us: Option<u32>,
    /// What becomes of a launch that needs more co-resident blocks than its TPCs hold: widen (it runs
    /// on the smallest set that holds it, and is counted) or refuse (it fails).
    #[arg(long, value_parser = parse_oversize, default_value = "widen", value_name = "widen|refuse")]
    oversize: Oversize,
    /// Do not let a process run that cannot be managed.
    #[arg(long)]
    enforce: bool,
    /// Tell its programs that a GPU has as many SMs as it is guaranteed, so that they size their grids by that; those that
    /// are started from now on.
    #[arg(long)]
    report_sms: bool,
    /// Its GPUs by index or UUID, with commas between, or all.
    #[arg(long, default_value = "all")]
    gpus: Gpus,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Set {
    /// The partition.
    name: String,
    /// lc (latency-critical) or be (best-effort).
    #[arg(long)]
    class: Option<ClassWord>,
    /// TPCs that it can always have, on each of its GPUs.
    #[arg(long, value_name = "TPCS")]
    guarantee: Option<u32>,
    /// TPCs that it may have at most; none: the guarantee, or no limit if that is 0.
    #[arg(long, value_name = "TPCS|none")]
    ceiling: Option<Ceiling>,
    /// Its place within its class; larger is served first.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How much it gets of what equals divide, as against them.
    #[arg(long)]
    weight: Option<u32>,
    /// How long an atom of a launch that is split may be, in microseconds: what is held stops within that
    /// time, if its blocks are shorter. 0: none is split.
    #[arg(long, value_name = "US")]
    atom_us: Option<u32>,
    /// Whether it may use TPCs of other partitions while nobody there is active.
    #[arg(long, value_name = "true|false")]
    borrow: Option<bool>,
    /// The part of each second, in percent, in which it is not held up for latency-critical partitions.
    #[arg(long, value_name = "PERCENT")]
    min_share: Option<u32>,
    /// How much predicted work of launches that are not split it may have under way if it borrows, in
    /// microseconds.
    #[arg(long, value_name = "US")]
    bound_us: Option<u32>,
    /// What becomes of oversize launches of contexts that are made from now on.
    #[arg(long, value_parser = parse_oversize, value_name = "widen|refuse")]
    oversize: Option<Oversize>,
    /// Whether a process that cannot be managed must not run.
    #[arg(long, value_name = "true|false")]
    enforce: Option<bool>,
    /// Whether its programs are told that a GPU has as many SMs as it is guaranteed; those that are started from now on.
    #[arg(long, value_name = "true|false")]
    report_sms: Option<bool>,
    /// Its GPUs by index or UUID, with commas between, or all.
    #[arg(long)]
    gpus: Option<Gpus>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Mps {
    /// Start MPS, if it does not run.
    Start(Output),
    /// Stop MPS, if it runs, when its clients have ended.
    Stop(Output),
    /// Say whether MPS runs.
    Status(Output),
}

#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// Print JSON, for machines.
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Prints a value for machines, or a text for people.
    fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json {
            let mut json = serde_json::to_string_pretty(value)?;
            json.push('\n');
            json
        } else {
            text()
        };
        // Whoever reads may have seen enough.
        match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let Cli { socket, task } = Cli::parse();
    let socket = socket.unwrap_or_else(default_socket);
    let outcome = match task {
        Task::Run(run) => return run.exec(&socket),
        Task::Doctor(doctor) => doctor.perform(&socket),
        Task::Partition(partition) => partition.perform(&socket).map(|()| ExitCode::SUCCESS),
        Task::Hold(order) => order.give(Hand::Held, &socket).map(|()| ExitCode::SUCCESS),
        Task::Squeeze(order) => order
            .give(Hand::Squeezed, &socket)
            .map(|()| ExitCode::SUCCESS),
        Task::Release(order) => order
            .give(Hand::Released, &socket)
            .map(|()| ExitCode::SUCCESS),
        Task::Status(output) => status(&socket, output).map(|()| ExitCode::SUCCESS),
        Task::Admission(admission) => admission.perform(&socket).map(|()| ExitCode::SUCCESS),
        Task::Mps(mps) => mps.perform(&socket).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lithos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn default_socket() -> PathBuf {
    let directory = std::env::var_os("LITHOS_RUNTIME_DIRECTORY").filter(|name| !name.is_empty());
    let directory = directory.unwrap_or_else(|| DEFAULT_RUNTIME_DIRECTORY.into());
    control_socket(Path::new(&directory))
}

fn status(socket: &Path, output: Output) -> anyhow::Result<()> {
    match Client::connect(socket)?.ask(&Request::Status)? {
        Reply::Status(status) => output.print(&status, || show::status(&status)),
        other => Err(client::unexpected(&other)),
    }
}

impl Order {
    fn give(self, hand: Hand, socket: &Path) -> anyhow::Result<()> {
        let partition = self.partition;
        match Client::connect(socket)?.ask(&Request::Order { partition, hand })? {
            Reply::Partition(partition) => {
                let list = [partition];
                self.output.print(&list[0], || show::partitions(&list))
            }
            other => Err(client::unexpected(&other)),
        }
    }
}

impl Partition {
    fn perform(self, socket: &Path) -> anyhow::Result<()> {
        let mut client = Client::connect(socket)?;
        let (request, output) = match self {
            Self::Create(create) => {
                let output = create.output;
                let partition = create.entry();
                (Request::PartitionCreate { partition }, output)
            }
            Self::Set(set) => {
                let (name, change, output) = set.change()?;
                (Request::PartitionSet { name, change }, output)
            }
            Self::Delete { name, output } => (Request::PartitionDelete { name }, output),
            Self::List(output) => (Request::PartitionList, output),
        };
        let deleted = matches!(request, Request::PartitionDelete { .. });
        match client.ask(&request)? {
            Reply::Partitions(list) => output.print(&list, || show::partitions(&list)),
            // Nothing is to be shown of what is no more.
            Reply::Partition(partition) if deleted && output.json => {
                output.print(&partition, String::new)
            }
            Reply::Partition(_) if deleted => Ok(()),
            Reply::Partition(partition) => {
                let list = [partition];
                output.print(&list[0], || show::partitions(&list))
            }
            other => Err(client::unexpected(&other)),
        }
    }
}

impl Create {
    fn entry(self) -> PartitionEntry {
        let without = PartitionEntry {
            priority: self.priority,
            atom_us: self.atom_us,
            borrow: self.borrow,
            oversize: self.oversize,
            enforce: self.enforce,
            report_sms: self.report_sms,
            ..PartitionEntry::new(&self.name, self.class, self.guarantee)
        };
        without.changed(&PartitionChange {
            ceiling: self.ceiling,
            weight: self.weight,
            min_share: self.min_share,
            bound_us: self.bound_us,
            gpus: Some(self.gpus),
            ..PartitionChange::default()
        })
    }
}

impl Set {
    fn change(self) -> anyhow::Result<(String, PartitionChange, Output)> {
        let change = PartitionChange {
            class: self.class,
            guarantee: self.guarantee,
            ceiling: self.ceiling,
            priority: self.priority,
            weight: self.weight,
            atom_us: self.atom_us,
            borrow: self.borrow,
            min_share: self.min_share,
            bound_us: self.bound_us,
            oversize: self.oversize,
            enforce: self.enforce,
            report_sms: self.report_sms,
            gpus: self.gpus,
        };
        if change == PartitionChange::default() {
            anyhow::bail!("nothing to set; name at least one option, as in --guarantee 8");
        }
        Ok((self.name, change, self.output))
    }
}

impl Mps {
    fn perform(&self, socket: &Path) -> anyhow::Result<()> {
        let mps = mps::Mps::find(socket);
        let output = match self {
            Self::Start(output) => {
                mps.start()?;
                if let Err(error) = admission::admit_mps(socket, &mps) {
                    eprintln!("lithos: MPS may be refused GPU channels: {error:#}");
                }
                *output
            }
            Self::Stop(output) => {
                mps.stop()?;
                *output
            }
            Self::Status(output) => *output,
        };
        let state = mps.state();
        output.print(&state, || show::mps(&state))
    }
}

fn parse_oversize(text: &str) -> Result<Oversize, String> {
    match text {
        "widen" => Ok(Oversize::Widen),
        "refuse" => Ok(Oversize::Refuse),
        _ => Err("an oversize launch can be handled by widen or refuse".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn options_become_a_partition() {
        let line = "lithos partition create chat --class lc --guarantee 4 --ceiling 8 \
                    --priority -2 --oversize refuse --enforce --gpus 0,1";
        let Task::Partition(Partition::Create(create)) = parse(line).unwrap().task else {
            panic!("not a creation");
        };
        let entry = create.entry();
        assert_eq!(
            (entry.guarantee, entry.ceiling, entry.priority),
            (4, Some(8), -2)
        );
        assert!(entry.enforce && entry.oversize == Oversize::Refuse);
        assert_eq!(entry.gpus.map(|gpus| gpus.len()), Some(2));
        assert!(parse("lithos partition create chat").is_err());
    }

    #[test]
    fn a_change_of_nothing_is_refused() {
        let Task::Partition(Partition::Set(set)) = parse("lithos partition set a").unwrap().task
        else {
            panic!("not a change");
        };
        let error = set.change().unwrap_err().to_string();
        assert!(error.contains("--guarantee"), "{error}");
    }
}
