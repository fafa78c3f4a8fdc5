// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What frameworks do around launches and a plain CUDA program does not: the habits of issue 3.
//!
//! Each role does one of them, many times, and counts blocks: whatever happens around a launch, each
//! of its blocks runs exactly once. It prints its report while everything that it still has is alive,
//! so that whoever started it can look, and ends with its standard input.

mod contexts;
mod leaving;
mod modules;
mod reopening;
mod signals;
mod streams;
mod workers;

use lithos_tests::cuda::{self, Gpu, Shape, Stream};
use serde::Serialize;

use super::work::Work;

#[derive(clap::Subcommand)]
pub(crate) enum Habit {
    /// Forks workers that never touch CUDA, before and after the first CUDA call.
    Workers(workers::Arguments),
    /// Ends the process in the middle of launches without any cleaning up, as Python's os._exit does.
    Leaving(leaving::Arguments),
    /// Signals that arrive in the middle of launches.
    Signals(signals::Arguments),
    /// Opens the driver's library again, in two ways, and closes it.
    Reopening(reopening::Arguments),
    /// Makes and destroys contexts, several at a time.
    Contexts(contexts::Arguments),
    /// Resets the primary context with launches under way, while another context launches on.
    Resets(contexts::Resets),
    /// Thousands of streams, at a time and one after the other, with a launch or two each.
    Streams(streams::Arguments),
    /// Unloads modules whose launches have just completed, and loads others in their place.
    Modules(modules::Arguments),
}

pub(crate) fn run(device: i32, habit: &Habit) -> anyhow::Result<()> {
    let gpu = || {
        cuda::initialise()?;
        Gpu::find(device)
    };
    match habit {
        // These begin before there is a driver.
        Habit::Workers(arguments) => workers::run(device, arguments),
        Habit::Reopening(arguments) => reopening::run(device, arguments),
        Habit::Leaving(arguments) => leaving::run(gpu()?, arguments),
        Habit::Signals(arguments) => signals::run(gpu()?, arguments),
        Habit::Contexts(arguments) => contexts::run(gpu()?, arguments),
        Habit::Resets(arguments) => contexts::resets(gpu()?, arguments),
        Habit::Streams(arguments) => streams::run(gpu()?, arguments),
        Habit::Modules(arguments) => modules::run(gpu()?, arguments),
    }
}

/// Blocks of a launch.
const BLOCKS: u32 = 4;

/// What was launched and what of it has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    launches: u64,
    blocks: u64,
    blocks_expected: u64,
}

impl Tally {
    /// Launches so many times into a stream, waits, and counts.
    fn launch(&mut self, work: &Work, stream: &Stream, launches: u64) -> anyhow::Result<()> {
        for _ in 0..launches {
            launch(work, stream)?;
        }
        stream.synchronize()?;
        self.count(work, launches)
    }

    /// Counts what a kernel that so often was launched, and waited for, has run since the last count.
    fn count(&mut self, work: &Work, launches: u64) -> anyhow::Result<()> {
        self.launches += launches;
        self.blocks_expected += launches * u64::from(BLOCKS);
        self.blocks += work.blocks_run()?;
        Ok(work.clear()?)
    }

    fn add(&mut self, other: &Self) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.blocks_expected += other.blocks_expected;
    }
}

fn launch(work: &Work, stream: &Stream) -> Result<(), cuda::Error> {
    work.launch(&Shape::row(BLOCKS, 32), 1, stream)
}

/// A role's report, with what it has launched.
#[derive(Serialize)]
struct Report<T: Serialize> {
    role: &'static str,
    #[serde(flatten)]
    tally: Tally,
    #[serde(flatten)]
    more: T,
}

/// Prints a report and stays until standard input ends.
fn report_and_stay(role: &'static str, tally: Tally, more: impl Serialize) -> anyhow::Result<()> {
    super::print(&Report { role, tally, more })?;
    while super::read_line()? {}
    Ok(())
}

/// Nothing more to report.
#[derive(Serialize)]
struct Nothing {}
