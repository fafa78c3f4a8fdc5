// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ring and the arena's stamps: honest writers, slow writers and hostile ones.

mod memory;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

use lithos_abi::arena::{Counts, DESCRIPTOR_STRIDE, Stamps, layout, region};
use lithos_abi::bindings::*;
use lithos_abi::lithos_record;
use lithos_abi::ring::{Read, RingError, RingReader, RingWriter, ring_bytes};
use memory::Memory;
use proptest::prelude::*;

const RECORDS: u32 = 8;

/// A record all of whose fields follow from its sequence, so that a torn copy shows.
fn record(sequence: u64) -> lithos_record {
    let half = u32::try_from(sequence & 0xffff).expect("16 bits");
    lithos_record {
        sequence,
        submitted_ns: sequence * 3,
        grant: sequence * 5,
        tpcs: lithos_tpcs {
            words: [sequence, !sequence],
        },
        program: sequence * 7,
        function: sequence * 11,
        stream: sequence * 13,
        grid: [half, half + 1, half + 2],
        shared_bytes: half,
        ..Default::default()
    }
}

fn stamped(sequence: u64) -> lithos_record {
    lithos_record {
        flags: LITHOS_RECORD_STAMPED,
        ..record(sequence)
    }
}

fn complete(stamps: &Memory, place: usize, sequence: u64) {
    let low = u32::try_from(sequence & 0xffff_ffff).expect("32 bits");
    stamps
        .page()
        .word(size_of::<lithos_stamp>() * place + 8)
        .store(99, Relaxed);
    stamps
        .page()
        .half(size_of::<lithos_stamp>() * place)
        .store(low, SeqCst);
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let memory = Memory::new(ring_bytes(RECORDS));
    let writer = RingWriter::create(memory.page(), RECORDS).expect("a ring");
    let reader = RingReader::new(memory.page(), RECORDS).expect("a ring");
    for n in 1..=20 {
        assert_eq!(reader.read(n), Read::Unwritten);
        assert_eq!(writer.reserve(), n);
        assert_eq!(reader.reserved(), n);
        assert!(writer.claim(n, None), "nothing there is stamped");
        assert_eq!(reader.read(n), Read::Unwritten, "claimed is not written");
        writer.write(&record(n));
        assert_eq!(reader.read(n), Read::Record(record(n)));
        if n > u64::from(RECORDS) {
            assert_eq!(reader.read(n - u64::from(RECORDS)), Read::Overwritten);
        }
    }
}

#[test]
fn a_place_is_free_again_when_its_launch_has_completed() {
    let memory = Memory::new(ring_bytes(RECORDS));
    let gpu = Memory::new(size_of::<lithos_stamp>() * RECORDS as usize);
    let stamps = Stamps::new(gpu.page());
    assert_eq!(stamps.count(), RECORDS as usize);
    let writer = RingWriter::create(memory.page(), RECORDS).expect("a ring");
    let lap = u64::from(RECORDS);
    for n in 1..=lap {
        assert_eq!(writer.reserve(), n);
        assert!(writer.claim(n, Some(&stamps)));
        writer.write(&stamped(n));
    }
    let place = writer.place(3);
    assert_eq!(
        stamps.address(place),
        stamps.address(0) + (size_of::<lithos_stamp>() * place) as u64
    );
    assert!(!writer.claim(3 + lap, Some(&stamps)), "3 still runs");
    assert_eq!(stamps.completed_gpu_ns(place, 3), None);
    complete(&gpu, place, 3);
    assert_eq!(stamps.completed_gpu_ns(place, 3), Some(99));
    assert!(writer.claim(3 + lap, Some(&stamps)));
    assert!(
        !writer.claim(3 + 2 * lap, Some(&stamps)),
        "its place is being written"
    );
    writer.write(&stamped(3 + lap));
    assert!(
        !writer.claim(3, Some(&stamps)),
        "a thread that is a whole ring behind does not overwrite a later launch"
    );
    assert!(!writer.claim(3 + 2 * lap, Some(&stamps)));
}

