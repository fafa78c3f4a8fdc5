// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A role whose kernels wait for memory: y = a x + y, back to back.

use std::time::{Duration, Instant};

use lithos_tests::cuda::{self, Buffer, Gpu, Module, Shape, Stream, source};
use serde::Serialize;

use super::queue::back_to_back;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Kernels that are queued at a time.
    #[arg(long, default_value_t = 2)]
    queue: usize,
    /// Blocks of a kernel, an element a thread [default: 262144 of 1024 threads, on simgpu 64 of 32].
    #[arg(long)]
    blocks: Option<u32>,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    kernels: u64,
    kernels_per_s: f64,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let (blocks, threads) = match cuda::is_simulated() {
        true => (64, 32),
        false => (262_144, 1024),
    };
    let shape = Shape::row(arguments.blocks.unwrap_or(blocks), threads);
    let _context = gpu.primary()?;
    let module = Module::load(source::SAXPY)?;
    let kernel = module.kernel(c"saxpy")?;
    let stream = Stream::new()?;
    let elements = shape.grid[0] as usize * threads as usize;
    let (x, y) = (Buffer::zeroed(elements)?, Buffer::zeroed(elements)?);
    let words = [x.address(), y.address(), 2.0_f32.to_bits().into()];
    let launch = || kernel.launch(&shape, &stream, &words);
    launch()?;
    stream.synchronize()?;
    let (begin, length) = (Instant::now(), Duration::from_secs_f64(arguments.seconds));
    let done = back_to_back(
        &stream,
        arguments.queue,
        || begin.elapsed() < length,
        launch,
    )?;
    Ok(Report {
        role: "saxpy",
        kernels: done.kernels,
        kernels_per_s: done.kernels_per_s(),
    })
}
