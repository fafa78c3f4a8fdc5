// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Load: tenants that attach, launch and leave in random order, many at a time.
//!
//! The idea: some are processes with the shim on the GPU (`tenant launches`); a machine has no room for
//! hundreds of those, so the others are the broker's clients alone ([`crate::client`]), all in this
//! process. All do as chance says; the seed is printed, and gives the clients the same order again.
//! When all have left, the daemon must hold what it held before, and serve on.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::client::{Client, Place};
use crate::footprint::Footprint;
use crate::testbed::{PATIENCE, Process, Testbed, until};

/// What the daemon is to be configured with.
pub const CONFIGURATION: &str = r#"
[limits]
tenants = 256
[channel]
ring_records = 1024
[mps]
enable = "off"
[[partition]]
name = "a"
class = "lc"
guarantee = 3
[[partition]]
name = "b"
class = "be"
guarantee = 2
[[partition]]
name = "pool"
class = "be"
"#;

const PARTITIONS: [&str; 3] = ["a", "b", "pool"];
/// Channels of one client at a time.
const CHANNELS_MAX: usize = 2;
/// What an allocator may keep of a load for the next.
const SLACK_KB: u64 = 2 * 1024;

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Tenants at a time.
    pub tenants: usize,
    /// How many of them are processes with the shim.
    pub processes: usize,
    /// Where chance begins.
    pub seed: u64,
    /// When it ends.
    pub until: Until,
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many steps.
    Steps(u64),
    /// After so long.
    Elapsed(Duration),
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub steps: u64,
    /// Clients that attached, and launches that they recorded.
    pub attached: u64,
    pub launches: u64,
    /// Processes that ended by themselves, and those that were killed.
    pub ended: u64,
    pub killed: u64,
    /// Changes of a partition in between.
    pub changes: u64,
    /// The most memory that the daemon was seen to have.
    pub memory_kb_max: u64,
}

/// Numbers that look random: xorshift64 (Marsaglia).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(usize::MAX) % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn partition(&mut self) -> &'static str {
        PARTITIONS[self.below(PARTITIONS.len())]
    }
}

/// Everybody at a time.
struct Crowd<'a> {
    bed: &'a Testbed,
    place: Place,
    chance: Chance,
    clients: Vec<Option<Client>>,
    processes: Vec<Option<Process>>,
    report: Report,
}

/// Loads a daemon that was started with [`CONFIGURATION`], and checks that it holds nothing of it.
pub fn run(bed: &mut Testbed, load: &Load) -> anyhow::Result<Report> {
    let pid = bed.daemon().context("no daemon was started")?.pid();
    let clients = load.tenants.saturating_sub(load.processes);
    let mut crowd = Crowd {
        bed,
        place: Place::of(bed)?,
        // 0 would stay 0.
        chance: Chance(load.seed.max(1)),
        clients: (0..clients).map(|_| None).collect(),
        processes: (0..load.processes).map(|_| None).collect(),
        report: Report {
            seed: load.seed,
            ..Report::default()
        },
    };
    // Everybody comes and goes once, so that what is kept for the next crowd is there.
    crowd.fill()?;
    crowd.leave()?;
    let before = Footprint::read(pid)?;
    crowd.fill()?;
    let begin = Instant::now();
    let goes_on = |steps| match load.until {
        Until::Steps(most) => steps < most,
        Until::Elapsed(most) => begin.elapsed() < most,
    };
    while goes_on(crowd.report.steps) {
        crowd
            .step()
            .with_context(|| format!("step {} of seed {}", crowd.report.steps, load.seed))?;
        if crowd.report.steps.is_multiple_of(256) {
            let now = Footprint::read(pid)?;
            crowd.report.memory_kb_max = crowd.report.memory_kb_max.max(now.memory_kb);
        }
    }
    crowd.leave()?;
    let mut after = before;
    until("return to what the daemon held before", PATIENCE, || {
        after = Footprint::read(pid)?;
        Ok(after.is_within(&before, SLACK_KB).then_some(()))
    })
    .with_context(|| format!("{before:?} before, {after:?} after, seed {}", load.seed))?;
    crowd.is_served()?;
    Ok(crowd.report)
}

