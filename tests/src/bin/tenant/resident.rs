// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Blocks that take a whole SM each and wait for each other: they meet only if all are resident at once.
//!
//! With `--hold` they stay after they have met until a line comes in, so that several tenants can be
//! seen to be resident at the same time without any clock: when each has said so, all are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lithos_tests::cuda::{Buffer, Gpu, HostWords, Kernel, Module, Shape, SmSet, Stream, source};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Blocks [default: one per SM of the whole GPU].
    #[arg(long)]
    blocks: Option<u32>,
    /// Shared memory of a block; `whole` takes the most there is, so that an SM holds one block.
    #[arg(long, default_value = "whole")]
    shared_bytes: String,
    /// How often they meet, a launch each.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Prints `{"resident":true}` when they have met, and holds them there until standard input has
    /// a line or ends.
    #[arg(long)]
    hold: bool,
    /// Gives up after so long.
    #[arg(long, default_value_t = 10.0)]
    patience_s: f64,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    blocks: u32,
    /// Whether all blocks were resident at once, in every round.
    met: bool,
    rounds: u32,
    /// SMs that they were on.
    sms: u32,
}

#[derive(Serialize)]
struct Resident {
    resident: bool,
}

/// The kernel with what it reads and writes.
pub(crate) struct Meeting {
    kernel: Kernel,
    pub(crate) sms: SmSet,
    counters: Buffer,
    host: HostWords,
    _module: Module,
}

/// How long a block sleeps between looks, and after how many looks it gives up by itself. The host
/// gives up first; this bound is for a host that has died.
const POLL_NS: u64 = 10_000;
const POLLS: u64 = 12_000_000;
/// An interpreted block had better not look so often.
const SIMULATED_POLL_NS: u64 = 1_000_000;
const SIMULATED_POLLS: u64 = 120_000;

/// Words that host and blocks share.
const GO: usize = 0;
const ALL_MET: usize = 1;

impl Meeting {
    pub(crate) fn load(gpu: &Gpu) -> anyhow::Result<Self> {
        let module = Module::load(source::MEET)?;
        let kernel = module.kernel(c"meet")?;
        kernel.allow_shared(gpu.shared_bytes_max)?;
        Ok(Self {
            kernel,
            sms: SmSet::new()?,
            counters: Buffer::zeroed(2)?,
            host: HostWords::zeroed(2)?,
            _module: module,
        })
    }

    pub(crate) fn launch(&self, shape: &Shape, hold: bool, stream: &Stream) -> anyhow::Result<()> {
        self.counters.clear()?;
        self.host.store(GO, 0);
        self.host.store(ALL_MET, 0);
        let (poll_ns, polls) = if lithos_tests::cuda::is_simulated() {
            (SIMULATED_POLL_NS, SIMULATED_POLLS)
        } else {
            (POLL_NS, POLLS)
        };
        let words = [
            self.sms.address(),
            self.counters.address(),
            self.host.address(),
            u64::from(hold),
            polls,
            poll_ns,
        ];
        Ok(self.kernel.launch(shape, stream, &words)?)
    }

    /// Waits until all blocks have met; after `patience` tells them to give up and says `false`.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let begin = Instant::now();
        while self.host.load(ALL_MET) == 0 {
            if begin.elapsed() > patience {
                self.let_go();
                return self.host.load(ALL_MET) != 0;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        true
    }

    fn let_go(&self) {
        self.host.store(GO, 1);
    }
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let _context = gpu.primary()?;
    let meeting = Meeting::load(&gpu)?;
    let stream = Stream::new()?;
    let blocks = arguments.blocks.unwrap_or(gpu.sms);
    let shared_bytes = super::work::shared_bytes(&arguments.shared_bytes, &gpu)?;
    let shape = Shape::row(blocks, 32).with_shared(shared_bytes);
    let patience = Duration::from_secs_f64(arguments.patience_s);
    let mut met = true;
    for _ in 0..arguments.rounds {
        meeting.launch(&shape, arguments.hold, &stream)?;
        met &= meeting.wait(patience);
        if arguments.hold {
            super::print(&Resident { resident: met })?;
            wait_for_line(patience);
            meeting.let_go();
        }
        stream.synchronize()?;
    }
    Ok(Report {
        role: "resident",
        blocks,
        met,
        rounds: arguments.rounds,
        sms: meeting.sms.count()?,
    })
}

/// Waits for a line or the end of standard input, and for `patience` at most: a kernel that holds a
/// GPU must not depend on whoever started it.
fn wait_for_line(patience: Duration) {
    let came = Arc::new(AtomicBool::new(false));
    let reader = Arc::clone(&came);
    std::thread::spawn(move || {
        let _ = super::read_line();
        reader.store(true, Ordering::Relaxed);
    });
    let begin = Instant::now();
    while !came.load(Ordering::Relaxed) && begin.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
}
