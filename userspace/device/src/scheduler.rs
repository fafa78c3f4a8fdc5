// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel's broker, seen from a scheduler: who claims GPUs at `/dev/lithos` hears of tenants and
//! channels, answers them, and writes grants into pages that the kernel keeps.
//!
//! It has to beat. Whoever did not for too long, or has closed the file, is no scheduler any more: every
//! call fails with `ESTALE`, and the pages that were mapped are gone (whoever touches one has a SIGBUS).
//! Any thread may make any call.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use lithos_abi::bindings::*;
use lithos_abi::grant::{GrantWriter, Terms};
use nix::errno::Errno;

use crate::ioctl::{self, call, call_bare};
use crate::pages::{self, Pages, PagesError};

/// An open `/dev/lithos` that schedules.
#[derive(Debug)]
pub struct Scheduler {
    device: File,
}

impl Scheduler {
    /// Opens the device. It schedules nothing until it has claimed a GPU.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = ioctl::open(path)?;
        let info = ioctl::info(&device)?;
        if info.version != LITHOS_ABI_VERSION {
            return Err(io::Error::other(format!(
                "lithos.ko speaks ABI version {}, this program {LITHOS_ABI_VERSION}",
                info.version
            )));
        }
        Ok(Self { device })
    }

    /// Claims a GPU; channels to come have the sizes and regions of these terms. `EBUSY`: somebody else
    /// schedules it.
    pub fn claim(&self, gpu: [u8; 16], terms: &Terms) -> io::Result<()> {
        let mut claim = lithos_scheduler_claim {
            version: LITHOS_ABI_VERSION,
            records: terms.records,
            gpu,
            ring_bytes: terms.ring_bytes,
            arena_bytes: terms.arena_bytes,
            epoch: 0,
            regions: terms.regions,
        };
        Ok(call(&self.device, LITHOS_SCHEDULER_CLAIM, &mut claim)?)
    }

    /// Says that it lives.
    pub fn beat(&self) -> io::Result<()> {
        Ok(call_bare(&self.device, LITHOS_SCHEDULER_BEAT)?)
    }

    /// Reads what has happened, as far as there is room; nothing if nothing has. The descriptor
    /// ([`AsFd`]) tells when there is something.
    pub fn read_events(&self, events: &mut [lithos_event]) -> io::Result<usize> {
        const BYTES: usize = size_of::<lithos_event>();
        // SAFETY: events are integers without padding, so all their bytes are initialised, and any bytes
        // are events.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(events.as_mut_ptr().cast::<u8>(), size_of_val(events))
        };
        match (&self.device).read(bytes) {
            Ok(read) if read.is_multiple_of(BYTES) => Ok(read / BYTES),
            Ok(read) => Err(io::Error::other(format!("{read} bytes are no events"))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Says to a tenant that it is in (`flags` are `LITHOS_ATTACHED_*`), or why not; once.
    pub fn answer_tenant(&self, id: u64, flags: u32, reply: lithos_reply) -> io::Result<()> {
        let mut answer = lithos_answer {
            id,
            flags,
            reply,
            ..lithos_answer::default()
        };
        Ok(call(&self.device, LITHOS_TENANT_ANSWER, &mut answer)?)
    }

    /// Says that a channel has its first grant, or why it gets none; once.
    pub fn answer_channel(&self, id: u64, reply: lithos_reply) -> io::Result<()> {
        let mut answer = lithos_answer {
            id,
            reply,
            ..lithos_answer::default()
        };
        Ok(call(&self.device, LITHOS_CHANNEL_ANSWER, &mut answer)?)
    }

    /// Kills a tenant's process.
    pub fn evict(&self, tenant: u64) -> io::Result<()> {
        let mut id = lithos_id { id: tenant };
        Ok(call(&self.device, LITHOS_TENANT_EVICT, &mut id)?)
    }

    /// Returns all tenants.
    pub fn tenants(&self) -> io::Result<Vec<lithos_tenant_info>> {
        let next = |after| self.next_tenant(after);
        list(next, |info| info.tenant)
    }

    /// Returns all channels of the GPUs that were claimed.
    pub fn channels(&self) -> io::Result<Vec<lithos_channel_info>> {
        let next = |after| self.next_channel(after);
        list(next, |info| info.channel)
    }

    /// Returns a tenant, if it is there.
    pub fn tenant(&self, id: u64) -> io::Result<Option<lithos_tenant_info>> {
        let found = self.next_tenant(before(id))?;
        Ok(found.filter(|info| info.tenant == id))
    }

    /// Returns a channel, if it is there.
    pub fn channel(&self, id: u64) -> io::Result<Option<lithos_channel_info>> {
        let found = self.next_channel(before(id))?;
        Ok(found.filter(|info| info.channel == id))
    }

    /// Maps the pages of a channel. If it has no grant yet its grant page gets these terms; otherwise they
    /// have to be its, and grants go on after those that are there.
    pub fn pages(&self, terms: &Terms) -> Result<Pages, PagesError> {
        let places = ioctl::places(
            &self.device,
            terms.channel,
            terms.ring_bytes,
            terms.arena_bytes,
        );
        pages::map(terms, places, |page| GrantWriter::take_over(page, terms))
    }

    fn next_tenant(&self, after: u64) -> io::Result<Option<lithos_tenant_info>> {
        let mut info = lithos_tenant_info {
            tenant: after,
            ..lithos_tenant_info::default()
        };
        next(call(&self.device, LITHOS_TENANT_NEXT, &mut info).map(|()| info))
    }

    fn next_channel(&self, after: u64) -> io::Result<Option<lithos_channel_info>> {
        let mut info = lithos_channel_info {
            channel: after,
            ..lithos_channel_info::default()
        };
        next(call(&self.device, LITHOS_CHANNEL_NEXT, &mut info).map(|()| info))
    }
}

impl AsFd for Scheduler {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn next<T>(called: Result<T, Errno>) -> io::Result<Option<T>> {
    match called {
        Ok(info) => Ok(Some(info)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn list<T>(
    next: impl Fn(u64) -> io::Result<Option<T>>,
    id: impl Fn(&T) -> u64,
) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(info) = next(all.last().map_or(0, &id))? {
        all.push(info);
    }
    Ok(all)
}

/// Returns an id after which this one is next, if it is there: they come in the order of their places.
fn before(id: u64) -> u64 {
    match id & ((1 << LITHOS_ID_PLACE_BITS) - 1) {
        0 => 0,
        // Of any generation, but not the 0 that stands for none.
        place => 1 << LITHOS_ID_PLACE_BITS | (place - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel goes through its table.
    fn next_in(table: &[u64], after: u64) -> Option<u64> {
        let place = |id: u64| id & 0xffff;
        let from = if after == 0 { 0 } else { place(after) + 1 };
        let mut behind = table.iter().copied().filter(|&id| place(id) >= from);
        behind.find(|&id| id != 0)
    }

    #[test]
    fn all_are_listed_and_each_is_found_by_its_id() {
        let table = [0x5_0000, 0x1_0001, 0x9_0004, 0x3_ffff];
        let all = list(|after| Ok(next_in(&table, after)), |&id| id).expect("a list");
        assert_eq!(all, table);
        for id in table {
            assert_eq!(next_in(&table, before(id)), Some(id), "{id:#x}");
        }
        for gone in [0x4_0000, 0x1_0002, 0x2_ffff] {
            assert_ne!(next_in(&table, before(gone)), Some(gone), "{gone:#x}");
        }
    }
}
