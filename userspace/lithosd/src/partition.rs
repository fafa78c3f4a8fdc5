// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A partition as people write it: in the configuration, in the state directory, in requests.
//!
//! It differs from the policy's [`PartitionSpec`] in how GPUs are named (index or UUID here, a number
//! there) and in what may be left out. Numbers are whole TPCs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use lithos_abi::bindings::LITHOS_TPCS_MAX;
use lithos_policy::{Class, GpuId, Oversize, PartitionName, PartitionSpec};
use serde::{Deserialize, Serialize};

/// How long atoms of best effort are to be, unless its operator says otherwise: none are made, because every
/// launch pays for the look whether to split it, and what is split for each atom.
const BE_ATOM_US: u32 = 0;
/// What an operator may say. A chain costs some microseconds an atom; and under MPS the death of a process
/// harms nobody only if the atom that runs ends within five milliseconds (ARCHITECTURE.md).
const ATOM_US: std::ops::RangeInclusive<u32> = 20..=2000;

/// The part of the time, in percent, that best effort is owed: enough not to starve, and no more than one in
/// a hundred requests of those who are never idle.
const MIN_SHARE: u32 = 1;
/// What it may weigh among equals.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;
/// The bound of what is under way and is not split, in microseconds.
const BOUND_US: u32 = 200;

/// A partition as its operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionEntry {
    /// Its name.
    pub name: String,
    /// `lc` or `be`.
    pub class: ClassWord,
    /// TPCs that it can always have, on each of its GPUs; 0 to live from what no guarantee reserves.
    #[serde(default)]
    pub guarantee: u32,
    /// TPCs that it may have at most; left out: the guarantee, or no limit if that is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<u32>,
    /// Its place within its class; larger is served first.
    #[serde(default)]
    pub priority: i32,
    /// How much it gets of what equals divide, as against them.
    #[serde(default = "weight")]
    pub weight: u32,
    /// How long an atom of a launch that is split is to be, in microseconds; 0: none is. Left out: see
    /// [`PartitionEntry::atom_us`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atom_us: Option<u32>,
    /// Whether it may also use TPCs of other partitions on its GPUs while nobody there is active: best effort
    /// those of latency-critical ones, and either those that are guaranteed to its like. Its launches have to
    /// be split.
    #[serde(default)]
    pub borrow: bool,
    /// The part of each second, in percent, in which it is not held up for latency-critical partitions, even
    /// if these are never idle.
    #[serde(default = "min_share")]
    pub min_share: u32,
    /// If it borrows and is best effort: how much predicted work of launches that are not split it may have under way,
    /// in microseconds. Their launch calls wait for that.
    #[serde(default = "bound_us")]
    pub bound_us: u32,
    /// What becomes of a launch that needs more co-resident blocks than its grant holds.
    #[serde(default)]
    pub oversize: Oversize,
    /// Whether a process that cannot be managed must not run.
    #[serde(default)]
    pub enforce: bool,
    /// Whether its programs are told that a GPU has as many SMs as it is guaranteed.
    #[serde(default)]
    pub report_sms: bool,
    /// Its GPUs, by index or UUID; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<GpuRef>>,
}

/// A class, in the two letters that people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWord {
    /// Latency-critical.
    Lc,
    /// Best-effort.
    Be,
}

/// A GPU, as people name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GpuRef {
    /// Its index in NVML's order.
    Index(u32),
    /// Its UUID, `GPU-...`.
    Uuid(String),
}

/// What `lithos partition set` changes; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionChange {
    /// The class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassWord>,
    /// The guarantee in TPCs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<u32>,
    /// The ceiling in TPCs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// The priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The length of an atom in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub atom_us: Option<u32>,
    /// Whether it may use what latency-critical partitions do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrow: Option<bool>,
    /// The part of the time, in percent, in which it is not held up for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_share: Option<u32>,
    /// The bound of what is under way and is not split, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_us: Option<u32>,
    /// What becomes of oversize launches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oversize: Option<Oversize>,
    /// Whether unmanaged processes must not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// Whether programs are told of as many SMs as it is guaranteed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_sms: Option<bool>,
    /// The GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
}

/// A ceiling to set: a number, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ceiling {
    /// So many TPCs.
    Tpcs(u32),
    /// As if none had been written.
    None(NoneWord),
}

/// The word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoneWord {
    /// `none`.
    None,
}

/// GPUs to set: a list, or the word `all`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gpus {
    /// These.
    List(Vec<GpuRef>),
    /// All, later ones too.
    All(AllWord),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllWord {
    /// `all`.
    All,
}

