// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Keeps the daemon's memory from being paged out: whoever schedules must not wait for a disk.

use std::{fs, io};

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// The capability that no limit of locked memory applies to.
const CAP_IPC_LOCK: u32 = 14;

/// Locks what the daemon has and what it will have, each page when it is first touched. Only where there is
/// no limit on that: with one, some later tenant's pages could not be mapped any more.
pub(crate) fn lock() -> io::Result<()> {
    if !is_unlimited() {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    Ok(mlockall(flags)?)
}

fn is_unlimited() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & 1 << CAP_IPC_LOCK != 0)
}
