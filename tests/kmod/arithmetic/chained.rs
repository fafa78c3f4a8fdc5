// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Values in chains, and the storage that tests give them.

use proptest::prelude::*;

use crate::chains::{Chains, Place, Storage};

/// Slices of the host's.
pub(crate) struct Host;

impl Storage for Host {
    type Slice<T: Copy> = Vec<T>;
}

/// So many places in so many chains.
pub(crate) fn chains<T: Copy>(places: usize, heads: usize) -> Chains<T, Host> {
    Chains::new(vec![Place::EMPTY; places], vec![7; heads])
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u32),
    RemoveWhere(u64, u32),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..6_u64, 0..4_u32).prop_map(|(key, value)| Step::Insert(key, value)),
        5 => (0..6_u64, 0..4_u32).prop_map(|(key, value)| Step::RemoveWhere(key, value)),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #[test]
    fn chains_hold_what_was_inserted_and_not_removed(
        room in 1..12_usize,
        heads in proptest::sample::select(vec![1, 2, 4]),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut chains = chains(room, heads);
        let mut expected: Vec<(u64, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    let at = chains.insert(key, (key, value));
                    prop_assert_eq!(at.is_some(), expected.len() < room);
                    if let Some(at) = at {
                        prop_assert_eq!(chains.get(at), Some(&(key, value)));
                        prop_assert!(at < chains.end());
                        expected.push((key, value));
                    }
                }
                Step::RemoveWhere(key, value) => {
                    let mut gone = Vec::new();
                    chains.remove_where(key, |&have| have == (key, value), |have| gone.push(have));
                    let before = expected.len();
                    expected.retain(|&have| have != (key, value));
                    prop_assert_eq!(gone, vec![(key, value); before - expected.len()]);
                }
                Step::Clear => {
                    chains.clear();
                    expected.clear();
                }
            }
            prop_assert_eq!(chains.room(), room - expected.len());
            let mut all: Vec<_> = chains.iter().map(|(_, &value)| value).collect();
            all.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&all, &expected);
            for key in 0..6 {
                let mut own: Vec<_> = chains
                    .chain(key)
                    .map(|(_, &value)| value)
                    .filter(|value| value.0 == key)
                    .collect();
                own.sort_unstable();
                let of_key: Vec<_> = expected.iter().copied().filter(|have| have.0 == key).collect();
                prop_assert_eq!(own, of_key);
            }
        }
    }
}
