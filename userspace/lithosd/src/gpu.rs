// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The GPUs of the machine, as NVML lists them.

use std::fs;
use std::io;
use std::path::Path;

use lithos_policy::Topology;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::board::Board;
use crate::selftest::Verdict;
use crate::status::UnfitStatus;

/// One GPU: what NVML and discovery say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its index in NVML's order.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its UUID, as CUDA gives it.
    pub uuid_bytes: [u8; 16],
    /// Its TPCs.
    pub board: Board,
    /// Whether launches on it may be edited.
    pub verdict: Verdict,
}

/// One GPU that cannot be managed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What NVML says about it.
    pub listed: Listed,
    /// Why it cannot.
    pub why: String,
}

/// One GPU as NVML lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its index in NVML's order.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its UUID, `GPU-...`.
    pub uuid: String,
    /// The version of its VBIOS; empty if NVML does not say.
    pub vbios: String,
    /// Whether it is, or will be, cut into MIG instances.
    pub mig: bool,
}

/// What NVML says about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether its GPUs are simulated, so that nothing beside them is there.
    pub simulated: bool,
    /// The version of the kernel's driver.
    pub driver: String,
    /// The GPUs, at least one.
    pub gpus: Vec<Listed>,
}

/// Why there are no GPUs.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// NVML cannot be loaded or does not work.
    #[error("cannot use NVML (libnvidia-ml.so.1); is the NVIDIA driver installed and loaded?")]
    Nvml(#[from] NvmlError),
    /// There is no GPU.
    #[error("NVML lists no GPU, so there is nothing to share")]
    None,
    /// A UUID is not in its form.
    #[error("GPU {index} has the UUID {uuid:?}, which is not GPU- and 32 hexadecimal digits")]
    Uuid {
        /// The GPU.
        index: u32,
        /// Its UUID.
        uuid: String,
    },
}

impl Gpu {
    /// Combines what NVML and discovery say.
    pub fn new(listed: Listed, board: Board, verdict: Verdict) -> Result<Self, GpuError> {
        let Some(uuid_bytes) = parse_uuid(&listed.uuid) else {
            return Err(GpuError::Uuid {
                index: listed.index,
                uuid: listed.uuid,
            });
        };
        Ok(Self {
            index: listed.index,
            name: listed.name,
            uuid_bytes,
            board,
            verdict,
        })
    }

    pub(crate) fn numbered_topology(&self) -> (u32, Topology) {
        (self.index, self.board.tpcs.clone())
    }
}

impl Unfit {
    /// Its UUID, as CUDA gives it, if it has one.
    pub(crate) fn uuid_bytes(&self) -> Option<[u8; 16]> {
        parse_uuid(&self.listed.uuid)
    }

    pub(crate) fn status(&self) -> UnfitStatus {
        UnfitStatus {
            index: self.listed.index,
            uuid: self.listed.uuid.clone(),
            name: self.listed.name.clone(),
            why: self.why.clone(),
        }
    }
}

impl Machine {
    /// Asks NVML.
    pub fn read() -> Result<Self, GpuError> {
        let nvml = Nvml::builder()
            .lib_path("libnvidia-ml.so.1".as_ref())
            .init()?;
        let mut gpus = Vec::new();
        for index in 0..nvml.device_count()? {
            let device = nvml.device_by_index(index)?;
            gpus.push(Listed {
                index,
                name: device.name()?,
                uuid: device.uuid()?,
                // Not every GPU has MIG, and not every NVML tells of either.
                vbios: device.vbios_version().unwrap_or_default(),
                mig: device
                    .mig_mode()
                    .is_ok_and(|mode| mode.current != 0 || mode.pending != 0),
            });
        }
        if gpus.is_empty() {
            return Err(GpuError::None);
        }
        let told = std::env::var_os("SIMGPU_SOCKET").is_some();
        let driver = nvml.sys_driver_version()?;
        Ok(Self {
            simulated: told || driver.contains("simgpu"),
            driver,
            gpus,
        })
    }

    /// Makes GPUs up from the boards that a state directory keeps, for tests without a driver.
    pub fn of_boards(state_dir: &Path) -> io::Result<Self> {
        let mut uuids = Vec::new();
        for entry in fs::read_dir(Board::folder(state_dir))? {
            let name = entry?.file_name();
            let uuid = name.to_str().and_then(|name| name.strip_suffix(".json"));
            uuids.extend(uuid.map(str::to_owned));
        }
        uuids.sort();
        let listed = (0..).zip(uuids).map(|(index, uuid)| Listed {
            index,
            name: "a board without a driver".into(),
            uuid,
            vbios: String::new(),
            mig: false,
        });
        Ok(Self {
            simulated: true,
            driver: "none".into(),
            gpus: listed.collect(),
        })
    }
}

/// Takes the 16 bytes out of `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text
        .strip_prefix("GPU-")?
        .chars()
        .filter(|&c| c != '-')
        .collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// Writes 16 bytes as NVML does.
pub(crate) fn format_uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
    format!("GPU-{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_the_same_as_text_and_as_bytes() {
        let text = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        let bytes = parse_uuid(text).unwrap();
        assert_eq!((bytes[0], bytes[15]), (0, 0xff));
        assert_eq!(format_uuid(&bytes), text);
        for wrong in [
            "00112233-4455-6677-8899-aabbccddeeff",
            "GPU-0011",
            "MIG-1",
            "GPU-+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }
}
