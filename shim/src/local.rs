// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a thread remembers from one callback to the next.
//!
//! Plain cells that need no destructor, so that reaching them costs an address computation and works
//! until the thread is gone.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use lithos_abi::grant::Grant;

use crate::backlog::Short;
use crate::channel::Managed;
use crate::clock::Clock;
use crate::split::Cut;
use crate::ticket::{Reserved, Ticket};

/// The launch API call that a thread is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// Identity of the stream; 0 outside of launch calls, or if it is not known.
    pub(crate) stream: u64,
    /// Whether what is uploaded now is uploaded once and runs with every replay of a graph.
    pub(crate) is_graph: bool,
    /// Blocks of the grid, if an SM's share of them is known.
    pub(crate) blocks: u64,
    /// Blocks of this launch that an SM holds; 0 if that was not asked for.
    pub(crate) blocks_per_sm: u32,
}

/// A context that the API call of a thread is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The context.
    pub(crate) context: u64,
    /// Its channel, by which it is known again; 0 if it has none.
    pub(crate) channel: u64,
}

/// A thread's memory.
pub(crate) struct Local {
    /// Depth of CUDA calls of our own.
    own: Cell<u32>,
    /// Number of the thread; 0 until somebody asks.
    thread: Cell<u64>,
    /// The launch call that it is in.
    pub(crate) call: Cell<Call>,
    /// The last good copy of a grant, and whose it was.
    pub(crate) last: Cell<(u64, Option<Grant>)>,
    /// What the launch call that it is in holds.
    ticket: Cell<Option<Ticket>>,
    /// Whether a descriptor has used what the ticket reserves. Beside the ticket and not in it: a ticket
    /// of which a part was just stored is not loaded before the driver's stores to the GPU are done.
    is_used: Cell<bool>,
    /// How the launch that the ticket is for is to be split, until its descriptor comes; and whether it is to
    /// be, in a word of its own, because most launches look at nothing else.
    cut: Cell<Option<Cut>>,
    has_cut: Cell<bool>,
    /// Into how many atoms the launch was cut that the ticket is for; 0 if it was not.
    atoms: Cell<u16>,
    /// The launch that the ticket is for, if it is not split and what is under way is bounded.
    short: Cell<Option<Short>>,
    /// What it knows about the time.
    pub(crate) clock: Clock,
    /// The context that is about to end.
    pub(crate) ending: Cell<Option<Ending>>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            own: Cell::new(0),
            thread: Cell::new(0),
            call: Cell::new(Call {
                stream: 0,
                is_graph: false,
                blocks: 0,
                blocks_per_sm: 0,
            }),
            last: Cell::new((0, None)),
            ticket: Cell::new(None),
            is_used: Cell::new(false),
            cut: Cell::new(None),
            has_cut: Cell::new(false),
            atoms: Cell::new(0),
            short: Cell::new(None),
            clock: Clock::new(),
            ending: Cell::new(None),
        }
    };
}

const _: () = assert!(!std::mem::needs_drop::<Local>());

/// Number of the last thread that was given one.
static THREADS: AtomicU64 = AtomicU64::new(0);

/// Runs with the memory of this thread.
#[inline]
pub(crate) fn with<T>(work: impl FnOnce(&Local) -> T) -> T {
    LOCAL.with(work)
}

/// Makes CUDA calls of our own: callbacks during them are none of the program's.
pub(crate) fn own<T>(work: impl FnOnce() -> T) -> T {
    /// Ends the call also where it unwinds.
    struct Depth;
    impl Drop for Depth {
        fn drop(&mut self) {
            with(|local| local.own.set(local.own.get() - 1));
        }
    }
    with(|local| local.own.set(local.own.get() + 1));
    let _depth = Depth;
    work()
}

impl Local {
    /// Returns whether this thread is in a CUDA call of our own.
    #[inline]
    pub(crate) fn is_own(&self) -> bool {
        self.own.get() != 0
    }

    /// Has the launch call that begins, or ends, hold this ticket, and gives back the one before.
    #[inline]
    pub(crate) fn set_ticket(&self, ticket: Option<Ticket>) {
        let is_used = self.is_used.replace(false);
        if let Some(before) = self.ticket.replace(ticket) {
            if let Some(cut) = self.take_cut() {
                cut.give_back(before.managed);
            }
            let atoms = self.atoms.replace(0);
            if before.managed.bound_ns() != 0
                && let Some(short) = self.short.take()
                && is_used
                && atoms == 0
                && short.sequence == before.reserved.sequence
            {
                let backlog_ns = (before.managed.backlog()).push(short, self.clock.now_ns());
                before.managed.ring().note_backlog(backlog_ns);
            }
            before.end(is_used, atoms);
        }
    }

    /// Says how the launch that the ticket is for is to be split, if it is.
    pub(crate) fn set_cut(&self, cut: Option<Cut>) {
        self.has_cut.set(cut.is_some());
        self.cut.set(cut);
    }

    /// Says that the launch that the ticket is for belongs to what is bounded, if it is not split.
    pub(crate) fn set_short(&self, short: Short) {
        self.short.set(Some(short));
    }

    /// Takes what was said.
    #[inline(always)]
    pub(crate) fn take_cut(&self) -> Option<Cut> {
        if !self.has_cut.get() {
            return None;
        }
        self.has_cut.set(false);
        self.cut.take()
    }

    /// Says into how many atoms the launch was cut that the ticket is for.
    pub(crate) fn note_atoms(&self, atoms: u16) {
        self.atoms.set(atoms);
    }

    /// Returns the channel and the sequence that the launch call of this thread holds.
    pub(crate) fn ticket(&self) -> Option<(&'static Managed, u64)> {
        let ticket = self.ticket.get()?;
        Some((ticket.managed, ticket.reserved.sequence))
    }

    /// Returns the channel of a context, if this thread is in a launch call that holds it.
    #[inline]
    pub(crate) fn held(&self, context: u64) -> Option<&'static Managed> {
        let ticket = self.ticket.get()?;
        (ticket.context == context).then_some(ticket.managed)
    }

    /// Returns the sequence of a launch of a channel.
    #[inline]
    pub(crate) fn reserve(&self, managed: &Managed) -> Reserved {
        match self.ticket.get() {
            Some(ticket)
                if std::ptr::eq(ticket.managed, managed) && !self.is_used.replace(true) =>
            {
                ticket.reserved
            }
            _ => Reserved::take(managed),
        }
    }

    /// Returns the number of this thread, which no other thread of the process ever has.
    #[inline]
    pub(crate) fn thread(&self) -> u64 {
        match self.thread.get() {
            0 => {
                let number = THREADS.fetch_add(1, Ordering::Relaxed) + 1;
                self.thread.set(number);
                number
            }
            number => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_a_number_of_its_own() {
        let here = with(Local::thread);
        assert_eq!(with(Local::thread), here);
        let there = std::thread::spawn(|| with(Local::thread)).join();
        assert_ne!(there.expect("no panic"), here);
    }

    #[test]
    fn calls_of_our_own_nest_and_end_when_they_unwind() {
        assert!(!with(Local::is_own));
        own(|| {
            own(|| assert!(with(Local::is_own)));
            assert!(with(Local::is_own));
            let _ = std::panic::catch_unwind(|| own(|| std::panic::resume_unwind(Box::new(()))));
            assert!(with(Local::is_own));
        });
        assert!(!with(Local::is_own));
    }
}
