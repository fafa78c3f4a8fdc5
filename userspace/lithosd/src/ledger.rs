// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ledger of a channel: which of its launches may still be running, and on which TPCs.
//!
//! A tenant that reserves a launch's sequence after the daemon has published a grant follows that
//! grant. So the daemon publishes, reads `reserved` = T, and the grants before are out of use when all
//! launches up to T have completed: only then may the TPCs that the grant took away pass on.
//!
//! ```text
//!   reserved ----> pending ------> outstanding ------> completed
//!             (no record yet)  |  (record read)   |    its stamp; or its place is in use again; or,
//!                              |                  |    unstamped, a later stamp of its stream
//!                              +------------------+--> unknowable, until the channel ends
//! ```
//!
//! *Unknowable* are: nodes of graphs (they may run again at any replay), unstamped launches of no known
//! stream, launches without a record (overruns, and records that were overwritten before anybody
//! read them). What is unknowable holds its TPCs in transit for as long as the channel lives, and
//! [`Ledger::awaited`] says so. A launch whose TPCs the channel keeps holds nothing back.
//!
//! The ring is written by the tenant. Nothing in it is believed further than it costs the tenant:
//! every index is bounded by the ring's size as the daemon knows it, every set by the same number, and
//! a lie about completions is no more than what the tenant could do to its own stamps.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use lithos_abi::arena::Stamps;
use lithos_abi::bindings::{
    LITHOS_COUNT_GRAPH_NODES, LITHOS_COUNT_OVERRUN, LITHOS_COUNT_UNSTAMPED,
    LITHOS_RECORD_FAIL_STATIC, LITHOS_RECORD_GRAPH_NODE, LITHOS_RECORD_STAMPED,
    LITHOS_RECORD_UNMANAGED, LITHOS_RECORD_VOID, LITHOS_RECORD_WIDENED,
};
use lithos_abi::lithos_record;
use lithos_abi::ring::{Read, RingReader};
use lithos_policy::{Revision, TpcSet};
use serde::{Deserialize, Serialize};

/// How many grants a record can name and still be checked against.
pub const GRANTS_KEPT: usize = 64;
/// How many drains are awaited at a time; a later one includes those before.
const AWAITS_MAX: usize = 64;
/// How many operators are told apart.
pub const OPERATORS_MAX: usize = 4_096;
/// How many of the pending are looked at in one look.
const PENDING_AT_ONCE: usize = 256;
/// How many streams are told apart.
const STREAMS_MAX: usize = 4_096;
/// No GPU takes clusters of more CTAs; a claim beyond that is cut to it.
const CLUSTER_CTAS_MAX: u32 = 32;

/// What is known about the launches of one channel.
#[derive(Debug)]
pub struct Ledger {
    records: u64,
    present: TpcSet,
    /// The next sequence to look at; all before have been seen.
    next: u64,
    /// Reserved, without a record yet. Within one ring of `next`.
    pending: BTreeSet<u64>,
    /// Where among the pending the next look goes on.
    pending_from: u64,
    /// Recorded, not known to have completed. At most one ring.
    outstanding: BTreeMap<u64, Launch>,
    /// The latest stamped launch known to have completed, of each stream.
    completed_of: BTreeMap<u64, u64>,
    /// For each TPC, the first launch on it whose completion cannot be known.
    unknowable: BTreeMap<u8, Unknowable>,
    /// Grants up to this one are those of a daemon before.
    inherited: u64,
    /// The TPCs that it ever had, its own or lent.
    had: TpcSet,
    grants: VecDeque<Granted>,
    awaits: Vec<Await>,
    operators: HashSet<Operator>,
    totals: Totals,
}

/// Sums over the life of a channel, for status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Records read.
    pub launches: u64,
    /// Launches known to have completed.
    pub completed: u64,
    /// Launches that the ring no longer held when they were looked for.
    pub lost: u64,
    /// Nodes of graphs.
    pub graph_nodes: u64,
    /// Launches that carry more TPCs than their grant because they would not fit, and say so.
    pub widened: u64,
    /// Launches that were left as the driver made them.
    pub unmanaged: u64,
    /// Launches whose mask was not within the grant that they name.
    pub violations: u64,
    /// Launches that followed an older grant than they should have.
    pub stale: u64,
    /// Launches that name a grant too old to be checked.
    pub unchecked: u64,
    /// Launches that followed a grant of a daemon before.
    #[serde(default)]
    pub inherited: u64,
    /// Launches that found nobody who schedules, and kept to what holds then.
    #[serde(default)]
    pub fail_static: u64,
    /// CTAs of the largest cluster.
    pub cluster_ctas: u32,
    /// The time of the latest launch, by the tenant's clock.
    pub submitted_ns: u64,
}

