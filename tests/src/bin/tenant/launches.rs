// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the launch of a kernel costs the host: an empty one, or one that takes its time.
//!
//! Launches come in batches short enough that the GPU's queue never fills up: a launch that waits for
//! the queue says nothing about the launch. Waiting spins, so that launches make no system calls
//! beyond those that the driver itself needs.
//!
//! Two processes that are to be compared take turns (`--turn`): then whatever else the machine does
//! hits both alike.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use anyhow::ensure;

use lithos_tests::cuda::{Gpu, Module, Shape, Stream, source};
use lithos_tests::latency::Distribution;
use serde::Serialize;

use super::work::{Size, Work};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Launches that are measured.
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Launches before those.
    #[arg(long, default_value_t = 1000)]
    warm_up: u32,
    /// Launches between two waits.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    #[command(flatten)]
    size: Size,
    /// Launches of a turn, each of which waits for a line of input and answers with one of output
    /// [default: all of them, at once].
    #[arg(long)]
    turn: Option<u32>,
}

/// Launches at the beginning of a turn that are not measured: another process has been here.
const SETTLE: u32 = 16;

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    launches: u32,
    p50_ns: f64,
    p99_ns: f64,
    max_ns: f64,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    gpu.spin_when_waiting()?;
    let _context = gpu.primary()?;
    let module = Module::load(source::EMPTY)?;
    let empty = module.kernel(c"empty")?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let size = &arguments.size;
    let takes_time = size.iterations.is_some();
    let shape = match takes_time {
        true => size.shape(&gpu)?,
        false => Shape::row(1, 32),
    };
    let one = || match takes_time {
        true => work.launch(&shape, size.iterations(), &stream),
        false => empty.launch(&shape, &stream, &[]),
    };
    let batch = arguments.batch.max(1);
    let mut durations_ns = Vec::with_capacity(arguments.count as usize);
    let launch = |count: u32, durations_ns: Option<&mut Vec<f64>>| -> anyhow::Result<()> {
        let mut unused = Vec::with_capacity(count as usize);
        let durations_ns = durations_ns.unwrap_or(&mut unused);
        for launch in 0..count {
            let start = Instant::now();
            one()?;
            durations_ns.push(start.elapsed().as_secs_f64() * 1e9);
            if launch % batch == batch - 1 {
                stream.synchronize()?;
            }
        }
        Ok(stream.synchronize()?)
    };
    launch(arguments.warm_up, None)?;
    let turn = arguments.turn.unwrap_or(arguments.count).max(1);
    let mut left = arguments.count;
    while left > 0 {
        if arguments.turn.is_some() {
            let bytes = stdin().lock().read_line(&mut String::new())?;
            ensure!(bytes > 0, "the input ended with {left} launches to go");
            launch(SETTLE, None)?;
        }
        launch(turn.min(left), Some(&mut durations_ns))?;
        left = left.saturating_sub(turn);
        if arguments.turn.is_some() {
            println!("{left}");
            stdout().flush()?;
        }
    }
    let durations_ns = Distribution::of(durations_ns)
        .ok_or_else(|| anyhow::anyhow!("--count 0: nothing to measure"))?;
    Ok(Report {
        role: "launches",
        launches: arguments.count,
        p50_ns: durations_ns.p50,
        p99_ns: durations_ns.p99,
        max_ns: durations_ns.max,
    })
}
