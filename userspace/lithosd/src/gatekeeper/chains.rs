// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The chains of one channel: which may still run, and whether their gates are as ordered.
//!
//! An order is written into the grant page first, so that chains that are published from then on follow it
//! by themselves; then it is stored into the gates of those that were there, the oldest first, because
//! only the oldest of each stream can be running, a few chains in each turn. Nothing is waited for in
//! between.
//!
//! ```text
//!   number of a chain:    seen before | followed: may still run            | begun since
//!   its gates                         | as ordered  ... not yet ...        | as ordered, by the tenant
//! ```
//!
//! A chain is *stuck* if it has begun, its gates are shut, and it does not stand before one of them, with all atoms before
//! that complete, although the atom that runs should long have ended: its blocks wait for blocks behind the
//! gate. (To have come to a gate is not enough: an atom schedules it when its last block has started.) It is opened then, and the tenant
//! told not to split its operator again.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lithos_abi::chain::Tail;
use lithos_abi::grant::Order;
use lithos_abi::ring::Read;
use lithos_device::pages::LivePages;
use lithos_policy::{Gates, Nanos, Pace, TpcSet};

use super::member::Seen;

/// Chains whose gates are stored into in one turn.
const AT_ONCE: usize = 16;
/// How much longer than predicted an atom may take to come to a shut gate.
const STUCK: Nanos = Nanos(10_000_000);
/// How long an atom may take that nothing is predicted of.
const UNPREDICTED: Nanos = Nanos(1_000_000_000);
/// A chain has stalled if it takes so many times what was predicted, and [`UNPREDICTED`] besides.
const STALLED: u64 = 10;
/// How often the gates of all are looked at although they should be as ordered.
const LOOK_AGAIN: Nanos = Nanos(1_000_000_000);

#[derive(Debug, Default)]
pub(super) struct Chains {
    /// The number of the last chain that was looked for.
    last: u64,
    followed: Vec<Followed>,
    /// Which tails have a chain that is followed.
    taken: Vec<bool>,
    mode: Mode,
    /// Since when.
    since: Nanos,
    /// The TPCs that atoms may use that have not started; `None`: all that their launches may.
    allowed: Option<TpcSet>,
    seen: Seen,
    /// When the gates of all were last looked at.
    looked: Nanos,
}

/// What gates are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To let pass.
    #[default]
    Open,
    /// To let pass as [`Pace`] says. Until then they are shut, and those of chains to come as well.
    Paced,
    /// To hold up.
    Held,
    /// To end what comes to them, for ever.
    Halted,
}

impl From<Gates> for Mode {
    fn from(gates: Gates) -> Self {
        match gates {
            Gates::Open => Self::Open,
            Gates::Paced => Self::Paced,
            Gates::Held => Self::Held,
        }
    }
}

impl Mode {
    /// The order that is written for it.
    fn order(self) -> Order {
        match self {
            Self::Open => Order::Open,
            Self::Paced | Self::Held => Order::Shut,
            Self::Halted => Order::Halt,
        }
    }
}

/// A chain that may still run, or has a number and is not published yet.
#[derive(Clone, Copy, Debug)]
struct Followed {
    number: u64,
    /// The launch, once it is published.
    launch: u64,
    /// Whoever published it looked at the order, and no scheduler before has stored into its gates.
    is_new: bool,
    /// What its gates say, as far as is known.
    gates: Option<Order>,
    /// The TPCs that its launch may come to run on, and those that its atoms have that have not started, as far as is
    /// known. Of clusters they are none, and cannot be changed.
    all: Option<TpcSet>,
    tpcs: Option<TpcSet>,
    /// It is let pass whatever is ordered.
    is_stuck: bool,
    is_stalled: bool,
    /// When it was first seen to have begun.
    first: Option<Nanos>,
    /// Its atoms that are known to have completed, from the first on.
    completed: u32,
    /// While its gates are opened one after another: which are open, and how many of them were stored into.
    pace: Option<(Pace, u32)>,
}

