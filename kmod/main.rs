// SPDX-License-Identifier: GPL-2.0
//! `lithos.ko`: the kernel owns tenants, channels and their pages. `include/lithos.h` is the contract.
//!
//! It keeps what must survive a dead daemon and what must not be forgeable: who is a tenant, who is the
//! scheduler, whose pages are whose, and when all of that ends. It decides nothing about TPCs, and no
//! launch ever calls it.
//!
//! ```text
//!   device      open files and calls            tenant     an address space
//!   registry    who there is: one lock          channel    pages; gates that open by themselves
//!   scheduler   claims, events, revocation      mapping    of a channel's pages into a process
//!   watchdog    misses a scheduler              answer     what a scheduler says, and who waits for it
//!   admission   the NVIDIA driver, looked at    holders    who may have GPU channels, and who has how many
//!   pages, charge, fault, summary               table, queue, geometry, account, chains, nvidia
//! ```
//!
//! `holders` and the last six are pure arithmetic, which tests/kmod compiles a second time.

use kernel::prelude::*;

mod abi;
mod account;
mod admission;
mod answer;
mod chains;
mod channel;
mod charge;
mod device;
mod fault;
mod geometry;
mod holders;
mod mapping;
mod nvidia;
mod pages;
mod queue;
mod registry;
mod scheduler;
mod summary;
mod table;
mod tenant;
mod watchdog;

module! {
    type: Lithos,
    name: "lithos",
    authors: ["LithOS"],
    description: "LithOS: tenants, channels and their pages",
    license: "GPL",
    params: {
        tenants_max: u32 {
            default: 4096,
            description: "Tenants at once",
        },
        user_tenants_max: u32 {
            default: 1024,
            description: "Tenants of one user at once",
        },
        channels_max: u32 {
            default: 8192,
            description: "Channels at once",
        },
        user_channels_max: u32 {
            default: 2048,
            description: "Channels of one user at once",
        },
        pinned_mib_max: u32 {
            default: 16384,
            description: "MiB of rings and arenas at once",
        },
        user_pinned_mib_max: u32 {
            default: 4096,
            description: "MiB of rings and arenas of one user at once",
        },
        events_max: u32 {
            default: 4096,
            description: "Events that a scheduler has not read yet",
        },
        silence_ms: u32 {
            default: 60,
            description: "For how long a scheduler may be silent until it is taken for dead",
        },
        death_wait_ms: u32 {
            default: 1000,
            description: "How long the end of a process may wait until the GPU has left its arenas",
        },
        admission: u32 {
            default: 0,
            description: "Who may have GPU channels: 0 anybody, 1 anybody and it is counted, 2 tenants",
        },
        fail_nth: u32 {
            default: 0,
            description: "In debug builds: which allocation from now on fails",
        },
    },
}

/// See the parameter.
fn events_max() -> usize {
    let events: u32 = module_parameters::events_max.value();
    events.clamp(16, 1 << 16) as usize
}

/// See the parameter; the time between two looks, too.
fn silence_ms() -> u32 {
    let silence: u32 = module_parameters::silence_ms.value();
    silence.clamp(3, 3_600_000)
}

/// See the parameter.
fn death_wait_ms() -> u32 {
    module_parameters::death_wait_ms.value()
}

/// See the parameter.
fn admission_mode() -> u32 {
    module_parameters::admission.value()
}

fn limits() -> charge::Limits {
    const MIB: u64 = 1 << 20;
    let user_mib: u32 = module_parameters::user_pinned_mib_max.value();
    let mib: u32 = module_parameters::pinned_mib_max.value();
    charge::Limits {
        user: account::Account {
            tenants: module_parameters::user_tenants_max.value(),
            channels: module_parameters::user_channels_max.value(),
            pinned_bytes: u64::from(user_mib) * MIB,
        },
        total: account::Account {
            tenants: module_parameters::tenants_max.value(),
            channels: module_parameters::channels_max.value(),
            pinned_bytes: u64::from(mib) * MIB,
        },
    }
}

/// How many places there are for so many.
fn places(count: u32) -> usize {
    (count as usize).clamp(1, table::PLACES_MAX)
}

/// Fields end in this order: first nobody comes in any more, and last what all the others use.
#[pin_data]
struct Lithos {
    #[pin]
    device: device::Registration,
    summary: summary::Folder,
    following: admission::Following,
    room: Room,
}

/// Room for tenants and channels, for as long as the module is inserted.
struct Room;

impl Room {
    fn new() -> Result<Self> {
        let limits = limits();
        // SAFETY: the module is being inserted, and there is no device yet.
        unsafe {
            charge::init(limits);
            registry::init(places(limits.total.tenants), places(limits.total.channels))?;
        }
        Ok(Self)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // No file is open, so there is nobody left.
        watchdog::stop();
        tenant::synchronize();
        registry::exit();
    }
}

impl kernel::InPlaceModule for Lithos {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            #[cfg(lithos_debug)]
            fault::set(module_parameters::fail_nth.value());
            // What was made goes again if something after it cannot be.
            Ok(try_pin_init!(Self {
                room: Room::new()?,
                // SAFETY: the module is being inserted: once, and there is no device yet.
                following: unsafe {
                    admission::Following::begin(admission_mode(), places(limits().total.tenants))?
                },
                device <- device::Registration::new(),
                summary: summary::Folder::new(),
            }? Error))
        })
    }
}
