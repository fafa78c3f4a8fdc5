// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What operators ask of the broker: to change partitions, and to tell about them.
//!
//! A change is made in this order: it is checked, the policy takes it in (and new grants are written),
//! it is kept in the state directory. If it cannot be kept, the policy is given the old partition
//! back, so that what holds now and what holds after a restart never differ.

use lithos_policy::{Event, Hand, Nanos, PartitionSpec, Standing};

use crate::broker::{Broker, Process};
use crate::control::{Failure, FailureKind};
use crate::estate::{Estate, LeftPartition};
use crate::partition::{ClassWord, EntryError, PartitionChange, PartitionEntry};
use crate::status::OriginStatus;
use crate::store::Store;

/// The partitions that there are, and the store that keeps those that were changed.
#[derive(Debug)]
pub struct Partitions {
    store: Store,
    configured: Vec<PartitionEntry>,
    known: Vec<Known>,
}

#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) entry: PartitionEntry,
    pub(crate) origin: Origin,
    /// What an operator has ordered about its chains. It ends with the daemon.
    pub(crate) hand: Hand,
}

impl Known {
    /// What says whether chains of its channels are to be held.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            class: self.entry.class.into(),
            borrows: self.entry.borrow,
            min_share: self.entry.min_share,
            hand: self.hand,
        }
    }
}

/// Where a partition comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Configuration,
    Command,
    Run {
        owner: Process,
        ended: bool,
    },
    /// The daemon before had it, with tenants, and nobody names it any more: it goes with them.
    Left,
}

impl Partitions {
    /// The partitions of a configuration and a store; the policy does not know them yet.
    pub fn new(configured: Vec<PartitionEntry>, store: Store) -> Self {
        Self {
            store,
            configured,
            known: Vec::new(),
        }
    }

    /// Returns the partition of a name.
    pub(crate) fn find(&self, name: &str) -> Option<&PartitionEntry> {
        self.known(name).map(|known| &known.entry)
    }

    pub(crate) fn known(&self, name: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.entry.name == name)
    }

    /// Returns the names in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.known
            .iter()
            .map(|known| known.entry.name.clone())
            .collect()
    }

    fn put(&mut self, entry: PartitionEntry, origin: Origin) {
        let hand = self.known(&entry.name).map(|known| known.hand);
        self.remove(&entry.name);
        self.known.push(Known {
            entry,
            origin,
            hand: hand.unwrap_or_default(),
        });
        self.known.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    }

    fn remove(&mut self, name: &str) {
        self.known.retain(|known| known.entry.name != name);
    }
}

impl From<Origin> for OriginStatus {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Configuration => Self::Configuration,
            Origin::Command => Self::Command,
            Origin::Run { owner, .. } => Self::Run { pid: owner.pid },
            Origin::Left => Self::Left,
        }
    }
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Self {
        Self::new(FailureKind::Invalid, error)
    }
}

impl Broker {
    /// Gives the policy the partitions of the daemon before that neither configuration nor store names.
    /// They come first, because their tenants run.
    pub(crate) fn inherit_partitions(&mut self, estate: &Estate, now: Nanos) {
        let named = self.partitions.store.combine(&self.partitions.configured);
        for LeftPartition { entry, owner } in &estate.partitions {
            let name = &entry.name;
            if named.iter().any(|entry| entry.name == *name) {
                continue;
            }
            let told = self
                .spec(entry)
                .and_then(|spec| self.tell_policy(spec, now));
            if let Err(why) = told {
                let problem = format!("partition {name}, which has tenants, is left out: {why}");
                self.problems.push(problem);
                continue;
            }
            let origin = match *owner {
                Some(owner) => Origin::Run {
                    owner,
                    ended: false,
                },
                None => {
                    self.problems.push(format!(
                        "partition {name} is not configured any more; it goes when its tenants have"
                    ));
                    Origin::Left
                }
            };
            self.partitions.put(entry.clone(), origin);
        }
    }

    /// Returns the partitions that tenants need, for the next daemon.
    pub(crate) fn left_partitions(&self) -> Vec<LeftPartition> {
        let needed = self.partitions.known.iter().filter_map(|known| {
            let owner = match known.origin {
                Origin::Run { owner, .. } => Some(owner),
                Origin::Configuration | Origin::Command | Origin::Left => None,
            };
            let mut tenants = self.tenants.values();
            let has_tenants = tenants.any(|tenant| tenant.partition == known.entry.name);
            (owner.is_some() || has_tenants).then(|| LeftPartition {
                entry: known.entry.clone(),
                owner,
            })
        });
        needed.collect()
    }

