// SPDX-License-Identifier: GPL-2.0
//! A queue of so many events, which says how many found no room.
//!
//! When it is full the oldest stay and what is new is lost: what is there can be acted upon, and that
//! something is missing is told before the next that comes. Who was told looks for himself what there is.
//!
//! Pure arithmetic over a slice that the caller allocates; tests/kmod compiles it a second time.

use core::ops::DerefMut;

/// A bounded queue.
pub(crate) struct Queue<S> {
    places: S,
    first: usize,
    len: usize,
    lost: u64,
}

impl<T: Copy, S: DerefMut<Target = [T]>> Queue<S> {
    /// An empty queue with room for as many as there are places.
    pub(crate) fn new(places: S) -> Self {
        Self {
            places,
            first: 0,
            len: 0,
            lost: 0,
        }
    }

    /// Returns whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.lost == 0
    }

    /// Appends one, or counts it as lost. While any is lost nothing is appended, so that what is lost
    /// is told where it is missing.
    pub(crate) fn push(&mut self, value: T) -> bool {
        let room = self.places.len();
        if self.len == room || self.lost > 0 {
            self.lost = self.lost.saturating_add(1);
            return false;
        }
        let at = (self.first + self.len) % room;
        self.places[at] = value;
        self.len += 1;
        true
    }

    /// Counts one as lost that was taken and went nowhere.
    pub(crate) fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// Takes the oldest; when there is none, what `lost` makes of the number of those that are missing.
    pub(crate) fn pop(&mut self, lost: impl FnOnce(u64) -> T) -> Option<T> {
        if self.len == 0 {
            let missing = core::mem::take(&mut self.lost);
            return (missing > 0).then(|| lost(missing));
        }
        let value = self.places[self.first];
        self.first = (self.first + 1) % self.places.len();
        self.len -= 1;
        Some(value)
    }
}
