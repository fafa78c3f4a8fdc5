// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sets of TPCs, by the numbers that descriptors use for them.
//!
//! A descriptor has 128 bits for TPCs. The numbers are neither dense nor physical: which exist
//! has to be discovered. A [`TpcMask`] says which TPCs a launch *may* use; the hardware wants the
//! opposite, the bits of those it may not use ([`TpcMask::disable_words`]).

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not, Sub, SubAssign};
use core::str::FromStr;

/// A set of TPCs.
///
/// Shown and parsed as a list of numbers and ranges: `0-3,9-16,75`; the empty set is `none`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TpcMask(u128);

impl TpcMask {
    /// The number of TPCs that a descriptor can name: they are 0 to 127.
    pub const BITS: u32 = u128::BITS;
    /// No TPC.
    pub const EMPTY: TpcMask = TpcMask(0);
    /// Every TPC that can be named.
    pub const ALL: TpcMask = TpcMask(u128::MAX);

    /// The set whose TPC `n` is bit `n % 64` of element `n / 64`.
    #[inline]
    pub const fn from_bits([low, high]: [u64; 2]) -> Self {
        TpcMask(low as u128 | (high as u128) << 64)
    }

    /// The set as bits: TPC `n` is bit `n % 64` of element `n / 64`.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each cast takes the half that it names"
    )]
    pub const fn bits(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    /// The set that a descriptor's `TPC_DISABLE_MASK` leaves allowed.
    #[inline]
    pub const fn from_disable_words([a, b, c, d]: [u32; 4]) -> Self {
        TpcMask(!(a as u128 | (b as u128) << 32 | (c as u128) << 64 | (d as u128) << 96))
    }

    /// The set as a descriptor's `TPC_DISABLE_MASK`: a bit for each TPC that is *not* in it.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each cast takes the quarter that it names"
    )]
    pub const fn disable_words(self) -> [u32; 4] {
        let disabled = !self.0;
        [
            disabled as u32,
            (disabled >> 32) as u32,
            (disabled >> 64) as u32,
            (disabled >> 96) as u32,
        ]
    }

    /// The set of one TPC.
    ///
    /// # Panics
    ///
    /// If `tpc` is 128 or more.
    #[must_use]
    pub const fn single(tpc: u32) -> Self {
        assert!(tpc < Self::BITS);
        TpcMask(1 << tpc)
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of TPCs in the set.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether TPC `tpc` is in the set.
    pub const fn contains(self, tpc: u32) -> bool {
        tpc < Self::BITS && self.0 >> tpc & 1 == 1
    }

    /// Adds a TPC.
    ///
    /// # Panics
    ///
    /// If `tpc` is 128 or more.
    pub const fn insert(&mut self, tpc: u32) {
        self.0 |= Self::single(tpc).0;
    }

    /// Takes a TPC out, if it is in.
    ///
    /// # Panics
    ///
    /// If `tpc` is 128 or more.
    pub const fn remove(&mut self, tpc: u32) {
        self.0 &= !Self::single(tpc).0;
    }

    /// Whether every TPC of this set is in `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether the two sets have no TPC in common.
    pub const fn is_disjoint(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }

    /// The lowest TPC.
    pub const fn first(self) -> Option<u32> {
        if self.is_empty() {
            None
        } else {
            Some(self.0.trailing_zeros())
        }
    }

    /// The TPCs in rising order.
    pub fn iter(self) -> Iter {
        Iter(self)
    }

    /// The `count` lowest TPCs of the set, or all if there are fewer.
    #[must_use]
    pub fn lowest(self, count: u32) -> Self {
        self.iter().take(count as usize).collect()
    }
}

/// The TPCs of a set in rising order.
#[derive(Clone, Debug)]
pub struct Iter(TpcMask);

impl Iterator for Iter {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let tpc = self.0.first()?;
        self.0.remove(tpc);
        Some(tpc)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.count() as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter {}

impl IntoIterator for TpcMask {
    type Item = u32;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl FromIterator<u32> for TpcMask {
    fn from_iter<I: IntoIterator<Item = u32>>(tpcs: I) -> Self {
        let mut set = Self::EMPTY;
        for tpc in tpcs {
            set.insert(tpc);
        }
        set
    }
}

impl BitAnd for TpcMask {
    type Output = Self;
    #[inline]
    fn bitand(self, other: Self) -> Self {
        TpcMask(self.0 & other.0)
    }
}

impl BitOr for TpcMask {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        TpcMask(self.0 | other.0)
    }
}

impl Not for TpcMask {
    type Output = Self;
    #[inline]
    fn not(self) -> Self {
        TpcMask(!self.0)
    }
}

/// Those of the first that are not in the second.
impl Sub for TpcMask {
    type Output = Self;
    #[inline]
    fn sub(self, other: Self) -> Self {
        self & !other
    }
}

impl BitAndAssign for TpcMask {
    fn bitand_assign(&mut self, other: Self) {
        *self = *self & other;
    }
}

impl BitOrAssign for TpcMask {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl SubAssign for TpcMask {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Display for TpcMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        let mut tpc = 0;
        while tpc < Self::BITS {
            if !self.contains(tpc) {
                tpc += 1;
                continue;
            }
            let first = tpc;
            while self.contains(tpc + 1) {
                tpc += 1;
            }
            if first == tpc {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{tpc}")?;
            }
            separator = ",";
            tpc += 1;
        }
        Ok(())
    }
}

impl fmt::Debug for TpcMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpcMask({self})")
    }
}

