// SPDX-License-Identifier: GPL-2.0
//! `/sys/kernel/debug/lithos/summary`: who there is, for a person; root may read it.

use kernel::{bindings, ffi::c_void, fmt, seq_file::SeqFile, seq_print};

use crate::{abi::*, admission, registry};

/// What the file says is made when it is read.
struct Summary;

impl Summary {
    fn write(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = registry::info().unwrap_or_default();
        writeln!(
            to,
            "tenants {}, channels {}, pinned {} bytes, GPUs scheduled {}",
            info.tenants, info.channels, info.pinned_bytes, info.schedulers
        )?;
        registry::each_gpu(|uuid, epoch, silence_ns| {
            write!(to, "GPU ")?;
            uuid.iter().try_for_each(|byte| write!(to, "{byte:02x}"))?;
            match silence_ns {
                Some(ns) => writeln!(to, " epoch {epoch}, beat {} ms ago", ns / 1_000_000),
                None => writeln!(to, " epoch {epoch}, nobody schedules"),
            }
        })?;
        let mut id = 0;
        while let Ok(tenant) = registry::next_tenant(id) {
            id = tenant.tenant;
            let lithos_tenant_info {
                pid,
                uid,
                channels,
                cgroup,
                ..
            } = tenant;
            writeln!(
                to,
                "tenant {id:#x}: pid {pid}, uid {uid}, cgroup {cgroup}, channels {channels}"
            )?;
        }
        let mode = match info.admission {
            LITHOS_ADMISSION_OFF => "off",
            LITHOS_ADMISSION_AUDIT => "audit",
            _ => "enforce",
        };
        let driver = if info.flags & LITHOS_INFO_GPU_DRIVER != 0 {
            "seen"
        } else {
            "not seen"
        };
        let missed = admission::missed();
        writeln!(
            to,
            "admission {mode}, NVIDIA driver {driver}, calls not counted {missed}"
        )?;
        let mut pid = 0;
        while let Ok(user) = admission::next_user(pid) {
            pid = user.pid;
            let lithos_gpu_user {
                channels,
                groups,
                doorbells,
                refused,
                ..
            } = user;
            writeln!(
                to,
                "pid {pid}: GPU channels {channels}, groups {groups}, doorbells {doorbells}, refused {refused}"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(to)
    }
}

// glue.c: a file of `kernel::debugfs` does not keep the module while it is open.
extern "C" {
    fn lithos_summary_add() -> *mut c_void;
    fn lithos_summary_remove(folder: *mut c_void);
}

/// # Safety
///
/// `to` is valid for this call.
#[no_mangle]
unsafe extern "C" fn lithos_summary(to: *mut bindings::seq_file) {
    // SAFETY: the caller's.
    let to = unsafe { SeqFile::from_raw(to) };
    seq_print!(to, "{}", Summary);
}

/// The folder with its file, while they are there.
pub(crate) struct Folder(*mut c_void);

// SAFETY: it is only given back, by whatever thread.
unsafe impl Send for Folder {}
// SAFETY: nothing is reachable through it.
unsafe impl Sync for Folder {}

impl Folder {
    /// Makes them; without debugfs there are none.
    pub(crate) fn new() -> Self {
        // SAFETY: it may sleep, as may this.
        Self(unsafe { lithos_summary_add() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: what `new` made, or the error that it got, which is looked at there.
        unsafe { lithos_summary_remove(self.0) };
    }
}
