// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sizes and places.

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::Terms;
use proptest::prelude::*;

use crate::geometry::{Geometry, is_running, mapped_at};

const COUNTS: Counts = Counts {
    stamps: 64,
    gates: 3,
    atoms: 5,
    cluster_atoms: 2,
    tails: 4,
};

fn claim(counts: Counts) -> lithos_scheduler_claim {
    let terms = Terms::sized(counts);
    lithos_scheduler_claim {
        version: LITHOS_ABI_VERSION,
        records: terms.records,
        gpu: [1; 16],
        ring_bytes: terms.ring_bytes,
        arena_bytes: terms.arena_bytes,
        epoch: 0,
        regions: terms.regions,
    }
}

#[test]
fn the_layout_that_the_daemon_makes_is_accepted() {
    let claim = claim(COUNTS);
    let geometry = Geometry::of(&claim).expect("a layout");
    let region = claim.regions[LITHOS_REGION_GATES as usize];
    let words: Vec<usize> = geometry.gate_words().collect();
    let first = region.offset as usize + 44;
    assert_eq!(words, [first, first + 1024, first + 2048]);
    let tails: Vec<usize> = geometry.tails().collect();
    let first = claim.regions[LITHOS_REGION_TAILS as usize].offset as usize;
    assert_eq!(tails, [first, first + 512, first + 1024, first + 1536]);
    assert_eq!(
        geometry.pinned_bytes(),
        claim.ring_bytes + claim.arena_bytes
    );
    assert_eq!(geometry.records, 64);
}

#[test]
fn a_layout_that_cannot_be_is_refused() {
    type Change = fn(&mut lithos_scheduler_claim);
    let changes: [(&str, Change); 12] = [
        ("no ring", |c| c.ring_bytes = 0),
        ("no arena", |c| c.arena_bytes = 0),
        ("a ring of half a page", |c| c.ring_bytes += 2048),
        ("an arena of half a page", |c| c.arena_bytes += 2048),
        ("a ring that is too large", |c| {
            c.ring_bytes = (1 << LITHOS_MAP_SHIFT) + 4096
        }),
        ("an arena that is too large", |c| {
            c.arena_bytes = (1 << LITHOS_MAP_SHIFT) + 4096
        }),
        ("no records", |c| c.records = 0),
        ("an odd number of records", |c| c.records = 63),
        ("records that do not fit", |c| c.records = 1 << 20),
        ("a region outside of the arena", |c| {
            c.regions[0].offset = c.arena_bytes
        }),
        ("a region of no end", |c| {
            c.regions[7] = lithos_region {
                offset: u64::MAX,
                stride: 1,
                count: 1,
            }
        }),
        ("gates across pages", |c| c.regions[1].offset += 512),
    ];
    for (what, change) in changes {
        let mut claim = claim(COUNTS);
        change(&mut claim);
        assert!(Geometry::of(&claim).is_none(), "{what}");
    }
    let mut other = claim(COUNTS);
    other.regions[LITHOS_REGION_TAILS as usize].stride = 256;
    assert!(Geometry::of(&other).is_none(), "tails of another size");
}

proptest! {
    #[test]
    fn whatever_is_accepted_has_its_gates_and_tails_inside_of_its_pages(
        words in proptest::collection::vec(any::<u32>(), 24),
        ring_pages in 0..20_u64,
        arena_pages in 0..20_u64,
        records in prop_oneof![Just(64_u32), any::<u32>()],
    ) {
        let mut claim = lithos_scheduler_claim {
            records,
            ring_bytes: ring_pages * 4096,
            arena_bytes: arena_pages * 4096,
            ..lithos_scheduler_claim::default()
        };
        for (region, words) in claim.regions.iter_mut().zip(words.chunks_exact(3)) {
            region.offset = u64::from(words[0] % 40) * 512;
            region.stride = [0, 64, 512, 1024, words[1]][words[1] as usize % 5];
            region.count = if words[2] % 4 == 0 { words[2] } else { words[2] % 50 };
        }
        if let Some(geometry) = Geometry::of(&claim) {
            let arena = claim.arena_bytes as usize;
            for word in geometry.gate_words() {
                prop_assert!(word % 4 == 0 && word + 4 <= arena);
            }
            for tail in geometry.tails() {
                prop_assert!(tail % 8 == 0 && tail + 512 <= arena);
            }
        }
    }

    #[test]
    fn an_offset_names_a_channel_and_a_piece(id in any::<u64>(), kind in 0..3_u32) {
        let mask = (1_u64 << LITHOS_MAP_ID_BITS) - 1;
        // LITHOS_MAP_OFFSET.
        let offset = ((id & mask) << 2 | u64::from(kind)) << LITHOS_MAP_SHIFT;
        prop_assert!(i64::try_from(offset).is_ok());
        prop_assert_eq!(mapped_at(offset), Some((id & mask, kind)));
        prop_assert_eq!(mapped_at(offset + 4096), None);
    }
}

#[test]
fn a_chain_runs_from_its_publication_until_the_gpu_says_that_it_is_done() {
    assert!(!is_running(0, 0));
    assert!(is_running(1, 0));
    assert!(!is_running(1, 1));
    let far = (7 << 32) | 5;
    assert!(is_running(far, 4));
    assert!(!is_running(far, 5));
}
