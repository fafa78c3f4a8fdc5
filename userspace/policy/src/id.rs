// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names of things, and time. Ids are chosen by the caller, who never uses one again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time or a span of it, in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A whole number of seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// This point in time moved on by a span; the end of time is not passed.
    pub const fn after(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A GPU.
    GpuId(u32)
}
id! {
    /// A tenant: one process that has attached to a partition.
    TenantId(u64)
}
id! {
    /// A channel: one CUDA context of a tenant, on one GPU.
    ChannelId(u64)
}
id! {
    /// The number of a grant among those of its channel; the first is 1, later ones are larger.
    Revision(u64)
}
