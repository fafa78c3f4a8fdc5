// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ring: one record per launch, written by the tenant, read by the scheduler.
//!
//! The tenant reserves a sequence *before* it reads the grant, so that a scheduler which publishes a
//! grant and then reads [`RingReader::reserved`] knows which launches may still follow an older one.
//! A record carries its sequence, which is 0 while it is being written, so a reader sees a whole
//! record or none. The reader checks everything: a tenant can write what it likes here.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, fence};

use crate::Page;
use crate::arena::Stamps;
use crate::bindings::*;

const HEADER: usize = size_of::<lithos_ring>();
const RECORD: usize = size_of::<lithos_record>();
const RECORD_WORDS: usize = RECORD / 8;
const RESERVED: usize = offset_of!(lithos_ring, reserved);
const CHAINS: usize = offset_of!(lithos_ring, chains);
const WAITING: usize = offset_of!(lithos_ring, waiting);
const BACKLOG: usize = offset_of!(lithos_ring, backlog_ns);
const RUNG: usize = offset_of!(lithos_ring, rung);
const COUNTERS: usize = offset_of!(lithos_ring, counters);
const _: () = assert!(HEADER == LITHOS_PAGE_BYTES as usize && RECORD == 128);
const _: () = assert!(offset_of!(lithos_record, sequence) == 0);

/// Returns the size in bytes of a ring of so many records.
pub fn ring_bytes(records: u32) -> usize {
    HEADER + RECORD * records as usize
}

/// Why memory cannot be a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of records is not a power of two.
    #[error("a ring has a power of two of records, not {0}")]
    Records(u32),
    /// The memory is too short.
    #[error("a ring of {records} records has {} bytes, not {bytes}", ring_bytes(*records))]
    Short {
        /// Records asked for.
        records: u32,
        /// Bytes found.
        bytes: usize,
    },
}

fn check(page: &Page<'_>, records: u32) -> Result<(), RingError> {
    if !records.is_power_of_two() {
        return Err(RingError::Records(records));
    }
    if page.bytes() < ring_bytes(records) {
        return Err(RingError::Short {
            records,
            bytes: page.bytes(),
        });
    }
    Ok(())
}

fn place(sequence: u64, records: u32) -> usize {
    debug_assert!(records.is_power_of_two());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the remainder is below `records`, which is a u32"
    )]
    let place = (sequence & u64::from(records - 1)) as usize;
    place
}

/// Returns a record as it lies in memory.
///
/// By arithmetic, and not by a look at its memory: a load of 8 bytes that were just stored as two
/// halves waits until all earlier stores have left the processor, as an atomic instruction does, and
/// in the middle of a launch those are the driver's to the GPU.
#[inline(always)]
fn words(record: &lithos_record) -> [u64; RECORD_WORDS] {
    const _: () = assert!(cfg!(target_endian = "little"));
    let halves = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let quarters = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let lithos_record {
        sequence,
        submitted_ns,
        grant,
        tpcs,
        program,
        function,
        stream,
        grid,
        shared_bytes,
        block,
        cluster,
        flags,
        reserved,
    } = *record;
    [
        sequence,
        submitted_ns,
        grant,
        tpcs.words[0],
        tpcs.words[1],
        program,
        function,
        stream,
        halves(grid[0], grid[1]),
        halves(grid[2], shared_bytes),
        halves(quarters(block[0], block[1]), quarters(block[2], cluster[0])),
        halves(quarters(cluster[1], cluster[2]), flags),
        reserved[0],
        reserved[1],
        reserved[2],
        reserved[3],
    ]
}

/// The tenant's side of a ring. Threads share it.
#[derive(Clone, Copy, Debug)]
pub struct RingWriter<'a> {
    page: Page<'a>,
    records: u32,
}

impl<'a> RingWriter<'a> {
    /// Takes in zeroed memory and writes the header.
    pub fn create(page: Page<'a>, records: u32) -> Result<Self, RingError> {
        check(&page, records)?;
        page.half(offset_of!(lithos_ring, version))
            .store(LITHOS_ABI_VERSION, Relaxed);
        page.half(offset_of!(lithos_ring, records))
            .store(records, Relaxed);
        page.word(offset_of!(lithos_ring, magic))
            .store(LITHOS_RING_MAGIC, Release);
        Ok(Self { page, records })
    }

