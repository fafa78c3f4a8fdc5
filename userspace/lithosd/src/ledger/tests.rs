// SPDX-License-Identifier: GPL-2.0-only OR MIT

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use lithos_abi::Page;
use lithos_abi::bindings::{lithos_stamp, lithos_tpcs};
use lithos_abi::ring::{RingWriter, ring_bytes};
use proptest::prelude::*;

use super::*;

const RECORDS: u32 = 64;

/// Zeroed shared memory.
struct Memory(Vec<AtomicU64>);

impl Memory {
    fn new(bytes: usize) -> Self {
        Self((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect())
    }

    fn page(&self) -> Page<'_> {
        let start = NonNull::from(&self.0[..]).cast();
        // SAFETY: 1. the words are aligned, live as long as `self` and can be written through shared
        // references. 2. they are atomics.
        unsafe { Page::new(start, self.0.len() * 8) }
    }
}

/// A tenant's side of a ring, and a GPU's side of its stamps.
struct Tenant {
    ring: Memory,
    stamps: Memory,
}

/// One launch, as a test describes it.
#[derive(Clone, Copy)]
struct Spec {
    tpcs: TpcSet,
    grant: u64,
    stream: u64,
    flags: u32,
}

impl Tenant {
    fn new() -> Self {
        let tenant = Self {
            ring: Memory::new(ring_bytes(RECORDS)),
            stamps: Memory::new(size_of::<lithos_stamp>() * RECORDS as usize),
        };
        tenant.writer();
        tenant
    }

    fn writer(&self) -> RingWriter<'_> {
        RingWriter::create(self.ring.page(), RECORDS).unwrap()
    }

    fn ring(&self) -> RingReader<'_> {
        RingReader::new(self.ring.page(), RECORDS).unwrap()
    }

    fn write(&self, sequence: u64, spec: Spec) {
        let stamps = Stamps::new(self.stamps.page());
        assert!(self.writer().claim(sequence, Some(&stamps)));
        self.writer().write(&lithos_record {
            sequence,
            submitted_ns: sequence,
            grant: spec.grant,
            tpcs: lithos_tpcs {
                words: spec.tpcs.words(),
            },
            stream: spec.stream,
            flags: spec.flags,
            cluster: [1; 3],
            ..lithos_record::default()
        });
    }

    fn launch(&self, spec: Spec) -> u64 {
        let sequence = self.writer().reserve();
        self.write(sequence, spec);
        sequence
    }

    fn complete(&self, sequence: u64) {
        let place = self.ring().place(sequence);
        let low = u32::try_from(sequence & 0xffff_ffff).unwrap();
        self.stamps
            .page()
            .half(size_of::<lithos_stamp>() * place)
            .store(low, Ordering::Release);
    }

    fn poll(&self, ledger: &mut Ledger) -> News {
        ledger.poll(&self.ring(), &Stamps::new(self.stamps.page()))
    }

    /// Publishes a grant of these TPCs, the next one.
    fn grant(&self, ledger: &mut Ledger, number: u64, tpcs: TpcSet) {
        let reserved = self.ring().reserved();
        ledger.granted(number, Revision(number), tpcs, reserved);
    }
}

fn bits(range: std::ops::Range<u8>) -> TpcSet {
    range.collect()
}

fn ledger() -> Ledger {
    Ledger::new(RECORDS, bits(0..16))
}

/// A stamped launch of stream 7 under grant 1 on TPCs 0 to 7.
fn stamped() -> Spec {
    Spec {
        tpcs: bits(0..8),
        grant: 1,
        stream: 7,
        flags: LITHOS_RECORD_STAMPED,
    }
}

fn unstamped() -> Spec {
    Spec {
        flags: 0,
        ..stamped()
    }
}

/// A channel that had TPCs 0 to 7, launched what `prepare` launches, and was left with 0 to 3.
fn narrowed(prepare: impl FnOnce(&Tenant)) -> (Tenant, Ledger) {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    tenant.grant(&mut ledger, 1, bits(0..8));
    prepare(&tenant);
    tenant.grant(&mut ledger, 2, bits(0..4));
    ledger.await_drain(Revision(2));
    (tenant, ledger)
}

