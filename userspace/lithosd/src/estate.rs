// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The estate: what a daemon leaves to the one after it, so that tenants live on.
//!
//! `<run>/tenants/<pid of the daemon>.json` says who has which channels, and which partition's launches
//! may be running on which TPCs. It is written before any grant that follows from it is published, and
//! only when it changes; so however the daemon ends, nobody has a TPC that is not in it. It survives
//! the daemon and not the machine, as tenants do, so it is not synced to a disk.
//!
//! It bears the daemon's pid because a daemon that was stopped and replaced may wake up in the
//! middle of writing it: what it writes then is a file that nobody reads. The lock file says whose
//! holds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lithos_abi::arena::Counts;
use lithos_policy::{Oversize, TpcSet};
use serde::{Deserialize, Serialize};

use crate::broker::{BrokerKind, Process};
use crate::partition::PartitionEntry;

const VERSION: u32 = 1;

/// All that is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estate {
    pub(crate) version: u32,
    /// Which start of the machine it is about.
    pub(crate) boot: String,
    /// The last id that a channel got.
    pub(crate) last_channel: u64,
    pub(crate) held: Vec<Held>,
    pub(crate) tenants: Vec<LeftTenant>,
    pub(crate) partitions: Vec<LeftPartition>,
}

/// TPCs that launches of a partition may be running on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// UUID of the GPU.
    pub(crate) gpu: String,
    pub(crate) partition: String,
    pub(crate) tpcs: TpcSet,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeftTenant {
    pub(crate) tenant: u64,
    /// Whom it came by.
    #[serde(default)]
    pub(crate) broker: BrokerKind,
    pub(crate) process: Process,
    /// What its launches are made with, as it said when it attached.
    pub(crate) edits: u64,
    pub(crate) driver: Vec<u8>,
    pub(crate) partition: String,
    pub(crate) channels: Vec<LeftChannel>,
}

/// A channel that had a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeftChannel {
    pub(crate) channel: u64,
    /// UUID of the GPU.
    pub(crate) gpu: String,
    pub(crate) context: u64,
    pub(crate) oversize: Oversize,
    pub(crate) cluster_ctas: u32,
    /// The TPCs of others that it may have launched something on.
    #[serde(default)]
    pub(crate) lent: TpcSet,
    #[serde(with = "CountsForm")]
    pub(crate) counts: Counts,
}

/// A partition that has tenants, as it was, whether the configuration still has it or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeftPartition {
    pub(crate) entry: PartitionEntry,
    /// The process that it was made for, if it was.
    pub(crate) owner: Option<Process>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Counts", deny_unknown_fields)]
struct CountsForm {
    stamps: u32,
    gates: u32,
    atoms: u32,
    cluster_atoms: u32,
    tails: u32,
}

/// Why an estate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EstateError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// It is none.
    #[error("{path} does not hold what a daemon leaves")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// It was written by another release.
    #[error("{path} has version {found}, not {VERSION}")]
    Version { path: PathBuf, found: u32 },
}

impl Estate {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            version: VERSION,
            boot: boot(),
            ..Self::default()
        }
    }
}

/// The file of this daemon.
#[derive(Debug)]
pub(crate) struct Will {
    path: PathBuf,
    written: Option<Estate>,
}

impl Will {
    /// The file that a daemon of this pid keeps.
    pub(crate) fn of(run_dir: &Path, pid: u32) -> Self {
        Self {
            path: folder(run_dir).join(format!("{pid}.json")),
            written: None,
        }
    }

    /// Reads what it says; nothing if there is none, or if it is about an earlier start of the machine.
    pub(crate) fn read(&self) -> Result<Option<Estate>, EstateError> {
        let path = || self.path.clone();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(EstateError::Read {
                    path: path(),
                    source,
                });
            }
        };
        let estate: Estate = serde_json::from_str(&text).map_err(|source| EstateError::Json {
            path: path(),
            source,
        })?;
        if estate.version != VERSION {
            let found = estate.version;
            return Err(EstateError::Version {
                path: path(),
                found,
            });
        }
        Ok((estate.boot == boot()).then_some(estate))
    }

    /// Writes it, if it says anything new. Readers find the old text or the new one.
    pub(crate) fn write(&mut self, estate: Estate) -> io::Result<()> {
        if self.written.as_ref() == Some(&estate) {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&estate)?)?;
        fs::rename(&new, &self.path)?;
        self.written = Some(estate);
        Ok(())
    }

    /// Removes the files of all daemons but this one.
    pub(crate) fn remove_others(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path != self.path {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Where the files are. Tenants look at the folder above, so it does not change with these.
pub(crate) fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("tenants")
}

/// Which start of the machine this is; empty where nobody says.
fn boot() -> String {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.unwrap_or_default().trim().to_owned()
    });
    BOOT.clone()
}
