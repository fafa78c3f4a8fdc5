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
#[inline(always)]
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
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
    // Nearly always every lane is aligned, even those that do not take part.
    if addresses.iter().fold(0, |all, address| all | address) & low == 0 {
        return Ok(());
    }
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
    addresses: &Row,
    active: u32,
    mut each: impl FnMut(Space, &Row, u32) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if space != Space::Generic {
        return each(space, addresses, active);
    }
    let mut addresses = *addresses;
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
        into: &mut [Row],
    ) -> Result<(), Fault> {
        let bytes = usize::from(place.bytes) * usize::from(place.count);
        let addresses = addresses(place, base);
        check_alignment(&addresses, active, bytes)?;
        let mut stage: Stage = [0; LANES * LANE_BYTES];
        by_space(
            place.space,
            &addresses,
            active,
            |space, addresses, active| {
                match bytes {
                    1 => self.stage_load::<1>(space, addresses, active, &mut stage),
                    2 => self.stage_load::<2>(space, addresses, active, &mut stage),
                    4 => self.stage_load::<4>(space, addresses, active, &mut stage),
                    8 => self.stage_load::<8>(space, addresses, active, &mut stage),
                    // PANIC: the parser lets through no other size.
                    _ => self.stage_load::<16>(space, addresses, active, &mut stage),
                }
            },
        )?;
        for (k, row) in into.iter_mut().enumerate() {
            match place.bytes {
                1 => unstage::<1>(&stage, bytes, k, row),
                2 => unstage::<2>(&stage, bytes, k, row),
                4 => unstage::<4>(&stage, bytes, k, row),
                _ => unstage::<8>(&stage, bytes, k, row),
            }
        }
        Ok(())
    }

    /// Writes every active lane's elements, one row per element.
    pub(super) fn store(
        &mut self,
        place: Place,
        base: &Row,
        active: u32,
        from: &[&Row],
    ) -> Result<(), Fault> {
        let bytes = usize::from(place.bytes) * usize::from(place.count);
        let addresses = addresses(place, base);
        check_alignment(&addresses, active, bytes)?;
        let mut stage: Stage = [0; LANES * LANE_BYTES];
        for (k, row) in from.iter().enumerate() {
            match place.bytes {
                1 => stage_row::<1>(row, bytes, k, &mut stage),
                2 => stage_row::<2>(row, bytes, k, &mut stage),
                4 => stage_row::<4>(row, bytes, k, &mut stage),
                _ => stage_row::<8>(row, bytes, k, &mut stage),
            }
        }
        by_space(
            place.space,
            &addresses,
            active,
            |space, addresses, active| {
                match bytes {
                    1 => self.stage_store::<1>(space, addresses, active, &stage),
                    2 => self.stage_store::<2>(space, addresses, active, &stage),
                    4 => self.stage_store::<4>(space, addresses, active, &stage),
                    8 => self.stage_store::<8>(space, addresses, active, &stage),
                    // PANIC: the parser lets through no other size.
                    _ => self.stage_store::<16>(space, addresses, active, &stage),
                }
            },
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
            &addresses,
            active,
            |space, addresses, active| {
                for lane in lanes(active) {
                    let (address, operand, compare) =
                        (addresses[lane], operands.0[lane], operands.1[lane]);
                    old[lane] = if space == Space::Global {
                        self.memory.atomic(address, atomic, operand, compare)?
                    } else {
                        let memory = self.inside(space, lane);
                        let word = span(address, bytes)
                            .and_then(|span| memory.get_mut(span))
                            .ok_or_else(|| illegal(space, address, bytes, Access::Atomic))?;
                        let mut before = [0; 8];
                        before[..bytes].copy_from_slice(word);
                        let before = u64::from_le_bytes(before);
                        let after = atomic.apply(before, operand, compare);
                        word.copy_from_slice(&after.to_le_bytes()[..bytes]);
                        before
                    };
                }
                Ok(())
            },
        )
    }

    fn stage_load<const BYTES: usize>(
        &mut self,
        space: Space,
        addresses: &Row,
        active: u32,
        stage: &mut Stage,
    ) -> Result<(), Fault> {
        let (cells, _) = stage.as_chunks_mut::<BYTES>();
        if space != Space::Global {
            let (memory, each) = match space {
                Space::Shared => (&*self.shared, 0),
                Space::Local => (&*self.local, self.local.len() / LANES),
                _ => (self.parameters, 0),
            };
            for lane in lanes(active) {
                let own = if each == 0 {
                    memory
                } else {
                    &memory[lane * each..(lane + 1) * each]
                };
                let source = cell::<BYTES>(own, addresses[lane]);
                cells[lane] =
                    *source.ok_or_else(|| illegal(space, addresses[lane], BYTES, Access::Load))?;
            }
            return Ok(());
        }
        if let Some((first, count)) = run_of_neighbours(addresses, active, BYTES) {
            let target = cells[first..first + count].as_flattened_mut();
            if self.memory.load(addresses[first], target).is_ok() {
                return Ok(());
            }
        } else if let Some(first) = lanes(active).next()
            && lanes(active).all(|lane| addresses[lane] == addresses[first])
        {
            let mut word = [0; BYTES];
            self.memory.load(addresses[first], &mut word)?;
            cells[..LANES].fill(word);
            return Ok(());
        }
        for lane in lanes(active) {
            self.memory.load(addresses[lane], &mut cells[lane])?;
        }
        Ok(())
    }

    fn stage_store<const BYTES: usize>(
        &mut self,
        space: Space,
        addresses: &Row,
        active: u32,
        stage: &Stage,
    ) -> Result<(), Fault> {
        let (cells, _) = stage.as_chunks::<BYTES>();
        if space == Space::Global {
            if let Some((first, count)) = run_of_neighbours(addresses, active, BYTES) {
                let source = cells[first..first + count].as_flattened();
                if self.memory.store(addresses[first], source).is_ok() {
                    return Ok(());
                }
            }
            for lane in lanes(active) {
                self.memory.store(addresses[lane], &cells[lane])?;
            }
            return Ok(());
        }
        for lane in lanes(active) {
            let memory = self.inside(space, lane);
            let target = usize::try_from(addresses[lane])
                .ok()
                .and_then(|at| memory.get_mut(at..)?.first_chunk_mut::<BYTES>());
            *target.ok_or_else(|| illegal(space, addresses[lane], BYTES, Access::Store))? =
                cells[lane];
        }
        Ok(())
    }

    /// Shared memory, or a lane's local memory; there is no other that could be written here.
    fn inside(&mut self, space: Space, lane: usize) -> &mut [u8] {
        match space {
            Space::Shared => &mut *self.shared,
            Space::Local => {
                let each = self.local.len() / LANES;
                &mut self.local[lane * each..(lane + 1) * each]
            }
            Space::Generic | Space::Global | Space::Parameter => &mut [],
        }
    }
}

