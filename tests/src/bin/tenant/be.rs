// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The best-effort role: compute-bound kernels back to back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lithos_tests::cuda::{Gpu, Stream};
use serde::Serialize;

use super::lc::rate;
use super::queue::back_to_back;
use super::work::{Size, Work};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Goes on until standard input ends instead, and prints `{"running":true}` once the first kernel
    /// is done.
    #[arg(long)]
    until_eof: bool,
    /// Kernels that are queued at a time.
    #[arg(long, default_value_t = 4)]
    queue: usize,
    #[command(flatten)]
    size: Size,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    kernels: u64,
    kernels_per_s: f64,
    blocks: u64,
    blocks_expected: u64,
    blocks_per_s: f64,
    sms: u32,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let shape = arguments.size.shape(&gpu)?;
    let iterations = arguments.size.iterations();

    work.launch(&shape, iterations, &stream)?;
    stream.synchronize()?;
    work.clear()?;
    let ended = Arc::new(AtomicBool::new(false));
    if arguments.until_eof {
        super::print(&super::Running { running: true })?;
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            while super::read_line().unwrap_or(false) {}
            ended.store(true, Ordering::Relaxed);
        });
    }
    let length = Duration::from_secs_f64(arguments.seconds);
    let begin = Instant::now();
    let goes_on = || match arguments.until_eof {
        true => !ended.load(Ordering::Relaxed),
        false => begin.elapsed() < length,
    };
    let done = back_to_back(&stream, arguments.queue, goes_on, || {
        work.launch(&shape, iterations, &stream)
    })?;
    let blocks = work.blocks_run()?;
    Ok(Report {
        role: "be",
        kernels: done.kernels,
        kernels_per_s: done.kernels_per_s(),
        blocks,
        blocks_expected: done.kernels * u64::from(shape.grid[0]),
        blocks_per_s: rate(blocks, done.elapsed_s),
        sms: work.sms.count()?,
    })
}
