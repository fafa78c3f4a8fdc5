// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many hardware registers a kernel would take: a model of what the assembler's allocator finds.
//!
//! A register lives from its first to its last mention, and through the whole of every loop that it
//! enters alive. The count is the most 32-bit words alive at one instruction, plus a few that the
//! hardware's own conventions take, rounded up to eight as on hardware.

use std::collections::HashMap;

/// What conventions take: the stack pointer and addresses in flight.
const OVERHEAD: u32 = 6;
/// The least that the assembler reports for any kernel of use.
const LEAST: u32 = 16;
/// The most that an instruction can name.
const MOST: u32 = 255;

#[derive(Clone, Copy, Debug)]
struct Range {
    first: usize,
    last: usize,
    words: u32,
}

/// Live ranges of a kernel's rows.
#[derive(Debug, Default)]
pub(super) struct LiveRanges {
    ranges: HashMap<u16, Range>,
    /// Backward branches: where to and where from.
    loops: Vec<(usize, usize)>,
}

impl LiveRanges {
    /// Notes that `instruction` mentions a row of `bits` bits.
    pub(super) fn touch(&mut self, row: u16, instruction: usize, bits: u8) {
        let range = self.ranges.entry(row).or_insert(Range {
            first: instruction,
            last: instruction,
            words: u32::from(bits).div_ceil(32),
        });
        range.last = instruction;
    }

    /// Notes a branch; only one that goes back makes a loop.
    pub(super) fn loop_back(&mut self, to: usize, from: usize) {
        if to <= from {
            self.loops.push((to, from));
        }
    }

    /// The modelled register count.
    pub(super) fn registers(mut self) -> u32 {
        // Inner loops first: what they lengthen may reach into an outer one.
        self.loops.sort_by_key(|(to, from)| from - to);
        self.loops.truncate(256);
        for (to, from) in &self.loops {
            for range in self.ranges.values_mut() {
                if range.first < *to && range.last >= *to {
                    range.last = range.last.max(*from);
                }
            }
        }
        let mut changes: Vec<(usize, i64)> = Vec::new();
        for range in self.ranges.values() {
            changes.push((range.first, i64::from(range.words)));
            changes.push((range.last + 1, -i64::from(range.words)));
        }
        changes.sort_unstable();
        let mut alive = 0;
        let mut most = 0;
        for (_, change) in changes {
            alive += change;
            most = most.max(alive);
        }
        let words = u32::try_from(most).unwrap_or(MOST);
        words
            .saturating_add(OVERHEAD)
            .next_multiple_of(8)
            .clamp(LEAST, MOST)
    }
}
