// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Descriptors as an H100's driver makes them, prepared on a channel as a broker makes it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use lithos_abi::Page;
use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::{Grant, Terms};
use lithos_abi::lithos_record;
use lithos_abi::ring::Read;
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Descriptor, Kind, Release, ReleaseSize, WORDS, Words, fields};
use lithos_device::Channel;
use lithos_device::pages::{self, Pages};

use super::prepare;
use crate::channel::{Identity, Managed};
use crate::local::{self, Call};
use crate::table::{Pin, Pinned};
use crate::ticket::Ticket;

pub(crate) const RECORDS: u32 = 8;
/// Chains at a time.
pub(crate) const TAILS: u32 = 4;
/// Two GPCs of 8 TPCs, with a hole between them.
const PRESENT: &str = "0-7,9-16";

/// A channel with both of its ends.
pub(crate) struct Bench {
    pub(crate) pages: Pages,
    pub(crate) managed: Managed,
}

fn bench_with(is_registered: bool, first: Option<&str>) -> Bench {
    let counts = Counts {
        stamps: RECORDS,
        gates: 128,
        atoms: 64,
        cluster_atoms: 64,
        tails: TAILS,
    };
    let terms = Terms {
        channel: 77,
        present: mask(PRESENT).bits(),
        gpc: std::array::from_fn(|tpc| u8::try_from(tpc / 9).expect("15 at most")),
        ..Terms::sized(counts)
    };
    let mut pages = pages::create(&terms).expect("pages");
    if let Some(first) = first {
        pages.publish(&grant(first));
    }
    let reply = lithos_channel {
        reply: lithos_reply::default(),
        channel: terms.channel,
        ring_bytes: terms.ring_bytes,
        arena_bytes: terms.arena_bytes,
    };
    let descriptors: Vec<OwnedFd> = (pages.descriptors().iter())
        .map(|page| page.try_clone_to_owned().expect("a duplicate"))
        .collect();
    let channel = Channel::map(&reply, descriptors).expect("a channel");
    let identity = Identity {
        id: 1,
        primary_of: None,
    };
    Bench {
        managed: Managed::new(channel, identity, is_registered),
        pages,
    }
}

pub(crate) fn bench(first: &str) -> Bench {
    bench_with(true, Some(first))
}

pub(crate) fn mask(text: &str) -> TpcMask {
    text.parse().expect("a list of TPCs")
}

pub(crate) fn grant(tpcs: &str) -> Grant {
    Grant {
        tpcs: mask(tpcs).bits(),
        ..Default::default()
    }
}

/// A launch of so many blocks of 128 threads at 0x1000.
pub(crate) fn words(blocks: [u32; 3], cluster: Option<[u32; 3]>, cooperative: bool) -> Words {
    let mut descriptor = Descriptor::blank();
    descriptor
        .set_blocks(blocks, cluster, cooperative)
        .expect("a shape");
    descriptor.set_block([128, 1, 1]).expect("a block");
    descriptor.set_program(0x1000).expect("an address");
    descriptor.into_inner()
}

fn plain() -> Words {
    words([100, 2, 1], None, false)
}

impl Bench {
    /// Prepares a launch within a call of stream 5.
    fn launch(&self, words: &mut Words) {
        self.launch_in(
            words,
            Call {
                stream: 5,
                ..Default::default()
            },
        );
    }

    fn launch_in(&self, words: &mut Words, call: Call) {
        local::with(|local| {
            local.call.set(call);
            prepare(&self.managed, words, 0xf, local);
            local.call.set(Call::default());
        });
    }

    pub(crate) fn count(&self, counter: lithos_counter) -> u64 {
        self.pages.ring().counter(counter)
    }

    pub(crate) fn record(&self, sequence: u64) -> lithos_record {
        match self.pages.ring().read(sequence) {
            Read::Record(record) => record,
            other => panic!("{sequence}: {other:?}"),
        }
    }

    /// Does what the GPU does when a launch completes.
    pub(crate) fn complete(&self, words: &Words) {
        let release = (1..3)
            .find_map(|slot| view(words).release(slot))
            .expect("a stamp");
        let arena = self.managed.channel().arena().expect("an arena");
        // SAFETY: 1. the arena is mapped as long as `self` lives. 2. all use atomics on it.
        let page = unsafe { Page::new(arena.start(), arena.bytes()) };
        let offset = usize::try_from(release.address).expect("an address") - page.address();
        let payload = u32::try_from(release.payload).expect("32 bits");
        page.half(offset).store(payload, Ordering::Release);
    }
}

