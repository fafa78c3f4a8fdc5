// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ring reader and the ledger: a tenant's memory with any bits, while grants change.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use lithos_abi::arena::Stamps;
use lithos_abi::bindings::*;
use lithos_abi::lithos_record;
use lithos_abi::ring::{Read, RingReader, RingWriter, ring_bytes};
use lithos_policy::{Revision, TpcSet};
use lithosd::ledger::{Ledger, OPERATORS_MAX, Totals};

use crate::input::Input;
use crate::memory::Memory;

const RECORDS: u32 = 8;
const STAMP_BYTES: usize = size_of::<lithos_stamp>();
/// Launches or words in one step, so that a step has an end.
const BURST: usize = 20;

struct Channel {
    ring: Memory,
    stamps: Memory,
    ledger: Ledger,
    present: TpcSet,
    /// Grants published.
    grants: u64,
    /// Revisions that are awaited and have not drained. A later one may drain first: it may leave more.
    awaited: BTreeSet<Revision>,
    before: Totals,
}

/// Does what a tenant, its GPU and the scheduler can do to a channel, in any order.
pub fn ring(data: &[u8]) {
    let mut input = Input(data);
    let present: TpcSet = [0..4, 9..13, 75..76].into_iter().flatten().collect();
    let mut channel = Channel {
        ring: Memory::new(ring_bytes(RECORDS)),
        stamps: Memory::new(STAMP_BYTES * RECORDS as usize),
        ledger: Ledger::new(RECORDS, present),
        present,
        grants: 0,
        awaited: BTreeSet::new(),
        before: Totals::default(),
    };
    while !input.is_empty() {
        match input.byte() % 7 {
            0 => channel.scribble(&mut input),
            1 => channel.launch(&mut input),
            2 => channel.stamp(&mut input),
            3 => channel.record(&mut input),
            4 => channel.grant(&mut input),
            5 => channel.reserve(&mut input),
            _ => channel.poll(&mut input),
        }
    }
    channel.poll(&mut input);
}

impl Channel {
    fn reader(&self) -> RingReader<'_> {
        RingReader::new(self.ring.page(), RECORDS).expect("memory for a ring")
    }

    fn writer(&self) -> RingWriter<'_> {
        RingWriter::create(self.ring.page(), RECORDS).expect("memory for a ring")
    }

    /// Writes any words somewhere.
    fn scribble(&self, input: &mut Input<'_>) {
        let memory = match input.flag() {
            true => &self.stamps,
            false => &self.ring,
        };
        let first = input.below(memory.0.len());
        for word in memory.0.iter().skip(first).take(input.below(BURST)) {
            word.store(input.word(), Relaxed);
        }
    }

    /// Launches as the shim does.
    fn launch(&self, input: &mut Input<'_>) {
        let writer = self.writer();
        let stamps = Stamps::new(self.stamps.page());
        for _ in 0..=input.below(BURST) {
            if self.reader().reserved() == u64::MAX {
                return;
            }
            let sequence = writer.reserve();
            if writer.claim(sequence, input.flag().then_some(&stamps)) {
                writer.write(&record(sequence, input));
            }
        }
    }

    /// Completes a launch, or says so.
    fn stamp(&self, input: &mut Input<'_>) {
        let low = input.number() & 0xffff_ffff;
        let place = self.reader().place(low) * STAMP_BYTES / 8;
        self.stamps.0[place + 1].store(input.number(), Relaxed);
        self.stamps.0[place].store(low, Relaxed);
    }

    /// Writes a whole record of any sequence, without asking.
    fn record(&self, input: &mut Input<'_>) {
        self.writer().write(&record(input.number(), input));
    }

    /// Publishes a grant, as the daemon does.
    fn grant(&mut self, input: &mut Input<'_>) {
        self.grants += 1;
        let bits: u64 = input.word();
        let tpcs = TpcSet::from_words([bits, bits.rotate_left(7)]) & self.present;
        let reserved = self.reader().reserved();
        let revision = Revision(self.grants);
        self.ledger.granted(self.grants, revision, tpcs, reserved);
        if input.flag() {
            self.ledger.await_drain(revision);
            self.awaited.insert(revision);
        }
    }

    fn reserve(&self, input: &mut Input<'_>) {
        let at = std::mem::offset_of!(lithos_ring, reserved);
        self.ring.page().word(at).store(input.number(), Relaxed);
    }

    /// Looks at the ring, and at everything that can be said of it.
    fn poll(&mut self, input: &mut Input<'_>) {
        let (ring, stamps) = (self.ring.page(), self.stamps.page());
        let ring = RingReader::new(ring, RECORDS).expect("memory for a ring");
        let sequence = input.number();
        if let Read::Record(record) = ring.read(sequence) {
            assert_eq!(record.sequence, sequence);
        }
        assert!(ring.masked() <= ring.reserved() && ring.stamped() <= ring.reserved());
        ring.counter(input.half());

        let news = self.ledger.poll(&ring, &Stamps::new(stamps));
        for revision in news.drained {
            assert!(self.awaited.remove(&revision), "nobody awaits {revision}");
        }
        let ledger = &self.ledger;
        let totals = ledger.totals();
        assert!(totals.completed <= totals.launches);
        assert!(totals.launches >= self.before.launches && totals.lost >= self.before.lost);
        assert_eq!(
            news.moved,
            (totals.launches, totals.completed) != (self.before.launches, self.before.completed)
        );
        assert!(
            news.cluster_ctas
                .is_none_or(|ctas| ctas == totals.cluster_ctas && ctas <= 32)
        );
        self.before = totals;
        // One ring without a record and one with.
        assert!(ledger.outstanding() <= 2 * u64::from(RECORDS));
        assert!(ledger.operators() <= OPERATORS_MAX as u64);
        let (tpcs, why) = ledger.unknowable();
        assert!(tpcs.is_subset(self.present) && tpcs.is_empty() == why.is_none());
        assert!(!ledger.is_idle() || ledger.outstanding() == 0);
        let awaited = ledger.awaited();
        for on in &awaited {
            assert!(self.awaited.contains(&on.revision));
            assert!(on.launches <= ledger.outstanding());
            assert_eq!(on.oldest.is_some(), on.launches > 0);
        }
        assert!(!ledger.awaits() || !awaited.is_empty());
    }
}

fn record(sequence: u64, input: &mut Input<'_>) -> lithos_record {
    let axes = input.half().to_le_bytes();
    lithos_record {
        sequence,
        submitted_ns: input.number(),
        grant: input.number(),
        tpcs: lithos_tpcs {
            words: [input.word(), 0],
        },
        program: input.number(),
        stream: u64::from(input.byte() % 4),
        cluster: [axes[0].into(), axes[1].into(), axes[2].into()],
        flags: input.byte().into(),
        ..lithos_record::default()
    }
}