#[test]
fn a_channel_without_launches_is_drained_at_the_first_look() {
    let (tenant, mut ledger) = narrowed(|_| {});
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert!(ledger.is_idle());
}

#[test]
fn what_is_not_lent_any_more_is_awaited_like_what_was_its_own() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    // It has 0 to 3 of its own, and 8 to 15 are lent to it.
    tenant.grant(&mut ledger, 1, bits(0..4) | bits(8..16));
    let on = |tpcs| Spec { tpcs, ..stamped() };
    tenant.launch(on(bits(0..4)));
    tenant.launch(on(bits(8..12)));
    tenant.launch(on(bits(12..16)));
    // Whoever lent 12 to 15 gives them to somebody else.
    tenant.grant(&mut ledger, 2, bits(0..4) | bits(8..12));
    ledger.await_drain(Revision(2));
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(ledger.awaited()[0].launches, 1);
    tenant.complete(3);
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert_eq!(ledger.had(), bits(0..4) | bits(8..16));
}

#[test]
fn a_drain_comes_when_the_last_launch_before_the_grant_has_its_stamp() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(stamped());
        tenant.launch(stamped());
    });
    let later = Spec {
        tpcs: bits(0..4),
        grant: 2,
        ..stamped()
    };
    tenant.launch(later);
    tenant.complete(2);
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    let awaited = &ledger.awaited()[0];
    assert_eq!(
        (awaited.launches, awaited.oldest, awaited.up_to),
        (1, Some(1), 2)
    );
    tenant.complete(1);
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert!(!ledger.is_idle());
}

#[test]
fn a_launch_that_has_not_left_its_record_yet_holds_a_drain_back() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.writer().reserve();
    });
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(ledger.awaited()[0].oldest, Some(1));
    tenant.write(1, stamped());
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    tenant.complete(1);
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
}

#[test]
fn a_sequence_that_no_launch_came_of_holds_nothing_back() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(Spec {
            tpcs: bits(0..0),
            grant: 0,
            stream: 0,
            flags: LITHOS_RECORD_VOID,
        });
    });
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert!(ledger.is_idle());
    let totals = ledger.totals();
    assert_eq!((totals.launches, totals.violations), (0, 0));
    assert!(ledger.unknowable().0.is_empty());
}

#[test]
fn an_unstamped_launch_completes_with_a_later_stamp_of_its_stream() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(stamped());
        tenant.launch(unstamped());
        tenant.launch(Spec {
            stream: 8,
            ..stamped()
        });
        tenant.launch(stamped());
    });
    tenant.complete(1);
    tenant.complete(3);
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(ledger.awaited()[0].oldest, Some(2));
    tenant.complete(4);
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert_eq!(ledger.totals().completed, 4);
}

#[test]
fn an_unstamped_launch_whose_record_comes_late_completes_all_the_same() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.writer().reserve();
        tenant.launch(stamped());
    });
    tenant.complete(2);
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    tenant.write(1, unstamped());
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
}

#[test]
fn an_unstamped_launch_of_no_known_stream_never_completes() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(Spec {
            stream: 0,
            ..unstamped()
        });
        tenant.launch(Spec {
            stream: 0,
            ..stamped()
        });
    });
    tenant.complete(2);
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    let awaited = &ledger.awaited()[0];
    assert_eq!(awaited.unknowable, Some(Unknowable::Unstamped(1)));
    assert!(!ledger.awaits() && !ledger.is_idle());
}

#[test]
fn a_graph_node_keeps_its_tpcs_unless_the_channel_keeps_them_too() {
    let node = |tpcs| Spec {
        tpcs,
        flags: LITHOS_RECORD_GRAPH_NODE,
        ..stamped()
    };
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(node(bits(0..4)));
    });
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
    assert!(!ledger.is_idle());
    let (tenant, mut ledger) = narrowed(|tenant| {
        tenant.launch(node(bits(3..5)));
    });
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(
        ledger.awaited()[0].unknowable,
        Some(Unknowable::GraphNode(1))
    );
    assert_eq!(ledger.unknowable().0, bits(3..5));
}

