// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Everything that comes and goes around launches: threads, streams, contexts, child processes, resets
//! of the primary context, and the process itself.
//!
//! Blocks are counted: whatever comes and goes, every launched block runs exactly once.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use lithos_tests::cuda::{Gpu, Shape, Stream};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde::Serialize;

use super::work::Work;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Threads that launch at the same time.
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// How often each of them makes and destroys a context and a stream.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Launches in each round.
    #[arg(long, default_value_t = 20)]
    launches: u32,
}

#[derive(Serialize)]
pub(crate) struct Report {
    role: &'static str,
    launches: u64,
    blocks: u64,
    blocks_expected: u64,
    contexts: u64,
    children: u32,
    resets: u32,
}

#[derive(Default)]
struct Totals {
    launches: AtomicU64,
    blocks: AtomicU64,
    expected: AtomicU64,
    contexts: AtomicU64,
}

const BLOCKS: u32 = 4;

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<Report> {
    let totals = Totals::default();
    let primary = gpu.primary()?;
    let mut children = 0;

    // Threads with contexts of their own beside threads that share the primary one, while this one
    // has children.
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let totals = &totals;
        let primary = &primary;
        let threads: Vec<_> = (0..arguments.threads)
            .map(|thread| {
                scope.spawn(move || {
                    for _ in 0..arguments.rounds {
                        if thread % 2 == 0 {
                            let own = gpu.new_context()?;
                            totals.contexts.fetch_add(1, Ordering::Relaxed);
                            launch_some(&gpu, arguments.launches, totals)?;
                            own.destroy()?;
                        } else {
                            primary.make_current()?;
                            launch_some(&gpu, arguments.launches, totals)?;
                        }
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for _ in 0..arguments.rounds {
            child_that_leaves_at_once()?;
            child_that_runs_another_program()?;
            children += 2;
        }
        for thread in threads {
            thread.join().expect("a thread panicked")?;
        }
        Ok(())
    })?;

    gpu.release_primary()?;

    // Resets: the handles of the old context are gone, those of the new one may be the same numbers.
    let mut resets = 0;
    for _ in 0..arguments.rounds {
        for reset in [true, false] {
            let _context = gpu.primary()?;
            launch_some(&gpu, arguments.launches, &totals)?;
            if reset {
                gpu.reset_primary()?;
                resets += 1;
            }
            gpu.release_primary()?;
        }
    }
    child_that_exits()?;
    children += 1;

    Ok(Report {
        role: "churn",
        launches: totals.launches.into_inner(),
        blocks: totals.blocks.into_inner(),
        blocks_expected: totals.expected.into_inner(),
        contexts: totals.contexts.into_inner(),
        children,
        resets,
    })
}

/// Launches into a stream that lives no longer than this.
fn launch_some(gpu: &Gpu, launches: u32, totals: &Totals) -> anyhow::Result<()> {
    let work = Work::load(gpu)?;
    let stream = Stream::new()?;
    for _ in 0..launches {
        work.launch(&Shape::row(BLOCKS, 32), 1, &stream)?;
    }
    stream.synchronize()?;
    totals
        .launches
        .fetch_add(launches.into(), Ordering::Relaxed);
    totals
        .blocks
        .fetch_add(work.blocks_run()?, Ordering::Relaxed);
    totals
        .expected
        .fetch_add(u64::from(launches * BLOCKS), Ordering::Relaxed);
    Ok(())
}

/// Forks a child that does `child` and checks that it ended well.
fn forked(child: impl FnOnce()) -> anyhow::Result<()> {
    // SAFETY: the children here call only functions that are safe in a copy of one thread, or leave by
    // exit while this process has no other thread of its own.
    match unsafe { fork() }? {
        ForkResult::Child => {
            child();
            // SAFETY: ends the copy without running anything of the original's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => anyhow::bail!("a forked child ended with {status:?}"),
        },
    }
}

fn child_that_leaves_at_once() -> anyhow::Result<()> {
    forked(|| {})
}

/// Leaves by `exit`, so that whatever the loaded libraries do at exit is done in the copy, too.
fn child_that_exits() -> anyhow::Result<()> {
    forked(|| std::process::exit(0))
}

/// A program that is not a CUDA program, with our environment.
fn child_that_runs_another_program() -> anyhow::Result<()> {
    let status = Command::new("true").status().context("running `true`")?;
    anyhow::ensure!(status.success(), "`true` ended with {status}");
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct Exit {
    /// Launches before the process ends.
    #[arg(long, default_value_t = 1000)]
    after: u64,
}

#[derive(Serialize)]
struct Leaving {
    role: &'static str,
    launches: u64,
}

pub(crate) fn exit_during_launch(gpu: Gpu, arguments: &Exit) -> anyhow::Result<()> {
    let context = gpu.primary()?;
    let launches = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&launches);
    let launching = std::thread::spawn(move || -> anyhow::Result<()> {
        context.make_current()?;
        let work = Work::load(&gpu)?;
        let stream = Stream::new()?;
        loop {
            work.launch(&Shape::row(BLOCKS, 32), 1, &stream)?;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    while launches.load(Ordering::Relaxed) < arguments.after {
        if launching.is_finished() {
            return launching.join().expect("the thread panicked");
        }
        std::thread::yield_now();
    }
    super::print(&Leaving {
        role: "exit-during-launch",
        launches: launches.load(Ordering::Relaxed),
    })?;
    // The other thread is somewhere inside a launch.
    std::process::exit(0)
}