pub(crate) fn view(words: &Words) -> Descriptor<&Words> {
    Descriptor::new(words).expect("version 4.0")
}

/// The present TPCs that a descriptor leaves.
fn left(words: &Words) -> TpcMask {
    view(words).allowed() & mask(PRESENT)
}

#[test]
fn a_launch_is_masked_stamped_and_recorded() {
    let bench = bench("2-3,9");
    let mut words = plain();
    bench.launch(&mut words);

    assert_eq!(left(&words), mask("2-3,9"));
    let stamps = bench.managed.stamps().expect("stamps");
    let place = bench.managed.ring().place(1);
    assert_eq!(
        view(&words).release(1),
        Some(Release {
            address: stamps.address(place),
            payload: 1,
            size: ReleaseSize::FourWords,
            membar: false,
            reduction: None,
            payload64: false,
            trap: 0,
        })
    );
    let record = bench.record(1);
    assert!(record.submitted_ns > 0);
    let expected = lithos_record {
        sequence: 1,
        submitted_ns: record.submitted_ns,
        grant: 1,
        tpcs: lithos_tpcs {
            words: mask("2-3,9").bits(),
        },
        program: 0x1000,
        function: 0xf,
        stream: 5,
        grid: [100, 2, 1],
        shared_bytes: view(&words).shared_bytes(),
        block: [128, 1, 1],
        cluster: [1, 1, 1],
        flags: LITHOS_RECORD_STAMPED,
        reserved: [0; 4],
    };
    assert_eq!(record, expected);
    assert_eq!(bench.pages.ring().masked(), 1);
    assert_eq!(bench.pages.ring().stamped(), 1);
    assert!(!bench.pages.stamps().has_completed(place, 1));
    bench.complete(&words);
    assert!(bench.pages.stamps().has_completed(place, 1));
}

#[test]
fn the_next_launch_follows_the_next_grant() {
    let mut bench = bench("0-3");
    let mut words = plain();
    bench.launch(&mut words);
    bench.pages.publish(&grant("4-7"));
    let mut next = plain();
    bench.launch(&mut next);
    assert_eq!((left(&words), left(&next)), (mask("0-3"), mask("4-7")));
    assert_eq!((bench.record(1).grant, bench.record(2).grant), (1, 2));
}

#[test]
fn what_the_driver_took_away_stays_away() {
    let bench = bench("0-3");
    let mut words = plain();
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    descriptor.set_allowed(Some(mask("2-7"))).expect("a mask");
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("2-3"));

    let mut words = plain();
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    descriptor.set_allowed(Some(mask("9-16"))).expect("a mask");
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("9-16"), "nothing would be left");
    assert_eq!(bench.count(LITHOS_COUNT_DRIVER_MASK_KEPT), 1);
    let record = bench.record(2);
    assert_eq!(record.tpcs.words, mask("9-16").bits());
    assert_eq!(record.flags, LITHOS_RECORD_WIDENED | LITHOS_RECORD_STAMPED);
}

#[test]
fn a_grant_of_tpcs_that_do_not_exist_hangs_nothing() {
    let bench = bench("8,17-127");
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask(PRESENT));
    assert_eq!(bench.count(LITHOS_COUNT_DRIVER_MASK_KEPT), 1);
}

#[test]
fn what_runs_nothing_is_counted_and_left_alone() {
    let bench = bench("0-3");
    let null = Descriptor::null();
    let mut head = Descriptor::blank();
    head.set_grid([0; 3]).expect("a grid");
    for descriptor in [null, head] {
        let before = descriptor.into_inner();
        let mut words = before;
        bench.launch(&mut words);
        assert_eq!(words, before);
    }
    assert_eq!(bench.count(LITHOS_COUNT_NULL), 2);
    assert_eq!(bench.pages.ring().reserved(), 0);
}

