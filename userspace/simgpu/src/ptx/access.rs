// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A warp's loads, stores and atomics: from 32 addresses to as few calls of memory as possible.
//!
//! The idea: a memory instruction goes through a *stage*, the bytes of all lanes side by side. Global
//! accesses of neighbouring lanes become one call, as do loads of one address by all; if such a merged
//! call fails, the lanes are tried one by one, so that the fault names the right address.

use super::atomic::Atomic;
use super::code::{LANES, Place, Row, Space};
use super::memory::{
    Access, Fault, LOCAL_WINDOW, Memory, PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES,
};
use super::types::mask;

/// The most bytes that one lane moves in one instruction.
const LANE_BYTES: usize = 16;

/// The bytes of all lanes side by side.
type Stage = [u8; LANES * LANE_BYTES];

/// The memory that a warp's instruction can reach.
pub(super) struct Reach<'a, M: ?Sized> {
    pub(super) memory: &'a M,
    pub(super) shared: &'a mut [u8],
    /// The local memory of all lanes, one after the other.
    pub(super) local: &'a mut [u8],
    pub(super) parameters: &'a [u8],
}

/// The lanes set in a mask, from the lowest.
pub(super) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros();
        mask &= mask - 1;
        usize::try_from(lane).ok()
    })
}

/// The address in each lane.
fn addresses(place: Place, base: &Row) -> Row {
    let offset = i64::from(place.offset).cast_unsigned();
    // Addresses inside a space of a block may be held in 32 bits; they wrap there.
    let kept = match place.space {
        Space::Generic | Space::Global => u64::MAX,
        Space::Shared | Space::Local | Space::Parameter => mask(32),
    };
    base.map(|address| address.wrapping_add(offset) & kept)
}

fn check_alignment(addresses: &Row, active: u32, bytes: usize) -> Result<(), Fault> {
    let low = bytes as u64 - 1;
    let wrong = lanes(active).find(|lane| addresses[*lane] & low != 0);
    wrong.map_or(Ok(()), |lane| {
        Err(Fault::Misaligned {
            address: addresses[lane],
            bytes: bytes as u64,
        })
    })
}

/// The space that a generic address names, and the address in it.
fn resolve(address: u64) -> (Space, u64) {
    let offset = address & (WINDOW_BYTES - 1);
    match address & !(WINDOW_BYTES - 1) {
        SHARED_WINDOW => (Space::Shared, offset),
        LOCAL_WINDOW => (Space::Local, offset),
        PARAMETER_WINDOW => (Space::Parameter, offset),
        _ => (Space::Global, address),
    }
}

/// Calls `each` with the space, the lanes that mean it, and the addresses in it.
fn by_space(
    space: Space,
    mut addresses: Row,
    active: u32,
    mut each: impl FnMut(Space, &Row, u32) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if space != Space::Generic {
        return each(space, &addresses, active);
    }
    let mut groups = [
        (Space::Global, 0),
        (Space::Shared, 0),
        (Space::Local, 0),
        (Space::Parameter, 0),
    ];
    for lane in lanes(active) {
        let (space, address) = resolve(addresses[lane]);
        addresses[lane] = address;
        for group in &mut groups {
            if group.0 == space {
                group.1 |= 1 << lane;
            }
        }
    }
    for (space, members) in groups {
        if members != 0 {
            each(space, &addresses, members)?;
        }
    }
    Ok(())
}

/// Whether the active lanes are neighbours whose addresses follow one another.
fn run_of_neighbours(addresses: &Row, active: u32, bytes: usize) -> Option<(usize, usize)> {
    let first = active.trailing_zeros();
    let count = (active >> first).trailing_ones();
    if count != active.count_ones() {
        return None;
    }
    let (first, count) = (usize::try_from(first).ok()?, usize::try_from(count).ok()?);
    let mut expected = addresses[first];
    for address in &addresses[first..first + count] {
        if *address != expected {
            return None;
        }
        expected = expected.wrapping_add(bytes as u64);
    }
    Some((first, count))
}