/// Why a text is not a set of TPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something is neither a number nor two numbers with a hyphen between them.
    #[error("expected TPC numbers and ranges such as 0-3,9-16, or `none`")]
    Syntax,
    /// A number is too great.
    #[error("a launch descriptor can name the TPCs 0 to 127, no others")]
    NoSuchTpc,
    /// A range ends before it begins.
    #[error("the range {0}-{1} ends before it begins")]
    Backwards(u32, u32),
}

impl FromStr for TpcMask {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text == "none" {
            return Ok(Self::EMPTY);
        }
        let mut set = Self::EMPTY;
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(ParseError::Backwards(first, last));
            }
            for tpc in first..=last {
                set.insert(tpc);
            }
        }
        Ok(set)
    }
}

/// Reads the number of a TPC.
fn number(text: &str) -> Result<u32, ParseError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Syntax);
    }
    match text.parse() {
        Ok(tpc) if tpc < TpcMask::BITS => Ok(tpc),
        _ => Err(ParseError::NoSuchTpc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_mask() -> impl Strategy<Value = TpcMask> {
        any::<[u64; 2]>().prop_map(TpcMask::from_bits)
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_set(mask in any_mask(), sparse in any_mask()) {
            for mask in [mask, mask & sparse, mask - mask, !(mask - mask)] {
                prop_assert_eq!(mask.to_string().parse(), Ok(mask));
            }
        }

        #[test]
        fn the_hardware_words_are_the_complement(mask in any_mask()) {
            let words = mask.disable_words();
            for tpc in 0..128 {
                let disabled = words[tpc as usize / 32] >> (tpc % 32) & 1 == 1;
                prop_assert_eq!(disabled, !mask.contains(tpc));
            }
            prop_assert_eq!(TpcMask::from_disable_words(words), mask);
        }

        #[test]
        fn set_algebra_agrees_with_membership(a in any_mask(), b in any_mask()) {
            for tpc in 0..128 {
                let (in_a, in_b) = (a.contains(tpc), b.contains(tpc));
                prop_assert_eq!((a & b).contains(tpc), in_a && in_b);
                prop_assert_eq!((a | b).contains(tpc), in_a || in_b);
                prop_assert_eq!((a - b).contains(tpc), in_a && !in_b);
                prop_assert_eq!((!a).contains(tpc), !in_a);
            }
            prop_assert_eq!(a.is_subset(b), (a - b).is_empty());
            prop_assert_eq!(a.is_disjoint(b), (a & b).is_empty());
            prop_assert!((a & b).is_subset(a) && (a - b).is_disjoint(b));
        }

        #[test]
        fn iteration_rises_and_is_complete(mask in any_mask(), count in 0_u32..140) {
            let tpcs: Vec<u32> = mask.iter().collect();
            prop_assert_eq!(tpcs.len(), mask.iter().len());
            prop_assert_eq!(mask.count() as usize, tpcs.len());
            prop_assert!(tpcs.is_sorted());
            prop_assert_eq!(tpcs.iter().copied().collect::<TpcMask>(), mask);
            prop_assert_eq!(tpcs.first().copied(), mask.first());
            let lowest = mask.lowest(count);
            prop_assert!(lowest.is_subset(mask));
            prop_assert_eq!(lowest.count(), count.min(mask.count()));
        }
    }

    #[test]
    fn the_list_of_an_h100_reads_as_in_the_notes() {
        let text = "0-3,9-16,18-25,27-34,36-43,45-52,54-71,75,78";
        let mask: TpcMask = text.parse().unwrap();
        assert_eq!(mask.count(), 64);
        assert_eq!(mask.to_string(), text);
        assert_eq!(" 3, 1 - 2 ".parse(), Ok("1-3".parse::<TpcMask>().unwrap()));
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_reason() {
        for text in ["", ",", "1,", "a", "1-", "-1", "+1", "1-2-3", "0x1"] {
            assert_eq!(text.parse::<TpcMask>(), Err(ParseError::Syntax), "{text}");
        }
        for text in ["128", "0-128", "99999999999"] {
            assert_eq!(
                text.parse::<TpcMask>(),
                Err(ParseError::NoSuchTpc),
                "{text}"
            );
        }
        assert_eq!("9-3".parse::<TpcMask>(), Err(ParseError::Backwards(9, 3)));
    }
}