#[test]
fn a_stamp_counts_the_low_32_bits_only() {
    let gpu = Memory::new(64);
    let stamps = Stamps::new(gpu.page());
    let sequence = 0x1234_5678_9abc_def0;
    assert!(!stamps.has_completed(0, sequence));
    complete(&gpu, 0, sequence);
    assert!(stamps.has_completed(0, sequence));
    assert!(!stamps.has_completed(0, sequence + 1));
}

#[test]
fn counters_count_and_unknown_ones_are_ignored() {
    let memory = Memory::new(ring_bytes(RECORDS));
    let writer = RingWriter::create(memory.page(), RECORDS).expect("a ring");
    let reader = RingReader::new(memory.page(), RECORDS).expect("a ring");
    writer.count(LITHOS_COUNT_NULL);
    writer.count(LITHOS_COUNT_NULL);
    writer.count(LITHOS_COUNTERS - 1);
    writer.count(LITHOS_COUNTERS);
    writer.count(u32::MAX);
    assert_eq!(reader.counter(LITHOS_COUNT_NULL), 2);
    assert_eq!(reader.counter(LITHOS_COUNT_OVERRUN), 0);
    assert_eq!(reader.counter(LITHOS_COUNTERS - 1), 1);
    assert_eq!(reader.counter(LITHOS_COUNTERS), 0);
    assert_eq!(reader.reserved(), 0, "counters lie beside the reservation");
}

#[test]
fn what_no_counter_speaks_of_is_masked_and_stamped() {
    let memory = Memory::new(ring_bytes(RECORDS));
    let writer = RingWriter::create(memory.page(), RECORDS).expect("a ring");
    let reader = RingReader::new(memory.page(), RECORDS).expect("a ring");
    for _ in 0..5 {
        writer.reserve();
    }
    assert_eq!((reader.masked(), reader.stamped()), (5, 5));
    writer.count(LITHOS_COUNT_WIDENED_CLUSTER);
    writer.count(LITHOS_COUNT_GRAPH_NODES);
    writer.count(LITHOS_COUNT_UNSTAMPED);
    writer.count(LITHOS_COUNT_NULL);
    assert_eq!((reader.masked(), reader.stamped()), (4, 3));
    writer.count(LITHOS_COUNT_VOID);
    assert_eq!((reader.masked(), reader.stamped()), (3, 2));
    for _ in 0..9 {
        writer.count(LITHOS_COUNT_UNGRANTED);
    }
    assert_eq!(reader.masked(), 0, "a tenant that claims nonsense");
}

#[test]
fn memory_that_cannot_be_a_ring_is_refused() {
    let memory = Memory::new(ring_bytes(RECORDS));
    for records in [0, 3, 12] {
        assert_eq!(
            RingReader::new(memory.page(), records).err(),
            Some(RingError::Records(records))
        );
    }
    let short = RingError::Short {
        records: 2 * RECORDS,
        bytes: ring_bytes(RECORDS),
    };
    assert_eq!(
        RingWriter::create(memory.page(), 2 * RECORDS).err(),
        Some(short)
    );
}

/// Threads share a ring that is much too small for them, and a reader follows: every record is
/// whole, and every launch was either recorded or counted as an overrun.
#[test]
fn many_writers_and_a_reader_see_whole_records_only() {
    const THREADS: u64 = 3;
    const LAUNCHES: u64 = 20_000;
    let memory = Memory::new(ring_bytes(RECORDS));
    let gpu = Memory::new(size_of::<lithos_stamp>() * RECORDS as usize);
    let writer = RingWriter::create(memory.page(), RECORDS).expect("a ring");
    let reader = RingReader::new(memory.page(), RECORDS).expect("a ring");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let stamps = Stamps::new(gpu.page());
                    let mut recorded = 0;
                    for _ in 0..LAUNCHES {
                        let sequence = writer.reserve();
                        if writer.claim(sequence, Some(&stamps)) {
                            writer.write(&stamped(sequence));
                            complete(&gpu, writer.place(sequence), sequence);
                            recorded += 1;
                        } else {
                            writer.count(LITHOS_COUNT_OVERRUN);
                        }
                    }
                    recorded
                })
            })
            .collect();
        let follower = scope.spawn(|| {
            let mut whole = 0;
            while !done.load(SeqCst) {
                let last = reader.reserved();
                for sequence in last.saturating_sub(u64::from(RECORDS)).max(1)..=last {
                    if let Read::Record(found) = reader.read(sequence) {
                        assert_eq!(found, stamped(sequence));
                        whole += 1;
                    }
                }
            }
            whole
        });
        let recorded: u64 = writers
            .into_iter()
            .map(|writer| writer.join().expect("no writer panics"))
            .sum();
        done.store(true, SeqCst);
        follower.join().expect("the reader does not panic");
        assert_eq!(reader.reserved(), THREADS * LAUNCHES);
        assert_eq!(
            recorded + reader.counter(LITHOS_COUNT_OVERRUN),
            THREADS * LAUNCHES
        );
    });
}

