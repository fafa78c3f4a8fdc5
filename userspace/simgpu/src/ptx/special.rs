// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Special registers: those that stay as they are while a block runs, and the clocks.

use super::block::BlockEnvironment;
use super::code::{LANES, Row};
use super::module::Kernel;
use super::types::mask;

/// A special register whose value a lane keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Special {
    ThreadIndex(usize),
    ThreadCount(usize),
    BlockIndex(usize),
    BlockCount(usize),
    ClusterIndex(usize),
    ClusterCount(usize),
    IndexInCluster(usize),
    BlocksInCluster(usize),
    RankInCluster,
    SizeOfCluster,
    Lane,
    Warp,
    WarpCount,
    Sm,
    SmCount,
    Grid,
    /// The low half of the same.
    GridLow,
    LanesEqual,
    LanesLess,
    LanesLessOrEqual,
    LanesGreater,
    LanesGreaterOrEqual,
    DynamicShared,
    TotalShared,
}

/// A special register that reads the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Cycles,
    CyclesHigh,
    Cycles64,
    Nanoseconds,
    NanosecondsLow,
    NanosecondsHigh,
}

/// What a name beginning with `%` means, and its width in bits.
pub(super) enum Meaning {
    Kept(Special, u8),
    Time(Clock, u8),
}

/// Looks a special register up by its name and, for those that have three, its component.
pub(super) fn find(name: &str, component: Option<&str>) -> Option<Meaning> {
    let axis = match component {
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        Some(_) => return None,
        None => None,
    };
    if let Some(axis) = axis {
        let special = match name {
            "%tid" => Special::ThreadIndex(axis),
            "%ntid" => Special::ThreadCount(axis),
            "%ctaid" => Special::BlockIndex(axis),
            "%nctaid" => Special::BlockCount(axis),
            "%clusterid" => Special::ClusterIndex(axis),
            "%nclusterid" => Special::ClusterCount(axis),
            "%cluster_ctaid" => Special::IndexInCluster(axis),
            "%cluster_nctaid" => Special::BlocksInCluster(axis),
            _ => return None,
        };
        return Some(Meaning::Kept(special, 32));
    }
    let special = match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::WarpCount,
        "%smid" => Special::Sm,
        "%nsmid" => Special::SmCount,
        "%gridid" => return Some(Meaning::Kept(Special::Grid, 64)),
        "%cluster_ctarank" => Special::RankInCluster,
        "%cluster_nctarank" => Special::SizeOfCluster,
        "%lanemask_eq" => Special::LanesEqual,
        "%lanemask_lt" => Special::LanesLess,
        "%lanemask_le" => Special::LanesLessOrEqual,
        "%lanemask_gt" => Special::LanesGreater,
        "%lanemask_ge" => Special::LanesGreaterOrEqual,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%clock" => return Some(Meaning::Time(Clock::Cycles, 32)),
        "%clock_hi" => return Some(Meaning::Time(Clock::CyclesHigh, 32)),
        "%clock64" => return Some(Meaning::Time(Clock::Cycles64, 64)),
        "%globaltimer" => return Some(Meaning::Time(Clock::Nanoseconds, 64)),
        "%globaltimer_lo" => return Some(Meaning::Time(Clock::NanosecondsLow, 32)),
        "%globaltimer_hi" => return Some(Meaning::Time(Clock::NanosecondsHigh, 32)),
        _ => return None,
    };
    Some(Meaning::Kept(special, 32))
}

impl Special {
    /// The register in each lane of warp `warp`.
    pub(super) fn row(self, environment: &BlockEnvironment, kernel: &Kernel, warp: u32) -> Row {
        let e = environment;
        let cluster = |axis: usize| e.cluster[axis].max(1);
        let in_cluster = |axis: usize| e.block_index[axis] % cluster(axis);
        let per_lane = |value: &dyn Fn(u32) -> u32| {
            let mut row = [0; LANES];
            for (lane, word) in (0..).zip(&mut row) {
                *word = u64::from(value(lane));
            }
            row
        };
        let [width, height, _] = e.block.map(|threads| threads.max(1));
        let same = |value: u32| [u64::from(value); LANES];
        match self {
            Self::ThreadIndex(axis) => per_lane(&|lane| {
                let thread = warp * 32 + lane;
                match axis {
                    0 => thread % width,
                    1 => thread / width % height,
                    _ => thread / width / height,
                }
            }),
            Self::ThreadCount(axis) => same(e.block[axis]),
            Self::BlockIndex(axis) => same(e.block_index[axis]),
            Self::BlockCount(axis) => same(e.grid[axis]),
            Self::ClusterIndex(axis) => same(e.block_index[axis] / cluster(axis)),
            Self::ClusterCount(axis) => same(e.grid[axis].div_ceil(cluster(axis))),
            Self::IndexInCluster(axis) => same(in_cluster(axis)),
            Self::BlocksInCluster(axis) => same(cluster(axis)),
            Self::RankInCluster => {
                same(in_cluster(0) + cluster(0) * (in_cluster(1) + cluster(1) * in_cluster(2)))
            }
            Self::SizeOfCluster => same(cluster(0) * cluster(1) * cluster(2)),
            Self::Lane => per_lane(&|lane| lane),
            Self::Warp => same(warp),
            Self::WarpCount => same(e.block.iter().product::<u32>().div_ceil(32)),
            Self::Sm => same(e.sm),
            Self::SmCount => same(e.sm_count),
            Self::Grid => [e.grid_id; LANES],
            Self::GridLow => [e.grid_id & mask(32); LANES],
            Self::LanesEqual => per_lane(&|lane| 1 << lane),
            Self::LanesLess => per_lane(&|lane| (1 << lane) - 1),
            Self::LanesLessOrEqual => per_lane(&|lane| (1 << lane) | ((1 << lane) - 1)),
            Self::LanesGreater => per_lane(&|lane| !((1 << lane) | ((1 << lane) - 1))),
            Self::LanesGreaterOrEqual => per_lane(&|lane| !((1 << lane) - 1)),
            Self::DynamicShared => same(e.dynamic_shared_bytes),
            Self::TotalShared => same(kernel.static_shared_bytes + e.dynamic_shared_bytes),
        }
    }
}
