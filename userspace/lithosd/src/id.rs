// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Ids that carry a generation, so that a stale one never names somebody else.
//!
//! The low 20 bits are a place, from 1 on, the bits above its generation. Places are used again, ids
//! are not; the first use of each place gives small numbers that people can read.

const PLACE_BITS: u32 = 20;

/// Gives out ids of one kind.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// The next id of each place.
    next: Vec<u64>,
    free: Vec<usize>,
}

impl Ids {
    /// Takes a free id, or none if all places are in use.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = self.next.len();
                let first = u64::try_from(place).ok()? + 1;
                if first >= 1 << PLACE_BITS {
                    return None;
                }
                self.next.push(first);
                place
            }
        };
        self.next.get(place).copied()
    }

    /// Gives an id back. Its place will have another.
    pub(crate) fn give_back(&mut self, id: u64) {
        let place = self.next.iter().position(|&next| next == id);
        if let Some(place) = place {
            self.next[place] += 1 << PLACE_BITS;
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_given_out_again() {
        let mut ids = Ids::default();
        assert_eq!((ids.take(), ids.take()), (Some(1), Some(2)));
        ids.give_back(1);
        let again = ids.take().unwrap();
        assert_eq!(again, (1 << PLACE_BITS) + 1);
        ids.give_back(1);
        assert_eq!(ids.take(), Some(3));
    }
}
