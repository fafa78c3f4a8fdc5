// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The grant page, read while it is written.

mod memory;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::{Grant, GrantPageError, GrantReader, GrantWriter, Terms, lend};
use memory::Memory;

const PAGE: usize = LITHOS_PAGE_BYTES as usize;

fn terms() -> Terms {
    let counts = Counts {
        stamps: 64,
        gates: 4,
        atoms: 8,
        cluster_atoms: 8,
        tails: 4,
    };
    Terms {
        channel: 0x1_0000_0007,
        gpu_index: 3,
        oversize: LITHOS_OVERSIZE_REFUSE,
        present: [0x00ff_ffff_ffff_fe0f, 0x11],
        gpc: std::array::from_fn(|i| u8::try_from(i / 9).expect("128 TPCs at most")),
        ..Terms::sized(counts)
    }
}

/// A grant all of whose fields follow from one number, so that a torn copy shows.
fn grant(n: u64) -> Grant {
    Grant {
        sequence: n,
        tpcs: [n, !n],
        lent: [n & 0xff00, 0],
        borrowed: [0; 2],
        atom_ns: n.wrapping_mul(3),
        outstanding_ns: n.wrapping_mul(5),
        is_fail_static: false,
    }
}

#[test]
fn a_reader_finds_what_was_written() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    assert_eq!(reader.terms(), terms());
    assert_eq!(reader.read(), None, "nothing is granted yet");
    assert_eq!(writer.latest(), 0);
    for n in 1..=5 {
        assert_eq!(writer.publish(&grant(n)), n);
        assert_eq!(reader.read(), Some(grant(n)));
        assert_eq!(writer.latest(), n);
    }
}

#[test]
fn of_what_is_lent_only_what_it_borrows_may_be_used() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    let lends = Grant {
        tpcs: [0xff, 0x3],
        lent: [0xf0, 0x2],
        ..grant(1)
    };
    let own = Grant {
        tpcs: [0xf, 0x1],
        lent: [0; 2],
        ..grant(1)
    };
    writer.publish_with(&lends, &own);
    let now = || reader.read().expect("a grant").now();
    for (borrowed, expected) in [
        ([0, 0], [0xf, 0x1]),
        ([0x10, 0], [0x1f, 0x1]),
        ([0x20, 0x2], [0x2f, 0x3]),
        ([u64::MAX; 2], [0xff, 0x3]),
    ] {
        lend(&memory.page(), borrowed);
        assert_eq!(now(), expected);
        assert_eq!(reader.read().expect("a grant").own(), [0xf, 0x1]);
        writer.set_broker(LITHOS_BROKER_FAIL_STATIC, 1);
        assert_eq!(now(), [0xf, 0x1]);
        writer.set_broker(LITHOS_BROKER_SCHEDULED, 1);
    }
}

#[test]
fn what_is_its_own_is_enough_if_atoms_are_short_there() {
    let grant = |own: u64, atom_ns| Grant {
        tpcs: [0xffff, 0],
        lent: [0xffff & !own, 0],
        atom_ns,
        ..grant(1)
    };
    assert!(grant(0b1, 62_500).is_own_enough());
    assert!(!grant(0b1, 62_501).is_own_enough());
    assert!(grant(0b11, 125_000).is_own_enough());
    assert!(!grant(0, 1).is_own_enough());
}

#[test]
fn the_brokers_word_selects_the_fail_static_grant() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    writer.publish(&grant(1));
    writer.publish_with(&grant(2), &grant(7));
    let fail_static = Grant {
        sequence: 2,
        is_fail_static: true,
        ..grant(7)
    };
    assert_eq!(reader.read(), Some(grant(2)));
    writer.set_broker(LITHOS_BROKER_FAIL_STATIC, 7);
    assert_eq!(reader.read(), Some(fail_static));
    writer.set_broker(LITHOS_BROKER_SCHEDULED, 8);
    assert_eq!(reader.read(), Some(grant(2)));
    assert!(!reader.is_retired());
    writer.set_broker(LITHOS_BROKER_RETIRED, 8);
    assert!(reader.is_retired());
    assert_eq!(reader.read(), Some(grant(2)), "the last grant still bounds");
}