/// Takes element `k` of every lane from the stage, where each lane has `bytes` bytes.
fn unstage<const ELEMENT: usize>(stage: &Stage, bytes: usize, k: usize, row: &mut Row) {
    let (elements, _) = stage.as_chunks::<ELEMENT>();
    // Scalars are side by side, which the compiler makes use of.
    if bytes == ELEMENT {
        for (word, element) in row.iter_mut().zip(elements) {
            *word = word_of(element);
        }
    } else {
        let each = bytes / ELEMENT;
        for (word, element) in row.iter_mut().zip(elements.iter().skip(k).step_by(each)) {
            *word = word_of(element);
        }
    }
}

/// Puts a row onto the stage as element `k` of every lane.
fn stage_row<const ELEMENT: usize>(row: &Row, bytes: usize, k: usize, stage: &mut Stage) {
    let (elements, _) = stage.as_chunks_mut::<ELEMENT>();
    if bytes == ELEMENT {
        for (element, word) in elements.iter_mut().zip(row) {
            element.copy_from_slice(&word.to_le_bytes()[..ELEMENT]);
        }
    } else {
        let each = bytes / ELEMENT;
        for (element, word) in elements.iter_mut().skip(k).step_by(each).zip(row) {
            element.copy_from_slice(&word.to_le_bytes()[..ELEMENT]);
        }
    }
}

/// The bytes at an address, if they are inside.
#[inline(always)]
fn cell<const BYTES: usize>(memory: &[u8], address: u64) -> Option<&[u8; BYTES]> {
    memory.get(usize::try_from(address).ok()?..)?.first_chunk()
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

/// Up to eight bytes as a word. The common sizes are spelled out: a detour through an array of eight
/// bytes would be written in parts and read as a whole, which stalls the CPU.
#[inline(always)]
fn word_of(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        // PANIC: the parser lets through no other size.
        _ => unreachable!("an element of {} bytes", bytes.len()),
    }
}