/// What a drain waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// The revision of the grant that took the TPCs away.
    pub revision: Revision,
    /// The launches up to this one count.
    pub up_to: u64,
    /// How many of them are not known to have completed.
    pub launches: u64,
    /// The first of these.
    pub oldest: Option<u64>,
    /// Why it can never be known, if so.
    pub unknowable: Option<Unknowable>,
}

/// Why the completion of a launch cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why", content = "launch")]
pub enum Unknowable {
    /// It is a node of a graph, which may be replayed at any time.
    GraphNode(u64),
    /// It has no stamp, and its stream is not known.
    Unstamped(u64),
    /// It left no record: an overrun, or it was overwritten before it was read.
    Lost(u64),
}

/// What a look at the ring brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Something was submitted or completed.
    pub moved: bool,
    /// A larger cluster than ever before: its CTAs.
    pub cluster_ctas: Option<u32>,
    /// Drains that have come.
    pub drained: Vec<Revision>,
}

#[derive(Clone, Copy, Debug)]
struct Launch {
    tpcs: TpcSet,
    stream: u64,
    grant: u64,
    stamped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    sequence: u64,
    revision: Revision,
    tpcs: TpcSet,
    /// `reserved`, read after the grant was published.
    reserved: u64,
}

#[derive(Clone, Copy, Debug)]
struct Await {
    revision: Revision,
    sequence: u64,
    kept: TpcSet,
    up_to: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Operator {
    program: u64,
    grid: [u32; 3],
    block: [u16; 3],
    shared_bytes: u32,
}

impl Unknowable {
    /// Returns the launch that it is about.
    pub fn launch(self) -> u64 {
        match self {
            Self::GraphNode(launch) | Self::Unstamped(launch) | Self::Lost(launch) => launch,
        }
    }
}

impl Ledger {
    /// The ledger of a channel that has launched nothing, on a GPU with these TPCs.
    pub fn new(records: u32, present: TpcSet) -> Self {
        Self {
            records: u64::from(records),
            present,
            next: 1,
            pending: BTreeSet::new(),
            pending_from: 0,
            outstanding: BTreeMap::new(),
            completed_of: BTreeMap::new(),
            unknowable: BTreeMap::new(),
            inherited: 0,
            had: TpcSet::EMPTY,
            grants: VecDeque::new(),
            awaits: Vec::new(),
            operators: HashSet::new(),
            totals: Totals::default(),
        }
    }

    /// The ledger of a channel that a daemon before this one handed out, and whose grants had sequences
    /// up to `last` at most. `held` are the TPCs that its launches may be running on.
    ///
    /// What the ring still holds is read as always. Of what it does not hold any more, a launch with a
    /// stamp has completed, because its place was taken; if the tenant counts other launches, one of
    /// them may have been there, and may be running on any TPC held.
    pub fn inherit(ring: &RingReader<'_>, present: TpcSet, held: TpcSet, last: u64) -> Self {
        let records = ring.records();
        let mut ledger = Self::new(records, present);
        ledger.inherited = last;
        ledger.had = held;
        let forgotten = ring.reserved().saturating_sub(u64::from(records));
        ledger.next = forgotten.saturating_add(1);
        let others: u64 = [
            LITHOS_COUNT_UNSTAMPED,
            LITHOS_COUNT_OVERRUN,
            LITHOS_COUNT_GRAPH_NODES,
        ]
        .into_iter()
        .fold(0, |sum, counter| sum.saturating_add(ring.counter(counter)));
        if forgotten > 0 && others > 0 {
            ledger.give_up(held, Unknowable::Lost(forgotten));
        }
        ledger
    }

