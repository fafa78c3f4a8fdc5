// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What follows a descriptor: its dependents, and descriptors that have been scheduled.
//!
//! The idea: a descriptor names up to two others by their addresses, and what it asks for is done to
//! them when it completes; to the first of them already when its last block has started, if it says so.
//! One that is *scheduled* begins a hop later ([`null`]), and is read from memory then and not before:
//! what was edited until then holds. It belongs to whom the first descriptor belonged to, and has its
//! priority; among grids of that priority it is the latest.
//!
//! A descriptor is *active* from when it is scheduled to when it has completed. The hardware has no room
//! for a second life of it: what schedules it then is a fault (`SKEDCHECK22_INVALIDATE_ACTIVE_QMD` on an
//! H100), and so is a counter that is counted down too often.
//!
//! A *counter* lies in the descriptor that waits, twice, and is counted down there; at zero that
//! descriptor is scheduled. Under MPS the hardware remembers how far it was, by its address alone, when its
//! process has died: whoever counts there next, goes on where that one was.

use std::cmp::Reverse;

use lithos_descriptor::Field;
use lithos_descriptor::hopper::{Action, Dependent, fields as f};

use super::gpu::{Gpu, GridId};
use super::grid::{Grid, Owner};
use super::null;
use super::space::AddressSpace;
use super::{error_code, fault_code};
use crate::ptx::{Fault, Memory};
use crate::wire::DESCRIPTOR_BYTES;

/// How often a descriptor is read that others change all the time.
const READS_MAX: u32 = 16;

/// A descriptor that another one has scheduled.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) owner: Owner,
    /// Where it lies.
    pub(super) address: u64,
    /// Whether it begins at the first block, whatever its RESUME says.
    pub(super) restarts: bool,
    /// When it begins.
    pub(super) at_ns: u64,
    /// When the row of NULL descriptors began that has led to it, if one has.
    pub(super) idle_since_ns: Option<u64>,
}

/// What the hardware does not put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    /// One life at a time.
    #[error("the descriptor at {0:#x} is scheduled while it is active")]
    Active(u64),
    /// More counted down than were waited for, or two counters that differ.
    #[error("the descriptor at {0:#x} is counted down from {1} and {2}")]
    Counter(u64, u16, u16),
    /// The counter is not there.
    #[error("the counter of a descriptor: {0}")]
    Memory(Fault),
}

impl ChainError {
    /// What a context fails with.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Memory(fault) => fault_code(fault),
            Self::Active(_) | Self::Counter(..) => error_code::LAUNCH_FAILED,
        }
    }
}

impl Scheduled {
    /// The descriptor as it is in memory now. It is read until two reads agree, because 16 bytes of it
    /// may be changed by one store (a mask), which must not be seen half done.
    pub(super) fn read(&self) -> Result<[u8; DESCRIPTOR_BYTES], Fault> {
        let load = || {
            let mut bytes = [0; DESCRIPTOR_BYTES];
            self.owner.space.load(self.address, &mut bytes)?;
            Ok(bytes)
        };
        let mut bytes = load()?;
        for _ in 1..READS_MAX {
            let again = load()?;
            if again == bytes {
                break;
            }
            bytes = again;
        }
        Ok(bytes)
    }
}

impl Gpu {
    /// Does what a grid asks for when its last block has started.
    pub(super) fn pre_exit(&mut self, id: GridId, at_ns: u64) -> Result<(), ChainError> {
        let Some(grid) = self.grids.get_mut(&id) else {
            return Ok(());
        };
        if !grid.descriptor.pre_exit {
            return Ok(());
        }
        match grid.descriptor.dependents[0].take() {
            Some(dependent) => {
                let owner = grid.owner.clone();
                self.act(&owner, dependent, at_ns, None)
            }
            None => Ok(()),
        }
    }

    /// Does what a grid asks for on completion, as far as it was not done before.
    pub(super) fn follow(&mut self, grid: &Grid) -> Result<(), ChainError> {
        let dependents = grid.descriptor.dependents.into_iter().flatten();
        for dependent in dependents {
            self.act(&grid.owner, dependent, grid.end_ns, grid.idle_since_ns)?;
        }
        Ok(())
    }

    fn act(
        &mut self,
        owner: &Owner,
        dependent: Dependent,
        at_ns: u64,
        idle_since_ns: Option<u64>,
    ) -> Result<(), ChainError> {
        let Dependent {
            address, action, ..
        } = dependent;
        let restarts = action == Action::InvalidateCopySchedule;
        if action == Action::DecrementDependence && self.count_down(owner, address)? > 0 {
            return Ok(());
        }
        if self.is_active(owner, address) {
            return Err(ChainError::Active(address));
        }
        let idle_ns = idle_since_ns.map_or(0, |since_ns| at_ns.saturating_sub(since_ns));
        let scheduled = Scheduled {
            owner: owner.clone(),
            address,
            restarts,
            at_ns: null::next_ns(at_ns, idle_ns),
            idle_since_ns,
        };
        let number = self.number();
        self.agenda.push(Reverse((scheduled.at_ns, number)));
        self.scheduled.insert(number, scheduled);
        Ok(())
    }

    /// Forgets what a client that is gone has begun to count down, or remembers it for the next one.
    pub(super) fn leave_counts(&mut self, client: u64, remembers: bool) {
        let theirs = self.half_counted.extract_if(|(its, _), _| *its == client);
        let left = theirs.map(|((_, address), left)| (address, left));
        if remembers {
            self.remembered.extend(left);
        } else {
            left.for_each(drop);
        }
    }

    /// Counts a descriptor down and gives what is left.
    fn count_down(&mut self, owner: &Owner, address: u64) -> Result<u16, ChainError> {
        let own = count_down(&owner.space, address)?;
        let key = (owner.client, address);
        let under_way = self.half_counted.get(&key).copied();
        // Somebody's who has died: his count goes on.
        let before = under_way.or_else(|| self.remembered.remove(&address));
        let left = before.map_or(own, |before| before - 1);
        if left > 0 {
            self.half_counted.insert(key, left);
        } else {
            self.half_counted.remove(&key);
        }
        Ok(left)
    }

    fn is_active(&self, owner: &Owner, address: u64) -> bool {
        let running = self
            .grids
            .values()
            .any(|grid| grid.address == Some(address) && grid.owner.client == owner.client);
        running
            || self
                .scheduled
                .values()
                .any(|other| other.address == address && other.owner.client == owner.client)
    }
}

/// Counts a descriptor down and gives what is left.
fn count_down(space: &AddressSpace, address: u64) -> Result<u16, ChainError> {
    const COUNTERS: [Field; 2] = [f::DEPENDENCE_COUNTER, f::HW_ONLY_DEPENDENCE_COUNTER];
    const { assert!(COUNTERS[0].width() == 16 && COUNTERS[1].width() == 16) };
    let places = COUNTERS.map(|field| address + u64::from(field.lo() / 8));
    let mut counts = [0; 2];
    for (count, place) in counts.iter_mut().zip(places) {
        let mut bytes = [0; 2];
        space.load(place, &mut bytes).map_err(ChainError::Memory)?;
        *count = u16::from_le_bytes(bytes);
    }
    let [count, twin] = counts;
    if count == 0 || count != twin {
        return Err(ChainError::Counter(address, count, twin));
    }
    let left = count - 1;
    for place in places {
        let bytes = left.to_le_bytes();
        space.store(place, &bytes).map_err(ChainError::Memory)?;
    }
    Ok(left)
}
