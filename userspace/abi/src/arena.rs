// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The arena: what the GPU itself reads and writes, in regions of one type each.
//!
//! The broker decides where the regions lie and says so in the grant page, which the tenant cannot
//! write; so whoever stores into a region relies on nobody's addresses but its own.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::Page;
use crate::bindings::*;

/// Bytes from one descriptor to the next: 384 are used, the GPU wants 256-byte alignment.
pub const DESCRIPTOR_STRIDE: u32 = LITHOS_DESCRIPTOR_STRIDE;

/// How many things each region of an arena holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Completion stamps: one per record of the ring.
    pub stamps: u32,
    /// Pairs of gate and bounce.
    pub gates: u32,
    /// Atoms of plain grids.
    pub atoms: u32,
    /// Atoms of clusters.
    pub cluster_atoms: u32,
    /// Tails.
    pub tails: u32,
}

/// Lays out an arena: the regions, in the order of their kinds, and the size in bytes.
pub fn layout(counts: Counts) -> ([lithos_region; LITHOS_REGIONS as usize], u64) {
    let stamp = u32::try_from(size_of::<lithos_stamp>()).expect("a stamp has 64 bytes");
    let wanted = [
        (stamp, counts.stamps),
        (2 * DESCRIPTOR_STRIDE, counts.gates),
        (DESCRIPTOR_STRIDE, counts.atoms),
        (DESCRIPTOR_STRIDE, counts.cluster_atoms),
        (DESCRIPTOR_STRIDE, counts.tails),
    ];
    let mut regions = [lithos_region::default(); LITHOS_REGIONS as usize];
    let mut end = 0;
    for (region, (stride, count)) in regions.iter_mut().zip(wanted) {
        *region = lithos_region {
            offset: end,
            stride,
            count,
        };
        let bytes = u64::from(stride) * u64::from(count);
        end += bytes.next_multiple_of(u64::from(LITHOS_PAGE_BYTES));
    }
    (regions, end)
}

/// Returns the part of an arena that a region names, if all of it lies inside.
pub fn region<'a>(
    arena: &Page<'a>,
    regions: &[lithos_region; LITHOS_REGIONS as usize],
    kind: lithos_region_kind,
) -> Option<Page<'a>> {
    let region = regions.get(kind as usize)?;
    let bytes = u64::from(region.stride) * u64::from(region.count);
    arena.part(
        usize::try_from(region.offset).ok()?,
        usize::try_from(bytes).ok()?,
    )
}

/// The completion stamps of an arena, which the GPU writes and anybody reads.
#[derive(Clone, Copy, Debug)]
pub struct Stamps<'a> {
    page: Page<'a>,
}

impl<'a> Stamps<'a> {
    /// Takes in the region of stamps.
    pub fn new(page: Page<'a>) -> Self {
        Self { page }
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.page.bytes() / size_of::<lithos_stamp>()
    }

    /// Returns the address of a stamp, for a release semaphore.
    #[inline]
    pub fn address(&self, place: usize) -> u64 {
        (self.page.address() + place * size_of::<lithos_stamp>()) as u64
    }

    /// Asks for the stamp of a place to be near when it is looked at.
    #[inline]
    pub fn prefetch(&self, place: usize) {
        self.page.prefetch(place * size_of::<lithos_stamp>());
    }

    /// Returns whether the launch of this sequence, whose place this is, has completed.
    #[inline]
    pub fn has_completed(&self, place: usize, sequence: u64) -> bool {
        let payload = self
            .page
            .half(place * size_of::<lithos_stamp>())
            .load(Acquire);
        u64::from(payload) == sequence & 0xffff_ffff
    }

    /// Returns the GPU's time of completion of a launch in nanoseconds, once it has completed.
    #[inline]
    pub fn completed_gpu_ns(&self, place: usize, sequence: u64) -> Option<u64> {
        if !self.has_completed(place, sequence) {
            return None;
        }
        Some(
            self.page
                .word(place * size_of::<lithos_stamp>() + 8)
                .load(Relaxed),
        )
    }
}