impl Followed {
    fn new(number: u64, is_new: bool) -> Self {
        Self {
            number,
            launch: 0,
            is_new,
            gates: None,
            all: None,
            tpcs: None,
            is_stuck: false,
            is_stalled: false,
            first: None,
            completed: 0,
            pace: None,
        }
    }

    /// Looks how far it has come.
    fn look(&mut self, chains: &lithos_abi::chain::Chains<'_>, tail: &Tail<'_>) {
        let gates = chains.gates_of(tail);
        if self.completed == 0 && tail.is_first_done(self.launch) {
            self.completed = 1;
        }
        if self.completed > 0 {
            let rest = gates.skip(self.completed as usize - 1);
            let done = rest.take_while(|&gate| chains.gate(gate).is_atom_done(self.launch));
            self.completed += u32::try_from(done.count()).unwrap_or(0);
        }
    }
}

impl Followed {
    /// Returns the TPCs that its atoms are to have and have not; `None` if they are to be left alone, perhaps because
    /// its record has not been written yet.
    fn other_tpcs(&mut self, live: &LivePages, allowed: Option<TpcSet>) -> Option<TpcSet> {
        let allowed = allowed?;
        // Those of clusters; or all that it may have it has.
        if self.tpcs == Some(TpcSet::EMPTY) || self.tpcs == Some(allowed) {
            return None;
        }
        if self.all.is_none()
            && let Read::Record(record) = live.ring().read(self.launch)
        {
            self.all = Some(TpcSet::from_words(record.tpcs.words));
        }
        // An empty mask would hang it for ever.
        let all = self.all.filter(|all| !all.is_empty())?;
        let some = all & allowed;
        let wanted = if some.is_empty() { all } else { some };
        (self.tpcs != Some(wanted)).then_some(wanted)
    }
}

/// Returns the TPCs that the atoms of a chain had when it was published; none of clusters.
fn published_tpcs(tail: &Tail<'_>) -> Option<TpcSet> {
    let words = tail.tpcs().map(|word| word.load(Relaxed));
    Some(TpcSet::from_words(words))
}

