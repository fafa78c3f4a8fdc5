// SPDX-License-Identifier: GPL-2.0
//! Sizes of a channel's pages, and where in the arena gates and tails are.
//!
//! A scheduler says them when it claims a GPU; the kernel looks at them once, then, and from then on stores
//! into arenas by nobody's word but these.
//!
//! Pure arithmetic; tests/kmod compiles it a second time.

use crate::abi::*;

const PAGE: u64 = LITHOS_PAGE_BYTES as u64;
const MAP_BYTES_MAX: u64 = 1 << LITHOS_MAP_SHIFT;

/// Regions of atoms, in the order of their gates.
const ATOMS: [lithos_region_kind; 2] = [LITHOS_REGION_ATOMS, LITHOS_REGION_CLUSTER_ATOMS];

/// Sizes in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) ring_bytes: u64,
    pub(crate) arena_bytes: u64,
    /// In the ring.
    pub(crate) records: u32,
    pub(crate) regions: [lithos_region; LITHOS_REGIONS as usize],
}

impl Geometry {
    /// Looks at what a scheduler claims with; `None` if it cannot be.
    pub(crate) fn of(claim: &lithos_scheduler_claim) -> Option<Self> {
        let whole = |bytes: u64| bytes > 0 && bytes <= MAP_BYTES_MAX && bytes % PAGE == 0;
        let records = u64::from(claim.records);
        let ring_needed = core::mem::size_of::<lithos_ring>() as u64
            + records * core::mem::size_of::<lithos_record>() as u64;
        let fits = |region: &lithos_region| {
            let bytes = u64::from(region.stride) * u64::from(region.count);
            region
                .offset
                .checked_add(bytes)
                .is_some_and(|end| end <= claim.arena_bytes)
        };
        // Nothing that is stored into may lie across two pages.
        let is_laid_out = |kind: lithos_region_kind, bytes: usize| {
            let region = &claim.regions[kind as usize];
            region.count == 0
                || region.stride as usize == bytes && region.offset % bytes as u64 == 0
        };
        let fine = whole(claim.ring_bytes)
            && whole(claim.arena_bytes)
            && claim.records.is_power_of_two()
            && ring_needed <= claim.ring_bytes
            && claim.regions.iter().all(fits)
            && is_laid_out(LITHOS_REGION_GATES, core::mem::size_of::<lithos_gate>())
            && is_laid_out(LITHOS_REGION_TAILS, core::mem::size_of::<lithos_tail>())
            && ATOMS
                .iter()
                .all(|kind| is_laid_out(*kind, LITHOS_DESCRIPTOR_STRIDE as usize));
        fine.then_some(Self {
            ring_bytes: claim.ring_bytes,
            arena_bytes: claim.arena_bytes,
            records: claim.records,
            regions: claim.regions,
        })
    }

    /// Returns where in the arena the words of the gates are.
    pub(crate) fn gate_words(&self) -> impl Iterator<Item = usize> {
        self.places(LITHOS_REGION_GATES)
            .map(|gate| gate + core::mem::offset_of!(lithos_gate, word))
    }

    /// Returns where in the arena the atoms are, each behind the gate of the same number.
    pub(crate) fn atoms(&self) -> impl Iterator<Item = usize> + '_ {
        ATOMS.into_iter().flat_map(|kind| self.places(kind))
    }

    /// Returns where in the arena the tails are.
    pub(crate) fn tails(&self) -> impl Iterator<Item = usize> {
        self.places(LITHOS_REGION_TAILS)
    }

    /// Returns how many bytes a channel takes.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.ring_bytes + self.arena_bytes
    }

    fn places(&self, kind: lithos_region_kind) -> impl Iterator<Item = usize> {
        let region = self.regions[kind as usize];
        (0..region.count as usize).map(move |i| region.offset as usize + i * region.stride as usize)
    }
}

/// Returns whether a chain may still run, by its tail: nobody believes it for longer than a bounded time.
pub(crate) fn is_running(published: u64, done: u32) -> bool {
    published != 0 && published as u32 != done
}

/// Returns which channel, in the bits that an offset has of its id, and which of its pages is mapped
/// at an offset.
pub(crate) fn mapped_at(offset: u64) -> Option<(u64, u32)> {
    if offset % MAP_BYTES_MAX != 0 || offset >> 63 != 0 {
        return None;
    }
    let name = offset >> LITHOS_MAP_SHIFT;
    Some((name >> 2, (name & 3) as u32))
}
