// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where an arena can lie: below 1 TiB, because a launch descriptor names others by 32 bits of
//! 256 bytes, and in nobody's way.
//!
//! Others claim low addresses, too, some by number. What lies there already shows in
//! `/proc/self/maps`; what will grow does not, so an arena keeps its distance and first tries where
//! nobody is known to grow: from 64 to 512 GiB. (Below lie the heaps of JVMs, which want addresses
//! of 35 bits; above, Go's, which starts at 768 GiB, and what a thread sanitizer forbids. An address
//! sanitizer occupies all of it: then there is no arena.)

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

const GIB: u64 = 1 << 30;

/// No arena ends above this address.
pub(crate) const LIMIT: u64 = 1 << 40;

/// Addresses that are tried, in this order, lie this far apart.
const STEP: u64 = 4 * GIB;
const RANGES: [Range<u64>; 3] = [64 * GIB..512 * GIB, 512 * GIB..LIMIT, 4 * GIB..64 * GIB];

/// Between an arena and anything else.
const DISTANCE: u64 = GIB;

/// Where the next search begins, so that an address is not used again while others were never: the
/// driver may remember memory that was registered there for a context that is gone.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Returns addresses at which `bytes` bytes have no neighbours now.
pub(crate) fn read_candidates(bytes: u64) -> io::Result<Vec<u64>> {
    let occupied = parse(&fs::read_to_string("/proc/self/maps")?);
    Ok(candidates(
        &occupied,
        bytes,
        NEXT.fetch_add(1, Ordering::Relaxed),
    ))
}

fn candidates(occupied: &[Range<u64>], bytes: u64, first: usize) -> Vec<u64> {
    let mut free: Vec<u64> = RANGES
        .into_iter()
        .flat_map(|range| {
            let step = usize::try_from(STEP).unwrap_or(usize::MAX);
            range
                .clone()
                .step_by(step)
                .map(move |start| (start, range.end))
        })
        .filter(|(start, limit)| {
            let end = start.saturating_add(bytes);
            let near = start - DISTANCE..end.saturating_add(DISTANCE);
            end <= *limit
                && occupied
                    .iter()
                    .all(|other| other.end <= near.start || other.start >= near.end)
        })
        .map(|(start, _)| start)
        .collect();
    let length = free.len();
    if length > 0 {
        free.rotate_left(first % length);
    }
    free
}

/// Takes the ranges out of the text of `/proc/self/maps`; lines that are none are left out.
fn parse(maps: &str) -> Vec<Range<u64>> {
    maps.lines()
        .filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let (end, _) = rest.split_once(' ')?;
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_choice_is_where_nobody_is_known_to_grow() {
        let found = candidates(&[], 1 << 20, 0);
        assert_eq!(found[0], 64 * GIB);
        assert!(found.contains(&(4 * GIB)) && found.contains(&(1020 * GIB)));
    }

    #[test]
    fn the_next_search_begins_elsewhere() {
        let first = candidates(&[], 1 << 20, 0);
        let second = candidates(&[], 1 << 20, 1);
        assert_ne!(first[0], second[0]);
        assert_eq!(first.len(), second.len());
    }

    #[test]
    fn where_all_is_taken_there_is_none() {
        let shadow = 2 * GIB..16 << 40;
        let found = candidates(std::slice::from_ref(&shadow), 4096, 7);
        assert_eq!(found, Vec::<u64>::new());
    }

    #[test]
    fn the_ranges_of_this_process_are_found() {
        let text = fs::read_to_string("/proc/self/maps").expect("procfs");
        let ranges = parse(&text);
        assert_eq!(ranges.len(), text.lines().count());
        let here = (&raw const NEXT).addr() as u64;
        assert!(ranges.iter().any(|range| range.contains(&here)));
    }

    proptest! {
        #[test]
        fn a_candidate_keeps_its_distance_and_stays_low(
            starts in prop::collection::vec((0u64..LIMIT, 1u64..300 * GIB), 0..12),
            bytes in 1u64..8 * GIB,
            first in any::<usize>(),
        ) {
            let occupied: Vec<_> = starts.into_iter().map(|(s, n)| s..s + n).collect();
            for start in candidates(&occupied, bytes, first) {
                prop_assert!(start >= 4 * GIB && start + bytes <= LIMIT);
                for other in &occupied {
                    prop_assert!(
                        other.end + DISTANCE <= start || other.start >= start + bytes + DISTANCE
                    );
                }
            }
        }
    }
}