#[test]
fn what_is_not_understood_is_left_alone_and_recorded() {
    let bench = bench("0-3");
    let mut other_version = plain();
    Descriptor::new(&mut other_version)
        .expect("version 4.0")
        .set(fields::QMD_MAJOR_VERSION, 5)
        .expect("fits");
    let mut unknown_bit = plain();
    let covered = |bit: u32| {
        lithos_descriptor::layout::V04_00
            .fields
            .iter()
            .any(|field| {
                field
                    .elements()
                    .any(|element| (element.lo()..=element.hi()).contains(&bit))
            })
    };
    let bit = (0..3072)
        .find(|bit| !covered(*bit))
        .expect("a bit of no field");
    unknown_bit[bit as usize / 32] |= 1 << (bit % 32);
    let mut unknown_kind = plain();
    Descriptor::new(&mut unknown_kind)
        .expect("version 4.0")
        .set_kind(Kind::Unknown(7))
        .expect("fits");
    for (sequence, before) in (1..).zip([other_version, unknown_bit, unknown_kind]) {
        let mut words = before;
        bench.launch(&mut words);
        assert_eq!(words, before);
        let record = bench.record(sequence);
        assert_eq!(record.flags, LITHOS_RECORD_UNMANAGED);
        assert_eq!(record.tpcs.words, mask(PRESENT).bits(), "it runs anywhere");
        assert_eq!((record.function, record.stream), (0xf, 5));
    }
    assert_eq!(bench.count(LITHOS_COUNT_UNKNOWN_VERSION), 1);
    assert_eq!(bench.count(LITHOS_COUNT_UNKNOWN_BITS), 2);
    assert_eq!(bench.pages.ring().masked(), 0);
}

#[test]
fn nodes_of_graphs_are_masked_and_never_stamped() {
    let bench = bench("0-3");
    for (sequence, mark) in [
        (1, fields::SELF_COPY_ON_COMPLETION),
        (2, fields::REQUIRE_SCHEDULING_PCAS),
    ] {
        let mut words = plain();
        let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
        descriptor.set(mark, 1).expect("fits");
        bench.launch_in(&mut words, Call::default());
        assert_eq!(left(&words), mask("0-3"));
        assert!((0..3).all(|slot| view(&words).release(slot).is_none()));
        let record = bench.record(sequence);
        assert_eq!(record.flags, LITHOS_RECORD_GRAPH_NODE);
        assert_eq!(record.stream, 0);
    }
    // The kernels of a small graph have no mark; the call that uploads them tells.
    let mut words = plain();
    let call = Call {
        stream: 5,
        is_graph: true,
        ..Default::default()
    };
    bench.launch_in(&mut words, call);
    assert_eq!(left(&words), mask("0-3"));
    assert!((0..3).all(|slot| view(&words).release(slot).is_none()));
    assert_eq!(bench.record(3).flags, LITHOS_RECORD_GRAPH_NODE);
    assert_eq!(bench.count(LITHOS_COUNT_GRAPH_NODES), 3);
    assert_eq!(bench.count(LITHOS_COUNT_UNSTAMPED), 0);
}

#[test]
fn a_programmatic_launch_is_no_node_of_a_graph() {
    let bench = bench("0-3");
    let mut words = plain();
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    descriptor
        .set(fields::REQUIRE_SCHEDULING_PCAS, 1)
        .expect("fits");
    bench.launch(&mut words);
    assert_eq!(bench.record(1).flags, LITHOS_RECORD_STAMPED);
    assert_eq!(bench.count(LITHOS_COUNT_GRAPH_NODES), 0);
}

#[test]
fn the_second_slot_is_used_if_the_first_is_taken_and_none_if_both_are() {
    let bench = bench("0-3");
    let theirs = Release {
        address: 0x2_0000_0000,
        payload: 9,
        size: ReleaseSize::OneWord,
        membar: true,
        reduction: None,
        payload64: false,
        trap: 0,
    };
    let mut words = plain();
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    descriptor.set_release(1, Some(theirs)).expect("fits");
    bench.launch(&mut words);
    assert_eq!(view(&words).release(1), Some(theirs));
    assert_eq!(view(&words).release(2).map(|r| r.payload), Some(1));

    let mut words = plain();
    let mut descriptor = Descriptor::new(&mut words).expect("version 4.0");
    descriptor.set_release(1, Some(theirs)).expect("fits");
    descriptor.set_release(2, Some(theirs)).expect("fits");
    bench.launch(&mut words);
    assert_eq!(view(&words).release(2), Some(theirs));
    assert_eq!(bench.count(LITHOS_COUNT_UNSTAMPED), 1);
    assert_eq!(bench.record(2).flags, 0);
}

#[test]
fn without_registered_memory_launches_are_masked_only() {
    let bench = bench_with(false, Some("0-3"));
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("0-3"));
    assert_eq!(view(&words).release(1), None);
    assert_eq!(bench.record(1).flags, 0);
    assert_eq!(bench.count(LITHOS_COUNT_UNSTAMPED), 1);
}

