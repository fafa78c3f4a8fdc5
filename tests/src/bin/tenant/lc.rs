// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The latency-critical role: requests of a few short kernels each.
//!
//! A closed loop pauses between a request's end and the next one's start; an open loop starts requests
//! at fixed times, and a request that had to wait for its predecessor has that wait in its latency.

use std::time::{Duration, Instant};

use lithos_tests::cuda::{Gpu, Stream};
use lithos_tests::latency::Distribution;
use serde::Serialize;

use super::work::{Size, Work};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels of a request.
    #[arg(long, default_value_t = 5)]
    kernels: u32,
    /// The pause between requests; with --open-loop, from the start of one to that of the next.
    #[arg(long, default_value_t = 2000)]
    pause_us: u64,
    /// Starts requests at fixed times.
    #[arg(long)]
    open_loop: bool,
    /// How long to go on.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests that are made first and not counted.
    #[arg(long, default_value_t = 20)]
    warm_up: u32,
    #[command(flatten)]
    size: Size,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    requests: usize,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    sms: u32,
    latency_us: Distribution,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    gpu.spin_when_waiting()?;
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::urgent()?;
    let shape = arguments.size.shape(&gpu)?;
    let iterations = arguments.size.iterations();
    let request = || -> anyhow::Result<()> {
        for _ in 0..arguments.kernels {
            work.launch(&shape, iterations, &stream)?;
        }
        Ok(stream.synchronize()?)
    };
    for _ in 0..arguments.warm_up {
        request()?;
    }
    work.clear()?;

    let pause = Duration::from_micros(arguments.pause_us);
    let length = Duration::from_secs_f64(arguments.seconds);
    let mut latencies_us = Vec::new();
    let begin = Instant::now();
    let mut due = begin;
    while begin.elapsed() < length {
        let start = if arguments.open_loop {
            due
        } else {
            Instant::now()
        };
        request()?;
        latencies_us.push(start.elapsed().as_secs_f64() * 1e6);
        due += pause;
        let wait = if arguments.open_loop {
            due.saturating_duration_since(Instant::now())
        } else {
            pause
        };
        std::thread::sleep(wait);
    }
    let elapsed_s = begin.elapsed().as_secs_f64();
    let latency_us = Distribution::of(latencies_us)
        .ok_or_else(|| anyhow::anyhow!("--seconds {}: no time for a request", arguments.seconds))?;
    Ok(Report {
        role: "lc",
        requests: latency_us.count,
        requests_per_s: rate(latency_us.count as u64, elapsed_s),
        p50_us: latency_us.p50,
        p99_us: latency_us.p99,
        max_us: latency_us.max,
        sms: work.sms.count()?,
        latency_us,
    })
}

/// So many in so long, per second.
pub(crate) fn rate(count: u64, seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
    let count = count as f64;
    count / seconds
}
