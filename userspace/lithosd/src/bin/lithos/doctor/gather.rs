// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What there is to see, as plain data. Nothing is judged here, and nothing is changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lithosd::config::{Config, MpsEnable};
use lithosd::control::{Reply, Request};
use lithosd::file::is_ours_alone;
use lithosd::status::Status;
use nix::unistd::{Group, User, geteuid, getgroups};
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use crate::client::Client;
use crate::mps::{Mps, Server};
use crate::run;

/// The variable that says whether firmware checks signatures, under a well-known id.
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Bytes of attributes before an EFI variable's value.
const EFI_ATTRIBUTES: usize = 4;
/// The kernel keeps the first 15 bytes of the name of MPS's processes.
const MPS_COMM: &str = "nvidia-cuda-mps";

/// What was seen. An error says why something was not.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) driver: Result<Driver, String>,
    pub(super) daemon: Result<Status, String>,
    pub(super) mps: MpsFound,
    pub(super) injection: Injection,
    pub(super) shim: Result<Place, String>,
    pub(super) uid: u32,
    pub(super) permission: Permission,
    pub(super) group: String,
    pub(super) state_directory: Result<Place, String>,
    pub(super) module_loaded: bool,
    pub(super) secure_boot: SecureBoot,
}

/// What NVML says.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) version: String,
    pub(super) is_simulated: bool,
    pub(super) gpus: Vec<GpuFound>,
}

/// A GPU.
#[derive(Debug)]
pub(super) struct GpuFound {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) uuid: String,
    /// The major number of its compute capability.
    pub(super) generation: Option<i32>,
    pub(super) mig: Option<bool>,
    pub(super) processes: Result<Vec<Process>, String>,
}

/// A process that uses a GPU.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) name: String,
    pub(super) is_mps_server: bool,
    pub(super) is_mps_client: bool,
}

/// MPS.
#[derive(Debug)]
pub(super) struct MpsFound {
    /// As configured; `None` without a daemon.
    pub(super) enable: Option<MpsEnable>,
    pub(super) unsuitable: Option<String>,
    pub(super) pid: Option<i32>,
    pub(super) pipe_directory: String,
    pub(super) servers: Result<Vec<Server>, String>,
}

/// What `CUDA_INJECTION64_PATH` names.
#[derive(Debug)]
pub(super) enum Injection {
    Free,
    Shim,
    Taken(String),
}

/// A file or folder.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: String,
    /// Whether others than root and this user can write it.
    pub(super) others_write: bool,
}

/// What this user may do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Permission {
    Root,
    Member,
    /// A member since after this login.
    NextLogin,
    NoMember,
    NoGroup,
}

/// What the firmware says about signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecureBoot {
    On,
    Off,
    NoEfi,
    Unreadable,
}

/// Looks at everything.
pub(super) fn gather(socket: &Path) -> Findings {
    let daemon = status(socket);
    let defaults = Config::default();
    let (group, state_directory) = match &daemon {
        Ok(status) => (
            status.daemon.group.clone(),
            status.daemon.state_directory.clone(),
        ),
        Err(_) => (
            defaults.group,
            defaults.state_directory.display().to_string(),
        ),
    };
    let shim = run::find_shim();
    let injection = match std::env::var_os(run::INJECTION) {
        Some(found) if found.is_empty() => Injection::Free,
        Some(found) if shim.as_ref().is_ok_and(|shim| *shim == *found) => Injection::Shim,
        Some(found) => Injection::Taken(found.to_string_lossy().into_owned()),
        None => Injection::Free,
    };
    Findings {
        driver: driver(),
        mps: mps(socket, daemon.as_ref().ok()),
        daemon,
        injection,
        shim: shim
            .map_err(|error| format!("{error:#}"))
            .and_then(|shim| place(&shim)),
        uid: geteuid().as_raw(),
        permission: permission(&group),
        group,
        state_directory: place(Path::new(&state_directory)),
        module_loaded: Path::new("/sys/module/lithos").exists(),
        secure_boot: secure_boot(
            &fs::read(SECURE_BOOT),
            Path::new("/sys/firmware/efi").exists(),
        ),
    }
}

