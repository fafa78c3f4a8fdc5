// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Says that somebody schedules, while that is so: in every grant page that the embedded broker made, or
//! to the kernel, which watches over those that it made.
//!
//! A thread of its own does it, so that a main loop that has much to do is not taken for a dead one;
//! and only while the main loop goes round, so that one that hangs is. The thread has one real-time
//! priority above all ordinary threads if it may, for a machine whose processors are all busy. Where there
//! is nobody to say it to it sleeps.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lithos_device::pages::Heart;
use lithos_device::scheduler::Scheduler;
use lithos_policy::{ChannelId, Nanos};

use crate::clock;

/// Between two beats: many in the time after which a heartbeat is stale (`LITHOS_HEARTBEAT_STALE_NS`).
const BEAT: Duration = Duration::from_millis(10);

/// For how long the main loop may be busy with one thing, such as a file on a slow disk.
const HANGS: Nanos = Nanos::from_secs(1);
/// How long it waits for something to do at most, so that one that waits is not one that hangs.
const ROUND: Nanos = Nanos(HANGS.0 / 4);

/// All hearts.
#[derive(Debug, Default)]
pub(crate) struct Hearts(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    hearts: Mutex<Listeners>,
    /// There is a heart.
    any: Condvar,
    /// When the main loop last went round.
    turned_ns: AtomicU64,
}

/// Where it is said.
#[derive(Debug, Default)]
struct Listeners {
    pages: BTreeMap<ChannelId, Heart>,
    kernel: Option<Arc<Scheduler>>,
}

impl Hearts {
    /// Says to the kernel from now on that somebody schedules.
    pub(crate) fn claimed(&self, scheduler: Arc<Scheduler>, now: Nanos) {
        self.turned(now);
        self.0.lock().kernel = Some(scheduler);
        self.0.any.notify_one();
    }

    /// Says from now on in the page of a channel that somebody schedules.
    pub(crate) fn add(&self, channel: ChannelId, heart: Heart, now: Nanos) {
        self.turned(now);
        heart.beat(now.0);
        self.0.lock().pages.insert(channel, heart);
        self.0.any.notify_one();
    }

    /// Ceases to.
    pub(crate) fn remove(&self, channel: ChannelId) {
        self.0.lock().pages.remove(&channel);
    }

    /// Says that the main loop goes round.
    pub(crate) fn turned(&self, now: Nanos) {
        self.0.turned_ns.store(now.0, Ordering::Relaxed);
    }

    /// Returns when the main loop has to go round, although it may have nothing to do.
    pub(crate) fn next_turn(&self) -> Option<Nanos> {
        let turned = Nanos(self.0.turned_ns.load(Ordering::Relaxed));
        let hearts = self.0.lock();
        let beats = !hearts.pages.is_empty() || hearts.kernel.is_some();
        beats.then(|| turned.after(ROUND))
    }

    /// Starts the thread.
    pub(crate) fn start(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let builder = std::thread::Builder::new().name("heartbeat".into());
        builder.spawn(move || {
            if let Err(error) = rise_above_others() {
                tracing::warn!("the heartbeat has no real-time priority: {error}");
            }
            shared.beat();
        })?;
        Ok(())
    }
}

impl Shared {
    fn beat(&self) {
        loop {
            let mut hearts = self.lock();
            while hearts.pages.is_empty() && hearts.kernel.is_none() {
                hearts = self
                    .any
                    .wait(hearts)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let now = clock::now();
            let turned = Nanos(self.turned_ns.load(Ordering::Relaxed));
            if now <= turned.after(HANGS) {
                hearts.pages.values().for_each(|heart| heart.beat(now.0));
                let beat = hearts.kernel.as_ref().map(|kernel| kernel.beat());
                if let Some(Err(_)) = beat {
                    // The main loop hears of it, too, and ends.
                    hearts.kernel = None;
                }
            }
            drop(hearts);
            std::thread::sleep(BEAT);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        // A panic leaves those that there were.
        self.hearts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives this thread the lowest real-time priority; children have none of it.
fn rise_above_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is this thread, and the parameters live during the call.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
