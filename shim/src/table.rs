// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CUcontext -> what belongs to it, for readers that may neither lock nor wait.
//!
//! A reader *pins* an entry while it uses it; whoever takes an entry out waits until no pin is left,
//! for a bounded time, and else leaves it where it is for ever: a leak instead of a crash. Pins lie
//! in the table itself, which is never freed, so pinning is safe before it is known what the entry
//! holds. Entries are put in and taken out by one thread at a time (the caller's lock).
//!
//! There are two kinds of pins. One is counted, with atomic instructions. The other is a thread's
//! own: a word that names the entry, stored without any ordering, because whoever takes an entry out
//! has the kernel put all threads of the process through a barrier (`membarrier`) before it looks at
//! these words. Launches pin in the second way, and in the first where the kernel does not offer that
//! or the process has made more threads than there are words.
//!
//! ```text
//!        insert              remove                 drained
//! free ----------> in use ------------> leaving ---------------> free
//!                                          | time is up
//!                                          +----------> leaving for ever
//! ```

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::time::{Duration, Instant};

/// Contexts of one process that can be managed at a time.
pub(crate) const ENTRIES: usize = 64;
/// Threads, by number, that have a pin of their own.
const OWN_PINS: usize = 256;

#[repr(align(64))]
struct Entry<T> {
    /// 0 while the entry is free or leaving.
    context: AtomicU64,
    pins: AtomicU32,
    /// Null if the entry is free, or if nothing belongs to the context: it is known, and unmanaged.
    value: AtomicPtr<T>,
}

/// A thread's own pin: the index of the entry, counted from 1; 0 if it uses none.
#[repr(align(64))]
struct OwnPin(AtomicU32);

/// The table.
pub(crate) struct Table<T> {
    entries: [Entry<T>; ENTRIES],
    /// By number of the thread; empty if the kernel offers no barrier.
    own_pins: Box<[OwnPin]>,
    /// Entries from here on were never used.
    used: AtomicUsize,
}

/// What the table knows about a context.
pub(crate) enum Found<'a, T> {
    /// Nothing.
    Unknown,
    /// That it is left alone.
    Unmanaged,
    /// What belongs to it.
    Managed(Pinned<'a, T>),
}

/// The table has no free entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process has more than {ENTRIES} CUDA contexts")]
pub(crate) struct Full;

/// An entry in use by a reader.
pub(crate) struct Pinned<'a, T> {
    pin: Pin<'a>,
    value: &'a T,
}

/// What keeps an entry.
#[derive(Clone, Copy)]
pub(crate) enum Pin<'a> {
    /// One of so many.
    Counted(&'a AtomicU32),
    /// The thread's.
    Own(&'a AtomicU32),
}

impl<T> std::ops::Deref for Pinned<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<'a, T> Pinned<'a, T> {
    /// Takes it apart, for a place that can hold nothing that has to be dropped. Whoever has the parts
    /// makes a `Pinned` of them again, once.
    #[inline]
    pub(crate) fn into_parts(self) -> (Pin<'a>, &'a T) {
        let parts = (self.pin, self.value);
        std::mem::forget(self);
        parts
    }

    /// Puts the parts together again.
    #[inline]
    pub(crate) fn from_parts((pin, value): (Pin<'a>, &'a T)) -> Self {
        Self { pin, value }
    }
}

impl<T> Drop for Pinned<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match self.pin {
            Pin::Counted(pins) => {
                pins.fetch_sub(1, Ordering::Release);
            }
            Pin::Own(pin) => pin.store(0, Ordering::Release),
        }
    }
}

impl<T> Table<T> {
    /// Makes an empty table.
    pub(crate) fn new() -> Self {
        let own_pins = if barrier::register() { OWN_PINS } else { 0 };
        Self::with_own_pins(own_pins)
    }

