// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Partitions that were changed by command, kept over restarts.
//!
//! `<state>/partitions.toml` combines with the configuration like this: a partition that the file
//! holds is as the file says, whatever the configuration says about it; a name that the file lists as
//! deleted is not taken from the configuration; every other partition is as the configuration says, so
//! that editing the configuration still works for what was never touched by command. Creating a
//! deleted partition again takes its name off the list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::write_atomically;
use crate::partition::{EntryError, PartitionEntry};

const HEADER: &str = "\
# Written by lithosd when a partition is changed with `lithos partition`. What stands here takes
# precedence over the [[partition]] entries of the configuration; the names in `deleted` are left out.
";

/// The file and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    path: PathBuf,
    partitions: BTreeMap<String, PartitionEntry>,
    deleted: BTreeSet<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not in its form.
    #[error(
        "{path} does not hold partitions; mend it, or move it away to start from the configuration"
    )]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// A partition in it is impossible.
    #[error("{path} holds an impossible partition")]
    Partition {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// It cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    deleted: Vec<String>,
    #[serde(default)]
    partition: Vec<PartitionEntry>,
}

impl Store {
    /// Opens the store of a state directory; a missing file is an empty store.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("partitions.toml");
        let file: File = match fs::read_to_string(&path) {
            Ok(text) => match toml::from_str(&text) {
                Ok(file) => file,
                Err(source) => return Err(StoreError::Toml { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        for entry in &file.partition {
            if let Err(source) = entry.check() {
                return Err(StoreError::Partition { path, source });
            }
        }
        let partitions = file.partition.into_iter();
        Ok(Self {
            path,
            partitions: partitions
                .map(|entry| (entry.name.clone(), entry))
                .collect(),
            deleted: file.deleted.into_iter().collect(),
        })
    }

    /// Combines with the partitions of the configuration.
    pub fn combine(&self, configured: &[PartitionEntry]) -> Vec<PartitionEntry> {
        let untouched = configured.iter().filter(|entry| {
            !self.partitions.contains_key(&entry.name) && !self.deleted.contains(&entry.name)
        });
        untouched.chain(self.partitions.values()).cloned().collect()
    }

    /// Keeps a partition as it was set.
    pub fn set(&mut self, entry: PartitionEntry) -> Result<(), StoreError> {
        let mut next = self.clone();
        next.deleted.remove(&entry.name);
        next.partitions.insert(entry.name.clone(), entry);
        self.replace(next)
    }

    /// Keeps that a partition was deleted.
    pub fn delete(&mut self, name: &str) -> Result<(), StoreError> {
        let mut next = self.clone();
        next.partitions.remove(name);
        next.deleted.insert(name.into());
        self.replace(next)
    }

    /// Writes the next state, and is in it only if that succeeded.
    fn replace(&mut self, next: Self) -> Result<(), StoreError> {
        let file = File {
            deleted: next.deleted.iter().cloned().collect(),
            partition: next.partitions.values().cloned().collect(),
        };
        let failed = |source| StoreError::Write {
            path: self.path.clone(),
            source,
        };
        let text = toml::to_string(&file).map_err(io::Error::other);
        let text = text.map_err(failed)?;
        write_atomically(&self.path, &format!("{HEADER}{text}")).map_err(failed)?;
        *self = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{ClassWord, GpuRef};

    fn entry(name: &str, guarantee: u32) -> PartitionEntry {
        PartitionEntry::new(name, ClassWord::Lc, guarantee)
    }

    fn names(entries: &[PartitionEntry]) -> Vec<(&str, u32)> {
        entries
            .iter()
            .map(|e| (e.name.as_str(), e.guarantee))
            .collect()
    }

    #[test]
    fn what_was_changed_by_command_takes_precedence_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let configured = [entry("a", 1), entry("b", 2), entry("c", 3)];
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.combine(&configured), configured);
        let mut changed = entry("b", 20);
        changed.ceiling = Some(30);
        changed.gpus = Some(vec![GpuRef::Index(1), GpuRef::Uuid("GPU-x".into())]);
        store.set(changed.clone()).unwrap();
        store.set(entry("d", 4)).unwrap();
        store.delete("c").unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert_eq!(again, store);
        let combined = again.combine(&configured);
        assert_eq!(names(&combined), [("a", 1), ("b", 20), ("d", 4)]);
        assert_eq!(combined[1], changed);
    }

    #[test]
    fn a_deleted_partition_stays_deleted_until_it_is_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let configured = [entry("a", 1)];
        let mut store = Store::open(dir.path()).unwrap();
        store.set(entry("a", 5)).unwrap();
        store.delete("a").unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().combine(&configured), []);
        store.set(entry("a", 7)).unwrap();
        let combined = Store::open(dir.path()).unwrap().combine(&configured);
        assert_eq!(names(&combined), [("a", 7)]);
    }

    #[test]
    fn a_write_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("partitions.toml")).unwrap();
        let error = store.set(entry("a", 1)).unwrap_err();
        assert!(error.to_string().contains("partitions.toml"), "{error}");
        assert_eq!(store.combine(&[]), []);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partitions.toml");
        fs::write(&path, "[[partition]]\nname = 1").unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Toml { .. }), "{error}");
        fs::write(
            &path,
            "[[partition]]\nname = \"a\"\nclass = \"lc\"\nceiling = 0",
        )
        .unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Partition { .. }), "{error}");
    }
}
