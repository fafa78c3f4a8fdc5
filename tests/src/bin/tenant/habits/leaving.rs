// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A process that ends at once, in the middle of launches: nothing is destroyed, and nothing that is to
//! run at exit runs.

use std::sync::atomic::{AtomicU64, Ordering};

use lithos_tests::cuda::{Gpu, Stream};
use serde::Serialize;

use super::super::work::Work;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Launches before the process ends.
    #[arg(long, default_value_t = 200)]
    after: u64,
    /// Ends it in a signal handler of the thread that launches, instead of in another thread.
    #[arg(long)]
    in_handler: bool,
}

#[derive(Serialize)]
struct Leaving {
    role: &'static str,
    launches: u64,
}

static LAUNCHES: AtomicU64 = AtomicU64::new(0);

extern "C" fn leave(_: libc::c_int) {
    // SAFETY: this is the habit: the process ends here, wherever it is.
    unsafe { libc::_exit(0) }
}

pub(crate) fn run(gpu: Gpu, arguments: &Arguments) -> anyhow::Result<()> {
    let context = gpu.primary()?;
    super::signals::handle(libc::SIGUSR1, leave, true)?;
    let launching = std::thread::spawn(move || -> anyhow::Result<()> {
        context.make_current()?;
        let work = Work::load(&gpu)?;
        let stream = Stream::new()?;
        loop {
            super::launch(&work, &stream)?;
            LAUNCHES.fetch_add(1, Ordering::Relaxed);
        }
    });
    while LAUNCHES.load(Ordering::Relaxed) < arguments.after {
        if launching.is_finished() {
            return launching.join().expect("the thread panicked");
        }
        std::thread::yield_now();
    }
    super::super::print(&Leaving {
        role: "leaving",
        launches: LAUNCHES.load(Ordering::Relaxed),
    })?;
    if !arguments.in_handler {
        leave(0);
    }
    super::signals::send(&launching, libc::SIGUSR1);
    launching.join().expect("the thread panicked")
}
