// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What an operator says about a partition.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::GpuId;

/// A partition's name: 1 to 63 bytes of `[A-Za-z0-9._-]`, the first of them `[A-Za-z0-9]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionName(String);

/// Why a text is no partition name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It has no byte.
    Empty,
    /// It has more bytes than 63.
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It starts with something other than a letter or a digit.
    First {
        /// What it starts with.
        found: char,
    },
    /// There is something in it that is no letter, digit, dot, underscore or dash.
    Character {
        /// The first such character.
        found: char,
    },
}

/// Who is served first. A property of the partition, inherited by its tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Latency-critical (LC): served before best-effort.
    LatencyCritical,
    /// Best-effort (BE): takes what is left.
    BestEffort,
}

/// What becomes of a launch that needs more co-resident blocks than its grant holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oversize {
    /// It runs on the smallest set of TPCs that holds it.
    #[default]
    Widen,
    /// It is refused.
    Refuse,
}

/// A partition as its operator wants it. It exists on each of its GPUs, with the same numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    /// Its name.
    pub name: PartitionName,
    /// Its class.
    pub class: Class,
    /// How many TPCs it can always have, on each of its GPUs. With 0 it lives from the pool of
    /// TPCs that no guarantee reserves.
    pub guarantee: u32,
    /// How many TPCs it may have at most. Without: the guarantee, or no limit if that is 0.
    pub ceiling: Option<u32>,
    /// Its place within its class; larger is served first.
    pub priority: i32,
    /// How much it gets of what equals divide, as against them; at least 1.
    pub weight: u32,
    /// Whether it may be lent TPCs of others: see `lend.rs`.
    pub borrow: bool,
    /// What becomes of launches that do not fit its TPCs.
    pub oversize: Oversize,
    /// Whether a process that cannot be managed must not run at all.
    pub enforce: bool,
    /// The GPUs that it exists on. Without: all, later ones too.
    pub gpus: Option<BTreeSet<GpuId>>,
}

impl PartitionSpec {
    /// A partition with a guarantee, and the defaults for all else.
    pub fn new(name: PartitionName, class: Class, guarantee: u32) -> Self {
        Self {
            name,
            class,
            guarantee,
            ceiling: None,
            priority: 0,
            weight: 1,
            borrow: false,
            oversize: Oversize::default(),
            enforce: false,
            gpus: None,
        }
    }

    /// How many TPCs it may have at most.
    pub fn ceiling(&self) -> u32 {
        match (self.ceiling, self.guarantee) {
            (Some(ceiling), _) => ceiling,
            (None, 0) => u32::MAX,
            (None, guarantee) => guarantee,
        }
    }

    /// Whether another one may be lent what is this one's: best effort that of latency-critical partitions,
    /// and either what is guaranteed to its like.
    pub fn lends_to(&self, borrower: &Self) -> bool {
        let serves = match (self.class, borrower.class) {
            (Class::LatencyCritical, Class::BestEffort) => true,
            (Class::BestEffort, Class::LatencyCritical) => false,
            _ => self.guarantee > 0,
        };
        borrower.borrow && self.name != borrower.name && serves
    }

    /// Whether it exists on a GPU.
    pub fn is_on(&self, gpu: GpuId) -> bool {
        self.gpus.as_ref().is_none_or(|gpus| gpus.contains(&gpu))
    }
}

impl PartitionName {
    /// The most bytes that a name has.
    pub const MAX_BYTES: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PartitionName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(found) = text.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character { found });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::First { found: first });
        }
        Ok(Self(text))
    }
}

impl FromStr for PartitionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl From<PartitionName> for String {
    fn from(name: PartitionName) -> Self {
        name.0
    }
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a partition's name has at least one character"),
            Self::TooLong { bytes } => {
                let max = PartitionName::MAX_BYTES;
                write!(
                    f,
                    "a partition's name has at most {max} bytes, this has {bytes}"
                )
            }
            Self::First { found } => write!(
                f,
                "a partition's name starts with a letter or a digit, not with {found:?}"
            ),
            Self::Character { found } => write!(
                f,
                "a partition's name consists of letters, digits, '.', '_' and '-'; {found:?} is \
                 none of them"
            ),
        }
    }
}

impl std::error::Error for NameError {}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LatencyCritical => "latency-critical",
            Self::BestEffort => "best-effort",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_letters_digits_and_a_few_signs_are_accepted() {
        for name in ["a", "0", "chat-7b.prod_2", &"x".repeat(63)] {
            assert_eq!(name.parse::<PartitionName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn other_names_are_errors_that_say_what_is_wrong() {
        let error = |name: &str| name.parse::<PartitionName>().unwrap_err();
        assert_eq!(error(""), NameError::Empty);
        assert_eq!(error(&"x".repeat(64)), NameError::TooLong { bytes: 64 });
        assert_eq!(error(".hidden"), NameError::First { found: '.' });
        assert_eq!(error("-flag"), NameError::First { found: '-' });
        assert_eq!(error("a/b"), NameError::Character { found: '/' });
        assert_eq!(error("\u{e9}"), NameError::Character { found: '\u{e9}' });
    }

    #[test]
    fn best_effort_borrows_of_all_and_latency_critical_of_its_like() {
        use Class::{BestEffort as BE, LatencyCritical as LC};
        let spec = |name: &str, class, guarantee| {
            PartitionSpec::new(name.parse().unwrap(), class, guarantee)
        };
        for (lender, borrower, guaranteed, otherwise) in [
            (LC, BE, true, true),
            (LC, LC, true, false),
            (BE, BE, true, false),
            (BE, LC, false, false),
        ] {
            let mut borrower = spec("borrower", borrower, 0);
            let lends =
                |guarantee, to: &PartitionSpec| spec("lender", lender, guarantee).lends_to(to);
            assert!(!lends(1, &borrower), "it does not borrow");
            borrower.borrow = true;
            assert_eq!(lends(1, &borrower), guaranteed);
            assert_eq!(lends(0, &borrower), otherwise);
            assert!(!borrower.lends_to(&borrower));
        }
    }

    #[test]
    fn the_ceiling_is_the_guarantee_unless_there_is_none() {
        let mut spec = PartitionSpec::new("a".parse().unwrap(), Class::BestEffort, 7);
        assert_eq!(spec.ceiling(), 7);
        spec.guarantee = 0;
        assert_eq!(spec.ceiling(), u32::MAX);
        spec.ceiling = Some(9);
        assert_eq!(spec.ceiling(), 9);
    }
}
