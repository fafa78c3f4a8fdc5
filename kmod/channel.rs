// SPDX-License-Identifier: GPL-2.0
//! A channel: three pieces of shared memory of one tenant, and what the kernel does with them by itself.
//!
//! ```text
//!   opened --answered--> granted --closed, or its tenant has ended--> ending --tails are done--> gone
//!                                                  (gates open)         (or time is up)
//! ```
//!
//! The kernel writes two things into a channel's pages: the broker's word of the grant page, and OPEN
//! into gates. Both are plain stores of what nobody else decides, so it needs no lock that a scheduler or a
//! tenant could hold, and a tenant can gain nothing by what it writes meanwhile.

use core::mem::offset_of;

use kernel::{
    prelude::*,
    sync::{
        Arc,
        atomic::{Atomic, ordering},
        barrier::smp_mb,
    },
    time::{Delta, delay::fsleep},
};

use crate::{
    abi::*,
    account::Account,
    answer::Awaited,
    charge::Charge,
    geometry::{Geometry, is_running},
    pages::Pages,
    scheduler::now_ns,
    tenant::Tenant,
};

/// Between two looks at tails, in microseconds.
const LOOK_US: i64 = 100;

/// A channel.
#[pin_data]
pub(crate) struct Channel {
    pub(crate) id: u64,
    pub(crate) tenant: u64,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gpu: [u8; 16],
    pub(crate) context: u64,
    pub(crate) geometry: Geometry,
    grant: Pages,
    ring: Pages,
    arena: Pages,
    /// Mappings of the arena that its tenant has.
    arena_mappings: Atomic<i32>,
    /// When it was retired; 0: not yet.
    retired_ns: Atomic<u64>,
    /// A doorbell was told and not read yet.
    pub(crate) rings: Atomic<i32>,
    /// Until the last of this and its mappings is gone.
    _charge: Charge,
    #[pin]
    pub(crate) awaited: Awaited,
}

