// SPDX-License-Identifier: GPL-2.0
//! Places with generations: what an id names, found at once, and never confused with what had the place
//! before.
//!
//! ```text
//!   id  =  generation (32 bits)  |  place (16 bits)
//! ```
//!
//! A place is used again as late as possible (the free ones queue), and with the next generation. Of all
//! generations none is used twice: a place that has had them all stays empty.
//!
//! Pure arithmetic over a slice that the caller allocates; tests/kmod compiles it a second time.

use core::marker::PhantomData;
use core::ops::DerefMut;

/// Bits of an id that are the place.
pub(crate) const PLACE_BITS: u32 = 16;
/// The most places that a table can have.
pub(crate) const PLACES_MAX: usize = 1 << PLACE_BITS;
/// No place.
const NONE: u32 = u32::MAX;

/// One place.
pub(crate) struct Place<T> {
    generation: u32,
    next_free: u32,
    /// Taken by somebody who has not put anything there yet.
    reserved: bool,
    value: Option<T>,
}

impl<T> Place<T> {
    /// One that nobody has had.
    pub(crate) const fn new() -> Self {
        Self {
            generation: 1,
            next_free: NONE,
            reserved: false,
            value: None,
        }
    }
}

/// A table over places.
pub(crate) struct Table<T, S> {
    places: S,
    free_first: u32,
    free_last: u32,
    taken: usize,
    values: PhantomData<T>,
}

impl<T, S: DerefMut<Target = [Place<T>]>> Table<T, S> {
    /// A table over places that nobody has had, at most [`PLACES_MAX`].
    pub(crate) fn new(places: S) -> Self {
        let mut table = Self {
            places,
            free_first: NONE,
            free_last: NONE,
            taken: 0,
            values: PhantomData,
        };
        let count = table.places.len().min(PLACES_MAX);
        for place in 0..count {
            table.release(place as u32);
        }
        table
    }

    /// Returns how many places are taken.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    /// Takes a place and returns its id; `None` if all are taken.
    pub(crate) fn reserve(&mut self) -> Option<u64> {
        let place = self.free_first;
        let entry = self.places.get_mut(place as usize)?;
        self.free_first = entry.next_free;
        if self.free_first == NONE {
            self.free_last = NONE;
        }
        entry.next_free = NONE;
        entry.reserved = true;
        self.taken += 1;
        Some(u64::from(entry.generation) << PLACE_BITS | u64::from(place))
    }

    /// Puts something where [`Self::reserve`] took the place. Returns it if the id is not reserved.
    pub(crate) fn put(&mut self, id: u64, value: T) -> Result<(), T> {
        match self.entry_mut(id) {
            Some(entry) if entry.reserved => {
                entry.reserved = false;
                entry.value = Some(value);
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Returns what an id names.
    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let (place, generation) = split(id);
        let entry = self.places.get(place)?;
        if u64::from(entry.generation) != generation {
            return None;
        }
        entry.value.as_ref()
    }

    /// Returns what is at a place.
    pub(crate) fn at(&self, place: usize) -> Option<&T> {
        self.places.get(place)?.value.as_ref()
    }

    /// Frees the place that an id names or reserves, and returns what was there.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let entry = self.entry_mut(id)?;
        if entry.value.is_none() && !entry.reserved {
            return None;
        }
        let value = entry.value.take();
        entry.reserved = false;
        let exhausted = entry.generation == u32::MAX;
        if !exhausted {
            entry.generation += 1;
        }
        self.taken -= 1;
        if !exhausted {
            self.release(split(id).0 as u32);
        }
        value
    }

    /// Returns what comes after an id in the order of places; after 0 the first.
    pub(crate) fn next(&self, id: u64) -> Option<&T> {
        let from = if id == 0 { 0 } else { split(id).0 + 1 };
        self.places
            .get(from..)?
            .iter()
            .find_map(|entry| entry.value.as_ref())
    }

    /// Returns all that is there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|entry| entry.value.as_ref())
    }

    fn entry_mut(&mut self, id: u64) -> Option<&mut Place<T>> {
        let (place, generation) = split(id);
        let entry = self.places.get_mut(place)?;
        (u64::from(entry.generation) == generation).then_some(entry)
    }

    /// Queues a place behind the free ones.
    fn release(&mut self, place: u32) {
        if let Some(last) = self.places.get_mut(self.free_last as usize) {
            last.next_free = place;
        } else {
            self.free_first = place;
        }
        self.free_last = place;
    }
}

fn split(id: u64) -> (usize, u64) {
    ((id & (PLACES_MAX as u64 - 1)) as usize, id >> PLACE_BITS)
}
