// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a launch needs that takes an atomic read-modify-write: a pin, a sequence, a place in the ring.
//!
//! Such an instruction waits until all earlier stores have left the processor. In the descriptor
//! callback the driver has just written to the GPU's memory, and each launch would wait a quarter of a
//! microsecond and more for that (ARCHITECTURE.md, "What a launch costs"). When the launch call begins
//! nothing is under way, so a *ticket* is taken there, used by the descriptor of the launch, and
//! given back when the call ends, where the driver has waited already.
//!
//! ```text
//! call begins          descriptor              call ends
//! pin, reserve, claim  use, without atomics    void what was not used, count, unpin
//! ```
//!
//! A descriptor without a ticket (uploaded outside a launch call, or a second one) reserves for itself.

use lithos_abi::bindings::{
    LITHOS_COUNT_ATOMS, LITHOS_COUNT_SPLIT, LITHOS_COUNT_VOID, LITHOS_RECORD_VOID,
};
use lithos_abi::lithos_record;

use crate::channel::Managed;
use crate::table::{Pin, Pinned};

/// A sequence, and whether its place in the ring may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) sequence: u64,
    pub(crate) is_claimed: bool,
}

impl Reserved {
    /// Reserves the sequence of a launch and claims its place.
    #[inline]
    pub(crate) fn take(managed: &Managed) -> Self {
        let ring = managed.ring();
        let sequence = ring.reserve();
        let is_claimed = ring.claim(sequence, managed.stamps().as_ref());
        Self {
            sequence,
            is_claimed,
        }
    }

    /// Says that no launch came of it. One counter speaks of a sequence: where the place is in use no
    /// record can say so, but it is no overrun, which is a launch.
    #[cold]
    fn void(self, managed: &Managed) {
        let ring = managed.ring();
        ring.count(LITHOS_COUNT_VOID);
        if self.is_claimed {
            ring.write(&lithos_record {
                sequence: self.sequence,
                flags: LITHOS_RECORD_VOID,
                ..Default::default()
            });
        }
    }
}

/// What a launch call holds while it lasts. Plain words: it lies in a thread's memory, which is not
/// dropped; so [`Ticket::end`] has to be called.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) context: u64,
    pub(crate) managed: &'static Managed,
    /// For the first descriptor of the call.
    pub(crate) reserved: Reserved,
    pin: Pin<'static>,
}

impl Ticket {
    /// Takes a ticket for a launch in a context.
    #[inline]
    pub(crate) fn begin(context: u64, pinned: Pinned<'static, Managed>) -> Self {
        let reserved = Reserved::take(&pinned);
        let (pin, managed) = pinned.into_parts();
        Self {
            context,
            managed,
            reserved,
            pin,
        }
    }

    /// Gives the ticket back, whether a descriptor has used what was reserved or not. The launch was cut into
    /// so many atoms, 0 if it was not.
    #[inline]
    pub(crate) fn end(self, is_used: bool, atoms: u16) {
        let pinned = Pinned::from_parts((self.pin, self.managed));
        if atoms != 0 {
            let ring = pinned.ring();
            ring.count(LITHOS_COUNT_SPLIT);
            ring.count_by(LITHOS_COUNT_ATOMS, atoms.into());
        }
        if !is_used {
            self.reserved.void(&pinned);
        }
    }
}