#[test]
fn a_graph_node_that_came_after_the_grant_holds_nothing_back() {
    let (tenant, mut ledger) = narrowed(|_| {});
    tenant.grant(&mut ledger, 3, bits(0..6));
    tenant.launch(Spec {
        tpcs: bits(0..6),
        grant: 3,
        flags: LITHOS_RECORD_GRAPH_NODE,
        ..stamped()
    });
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
}

#[test]
fn records_that_were_overwritten_before_they_were_read_are_never_known() {
    let (tenant, mut ledger) = narrowed(|tenant| {
        for sequence in 1..=u64::from(RECORDS) + 3 {
            assert_eq!(tenant.launch(stamped()), sequence);
            tenant.complete(sequence);
        }
    });
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(ledger.totals().lost, 3);
    assert_eq!(ledger.awaited()[0].unknowable, Some(Unknowable::Lost(1)));
    assert_eq!(ledger.unknowable().0, bits(0..16));
}

#[test]
fn a_launch_without_a_record_is_given_up_when_its_place_is_used_again() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    tenant.grant(&mut ledger, 1, bits(0..8));
    for _ in 0..RECORDS {
        tenant.launch(stamped());
    }
    tenant.poll(&mut ledger);
    let overrun = tenant.writer().reserve();
    assert!(
        !tenant
            .writer()
            .claim(overrun, Some(&Stamps::new(tenant.stamps.page())))
    );
    for sequence in 1..=u64::from(RECORDS) {
        tenant.complete(sequence);
    }
    tenant.poll(&mut ledger);
    assert_eq!((ledger.outstanding(), ledger.totals().lost), (1, 0));
    for _ in 0..RECORDS {
        tenant.launch(stamped());
    }
    tenant.poll(&mut ledger);
    assert_eq!(ledger.totals().lost, 1);
    assert_eq!(ledger.unknowable().1, Some(Unknowable::Lost(overrun)));
}

#[test]
fn a_launch_whose_place_is_used_again_has_completed() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    tenant.grant(&mut ledger, 1, bits(0..8));
    for _ in 0..RECORDS {
        tenant.launch(stamped());
    }
    tenant.poll(&mut ledger);
    assert_eq!(ledger.outstanding(), u64::from(RECORDS));
    // The stamp of 1 is never seen: the next launch at its place completes before the next look.
    tenant.complete(1);
    let again = tenant.launch(stamped());
    tenant.complete(again);
    tenant.poll(&mut ledger);
    assert_eq!(ledger.outstanding(), u64::from(RECORDS) - 1);
    assert_eq!(ledger.totals().completed, 2);
}

#[test]
fn masks_beyond_their_grant_are_counted_unless_they_say_why() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    tenant.grant(&mut ledger, 1, bits(0..8));
    tenant.launch(stamped());
    let wide = Spec {
        tpcs: bits(0..9),
        ..stamped()
    };
    tenant.launch(wide);
    tenant.launch(Spec {
        flags: LITHOS_RECORD_STAMPED | LITHOS_RECORD_WIDENED,
        ..wide
    });
    tenant.launch(Spec {
        flags: LITHOS_RECORD_UNMANAGED,
        ..stamped()
    });
    tenant.launch(Spec {
        grant: 99,
        ..stamped()
    });
    tenant.poll(&mut ledger);
    let totals = ledger.totals();
    assert_eq!((totals.launches, totals.violations), (5, 2));
    assert_eq!((totals.widened, totals.unmanaged, totals.stale), (1, 1, 0));
}

#[test]
fn a_launch_that_follows_an_old_grant_is_counted_and_awaited() {
    let (tenant, mut ledger) = narrowed(|_| {});
    tenant.launch(stamped());
    assert!(tenant.poll(&mut ledger).drained.is_empty());
    assert_eq!(ledger.totals().stale, 1);
    tenant.complete(1);
    assert_eq!(tenant.poll(&mut ledger).drained, [Revision(2)]);
}