#[test]
fn without_a_heartbeat_a_launch_takes_the_fail_static_grant_and_with_one_again_what_is_granted() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    let stale = u64::from(LITHOS_HEARTBEAT_STALE_NS);
    writer.publish_with(&grant(1), &grant(3));
    let is_fail_static = |now| reader.read_at(now).expect("a grant").is_fail_static;
    assert!(
        !is_fail_static(u64::MAX),
        "whoever never beat is not missed"
    );
    writer.beat(1000);
    assert!(
        !is_fail_static(500),
        "a clock that lags is not a dead scheduler"
    );
    assert!(!is_fail_static(1000 + stale));
    assert!(is_fail_static(1001 + stale));
    writer.beat(1001 + stale);
    assert!(!is_fail_static(1001 + stale));
    assert!(reader.is_stale(u64::MAX), "and so on for ever");
}

#[test]
fn grants_of_a_page_that_replaces_another_are_later_than_its() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create_after(memory.page(), &terms(), 41);
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    assert_eq!(reader.read(), None, "nothing is granted yet");
    assert_eq!(writer.publish(&grant(42)), 42);
    assert_eq!(reader.read(), Some(grant(42)));
}

#[test]
fn a_page_that_is_taken_over_goes_on_and_its_reader_notices_later_grants_only() {
    let memory = Memory::new(PAGE);
    // The broker keeps its words from the beginning.
    let (broker, heartbeat) = (
        std::mem::offset_of!(lithos_grant_page, broker),
        std::mem::offset_of!(lithos_grant_page, heartbeat_ns),
    );
    let word = u64::from(LITHOS_BROKER_FAIL_STATIC) | 5 << LITHOS_BROKER_EPOCH_SHIFT;
    memory.page().word(broker).store(word, Relaxed);
    GrantWriter::take_over(memory.page(), &terms()).expect("a zeroed page");
    // Whoever did that ended before there was a grant.
    let others = Terms {
        oversize: LITHOS_OVERSIZE_WIDEN,
        ..terms()
    };
    let mut first = GrantWriter::take_over(memory.page(), &others).expect("a page nobody reads");
    first.publish_with(&grant(1), &grant(7));
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    assert_eq!(reader.terms(), others);
    assert!(reader.read().is_some_and(|found| found.is_fail_static));
    memory.page().word(broker).store(0, Relaxed);
    assert_eq!(reader.read(), Some(grant(1)));

    assert_eq!(
        GrantWriter::take_over(memory.page(), &terms()).err(),
        Some(GrantPageError::Terms)
    );
    memory.page().word(broker).store(word, Relaxed);
    let mut second = GrantWriter::take_over(memory.page(), &others).expect("the same terms");
    assert_eq!(second.latest(), 1);
    assert_eq!(second.publish(&grant(2)), 2);
    assert_eq!(memory.page().word(broker).load(Relaxed), word);
    assert_eq!(memory.page().word(heartbeat).load(Relaxed), 0);
}

#[test]
fn fail_static_without_such_a_grant_is_what_was_granted() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    writer.publish(&grant(1));
    // A writer died within the slot, and does not beat any more.
    writer.beat(1);
    let slot = std::mem::offset_of!(lithos_grant_page, fail_static);
    memory.page().word(slot).store(0, Relaxed);
    assert_eq!(reader.read_at(u64::MAX), Some(grant(1)));
    writer.set_broker(LITHOS_BROKER_FAIL_STATIC, 1);
    assert_eq!(reader.read(), Some(grant(1)));
}

