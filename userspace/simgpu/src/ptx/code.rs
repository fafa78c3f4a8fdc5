// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A kernel's instructions as they are executed.

use super::error::LinkError;

/// A kernel's code.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {}

impl Code {
    /// Fills in the addresses of variables.
    pub(super) fn link(
        &mut self,
        _find: impl Fn(&str) -> Result<u64, LinkError>,
    ) -> Result<(), LinkError> {
        Ok(())
    }
}
