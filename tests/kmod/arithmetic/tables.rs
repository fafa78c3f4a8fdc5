// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Ids.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::table::{PLACE_BITS, Place, Table};

fn table(places: usize) -> Table<u32, Vec<Place<u32>>> {
    Table::new((0..places).map(|_| Place::new()).collect())
}

proptest! {
    #[test]
    fn an_id_names_what_was_put_there_and_nothing_else(
        places in 1..9_usize,
        steps in proptest::collection::vec((0..5_u8, any::<prop::sample::Index>()), 0..200),
    ) {
        let mut table = table(places);
        let (mut there, mut reserved) = (BTreeMap::new(), Vec::new());
        let mut seen = vec![0_u64];
        for (number, (step, index)) in (0..).zip(steps) {
            match step {
                0 | 1 => {
                    let id = table.reserve();
                    prop_assert_eq!(id.is_none(), there.len() + reserved.len() == places);
                    if let Some(id) = id {
                        prop_assert!(!seen.contains(&id), "{} was used before", id);
                        prop_assert!(table.get(id).is_none());
                        seen.push(id);
                        reserved.push(id);
                    }
                }
                2 if !reserved.is_empty() => {
                    let id = reserved.swap_remove(index.index(reserved.len()));
                    prop_assert_eq!(table.put(id, number), Ok(()));
                    there.insert(id, number);
                }
                3 => {
                    let id = seen[index.index(seen.len())];
                    prop_assert_eq!(table.remove(id), there.remove(&id));
                    reserved.retain(|other| *other != id);
                }
                _ => {
                    let id = seen[index.index(seen.len())];
                    if !reserved.contains(&id) {
                        prop_assert_eq!(table.put(id, number), Err(number));
                    }
                }
            }
            prop_assert_eq!(table.len(), there.len() + reserved.len());
            for id in &seen {
                prop_assert_eq!(table.get(*id), there.get(id));
            }
            let mut walked = BTreeMap::new();
            let mut id = 0;
            while let Some(value) = table.next(id) {
                id = *there.iter().find(|(_, other)| *other == value).expect("it is there").0;
                prop_assert!(walked.insert(id, *value).is_none());
            }
            prop_assert_eq!(&walked, &there);
            prop_assert_eq!(table.iter().count(), there.len());
        }
    }
}

#[test]
fn a_place_is_used_again_as_late_as_possible() {
    let mut table = table(3);
    let places: Vec<u64> = (0..7)
        .map(|_| {
            let id = table.reserve().expect("a free place");
            assert_eq!(table.remove(id), None);
            id & ((1 << PLACE_BITS) - 1)
        })
        .collect();
    assert_eq!(places, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn what_is_at_a_place_is_found_by_it() {
    let mut table = table(2);
    let id = table.reserve().expect("a free place");
    assert_eq!(table.at(0), None);
    table.put(id, 7).expect("reserved");
    assert_eq!(
        (table.at(0), table.at(1), table.at(2)),
        (Some(&7), None, None)
    );
}