    /// Returns the processes that partitions were made for and that have not ended.
    pub(crate) fn run_owners(&self) -> Vec<(String, Process)> {
        let owner = |known: &Known| match known.origin {
            Origin::Run {
                owner,
                ended: false,
            } => Some((known.entry.name.clone(), owner)),
            _ => None,
        };
        self.partitions.known.iter().filter_map(owner).collect()
    }

    /// Gives the policy the partitions of configuration and store.
    pub(crate) fn load_partitions(&mut self, now: Nanos) {
        let entries = self.partitions.store.combine(&self.partitions.configured);
        for entry in entries {
            let configured = self.partitions.configured.contains(&entry);
            let name = entry.name.clone();
            let outcome = self
                .spec(&entry)
                .and_then(|spec| self.tell_policy(spec, now));
            match outcome {
                Ok(()) if configured => self.partitions.put(entry, Origin::Configuration),
                Ok(()) => self.partitions.put(entry, Origin::Command),
                Err(why) => {
                    let place = if configured {
                        "configuration"
                    } else {
                        "state directory"
                    };
                    let problem = format!("partition {name} of the {place} is left out: {why}");
                    self.problems.push(problem);
                }
            }
        }
    }

    /// Creates a partition.
    pub fn create_partition(&mut self, entry: PartitionEntry, now: Nanos) -> Result<(), Failure> {
        let spec = self.spec(&entry)?;
        if self.partitions.find(&entry.name).is_some() {
            let name = &entry.name;
            let text = format!(
                "there is a partition {name} already; change it with: \
                lithos partition set {name}"
            );
            return Err(Failure::new(FailureKind::Exists, text));
        }
        self.tell_policy(spec, now)?;
        if let Err(error) = self.partitions.store.set(entry.clone()) {
            self.untell_policy(&entry.name, None, now);
            return Err(failed(&error));
        }
        tracing::info!(partition = entry.name, "partition created");
        self.partitions.put(entry, Origin::Command);
        Ok(())
    }

    /// Changes a partition.
    pub fn change_partition(
        &mut self,
        name: &str,
        change: &PartitionChange,
        now: Nanos,
    ) -> Result<(), Failure> {
        let Known {
            entry: old, origin, ..
        } = self.existing(name)?;
        let entry = old.changed(change);
        let spec = self.spec(&entry)?;
        self.tell_policy(spec, now)?;
        let origin = match origin {
            Origin::Run { .. } | Origin::Left => origin,
            Origin::Configuration | Origin::Command => {
                if let Err(error) = self.partitions.store.set(entry.clone()) {
                    self.untell_policy(name, Some(&old), now);
                    return Err(failed(&error));
                }
                Origin::Command
            }
        };
        tracing::info!(partition = name, "partition changed");
        self.partitions.put(entry, origin);
        self.keep_estate();
        self.refresh_fail_static(name);
        Ok(())
    }

    /// Has the chains of a partition be held, squeezed, or neither.
    pub fn order(&mut self, name: &str, hand: Hand) -> Result<(), Failure> {
        let entry = self.existing(name)?.entry;
        if entry.atom_us() == 0 && hand != Hand::Released {
            let text = format!(
                "launches of partition {name} are not split into atoms, so there is nothing to hold them \
                 by; have them be, in its next launches, with: lithos partition set {name} --atom-us 200"
            );
            return Err(Failure::new(FailureKind::Refused, text));
        }
        let known = &mut self.partitions.known;
        if let Some(known) = known.iter_mut().find(|known| known.entry.name == name) {
            known.hand = hand;
        }
        tracing::info!(partition = name, ?hand, "ordered");
        self.refresh_fail_static(name);
        Ok(())
    }

    /// Deletes a partition.
    pub fn delete_partition(&mut self, name: &str, now: Nanos) -> Result<(), Failure> {
        let Known { entry, origin, .. } = self.existing(name)?;
        let event = Event::PartitionDeleted(entry.checked_name()?);
        self.step(now, event)
            .map_err(|why| Failure::new(FailureKind::Refused, why))?;
        if !matches!(origin, Origin::Run { .. } | Origin::Left)
            && let Err(error) = self.partitions.store.delete(name)
        {
            self.untell_policy(name, Some(&entry), now);
            return Err(failed(&error));
        }
        if let Ok(name) = entry.checked_name() {
            self.gates.forget(&name);
        }
        tracing::info!(partition = name, "partition deleted");
        self.partitions.remove(name);
        self.keep_estate();
        Ok(())
    }