#[test]
fn the_oldest_of_many_grants_can_no_longer_be_checked_against() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    for number in 1..=GRANTS_KEPT as u64 + 1 {
        tenant.grant(&mut ledger, number, bits(0..8));
    }
    tenant.launch(stamped());
    tenant.poll(&mut ledger);
    assert_eq!(
        (ledger.totals().unchecked, ledger.totals().violations),
        (1, 0)
    );
}

#[test]
fn a_ring_full_of_lies_costs_no_more_than_a_ring() {
    let (tenant, mut ledger) = narrowed(|_| {});
    let reserved = std::mem::offset_of!(lithos_abi::bindings::lithos_ring, reserved);
    for claim in [u64::MAX, 5, u64::MAX - 1, u64::MAX] {
        tenant
            .ring
            .page()
            .word(reserved)
            .store(claim, Ordering::SeqCst);
        tenant.poll(&mut ledger);
        assert!(ledger.outstanding() <= 2 * u64::from(RECORDS));
    }
    assert!(!ledger.is_idle());
}

#[test]
fn launches_whose_records_come_late_are_found_however_many_there_are() {
    const MANY: u32 = 1024;
    let ring = Memory::new(ring_bytes(MANY));
    let gpu = Memory::new(size_of::<lithos_stamp>() * MANY as usize);
    let (writer, stamps) = (
        RingWriter::create(ring.page(), MANY).unwrap(),
        Stamps::new(gpu.page()),
    );
    let reader = RingReader::new(ring.page(), MANY).unwrap();
    let mut ledger = Ledger::new(MANY, bits(0..8));
    for _ in 0..MANY {
        writer.reserve();
    }
    ledger.poll(&reader, &stamps);
    assert_eq!(ledger.outstanding(), u64::from(MANY));
    for sequence in 1..=u64::from(MANY) {
        assert!(writer.claim(sequence, Some(&stamps)));
        writer.write(&lithos_record {
            sequence,
            flags: LITHOS_RECORD_VOID,
            ..Default::default()
        });
    }
    let mut looks = 0;
    while !ledger.is_idle() {
        ledger.poll(&reader, &stamps);
        looks += 1;
        assert!(
            looks <= MANY as usize / PENDING_AT_ONCE,
            "each is looked at in turn"
        );
    }
}

#[test]
fn the_largest_cluster_is_news_once() {
    let tenant = Tenant::new();
    let mut ledger = ledger();
    tenant.grant(&mut ledger, 1, bits(0..8));
    let launch = |cluster: [u16; 3]| {
        let sequence = tenant.writer().reserve();
        assert!(tenant.writer().claim(sequence, None));
        tenant.writer().write(&lithos_record {
            sequence,
            cluster,
            grant: 1,
            ..lithos_record::default()
        });
    };
    launch([2, 2, 1]);
    assert_eq!(tenant.poll(&mut ledger).cluster_ctas, Some(4));
    launch([2, 1, 1]);
    assert_eq!(tenant.poll(&mut ledger).cluster_ctas, None);
    launch([u16::MAX; 3]);
    assert_eq!(
        tenant.poll(&mut ledger).cluster_ctas,
        Some(CLUSTER_CTAS_MAX)
    );
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Reserve a launch on this stream; stamped or not.
    Reserve(u64, bool),
    /// Write the record of some reserved launch.
    Write(usize),
    /// Let the first launch of this stream complete.
    Complete(u64),
    /// Grant the TPCs of this range, and await the drain.
    Grant(u8, u8),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, any::<bool>()).prop_map(|(stream, stamp)| Step::Reserve(stream, stamp)),
        4 => (0..8usize).prop_map(Step::Write),
        4 => (1..4u64).prop_map(Step::Complete),
        1 => (0..8u8, 1..9u8).prop_map(|(first, count)| Step::Grant(first, count)),
        2 => Just(Step::Poll),
    ]
}

/// The truth about one launch.
#[derive(Clone, Copy)]
struct Truth {
    spec: Spec,
    written: bool,
    completed: bool,
}