    /// Returns the same ring, to read.
    pub fn reader(&self) -> RingReader<'a> {
        RingReader {
            page: self.page,
            records: self.records,
        }
    }

    /// Reserves the sequence of a launch. Read the grant after this, not before.
    #[inline]
    pub fn reserve(&self) -> u64 {
        self.page.word(RESERVED).fetch_add(1, SeqCst) + 1
    }

    /// Returns the futex that the scheduler sleeps on.
    #[inline]
    pub fn rung(&self) -> &'a AtomicU32 {
        self.page.half(RUNG)
    }

    /// Says that a launch call waits before it begins, or no longer does.
    pub fn note_waiting(&self, waits: bool) {
        let waiting = self.page.word(WAITING);
        match waits {
            true => waiting.fetch_add(1, SeqCst),
            false => waiting.fetch_sub(1, SeqCst),
        };
    }

    /// Says how much predicted work is under way that no gate holds up, in nanoseconds.
    pub fn note_backlog(&self, predicted_ns: u64) {
        self.page.word(BACKLOG).store(predicted_ns, Relaxed);
    }

    /// Returns the number of a chain that begins.
    #[inline]
    pub fn begin_chain(&self) -> u64 {
        self.page.word(CHAINS).fetch_add(1, SeqCst) + 1
    }

    /// Returns the place of a sequence in the ring, which is the index of its stamp, too.
    #[inline]
    pub fn place(&self, sequence: u64) -> usize {
        place(sequence, self.records)
    }

    /// Takes the place of a sequence, if what it holds has completed, or was never going to say so.
    /// Whoever gets it must [`write`](Self::write) there: until then nobody else can have it.
    ///
    /// Two launches that are a whole ring apart may be here at once, where the earlier one's thread
    /// was delayed between its [`reserve`](Self::reserve) and now; only one of them gets the place.
    #[inline]
    pub fn claim(&self, sequence: u64, stamps: Option<&Stamps<'_>>) -> bool {
        let place = self.place(sequence);
        let at = HEADER + RECORD * place;
        let held = self.page.word(at).load(Acquire);
        if held == 0 {
            // Never written; or being written by a thread that is a whole ring away.
            return sequence <= u64::from(self.records);
        }
        if held >= sequence {
            return false;
        }
        let flags = self
            .page
            .half(at + offset_of!(lithos_record, flags))
            .load(Relaxed);
        let done = match stamps {
            Some(stamps) if flags & LITHOS_RECORD_STAMPED != 0 => stamps.has_completed(place, held),
            _ => true,
        };
        done && self
            .page
            .word(at)
            .compare_exchange(held, 0, Acquire, Relaxed)
            .is_ok()
    }

    /// Asks for the memory of a launch to come: its record, and its stamp.
    ///
    /// Both were last touched a whole ring ago, by a reader and by the GPU, so they are far away.
    #[inline]
    pub fn prefetch(&self, sequence: u64, stamps: Option<&Stamps<'_>>) {
        let place = self.place(sequence);
        let at = HEADER + RECORD * place;
        self.page.prefetch(at);
        self.page.prefetch(at + RECORD / 2);
        if let Some(stamps) = stamps {
            stamps.prefetch(place);
        }
    }

    /// Writes the record of a launch that has [`claim`](Self::claim)ed its place; `record.sequence`
    /// says which.
    #[inline(always)]
    pub fn write(&self, record: &lithos_record) {
        let place = self
            .page
            .words::<RECORD_WORDS>(HEADER + RECORD * self.place(record.sequence));
        let words = words(record);
        // The place holds 0 since the claim; a reader that sees a word of this record sees that, too.
        fence(Release);
        for index in 1..RECORD_WORDS {
            place[index].store(words[index], Relaxed);
        }
        place[0].store(record.sequence, Release);
    }

    /// Adds one to a counter.
    #[inline]
    pub fn count(&self, counter: lithos_counter) {
        self.count_by(counter, 1);
    }

    /// Adds so many to a counter.
    #[inline]
    pub fn count_by(&self, counter: lithos_counter, by: u64) {
        if counter < LITHOS_COUNTERS {
            self.page
                .word(COUNTERS + 8 * counter as usize)
                .fetch_add(by, Relaxed);
        }
    }
}

/// The scheduler's side of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingReader<'a> {
    page: Page<'a>,
    records: u32,
}

impl<'a> RingReader<'a> {
    /// Takes in memory. `records` is the broker's own number, not what the header claims.
    pub fn new(page: Page<'a>, records: u32) -> Result<Self, RingError> {
        check(&page, records)?;
        Ok(Self { page, records })
    }