impl Chains {
    pub(super) fn running(&self) -> u64 {
        self.followed.len() as u64
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            running: self.running(),
            held: self.mode == Mode::Held,
            ..self.seen
        }
    }

    pub(super) fn has_new(&self, live: &LivePages) -> bool {
        live.ring().chains() != self.last
    }

    pub(super) fn allow(&mut self, tpcs: TpcSet) {
        self.allowed = Some(tpcs);
    }

    pub(super) fn is_paced(&self) -> bool {
        self.mode == Mode::Paced
    }

    /// Writes what gates are to do, if it is something else; returns whether it was.
    pub(super) fn set_mode(&mut self, mode: Mode, live: &LivePages, now: Nanos) -> bool {
        if self.mode == mode || self.mode == Mode::Halted {
            return false;
        }
        if self.mode.order() != mode.order() {
            live.order(mode.order());
        }
        // What is paced may begin, for it is bounded.
        live.hold(mode == Mode::Held);
        if self.mode == Mode::Held {
            self.seen.held_ns += now.0.saturating_sub(self.since.0);
        }
        self.mode = mode;
        self.since = now;
        self.seen.since_ns = now.0;
        self.seen.holds += u64::from(mode == Mode::Held);
        true
    }

    /// Ends all chains at their next gates.
    pub(super) fn halt(&mut self, live: &LivePages) {
        self.mode = Mode::Halted;
        live.order(Order::Halt);
        live.hold(false);
        if let Some(chains) = live.chains() {
            chains.store_into_all(Order::Halt);
        }
        self.followed.clear();
    }

    /// Takes in chains that have begun, and drops those that are done.
    pub(super) fn follow(&mut self, live: &LivePages) {
        let Some(chains) = live.chains() else {
            self.last = live.ring().chains();
            return;
        };
        let tails = u64::from(chains.tails());
        let begun = live.ring().chains();
        let forgotten = begun.saturating_sub(tails);
        let is_first_look = self.last == 0;
        self.taken.resize(chains.tails() as usize, false);
        let Self {
            taken, followed, ..
        } = self;
        #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
        let place = |number: u64| (number % tails) as usize;
        followed.retain_mut(|chain| {
            let tail = chains.tail(chain.number);
            let number = tail.number().load(Acquire);
            if number > chain.number && place(number) == place(chain.number) {
                // Another one has the tail since.
                *chain = Followed::new(number, true);
            }
            // A number that does not come is given up when another one could have its tail.
            let stays = match tail.published().load(Acquire) {
                published if published != 0 && number == chain.number => !tail.is_done(published),
                _ => chain.number > forgotten,
            };
            taken[place(chain.number)] &= stays;
            if stays && tail.published().load(Acquire) == chain.launch {
                chain.look(chains, &tail);
            }
            stays
        });
        // At most one for each tail, and none twice, whatever the tenant says.
        for number in self.last.max(forgotten).saturating_add(1)..=begun {
            if !std::mem::replace(&mut taken[place(number)], true) {
                followed.push(Followed::new(number, !is_first_look));
            }
        }
        self.last = begun;
    }

    /// Has the gates of some more chains be as ordered, and returns whether all are.
    pub(super) fn settle(&mut self, live: &LivePages, now: Nanos) -> bool {
        let Some(chains) = live.chains() else {
            return true;
        };
        let mut stores = 0;
        for chain in &mut self.followed {
            let tail = chains.tail(chain.number);
            let Some(launch) = tail.running() else {
                continue;
            };
            if chain.launch != launch {
                // Published since the last look, perhaps where another one was.
                let is_new = chain.is_new || chain.launch != 0;
                *chain = Followed {
                    launch,
                    tpcs: published_tpcs(&tail).filter(|tpcs| is_new || tpcs.is_empty()),
                    ..Followed::new(chain.number, is_new)
                };
            }
            let is_paced = self.mode == Mode::Paced && !chain.is_stuck;
            if !is_paced {
                chain.pace = None;
            }
            let order = match self.mode {
                Mode::Held | Mode::Paced if chain.is_stuck => Order::Open,
                mode => mode.order(),
            };
            if chain.gates.is_none() && chain.is_new {
                // They all say the same, then.
                let first = chains.gates_of(&tail).next();
                let says = |gate| chains.gate(gate).word().load(Relaxed) == order.gate_word();
                chain.gates = first.is_some_and(says).then_some(order);
            }
            let is_as_ordered = is_paced || chain.gates == Some(order);
            let tpcs = chain.other_tpcs(live, self.allowed);
            if is_as_ordered && tpcs.is_none() {
                if is_paced {
                    pace(chains, &tail, chain, now);
                }
                continue;
            }
            if stores == AT_ONCE {
                return false;
            }
            stores += 1;
            // Whoever is let pass has its TPCs before.
            if !is_as_ordered && order != Order::Open {
                store(chains, &tail, order, chain.completed);
            }
            if let Some(tpcs) = tpcs
                && narrow(chains, &tail, launch, tpcs)
            {
                chain.tpcs = Some(tpcs);
            }
            if !is_as_ordered {
                if order == Order::Open {
                    store(chains, &tail, order, chain.completed);
                }
                chain.gates = Some(order);
            }
            if is_paced {
                pace(chains, &tail, chain, now);
            }
        }
        true
    }

    /// Looks for chains that do not move, and now and then at the gates of all: somebody else may have stored
    /// there, who thought that nobody schedules, or was a scheduler himself and did not know that he is none
    /// any more.
    pub(super) fn inspect(&mut self, live: &LivePages, now: Nanos) {
        let Some(chains) = live.chains() else {
            return;
        };
        if now.0.saturating_sub(self.looked.0) >= LOOK_AGAIN.0 {
            self.looked = now;
            for chain in &mut self.followed {
                (chain.gates, chain.is_new) = (None, false);
            }
        }
        for chain in &mut self.followed {
            let tail = chains.tail(chain.number);
            let Some(published) = tail.running() else {
                continue;
            };
            if chain.first.is_none() && chains.has_begun(&tail, published) {
                chain.first = Some(now);
            }
            let Some(first) = chain.first else {
                continue;
            };
            let predicted = tail.remaining_ns().load(Relaxed);
            let gates = chains.gates_of(&tail);
            let since = now.0.saturating_sub(self.since.0.max(first.0));
            if self.mode == Mode::Held && !chain.is_stuck {
                let atom = match predicted {
                    0 => UNPREDICTED.0,
                    whole => whole / (gates.len() as u64 + 1),
                };
                if !chains.is_waiting(&tail, published) && since > atom.saturating_add(STUCK.0) {
                    chain.is_stuck = true;
                    self.seen.stuck += 1;
                    tail.stuck().store(1, Release);
                    // A tenant can say what it likes, as often as it likes.
                    if self.seen.stuck.is_power_of_two() {
                        let number = self.seen.stuck;
                        tracing::warn!(
                            launch = published,
                            number,
                            "a launch could not go on while its gates were shut; it is not split again"
                        );
                    }
                }
            }
            let limit = predicted
                .saturating_mul(STALLED)
                .saturating_add(UNPREDICTED.0);
            if matches!(self.mode, Mode::Open | Mode::Paced) && !chain.is_stalled && since > limit {
                chain.is_stalled = true;
                self.seen.stalled += 1;
                if self.seen.stalled.is_power_of_two() {
                    let number = self.seen.stalled;
                    tracing::warn!(
                        launch = published,
                        number,
                        "a launch does not move although its gates are open"
                    );
                }
            }
        }
    }
}