impl Channel {
    /// Makes one, all zeros.
    pub(crate) fn new(
        id: u64,
        owner: &Tenant,
        request: &lithos_channel_create,
        geometry: Geometry,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let grant = Pages::one()?;
        let ring = Pages::shmem(c"lithos-ring", geometry.ring_bytes)?;
        let arena = Pages::shmem(c"lithos-arena", geometry.arena_bytes)?;
        Arc::pin_init(
            pin_init!(Self {
                id,
                tenant: owner.id,
                pid: owner.identity.pid,
                uid: owner.identity.uid,
                gpu: request.gpu,
                context: request.context,
                geometry,
                grant,
                ring,
                arena,
                arena_mappings: Atomic::new(0),
                retired_ns: Atomic::new(0),
                rings: Atomic::new(0),
                _charge: charge,
                awaited <- Awaited::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns what a channel takes of the limits.
    pub(crate) fn price(geometry: &Geometry) -> Account {
        Account::channel(geometry.pinned_bytes())
    }

    /// Returns one of its pieces.
    pub(crate) fn pages(&self, kind: u32) -> Option<&Pages> {
        match kind {
            LITHOS_MAP_GRANT => Some(&self.grant),
            LITHOS_MAP_RING => Some(&self.ring),
            LITHOS_MAP_ARENA => Some(&self.arena),
            _ => None,
        }
    }

    /// Writes the broker's word.
    pub(crate) fn set_broker(&self, state: u32, epoch: u64) {
        let word = epoch << LITHOS_BROKER_EPOCH_SHIFT | u64::from(state);
        let at = offset_of!(lithos_grant_page, broker);
        self.grant.word(at, |broker: &Atomic<u64>| {
            broker.store(word, ordering::Release)
        });
    }

    /// Lets its launches go by what is left when nobody schedules.
    pub(crate) fn fail_static(&self, epoch: u64) {
        self.set_broker(LITHOS_BROKER_FAIL_STATIC, epoch);
        self.release();
    }

    /// Opens every gate. Whoever publishes a chain looks at the broker's word afterwards: either that
    /// look finds what was stored before this fence, or these stores find its gates.
    pub(crate) fn release(&self) {
        smp_mb(ordering::Full);
        for at in self.geometry.gate_words() {
            self.arena.word(at, |gate: &Atomic<u32>| {
                // One that was never built stays as it is, and so does one at which the chain is to end.
                let word = gate.load(ordering::Relaxed);
                if word != 0 && word != LITHOS_GATE_OPEN && word != LITHOS_GATE_HALTED {
                    gate.store(LITHOS_GATE_OPEN, ordering::Release);
                }
            });
        }
    }

    /// Has the GPU leave the arena, by the shortest way if nobody needs any more what it computes.
    pub(crate) fn let_go(&self, ends: bool) {
        match ends {
            true => self.halt(),
            false => self.release(),
        }
    }

    /// Ends every chain: its tail completes nothing, atoms that have not started are void, and its gates let it
    /// pass, as LITHOS_GATE_HALTED says.
    pub(crate) fn halt(&self) {
        for tail in self.geometry.tails() {
            // Where the release is that stamps `done`, within a page as anywhere.
            let page = LITHOS_PAGE_BYTES - 1;
            let stamp = self.descriptor_word(tail, LITHOS_TAIL_ADDRESS_WORD);
            let done = (tail + offset_of!(lithos_tail, done)) as u32;
            let (first, second) = match stamp & page == done & page {
                true => (0, LITHOS_TAIL_RELEASE_2),
                false => (LITHOS_TAIL_RELEASE_1, 0),
            };
            self.edit(tail, LITHOS_TAIL_LATCH_WORD, LITHOS_TAIL_LATCH, 0);
            self.edit(
                tail,
                LITHOS_TAIL_RELEASE_WORD,
                LITHOS_TAIL_RELEASE_0 | first,
                0,
            );
            let dependents = LITHOS_TAIL_DEPENDENTS | second;
            self.edit(tail, LITHOS_TAIL_DEPENDENTS_WORD, dependents, 0);
        }
        for (gate, atom) in self.geometry.gate_words().zip(self.geometry.atoms()) {
            self.arena.word(gate, |gate: &Atomic<u32>| {
                let word = gate.load(ordering::Relaxed);
                if word != 0 && word != LITHOS_GATE_HALTED {
                    self.edit(atom, LITHOS_ATOM_EXIT_WORD, LITHOS_ATOM_EXIT, 0);
                    self.edit(
                        atom,
                        LITHOS_ATOM_KIND_WORD,
                        LITHOS_ATOM_KIND,
                        LITHOS_ATOM_NULL,
                    );
                    gate.store(LITHOS_GATE_HALTED, ordering::Release);
                }
            });
        }
    }

    fn descriptor_word(&self, at: usize, word: u32) -> u32 {
        self.arena
            .word(at + 4 * word as usize, |word: &Atomic<u32>| {
                word.load(ordering::Relaxed)
            })
    }

    /// Has some bits of a descriptor's word be others.
    fn edit(&self, at: usize, word: u32, bits: u32, value: u32) {
        self.arena
            .word(at + 4 * word as usize, |word: &Atomic<u32>| {
                let others = word.load(ordering::Relaxed) & !bits;
                word.store(others | value, ordering::Release);
            });
    }

    /// Retires it. From now on nobody else writes the broker's word.
    pub(crate) fn retire(&self) {
        if !self.is_retired() {
            self.retired_ns.store(now_ns().max(1), ordering::Release);
        }
        self.set_broker(LITHOS_BROKER_RETIRED, 0);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired_ns.load(ordering::Acquire) != 0
    }

    /// Returns how many chains may still run, and how long they are said to take together.
    fn running(&self) -> (u64, u64) {
        let (mut chains, mut remaining_ns) = (0, 0_u64);
        for at in self.geometry.tails() {
            let word = |offset| {
                self.arena.word(at + offset, |word: &Atomic<u64>| {
                    word.load(ordering::Relaxed)
                })
            };
            let done = self
                .arena
                .word(at + offset_of!(lithos_tail, done), |done: &Atomic<u32>| {
                    done.load(ordering::Acquire)
                });
            if is_running(word(offset_of!(lithos_tail, published)), done) {
                chains += 1;
                let predicted = word(offset_of!(lithos_tail, remaining_ns));
                remaining_ns = remaining_ns.saturating_add(predicted);
            }
        }
        (chains, remaining_ns)
    }

    /// Returns how many chains may still run.
    pub(crate) fn chains(&self) -> u64 {
        self.running().0
    }

    /// Waits until every chain has ended, at most for so many milliseconds and no longer than the
    /// chains are said to take together. Meanwhile it opens the gates again and again, or has the chains of
    /// a process that ends run out: a scheduler that has not heard yet may shut them. The time counts from when it was retired, if it was: so all
    /// channels of a process that ends have it together, however many there are.
    pub(crate) fn wait_for_tails(&self, limit_ms: u32, ends: bool) {
        let start_ns = match self.retired_ns.load(ordering::Acquire) {
            0 => now_ns(),
            retired_ns => retired_ns,
        };
        let limit_ns = u64::from(limit_ms) * 1_000_000;
        loop {
            self.let_go(ends);
            let (chains, predicted_ns) = self.running();
            // What says nothing about itself may take the whole time.
            let limit_ns = match predicted_ns {
                0 => limit_ns,
                predicted => predicted.min(limit_ns),
            };
            if chains == 0 || now_ns().saturating_sub(start_ns) >= limit_ns {
                return;
            }
            fsleep(Delta::from_micros(LOOK_US));
        }
    }

    /// Counts a mapping of its arena by its tenant.
    pub(crate) fn arena_mapped(&self) {
        self.arena_mappings.fetch_add(1, ordering::Relaxed);
    }

    /// Counts one less, and returns whether it was the last.
    pub(crate) fn arena_unmapped(&self) -> bool {
        self.arena_mappings.fetch_sub(1, ordering::Full) == 1
    }

    /// Returns whether its tenant maps its arena.
    pub(crate) fn is_arena_mapped(&self) -> bool {
        self.arena_mappings.load(ordering::Acquire) > 0
    }
}
