// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Modules that are unloaded while LithOS still remembers their launches, and others in their place:
//! handles of functions and addresses of code are used again.

use std::collections::HashSet;

use lithos_tests::cuda::{Buffer, Gpu, Module, Shape, Stream, source};
use serde::Serialize;

use super::super::work::Work;
use super::Tally;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Modules that are loaded and unloaded.
    #[arg(long, default_value_t = 300)]
    modules: u64,
    /// Launches of each of their kernels.
    #[arg(long, default_value_t = 4)]
    launches: u64,
}

#[derive(Serialize)]
struct Loaded {
    modules: u64,
    /// Handles of functions that an unloaded one had had before.
    handles_again: u64,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let _context = gpu.primary()?;
    // Each launch of it is told apart from those of other modules by what it does.
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let mut tally = Tally::default();
    let (mut handles, mut handles_again) = (HashSet::new(), 0);
    let mut note = |handle: usize| handles_again += u64::from(!handles.insert(handle));
    for round in 0..arguments.modules {
        match round % 3 {
            0 => {
                let module = Module::load(source::EMPTY)?;
                let kernel = module.kernel(c"empty")?;
                note(kernel.handle().addr());
                for _ in 0..arguments.launches {
                    kernel.launch(&Shape::row(super::BLOCKS, 32), &stream, &[])?;
                }
                stream.synchronize()?;
            }
            1 => {
                let own = Work::load(&gpu)?;
                note(own.kernel().handle().addr());
                tally.launch(&own, &stream, arguments.launches)?;
            }
            _ => {
                let module = Module::load(source::CHECKSUM)?;
                let fill = module.kernel(c"fill")?;
                note(fill.handle().addr());
                let numbers = Buffer::zeroed(256)?;
                for seed in 1..=arguments.launches {
                    let words = [numbers.address(), 256, seed];
                    fill.launch(&Shape::row(1, 256), &stream, &words)?;
                }
                stream.synchronize()?;
                let filled = numbers.read()?;
                anyhow::ensure!(filled != [0; 256], "another kernel ran instead of `fill`");
            }
        }
        // One that stays is launched in between.
        tally.launch(&work, &stream, 1)?;
    }
    let loaded = Loaded {
        modules: arguments.modules,
        handles_again,
    };
    super::report_and_stay("modules", tally, loaded)
}
