// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a partition has to say for itself when others need TPCs, and what its operator has ordered.

use crate::partition::Class;

/// What an operator has ordered about a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hand {
    /// Nothing.
    #[default]
    Released,
    /// Its chains stop at their next gates, and stay there.
    Held,
    /// Its chains go on, on as few TPCs as can be.
    Squeezed,
}

/// How a partition stands among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its class.
    pub class: Class,
    /// Whether it is lent TPCs of others: see `lend.rs`.
    pub borrows: bool,
    /// The part of the time, in percent, in which it is not held up for others: see `ration.rs`.
    pub min_share: u32,
    /// What an operator has ordered.
    pub hand: Hand,
}
