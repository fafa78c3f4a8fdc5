// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! For how long to wait, when a lender is not active any more, until what it lends is used again.
//!
//! The kernels of one request have gaps between them, and so have requests. Whoever goes on in a short gap is in
//! the way a moment later; whoever waits through a long one wastes it. Which is which, past gaps tell:
//!
//! ```text
//!   latency-critical  #_##_#__##_#_____________________##_#_#__#
//!   gaps seen          short ones: many                long: few
//!   waits              until a gap is longer than short ones are
//! ```
//!
//! To wait for `t` costs a gap `g` of best effort's time: `min(g, t)`. To go on and be in the way costs the request
//! what was let pass. (Nobody who waits for just as long as that loses more than twice what it would have with
//! foresight: the ski-rental rule, for as long as little is known.) So `t` is the one for which past gaps would have cost least, all in all: the ski-rental
//! problem with known chances (Karlin, Manasse, McGeoch and Owicki, "Competitive Randomized Algorithms for
//! Nonuniform Problems", 1994). Gaps are counted by their length, in powers of two, and half of them are
//! forgotten now and then.

use crate::id::Nanos;

/// The shortest wait: what the launch of the next kernel takes.
pub const LINGER: Nanos = Nanos(10_000);
/// Waits that are thought of: each twice the one before, up to 20 ms.
const WAITS: usize = 12;
/// Gaps are told apart up to twice the longest wait: all longer ones are long.
const LENGTHS: usize = WAITS + 1;
/// So many gaps are remembered, at most.
const MOST: u16 = 256;
/// Fewer say nothing.
const FEWEST: u16 = 8;

/// The gaps of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// How many were shorter than the first wait, than the second, and so on.
    counts: [u16; LENGTHS],
    /// Changes with each gap.
    version: u64,
}

/// The wait of this place.
fn wait(place: usize) -> u64 {
    LINGER.0 << place
}

impl Gaps {
    /// Takes note of a gap.
    pub fn note(&mut self, length: Nanos) {
        let place = (0..WAITS).find(|&place| length.0 < wait(place));
        self.counts[place.unwrap_or(LENGTHS - 1)] += 1;
        if self.counts.iter().sum::<u16>() >= MOST {
            self.counts = self.counts.map(|count| count / 2);
        }
        self.version += 1;
    }

    /// Tells states apart.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// For how long to wait, if to be in the way costs so much.
    pub fn wait(&self, in_the_way: Nanos) -> Nanos {
        if self.counts.iter().sum::<u16>() < FEWEST {
            // Whatever comes, that costs at most twice what it would to know.
            return in_the_way.clamp(LINGER, Nanos(wait(WAITS - 1)));
        }
        // What a gap of each length costs who waits for so long.
        let cost = |place: usize| -> u64 {
            let each = self.counts.iter().enumerate();
            each.map(|(length, &count)| {
                let cost = match length <= place {
                    // It lies between two waits: in the middle of them.
                    true => wait(length) * 3 / 4,
                    false => wait(place).saturating_add(in_the_way.0),
                };
                u64::from(count).saturating_mul(cost)
            })
            .fold(0, u64::saturating_add)
        };
        let best = (0..WAITS).min_by_key(|&place| cost(place)).unwrap_or(0);
        Nanos(wait(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: u64 = 1_000;
    const ATOM: Nanos = Nanos(60 * US);

    fn of(gaps: &[u64]) -> Gaps {
        let mut found = Gaps::default();
        gaps.iter().for_each(|&us| found.note(Nanos(us * US)));
        found
    }

    #[test]
    fn who_knows_nothing_waits_for_what_it_would_be_in_the_way_with() {
        assert_eq!(Gaps::default().wait(Nanos(0)), LINGER);
        assert_eq!(of(&[100; 7]).wait(ATOM), ATOM);
    }

    #[test]
    fn gaps_within_requests_are_waited_through_and_those_between_them_not() {
        // Fifteen kernels with 30 us between them, and 10 ms until the next request.
        let mut gaps = [30; 15].to_vec();
        gaps.push(10_000);
        assert_eq!(of(&gaps.repeat(4)).wait(ATOM), Nanos(40 * US));
        // Kernels back to back.
        let gaps = [3, 3, 3, 3, 2000].repeat(8);
        assert_eq!(of(&gaps).wait(ATOM), LINGER);
    }

    #[test]
    fn long_gaps_alone_are_not_waited_through() {
        assert_eq!(of(&[5_000; 50]).wait(ATOM), LINGER);
        // Nor those that are shorter than it costs to be in the way, if only just.
        assert_eq!(of(&[100; 50]).wait(ATOM), LINGER);
        assert_eq!(of(&[100; 50]).wait(Nanos(1_000 * US)), Nanos(160 * US));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut gaps = of(&[30; 300]);
        assert_eq!(gaps.wait(ATOM), Nanos(40 * US));
        (0..600).for_each(|_| gaps.note(Nanos(5_000 * US)));
        assert_eq!(gaps.wait(ATOM), LINGER);
    }

    proptest! {
        #[test]
        fn no_other_wait_would_have_been_twice_as_good(
            gaps in prop::collection::vec(1_u64..3_000_000, 8..200),
            atom in 1_u64..1_000_000,
        ) {
            let mut seen = Gaps::default();
            gaps.iter().for_each(|&gap| seen.note(Nanos(gap)));
            let cost = |wait: u64| -> u64 {
                gaps.iter().map(|&gap| if gap < wait { gap } else { wait + atom }).sum()
            };
            let found = seen.wait(Nanos(atom)).0;
            prop_assert!((LINGER.0..=LINGER.0 << (WAITS - 1)).contains(&found));
            let best = (0..WAITS).map(|place| cost(wait(place))).min().unwrap();
            prop_assert!(cost(found) <= 2 * best + LINGER.0 * gaps.len() as u64);
        }
    }
}
