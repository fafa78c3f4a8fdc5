// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A set of TPCs, by the bits that stand for them in a TPC mask (0 to 127).
//!
//! Here a bit that is *set* means that the TPC is in the set; the masks in launch descriptors say
//! the opposite (a set bit disables), and turning one into the other is not the policy's business.

use std::fmt;
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// A set of TPCs. A bit above 127 is in no set.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct TpcSet(u128);

impl TpcSet {
    /// The set without TPCs.
    pub const EMPTY: Self = Self(0);

    /// The set of one TPC.
    pub const fn single(bit: u8) -> Self {
        match 1_u128.checked_shl(bit as u32) {
            Some(mask) => Self(mask),
            None => Self::EMPTY,
        }
    }

    /// The set whose bits 0 to 63 are in the first word and 64 to 127 in the second.
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words[0] as u128 | (words[1] as u128) << 64)
    }

    /// Bits 0 to 63 and bits 64 to 127.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half and the high half are what is asked for"
    )]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    /// How many TPCs are in the set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is no TPC in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a TPC is in the set.
    pub const fn contains(self, bit: u8) -> bool {
        self.0 & Self::single(bit).0 != 0
    }

    /// Whether all TPCs of this set are in the other.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether no TPC is in both sets.
    pub const fn is_disjoint(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }

    /// Adds a TPC.
    pub fn insert(&mut self, bit: u8) {
        self.0 |= Self::single(bit).0;
    }

    /// Takes a TPC out.
    pub fn remove(&mut self, bit: u8) {
        self.0 &= !Self::single(bit).0;
    }

    /// The TPC with the lowest bit.
    pub fn first(self) -> Option<u8> {
        u8::try_from(self.0.trailing_zeros())
            .ok()
            .filter(|&bit| bit < 128)
    }

    /// The `count` TPCs with the lowest bits, or all if there are fewer.
    pub fn lowest(self, count: u32) -> Self {
        let mut rest = self.0;
        for _ in 0..count.min(self.len()) {
            rest &= rest.wrapping_sub(1);
        }
        Self(self.0 & !rest)
    }

    /// The TPCs of the set in rising order of their bits.
    pub fn iter(self) -> impl Iterator<Item = u8> + Clone {
        (0..128).filter(move |&bit| self.contains(bit))
    }
}

impl BitOr for TpcSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for TpcSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for TpcSet {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOrAssign for TpcSet {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl BitAndAssign for TpcSet {
    fn bitand_assign(&mut self, other: Self) {
        *self = *self & other;
    }
}

impl SubAssign for TpcSet {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl FromIterator<u8> for TpcSet {
    fn from_iter<I: IntoIterator<Item = u8>>(bits: I) -> Self {
        let mut set = Self::EMPTY;
        for bit in bits {
            set.insert(bit);
        }
        set
    }
}

impl From<Vec<u8>> for TpcSet {
    fn from(bits: Vec<u8>) -> Self {
        bits.into_iter().collect()
    }
}

impl From<TpcSet> for Vec<u8> {
    fn from(set: TpcSet) -> Self {
        set.iter().collect()
    }
}

/// Writes runs of bits, as in `0-3,9,12-14`; a dash if there are none.
impl fmt::Display for TpcSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for first in self.iter() {
            if first > 0 && self.contains(first - 1) {
                continue;
            }
            let last = (first..128).take_while(|&bit| self.contains(bit)).last();
            match last {
                Some(last) if last > first => write!(f, "{separator}{first}-{last}")?,
                _ => write!(f, "{separator}{first}")?,
            }
            separator = ",";
        }
        if separator.is_empty() {
            f.write_str("-")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TpcSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_prints_as_runs_of_bits() {
        let set: TpcSet = [0, 1, 2, 3, 9, 12, 13, 14, 127].into_iter().collect();
        assert_eq!(set.to_string(), "0-3,9,12-14,127");
        assert_eq!(TpcSet::EMPTY.to_string(), "-");
    }

    #[test]
    fn words_hold_the_low_and_the_high_bits() {
        let set: TpcSet = [0, 63, 64, 127].into_iter().collect();
        assert_eq!(set.words(), [1 | 1 << 63, 1 | 1 << 63]);
        assert_eq!(TpcSet::from_words(set.words()), set);
    }

    #[test]
    fn a_bit_above_127_is_in_no_set() {
        let mut set = TpcSet::single(128);
        set.insert(200);
        assert!(set.is_empty());
        assert!(!set.contains(200));
        assert_eq!(set.first(), None);
    }

    #[test]
    fn the_lowest_of_a_set_are_taken_in_order() {
        let set: TpcSet = [3, 5, 70, 90].into_iter().collect();
        assert_eq!(set.lowest(0), TpcSet::EMPTY);
        assert_eq!(set.lowest(3).iter().collect::<Vec<_>>(), [3, 5, 70]);
        assert_eq!(set.lowest(9), set);
        assert_eq!(set.lowest(u32::MAX), set);
    }
}