fn status(socket: &Path) -> Result<Status, String> {
    let asked = Client::connect(socket).and_then(|mut client| client.ask(&Request::Status));
    match asked {
        Ok(Reply::Status(status)) => Ok(*status),
        Ok(other) => Err(format!("it answered something else: {other:?}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn driver() -> Result<Driver, String> {
    let read = || {
        let nvml = Nvml::builder()
            .lib_path("libnvidia-ml.so.1".as_ref())
            .init()?;
        let version = nvml.sys_driver_version()?;
        let mut gpus = Vec::new();
        for index in 0..nvml.device_count()? {
            gpus.push(gpu(index, &nvml.device_by_index(index)?)?);
        }
        Ok(Driver {
            is_simulated: version.contains("simgpu"),
            version,
            gpus,
        })
    };
    read().map_err(|error: nvml_wrapper::error::NvmlError| error.to_string())
}

fn gpu(index: u32, device: &Device<'_>) -> Result<GpuFound, nvml_wrapper::error::NvmlError> {
    let clients = device.mps_running_compute_processes().unwrap_or_default();
    let process = |info: &ProcessInfo| {
        let pid = i32::try_from(info.pid).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = name.trim_end().to_owned();
        let is_mps_server = name == MPS_COMM;
        // NVML may list a client in both lists, or in its own only.
        let is_mps_client = clients.iter().any(|client| client.pid == info.pid);
        Some(Process {
            pid,
            is_mps_server,
            is_mps_client,
            name: if name.is_empty() {
                "of another user or container".into()
            } else {
                name
            },
        })
    };
    let processes = device.running_compute_processes().map(|listed| {
        let pids: Vec<u32> = listed.iter().map(|info| info.pid).collect();
        let more = clients.iter().filter(|client| !pids.contains(&client.pid));
        listed.iter().chain(more).filter_map(process).collect()
    });
    Ok(GpuFound {
        index,
        name: device.name()?,
        uuid: device.uuid()?,
        generation: device
            .cuda_compute_capability()
            .ok()
            .map(|found| found.major),
        mig: (device.mig_mode().ok()).map(|mode| mode.current != 0 || mode.pending != 0),
        processes: processes.map_err(|error| error.to_string()),
    })
}

fn mps(socket: &Path, status: Option<&Status>) -> MpsFound {
    let mps = Mps::find(socket);
    let state = mps.state();
    MpsFound {
        enable: status.map(|status| status.daemon.mps.enable),
        servers: match state.pid {
            Some(_) => mps.servers().map_err(|error| format!("{error:#}")),
            None => Ok(Vec::new()),
        },
        unsuitable: state.unsuitable,
        pid: state.pid,
        pipe_directory: state.pipe_directory.display().to_string(),
    }
}

fn place(path: &Path) -> Result<Place, String> {
    let metadata = fs::metadata(path);
    let metadata =
        metadata.map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
    Ok(Place {
        path: path.display().to_string(),
        others_write: !is_ours_alone(metadata.uid(), metadata.mode()),
    })
}

fn permission(name: &str) -> Permission {
    let uid = geteuid();
    if uid.is_root() {
        return Permission::Root;
    }
    let Ok(Some(group)) = Group::from_name(name) else {
        return Permission::NoGroup;
    };
    let own = getgroups().unwrap_or_default();
    if nix::unistd::getegid() == group.gid || own.contains(&group.gid) {
        return Permission::Member;
    }
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    match user.is_some_and(|user| group.mem.contains(&user)) {
        true => Permission::NextLogin,
        false => Permission::NoMember,
    }
}

fn secure_boot(variable: &io::Result<Vec<u8>>, has_efi: bool) -> SecureBoot {
    match variable {
        Ok(bytes) => match bytes.get(EFI_ATTRIBUTES) {
            Some(0) => SecureBoot::Off,
            Some(_) => SecureBoot::On,
            None => SecureBoot::Unreadable,
        },
        Err(_) if !has_efi => SecureBoot::NoEfi,
        // Firmware without the variable has no Secure Boot.
        Err(error) if error.kind() == io::ErrorKind::NotFound => SecureBoot::Off,
        Err(_) => SecureBoot::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_an_efi_variable_comes_after_its_attributes() {
        let read = |value: u8| secure_boot(&Ok(vec![6, 0, 0, 0, value]), true);
        assert_eq!((read(0), read(1)), (SecureBoot::Off, SecureBoot::On));
        assert_eq!(secure_boot(&Ok(vec![6, 0]), true), SecureBoot::Unreadable);
        let error = |kind: io::ErrorKind| Err(kind.into());
        let missing = error(io::ErrorKind::NotFound);
        assert_eq!(secure_boot(&missing, false), SecureBoot::NoEfi);
        assert_eq!(secure_boot(&missing, true), SecureBoot::Off);
        let denied = error(io::ErrorKind::PermissionDenied);
        assert_eq!(secure_boot(&denied, true), SecureBoot::Unreadable);
    }
}
