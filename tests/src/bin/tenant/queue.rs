// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches back to back: so many wait at a time, and the next one comes when the oldest has completed.

use std::collections::VecDeque;
use std::time::Instant;

use lithos_tests::cuda::{Error, Event, Stream};

use super::lc::rate;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) kernels: u64,
    pub(crate) elapsed_s: f64,
}

impl Done {
    pub(crate) fn kernels_per_s(&self) -> f64 {
        rate(self.kernels, self.elapsed_s)
    }
}

/// Launches as long as it is to go on, and waits for all.
pub(crate) fn back_to_back(
    stream: &Stream,
    queue: usize,
    goes_on: impl Fn() -> bool,
    launch: impl Fn() -> Result<(), Error>,
) -> anyhow::Result<Done> {
    let mut pending: VecDeque<Event> = VecDeque::new();
    let begin = Instant::now();
    let mut kernels = 0;
    while goes_on() {
        let event = if pending.len() < queue.max(1) {
            Event::new()?
        } else {
            let oldest = pending.pop_front().expect("the queue is full");
            oldest.synchronize()?;
            oldest
        };
        launch()?;
        event.record(stream)?;
        pending.push_back(event);
        kernels += 1;
    }
    stream.synchronize()?;
    Ok(Done {
        kernels,
        elapsed_s: begin.elapsed().as_secs_f64(),
    })
}
