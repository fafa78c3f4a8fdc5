// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Contexts in loops, and primary contexts that are reset under launches.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use lithos_tests::cuda::{Gpu, Stream, is_simulated};
use serde::Serialize;

use super::super::work::Work;
use super::{Nothing, Tally};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often contexts are made and destroyed [default: 10, on simgpu 60].
    #[arg(long)]
    rounds: Option<u64>,
    /// How many of them at a time.
    #[arg(long, default_value_t = 4)]
    at_once: u64,
    /// Launches in each.
    #[arg(long, default_value_t = 8)]
    launches: u64,
}

#[derive(Serialize)]
struct Made {
    contexts: u64,
}

/// Says when the first context has launched, waits for a line, and then makes many more.
pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let rounds = arguments
        .rounds
        .unwrap_or(if is_simulated() { 60 } else { 10 });
    let primary = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let mut tally = Tally::default();
    tally.launch(&work, &stream, arguments.launches)?;
    super::super::print(&Nothing {})?;
    super::super::read_line()?;

    let mut contexts = 0;
    for round in 0..rounds {
        let mut made = Vec::new();
        for _ in 0..arguments.at_once {
            made.push(gpu.new_context()?);
            contexts += 1;
        }
        for context in &made {
            context.make_current()?;
            let work = Work::load(&gpu)?;
            tally.launch(&work, &Stream::new()?, arguments.launches)?;
        }
        // In the order in which they were made, or the other way round.
        if round % 2 == 0 {
            made.reverse();
        }
        for context in made {
            context.destroy()?;
        }
        primary.make_current()?;
    }
    tally.launch(&work, &stream, arguments.launches)?;
    super::report_and_stay("contexts", tally, Made { contexts })
}

#[derive(clap::Args)]
pub(crate) struct Resets {
    /// How often the primary context is reset [default: 10, on simgpu 30].
    #[arg(long)]
    resets: Option<u64>,
    /// Launches that are under way when it is.
    #[arg(long, default_value_t = 64)]
    launches: u64,
}

#[derive(Serialize)]
struct WereReset {
    resets: u64,
    /// Launches that were under way; nobody can count their blocks.
    under_way: u64,
}

pub(crate) fn resets(gpu: Gpu, arguments: &Resets) -> anyhow::Result<()> {
    let resets = arguments
        .resets
        .unwrap_or(if is_simulated() { 30 } else { 10 });
    let done = AtomicBool::new(false);
    let mut tally = Tally::default();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let beside = scope.spawn(|| {
            let own = gpu.new_context()?;
            let mut tally = Tally::default();
            {
                let work = Work::load(&gpu)?;
                let stream = Stream::new()?;
                while !done.load(Ordering::Relaxed) {
                    tally.launch(&work, &stream, 8)?;
                }
            }
            own.destroy()?;
            anyhow::Ok(tally)
        });
        let all_reset = (0..resets).try_for_each(|round| {
            ensure!(!beside.is_finished(), "the other context ended");
            reset_once(&gpu, arguments.launches, round % 2 == 0)
        });
        done.store(true, Ordering::Relaxed);
        tally.add(&beside.join().expect("the thread panicked")?);
        all_reset
    })?;
    let _primary = gpu.primary()?;
    let (work, stream) = (Work::load(&gpu)?, Stream::new()?);
    tally.launch(&work, &stream, arguments.launches)?;
    let under_way = resets * arguments.launches;
    super::report_and_stay("resets", tally, WereReset { resets, under_way })
}

/// Resets the primary context while it is retained, once or twice, and its launches are under way.
fn reset_once(gpu: &Gpu, launches: u64, retained_twice: bool) -> anyhow::Result<()> {
    let _context = gpu.primary()?;
    if retained_twice {
        let _same = gpu.primary()?;
    }
    let work = Work::load(gpu)?;
    let stream = Stream::new()?;
    for _ in 0..launches {
        super::launch(&work, &stream)?;
    }
    gpu.reset_primary()?;
    // The reset has destroyed what their handles mean.
    std::mem::forget((work, stream));
    for _ in 0..=u32::from(retained_twice) {
        gpu.release_primary()?;
    }
    Ok(())
}
