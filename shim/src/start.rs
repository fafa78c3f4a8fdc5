// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a process becomes a tenant.

use std::sync::OnceLock;

use lithos_descriptor::hopper;
use lithos_device::{BrokerError, ForkMark, Identity};

use crate::attribute;
use crate::contexts::Contexts;
use crate::driver::{Driver, DriverError};
use crate::leave;
use crate::link::Link;
use crate::{api, callbacks, clock, config, priority, report};

/// What a managed process has. Never freed: callbacks may run until the process is gone.
pub(crate) struct Shim {
    pub(crate) driver: Driver,
    pub(crate) contexts: Contexts,
    /// Reads as cleared in a forked child, where all of this is its parent's.
    mark: ForkMark,
}

static SHIM: OnceLock<Shim> = OnceLock::new();

/// Why a process is not managed.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("partition {partition} cannot be joined")]
    Broker {
        partition: String,
        source: BrokerError,
    },
    #[error(
        "there are two CUDA drivers in this process, and LithOS knows the launches of the first only"
    )]
    SecondDriver,
    #[error("no memory for the shim")]
    Memory(#[source] std::io::Error),
}

/// Returns what this process has, if it is managed and not the forked child of one that is.
#[inline]
pub(crate) fn shim() -> Option<&'static Shim> {
    SHIM.get().filter(|shim| shim.mark.is_parent())
}

/// Attaches this process to its partition and subscribes to the driver, if it has a partition.
pub(crate) fn start() {
    let Some(config) = config::read(|name| std::env::var_os(name)) else {
        return;
    };
    if SHIM.get().is_some() {
        // A driver calls once: this is another one.
        return report::unmanaged(&StartError::SecondDriver);
    }
    if config.enforce {
        report::enforce();
    }
    if let Err(error) = try_start(&config) {
        report::unmanaged(&error);
    }
}

fn try_start(config: &config::Config) -> Result<(), StartError> {
    // Looks now at what a launch wants to know, and must not read a file for.
    clock::is_steady();
    let driver = Driver::find()?;
    let mark = ForkMark::new().map_err(StartError::Memory)?;
    let identity = Identity {
        edits: hopper::edits(),
        driver: driver.build_id(),
    };
    let link = attach(config, identity).map_err(|source| StartError::Broker {
        partition: config.partition.clone(),
        source,
    })?;
    let shim = SHIM.get_or_init(|| Shim {
        driver,
        contexts: Contexts::new(link),
        mark,
    });
    // SAFETY: the handler makes system calls and touches atomics only, and this library stays.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    let calls = api::CALLS
        .iter()
        .map(|(id, _, is_needed)| (*id, *is_needed));
    leave::at_exit();
    let subscribed = shim.driver.subscribe(callbacks::on_callback, calls);
    if subscribed.is_err() {
        // Callbacks that were enabled all the same find nobody here, and the tenant ends.
        in_child_or_failed(shim);
    }
    Ok(subscribed?)
}

fn attach(config: &config::Config, identity: Identity) -> Result<Link, BrokerError> {
    let (link, attached) = Link::attach(config, identity)?;
    if attached.enforce {
        report::enforce();
    }
    attribute::set_sms(attached.sms);
    priority::set_least(attached.least);
    Ok(link)
}

/// Runs in a forked child, before anything else of the program's does.
unsafe extern "C" fn in_child() {
    if let Some(shim) = SHIM.get() {
        in_child_or_failed(shim);
    }
}

fn in_child_or_failed(shim: &Shim) {
    shim.mark.clear();
    shim.contexts.close_in_child();
}
