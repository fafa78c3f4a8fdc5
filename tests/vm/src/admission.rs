// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A scheduler's calls about GPU channels.

use lithos_abi::bindings::*;

use crate::Device;

impl Device {
    /// Sets who may have GPU channels.
    pub fn set_admission(&self, mode: u32, tenant_channels_max: u32) -> nix::Result<()> {
        let mut set = lithos_admission {
            mode,
            tenant_channels_max,
            ..lithos_admission::default()
        };
        self.call(LITHOS_ADMISSION_SET, &mut set)
    }

    /// Admits a process or a cgroup, or no longer.
    pub fn admit(&self, kind: u32, id: u64, admitted: bool) -> nix::Result<()> {
        let mut admit = lithos_admit {
            kind,
            admitted: admitted.into(),
            id,
            reserved: 0,
        };
        self.call(LITHOS_ADMIT, &mut admit)
    }

    /// Returns everybody who has GPU channels, or was refused any.
    pub fn gpu_users(&self) -> Vec<lithos_gpu_user> {
        let mut users = Vec::new();
        let mut next = lithos_gpu_user::default();
        while self.call(LITHOS_GPU_USER_NEXT, &mut next).is_ok() {
            users.push(next);
        }
        users
    }

    /// Returns what there is of one process.
    pub fn gpu_user(&self, pid: i32) -> Option<lithos_gpu_user> {
        self.gpu_users().into_iter().find(|user| user.pid == pid)
    }

    /// Returns how many channels, groups and doorbells a process is said to have.
    pub fn gpu_count(&self, pid: i32) -> [u32; 3] {
        self.gpu_user(pid)
            .map_or([0; 3], |user| [user.channels, user.groups, user.doorbells])
    }

    /// Returns whether the NVIDIA driver's calls are seen.
    ///
    /// # Panics
    ///
    /// If the device does not say.
    pub fn sees_driver(&self) -> bool {
        self.info().expect("info").flags & LITHOS_INFO_GPU_DRIVER != 0
    }
}