/// Opens the gates of a chain that are to be open by now.
fn pace(chains: &lithos_abi::chain::Chains<'_>, tail: &Tail<'_>, chain: &mut Followed, now: Nanos) {
    chain.look(chains, tail);
    let mut gates = chains.gates_of(tail);
    let atom = Nanos(tail.remaining_ns().load(Relaxed) / (gates.len() as u64 + 1));
    let begun = chain.completed > 0 || chains.has_begun(tail, chain.launch);
    let completed = chain.completed;
    let (pace, stored) = chain.pace.get_or_insert_with(|| (Pace::from(completed), 0));
    let open = pace.open(now, begun, completed, atom);
    let open = open.min(u32::try_from(gates.len()).unwrap_or(0));
    if open > *stored {
        for gate in gates.by_ref().take(open as usize).skip(*stored as usize) {
            chains.store_into(gate, Order::Open);
        }
        *stored = open;
        (chain.gates, chain.is_new) = (None, false);
    }
}

/// Stores an order into the gates of a chain that do not say so already, but for those that it has long
/// passed: behind them lie the first so many atoms, of which all but one have completed.
fn store(chains: &lithos_abi::chain::Chains<'_>, tail: &Tail<'_>, order: Order, completed: u32) {
    if order == Order::Halt {
        chains.store(tail, order);
        return;
    }
    let passed = completed.saturating_sub(1) as usize;
    let gates = chains.gates_of(tail).skip(passed);
    let stored = gates.filter(|&gate| chains.store_into(gate, order)).count();
    if stored > 0 && order == Order::Shut {
        let shut = tail.shut();
        shut.store(shut.load(Relaxed).saturating_add(1), Relaxed);
    }
}

/// Has the atoms of a chain that have not started use these TPCs only, of those that its launch has. Returns whether that is
/// so now.
fn narrow(
    chains: &lithos_abi::chain::Chains<'_>,
    tail: &Tail<'_>,
    published: u64,
    tpcs: TpcSet,
) -> bool {
    for gate in chains.gates_of(tail) {
        chains.narrow(gate, tpcs.words());
    }
    // How long it takes says nothing about its operator.
    let shut = tail.shut();
    shut.store(shut.load(Relaxed).saturating_add(1), Relaxed);
    // Else these may have been another one's, which gets its own in the next turn.
    tail.published().load(Acquire) == published
}
