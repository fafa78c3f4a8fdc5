// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A field: a named range of bits in a launch descriptor.
//!
//! A descriptor is an array of little-endian 32-bit words, and bit `n` of it is bit `n % 32` of
//! word `n / 32`. NVIDIA's headers write a field as `hi:lo`, both included; here it is the same.
//! Some fields repeat ("release semaphore `i`"): such a field stands for its element 0, and
//! [`Field::at`] names the others.
//!
//! Everything here is `const`, so that a field that is known when compiling costs a load, a shift
//! and a mask.

use core::fmt;

/// How often a field repeats, and how far apart its elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repeat {
    /// Number of elements.
    pub count: u16,
    /// Bits from the beginning of one to the beginning of the next.
    pub stride: u16,
}

impl Repeat {
    const ONCE: Self = Repeat {
        count: 1,
        stride: 0,
    };
}

/// A value that has more bits than the field it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:#x} does not fit into the {width} bits of {field}")]
pub struct TooWide {
    /// The field's name.
    pub field: &'static str,
    /// Its width in bits.
    pub width: u32,
    /// The value that was refused.
    pub value: u64,
}

/// A named range of at most 64 bits, perhaps repeated in one or two directions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field {
    name: &'static str,
    lo: u16,
    width: u16,
    repeats: [Repeat; 2],
}

impl Field {
    /// The field `hi:lo`.
    ///
    /// # Panics
    ///
    /// If `hi` is below `lo` or the field is wider than 64 bits.
    pub const fn new(name: &'static str, hi: u16, lo: u16) -> Self {
        assert!(hi >= lo && hi - lo < 64);
        Field {
            name,
            lo,
            width: hi - lo + 1,
            repeats: [Repeat::ONCE; 2],
        }
    }

    /// The field from the lowest bit of `lower` to the highest of `upper`; it does not repeat.
    pub(crate) const fn spanning(name: &'static str, lower: Field, upper: Field) -> Self {
        Field::new(name, upper.lo + upper.width - 1, lower.lo)
    }

    /// This field `count` times, every `stride` bits. The first call gives the index that the
    /// header calls `i`, a second call `j`.
    ///
    /// # Panics
    ///
    /// If it repeats twice already, or never.
    #[must_use]
    pub const fn repeated(mut self, count: u16, stride: u16) -> Self {
        assert!(count > 0 && self.repeats[1].count == 1);
        let index = if self.repeats[0].count == 1 { 0 } else { 1 };
        self.repeats[index] = Repeat { count, stride };
        self
    }

    /// NVIDIA's name of the field, without class and version.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The lowest bit (of element 0).
    #[inline(always)]
    pub const fn lo(&self) -> u32 {
        self.lo as u32
    }

    /// The highest bit (of element 0), which still belongs to the field.
    #[inline(always)]
    pub const fn hi(&self) -> u32 {
        (self.lo + self.width - 1) as u32
    }

    /// The number of bits of one element.
    #[inline(always)]
    pub const fn width(&self) -> u32 {
        self.width as u32
    }

    /// How the field repeats in the direction `i` and in the direction `j`.
    pub const fn repeats(&self) -> [Repeat; 2] {
        self.repeats
    }

    /// The number of elements: 1 for most fields.
    pub const fn count(&self) -> u32 {
        self.repeats[0].count as u32 * self.repeats[1].count as u32
    }

    /// The greatest value that fits.
    pub const fn max(&self) -> u64 {
        low_bits(self.width as u32)
    }

    /// Element `i` of a repeated field.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    #[must_use]
    #[inline(always)]
    pub const fn at(self, i: u16) -> Field {
        self.at2(i, 0)
    }

    /// Element `(i, j)` of a field that repeats in two directions.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    #[must_use]
    #[inline(always)]
    pub const fn at2(self, i: u16, j: u16) -> Field {
        let [by_i, by_j] = self.repeats;
        assert!(i < by_i.count && j < by_j.count, "no such element");
        Field {
            name: self.name,
            lo: self.lo + i * by_i.stride + j * by_j.stride,
            width: self.width,
            repeats: [Repeat::ONCE; 2],
        }
    }

    /// All elements, `j` running faster.
    pub fn elements(self) -> impl Iterator<Item = Field> {
        let [by_i, by_j] = self.repeats;
        (0..by_i.count).flat_map(move |i| (0..by_j.count).map(move |j| self.at2(i, j)))
    }

    /// Reads the field (its element 0).
    ///
    /// # Panics
    ///
    /// If `words` ends before the field.
    #[inline(always)]
    pub const fn get(&self, words: &[u32]) -> u64 {
        let mut value = 0;
        let mut done = 0;
        while done < self.width() {
            let part = self.part(done);
            let bits = (words[part.word] & part.mask) >> part.shift;
            value |= (bits as u64) << done;
            done += part.width;
        }
        value
    }

    /// Writes the field (its element 0) and nothing else.
    ///
    /// # Panics
    ///
    /// If `value` does not fit or `words` ends before the field. See [`Field::try_set`] for
    /// values that come from elsewhere.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a word takes the low 32 bits; the next part takes the others"
    )]
    pub const fn set(&self, words: &mut [u32], value: u64) {
        assert!(value <= self.max(), "the value does not fit into its field");
        let mut done = 0;
        while done < self.width() {
            let part = self.part(done);
            let bits = ((value >> done) as u32) << part.shift & part.mask;
            words[part.word] = (words[part.word] & !part.mask) | bits;
            done += part.width;
        }
    }

    /// Writes the field (its element 0), unless the value does not fit.
    ///
    /// # Panics
    ///
    /// If `words` ends before the field.
    pub const fn try_set(&self, words: &mut [u32], value: u64) -> Result<(), TooWide> {
        if value > self.max() {
            return Err(TooWide {
                field: self.name,
                width: self.width(),
                value,
            });
        }
        self.set(words, value);
        Ok(())
    }

    /// Reads the field (its element 0) from a descriptor's bytes; `None` if they end before it.
    pub fn get_bytes(&self, bytes: &[u8]) -> Option<u64> {
        let mut value = 0;
        for bit in self.lo()..=self.hi() {
            let byte = bytes.get(bit as usize / 8)?;
            value |= u64::from(byte >> (bit % 8) & 1) << (bit - self.lo());
        }
        Some(value)
    }

    /// The part of the field that begins `done` bits after its lowest and ends with its word.
    #[inline(always)]
    pub(crate) const fn part(&self, done: u32) -> Part {
        let bit = self.lo() + done;
        let shift = bit % 32;
        let rest = self.width() - done;
        let width = if rest < 32 - shift { rest } else { 32 - shift };
        Part {
            word: (bit / 32) as usize,
            shift,
            width,
            mask: (u32::MAX >> (32 - width)) << shift,
        }
    }
}

/// Shown as NVIDIA writes it: `TPC_DISABLE_MASK[4] 2463:2432`.
impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        for repeat in self.repeats {
            if repeat.count > 1 {
                write!(f, "[{}]", repeat.count)?;
            }
        }
        write!(f, " {}:{}", self.hi(), self.lo())
    }
}

/// What a field occupies of one word.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) word: usize,
    pub(crate) shift: u32,
    pub(crate) width: u32,
    pub(crate) mask: u32,
}

/// A number whose `width` lowest bits are set, `width` being 1 to 64.
const fn low_bits(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}
