// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who may have GPU channels, which lithos.ko sees to at the NVIDIA driver: seen from whoever administers
//! that. It needs CAP_SYS_ADMIN, and no GPU has to be claimed for it: what is in force stays so when nobody
//! schedules.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;

use lithos_abi::bindings::*;
use nix::errno::Errno;

use crate::ioctl::{self, call};

/// An open `/dev/lithos` that admits.
#[derive(Debug)]
pub struct Admission {
    device: File,
}

/// A process that has GPU channels, or was refused some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuUser {
    /// The process.
    pub pid: i32,
    /// The first 15 bytes of its program's name.
    pub command: String,
    /// Its channels.
    pub channels: u32,
    /// Groups of channels.
    pub groups: u32,
    /// Mappings of doorbells.
    pub doorbells: u32,
    /// Allocations that it was refused.
    pub refused: u64,
    /// The tenant that it is, or 0.
    pub tenant: u64,
    /// It has more than is counted.
    pub is_inexact: bool,
}

impl Admission {
    /// Opens the device.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = ioctl::open(path)?;
        ioctl::info(&device)?;
        Ok(Self { device })
    }

    /// Returns what is done, one of `LITHOS_ADMISSION_*`, and whether the NVIDIA driver is seen.
    pub fn state(&self) -> io::Result<(u32, bool)> {
        let info = ioctl::info(&self.device)?;
        Ok((info.admission, info.flags & LITHOS_INFO_GPU_DRIVER != 0))
    }

    /// Sets what is done, and how many GPU channels a tenant may have where it is enforced (0: any
    /// number). `EOPNOTSUPP`: this NVIDIA driver cannot be looked at.
    pub fn set(&self, mode: u32, tenant_channels_max: u32) -> io::Result<()> {
        let mut set = lithos_admission {
            mode,
            tenant_channels_max,
            ..lithos_admission::default()
        };
        Ok(call(&self.device, LITHOS_ADMISSION_SET, &mut set)?)
    }

    /// Admits a process, for as long as it runs.
    pub fn admit_process(&self, pid: u32) -> io::Result<()> {
        self.admit(LITHOS_ADMIT_PROCESS, pid.into())
    }

    /// Admits whoever is in a cgroup of version 2 or below, for as long as there is that cgroup. Its id is
    /// the inode number of its folder.
    pub fn admit_cgroup(&self, id: u64) -> io::Result<()> {
        self.admit(LITHOS_ADMIT_CGROUP, id)
    }

    fn admit(&self, kind: u32, id: u64) -> io::Result<()> {
        let mut admit = lithos_admit {
            kind,
            admitted: 1,
            id,
            ..lithos_admit::default()
        };
        Ok(call(&self.device, LITHOS_ADMIT, &mut admit)?)
    }

    /// Returns everybody who has GPU channels or was refused any, by their pids.
    pub fn users(&self) -> io::Result<Vec<GpuUser>> {
        let mut users = Vec::new();
        let mut next = lithos_gpu_user::default();
        loop {
            match call(&self.device, LITHOS_GPU_USER_NEXT, &mut next) {
                Ok(()) => users.push(GpuUser::from(&next)),
                Err(Errno::ENOENT) => return Ok(users),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl From<&lithos_gpu_user> for GpuUser {
    fn from(user: &lithos_gpu_user) -> Self {
        let command = user.command.map(i8::cast_unsigned);
        let name = CStr::from_bytes_until_nul(&command).unwrap_or_default();
        Self {
            pid: user.pid,
            command: name.to_string_lossy().into_owned(),
            channels: user.channels,
            groups: user.groups,
            doorbells: user.doorbells,
            refused: user.refused,
            tenant: user.tenant,
            is_inexact: user.flags & LITHOS_GPU_USER_INEXACT != 0,
        }
    }
}
