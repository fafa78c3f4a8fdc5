// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Hashes of what deterministic kernels compute: the same bits with and without LithOS.

use lithos_tests::cuda::{self, Buffer, Gpu, Module, Shape, Stream, source};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Elements of the reduction and the histogram, a multiple of 256 [default: 4194304, on simgpu
    /// 2048].
    #[arg(long)]
    elements: Option<u32>,
    /// Rows of the matrices, a multiple of 16 [default: 1024, on simgpu 32].
    #[arg(long)]
    rows: Option<u32>,
    /// How often all of it is done; every time must give the same.
    #[arg(long, default_value_t = 2)]
    repeat: u32,
    /// Where the numbers come from.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

#[derive(PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    role: &'static str,
    reduce: String,
    matmul: String,
    histogram: String,
}

/// Threads of a block of the kernels in a row.
const THREADS: u32 = 256;
/// Rows of a tile of the matrix product.
const TILE: u32 = 16;
/// Bins of the histogram.
const BINS: usize = 64;

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let (elements, rows) = if cuda::is_simulated() {
        (2048, 32)
    } else {
        (4 << 20, 1024)
    };
    let elements = arguments.elements.unwrap_or(elements);
    let rows = arguments.rows.unwrap_or(rows);
    anyhow::ensure!(
        elements > 0 && elements.is_multiple_of(THREADS),
        "--elements {elements}: expected a multiple of {THREADS}"
    );
    anyhow::ensure!(
        rows > 0 && rows.is_multiple_of(TILE),
        "--rows {rows}: expected a multiple of {TILE}"
    );
    let _context = gpu.primary()?;
    let first = compute(elements, rows, arguments.seed)?;
    for _ in 1..arguments.repeat {
        anyhow::ensure!(
            compute(elements, rows, arguments.seed)? == first,
            "the same kernels gave other bits the second time"
        );
    }
    Ok(first)
}

fn compute(elements: u32, rows: u32, seed: u32) -> anyhow::Result<Report> {
    let module = Module::load(source::CHECKSUM)?;
    let stream = Stream::new()?;
    let fill = module.kernel(c"fill")?;
    let filled = |count: u32, seed: u32| -> anyhow::Result<Buffer> {
        let buffer = Buffer::zeroed(count as usize)?;
        let shape = Shape::row(count.div_ceil(THREADS), THREADS);
        let words = [buffer.address(), u64::from(count), u64::from(seed)];
        fill.launch(&shape, &stream, &words)?;
        Ok(buffer)
    };

    let numbers = filled(elements, seed)?;
    let blocks = elements / THREADS;
    let sums = Buffer::zeroed(blocks as usize)?;
    module.kernel(c"reduce")?.launch(
        &Shape::row(blocks, THREADS),
        &stream,
        &[numbers.address(), sums.address()],
    )?;
    let bins = Buffer::zeroed(BINS)?;
    module.kernel(c"histogram")?.launch(
        &Shape::row(blocks, THREADS),
        &stream,
        &[numbers.address(), bins.address(), u64::from(elements)],
    )?;

    let a = filled(rows * rows, seed.wrapping_add(1))?;
    let b = filled(rows * rows, seed.wrapping_add(2))?;
    let c = Buffer::zeroed((rows * rows) as usize)?;
    let mut shape = Shape::row(rows / TILE, TILE);
    shape.grid[1] = rows / TILE;
    shape.block[1] = TILE;
    let words = [a.address(), b.address(), c.address(), u64::from(rows)];
    module.kernel(c"matmul")?.launch(&shape, &stream, &words)?;
    stream.synchronize()?;

    let counted: u32 = bins.read()?.iter().sum();
    anyhow::ensure!(
        counted == elements,
        "the histogram counted {counted} of {elements} elements"
    );
    Ok(Report {
        role: "checksum",
        reduce: hash(&sums.read()?),
        matmul: hash(&c.read()?),
        histogram: hash(&bins.read()?),
    })
}

/// FNV-1a with 64 bits, over the bytes.
fn hash(words: &[u32]) -> String {
    let hash = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("{hash:016x}")
}
