// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Atomic operations as arithmetic: old word and operands in, new word out.

/// What an atomic does to the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOperation {
    /// Adds the operand.
    Add,
    /// Stores the operand.
    Exchange,
    /// Stores the operand if the word equals the comparand.
    CompareExchange,
    /// Keeps the lesser.
    Minimum,
    /// Keeps the greater.
    Maximum,
    /// Keeps the bits that both have.
    And,
    /// Keeps the bits that either has.
    Or,
    /// Keeps the bits in which they differ.
    Xor,
    /// Counts up, and wraps to 0 after the operand.
    Increment,
    /// Counts down, and wraps to the operand after 0.
    Decrement,
}

/// How the word is read as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicType {
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    S32,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    S64,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// An atomic operation on words of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atomic {
    /// What is done.
    pub operation: AtomicOperation,
    /// To what.
    pub ty: AtomicType,
}

impl Atomic {
    /// The size of the word: 4 or 8.
    pub fn bytes(self) -> usize {
        match self.ty {
            AtomicType::U32 | AtomicType::S32 | AtomicType::F32 => 4,
            AtomicType::U64 | AtomicType::S64 | AtomicType::F64 => 8,
        }
    }

    /// The new word, given the old one. Words of 4 bytes have a zero upper half, in and out.
    pub fn apply(self, old: u64, operand: u64, compare: u64) -> u64 {
        use AtomicOperation as Op;
        match (self.operation, self.ty) {
            (Op::Exchange, _) => operand,
            (Op::CompareExchange, _) => {
                if old == compare {
                    operand
                } else {
                    old
                }
            }
            (Op::And, _) => old & operand,
            (Op::Or, _) => old | operand,
            (Op::Xor, _) => old ^ operand,
            (Op::Add, AtomicType::F32) => {
                let sum = f32::from_bits(low(old)) + f32::from_bits(low(operand));
                u64::from(sum.to_bits())
            }
            (Op::Add, AtomicType::F64) => (f64::from_bits(old) + f64::from_bits(operand)).to_bits(),
            (Op::Add, _) => self.truncate(old.wrapping_add(operand)),
            (Op::Minimum, _) => {
                if self.less(operand, old) {
                    operand
                } else {
                    old
                }
            }
            (Op::Maximum, _) => {
                if self.less(old, operand) {
                    operand
                } else {
                    old
                }
            }
            (Op::Increment, _) => {
                if old >= operand {
                    0
                } else {
                    old + 1
                }
            }
            (Op::Decrement, _) => {
                if old == 0 || old > operand {
                    operand
                } else {
                    old - 1
                }
            }
        }
    }

    fn less(self, a: u64, b: u64) -> bool {
        match self.ty {
            AtomicType::U32 | AtomicType::U64 => a < b,
            AtomicType::S32 => low(a).cast_signed() < low(b).cast_signed(),
            AtomicType::S64 => a.cast_signed() < b.cast_signed(),
            AtomicType::F32 => f32::from_bits(low(a)) < f32::from_bits(low(b)),
            AtomicType::F64 => f64::from_bits(a) < f64::from_bits(b),
        }
    }

    fn truncate(self, word: u64) -> u64 {
        if self.bytes() == 4 {
            word & 0xffff_ffff
        } else {
            word
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a word of 4 bytes is the low half"
)]
fn low(word: u64) -> u32 {
    word as u32
}