/// What is impossible about a partition: the key, what was found, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition {name:?}: {key} = {found}: {right}")]
pub struct EntryError {
    /// The partition's name.
    pub name: String,
    /// The key at fault.
    pub key: &'static str,
    /// What it holds.
    pub found: String,
    /// What would be right.
    pub right: String,
}

impl PartitionEntry {
    /// A partition with a guarantee, and the defaults for all else.
    pub fn new(name: &str, class: ClassWord, guarantee: u32) -> Self {
        Self {
            name: name.into(),
            class,
            guarantee,
            ceiling: None,
            priority: 0,
            weight: 1,
            atom_us: None,
            borrow: false,
            min_share: MIN_SHARE,
            bound_us: BOUND_US,
            oversize: Oversize::default(),
            enforce: false,
            report_sms: false,
            gpus: None,
        }
    }

    /// Returns how long an atom of a launch that is split is to be, in microseconds, 0 if none is: what the
    /// entry says, or by its class.
    pub fn atom_us(&self) -> u32 {
        self.atom_us.unwrap_or(match self.class {
            ClassWord::Lc => 0,
            ClassWord::Be => BE_ATOM_US,
        })
    }

    /// Returns the bound of what is under way and is not split, in microseconds; `None` if there is none: who
    /// gives nothing back need not, and nobody who is served first is ever made to wait.
    pub fn bound_us(&self) -> Option<u32> {
        (self.class == ClassWord::Be && self.borrow).then_some(self.bound_us)
    }

    /// Returns the name, if it is one.
    pub fn checked_name(&self) -> Result<PartitionName, EntryError> {
        let name = self.name.parse::<PartitionName>();
        name.map_err(|error| self.error("name", format!("{:?}", self.name), error.to_string()))
    }

    /// Checks all that can be checked without knowing the GPUs.
    pub fn check(&self) -> Result<PartitionName, EntryError> {
        let name = self.checked_name()?;
        if self.guarantee > LITHOS_TPCS_MAX {
            let right = format!("no GPU has more than {LITHOS_TPCS_MAX} TPCs");
            return Err(self.error("guarantee", self.guarantee, right));
        }
        match self.ceiling {
            Some(0) => {
                let right = "nothing could ever run; it must be 1 or more".into();
                return Err(self.error("ceiling", 0, right));
            }
            Some(ceiling) if ceiling < self.guarantee => {
                let right = format!(
                    "the guarantee is {0}; it must be {0} or more",
                    self.guarantee
                );
                return Err(self.error("ceiling", ceiling, right));
            }
            _ => {}
        }
        if let Some(atom_us) = self.atom_us
            && atom_us != 0
            && !ATOM_US.contains(&atom_us)
        {
            let (least, most) = (ATOM_US.start(), ATOM_US.end());
            let right = format!("{least} to {most} microseconds, or 0 to split nothing");
            return Err(self.error("atom_us", atom_us, right));
        }
        if self.borrow && self.atom_us() == 0 {
            let right = "only who has launches split (atom_us) can give TPCs back in time";
            return Err(self.error("borrow", true, right.into()));
        }
        if !WEIGHTS.contains(&self.weight) {
            let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
            return Err(self.error("weight", self.weight, format!("{least} to {most}")));
        }
        if self.min_share > 100 {
            let right = "a part of the time in percent, 0 to 100".into();
            return Err(self.error("min_share", self.min_share, right));
        }
        if !ATOM_US.contains(&self.bound_us) {
            let (least, most) = (ATOM_US.start(), ATOM_US.end());
            let right = format!("{least} to {most} microseconds");
            return Err(self.error("bound_us", self.bound_us, right));
        }
        if self.report_sms && self.guarantee == 0 {
            let right = "only a guarantee is a number that stays true; it is 0";
            return Err(self.error("report_sms", true, right.into()));
        }
        if let Some(gpus) = &self.gpus {
            if gpus.is_empty() {
                let right = "name at least one GPU, or leave the key out for all".into();
                return Err(self.error("gpus", "[]", right));
            }
            let different: BTreeSet<&GpuRef> = gpus.iter().collect();
            if different.len() < gpus.len() {
                let found = list(gpus);
                return Err(self.error("gpus", found, "name each GPU once".into()));
            }
            for gpu in gpus {
                if let GpuRef::Uuid(uuid) = gpu
                    && !uuid.starts_with("GPU-")
                {
                    let right = "a GPU is an index (0, 1, ...) or a UUID (\"GPU-...\")".into();
                    return Err(self.error("gpus", format!("{uuid:?}"), right));
                }
            }
        }
        Ok(name)
    }