    /// Makes a partition for a process, and returns its name.
    pub fn create_run_partition(
        &mut self,
        owner: Process,
        tpcs: u32,
        class: ClassWord,
        enforce: bool,
        now: Nanos,
    ) -> Result<String, Failure> {
        if tpcs == 0 {
            let text = "tpcs = 0: ask for at least 1, or join a partition that exists";
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        let pid = owner.pid;
        let names = (1..).map(|n| match n {
            1 => format!("run-{pid}"),
            _ => format!("run-{pid}-{n}"),
        });
        let mut free = names.filter(|name| self.partitions.find(name).is_none());
        let name = free.next().unwrap_or_default();
        drop(free);
        let entry = PartitionEntry {
            enforce,
            ..PartitionEntry::new(&name, class, tpcs)
        };
        let spec = self.spec(&entry)?;
        self.tell_policy(spec, now)?;
        tracing::info!(
            partition = name,
            pid,
            tpcs,
            "partition created for a process"
        );
        self.partitions.put(
            entry,
            Origin::Run {
                owner,
                ended: false,
            },
        );
        self.keep_estate();
        Ok(name)
    }

    /// Takes note that the process that a partition was made for has ended.
    pub fn end_run_owner(&mut self, name: &str, now: Nanos) {
        for known in &mut self.partitions.known {
            if let Origin::Run { ended, .. } = &mut known.origin
                && known.entry.name == name
            {
                *ended = true;
            }
        }
        self.sweep_run_partitions(now);
    }

    /// Deletes the partitions whose process and tenants have all ended.
    pub(crate) fn sweep_run_partitions(&mut self, now: Nanos) {
        let over =
            |known: &Known| matches!(known.origin, Origin::Run { ended: true, .. } | Origin::Left);
        let names = self.partitions.known.iter().filter(|known| over(known));
        let names: Vec<String> = names.map(|known| known.entry.name.clone()).collect();
        for name in names {
            let mut tenants = self.tenants.values();
            if tenants.any(|tenant| tenant.partition == name) {
                continue;
            }
            if let Err(error) = self.delete_partition(&name, now) {
                tracing::error!("cannot delete partition {name} of an ended process: {error}");
            }
        }
    }

    pub(crate) fn existing(&self, name: &str) -> Result<Known, Failure> {
        self.partitions.known(name).cloned().ok_or_else(|| {
            let names = self.partitions.names().join(", ");
            let names = if names.is_empty() { "none" } else { &names };
            let text = format!("there is no partition {name:?}; there is: {names}");
            Failure::new(FailureKind::NotFound, text)
        })
    }

    fn spec(&self, entry: &PartitionEntry) -> Result<PartitionSpec, Failure> {
        let uuids = self.gpus.iter().map(|gpu| gpu.board.uuid.clone());
        Ok(entry.spec(&uuids.collect::<Vec<_>>())?)
    }

    fn tell_policy(&mut self, spec: PartitionSpec, now: Nanos) -> Result<(), Failure> {
        let told = self.step(now, Event::PartitionSet(spec));
        told.map_err(|why| Failure::new(FailureKind::Refused, why))
    }

    /// Gives the policy an earlier state back, which it had taken in before.
    fn untell_policy(&mut self, name: &str, old: Option<&PartitionEntry>, now: Nanos) {
        let undone = match old {
            Some(entry) => self
                .spec(entry)
                .and_then(|spec| self.tell_policy(spec, now)),
            None => match name.parse() {
                Ok(name) => {
                    let undone = self.step(now, Event::PartitionDeleted(name));
                    undone.map_err(|why| Failure::new(FailureKind::Refused, why))
                }
                Err(_) => Ok(()),
            },
        };
        if let Err(error) = undone {
            self.problems
                .push(format!("partition {name} could not be put back: {error}"));
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}"));
    let text = format!("nothing was changed: {error}{}", cause.unwrap_or_default());
    Failure::new(FailureKind::Failed, text)
}
