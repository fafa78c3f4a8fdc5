// SPDX-License-Identifier: GPL-2.0
//! Who has how much, and how much one may have.
//!
//! Pure arithmetic; tests/kmod compiles it a second time.

/// What somebody has, or may have at most.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    pub(crate) tenants: u32,
    pub(crate) channels: u32,
    /// Bytes of rings and arenas.
    pub(crate) pinned_bytes: u64,
}

/// What is not there for all who want it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exceeded {
    Tenants,
    Channels,
    Pinned,
}

impl Account {
    /// One tenant.
    pub(crate) const TENANT: Self = Self {
        tenants: 1,
        channels: 0,
        pinned_bytes: 0,
    };

    /// One channel of so many bytes.
    pub(crate) const fn channel(pinned_bytes: u64) -> Self {
        Self {
            tenants: 0,
            channels: 1,
            pinned_bytes,
        }
    }

    /// Adds, if no more comes of it than the limit.
    pub(crate) fn charge(&mut self, more: Self, limit: &Self) -> Result<(), Exceeded> {
        let sum = Self {
            tenants: self.tenants.saturating_add(more.tenants),
            channels: self.channels.saturating_add(more.channels),
            pinned_bytes: self.pinned_bytes.saturating_add(more.pinned_bytes),
        };
        // Only what is asked for: a limit that is below what is there already is nobody's fault.
        if more.tenants > 0 && sum.tenants > limit.tenants {
            return Err(Exceeded::Tenants);
        }
        if more.channels > 0 && sum.channels > limit.channels {
            return Err(Exceeded::Channels);
        }
        if more.pinned_bytes > 0 && sum.pinned_bytes > limit.pinned_bytes {
            return Err(Exceeded::Pinned);
        }
        *self = sum;
        Ok(())
    }

    /// Takes away what was added.
    pub(crate) fn discharge(&mut self, less: Self) {
        self.tenants = self.tenants.saturating_sub(less.tenants);
        self.channels = self.channels.saturating_sub(less.channels);
        self.pinned_bytes = self.pinned_bytes.saturating_sub(less.pinned_bytes);
    }

    /// Returns whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