#[test]
fn while_a_context_may_be_ending_nothing_is_stamped() {
    let bench = bench("0-3");
    let stamped = || {
        let mut words = plain();
        bench.launch(&mut words);
        view(&words).release(1).is_some()
    };
    assert!(stamped());
    bench.managed.end_begins();
    bench.managed.end_begins();
    assert!(!stamped());
    bench.managed.end_failed();
    assert!(!stamped(), "one call is still under way");
    bench.managed.end_failed();
    assert!(stamped());
}

#[test]
fn a_launch_that_finds_its_place_in_use_is_an_overrun_but_masked() {
    let bench = bench("0-3");
    let mut first = plain();
    bench.launch(&mut first);
    for _ in 1..RECORDS {
        bench.launch(&mut plain());
    }
    let mut overrun = plain();
    bench.launch(&mut overrun);
    assert_eq!(left(&overrun), mask("0-3"));
    assert_eq!(view(&overrun).release(1), None);
    assert_eq!(bench.count(LITHOS_COUNT_OVERRUN), 1);
    assert_eq!(bench.record(1).sequence, 1, "what is there stays there");

    // The second launch has its place in the way of the tenth only.
    let mut words = plain();
    words.copy_from_slice(&first);
    bench.complete(&words);
    let mut tenth = plain();
    bench.launch(&mut tenth);
    assert_eq!(bench.count(LITHOS_COUNT_OVERRUN), 2);
}

#[test]
fn places_of_completed_launches_are_used_again() {
    let bench = bench("0-3");
    for sequence in 1..=5 * u64::from(RECORDS) {
        let mut words = plain();
        bench.launch(&mut words);
        bench.complete(&words);
        assert_eq!(bench.record(sequence).sequence, sequence);
    }
    assert_eq!(bench.count(LITHOS_COUNT_OVERRUN), 0);
}

#[test]
fn a_cluster_gets_room_in_one_gpc() {
    let bench = bench("0,9-10");
    let mut words = words([16, 1, 1], Some([8, 1, 1]), false);
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("0,9-12"));
    let record = bench.record(1);
    assert_eq!((record.grid, record.cluster), ([16, 1, 1], [8, 1, 1]));
    assert_eq!(record.tpcs.words, mask("0,9-12").bits());
    assert_eq!(record.flags, LITHOS_RECORD_WIDENED | LITHOS_RECORD_STAMPED);
    assert_eq!(bench.count(LITHOS_COUNT_WIDENED_CLUSTER), 1);
    assert_eq!(bench.pages.ring().masked(), 0);
}

#[test]
fn a_cooperative_launch_gets_room_for_all_its_blocks() {
    let bench = bench("0-1");
    let cooperative = || words([16, 1, 1], None, true);
    // The call has asked: an SM holds 4 of its blocks, so 2 TPCs hold 16.
    let mut fits = cooperative();
    let call = Call {
        stream: 5,
        is_graph: false,
        blocks: 16,
        blocks_per_sm: 4,
    };
    bench.launch_in(&mut fits, call);
    assert_eq!(left(&fits), mask("0-1"));
    assert_eq!(
        bench.record(1).flags,
        LITHOS_RECORD_COOPERATIVE | LITHOS_RECORD_STAMPED
    );
    // From a graph, or within a call about something else, nothing is known.
    for call in [Call::default(), Call { blocks: 17, ..call }] {
        let mut wide = cooperative();
        bench.launch_in(&mut wide, call);
        assert_eq!(left(&wide), mask("0-7"));
    }
    assert_eq!(bench.count(LITHOS_COUNT_WIDENED_COOPERATIVE), 2);
    assert_eq!(bench.record(2).grid, [16, 1, 1]);
}

#[test]
fn what_cannot_be_narrowed_later_gets_nothing_lent_where_there_is_enough_without() {
    let mut bench = bench("0-3");
    bench.pages.live().lend(mask("9-16").bits());
    let mut left_of = |tpcs: &str, atom_ns, mut words: Words, is_graph| {
        let grant = Grant {
            lent: mask("9-16").bits(),
            atom_ns,
            ..grant(tpcs)
        };
        bench.pages.publish(&grant);
        let call = Call {
            stream: 5,
            is_graph,
            ..Default::default()
        };
        bench.launch_in(&mut words, call);
        left(&words)
    };
    let clusters = || words([100, 2, 1], Some([2, 1, 1]), false);
    let cooperative = || words([4, 1, 1], None, true);
    // Atoms of 60 us on 12 TPCs take 180 us on four.
    assert_eq!(
        left_of("0-3,9-16", 60_000, plain(), false),
        mask("0-3,9-16")
    );
    for rigid in [clusters(), cooperative()] {
        assert_eq!(left_of("0-3,9-16", 60_000, rigid, false), mask("0-3"));
    }
    assert_eq!(left_of("0-3,9-16", 60_000, plain(), true), mask("0-3"));
    // And those of 600 us more than a millisecond: who has so little is suspended instead.
    for (rigid, is_graph) in [(clusters(), false), (cooperative(), false), (plain(), true)] {
        let left = left_of("0-3,9-16", 600_000, rigid, is_graph);
        assert_eq!(left, mask("0-3,9-16"));
    }
}