    fn with_own_pins(count: usize) -> Self {
        Self {
            own_pins: (0..count).map(|_| OwnPin(AtomicU32::new(0))).collect(),
            entries: [const {
                Entry {
                    context: AtomicU64::new(0),
                    pins: AtomicU32::new(0),
                    value: AtomicPtr::new(ptr::null_mut()),
                }
            }; ENTRIES],
            used: AtomicUsize::new(0),
        }
    }

    /// Finds what belongs to a context, and pins it.
    #[inline]
    pub(crate) fn find(&self, context: u64) -> Found<'_, T> {
        if context == 0 {
            return Found::Unknown;
        }
        for entry in self.in_use() {
            if entry.context.load(Ordering::Acquire) != context {
                continue;
            }
            // `remove` first clears the context and then looks at the pins; this pins first and
            // then looks at the context. One of the two sees the other (both are SeqCst).
            entry.pins.fetch_add(1, Ordering::SeqCst);
            if entry.context.load(Ordering::SeqCst) == context {
                let value = entry.value.load(Ordering::Acquire);
                // SAFETY: a value is freed only after its context was cleared and no pin was left.
                if let Some(value) = unsafe { value.as_ref() } {
                    let pin = Pin::Counted(&entry.pins);
                    return Found::Managed(Pinned { pin, value });
                }
                entry.pins.fetch_sub(1, Ordering::Release);
                return Found::Unmanaged;
            }
            entry.pins.fetch_sub(1, Ordering::Release);
        }
        Found::Unknown
    }

    /// Finds what belongs to a context, and pins it for the thread of this number, which has no such
    /// pin now and gets no other until it has given this one back.
    #[inline]
    pub(crate) fn find_for(&self, thread: u64, context: u64) -> Found<'_, T> {
        let own = usize::try_from(thread)
            .ok()
            .and_then(|n| self.own_pins.get(n));
        let Some(OwnPin(own)) = own else {
            return self.find(context);
        };
        if context == 0 {
            return Found::Unknown;
        }
        debug_assert_eq!(own.load(Ordering::Relaxed), 0, "one pin at a time");
        for (number, entry) in (1..).zip(self.in_use()) {
            if entry.context.load(Ordering::Acquire) != context {
                continue;
            }
            // `remove` first clears the context, then has every thread go through a barrier, and then
            // looks at the pins. Either this thread's barrier comes after this store, and `remove`
            // sees it, or before the next load, which then sees the context gone. The compiler, too,
            // has to keep the order.
            own.store(number, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            if entry.context.load(Ordering::Acquire) == context {
                let value = entry.value.load(Ordering::Acquire);
                // SAFETY: a value is freed only after its context was cleared and no pin was left.
                if let Some(value) = unsafe { value.as_ref() } {
                    let pin = Pin::Own(own);
                    return Found::Managed(Pinned { pin, value });
                }
                own.store(0, Ordering::Release);
                return Found::Unmanaged;
            }
            own.store(0, Ordering::Release);
        }
        Found::Unknown
    }

    /// Returns the contexts in the table.
    pub(crate) fn contexts(&self) -> impl Iterator<Item = u64> + '_ {
        self.in_use()
            .iter()
            .map(|entry| entry.context.load(Ordering::Acquire))
            .filter(|context| *context != 0)
    }

    /// Adds a context with what belongs to it, or as one that is left alone.
    pub(crate) fn insert(&self, context: u64, value: Option<Box<T>>) -> Result<(), Full> {
        let free = self.entries.iter().position(|entry| {
            entry.context.load(Ordering::Relaxed) == 0
                && entry.value.load(Ordering::Relaxed).is_null()
        });
        let index = free.ok_or(Full)?;
        let entry = &self.entries[index];
        entry.value.store(
            value.map_or(ptr::null_mut(), Box::into_raw),
            Ordering::Release,
        );
        entry.context.store(context, Ordering::SeqCst);
        self.used.fetch_max(index + 1, Ordering::Release);
        Ok(())
    }

    /// Takes a context out and returns what belonged to it, once no reader uses it any more; nothing
    /// if there was nothing, or if somebody still uses it when the time is up.
    pub(crate) fn remove(&self, context: u64, limit: Duration) -> Option<Box<T>> {
        let (number, entry) = (1..)
            .zip(self.in_use())
            .find(|(_, entry)| entry.context.load(Ordering::Relaxed) == context)?;
        entry.context.store(0, Ordering::SeqCst);
        if !self.own_pins.is_empty() {
            barrier::all_threads();
        }
        let is_pinned = || {
            let uses = |OwnPin(own): &OwnPin| own.load(Ordering::Acquire) == number;
            entry.pins.load(Ordering::SeqCst) != 0 || self.own_pins.iter().any(uses)
        };
        let deadline = Instant::now() + limit;
        while is_pinned() {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::yield_now();
        }
        let value = entry.value.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: it came from `Box::into_raw` in `insert`; no reader has it (no pins), none will get
        // it (the context was cleared before), and the swap gives it to us alone.
        (!value.is_null()).then(|| unsafe { Box::from_raw(value) })
    }

    #[inline]
    fn in_use(&self) -> &[Entry<T>] {
        &self.entries[..self.used.load(Ordering::Acquire).min(ENTRIES)]
    }
}

