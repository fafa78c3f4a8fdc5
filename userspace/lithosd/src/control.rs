// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `lithos` and the daemon say to each other: one JSON request a line, one JSON reply a line, on
//! the `SOCK_STREAM` Unix socket `<run>/lithos.sock`.
//!
//! Anyone may look. Requests that change something need uid 0, or membership of the group that the
//! configuration names; the daemon takes both from the kernel.

use lithos_policy::Hand;
use serde::{Deserialize, Serialize};

use crate::config::AdmissionMode;
use crate::partition::{ClassWord, PartitionChange, PartitionEntry};
use crate::status::{AdmissionStatus, MpsStatus, PartitionStatus, Status};

/// The longest line, with its newline.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// Create a partition.
    PartitionCreate {
        /// As it shall be.
        partition: PartitionEntry,
    },
    /// Change a partition.
    PartitionSet {
        /// Its name.
        name: String,
        /// What shall be different.
        change: PartitionChange,
    },
    /// Delete a partition that has no tenants.
    PartitionDelete {
        /// Its name.
        name: String,
    },
    /// Have the chains of a partition's launches be held, squeezed, or neither.
    Order {
        /// Its name.
        partition: String,
        /// What they shall be.
        hand: Hand,
    },
    /// Tell about the partitions.
    PartitionList,
    /// Tell what a process needs to be a tenant of a partition that exists.
    Join {
        /// Its name.
        partition: String,
        /// Whether a process that cannot be managed must not run, whatever the partition says.
        #[serde(default)]
        enforce: bool,
    },
    /// Make a partition for the process that asks, which goes when that process and its last tenant
    /// have ended; and tell what [`Request::Join`] tells.
    Run {
        /// The guarantee in TPCs.
        tpcs: u32,
        /// The class.
        class: ClassWord,
        /// Whether a process that cannot be managed must not run.
        #[serde(default)]
        enforce: bool,
    },
    /// Tell everything.
    Status,
    /// Tell about MPS.
    Mps,
    /// Set who may have GPU channels.
    AdmissionSet {
        /// From now on.
        mode: AdmissionMode,
        /// GPU channels that a tenant may have where that is enforced, 0: any number; as before if left
        /// out.
        #[serde(default)]
        gpu_channels_per_tenant: Option<u32>,
    },
    /// Let a process, and those that it starts from now on, have GPU channels.
    Admit {
        /// The process.
        pid: u32,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply", content = "value")]
pub enum Reply {
    /// Done; the partition as it is now, or was.
    Partition(PartitionStatus),
    /// The partitions.
    Partitions(Vec<PartitionStatus>),
    /// What a process needs to be a tenant.
    Joined(Joined),
    /// Everything.
    Status(Box<Status>),
    /// MPS.
    Mps(MpsStatus),
    /// Who may have GPU channels, and who has some.
    Admission(AdmissionStatus),
    /// Nothing was done, and why.
    Error(Failure),
}

/// What a process needs to be a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The partition's name.
    pub partition: String,
    /// Its class.
    pub class: ClassWord,
    /// Whether a process that cannot be managed must not run.
    pub enforce: bool,
    /// Where tenants connect.
    pub broker_socket: String,
    /// MPS.
    pub mps: MpsStatus,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of reason.
    pub kind: FailureKind,
    /// What was wrong, and what would be right.
    pub message: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request is none.
    Malformed,
    /// Whoever asks may not do that.
    Denied,
    /// A value is impossible.
    Invalid,
    /// There is none of that name.
    NotFound,
    /// There is one of that name already.
    Exists,
    /// The scheduler cannot do it now.
    Refused,
    /// The daemon failed.
    Failed,
}

impl Failure {
    /// A failure.
    pub fn new(kind: FailureKind, message: impl ToString) -> Self {
        Self {
            kind,
            message: message.to_string(),
        }
    }
}

impl Request {
    /// Returns whether the request changes something.
    pub fn changes(&self) -> bool {
        match self {
            Self::PartitionCreate { .. }
            | Self::PartitionSet { .. }
            | Self::PartitionDelete { .. }
            | Self::Order { .. }
            | Self::Run { .. }
            | Self::AdmissionSet { .. }
            | Self::Admit { .. } => true,
            Self::PartitionList | Self::Join { .. } | Self::Status | Self::Mps => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire_as_one_line() {
        let requests = [
            Request::PartitionCreate {
                partition: PartitionEntry::new("a", ClassWord::Lc, 3),
            },
            Request::PartitionSet {
                name: "a".into(),
                change: PartitionChange {
                    priority: Some(-1),
                    gpus: Some("all".parse().unwrap()),
                    ceiling: Some("none".parse().unwrap()),
                    ..PartitionChange::default()
                },
            },
            Request::Run {
                tpcs: 2,
                class: ClassWord::Be,
                enforce: true,
            },
            Request::Join {
                partition: "a".into(),
                enforce: true,
            },
            Request::AdmissionSet {
                mode: AdmissionMode::Enforce,
                gpu_channels_per_tenant: Some(16),
            },
            Request::Order {
                partition: "a".into(),
                hand: Hand::Held,
            },
            Request::Admit { pid: 7 },
            Request::Status,
        ];
        for request in requests {
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
    }

    #[test]
    fn a_request_is_readable_by_people() {
        let request: Request =
            serde_json::from_str(r#"{"request": "run", "tpcs": 4, "class": "lc"}"#).unwrap();
        let expected = Request::Run {
            tpcs: 4,
            class: ClassWord::Lc,
            enforce: false,
        };
        assert_eq!(request, expected);
        assert!(request.changes());
    }

    #[test]
    fn what_is_no_request_is_an_error_that_says_what_there_is() {
        let error = serde_json::from_str::<Request>(r#"{"request": "stop"}"#).unwrap_err();
        assert!(error.to_string().contains("partition-create"), "{error}");
        let error = serde_json::from_str::<Request>(r#"{"request": "join", "name": "a"}"#);
        assert!(error.is_err());
    }
}
