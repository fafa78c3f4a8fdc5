// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The best-effort role: compute-bound kernels back to back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lithos_tests::cuda::{Event, Gpu, Stream};
use serde::Serialize;

use super::lc::rate;
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

#[derive(Serialize)]
struct Running {
    running: bool,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let shape = arguments.size.shape(&gpu)?;
    let iterations = arguments.size.iterations();
    let mut pending = VecDeque::new();

    work.launch(&shape, iterations, &stream)?;
    stream.synchronize()?;
    work.clear()?;
    let ended = Arc::new(AtomicBool::new(false));
    if arguments.until_eof {
        super::print(&Running { running: true })?;
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
    let mut kernels = 0;
    while goes_on() {
        let event = if pending.len() < arguments.queue.max(1) {
            Event::new()?
        } else {
            let oldest: Event = pending.pop_front().expect("the queue is full");
            oldest.synchronize()?;
            oldest
        };
        work.launch(&shape, iterations, &stream)?;
        event.record(&stream)?;
        pending.push_back(event);
        kernels += 1;
    }
    stream.synchronize()?;
    let elapsed_s = begin.elapsed().as_secs_f64();
    let blocks = work.blocks_run()?;
    Ok(Report {
        role: "be",
        kernels,
        kernels_per_s: rate(kernels, elapsed_s),
        blocks,
        blocks_expected: kernels * u64::from(shape.grid[0]),
        blocks_per_s: rate(blocks, elapsed_s),
        sms: work.sms.count()?,
    })
}
