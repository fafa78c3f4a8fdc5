// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Templates: several field edits put together into one store per word.
//!
//! Writing a descriptor field by field touches the same word again and again. A [`Template`] is
//! worked out once, when compiling: for each word that the edits touch it holds the bits to keep
//! and the bits to set. Applying it is one load, one `and`, one `or` and one store a word, without
//! a branch. What is known only at run time (an address, a mask) is OR-ed in by position: the
//! template clears those bits, see [`Template::apply_with`].
//!
//! Applying is always inlined: only where the template is known do the loop and the checks of
//! bounds disappear, and with them every way to panic.

use crate::field::{Field, Part};

/// What happens to one word: `word = word & keep | value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordEdit {
    /// Which 32-bit word.
    pub word: usize,
    /// The bits that stay as they are.
    pub keep: u32,
    /// The bits that become set; none of them is kept.
    pub value: u32,
}

/// Edits of at most `N` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template<const N: usize> {
    edits: [WordEdit; N],
    len: usize,
}

impl<const N: usize> Template<N> {
    /// A template that changes nothing.
    pub const EMPTY: Self = Template {
        edits: [WordEdit {
            word: 0,
            keep: u32::MAX,
            value: 0,
        }; N],
        len: 0,
    };

    /// Puts edits together. Words appear in the order in which the edits first touch them; a
    /// later edit of the same bits wins.
    ///
    /// # Panics
    ///
    /// If a value does not fit into its field or more than `N` words are touched: both are
    /// compile errors where the template is a constant.
    pub const fn new(edits: &[(Field, u64)]) -> Self {
        Self::EMPTY.with_each(edits)
    }

    /// This template and some edits more.
    ///
    /// # Panics
    ///
    /// As [`Template::new`].
    #[must_use]
    pub const fn with_each(mut self, edits: &[(Field, u64)]) -> Self {
        let mut index = 0;
        while index < edits.len() {
            self = self.with(edits[index].0, edits[index].1);
            index += 1;
        }
        self
    }

    /// This template and one edit more.
    ///
    /// # Panics
    ///
    /// As [`Template::new`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a word takes the low 32 bits; the next part takes the others"
    )]
    pub const fn with(mut self, field: Field, value: u64) -> Self {
        assert!(
            value <= field.max(),
            "the value does not fit into its field"
        );
        let mut done = 0;
        while done < field.width() {
            let Part {
                word,
                shift,
                width,
                mask,
            } = field.part(done);
            let bits = ((value >> done) as u32) << shift & mask;
            let mut index = 0;
            while index < self.len && self.edits[index].word != word {
                index += 1;
            }
            if index == self.len {
                assert!(
                    self.len < N,
                    "the edits touch more words than the template has"
                );
                self.edits[index].word = word;
                self.len += 1;
            }
            let edit = &mut self.edits[index];
            edit.keep &= !mask;
            edit.value = edit.value & !mask | bits;
            done += width;
        }
        self
    }

    /// The edits, one a word.
    #[inline(always)]
    pub const fn edits(&self) -> &[WordEdit] {
        self.edits.split_at(self.len).0
    }

    /// Applies the edits.
    ///
    /// # Panics
    ///
    /// If `words` ends before one of them.
    #[inline(always)]
    pub fn apply(&self, words: &mut [u32]) {
        for edit in self.edits() {
            words[edit.word] = words[edit.word] & edit.keep | edit.value;
        }
    }

    /// Applies the edits and sets, in the word of edit `i`, the bits `extra[i]` as well. The caller
    /// sees to it that they lie in bits that the template clears.
    ///
    /// # Panics
    ///
    /// If `words` ends before one of the edits.
    #[inline(always)]
    pub fn apply_with(&self, words: &mut [u32], extra: [u32; N]) {
        for (edit, extra) in self.edits().iter().zip(extra) {
            debug_assert!(extra & edit.keep == 0, "extra bits outside the template");
            words[edit.word] = words[edit.word] & edit.keep | edit.value | extra;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hopper::{WORDS, Words};
    use crate::layout::V04_00;
    use proptest::prelude::*;

    /// Writes a field as its definition says, bit after bit.
    fn set_bits(words: &mut Words, field: Field, value: u64) {
        for bit in field.lo()..=field.hi() {
            let (word, mask) = (bit as usize / 32, 1 << (bit % 32));
            if value >> (bit - field.lo()) & 1 == 1 {
                words[word] |= mask;
            } else {
                words[word] &= !mask;
            }
        }
    }

    /// Any element of any field of version 4.0, or any range of up to 64 bits, and a value.
    fn any_edit() -> impl Strategy<Value = (Field, u64)> {
        let named = any::<prop::sample::Selector>().prop_map(|selector| {
            selector.select(V04_00.fields.iter().flat_map(|field| field.elements()))
        });
        let range = (0_u16..3072, 1_u16..=64).prop_map(|(lo, width)| {
            let hi = (lo + width - 1).min(3071);
            Field::new("ANY", hi, lo)
        });
        (prop_oneof![named, range], any::<u64>())
            .prop_map(|(field, value)| (field, value & field.max()))
    }

    fn any_words() -> impl Strategy<Value = Words> {
        prop::collection::vec(any::<u32>(), WORDS).prop_map(|words| words.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn a_template_does_what_its_edits_do_bit_by_bit(
            mut words in any_words(),
            edits in prop::collection::vec(any_edit(), 0..24),
        ) {
            let template = Template::<WORDS>::new(&edits);
            let mut expected = words;
            for &(field, value) in &edits {
                set_bits(&mut expected, field, value);
            }
            template.apply(&mut words);
            prop_assert_eq!(words, expected);
            for edit in template.edits() {
                prop_assert_eq!(edit.value & edit.keep, 0);
            }
        }

        #[test]
        fn extra_bits_are_those_of_a_value_known_later(
            mut words in any_words(),
            (field, value) in any_edit(),
        ) {
            let mut expected = words;
            set_bits(&mut expected, field, value);
            let template = Template::<3>::new(&[(field, 0)]);
            let known = Template::<3>::new(&[(field, value)]);
            let mut extra = [0; 3];
            for (extra, edit) in extra.iter_mut().zip(known.edits()) {
                *extra = edit.value;
            }
            template.apply_with(&mut words, extra);
            prop_assert_eq!(words, expected);
        }

        #[test]
        fn set_does_what_its_definition_says_and_get_reads_it_back(
            mut words in any_words(),
            (field, value) in any_edit(),
        ) {
            let mut expected = words;
            set_bits(&mut expected, field, value);
            field.set(&mut words, value);
            prop_assert_eq!(words, expected);
            prop_assert_eq!(field.get(&words), value);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(field.get_bytes(&bytes), Some(value));
            prop_assert_eq!(field.get_bytes(&bytes[..field.hi() as usize / 8]), None);
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused_and_changes_nothing() {
        let field = V04_00.field("QMD_TYPE").unwrap();
        let mut words = [0xdead_beef; WORDS];
        let error = field.try_set(&mut words, 8).unwrap_err();
        assert_eq!((error.width, error.value), (3, 8));
        assert_eq!(words, [0xdead_beef; WORDS]);
        assert_eq!(field.try_set(&mut words, 7), Ok(()));
        assert_eq!(field.get(&words), 7);
    }
}