#[test]
fn before_the_first_grant_a_launch_runs_as_it_is_but_is_seen() {
    let bench = bench_with(true, None);
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask(PRESENT));
    assert_eq!(bench.count(LITHOS_COUNT_UNGRANTED), 1);
    let record = bench.record(1);
    assert_eq!(
        record.flags,
        LITHOS_RECORD_UNMANAGED | LITHOS_RECORD_STAMPED
    );
    assert_eq!(record.tpcs.words, mask(PRESENT).bits());
}

/// The slot of a grant that its writer left half written: the thread's last copy holds, and for a
/// thread without one the grant that the channel came with.
#[test]
fn a_grant_that_cannot_be_read_is_replaced_by_the_last_good_copy() {
    let mut bench = bench("0-3");
    bench.pages.publish(&grant("4-7"));
    bench.launch(&mut plain());
    // Who owns the page can open it for writing again, and die while doing so.
    let page = bench.pages.descriptors()[0];
    let page = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", page.as_raw_fd()))
        .expect("the page");
    let latest = std::mem::offset_of!(lithos_grant_page, latest) as u64;
    page.write_all_at(&[0; 8], latest).expect("a word");
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("4-7"));
    let fresh = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut words = plain();
            bench.launch(&mut words);
            left(&words)
        });
        thread.join().expect("no panic")
    });
    assert_eq!(fresh, mask("0-3"));
    assert_eq!(bench.count(LITHOS_COUNT_STALE_GRANT), 2);
}

#[test]
fn without_a_heartbeat_launches_keep_to_what_is_guaranteed_and_say_so() {
    let mut bench = bench("0-3");
    bench.pages.publish_with(&grant("0-7"), &grant("2-3"));
    bench.pages.heart().expect("its own page").beat(1);
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("2-3"));
    let record = bench.record(1);
    assert_eq!(
        record.flags & LITHOS_RECORD_FAIL_STATIC,
        LITHOS_RECORD_FAIL_STATIC
    );
    assert_eq!(record.grant, 2);
    bench.pages.heart().expect("its own page").beat(u64::MAX);
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("0-7"));
    assert_eq!(bench.record(2).flags & LITHOS_RECORD_FAIL_STATIC, 0);
}

#[test]
fn a_launch_follows_the_page_that_replaced_the_one_that_its_channel_came_with() {
    let mut bench = bench("0-3");
    bench.launch(&mut plain());
    let [_, ring, arena] = bench.managed.channel().descriptors() else {
        panic!("three pages")
    };
    let files = [ring, arena].map(|file| file.try_clone().expect("a duplicate"));
    let terms = *bench.managed.channel().terms();
    let mut next = pages::adopt(&terms, files, 1000).expect("pages");
    next.publish(&grant("4-7"));
    let page = next.descriptors()[0];
    let reply = lithos_channel {
        reply: lithos_reply::default(),
        channel: terms.channel,
        ring_bytes: terms.ring_bytes,
        arena_bytes: terms.arena_bytes,
    };
    let page = vec![page.try_clone_to_owned().expect("a duplicate")];
    let replaced = bench.managed.channel().replace_grant(&reply, page);
    replaced.expect("a page");
    // Whatever the one before still writes.
    bench.pages.publish(&grant("0-1"));
    let mut words = plain();
    bench.launch(&mut words);
    assert_eq!(left(&words), mask("4-7"));
    assert_eq!(bench.record(2).grant, 1001);
    assert_eq!(next.ring().reserved(), 2, "the ring is the same");
}

