// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches that need room: clusters, and cooperative grids.
//!
//! A launch that is refused is a result here, not a failure.

use std::time::Duration;

use lithos_tests::cuda::{Buffer, Error, Gpu, Module, Shape, SmSet, Stream, source};
use serde::Serialize;

use super::resident::Meeting;

#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// Blocks of a cluster, up to 8.
    #[arg(long, default_value_t = 8)]
    ctas: u32,
    /// Clusters of the grid.
    #[arg(long, default_value_t = 4)]
    clusters: u32,
    /// How often it is launched.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
}

#[derive(clap::Args)]
pub(crate) struct Cooperative {
    /// Blocks of the grid, each of which takes a whole SM [default: one per SM].
    #[arg(long)]
    blocks: Option<u32>,
    /// Gives up after so long.
    #[arg(long, default_value_t = 10.0)]
    patience_s: f64,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    /// The driver's answer.
    result: String,
    /// Blocks that ran.
    blocks: u32,
    /// Clusters that ran.
    clusters: u32,
    /// Whether all blocks waited for each other and met.
    met: bool,
    /// SMs that they ran on.
    sms: u32,
}

impl Report {
    fn refused(role: &'static str, error: &Error) -> Self {
        Self {
            role,
            result: error.name(),
            blocks: 0,
            clusters: 0,
            met: false,
            sms: 0,
        }
    }
}

pub(crate) fn cluster(gpu: Gpu, arguments: &Cluster) -> anyhow::Result<Report> {
    const ROLE: &str = "cluster";
    let _context = gpu.primary()?;
    let module = Module::load(source::CLUSTER)?;
    let kernel = module.kernel(c"in_clusters")?;
    let stream = Stream::new()?;
    let sms = SmSet::new()?;
    let counters = Buffer::zeroed(2)?;
    let blocks = arguments.ctas * arguments.clusters;
    let shape = Shape::row(blocks, 32).in_clusters([arguments.ctas, 1, 1]);
    for _ in 0..arguments.repeat {
        let words = [sms.address(), counters.address()];
        if let Err(error) = kernel.launch(&shape, &stream, &words) {
            return Ok(Report::refused(ROLE, &error));
        }
    }
    if let Err(error) = stream.synchronize() {
        return Ok(Report::refused(ROLE, &error));
    }
    let counted = counters.read()?;
    Ok(Report {
        role: ROLE,
        result: "CUDA_SUCCESS".to_owned(),
        blocks: counted[0],
        clusters: counted[1],
        met: counted[0] == arguments.repeat * shape.grid[0],
        sms: sms.count()?,
    })
}

pub(crate) fn cooperative(gpu: Gpu, arguments: &Cooperative) -> anyhow::Result<Report> {
    const ROLE: &str = "cooperative";
    let _context = gpu.primary()?;
    let meeting = Meeting::load(&gpu)?;
    let stream = Stream::new()?;
    let blocks = arguments.blocks.unwrap_or(gpu.sms);
    let shape = Shape::row(blocks, 32)
        .with_shared(gpu.shared_bytes_max)
        .cooperative();
    if let Err(error) = meeting.launch(&shape, false, &stream) {
        return match error.downcast::<Error>() {
            Ok(error) => Ok(Report::refused(ROLE, &error)),
            Err(error) => Err(error),
        };
    }
    let met = meeting.wait(Duration::from_secs_f64(arguments.patience_s));
    if let Err(error) = stream.synchronize() {
        return Ok(Report::refused(ROLE, &error));
    }
    Ok(Report {
        role: ROLE,
        result: "CUDA_SUCCESS".to_owned(),
        blocks,
        clusters: 0,
        met,
        sms: meeting.sms.count()?,
    })
}
