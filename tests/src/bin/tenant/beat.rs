// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A role that knows from microsecond to microsecond whether its blocks run: they tell the host when one
//! begins and when one ends, and a thread watches that.
//!
//! ```text
//!   begins  ||||||||||||                     ||||||||||
//!   ends       |||||||||||||                    |||||||
//!                          <----- gap ------>
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use lithos_tests::cuda::{Gpu, HostWords, Module, Stream, source};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::queue::back_to_back;
use super::work::Size;

/// A silence as long as this is a gap, whatever the caller launches.
const GAP_NS: u64 = 100_000;
/// Kernels that are queued at a time.
const QUEUE: usize = 2;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    size: Size,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    kernels_per_s: f64,
    /// When the last block before a gap ended and the first one after it began, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    gaps: Vec<[u64; 2]>,
}

/// Goes on until standard input ends; prints `{"running":true}` once blocks run.
pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    gpu.spin_when_waiting()?;
    let _context = gpu.primary()?;
    let beats = HostWords::zeroed(2)?;
    let (address, ended) = (beats.address(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let launching = scope.spawn(|| launch(arguments, address, &ended));
        while beats.load(1) == 0 && !launching.is_finished() {
            std::thread::yield_now();
        }
        super::print(&super::Running { running: true })?;
        scope.spawn(|| {
            while super::read_line().unwrap_or(false) {}
            ended.store(true, Ordering::Relaxed);
        });
        let gaps = watch(&beats, || launching.is_finished())?;
        Ok(Report {
            role: "beat",
            kernels_per_s: launching.join().expect("it does not panic")?,
            gaps,
        })
    })
}

/// Launches until it is over, and returns how many kernels a second.
fn launch(arguments: &Arguments, beats: u64, ended: &AtomicBool) -> anyhow::Result<f64> {
    let gpu = Gpu::find(0)?;
    let _context = gpu.primary()?;
    let module = Module::load(source::BEAT)?;
    let kernel = module.kernel(c"beat")?;
    let stream = Stream::new()?;
    let shape = arguments.size.shape(&gpu)?;
    let words = [beats, arguments.size.iterations().into()];
    let goes_on = || !ended.load(Ordering::Relaxed);
    let done = back_to_back(&stream, QUEUE, goes_on, || {
        kernel.launch(&shape, &stream, &words)
    })?;
    Ok(done.kernels_per_s())
}

fn watch(beats: &HostWords, is_over: impl Fn() -> bool) -> anyhow::Result<Vec<[u64; 2]>> {
    let mut gaps = Vec::new();
    let mut seen = [beats.load(0), beats.load(1)];
    let mut last_ns = now_ns()?;
    while !is_over() {
        let found = [beats.load(0), beats.load(1)];
        if found == seen {
            continue;
        }
        let now_ns = now_ns()?;
        if found[0] != seen[0] && now_ns - last_ns > GAP_NS {
            gaps.push([last_ns, now_ns]);
        }
        (seen, last_ns) = (found, now_ns);
    }
    Ok(gaps)
}

fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