    /// Makes the policy's form of it, given the UUIDs of the GPUs in NVML's order.
    pub fn spec(&self, uuids: &[String]) -> Result<PartitionSpec, EntryError> {
        let name = self.check()?;
        let resolve = |gpu: &GpuRef| {
            let index = match gpu {
                GpuRef::Index(index) => Some(*index).filter(|i| (*i as usize) < uuids.len()),
                GpuRef::Uuid(uuid) => {
                    let place = uuids.iter().position(|known| known == uuid);
                    place.and_then(|place| u32::try_from(place).ok())
                }
            };
            index.map(GpuId).ok_or_else(|| {
                let known: Vec<String> = (uuids.iter().enumerate())
                    .map(|(index, uuid)| format!("{index} ({uuid})"))
                    .collect();
                let right = format!("there is no such GPU, only {}", known.join(", "));
                self.error("gpus", gpu, right)
            })
        };
        let gpus = self.gpus.as_ref();
        let gpus = gpus.map(|gpus| gpus.iter().map(resolve).collect::<Result<_, _>>());
        Ok(PartitionSpec {
            name,
            class: self.class.into(),
            guarantee: self.guarantee,
            ceiling: self.ceiling,
            priority: self.priority,
            weight: self.weight,
            borrow: self.borrow,
            oversize: self.oversize,
            enforce: self.enforce,
            gpus: gpus.transpose()?,
        })
    }

    /// Returns the partition with a change made.
    pub fn changed(&self, change: &PartitionChange) -> Self {
        Self {
            name: self.name.clone(),
            class: change.class.unwrap_or(self.class),
            guarantee: change.guarantee.unwrap_or(self.guarantee),
            ceiling: match change.ceiling {
                Some(Ceiling::Tpcs(tpcs)) => Some(tpcs),
                Some(Ceiling::None(_)) => None,
                None => self.ceiling,
            },
            priority: change.priority.unwrap_or(self.priority),
            weight: change.weight.unwrap_or(self.weight),
            atom_us: change.atom_us.or(self.atom_us),
            borrow: change.borrow.unwrap_or(self.borrow),
            min_share: change.min_share.unwrap_or(self.min_share),
            bound_us: change.bound_us.unwrap_or(self.bound_us),
            oversize: change.oversize.unwrap_or(self.oversize),
            enforce: change.enforce.unwrap_or(self.enforce),
            report_sms: change.report_sms.unwrap_or(self.report_sms),
            gpus: match &change.gpus {
                Some(Gpus::List(gpus)) => Some(gpus.clone()),
                Some(Gpus::All(_)) => None,
                None => self.gpus.clone(),
            },
        }
    }

    fn error(&self, key: &'static str, found: impl fmt::Display, right: String) -> EntryError {
        EntryError {
            name: self.name.clone(),
            key,
            found: found.to_string(),
            right,
        }
    }
}

fn weight() -> u32 {
    1
}

fn min_share() -> u32 {
    MIN_SHARE
}

fn bound_us() -> u32 {
    BOUND_US
}

fn list(gpus: &[GpuRef]) -> String {
    let gpus: Vec<String> = gpus.iter().map(GpuRef::to_string).collect();
    format!("[{}]", gpus.join(", "))
}

impl From<ClassWord> for Class {
    fn from(word: ClassWord) -> Self {
        match word {
            ClassWord::Lc => Self::LatencyCritical,
            ClassWord::Be => Self::BestEffort,
        }
    }
}

impl fmt::Display for ClassWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lc => "lc",
            Self::Be => "be",
        })
    }
}

impl FromStr for ClassWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lc" => Ok(Self::Lc),
            "be" => Ok(Self::Be),
            _ => Err("a class is lc (latency-critical) or be (best-effort)".into()),
        }
    }
}

impl fmt::Display for GpuRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => index.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

impl FromStr for GpuRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("GPU-") {
            return Ok(Self::Uuid(text.into()));
        }
        let index = text.parse().map(Self::Index);
        index.map_err(|_| "a GPU is an index (0, 1, ...) or a UUID (GPU-...)".into())
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All(AllWord::All));
        }
        let gpus = text.split(',').map(str::parse).collect::<Result<_, _>>();
        gpus.map(Self::List)
    }
}

