// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel of a set length that several roles launch.

use std::time::Instant;

use lithos_tests::cuda::{self, Buffer, Error, Gpu, Kernel, Module, Shape, SmSet, Stream, source};
use serde::Serialize;

/// How large a launch is. The defaults suit the driver: simgpu interprets, so there blocks are one
/// warp and short.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Size {
    /// Blocks of a kernel [default: one per SM].
    #[arg(long)]
    pub(crate) blocks: Option<u32>,
    /// Threads of a block [default: 256, on simgpu 32].
    #[arg(long)]
    pub(crate) threads: Option<u32>,
    /// Iterations of a thread, four multiplications each [default: 1000, on simgpu 10].
    #[arg(long)]
    pub(crate) iterations: Option<u32>,
    /// Shared memory of a block; `whole` takes the most there is, so that an SM holds one block.
    #[arg(long, default_value = "0")]
    pub(crate) shared_bytes: String,
}

impl Size {
    pub(crate) fn shape(&self, gpu: &Gpu) -> anyhow::Result<Shape> {
        let threads = if cuda::is_simulated() { 32 } else { 256 };
        let shape = Shape::row(
            self.blocks.unwrap_or(gpu.sms),
            self.threads.unwrap_or(threads),
        );
        Ok(shape.with_shared(shared_bytes(&self.shared_bytes, gpu)?))
    }

    pub(crate) fn iterations(&self) -> u32 {
        let default = if cuda::is_simulated() { 10 } else { 1000 };
        self.iterations.unwrap_or(default)
    }
}

/// Reads an amount of shared memory.
pub(crate) fn shared_bytes(text: &str, gpu: &Gpu) -> anyhow::Result<u32> {
    if text == "whole" {
        return Ok(gpu.shared_bytes_max);
    }
    text.parse()
        .map_err(|_| anyhow::anyhow!("--shared-bytes {text}: expected a number, or whole"))
}

/// The kernel with what it writes to.
pub(crate) struct Work {
    kernel: Kernel,
    pub(crate) sms: SmSet,
    blocks: Buffer,
    _module: Module,
}

impl Work {
    /// Loads it into the current context.
    pub(crate) fn load(gpu: &Gpu) -> Result<Self, Error> {
        let module = Module::load(source::WORK)?;
        let kernel = module.kernel(c"work")?;
        kernel.allow_shared(gpu.shared_bytes_max)?;
        Ok(Self {
            kernel,
            sms: SmSet::new()?,
            blocks: Buffer::zeroed(2)?,
            _module: module,
        })
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(crate) fn launch(
        &self,
        shape: &Shape,
        iterations: u32,
        stream: &Stream,
    ) -> Result<(), Error> {
        let words = [
            self.sms.address(),
            self.blocks.address(),
            u64::from(iterations),
        ];
        self.kernel.launch(shape, stream, &words)
    }

    /// Blocks that have run to their end since the last [`Work::clear`].
    pub(crate) fn blocks_run(&self) -> Result<u64, Error> {
        let words = self.blocks.read()?;
        Ok(u64::from(words[0]) | u64::from(words[1]) << 32)
    }

    /// Forgets SMs and blocks.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        self.sms.clear()?;
        self.blocks.clear()
    }
}

#[derive(clap::Args)]
pub(crate) struct Calibrate {
    /// How long a block is to take when it has an SM to itself.
    #[arg(long, default_value_t = 20.0)]
    block_us: f64,
    #[command(flatten)]
    size: Size,
}

#[derive(Serialize)]
pub(crate) struct Calibration {
    iterations: u32,
    iteration_ns: f64,
}

/// Measures the length of an iteration as the difference between two lengths of a launch of one
/// block, so that the cost of the launch itself cancels.
pub(crate) fn calibrate(gpu: Gpu, arguments: &Calibrate) -> anyhow::Result<Calibration> {
    let _context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::urgent()?;
    let mut shape = arguments.size.shape(&gpu)?;
    shape.grid = [1, 1, 1];
    let short = arguments.size.iterations();
    let long = short * 4;
    let best_us = |iterations: u32| -> anyhow::Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let start = Instant::now();
            work.launch(&shape, iterations, &stream)?;
            stream.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(best)
    };
    let iteration_us = (best_us(long)? - best_us(short)?) / f64::from(long - short);
    anyhow::ensure!(
        iteration_us > 0.0,
        "a launch of {long} iterations took no longer than one of {short}"
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are positive, and `as` saturates"
    )]
    let iterations = (arguments.block_us / iteration_us).round().max(1.0) as u32;
    Ok(Calibration {
        iterations,
        iteration_ns: iteration_us * 1e3,
    })
}
