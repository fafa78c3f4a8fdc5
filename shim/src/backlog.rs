// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a channel has under way that no gate can hold up: launches that are not split.
//!
//! A chain stops at its next gate; a short launch that is in the GPU's queue runs, and so do a thousand of
//! them. So where a grant has a bound, a launch call waits, before it begins, while more than that is under way
//! by prediction, or while the channel is held:
//!
//! ```text
//!   launch calls     1 2 3 4 . . . . 5 . 6 . 7 .        . waits
//!   under way        # ## ### ####   ####  ####         bound: four
//!   GPU              1111222233334444555566667777
//! ```
//!
//! The GPU does not notice, for the next launch comes before the last one ends, and it never has more
//! than the bound to finish before somebody else has all of it, or than one launch where that alone is longer.
//!
//! How long launches take is learned from their stamps: one that was queued right behind another one of its stream
//! took what lies between their completions.
//!
//! Waiting could hang a program whose kernels wait for each other. So if nothing moves for long, one launch
//! goes on; but not while a chain of the channel is held, for then what is queued behind that cannot move.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::operators::Operator;

/// A launch may begin, whatever is predicted of it, when all others end so soon: so long it takes until the GPU
/// has it.
const NEXT_NS: u64 = 40_000;
/// The most that are known of; beyond that a launch waits.
const MOST: usize = 256;
/// What is taken for the length of a launch that nothing is known of.
const UNKNOWN_NS: u64 = 20_000;
/// How much longer than predicted all that is under way may take without anything moving.
const PATIENCE_NS: u64 = 10_000_000;
/// What is predicted counts for no more than that: a wrong prediction must not make it wait for long.
const PREDICTED_MOST_NS: u64 = 50_000_000;
/// For how long to look without a break, and how often after that, or if it is known to take longer than a sleep:
/// that takes a twentieth of a millisecond more than it should.
pub(crate) const SPIN_NS: u64 = 300_000;
pub(crate) const LOOK: Duration = Duration::from_micros(50);
pub(crate) const SLEEP_NS: u64 = 150_000;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<Queue>);

/// A launch that is not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    pub(crate) sequence: u64,
    pub(crate) stream: u64,
    pub(crate) operator: Operator,
    /// The TPCs that it has.
    pub(crate) tpcs: u32,
    /// How long it will take; 0 if that is not known.
    pub(crate) predicted_ns: u64,
}

/// What is known of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    UnderWay,
    /// And when by the GPU's clock, if that is known.
    Completed(Option<u64>),
}

/// What a launch call is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// For so long at least, unless what is under way takes less than predicted.
    Wait(u64),
    /// It should wait, but nothing moves.
    GoAnyway,
}

#[derive(Debug, Default)]
struct Queue {
    launches: VecDeque<Queued>,
    predicted_ns: u64,
    /// When something last changed.
    moved_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    short: Short,
    /// When the launch right before it had completed, if that was there when it came, in the same stream.
    behind: Option<u64>,
    /// Nothing is learned from it: it may have waited for a launch that was made to wait.
    is_odd: bool,
}

/// When a launch call looks, and what it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) now_ns: u64,
    /// When it began to wait.
    pub(crate) since_ns: u64,
    pub(crate) is_held: bool,
    /// How long its launch will take; 0 if that is not known.
    pub(crate) predicted_ns: u64,
    pub(crate) bound_ns: u64,
}

impl Short {
    fn taken_ns(&self) -> u64 {
        match self.predicted_ns {
            0 => UNKNOWN_NS,
            known => known,
        }
    }
}

impl Backlog {
    /// Takes in a launch that was launched; returns how much is under way by prediction.
    pub(crate) fn push(&self, short: Short, now_ns: u64) -> u64 {
        let mut queue = self.lock();
        if queue.launches.is_empty() {
            queue.moved_ns = now_ns;
        }
        if queue.launches.len() < MOST {
            queue.predicted_ns += short.taken_ns();
            queue.launches.push_back(Queued {
                short,
                behind: None,
                is_odd: false,
            });
        }
        queue.predicted_ns
    }