    /// Takes note of a grant that was just published, of these TPCs, those that are lent and all, and of `reserved` as
    /// read after that.
    pub fn granted(&mut self, sequence: u64, revision: Revision, tpcs: TpcSet, reserved: u64) {
        self.had |= tpcs;
        if self.grants.len() == GRANTS_KEPT {
            self.grants.pop_front();
        }
        self.grants.push_back(Granted {
            sequence,
            revision,
            tpcs,
            reserved,
        });
    }

    /// Takes note that launches after this one follow the grants of this daemon: those that were published
    /// before with `reserved` not known, which is [`u64::MAX`].
    pub fn taken_over(&mut self, reserved: u64) {
        for grant in &mut self.grants {
            grant.reserved = grant.reserved.min(reserved);
        }
    }

    /// Asks to be told when no launch under a grant older than this one uses TPCs beyond it.
    ///
    /// # Panics
    ///
    /// If the grant is not among the last [`GRANTS_KEPT`].
    pub fn await_drain(&mut self, revision: Revision) {
        let granted = self.grants.iter().find(|grant| grant.revision == revision);
        let granted = granted.expect("a drain is awaited when its grant has just been published");
        if self.awaits.len() == AWAITS_MAX {
            // Whoever hears of a later drain knows that those before have come, too.
            self.awaits.remove(0);
        }
        self.awaits.push(Await {
            revision,
            sequence: granted.sequence,
            // What it never had nobody takes away from it.
            kept: granted.tpcs | (self.present - self.had),
            up_to: granted.reserved,
        });
    }

    /// Looks at the ring and the stamps.
    pub fn poll(&mut self, ring: &RingReader<'_>, stamps: &Stamps<'_>) -> News {
        let before = (self.totals.launches, self.totals.completed);
        let cluster_ctas = self.totals.cluster_ctas;
        self.read_new(ring, stamps);
        self.complete_stamped(ring, stamps);
        self.complete_unstamped();
        let (drained, awaits) = (self.awaits.iter()).partition(|on| self.is_drained(on));
        self.awaits = awaits;
        let drained: Vec<Await> = drained;
        News {
            moved: before != (self.totals.launches, self.totals.completed),
            cluster_ctas: Some(self.totals.cluster_ctas).filter(|&ctas| ctas > cluster_ctas),
            drained: drained.iter().map(|on| on.revision).collect(),
        }
    }

    /// Returns the TPCs that it ever had, its own or lent.
    pub fn had(&self) -> TpcSet {
        self.had
    }

    /// Returns whether all that was submitted is known to have completed, as of the last look.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.outstanding.is_empty() && self.unknowable.is_empty()
    }

    /// Returns whether a drain is awaited that may still come.
    pub fn awaits(&self) -> bool {
        self.awaits
            .iter()
            .any(|on| self.first_unknowable(on).is_none())
    }

    /// Returns what is awaited.
    pub fn awaited(&self) -> Vec<Awaited> {
        let awaits = self.awaits.iter();
        let describe = |on: &Await| {
            let pending = self.pending.range(..=on.up_to).copied();
            let open: BTreeSet<u64> = pending.chain(self.holding(on)).collect();
            Awaited {
                revision: on.revision,
                up_to: on.up_to,
                launches: open.len() as u64,
                oldest: open.first().copied(),
                unknowable: self.first_unknowable(on),
            }
        };
        awaits.map(describe).collect()
    }

    /// Returns the sums.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns how many launches are not known to have completed.
    pub fn outstanding(&self) -> u64 {
        (self.outstanding.len() + self.pending.len()) as u64
    }

    /// Returns how many operators were seen; [`OPERATORS_MAX`] stands for that many or more.
    pub fn operators(&self) -> u64 {
        self.operators.len() as u64
    }

    /// Returns the first of each kind of launch whose completion cannot be known, with the TPCs.
    pub fn unknowable(&self) -> (TpcSet, Option<Unknowable>) {
        let tpcs = self.unknowable.keys().copied().collect();
        let first = self.unknowable.values().min_by_key(|why| why.launch());
        (tpcs, first.copied())
    }