    /// Returns the sequence of the last launch begun.
    #[inline]
    pub fn reserved(&self) -> u64 {
        self.page.word(RESERVED).load(SeqCst)
    }

    /// Returns the futex that launches wake who sleeps on.
    #[inline]
    pub fn rung(&self) -> &'a AtomicU32 {
        self.page.half(RUNG)
    }

    /// Returns what is known of a launch without a look at all of its record.
    #[inline]
    pub fn progress(&self, sequence: u64, stamps: &Stamps<'_>) -> Progress {
        let place = self.place(sequence);
        let at = HEADER + RECORD * place;
        let held = self.page.word(at).load(Acquire);
        if held != sequence {
            return if held > sequence {
                Progress::Ended
            } else {
                Progress::Unwritten
            };
        }
        let flags = self
            .page
            .half(at + offset_of!(lithos_record, flags))
            .load(Relaxed);
        if flags & LITHOS_RECORD_STAMPED != 0 && !stamps.has_completed(place, sequence) {
            Progress::UnderWay
        } else {
            Progress::Ended
        }
    }

    /// Returns the number of the last chain begun.
    #[inline]
    pub fn chains(&self) -> u64 {
        self.page.word(CHAINS).load(SeqCst)
    }

    /// Returns whether launch calls wait before they begin.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.page.word(WAITING).load(SeqCst) != 0
    }

    /// Returns how much predicted work is under way that no gate holds up, in nanoseconds, as its tenant says.
    #[inline]
    pub fn backlog_ns(&self) -> u64 {
        self.page.word(BACKLOG).load(Relaxed)
    }

    /// Returns how many records there are.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Returns the place of a sequence, which is the index of its stamp, too.
    pub fn place(&self, sequence: u64) -> usize {
        place(sequence, self.records)
    }

    /// Returns a counter; 0 for one that does not exist.
    pub fn counter(&self, counter: lithos_counter) -> u64 {
        if counter < LITHOS_COUNTERS {
            self.page
                .word(COUNTERS + 8 * counter as usize)
                .load(Relaxed)
        } else {
            0
        }
    }

    /// Returns how many launches carry a mask within their grant: all that no counter speaks of.
    pub fn masked(&self) -> u64 {
        self.without(&[
            LITHOS_COUNT_UNKNOWN_VERSION,
            LITHOS_COUNT_UNKNOWN_BITS,
            LITHOS_COUNT_DRIVER_MASK_KEPT,
            LITHOS_COUNT_WIDENED_COOPERATIVE,
            LITHOS_COUNT_WIDENED_CLUSTER,
            LITHOS_COUNT_UNGRANTED,
            LITHOS_COUNT_VOID,
        ])
    }

    /// Returns for how many launches the GPU writes a stamp.
    pub fn stamped(&self) -> u64 {
        self.without(&[
            LITHOS_COUNT_UNSTAMPED,
            LITHOS_COUNT_OVERRUN,
            LITHOS_COUNT_GRAPH_NODES,
            LITHOS_COUNT_VOID,
        ])
    }

    fn without(&self, exceptions: &[lithos_counter]) -> u64 {
        exceptions
            .iter()
            .fold(self.reserved(), |launches, counter| {
                launches.saturating_sub(self.counter(*counter))
            })
    }

    /// Reads the record of a launch, if its place holds it, whole.
    pub fn read(&self, sequence: u64) -> Read {
        let at = HEADER + RECORD * self.place(sequence);
        let before = self.page.word(at).load(Acquire);
        if before != sequence {
            return if before > sequence {
                Read::Overwritten
            } else {
                Read::Unwritten
            };
        }
        let mut words = [0; RECORD_WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.page.word(at + 8 * i).load(Relaxed);
        }
        fence(Acquire);
        if self.page.word(at).load(Relaxed) != sequence {
            return Read::Overwritten;
        }
        // SAFETY: any bits are a valid record, which consists of integers only.
        Read::Record(unsafe { std::mem::transmute::<[u64; RECORD_WORDS], lithos_record>(words) })
    }
}

/// How far a launch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has no record yet.
    Unwritten,
    /// It is not known to have completed.
    UnderWay,
    /// It has completed, or nobody will ever know.
    Ended,
}

/// What the place of a launch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Its record.
    Record(lithos_record),
    /// Not yet that record.
    Unwritten,
    /// A later one.
    Overwritten,
}
