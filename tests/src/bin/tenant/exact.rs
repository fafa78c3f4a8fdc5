// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches of random shapes, every block of which has to run once, and not before the launches before it
//! in its stream have completed; and one whose first block waits for its last.

use lithos_tests::cuda::{self, Buffer, Gpu, Module, Shape, Stream, source};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Launches, in turn in each stream.
    #[arg(long, default_value_t = 20)]
    launches: u32,
    #[arg(long, default_value_t = 2)]
    streams: u32,
    /// Blocks of the largest grid [default: 20000, on simgpu 96].
    #[arg(long)]
    blocks: Option<u32>,
    /// Iterations of the longest block [default: 2000, on simgpu 20].
    #[arg(long)]
    iterations: Option<u32>,
    /// Launches that wait at a time, at most.
    #[arg(long, default_value_t = 8)]
    queue: u32,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints `{"running":true}` and waits for a line of input before the first launch, and before it
    /// ends.
    #[arg(long)]
    wait_for_line: bool,
}

#[derive(clap::Args)]
pub(crate) struct Ahead {
    /// Blocks of the grid [default: four times as many as SMs].
    #[arg(long)]
    blocks: Option<u32>,
    /// How often it is launched, a line of input before each.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    launches: u32,
    blocks: u64,
    /// Blocks that did not run as often as they should have.
    wrong: u64,
    /// Blocks that ran before a launch before theirs had completed.
    early: u64,
    /// How many blocks before it such a block missed, at most.
    missed: u64,
    /// Blocks that saw another grid than the launch's.
    misled: u64,
}

/// Numbers that look random: xorshift64 (Marsaglia).
struct Chance(u64);

impl Chance {
    /// From 1 to a bound.
    fn up_to(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 24) % u64::from(bound.max(1))).unwrap_or(0) + 1
    }

    /// A grid of so many blocks at most, some of them in clusters of two.
    fn shape(&mut self, blocks: u32) -> Shape {
        let blocks = self.up_to(blocks).max(2);
        let grid = match self.up_to(3) {
            1 => [blocks, 1, 1],
            2 => {
                let y = self.up_to(blocks.min(40));
                [(blocks / y).max(1), y, 1]
            }
            _ => {
                let z = self.up_to(blocks.min(8));
                let y = self.up_to((blocks / z).clamp(1, 8));
                [(blocks / z / y).max(1), y, z]
            }
        };
        let shape = Shape::grid(grid, 32);
        if grid[0].is_multiple_of(2) && self.up_to(4) == 1 {
            shape.in_clusters([2, 1, 1])
        } else {
            shape
        }
    }
}

/// A stream with what its blocks count in.
struct Lane {
    stream: Stream,
    counts: Buffer,
    own: Buffer,
    /// What `counts` should hold.
    expected: Vec<u32>,
    blocks: u64,
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let (blocks, iterations) = if cuda::is_simulated() {
        (96, 20)
    } else {
        (20_000, 2000)
    };
    let most = arguments.blocks.unwrap_or(blocks);
    let iterations = arguments.iterations.unwrap_or(iterations);
    let _context = gpu.primary()?;
    let module = Module::load(source::ONCE)?;
    let kernel = module.kernel(c"once")?;
    let mut lanes = Vec::new();
    for _ in 0..arguments.streams {
        lanes.push(Lane {
            stream: Stream::new()?,
            counts: Buffer::zeroed(most as usize)?,
            own: Buffer::zeroed(8)?,
            expected: vec![0; most as usize],
            blocks: 0,
        });
    }
    if arguments.wait_for_line {
        super::print(&super::Running { running: true })?;
        super::read_line()?;
    }
    let mut chance = Chance(arguments.seed.max(1));
    for index in 0..arguments.launches {
        for lane in &mut lanes {
            let shape = chance.shape(most);
            let [width, height, depth] = shape.grid;
            let words = [
                lane.counts.address(),
                lane.own.address(),
                lane.blocks,
                width.into(),
                height.into(),
                depth.into(),
                chance.up_to(iterations).into(),
            ];
            kernel.launch(&shape, &lane.stream, &words)?;
            let blocks = width * height * depth;
            lane.blocks += u64::from(blocks);
            for count in &mut lane.expected[..blocks as usize] {
                *count += 1;
            }
            if index % arguments.queue.max(1) == arguments.queue.max(1) - 1 {
                lane.stream.synchronize()?;
            }
        }
    }
    if arguments.wait_for_line {
        super::print(&super::Running { running: true })?;
        super::read_line()?;
    }
    let mut report = Report {
        role: "exact",
        launches: arguments.launches * arguments.streams,
        blocks: 0,
        wrong: 0,
        early: 0,
        missed: 0,
        misled: 0,
    };
    for lane in &lanes {
        lane.stream.synchronize()?;
        let counts = lane.counts.read()?;
        let differ = (counts.iter().zip(&lane.expected)).filter(|(found, right)| found != right);
        report.wrong += differ.count() as u64;
        let own = lane.own.read()?;
        let long = |index: usize| u64::from(own[2 * index]) | u64::from(own[2 * index + 1]) << 32;
        report.blocks += long(0);
        report.early += long(1);
        report.misled += long(2);
        report.missed = report.missed.max(long(3));
    }
    Ok(report)
}

pub(crate) fn ahead(gpu: Gpu, arguments: &Ahead) -> anyhow::Result<Report> {
    let _context = gpu.primary()?;
    let module = Module::load(source::ONCE)?;
    let kernel = module.kernel(c"ahead")?;
    let stream = Stream::new()?;
    let flag = Buffer::zeroed(1)?;
    let blocks = arguments.blocks.unwrap_or(4 * gpu.sms);
    for _ in 0..arguments.repeat {
        super::print(&super::Running { running: true })?;
        super::read_line()?;
        flag.clear()?;
        kernel.launch(&Shape::row(blocks, 32), &stream, &[flag.address()])?;
        stream.synchronize()?;
    }
    Ok(Report {
        role: "ahead",
        launches: arguments.repeat,
        blocks: u64::from(blocks) * u64::from(arguments.repeat),
        wrong: 0,
        early: 0,
        missed: 0,
        misled: 0,
    })
}