/// A tenant and a GPU that behave, and what really happened.
struct World {
    tenant: Tenant,
    ledger: Ledger,
    launches: BTreeMap<u64, Truth>,
    grants: Vec<(TpcSet, u64)>,
    awaited: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            tenant: Tenant::new(),
            ledger: ledger(),
            launches: BTreeMap::new(),
            grants: Vec::new(),
            awaited: Vec::new(),
        };
        world.grant(bits(0..16));
        world
    }

    fn grant(&mut self, tpcs: TpcSet) {
        let number = self.grants.len() as u64 + 1;
        self.tenant.grant(&mut self.ledger, number, tpcs);
        self.grants.push((tpcs, self.launches.len() as u64));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Reserve(stream, stamp) => {
                let before = self.launches.len() as u64;
                let last_at_place = (before + 1).checked_sub(u64::from(RECORDS));
                let free = last_at_place.and_then(|s| self.launches.get(&s));
                if free.is_some_and(|truth| !truth.completed) {
                    return;
                }
                let sequence = self.tenant.writer().reserve();
                let grant = self.grants.len();
                let spec = Spec {
                    tpcs: self.grants[grant - 1].0,
                    grant: grant as u64,
                    stream,
                    flags: if stamp { LITHOS_RECORD_STAMPED } else { 0 },
                };
                let truth = Truth {
                    spec,
                    written: false,
                    completed: false,
                };
                self.launches.insert(sequence, truth);
            }
            Step::Write(index) => {
                let mut unwritten = self.launches.iter_mut().filter(|(_, truth)| !truth.written);
                if let Some((&sequence, truth)) = unwritten.nth(index) {
                    self.tenant.write(sequence, truth.spec);
                    truth.written = true;
                }
            }
            Step::Complete(stream) => {
                let mut open = (self.launches.iter_mut())
                    .filter(|(_, truth)| truth.spec.stream == stream && !truth.completed);
                if let Some((&sequence, truth)) = open.next()
                    && truth.written
                {
                    truth.completed = true;
                    if truth.spec.flags & LITHOS_RECORD_STAMPED != 0 {
                        self.tenant.complete(sequence);
                    }
                }
            }
            Step::Grant(first, count) => {
                self.grant(bits(first..first + count));
                let number = self.grants.len() as u64;
                self.ledger.await_drain(Revision(number));
                self.awaited.push(number);
            }
            Step::Poll => self.poll(),
        }
    }

    fn poll(&mut self) {
        for Revision(number) in self.tenant.poll(&mut self.ledger).drained {
            let (kept, reserved) = self.grants[usize::try_from(number).unwrap() - 1];
            for (sequence, truth) in self.launches.range(..=reserved) {
                assert!(
                    truth.completed || truth.spec.tpcs.is_subset(kept),
                    "grant {number} drained while launch {sequence} runs on {}",
                    truth.spec.tpcs
                );
            }
            self.awaited.retain(|&other| other != number);
        }
    }

    /// Lets everything complete, and one more stamped launch on each stream.
    fn finish(&mut self) {
        for stream in 1..4 {
            for _ in 0..2 * RECORDS {
                self.take(Step::Write(0));
                self.take(Step::Complete(stream));
                self.poll();
            }
        }
        for stream in 1..4 {
            for _ in 0..self.launches.len() {
                self.take(Step::Complete(stream));
            }
            self.take(Step::Reserve(stream, true));
            self.take(Step::Write(0));
            self.take(Step::Complete(stream));
            self.poll();
        }
        self.poll();
    }
}

proptest! {
    #[test]
    fn a_drain_never_comes_early_and_always_comes_once_all_has_completed(
        steps in proptest::collection::vec(step(), 1..400)
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.finish();
        if world.ledger.totals().lost == 0 {
            prop_assert!(world.awaited.is_empty(), "still awaited: {:?}", world.ledger.awaited());
            prop_assert!(world.ledger.is_idle());
            prop_assert_eq!(world.ledger.totals().completed, world.launches.len() as u64);
        }
        let totals = world.ledger.totals();
        prop_assert_eq!((totals.violations, totals.stale), (0, 0));
    }
}
