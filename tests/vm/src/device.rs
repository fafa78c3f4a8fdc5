// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `/dev/lithos`, open.
//!
//! [`Device::call`] makes any call; the other methods make those that are meant to go right, with the
//! fewest words. What they make is small: a ring of 64 records and an arena of 64 KiB.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use lithos_abi::arena::{Counts, layout};
use lithos_abi::bindings::*;
use lithos_abi::ring::ring_bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::ProtFlags;

use crate::{DEADLINE, Pages};

const PATH: &str = "/dev/lithos";
const RECORDS: u32 = 64;
/// The UUID of the GPU that tests claim unless they say another.
pub const GPU: [u8; 16] = *b"a GPU of the VM.";

/// An open file.
#[derive(Debug)]
pub struct Device(File);

/// A channel, to its tenant.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// With its generation.
    pub id: u64,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Size of the arena.
    pub arena_bytes: u64,
}

impl Device {
    /// Opens the device.
    ///
    /// # Panics
    ///
    /// If it cannot be opened.
    pub fn open() -> Self {
        let file = OpenOptions::new().read(true).write(true).open(PATH);
        Self(file.unwrap_or_else(|error| panic!("{PATH}: {error}")))
    }

    /// Makes a call with a structure, which it may change.
    ///
    /// # Panics
    ///
    /// If the structure is not the command's: it is too short or too long.
    pub fn call<T: Copy>(&self, command: lithos_command, argument: &mut T) -> nix::Result<()> {
        assert_eq!(bytes_of(command), size_of::<T>(), "command {command:#x}");
        // SAFETY: the kernel reads and writes as many bytes as the command says, and those are the
        // argument's. All structures of the contract are integers, of which any bytes are a value.
        unsafe { self.call_at(command, std::ptr::from_mut(argument) as usize) }
    }

    /// Makes a call with an address.
    ///
    /// # Safety
    ///
    /// Nothing that Rust relies on lies at the address, if the command writes there.
    pub unsafe fn call_at(&self, command: lithos_command, address: usize) -> nix::Result<()> {
        // SAFETY: what is written, the caller answers for.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(command), address) })
            .map(drop)
    }

    /// Makes a call that takes nothing.
    pub fn call_with_nothing(&self, command: lithos_command) -> nix::Result<()> {
        assert_eq!(bytes_of(command), 0, "command {command:#x}");
        // SAFETY: nothing is written.
        unsafe { self.call_at(command, 0) }
    }

    /// Returns what there is.
    pub fn info(&self) -> nix::Result<lithos_info> {
        let mut info = lithos_info::default();
        self.call(LITHOS_INFO, &mut info).map(|()| info)
    }

    /// Maps pages of a channel.
    pub fn map(&self, channel: u64, kind: u32, bytes: u64, may: ProtFlags) -> nix::Result<Pages> {
        Pages::map(&self.0, map_offset(channel, kind), bytes, may)
    }

    /// Waits until there is something to read.
    ///
    /// # Panics
    ///
    /// If there is nothing before the deadline.
    pub fn wait_readable(&self) {
        let timeout = PollTimeout::try_from(DEADLINE).expect("a deadline that poll takes");
        let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut asked, timeout), Ok(1), "something to read");
    }

    /// Returns what poll says at once.
    pub fn polled(&self) -> PollFlags {
        let mut asked = [PollFd::new(
            self.0.as_fd(),
            PollFlags::POLLIN | PollFlags::POLLOUT,
        )];
        poll(&mut asked, PollTimeout::ZERO).expect("poll");
        asked[0].revents().expect("flags that nix knows")
    }
}

/// A scheduler's.
impl Device {
    /// Claims a GPU for channels of 64 records and 64 KiB.
    pub fn claim(&self, gpu: [u8; 16]) -> nix::Result<lithos_scheduler_claim> {
        let mut claim = claim(gpu);
        self.call(LITHOS_SCHEDULER_CLAIM, &mut claim)
            .map(|()| claim)
    }

    /// Says that the scheduler lives.
    pub fn beat(&self) -> nix::Result<()> {
        self.call_with_nothing(LITHOS_SCHEDULER_BEAT)
    }

    /// Lets a tenant in.
    pub fn answer_tenant(&self, tenant: u64) -> nix::Result<()> {
        self.call(LITHOS_TENANT_ANSWER, &mut answer(tenant))
    }

    /// Says that a channel has a grant.
    pub fn answer_channel(&self, channel: u64) -> nix::Result<()> {
        self.call(LITHOS_CHANNEL_ANSWER, &mut answer(channel))
    }

    /// Waits for the next event.
    pub fn event(&self) -> nix::Result<lithos_event> {
        let mut bytes = [0; size_of::<lithos_event>()];
        match (&self.0).read(&mut bytes) {
            Ok(read) => assert_eq!(read, bytes.len(), "a whole event"),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(Errno::EINTR),
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        }
        // SAFETY: an event is integers, of which any bytes are a value.
        Ok(unsafe { std::mem::transmute::<[u8; size_of::<lithos_event>()], lithos_event>(bytes) })
    }

