// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The workers of a data loader: forked copies of the process that never touch CUDA, some of which live
//! on after it.
//!
//! They are forked from a process of several threads, so they call nothing but what is safe there:
//! those that stay wait for the end of standard input, which whoever started us keeps open.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use lithos_tests::cuda::{self, Gpu, Stream};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::Serialize;

use super::super::work::Work;
use super::Tally;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Workers that stay, of those forked before the first CUDA call and again of those after it.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Workers that leave at once, forked after the first CUDA call.
    #[arg(long, default_value_t = 20)]
    short_lived: u32,
    /// Launches before and again after they have left.
    #[arg(long, default_value_t = 100)]
    launches: u64,
}

#[derive(Serialize)]
struct Forked {
    /// Those that stay.
    workers: Vec<i32>,
    short_lived: u32,
}

/// Exit status of a worker, as of one that calls os._exit.
const EXIT: i32 = 3;

pub(crate) fn run(device: i32, arguments: &Arguments) -> anyhow::Result<()> {
    let staying = |_| fork_worker(wait_for_end_of_input);
    let mut workers: Vec<Pid> = (0..arguments.workers)
        .map(staying)
        .collect::<anyhow::Result<_>>()?;

    cuda::initialise()?;
    let gpu = Gpu::find(device)?;
    let context = gpu.primary()?;
    let work = Work::load(&gpu)?;
    let stream = Stream::new()?;
    let mut tally = Tally::default();
    tally.launch(&work, &stream, arguments.launches)?;

    // The others while another thread is in the middle of launches.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let launching = scope.spawn(|| {
            context.make_current()?;
            let work = Work::load(&gpu)?;
            let stream = Stream::new()?;
            let mut tally = Tally::default();
            while !done.load(Ordering::Relaxed) {
                tally.launch(&work, &stream, 16)?;
            }
            anyhow::Ok(tally)
        });
        let forked = (|| {
            for _ in 0..arguments.workers {
                workers.push(fork_worker(wait_for_end_of_input)?);
            }
            for _ in 0..arguments.short_lived {
                let status = waitpid(fork_worker(|| {})?, None)?;
                let has_left = matches!(status, WaitStatus::Exited(_, EXIT));
                ensure!(has_left, "a worker ended with {status:?}");
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        tally.add(&launching.join().expect("a thread panicked")?);
        forked
    })?;

    tally.launch(&work, &stream, arguments.launches)?;
    let forked = Forked {
        workers: workers.iter().map(|pid| pid.as_raw()).collect(),
        short_lived: arguments.short_lived,
    };
    super::super::print(&super::Report {
        role: "workers",
        tally,
        more: forked,
    })?;
    // One line, not the end of the input: that is for the workers.
    super::super::read_line()?;
    let mut more = Tally::default();
    more.launch(&work, &stream, arguments.launches)?;
    super::super::print(&more)
}

/// Forks a worker that does `work` and leaves.
fn fork_worker(work: impl FnOnce()) -> anyhow::Result<Pid> {
    // SAFETY: what the workers here do is safe in a copy of one thread of several.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: ends the copy without running anything of the original's.
            unsafe { libc::_exit(EXIT) }
        }
    }
}

/// Reads nothing: the input is the parent's.
fn wait_for_end_of_input() {
    let mut input = libc::pollfd {
        fd: libc::STDIN_FILENO,
        events: 0,
        revents: 0,
    };
    while input.revents & libc::POLLHUP == 0 {
        // SAFETY: one structure.
        let found = unsafe { libc::poll(&raw mut input, 1, -1) };
        if found < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}