impl<M: Memory + ?Sized> Reach<'_, M> {
    /// Reads every active lane's elements into `into`, one row per element.
    pub(super) fn load(
        &mut self,
        place: Place,
        base: &Row,
        active: u32,
        into: &mut [Row; 4],
    ) -> Result<(), Fault> {
        let element = usize::from(place.bytes);
        let bytes = element * usize::from(place.count);
        let addresses = addresses(place, base);
        check_alignment(&addresses, active, bytes)?;
        let mut stage: Stage = [0; LANES * LANE_BYTES];
        by_space(
            place.space,
            addresses,
            active,
            |space, addresses, active| self.stage_load(space, addresses, active, bytes, &mut stage),
        )?;
        for (k, row) in into.iter_mut().take(usize::from(place.count)).enumerate() {
            for (lane, word) in row.iter_mut().enumerate() {
                let at = lane * bytes + k * element;
                *word = read_word(&stage[at..at + element]);
            }
        }
        Ok(())
    }

    /// Writes every active lane's elements.
    pub(super) fn store(
        &mut self,
        place: Place,
        base: &Row,
        active: u32,
        from: [&Row; 4],
    ) -> Result<(), Fault> {
        let element = usize::from(place.bytes);
        let bytes = element * usize::from(place.count);
        let addresses = addresses(place, base);
        check_alignment(&addresses, active, bytes)?;
        let mut stage: Stage = [0; LANES * LANE_BYTES];
        for (k, row) in from.iter().take(usize::from(place.count)).enumerate() {
            for (lane, word) in row.iter().enumerate() {
                let at = lane * bytes + k * element;
                stage[at..at + element].copy_from_slice(&word.to_le_bytes()[..element]);
            }
        }
        by_space(
            place.space,
            addresses,
            active,
            |space, addresses, active| self.stage_store(space, addresses, active, bytes, &stage),
        )
    }

    /// Does an atomic in each active lane in turn, and leaves the old words in `old`.
    pub(super) fn atomic(
        &mut self,
        place: Place,
        base: &Row,
        active: u32,
        atomic: Atomic,
        operands: (&Row, &Row),
        old: &mut Row,
    ) -> Result<(), Fault> {
        let bytes = atomic.bytes();
        let addresses = addresses(place, base);
        check_alignment(&addresses, active, bytes)?;
        by_space(
            place.space,
            addresses,
            active,
            |space, addresses, active| {
                for lane in lanes(active) {
                    let (address, operand, compare) =
                        (addresses[lane], operands.0[lane], operands.1[lane]);
                    old[lane] = if space == Space::Global {
                        self.memory.atomic(address, atomic, operand, compare)?
                    } else {
                        let word = self.inside(space, address, lane, bytes, Access::Atomic)?;
                        let before = read_word(word);
                        let after = atomic.apply(before, operand, compare);
                        word.copy_from_slice(&after.to_le_bytes()[..bytes]);
                        before
                    };
                }
                Ok(())
            },
        )
    }

    fn stage_load(
        &mut self,
        space: Space,
        addresses: &Row,
        active: u32,
        bytes: usize,
        stage: &mut Stage,
    ) -> Result<(), Fault> {
        match space {
            Space::Global | Space::Generic => {}
            Space::Shared | Space::Local => {
                for lane in lanes(active) {
                    let source = self.inside(space, addresses[lane], lane, bytes, Access::Load)?;
                    stage[lane * bytes..(lane + 1) * bytes].copy_from_slice(source);
                }
                return Ok(());
            }
            Space::Parameter => {
                for lane in lanes(active) {
                    let source = span(addresses[lane], bytes)
                        .and_then(|span| self.parameters.get(span))
                        .ok_or(illegal(space, addresses[lane], bytes, Access::Load))?;
                    stage[lane * bytes..(lane + 1) * bytes].copy_from_slice(source);
                }
                return Ok(());
            }
        }
        if let Some((first, count)) = run_of_neighbours(addresses, active, bytes) {
            let target = &mut stage[first * bytes..(first + count) * bytes];
            if self.memory.load(addresses[first], target).is_ok() {
                return Ok(());
            }
        } else if let Some(first) = lanes(active).next()
            && lanes(active).all(|lane| addresses[lane] == addresses[first])
        {
            let mut word = [0; LANE_BYTES];
            self.memory.load(addresses[first], &mut word[..bytes])?;
            for lane in lanes(active) {
                stage[lane * bytes..(lane + 1) * bytes].copy_from_slice(&word[..bytes]);
            }
            return Ok(());
        }
        for lane in lanes(active) {
            let target = &mut stage[lane * bytes..(lane + 1) * bytes];
            self.memory.load(addresses[lane], target)?;
        }
        Ok(())
    }

    fn stage_store(
        &mut self,
        space: Space,
        addresses: &Row,
        active: u32,
        bytes: usize,
        stage: &Stage,
    ) -> Result<(), Fault> {
        if space == Space::Global {
            if let Some((first, count)) = run_of_neighbours(addresses, active, bytes) {
                let source = &stage[first * bytes..(first + count) * bytes];
                if self.memory.store(addresses[first], source).is_ok() {
                    return Ok(());
                }
            }
            for lane in lanes(active) {
                let source = &stage[lane * bytes..(lane + 1) * bytes];
                self.memory.store(addresses[lane], source)?;
            }
            return Ok(());
        }
        for lane in lanes(active) {
            let target = self.inside(space, addresses[lane], lane, bytes, Access::Store)?;
            target.copy_from_slice(&stage[lane * bytes..(lane + 1) * bytes]);
        }
        Ok(())
    }

    /// The bytes of shared or of a lane's local memory; parameters cannot be written.
    fn inside(
        &mut self,
        space: Space,
        address: u64,
        lane: usize,
        bytes: usize,
        access: Access,
    ) -> Result<&mut [u8], Fault> {
        let memory = match space {
            Space::Shared => &mut *self.shared,
            Space::Local => {
                let each = self.local.len() / LANES;
                &mut self.local[lane * each..(lane + 1) * each]
            }
            Space::Generic | Space::Global | Space::Parameter => &mut [],
        };
        span(address, bytes)
            .and_then(|span| memory.get_mut(span))
            .ok_or(illegal(space, address, bytes, access))
    }
}

fn span(address: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(address).ok()?;
    Some(start..start.checked_add(bytes)?)
}

fn illegal(space: Space, address: u64, bytes: usize, access: Access) -> Fault {
    let window = match space {
        Space::Generic | Space::Global => 0,
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Parameter => PARAMETER_WINDOW,
    };
    Fault::IllegalAddress {
        address: window + address,
        bytes: bytes as u64,
        access,
    }
}

#[inline(always)]
fn read_word(bytes: &[u8]) -> u64 {
    match bytes {
        [a] => u64::from(*a),
        [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        }
    }
}