#[test]
fn a_page_of_another_kind_version_or_size_is_refused() {
    let memory = Memory::new(PAGE);
    assert_eq!(
        GrantReader::new(memory.page()).err(),
        Some(GrantPageError::Magic(0))
    );
    GrantWriter::create(memory.page(), &terms());
    let short = memory.page().part(0, PAGE - 8).expect("a part");
    assert_eq!(
        GrantReader::new(short).err(),
        Some(GrantPageError::Short(PAGE - 8))
    );
    let version = std::mem::offset_of!(lithos_grant_page, version);
    memory.page().half(version).store(2, Relaxed);
    assert_eq!(
        GrantReader::new(memory.page()).err(),
        Some(GrantPageError::Version(2))
    );
}

#[test]
fn a_slot_that_a_writer_left_half_written_is_not_read() {
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    writer.publish(&grant(1));
    // A writer died within the slot of grant 1; `latest` still names it.
    let slot = std::mem::offset_of!(lithos_grant_page, slots) + size_of::<lithos_grant>();
    memory.page().word(slot).store(0, Relaxed);
    let reader = GrantReader::new(memory.page()).expect("a grant page");
    assert_eq!(reader.read(), None);
}

#[test]
fn no_reader_sees_parts_of_two_grants_and_none_goes_back() {
    const GRANTS: u64 = 200_000;
    let memory = Memory::new(PAGE);
    let mut writer = GrantWriter::create(memory.page(), &terms());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let reader = GrantReader::new(memory.page()).expect("a grant page");
                    let mut last = 0;
                    loop {
                        let ends = done.load(SeqCst);
                        if let Some(found) = reader.read() {
                            assert_eq!(found, grant(found.sequence));
                            assert!(found.sequence >= last, "{last}, then {}", found.sequence);
                            last = found.sequence;
                        }
                        if ends {
                            break last;
                        }
                    }
                })
            })
            .collect();
        for n in 1..=GRANTS {
            writer.publish(&grant(n));
        }
        done.store(true, SeqCst);
        for reader in readers {
            assert_eq!(reader.join().expect("no reader panics"), GRANTS);
        }
    });
}

/// The promise of `struct lithos_ring`, as the store-buffering race that it is: a launch that the
/// scheduler does not yet see in `reserved` after publishing a grant follows that grant.
#[test]
fn a_launch_reserved_after_the_scheduler_looked_follows_the_new_grant() {
    use lithos_abi::ring::{RingReader, RingWriter, ring_bytes};
    use std::sync::Barrier;

    const ROUNDS: u64 = 3_000;
    let page = Memory::new(PAGE);
    let ring = Memory::new(ring_bytes(64));
    let mut writer = GrantWriter::create(page.page(), &terms());
    let launches = RingWriter::create(ring.page(), 64).expect("a ring");
    let barrier = Barrier::new(2);
    writer.publish(&grant(1));
    thread::scope(|scope| {
        let tenant = scope.spawn(|| {
            let reader = GrantReader::new(page.page()).expect("a grant page");
            (0..ROUNDS)
                .map(|_| {
                    barrier.wait();
                    let sequence = launches.reserve();
                    let followed = reader.read().expect("a grant").sequence;
                    barrier.wait();
                    (sequence, followed)
                })
                .collect::<Vec<_>>()
        });
        let reader = RingReader::new(ring.page(), 64).expect("a ring");
        let seen: Vec<_> = (0..ROUNDS)
            .map(|round| {
                barrier.wait();
                let published = writer.publish(&grant(round + 2));
                let reserved = reader.reserved();
                barrier.wait();
                (published, reserved)
            })
            .collect();
        let launched = tenant.join().expect("the tenant does not panic");
        for ((published, reserved), (sequence, followed)) in seen.into_iter().zip(launched) {
            assert!(
                sequence <= reserved || followed == published,
                "launch {sequence} after {reserved} followed {followed}, not {published}"
            );
        }
    });
}
