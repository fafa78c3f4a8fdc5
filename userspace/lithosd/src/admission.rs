// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Admission: who may have GPU channels beside tenants. lithos.ko counts and refuses; this says what it
//! is to do, and whom to let in.
//!
//! ```text
//!   a tenant                                has what it asks for
//!   lithos run, partition does not enforce  enters a cgroup that is admitted, with all that it starts:
//!                                           it may run unmanaged, so it must be able to
//!   lithos run, partition enforces          is not admitted: it becomes a tenant, or has no GPU
//!   MPS, whatever an operator names         as the first, by `lithos mps start`, `lithos admission admit`
//! ```
//!
//! The cgroup is a new one below that in which the process is, so that whatever limits it had, it has. Where
//! none can be made (no cgroups of version 2), or the one that is there is not the daemon's own, the process
//! alone is admitted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lithos_abi::bindings::*;
use lithos_device::admission::{Admission as Device, GpuUser};
use lithos_device::kernel::DEFAULT_DEVICE;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::config::{AdmissionMode, Config};
use crate::control::{Failure, FailureKind};
use crate::status::{AdmissionStatus, GpuUserStatus};

/// The cgroup that is made below that of a process.
const CGROUP: &str = "lithos";
/// Where cgroups of version 2 are, also beside those of version 1.
const CGROUP_MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// What lithos.ko is told.
#[derive(Debug)]
pub struct Admission {
    device: Device,
    gpu_channels_per_tenant: u32,
    /// Cgroups that were made, and may be empty by now.
    made: BTreeSet<PathBuf>,
}

impl Admission {
    /// Has lithos.ko do what the configuration says, if that says anything. None where there is no
    /// lithos.ko to do it.
    pub(crate) fn begin(config: &Config, has_kernel: bool) -> anyhow::Result<Option<Self>> {
        let config = &config.admission;
        if !has_kernel {
            if let Some(mode @ (AdmissionMode::Audit | AdmissionMode::Enforce)) = config.mode {
                bail!(
                    "admission.mode is {mode}, and lithosd is the broker itself, which cannot do that: \
                     load lithos.ko, or leave it out"
                );
            }
            return Ok(None);
        }
        let device = Device::open(Path::new(DEFAULT_DEVICE)).context("cannot admit anybody")?;
        let admission = Self {
            device,
            gpu_channels_per_tenant: config.gpu_channels_per_tenant,
            made: BTreeSet::new(),
        };
        if let Some(mode) = config.mode {
            let told = admission.tell(mode);
            told.with_context(|| format!("admission.mode is {mode}"))?;
        }
        Ok(Some(admission))
    }

    /// Does something else, until it is told otherwise or a daemon starts whose configuration says so.
    pub(crate) fn set(
        &mut self,
        mode: AdmissionMode,
        gpu_channels_per_tenant: Option<u32>,
    ) -> Result<(), Failure> {
        let before = self.gpu_channels_per_tenant;
        self.gpu_channels_per_tenant = gpu_channels_per_tenant.unwrap_or(before);
        self.tell(mode).map_err(|error| {
            self.gpu_channels_per_tenant = before;
            Failure::new(FailureKind::Refused, format!("{error:#}"))
        })
    }

    fn tell(&self, mode: AdmissionMode) -> anyhow::Result<()> {
        match self.device.set(mode.into(), self.gpu_channels_per_tenant) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => bail!(
                "lithos.ko cannot look at the NVIDIA driver that is loaded, which has no rm_ioctl: who has \
                 GPU channels can neither be counted nor enforced"
            ),
            told => Ok(told?),
        }
    }

    /// Lets a process have GPU channels, with all that it starts, if they are not everybody's.
    pub(crate) fn welcome(&mut self, pid: i32) -> io::Result<()> {
        let (mode, _) = self.device.state()?;
        if mode != LITHOS_ADMISSION_ENFORCE {
            return Ok(());
        }
        self.admit(pid)
    }

    /// The same, whether or not they are everybody's now.
    pub(crate) fn admit(&mut self, pid: i32) -> io::Result<()> {
        self.made.retain(|folder| fs::remove_dir(folder).is_err());
        let entered = enter_cgroup(pid).and_then(|(folder, id)| {
            self.device.admit_cgroup(id)?;
            Ok(folder)
        });
        match entered {
            Ok(folder) => {
                tracing::info!(pid, cgroup = %folder.display(), "process admitted");
                self.made.insert(folder);
                Ok(())
            }
            Err(error) => {
                let number = u32::try_from(pid).map_err(io::Error::other)?;
                self.device.admit_process(number)?;
                tracing::info!(
                    pid,
                    "process admitted without those that it starts: {error}"
                );
                Ok(())
            }
        }
    }

    /// Returns how it stands.
    pub(crate) fn status(&self) -> io::Result<AdmissionStatus> {
        let (mode, sees_driver) = self.device.state()?;
        Ok(AdmissionStatus {
            mode: AdmissionMode::from_abi(mode),
            sees_driver,
            gpu_channels_per_tenant: self.gpu_channels_per_tenant,
            users: self.device.users()?.into_iter().map(user_status).collect(),
        })
    }
}