    fn read_new(&mut self, ring: &RingReader<'_>, stamps: &Stamps<'_>) {
        let reserved = ring.reserved();
        let oldest_held = reserved.saturating_sub(self.records).saturating_add(1);
        if oldest_held > self.next {
            self.lose(self.next, oldest_held - self.next);
            self.next = oldest_held;
        }
        for sequence in self.pending_in_turn(oldest_held) {
            if self.take_record(sequence, ring, stamps) {
                self.pending.remove(&sequence);
            } else if sequence < oldest_held {
                self.pending.remove(&sequence);
                self.lose(sequence, 1);
            }
        }
        // At most one ring of them: what lies further back was given up above.
        while self.next <= reserved {
            let sequence = self.next;
            if !self.take_record(sequence, ring, stamps) {
                self.pending.insert(sequence);
            }
            let Some(next) = sequence.checked_add(1) else {
                break;
            };
            self.next = next;
        }
    }

    /// Returns what of the pending is looked at now: those whose places are taken again, once, and so
    /// many of the others. An honest tenant has few, and a liar's lies cost others no time.
    fn pending_in_turn(&mut self, oldest_held: u64) -> Vec<u64> {
        let from = self.pending_from.max(oldest_held);
        let later = self
            .pending
            .range(from..)
            .chain(self.pending.range(oldest_held..from));
        let some: Vec<u64> = later.copied().take(PENDING_AT_ONCE).collect();
        if let Some(last) = some.last() {
            self.pending_from = last.saturating_add(1);
        }
        let given_up = self.pending.range(..oldest_held).copied();
        given_up.chain(some).collect()
    }

    /// Reads a record, and tells whether there is nothing more to come of it.
    fn take_record(&mut self, sequence: u64, ring: &RingReader<'_>, stamps: &Stamps<'_>) -> bool {
        match ring.read(sequence) {
            Read::Unwritten => return false,
            Read::Overwritten => self.lose(sequence, 1),
            Read::Record(record) => {
                let place = ring.place(sequence);
                let stamped = record.flags & LITHOS_RECORD_STAMPED != 0;
                let completed = stamped && stamps.has_completed(place, sequence);
                self.enter(sequence, &record, completed);
            }
        }
        true
    }

    fn enter(&mut self, sequence: u64, record: &lithos_record, completed: bool) {
        let is = |flag| record.flags & flag != 0;
        if is(LITHOS_RECORD_VOID) {
            return;
        }
        self.totals.launches += 1;
        self.totals.submitted_ns = self.totals.submitted_ns.max(record.submitted_ns);
        let ctas: u32 = record.cluster.iter().fold(1_u32, |product, &extent| {
            product.saturating_mul(u32::from(extent.max(1)))
        });
        if ctas > 1 {
            let ctas = ctas.min(CLUSTER_CTAS_MAX);
            self.totals.cluster_ctas = self.totals.cluster_ctas.max(ctas);
        }
        if self.operators.len() < OPERATORS_MAX {
            self.operators.insert(Operator {
                program: record.program,
                grid: record.grid,
                block: record.block,
                shared_bytes: record.shared_bytes,
            });
        }
        let mut tpcs = TpcSet::from_words(record.tpcs.words) & self.present;
        if is(LITHOS_RECORD_UNMANAGED) || tpcs.is_empty() {
            tpcs = self.present;
        }
        self.check_mask(sequence, record, tpcs);
        let stamped = is(LITHOS_RECORD_STAMPED);
        if is(LITHOS_RECORD_GRAPH_NODE) {
            self.totals.graph_nodes += 1;
            self.give_up(tpcs, Unknowable::GraphNode(sequence));
        } else if completed {
            self.totals.completed += 1;
            self.note_completion(record.stream, sequence);
        } else if !stamped && record.stream == 0 {
            self.give_up(tpcs, Unknowable::Unstamped(sequence));
        } else {
            if self.outstanding.len() as u64 == self.records
                && let Some((oldest, launch)) = self.outstanding.pop_first()
            {
                self.give_up(launch.tpcs, Unknowable::Unstamped(oldest));
            }
            let launch = Launch {
                tpcs,
                stream: record.stream,
                grant: record.grant,
                stamped,
            };
            self.outstanding.insert(sequence, launch);
        }
    }

