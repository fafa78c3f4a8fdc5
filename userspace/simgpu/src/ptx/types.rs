// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! PTX's types, and numbers as they lie in a lane's 64-bit word.

/// What the bits of a type mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Predicate,
    Bits,
    Unsigned,
    Signed,
    Float,
}

/// A scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) kind: Kind,
    pub(super) bits: u8,
}

impl Type {
    pub(super) const fn new(kind: Kind, bits: u8) -> Self {
        Self { kind, bits }
    }

    pub(super) const U32: Self = Self::new(Kind::Unsigned, 32);
    pub(super) const B32: Self = Self::new(Kind::Bits, 32);
    pub(super) const PREDICATE: Self = Self::new(Kind::Predicate, 1);

    /// Reads the name of a type, without its dot. Half-precision and packed types have no arithmetic
    /// here, so they are no types either.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if name == "pred" {
            return Some(Self::PREDICATE);
        }
        let kind = match name.as_bytes().first()? {
            b'b' => Kind::Bits,
            b'u' => Kind::Unsigned,
            b's' => Kind::Signed,
            b'f' => Kind::Float,
            _ => return None,
        };
        let bits = match &name[1..] {
            "8" => 8,
            "16" => 16,
            "32" => 32,
            "64" => 64,
            _ => return None,
        };
        if kind == Kind::Float && bits < 32 {
            return None;
        }
        Some(Self { kind, bits })
    }

    pub(super) fn bytes(self) -> u8 {
        self.bits.div_ceil(8)
    }

    pub(super) fn is_float(self) -> bool {
        self.kind == Kind::Float
    }

    pub(super) fn is_integer(self) -> bool {
        matches!(self.kind, Kind::Bits | Kind::Unsigned | Kind::Signed)
    }

    pub(super) fn is_signed(self) -> bool {
        self.kind == Kind::Signed
    }

    /// The bits that a value of this type may have.
    pub(super) fn mask(self) -> u64 {
        mask(self.bits)
    }
}

/// The low `bits` bits.
pub(super) fn mask(bits: u8) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

/// A number that a lane's word can hold.
pub(super) trait Lane: Copy {
    fn from_lane(word: u64) -> Self;
    fn to_lane(self) -> u64;
}

macro_rules! integer_lanes {
    ($($signed:ty, $unsigned:ty;)*) => {$(
        impl Lane for $unsigned {
            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "a narrow value is the low part")]
            fn from_lane(word: u64) -> Self {
                word as Self
            }
            #[inline(always)]
            fn to_lane(self) -> u64 {
                u64::from(self)
            }
        }
        impl Lane for $signed {
            #[inline(always)]
            fn from_lane(word: u64) -> Self {
                <$unsigned>::from_lane(word).cast_signed()
            }
            #[inline(always)]
            fn to_lane(self) -> u64 {
                u64::from(self.cast_unsigned())
            }
        }
    )*};
}

integer_lanes! {
    i8, u8;
    i16, u16;
    i32, u32;
    i64, u64;
}

impl Lane for f32 {
    #[inline(always)]
    fn from_lane(word: u64) -> Self {
        Self::from_bits(u32::from_lane(word))
    }
    #[inline(always)]
    fn to_lane(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Lane for f64 {
    #[inline(always)]
    fn from_lane(word: u64) -> Self {
        Self::from_bits(word)
    }
    #[inline(always)]
    fn to_lane(self) -> u64 {
        self.to_bits()
    }
}
