// SPDX-License-Identifier: GPL-2.0
//! What a scheduler says to a tenant, or about a channel, once; and how a tenant waits for it.

use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{CondVar, CondVarTimeoutResult, Mutex},
    time::{Jiffies, msecs_to_jiffies},
};

use crate::abi::*;

/// An answer that comes, or came, or will not come any more.
#[pin_data]
pub(crate) struct Awaited {
    #[pin]
    state: Mutex<State>,
    #[pin]
    changed: CondVar,
}

struct State {
    answer: Option<lithos_answer>,
    /// How often a channel was woken.
    wakes: u64,
    ended: bool,
}

impl Awaited {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_mutex!(
                State {
                    answer: None,
                    wakes: 0,
                    ended: false,
                },
                "lithos_answer"
            ),
            changed <- new_condvar!("lithos_answered"),
        })
    }

    /// Takes in the answer.
    pub(crate) fn answer(&self, answer: lithos_answer) -> Result {
        let mut state = self.state.lock();
        if state.answer.is_some() {
            return Err(EALREADY);
        }
        state.answer = Some(answer);
        self.changed.notify_all();
        Ok(())
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.state.lock().answer.is_some()
    }

    /// Wakes whoever sleeps.
    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.wakes = state.wakes.wrapping_add(1);
        self.changed.notify_all();
    }

    /// Says that nothing will come any more.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits for the answer.
    pub(crate) fn wait(&self, timeout_ns: u64) -> Result<lithos_answer> {
        self.wait_until(timeout_ns, |state| state.answer)
    }

    /// Waits until the number of wakes is another one.
    pub(crate) fn sleep(&self, seen: u64, timeout_ns: u64) -> Result<u64> {
        self.wait_until(timeout_ns, |state| {
            (state.wakes != seen).then_some(state.wakes)
        })
    }

    fn wait_until<R>(&self, timeout_ns: u64, look: impl Fn(&State) -> Option<R>) -> Result<R> {
        let mut left = jiffies(timeout_ns)?;
        let mut state = self.state.lock();
        loop {
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            if state.ended {
                return Err(ENOENT);
            }
            if left == 0 {
                return Err(ETIMEDOUT);
            }
            left = match self.changed.wait_interruptible_timeout(&mut state, left) {
                CondVarTimeoutResult::Woken { jiffies } => jiffies,
                CondVarTimeoutResult::Timeout => 0,
                CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
            };
        }
    }
}

fn jiffies(timeout_ns: u64) -> Result<Jiffies> {
    if timeout_ns > LITHOS_TIMEOUT_NS_MAX {
        return Err(EINVAL);
    }
    let ms = timeout_ns.div_ceil(1_000_000);
    Ok(if ms == 0 {
        0
    } else {
        msecs_to_jiffies(ms as u32)
    })
}