    /// Compares the mask of a launch with the grant that it names.
    fn check_mask(&mut self, sequence: u64, record: &lithos_record, tpcs: TpcSet) {
        if record.flags & LITHOS_RECORD_UNMANAGED != 0 {
            self.totals.unmanaged += 1;
            return;
        }
        if record.flags & LITHOS_RECORD_FAIL_STATIC != 0 {
            self.totals.fail_static += 1;
        }
        if (1..=self.inherited).contains(&record.grant) {
            self.totals.inherited += 1;
            return;
        }
        let named = self.grants.iter().position(|g| g.sequence == record.grant);
        let Some(named) = named else {
            let oldest = self.grants.front().map_or(1, |grant| grant.sequence);
            if (1..oldest).contains(&record.grant) {
                self.totals.unchecked += 1;
            } else {
                self.totals.violations += 1;
            }
            return;
        };
        let successor = self.grants.get(named + 1);
        if successor.is_some_and(|grant| grant.reserved < sequence) {
            self.totals.stale += 1;
        }
        if !tpcs.is_subset(self.grants[named].tpcs) {
            if record.flags & LITHOS_RECORD_WIDENED != 0 {
                self.totals.widened += 1;
            } else {
                self.totals.violations += 1;
            }
        }
    }

    fn complete_stamped(&mut self, ring: &RingReader<'_>, stamps: &Stamps<'_>) {
        let last = self.next.saturating_sub(1);
        let mut completed = Vec::new();
        for (&sequence, launch) in &self.outstanding {
            let place = ring.place(sequence);
            // A place is taken again only when its launch has completed.
            let taken_again = || {
                last.saturating_sub(sequence) >= self.records
                    && !matches!(ring.read(sequence), Read::Record(_))
            };
            if launch.stamped && (stamps.has_completed(place, sequence) || taken_again()) {
                completed.push((launch.stream, sequence));
            }
        }
        for (stream, sequence) in completed {
            self.outstanding.remove(&sequence);
            self.totals.completed += 1;
            self.note_completion(stream, sequence);
        }
    }

    fn complete_unstamped(&mut self) {
        let Self {
            outstanding,
            completed_of,
            totals,
            ..
        } = self;
        outstanding.retain(|sequence, launch| {
            let latest = completed_of.get(&launch.stream);
            let done = !launch.stamped && latest.is_some_and(|latest| latest > sequence);
            totals.completed += u64::from(done);
            !done
        });
    }

    /// Remembers the latest completion of a stream. Of too many streams the half that completed longest
    /// ago is forgotten, which can only delay a drain.
    fn note_completion(&mut self, stream: u64, sequence: u64) {
        if stream == 0 {
            return;
        }
        let latest = self.completed_of.entry(stream).or_default();
        *latest = sequence.max(*latest);
        if self.completed_of.len() > STREAMS_MAX {
            let mut all: Vec<u64> = self.completed_of.values().copied().collect();
            let (_, &mut middle, _) = all.select_nth_unstable(STREAMS_MAX / 2);
            self.completed_of.retain(|_, latest| *latest > middle);
        }
    }

    fn lose(&mut self, first: u64, count: u64) {
        self.totals.lost = self.totals.lost.saturating_add(count);
        self.give_up(self.present, Unknowable::Lost(first));
    }

    fn give_up(&mut self, tpcs: TpcSet, why: Unknowable) {
        for bit in tpcs.iter() {
            let known = self.unknowable.entry(bit).or_insert(why);
            if why.launch() < known.launch() {
                *known = why;
            }
        }
    }

    fn is_drained(&self, on: &Await) -> bool {
        self.next > on.up_to
            && self.pending.range(..=on.up_to).next().is_none()
            && self.holding(on).next().is_none()
            && self.first_unknowable(on).is_none()
    }

    /// The launches that an await is held up by: those up to its last, and any after it that followed
    /// an older grant all the same.
    fn holding(&self, on: &Await) -> impl Iterator<Item = u64> {
        let on = *on;
        let counts = move |&(&sequence, launch): &(&u64, &Launch)| {
            (sequence <= on.up_to || launch.grant < on.sequence) && !launch.tpcs.is_subset(on.kept)
        };
        self.outstanding
            .iter()
            .filter(counts)
            .map(|(&sequence, _)| sequence)
    }

    fn first_unknowable(&self, on: &Await) -> Option<Unknowable> {
        let beyond = (self.unknowable.iter()).filter(|(bit, _)| !on.kept.contains(**bit));
        let first = beyond.map(|(_, why)| *why).min_by_key(|why| why.launch());
        first.filter(|why| why.launch() <= on.up_to)
    }
}

#[cfg(test)]
mod tests;