#[test]
fn threads_share_a_channel() {
    const THREADS: u64 = 4;
    const LAUNCHES: u64 = 500;
    let bench = bench("0-3");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..LAUNCHES {
                    let mut words = plain();
                    bench.launch(&mut words);
                    assert_eq!(left(&words), mask("0-3"));
                    if view(&words).release(1).is_some() {
                        bench.complete(&words);
                    }
                }
            });
        }
    });
    assert_eq!(bench.pages.ring().reserved(), THREADS * LAUNCHES);
    assert_eq!(bench.pages.ring().masked(), THREADS * LAUNCHES);
    assert_eq!(
        bench.pages.ring().stamped() + bench.count(LITHOS_COUNT_OVERRUN),
        THREADS * LAUNCHES
    );
}

const _: () = assert!(size_of::<Words>() == WORDS * 4);

/// A channel for a launch call of this thread to hold, and the pins on it.
pub(crate) fn held(bench: Bench) -> (&'static Bench, &'static AtomicU32) {
    (
        Box::leak(Box::new(bench)),
        Box::leak(Box::new(AtomicU32::new(0))),
    )
}

pub(crate) fn ticket(bench: &'static Bench, pins: &'static AtomicU32) -> Ticket {
    pins.fetch_add(1, Ordering::Relaxed);
    Ticket::begin(7, Pinned::from_parts((Pin::Counted(pins), &bench.managed)))
}

#[test]
fn a_launch_uses_the_sequence_that_its_call_reserved() {
    let (bench, pins) = held(bench("0-3"));
    local::with(|local| {
        local.set_ticket(Some(ticket(bench, pins)));
        assert_eq!(bench.pages.ring().reserved(), 1);
        assert!(std::ptr::eq(
            local.held(7).expect("a ticket"),
            &raw const bench.managed
        ));
        assert!(local.held(8).is_none());
        prepare(&bench.managed, &mut plain(), 0xf, local);
        assert_eq!(bench.pages.ring().reserved(), 1);
        // The second descriptor of a call reserves for itself.
        prepare(&bench.managed, &mut plain(), 0xf, local);
        assert_eq!(bench.pages.ring().reserved(), 2);
        local.set_ticket(None);
    });
    assert_eq!(pins.load(Ordering::Relaxed), 0);
    assert_eq!(bench.record(1).function, 0xf);
    assert_eq!(bench.record(2).function, 0xf);
    assert_eq!(bench.count(LITHOS_COUNT_VOID), 0);
}

#[test]
fn a_sequence_that_no_launch_came_of_is_void() {
    let (bench, pins) = held(bench("0-3"));
    local::with(|local| {
        local.set_ticket(Some(ticket(bench, pins)));
        // The next call begins without the first one having ended.
        local.set_ticket(Some(ticket(bench, pins)));
        assert_eq!(pins.load(Ordering::Relaxed), 1);
        local.set_ticket(None);
        assert!(local.held(7).is_none());
    });
    assert_eq!(pins.load(Ordering::Relaxed), 0);
    for sequence in 1..=2 {
        assert_eq!(bench.record(sequence).flags, LITHOS_RECORD_VOID);
    }
    assert_eq!(bench.count(LITHOS_COUNT_VOID), 2);
    assert_eq!(bench.pages.ring().masked(), 0);
    assert_eq!(bench.pages.ring().stamped(), 0);
}

#[test]
fn a_void_sequence_whose_place_is_in_use_is_counted_once() {
    let (bench, pins) = held(bench("0-3"));
    for _ in 0..RECORDS {
        bench.launch(&mut plain());
    }
    local::with(|local| {
        local.set_ticket(Some(ticket(bench, pins)));
        local.set_ticket(None);
    });
    let ring = bench.pages.ring();
    assert_eq!(ring.reserved(), u64::from(RECORDS) + 1);
    assert_eq!(bench.count(LITHOS_COUNT_VOID), 1);
    assert_eq!(bench.count(LITHOS_COUNT_OVERRUN), 0);
    assert_eq!(ring.masked(), u64::from(RECORDS));
    assert_eq!(ring.stamped(), u64::from(RECORDS));
    assert_eq!(bench.record(1).function, 0xf, "the place is as it was");
}

#[test]
fn a_ticket_is_for_launches_of_its_own_channel() {
    let (bench, pins) = held(bench("0-3"));
    let (other, _) = held(super::tests::bench("9-12"));
    local::with(|local| {
        local.set_ticket(Some(ticket(bench, pins)));
        prepare(&other.managed, &mut plain(), 0xf, local);
        local.set_ticket(None);
    });
    assert_eq!(other.record(1).function, 0xf);
    assert_eq!(bench.record(1).flags, LITHOS_RECORD_VOID);
}