impl FromStr for Ceiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None(NoneWord::None));
        }
        let tpcs = text.parse().map(Self::Tpcs);
        tpcs.map_err(|_| "a ceiling is a number of TPCs, or none".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuids() -> Vec<String> {
        vec!["GPU-a".into(), "GPU-b".into()]
    }

    #[test]
    fn gpus_are_found_by_index_and_by_uuid() {
        let mut entry = PartitionEntry::new("chat", ClassWord::Lc, 4);
        assert_eq!(entry.spec(&uuids()).unwrap().gpus, None);
        entry.gpus = Some(vec![GpuRef::Uuid("GPU-b".into()), GpuRef::Index(0)]);
        let spec = entry.spec(&uuids()).unwrap();
        assert_eq!(spec.gpus, Some([GpuId(0), GpuId(1)].into()));
        entry.gpus = Some(vec![GpuRef::Index(2)]);
        let error = entry.spec(&uuids()).unwrap_err().to_string();
        assert!(
            error.contains("gpus = 2") && error.contains("0 (GPU-a), 1 (GPU-b)"),
            "{error}"
        );
    }

    #[test]
    fn impossible_values_are_errors_that_name_key_value_and_remedy() {
        let good = PartitionEntry::new("chat", ClassWord::Be, 4);
        assert!(good.check().is_ok());
        type Spoil = fn(&mut PartitionEntry);
        let cases: [(Spoil, &str, &str); 15] = [
            (|e| e.name = "a b".into(), "name", "letters, digits"),
            (|e| e.guarantee = 129, "guarantee = 129", "more than 128"),
            (|e| e.ceiling = Some(0), "ceiling = 0", "1 or more"),
            (|e| e.ceiling = Some(3), "ceiling = 3", "4 or more"),
            (|e| e.borrow = true, "borrow = true", "atom_us"),
            (|e| e.atom_us = Some(19), "atom_us = 19", "20 to 2000"),
            (|e| e.atom_us = Some(2001), "atom_us = 2001", "0 to split"),
            (|e| e.weight = 0, "weight = 0", "1 to 1000"),
            (|e| e.weight = 1001, "weight = 1001", "1 to 1000"),
            (|e| e.min_share = 101, "min_share = 101", "0 to 100"),
            (|e| e.bound_us = 0, "bound_us = 0", "microseconds"),
            (
                |e| (e.guarantee, e.report_sms) = (0, true),
                "report_sms = true",
                "guarantee",
            ),
            (|e| e.gpus = Some(vec![]), "gpus = []", "at least one"),
            (
                |e| e.gpus = Some(vec![GpuRef::Index(1), GpuRef::Index(1)]),
                "gpus = [1, 1]",
                "once",
            ),
            (
                |e| e.gpus = Some(vec![GpuRef::Uuid("MIG-1".into())]),
                "gpus = \"MIG-1\"",
                "GPU-...",
            ),
        ];
        for (spoil, found, right) in cases {
            let mut entry = good.clone();
            spoil(&mut entry);
            let error = entry.check().unwrap_err().to_string();
            assert!(error.contains(found) && error.contains(right), "{error}");
        }
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let mut entry = PartitionEntry::new("chat", ClassWord::Lc, 4);
        entry.ceiling = Some(8);
        entry.gpus = Some(vec![GpuRef::Index(0)]);
        let change = PartitionChange {
            guarantee: Some(6),
            ..PartitionChange::default()
        };
        let changed = entry.changed(&change);
        assert_eq!((changed.guarantee, changed.ceiling), (6, Some(8)));
        let change: PartitionChange =
            serde_json::from_str(r#"{"ceiling": "none", "gpus": "all"}"#).unwrap();
        let changed = entry.changed(&change);
        assert_eq!((changed.ceiling, changed.gpus), (None, None));
    }

    #[test]
    fn words_of_the_command_line_are_parsed_or_explained() {
        assert_eq!("7".parse(), Ok(Ceiling::Tpcs(7)));
        assert_eq!("none".parse(), Ok(Ceiling::None(NoneWord::None)));
        assert_eq!("all".parse(), Ok(Gpus::All(AllWord::All)));
        let both = vec![GpuRef::Index(0), GpuRef::Uuid("GPU-b".into())];
        assert_eq!("0,GPU-b".parse(), Ok(Gpus::List(both)));
        assert!("x".parse::<Gpus>().unwrap_err().contains("index"));
        assert!(
            "lcc"
                .parse::<ClassWord>()
                .unwrap_err()
                .contains("best-effort")
        );
    }
}
