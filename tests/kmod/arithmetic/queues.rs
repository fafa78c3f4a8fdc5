// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Events.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::queue::Queue;

proptest! {
    #[test]
    fn what_is_taken_is_what_was_pushed_with_each_gap_told_where_it_is(
        room in 1..6_usize,
        pushes in proptest::collection::vec(any::<bool>(), 0..100),
    ) {
        let mut queue = Queue::new(vec![(0, 0_u64); room]);
        // What a reader sees: numbers, or how many are missing.
        let mut expected = VecDeque::new();
        let mut missing = 0;
        for (number, push) in (1_u64..).zip(pushes) {
            if push {
                let fits = expected.len() < room && missing == 0;
                prop_assert_eq!(queue.push((0, number)), fits);
                if fits { expected.push_back((0, number)) } else { missing += 1 }
            } else {
                let next = expected.pop_front().or_else(|| {
                    let lost = std::mem::take(&mut missing);
                    (lost > 0).then_some((lost, 0))
                });
                prop_assert_eq!(queue.pop(|lost| (lost, 0)), next);
            }
            prop_assert_eq!(queue.is_empty(), expected.is_empty() && missing == 0);
        }
    }
}

#[test]
fn what_went_nowhere_is_told_as_lost() {
    let mut queue = Queue::new(vec![0_u64; 2]);
    queue.push(1);
    assert_eq!(queue.pop(|lost| lost + 100), Some(1));
    queue.lose();
    assert_eq!(queue.pop(|lost| lost + 100), Some(101));
    assert_eq!(queue.pop(|lost| lost + 100), None);
}
