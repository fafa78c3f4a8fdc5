// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A scheduler that lives: a thread beats for it, however slow the machine is.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Device;

/// Several in the time after which the kernel misses it.
const BEAT: Duration = Duration::from_millis(10);

/// A scheduler of one GPU or more; ends when it is dropped.
#[derive(Debug)]
pub struct Scheduler {
    device: Arc<Device>,
    silent: Arc<AtomicBool>,
    beating: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Claims a GPU.
    ///
    /// # Panics
    ///
    /// If it cannot be had.
    pub fn of(gpu: [u8; 16]) -> Self {
        let device = Arc::new(Device::open());
        device.claim(gpu).expect("a claim");
        let silent = Arc::new(AtomicBool::new(false));
        let (beaten, until) = (Arc::clone(&device), Arc::clone(&silent));
        let beating = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) && beaten.beat().is_ok() {
                std::thread::sleep(BEAT);
            }
        });
        Self {
            device,
            silent,
            beating: Some(beating),
        }
    }

    /// Ceases to beat.
    ///
    /// # Panics
    ///
    /// If the thread has.
    pub fn silence(&mut self) {
        self.silent.store(true, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            beating.join().expect("the thread that beats");
        }
    }
}

impl Deref for Scheduler {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.silence();
    }
}