    /// Waits for an event of a type, and drops others before it.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub fn event_of(&self, kind: u32) -> lithos_event {
        loop {
            self.wait_readable();
            let event = self.event().expect("an event");
            if event.type_ == kind {
                return event;
            }
        }
    }
}

/// A tenant's.
impl Device {
    /// Makes the file a tenant and returns its id.
    pub fn attach(&self) -> nix::Result<u64> {
        let mut attach = attach();
        self.call(LITHOS_TENANT_ATTACH, &mut attach)
            .map(|()| attach.tenant)
    }

    /// Waits for what the scheduler says to the tenant.
    pub fn wait_tenant(&self, tenant: u64) -> nix::Result<lithos_answer> {
        let mut answer = question(tenant);
        self.call(LITHOS_TENANT_WAIT, &mut answer).map(|()| answer)
    }

    /// Makes a channel on a GPU.
    pub fn open_channel(&self, gpu: [u8; 16]) -> nix::Result<Channel> {
        let mut open = channel_open(gpu);
        self.call(LITHOS_CHANNEL_OPEN, &mut open)?;
        Ok(Channel {
            id: open.channel,
            ring_bytes: open.ring_bytes,
            arena_bytes: open.arena_bytes,
        })
    }

    /// Waits for what the scheduler says about a channel.
    pub fn wait_channel(&self, channel: u64) -> nix::Result<lithos_answer> {
        let mut answer = question(channel);
        self.call(LITHOS_CHANNEL_WAIT, &mut answer).map(|()| answer)
    }

    /// Sleeps until the channel was woken another number of times than `seen`; returns that number.
    pub fn sleep(&self, channel: u64, seen: u64) -> nix::Result<u64> {
        let mut sleep = lithos_sleep {
            channel,
            timeout_ns: timeout_ns(),
            seen,
            reserved: 0,
        };
        self.call(LITHOS_CHANNEL_SLEEP, &mut sleep)
            .map(|()| sleep.seen)
    }
}

/// Calls that take an id and nothing else.
impl Device {
    /// Makes such a call.
    pub fn call_with_id(&self, command: lithos_command, id: u64) -> nix::Result<()> {
        self.call(command, &mut lithos_id { id })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<std::os::fd::OwnedFd> for Device {
    fn from(file: std::os::fd::OwnedFd) -> Self {
        Self(file.into())
    }
}

/// A claim that the kernel takes.
pub fn claim(gpu: [u8; 16]) -> lithos_scheduler_claim {
    let (regions, arena_bytes) = layout(Counts {
        stamps: RECORDS,
        gates: 8,
        atoms: 32,
        cluster_atoms: 8,
        tails: 40,
    });
    assert!(arena_bytes <= 65536);
    lithos_scheduler_claim {
        version: LITHOS_ABI_VERSION,
        records: RECORDS,
        gpu,
        ring_bytes: (ring_bytes(RECORDS) as u64).next_multiple_of(u64::from(LITHOS_PAGE_BYTES)),
        arena_bytes: 65536,
        epoch: 0,
        regions,
    }
}

/// What makes a tenant of the partition `vm`.
pub fn attach() -> lithos_tenant_attach {
    let mut request = lithos_attach {
        version: LITHOS_ABI_VERSION,
        ..lithos_attach::default()
    };
    for (to, from) in request.partition.iter_mut().zip(c"vm".to_bytes()) {
        *to = from.cast_signed();
    }
    lithos_tenant_attach { request, tenant: 0 }
}

/// What opens a channel on a GPU.
pub fn channel_open(gpu: [u8; 16]) -> lithos_channel_open {
    lithos_channel_open {
        request: lithos_channel_create {
            gpu,
            context: 1,
            reserved: [0; 2],
        },
        ..lithos_channel_open::default()
    }
}

/// The answer that nothing is wrong.
pub fn answer(id: u64) -> lithos_answer {
    lithos_answer {
        id,
        timeout_ns: 0,
        flags: 0,
        reserved: 0,
        reply: lithos_reply {
            error: 0,
            reserved: 0,
            text: [0; LITHOS_TEXT_BYTES as usize],
        },
    }
}

/// What asks for an answer, and waits for it up to the deadline.
pub fn question(id: u64) -> lithos_answer {
    lithos_answer {
        timeout_ns: timeout_ns(),
        ..answer(id)
    }
}

/// Where a channel's pages are: `LITHOS_MAP_OFFSET`, which is no constant and not in the bindings.
pub fn map_offset(channel: u64, kind: u32) -> u64 {
    let id = channel & ((1 << LITHOS_MAP_ID_BITS) - 1);
    (id << 2 | u64::from(kind)) << LITHOS_MAP_SHIFT
}

fn timeout_ns() -> u64 {
    u64::try_from(DEADLINE.as_nanos()).expect("a deadline within 500 years")
}

/// The size that a command says its argument has.
fn bytes_of(command: lithos_command) -> usize {
    (command >> 16 & 0x3fff) as usize
}
