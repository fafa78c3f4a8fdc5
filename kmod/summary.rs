// SPDX-License-Identifier: GPL-2.0
//! `/sys/kernel/debug/lithos/summary`: who there is, for a person; root may read it.

use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
};

use crate::{abi::*, registry};

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
        Ok(())
    }
}

/// The folder with its file, while they are there.
#[pin_data]
pub(crate) struct Folder {
    #[pin]
    file: File<Summary>,
    dir: Dir,
}

impl Folder {
    pub(crate) fn new() -> impl PinInit<Self> {
        let dir = Dir::new(c"lithos");
        let own = dir.clone();
        pin_init::pin_init_scope(move || {
            Ok::<_, core::convert::Infallible>(pin_init!(Self {
                file <- dir.read_callback_file(c"summary", Summary, &|summary, to| summary.write(to)),
                dir: own,
            }))
        })
    }
}