impl AdmissionMode {
    fn from_abi(mode: u32) -> Self {
        match mode {
            LITHOS_ADMISSION_ENFORCE => Self::Enforce,
            LITHOS_ADMISSION_AUDIT => Self::Audit,
            _ => Self::Off,
        }
    }
}

impl From<AdmissionMode> for u32 {
    fn from(mode: AdmissionMode) -> Self {
        match mode {
            AdmissionMode::Off => LITHOS_ADMISSION_OFF,
            AdmissionMode::Audit => LITHOS_ADMISSION_AUDIT,
            AdmissionMode::Enforce => LITHOS_ADMISSION_ENFORCE,
        }
    }
}

fn user_status(user: GpuUser) -> GpuUserStatus {
    GpuUserStatus {
        pid: user.pid,
        // A process names itself as it likes, and people read this on a terminal.
        command: user.command.replace(char::is_control, "?"),
        channels: user.channels,
        groups: user.groups,
        doorbells: user.doorbells,
        refused: user.refused,
        tenant: (user.tenant != 0).then_some(user.tenant),
        inexact: user.is_inexact,
    }
}

/// Lets this process itself have GPU channels where they are not everybody's: one of the daemon's that
/// learns or proves something, before there is any tenant.
pub fn admit_this_process() -> io::Result<()> {
    let device = match Device::open(Path::new(DEFAULT_DEVICE)) {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match device.state()? {
        (LITHOS_ADMISSION_ENFORCE, _) => device.admit_process(std::process::id()),
        _ => Ok(()),
    }
}

/// Moves a process into [`CGROUP`] below the cgroup in which it is, and returns its folder and its id.
fn enter_cgroup(pid: i32) -> io::Result<(PathBuf, u64)> {
    let is_version_2 =
        |mount: &str| statfs(mount).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let mount = CGROUP_MOUNTS.into_iter().find(|mount| is_version_2(mount));
    let mount = mount.ok_or_else(|| io::Error::other("there are no cgroups of version 2"))?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let folder = inner_folder(Path::new(mount), &cgroups)
        .ok_or_else(|| io::Error::other("it is in no cgroup of version 2"))?;
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::metadata(&folder)?;
    // Whoever owns it says who is in it. In a cgroup that is a user's, that may have been made beforehand.
    if found.uid() != geteuid().as_raw() {
        let folder = folder.display();
        return Err(io::Error::other(format!("{folder} is another user's")));
    }
    fs::write(folder.join("cgroup.procs"), pid.to_string())?;
    Ok((folder, found.ino()))
}

/// Returns the folder for a process whose `/proc/PID/cgroup` this is.
fn inner_folder(mount: &Path, cgroups: &str) -> Option<PathBuf> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // As seen from outside of a namespace: its way there is not known.
    if own.starts_with("..") {
        return None;
    }
    let folder = mount.join(own);
    match folder.file_name().is_some_and(|name| name == CGROUP) {
        true => Some(folder),
        false => Some(folder.join(CGROUP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_enters_a_cgroup_below_its_own_and_once_only() {
        let folder = |cgroups| inner_folder(Path::new("/mount"), cgroups);
        let expected = Some(PathBuf::from("/mount/user.slice/session-1.scope/lithos"));
        assert_eq!(folder("0::/user.slice/session-1.scope\n"), expected);
        assert_eq!(folder("0::/user.slice/session-1.scope/lithos\n"), expected);
        assert_eq!(folder("12:cpu:/a\n0::/\n"), Some("/mount/lithos".into()));
        assert_eq!(folder("1:name=systemd:/a\n"), None);
        assert_eq!(folder("0::/../other\n"), None);
    }

    #[test]
    fn every_mode_is_the_kernels() {
        for mode in [
            AdmissionMode::Off,
            AdmissionMode::Audit,
            AdmissionMode::Enforce,
        ] {
            assert_eq!(AdmissionMode::from_abi(mode.into()), mode);
        }
    }

    #[test]
    fn what_needs_the_kernel_is_refused_without_it() {
        let begun = |text: &str| Admission::begin(&Config::parse(text).expect("right"), false);
        assert!(begun("").expect("nothing is asked for").is_none());
        assert!(
            begun("[admission]\nmode = \"off\"")
                .expect("as it is")
                .is_none()
        );
        for mode in ["audit", "enforce"] {
            let error = begun(&format!("[admission]\nmode = \"{mode}\"")).expect_err(mode);
            assert!(error.to_string().contains(mode), "{error}");
            assert!(error.to_string().contains("load lithos.ko"), "{error}");
        }
    }
}
