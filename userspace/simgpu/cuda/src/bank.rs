// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Constant banks: the memory that carries a launch's parameters to the GPU.
//!
//! The idea: slots in memory that this process and the GPU share, at one address for both. A launch
//! takes a slot, writes its bank, and names the slot's last word in release semaphore 0 of its
//! descriptor; when the GPU has written the expected value there, the slot is free. Nobody is asked
//! and nothing is freed by hand.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use simgpu::shared::SharedMemory;
use simgpu::wire::Request;
use std::os::fd::AsFd;

use crate::driver::Driver;
use crate::error::{Error, Outcome};
use crate::lock;

/// Slots for ordinary launches, and their size with the release word.
const SMALL: (usize, usize) = (4096, 2048);
/// Slots for launches with up to 32,764 bytes of parameters.
const LARGE: (usize, usize) = (32, 36_864);

/// The slots of a context.
#[derive(Debug)]
pub(crate) struct Banks {
    memory: SharedMemory,
    small: Mutex<Slots>,
    large: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    bytes: usize,
    /// Offsets in the memory.
    free: Vec<usize>,
    /// Offsets, with the value that will say that the slot is free.
    used: VecDeque<(usize, u32)>,
    launches: u32,
}

/// A slot that holds a constant bank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bank {
    /// Where the bank lies.
    pub(crate) address: u64,
    /// Where the release word lies.
    pub(crate) release: u64,
    /// What is to be written there.
    pub(crate) payload: u32,
}

impl Slots {
    fn new(from: usize, (count, bytes): (usize, usize)) -> Self {
        Self {
            bytes,
            free: (0..count).rev().map(|i| from + i * bytes).collect(),
            used: VecDeque::new(),
            launches: 0,
        }
    }

    /// Where in a slot the release word lies: 16 bytes from the end.
    fn release_offset(&self) -> usize {
        self.bytes - 16
    }
}

impl Banks {
    pub(crate) fn new(driver: &Driver) -> Result<Self, Error> {
        let bytes = SMALL.0 * SMALL.1 + LARGE.0 * LARGE.1;
        let memory = SharedMemory::create(c"simgpu-banks", bytes);
        let memory = memory.map_err(|_| Error::OUT_OF_MEMORY)?;
        driver.ask(
            &Request::MapShared {
                address: memory.as_ptr().addr() as u64,
                bytes: bytes as u64,
                offset: 0,
            },
            Some(memory.fd().as_fd()),
        )?;
        Ok(Self {
            memory,
            small: Mutex::new(Slots::new(0, SMALL)),
            large: Mutex::new(Slots::new(SMALL.0 * SMALL.1, LARGE)),
        })
    }

    /// Takes the memory away from the GPU.
    pub(crate) fn retire(&self, driver: &Driver) {
        let address = self.memory.as_ptr().addr() as u64;
        // If the server is gone, so is its mapping.
        let _ = driver.ask(&Request::Unmap { address }, None);
    }

    /// Puts a bank into a slot, waiting for one if all are in use.
    pub(crate) fn place(
        &self,
        driver: &Driver,
        bank: &[u8],
        check: impl Fn() -> Outcome,
    ) -> Result<Bank, Error> {
        let slots = if bank.len() <= SMALL.1 - 16 {
            &self.small
        } else if bank.len() <= LARGE.1 - 16 {
            &self.large
        } else {
            return Err(Error::INVALID_VALUE);
        };
        let mut slots = lock(slots);
        let offset = match slots.free.pop() {
            Some(offset) => offset,
            None => driver.wait(|| {
                self.sweep(&mut slots);
                match slots.free.pop() {
                    Some(offset) => Some(Ok(offset)),
                    None => check().err().map(Err),
                }
            })?,
        };
        slots.launches = slots.launches.wrapping_add(1);
        let payload = slots.launches;
        let release = offset + slots.release_offset();
        self.word(release).store(!payload, Ordering::Relaxed);
        // SAFETY: the slot lies inside the mapping, the bank is no longer than the slot, and the slot
        // is free: neither the GPU nor another thread uses it.
        unsafe {
            let to = self.memory.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bank.as_ptr(), to, bank.len());
        }
        slots.used.push_back((offset, payload));
        let base = self.memory.as_ptr().addr();
        Ok(Bank {
            address: (base + offset) as u64,
            release: (base + release) as u64,
            payload,
        })
    }

    /// Finds the slots that the GPU is done with.
    fn sweep(&self, slots: &mut Slots) {
        let release_offset = slots.release_offset();
        let Slots { free, used, .. } = slots;
        used.retain(|&(offset, payload)| {
            let busy = self.word(offset + release_offset).load(Ordering::Acquire) != payload;
            if !busy {
                free.push(offset);
            }
            busy
        });
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.memory.bytes() && offset.is_multiple_of(4));
        // SAFETY: just checked to be an aligned word inside the mapping; release words are touched
        // by atomics only.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(offset).cast()) }
    }
}