impl Crowd<'_> {
    /// Fills every place.
    fn fill(&mut self) -> anyhow::Result<()> {
        for index in 0..self.clients.len() {
            self.enter(index)?;
        }
        for index in 0..self.processes.len() {
            self.start(index)?;
        }
        Ok(())
    }

    /// Does one thing at a place that chance picks.
    fn step(&mut self) -> anyhow::Result<()> {
        self.report.steps += 1;
        if self.chance.one_in(200) {
            self.change()?;
        }
        let index = self.chance.below(self.clients.len() + self.processes.len());
        match index.checked_sub(self.clients.len()) {
            None => self.step_client(index),
            Some(index) => self.step_process(index),
        }
    }

    fn step_client(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(client) = &mut self.clients[index] else {
            return self.enter(index);
        };
        match self.chance.below(10) {
            0..=4 => {
                let count = u32::try_from(self.chance.below(32))?;
                self.report.launches += client.launch(count)?;
            }
            5..=6 => client.complete()?,
            7 if client.channels() < CHANNELS_MAX => client.open_channel(&self.place)?,
            7 => client.close_channel()?,
            // It leaves as it is, mostly with launches under way.
            _ => self.clients[index] = None,
        }
        Ok(())
    }

    fn enter(&mut self, index: usize) -> anyhow::Result<()> {
        let partition = self.chance.partition();
        // Somebody who has left may not have been noticed yet.
        let client = until("place for a tenant", PATIENCE, || {
            Ok(Client::attach(&self.place, partition).ok())
        });
        let mut client = client?;
        client.open_channel(&self.place)?;
        self.clients[index] = Some(client);
        self.report.attached += 1;
        Ok(())
    }

    fn step_process(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(process) = &mut self.processes[index] else {
            return self.start(index);
        };
        if process.has_ended()? {
            let ended = self.processes[index].take().context("a process")?;
            let outcome = ended.finish(PATIENCE)?;
            ensure!(
                outcome.status.success(),
                "{}: {}",
                outcome.status,
                outcome.stderr
            );
            self.report.ended += 1;
        } else if self.chance.one_in(5) {
            process.signal(Signal::SIGKILL)?;
            self.processes[index] = None;
            self.report.killed += 1;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let count = (20 + self.chance.below(200)).to_string();
        let partition = self.chance.partition();
        let mut command = self.bed.managed(
            &["--partition", partition],
            &["launches", "--warm-up", "1", "--count", &count],
        );
        let process = Process::start(&format!("tenant of {partition}"), &mut command)?;
        self.processes[index] = Some(process);
        Ok(())
    }

    /// Changes a partition; the TPCs pass on when their launches have completed.
    fn change(&mut self) -> anyhow::Result<()> {
        let guarantee = (1 + self.chance.below(3)).to_string();
        let arguments = ["partition", "set", "b", "--guarantee", &guarantee];
        let outcome = self.bed.outcome(self.bed.lithos(&arguments))?;
        ensure!(outcome.status.success(), "lithos: {}", outcome.stderr);
        self.report.changes += 1;
        Ok(())
    }

    /// Everybody leaves, and the daemon has noticed.
    fn leave(&mut self) -> anyhow::Result<()> {
        self.clients.fill_with(|| None);
        for process in &mut self.processes {
            if let Some(process) = process.take() {
                let outcome = process.finish(PATIENCE)?;
                ensure!(
                    outcome.status.success(),
                    "{}: {}",
                    outcome.status,
                    outcome.stderr
                );
                self.report.ended += 1;
            }
        }
        let is_empty = |status: &serde_json::Value, key: &str| status[key] == serde_json::json!([]);
        self.bed.status_until("end of all tenants", |status| {
            let lists = ["tenants", "channels", "transit"];
            lists.iter().all(|key| is_empty(status, key)).then_some(())
        })
    }

    /// Checks that the daemon serves on: a process of each partition runs to its end.
    fn is_served(&self) -> anyhow::Result<()> {
        let status = self.bed.status()?;
        ensure!(status["problems"] == serde_json::json!([]), "{status}");
        for partition in PARTITIONS {
            let report = self.bed.json(self.bed.managed(
                &["--partition", partition],
                &["launches", "--warm-up", "1", "--count", "10"],
            ))?;
            ensure!(report["launches"] == 10, "{partition}: {report}");
        }
        Ok(())
    }
}