/// A barrier that one thread has all threads of the process go through.
mod barrier {
    use libc::{c_int, c_uint, c_ulong};

    /// Says that this process is going to use it; returns whether the kernel offers it.
    pub(super) fn register() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    /// Has all threads go through it: whatever a thread did before it is seen after this returns.
    pub(super) fn all_threads() {
        let is_done = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        debug_assert!(is_done, "a registered process may always");
    }

    fn membarrier(command: c_int) -> bool {
        let no_flags: c_uint = 0;
        // SAFETY: the call has these arguments and touches no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command as c_ulong, no_flags, 0) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    struct Value {
        context: u64,
        alive: AtomicBool,
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.alive.store(false, Ordering::SeqCst);
        }
    }

    const SOON: Duration = Duration::from_secs(30);

    fn value(table: &Table<u64>, context: u64) -> Option<u64> {
        match table.find(context) {
            Found::Managed(value) => Some(*value),
            Found::Unmanaged => Some(0),
            Found::Unknown => None,
        }
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_taken_out() {
        let table = Table::new();
        assert_eq!(value(&table, 5), None);
        table.insert(5, Some(Box::new(50))).expect("room");
        table.insert(6, None).expect("room");
        assert_eq!((value(&table, 5), value(&table, 6)), (Some(50), Some(0)));
        assert_eq!(value(&table, 0), None, "no context is NULL");
        assert_eq!(value(&table, 7), None);
        assert_eq!(table.contexts().collect::<Vec<_>>(), [5, 6]);
        assert_eq!(table.remove(5, SOON).as_deref(), Some(&50));
        assert_eq!(table.remove(6, SOON), None);
        assert_eq!(table.remove(6, SOON), None);
        assert_eq!((value(&table, 5), value(&table, 6)), (None, None));
    }

    #[test]
    fn a_handle_that_is_used_again_finds_the_new_value() {
        let table = Table::new();
        for round in 1..1000 {
            table.insert(5, Some(Box::new(round))).expect("room");
            assert_eq!(value(&table, 5), Some(round));
            assert_eq!(table.remove(5, SOON).as_deref(), Some(&round));
        }
    }

    #[test]
    fn a_full_table_says_so_and_has_room_again() {
        let table = Table::new();
        for context in 1..=ENTRIES as u64 {
            table
                .insert(context, Some(Box::new(context)))
                .expect("room");
        }
        assert_eq!(table.insert(1000, None), Err(Full));
        table.remove(7, SOON).expect("7 was in");
        table.insert(1000, Some(Box::new(1))).expect("room");
        assert_eq!(value(&table, 1000), Some(1));
        for context in (1..=ENTRIES as u64).filter(|context| *context != 7) {
            assert_eq!(table.remove(context, SOON).as_deref(), Some(&context));
        }
        table.remove(1000, SOON).expect("1000 was in");
    }

    #[test]
    fn what_is_in_use_for_too_long_is_left_where_it_is() {
        let table: Table<u64> = Table::new();
        table.insert(5, Some(Box::new(50))).expect("room");
        let Found::Managed(pinned) = table.find(5) else {
            panic!("5 is in");
        };
        assert_eq!(table.remove(5, Duration::ZERO), None);
        assert_eq!(value(&table, 5), None, "nobody new finds it");
        assert_eq!(*pinned, 50, "but who has it keeps it");
        table.insert(5, Some(Box::new(51))).expect("room elsewhere");
        assert_eq!((value(&table, 5), *pinned), (Some(51), 50));
    }

    #[test]
    fn a_threads_own_pin_keeps_an_entry() {
        let table: Table<u64> = Table::new();
        table.insert(5, Some(Box::new(50))).expect("room");
        table.insert(6, None).expect("room");
        assert!(matches!(table.find_for(1, 0), Found::Unknown));
        assert!(matches!(table.find_for(1, 7), Found::Unknown));
        assert!(matches!(table.find_for(1, 6), Found::Unmanaged));
        let Found::Managed(pinned) = table.find_for(1, 5) else {
            panic!("5 is in");
        };
        assert_eq!(*pinned, 50);
        assert!(table.remove(6, Duration::ZERO).is_none());
        table.insert(7, Some(Box::new(70))).expect("room");
        let other = table.remove(7, Duration::ZERO);
        assert_eq!(other.as_deref(), Some(&70), "that pin is of another entry");
        let parts = pinned.into_parts();
        assert_eq!(table.remove(5, Duration::ZERO), None);
        assert_eq!(*parts.1, 50, "who has it keeps it");
        drop(Pinned::from_parts(parts));
        table.insert(8, Some(Box::new(80))).expect("room");
        let Found::Managed(again) = table.find_for(1, 8) else {
            panic!("8 is in");
        };
        drop(again);
        assert_eq!(table.remove(8, Duration::ZERO).as_deref(), Some(&80));
    }

    #[test]
    fn a_thread_without_a_pin_of_its_own_counts() {
        let table: Table<u64> = Table::with_own_pins(2);
        table.insert(5, Some(Box::new(50))).expect("room");
        for thread in [1, 2, u64::MAX] {
            let Found::Managed(pinned) = table.find_for(thread, 5) else {
                panic!("5 is in");
            };
            assert_eq!(matches!(pinned.pin, Pin::Own(_)), thread < 2);
        }
        assert_eq!(table.remove(5, Duration::ZERO).as_deref(), Some(&50));
    }

    #[test]
    fn readers_race_with_contexts_that_come_and_go() {
        race(&Table::with_own_pins(0));
    }

    #[test]
    fn readers_with_pins_of_their_own_race_with_contexts_that_come_and_go() {
        assert!(barrier::register(), "Linux has had it since 4.14");
        race(&Table::with_own_pins(4));
    }

    /// Readers never see a value after it was freed, nor that of another context.
    fn race(table: &Table<Value>) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for thread in 1..4 {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        for context in 1..4 {
                            if let Found::Managed(value) = table.find_for(thread, context) {
                                assert_eq!(value.context, context);
                                assert!(value.alive.load(Ordering::SeqCst));
                            }
                        }
                    }
                });
            }
            for round in 0..20_000 {
                let context = round % 3 + 1;
                let alive = AtomicBool::new(true);
                let value = Box::new(Value { context, alive });
                table.insert(context, Some(value)).expect("room");
                table.remove(context, SOON).expect("readers are quick");
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
