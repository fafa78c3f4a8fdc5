// SPDX-License-Identifier: GPL-2.0
//! A fixed number of places, each in a chain by a key: found and left without allocating anything, because
//! those who ask may not.
//!
//! ```text
//!   heads     by hash of the key           free, fresh: places to be had
//!     [0] ──► place ──► place ──► END
//!     [1] ──► END
//! ```
//!
//! Keys of one hash share a chain, so whoever looks through one compares. Places that were had once are
//! had again first: what was never had is the end of all there is to look through.
//!
//! Pure arithmetic over slices that the caller allocates; tests/kmod compiles it a second time.

use core::ops::DerefMut;

/// Where slices come from.
pub(crate) trait Storage {
    /// A slice, allocated.
    type Slice<T: Copy>: DerefMut<Target = [T]>;
}

/// The end of a chain.
const END: u32 = u32::MAX;

/// A place for one value.
#[derive(Clone, Copy)]
pub(crate) struct Place<T> {
    next: u32,
    value: Option<T>,
}

impl<T> Place<T> {
    /// One that nobody has had.
    pub(crate) const EMPTY: Self = Self {
        next: END,
        value: None,
    };
}

/// Values in places.
pub(crate) struct Chains<T: Copy, S: Storage> {
    places: S::Slice<Place<T>>,
    heads: S::Slice<u32>,
    free: u32,
    fresh: usize,
    len: usize,
}

impl<T: Copy, S: Storage> Chains<T, S> {
    /// Nothing, in places that nobody has had, and chains without anything, whose number is a power of two.
    pub(crate) fn new(places: S::Slice<Place<T>>, mut heads: S::Slice<u32>) -> Self {
        heads.fill(END);
        Self {
            places,
            heads,
            free: END,
            fresh: 0,
            len: 0,
        }
    }

    /// Returns how many places there are.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// Returns how many places are left.
    pub(crate) fn room(&self) -> usize {
        self.places.len() - self.len
    }

    /// Takes a value in; returns where it is, or nothing if there is no room.
    pub(crate) fn insert(&mut self, key: u64, value: T) -> Option<u32> {
        let at = match self.places.get(self.free as usize) {
            Some(place) => {
                let at = self.free;
                self.free = place.next;
                at
            }
            None if self.fresh < self.places.len() => {
                self.fresh += 1;
                self.fresh as u32 - 1
            }
            None => return None,
        };
        let head = self.head(key);
        self.places[at as usize] = Place {
            next: self.heads[head],
            value: Some(value),
        };
        self.heads[head] = at;
        self.len += 1;
        Some(at)
    }

    /// Lets values go that are in the chain of a key, and gives them to `gone`.
    pub(crate) fn remove_where(
        &mut self,
        key: u64,
        goes: impl Fn(&T) -> bool,
        mut gone: impl FnMut(T),
    ) {
        let head = self.head(key);
        let mut before = END;
        let mut at = self.heads[head];
        while let Some(place) = self.places.get_mut(at as usize) {
            let next = place.next;
            match place.value.filter(|value| goes(value)) {
                Some(value) => {
                    *place = Place {
                        next: self.free,
                        value: None,
                    };
                    self.free = at;
                    self.len -= 1;
                    match self.places.get_mut(before as usize) {
                        Some(before) => before.next = next,
                        None => self.heads[head] = next,
                    }
                    gone(value);
                }
                None => before = at,
            }
            at = next;
        }
    }

    /// Returns what is at a place.
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.places.get(at as usize)?.value.as_ref()
    }

    /// Returns what is at a place.
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.places.get_mut(at as usize)?.value.as_mut()
    }

    /// Returns what has this key, and whatever shares its chain, with where it is.
    pub(crate) fn chain(&self, key: u64) -> impl Iterator<Item = (u32, &T)> {
        let mut at = self.heads[self.head(key)];
        core::iter::from_fn(move || {
            let place = self.places.get(at as usize)?;
            let found = (at, place.value.as_ref()?);
            at = place.next;
            Some(found)
        })
    }

    /// Returns all there is, with where it is.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let had = self.places[..self.fresh].iter();
        had.enumerate()
            .filter_map(|(at, place)| Some((at as u32, place.value.as_ref()?)))
    }

    /// Returns the end of the places that were ever had.
    pub(crate) fn end(&self) -> u32 {
        self.fresh as u32
    }

    /// Lets everything go.
    pub(crate) fn clear(&mut self) {
        self.heads.fill(END);
        self.places[..self.fresh].fill(Place::EMPTY);
        self.free = END;
        self.fresh = 0;
        self.len = 0;
    }

    fn head(&self, key: u64) -> usize {
        // Fibonacci hashing: the product's high bits depend on all of the key's.
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & self.heads.len().wrapping_sub(1)
    }
}
