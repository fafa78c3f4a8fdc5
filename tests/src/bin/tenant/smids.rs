// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many SMs a launch runs on.
//!
//! Each block takes a whole SM's shared memory and there are twice as many blocks as SMs, so the
//! hardware has to use every SM that the launch may use.

use lithos_tests::cuda::{Gpu, Shape, Stream};
use serde::Serialize;

use super::work::Work;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Launches, each counted by itself.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Launches once per line on standard input instead, and answers each with a line.
    #[arg(long)]
    wait_for_line: bool,
    /// Iterations of a thread [default: 20000, on simgpu 50].
    #[arg(long)]
    iterations: Option<u32>,
}

#[derive(Serialize)]
struct Launch {
    launch: u32,
    sms: u32,
}

#[derive(Serialize)]
struct Report {
    role: &'static str,
    device_sms: u32,
    /// Of a stream that asks for the highest.
    priority: i32,
    /// Of each launch.
    sms: Vec<u32>,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let shape = Shape::row(2 * gpu.sms, 32).with_shared(gpu.shared_bytes_max);
    let default = if lithos_tests::cuda::is_simulated() {
        50
    } else {
        20_000
    };
    let iterations = arguments.iterations.unwrap_or(default);
    let count = || -> anyhow::Result<u32> {
        work.clear()?;
        work.launch(&shape, iterations, &stream)?;
        stream.synchronize()?;
        let run = work.blocks_run()?;
        anyhow::ensure!(
            run == u64::from(shape.grid[0]),
            "{run} of {} blocks ran",
            shape.grid[0]
        );
        Ok(work.sms.count()?)
    };
    let mut sms = Vec::new();
    if arguments.wait_for_line {
        for launch in 0.. {
            if !super::read_line()? {
                break;
            }
            sms.push(count()?);
            let sms = sms[sms.len() - 1];
            super::print(&Launch { launch, sms })?;
        }
    } else {
        for _ in 0..arguments.repeat {
            sms.push(count()?);
        }
    }
    super::print(&Report {
        role: "smids",
        device_sms: gpu.sms,
        priority: Stream::urgent()?.priority()?,
        sms,
    })
}