#[test]
fn regions_do_not_overlap_and_hold_what_was_asked_for() {
    let counts = Counts {
        stamps: 4096,
        gates: 100,
        atoms: 33,
        cluster_atoms: 0,
        tails: 7,
    };
    let (regions, bytes) = layout(counts);
    let memory = Memory::new(usize::try_from(bytes).expect("an arena fits into memory"));
    let mut end = 0;
    for (kind, (stride, count)) in [
        (LITHOS_REGION_STAMPS, (64, 4096)),
        (LITHOS_REGION_GATES, (2 * DESCRIPTOR_STRIDE, 100)),
        (LITHOS_REGION_ATOMS, (DESCRIPTOR_STRIDE, 33)),
        (LITHOS_REGION_CLUSTER_ATOMS, (DESCRIPTOR_STRIDE, 0)),
        (LITHOS_REGION_TAILS, (DESCRIPTOR_STRIDE, 7)),
    ] {
        let found = regions[kind as usize];
        assert_eq!((found.stride, found.count), (stride, count));
        assert!(found.offset >= end && found.offset.is_multiple_of(4096));
        end = found.offset + u64::from(stride) * u64::from(count);
        let part = region(&memory.page(), &regions, kind).expect("inside");
        assert_eq!(part.bytes(), (stride * count) as usize);
    }
    assert!(end <= bytes);
    assert!(region(&memory.page(), &regions, LITHOS_REGIONS).is_none());
}

proptest! {
    /// Whatever a tenant writes into its ring, a reader returns a record of the sequence it asked
    /// for, or none, and never panics.
    #[test]
    fn a_reader_believes_no_ring(
        words in prop::collection::vec(any::<u64>(), ring_bytes(2) / 8),
        sequence in prop_oneof![any::<u64>(), 0u64..4],
        counter in any::<u32>(),
    ) {
        let memory = Memory::new(ring_bytes(2));
        for (i, word) in words.iter().enumerate() {
            memory.page().word(8 * i).store(*word, Relaxed);
        }
        let reader = RingReader::new(memory.page(), 2).expect("a ring");
        if let Read::Record(found) = reader.read(sequence) {
            prop_assert_eq!(found.sequence, sequence);
        }
        reader.counter(counter);
        reader.reserved();
    }

    /// A region that leaves its arena, or whose size overflows, is none.
    #[test]
    fn a_region_lies_inside_its_arena_or_is_none(
        offset in prop_oneof![any::<u64>(), 0u64..8192],
        stride in prop_oneof![any::<u32>(), 0u32..1024],
        count in prop_oneof![any::<u32>(), 0u32..16],
    ) {
        let memory = Memory::new(8192);
        let mut regions = [lithos_region::default(); LITHOS_REGIONS as usize];
        regions[1] = lithos_region { offset, stride, count };
        let end = u128::from(offset) + u128::from(stride) * u128::from(count);
        let found = region(&memory.page(), &regions, LITHOS_REGION_GATES);
        prop_assert_eq!(found.is_some(), end <= 8192 && offset.is_multiple_of(8));
    }
}