    /// Drops what has completed, and says what a launch is to do, and how much is under way by prediction. `has_chains` says whether chains of the channel
    /// may still run; `learn` is told of launches how long they took.
    pub(crate) fn look(
        &self,
        look: &Look,
        has_chains: impl FnOnce() -> bool,
        state: impl Fn(u64) -> State,
        learn: impl FnMut(&Short, u64),
    ) -> (Verdict, u64) {
        let mut queue = self.lock();
        queue.sweep(look.now_ns, state, learn);
        (queue.judge(look, has_chains), queue.predicted_ns)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn sweep(
        &mut self,
        now_ns: u64,
        state: impl Fn(u64) -> State,
        mut learn: impl FnMut(&Short, u64),
    ) {
        let mut index = 0;
        while let Some(&Queued {
            short,
            behind,
            is_odd,
        }) = self.launches.get(index)
        {
            let State::Completed(at_ns) = state(short.sequence) else {
                index += 1;
                continue;
            };
            self.launches.remove(index);
            self.predicted_ns -= short.taken_ns();
            self.moved_ns = now_ns;
            if let (Some(before), Some(at_ns), false) = (behind, at_ns, is_odd)
                && let Some(took_ns) = at_ns.checked_sub(before)
            {
                learn(&short, took_ns);
            }
            // What lies between two sequences would be taken for the second one's.
            let mut later = self.launches.range_mut(index..);
            if let Some(next) = later.find(|next| next.short.stream == short.stream)
                && next.short.sequence == short.sequence + 1
            {
                next.behind = at_ns;
            }
            index -= self.drop_before(index, short.stream);
        }
    }

    /// Drops what came before in a stream of which a launch has completed, and returns how many: launches of which
    /// the driver made nothing are never stamped.
    fn drop_before(&mut self, index: usize, stream: u64) -> usize {
        if stream == 0 {
            return 0;
        }
        let mut dropped = 0;
        for place in (0..index).rev() {
            let queued = self.launches[place].short;
            if queued.stream == stream {
                self.launches.remove(place);
                self.predicted_ns -= queued.taken_ns();
                dropped += 1;
            }
        }
        dropped
    }

    fn judge(&mut self, look: &Look, has_chains: impl FnOnce() -> bool) -> Verdict {
        let Look {
            now_ns,
            since_ns,
            is_held,
            predicted_ns,
            bound_ns,
        } = *look;
        let own_ns = if predicted_ns == 0 {
            UNKNOWN_NS
        } else {
            predicted_ns
        };
        let count = self.launches.len();
        // One of them has begun when the one before had ended.
        let first_ns = (self.launches.front()).map_or(0, |queued| queued.short.taken_ns());
        let done_ns = now_ns.saturating_sub(self.moved_ns).min(first_ns);
        let left_ns = self.predicted_ns - done_ns;
        let enough_ns = bound_ns.saturating_sub(own_ns).max(NEXT_NS);
        if !is_held && count < MOST && left_ns <= enough_ns {
            return Verdict::Go;
        }
        let still_ns = now_ns.saturating_sub(self.moved_ns.max(since_ns));
        // Of what has not been launched nobody can wait for anything.
        if count == 0 || still_ns <= self.predicted_ns.min(PREDICTED_MOST_NS) + PATIENCE_NS {
            return Verdict::Wait(left_ns.saturating_sub(enough_ns));
        }
        self.moved_ns = now_ns;
        if is_held && has_chains() {
            return Verdict::Wait(0);
        }
        for queued in &mut self.launches {
            queued.is_odd = true;
        }
        Verdict::GoAnyway
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;

    const BOUND_NS: u64 = 100_000;

    /// A GPU that runs a stream's launches one after another, and a clock.
    #[derive(Default)]
    struct Scene {
        backlog: Backlog,
        /// When each completes.
        ends_ns: BTreeMap<u64, u64>,
        now_ns: Cell<u64>,
        learned: Vec<u64>,
        has_chains: bool,
    }

    fn short(sequence: u64, stream: u64, predicted_ns: u64) -> Short {
        Short {
            sequence,
            stream,
            operator: Operator::of_place(0),
            tpcs: 4,
            predicted_ns,
        }
    }

    impl Scene {
        fn look(&mut self, is_held: bool, predicted_ns: u64) -> Verdict {
            let now_ns = self.now_ns.get();
            let state = |sequence| match self.ends_ns.get(&sequence) {
                Some(&end_ns) if end_ns <= now_ns => State::Completed(Some(end_ns)),
                _ => State::UnderWay,
            };
            let learned = &mut self.learned;
            let look = Look {
                now_ns,
                since_ns: 0,
                is_held,
                predicted_ns,
                bound_ns: BOUND_NS,
            };
            let has_chains = || self.has_chains;
            let learn = |_: &Short, took| learned.push(took);
            (self.backlog).look(&look, has_chains, state, learn).0
        }

        fn waits(&mut self, is_held: bool, predicted_ns: u64) -> bool {
            matches!(self.look(is_held, predicted_ns), Verdict::Wait(_))
        }

        fn launch(&mut self, sequence: u64, stream: u64, predicted_ns: u64, end_ns: u64) {
            self.ends_ns.insert(sequence, end_ns);
            self.backlog
                .push(short(sequence, stream, predicted_ns), self.now_ns.get());
        }
    }

    #[test]
    fn no_more_is_under_way_than_the_bound_but_one() {
        for (each_ns, most) in [
            (10_000, 10),
            (20_000, 5),
            (60_000, 1),
            (1_000_000, 1),
            (0, 5),
        ] {
            let mut scene = Scene::default();
            let mut launched = 0;
            while scene.look(false, each_ns) == Verdict::Go {
                launched += 1;
                scene.launch(launched, 1, each_ns, u64::MAX);
            }
            assert_eq!(launched, most, "of {each_ns} ns");
        }
    }

    #[test]
    fn the_next_long_one_comes_shortly_before_the_last_one_ends() {
        let mut scene = Scene::default();
        scene.launch(1, 1, 800_000, u64::MAX);
        for now_ns in [0, 100_000, 700_000] {
            scene.now_ns.set(now_ns);
            let wait = Verdict::Wait(800_000 - NEXT_NS - now_ns);
            assert_eq!(scene.look(false, 800_000), wait);
        }
        scene.now_ns.set(800_000 - NEXT_NS);
        assert_eq!(scene.look(false, 800_000), Verdict::Go);
    }

    #[test]
    fn what_completes_makes_room_and_what_was_queued_says_how_long_it_took() {
        let mut scene = Scene::default();
        for n in 1..=5 {
            scene.launch(n, 1, 20_000, 30_000 * n);
        }
        assert!(scene.waits(false, 20_000));
        scene.now_ns.set(65_000);
        assert_eq!(scene.look(false, 20_000), Verdict::Go);
        assert_eq!(scene.learned, [30_000], "nobody knows when the first began");
        scene.launch(6, 2, 20_000, 66_000);
        scene.now_ns.set(1_000_000);
        assert_eq!(scene.look(false, 20_000), Verdict::Go);
        assert_eq!(
            scene.learned, [30_000; 4],
            "the other stream's had none before it"
        );
    }

    #[test]
    fn who_is_held_waits_for_as_long_as_it_takes() {
        let mut scene = Scene::default();
        scene.launch(1, 1, 20_000, 20_000);
        for at_ns in [1, 30_000, PATIENCE_NS * 1000] {
            scene.now_ns.set(at_ns);
            assert!(scene.waits(true, 20_000));
        }
        assert_eq!(scene.look(false, 20_000), Verdict::Go);
    }

    #[test]
    fn if_nothing_moves_one_goes_on_at_a_time() {
        for is_held in [false, true] {
            let mut scene = Scene::default();
            for n in 1..=6 {
                scene.launch(n, 1, 20_000, u64::MAX);
            }
            scene.now_ns.set(PATIENCE_NS + 120_000);
            assert!(scene.waits(is_held, 20_000));
            scene.now_ns.set(PATIENCE_NS + 120_001);
            assert_eq!(scene.look(is_held, 20_000), Verdict::GoAnyway);
            assert!(scene.waits(is_held, 20_000));
        }
    }

    #[test]
    fn launches_without_a_stamp_are_not_waited_for() {
        let mut scene = Scene::default();
        for n in 1..=5 {
            scene.launch(n, 1, 20_000, u64::MAX);
        }
        let look = Look {
            now_ns: 0,
            since_ns: 0,
            is_held: false,
            predicted_ns: 20_000,
            bound_ns: BOUND_NS,
        };
        let gone = |_| State::Completed(None);
        let verdict =
            (scene.backlog).look(&look, || false, gone, |_, _| panic!("nothing is known"));
        assert_eq!(verdict, (Verdict::Go, 0));
    }

    #[test]
    fn what_ran_between_two_launches_is_not_taken_for_the_second() {
        let mut scene = Scene::default();
        scene.launch(1, 1, 20_000, 20_000);
        // The second launch of the stream is a chain.
        scene.launch(3, 1, 20_000, 3_000_000);
        scene.now_ns.set(4_000_000);
        assert_eq!(scene.look(false, 20_000), Verdict::Go);
        assert!(scene.learned.is_empty(), "{:?}", scene.learned);
    }

    #[test]
    fn what_was_queued_when_one_went_on_anyway_says_nothing() {
        let mut scene = Scene::default();
        for n in 1..=6 {
            scene.launch(n, 1, 20_000, PATIENCE_NS * 2 + n);
        }
        scene.now_ns.set(PATIENCE_NS + 120_001);
        assert_eq!(scene.look(false, 20_000), Verdict::GoAnyway);
        scene.now_ns.set(PATIENCE_NS * 3);
        assert_eq!(scene.look(false, 20_000), Verdict::Go);
        assert!(scene.learned.is_empty(), "{:?}", scene.learned);
    }

    #[test]
    fn behind_a_chain_that_is_held_nothing_is_expected_to_move() {
        let mut scene = Scene {
            has_chains: true,
            ..Scene::default()
        };
        scene.launch(1, 1, 20_000, u64::MAX);
        for _ in 0..100 {
            scene.now_ns.set(scene.now_ns.get() + 2 * PATIENCE_NS);
            assert!(scene.waits(true, 20_000));
        }
    }

    #[test]
    fn a_launch_that_is_never_stamped_goes_with_the_next_of_its_stream() {
        let mut scene = Scene::default();
        for n in 1..=4 {
            scene.launch(n, 1, 60_000, u64::MAX);
        }
        scene.launch(5, 1, 60_000, 10);
        assert!(scene.waits(false, 60_000));
        scene.now_ns.set(10);
        assert_eq!(scene.look(false, 60_000), Verdict::Go);
    }
}
