// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Thousands of streams.

use lithos_tests::cuda::{Context, Gpu, Stream};
use serde::Serialize;

use super::super::work::Work;
use super::Tally;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Streams that exist at the same time.
    #[arg(long, default_value_t = 2000)]
    at_once: u64,
    /// Streams one after the other, destroyed while their launch is under way.
    #[arg(long, default_value_t = 5000)]
    one_by_one: u64,
}

#[derive(Serialize)]
struct Made {
    streams: u64,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let mut tally = Tally::default();

    let streams: Vec<Stream> = (0..arguments.at_once)
        .map(|_| Stream::new())
        .collect::<Result<_, _>>()?;
    for _ in 0..2 {
        for stream in &streams {
            super::launch(&work, stream)?;
        }
    }
    for stream in streams.iter().rev() {
        stream.synchronize()?;
    }
    tally.count(&work, 2 * arguments.at_once)?;
    drop(streams);

    for stream in 1..=arguments.one_by_one {
        super::launch(&work, &Stream::new()?)?;
        // A driver may have room for so many whose work is not done.
        if stream.is_multiple_of(500) {
            Context::synchronize()?;
        }
    }
    Context::synchronize()?;
    tally.count(&work, arguments.one_by_one)?;
    let streams = arguments.at_once + arguments.one_by_one;
    super::report_and_stay("streams", tally, Made { streams })
}
