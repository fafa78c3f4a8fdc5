// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Kernel modules, inserted and removed.

use std::ffi::CString;
use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use crate::wait_until;

/// Where `scripts/vm` puts the module.
pub const LITHOS: &str = "/modules/lithos.ko";

/// A module that is inserted; removed when it is dropped.
#[derive(Debug)]
pub struct Module {
    name: CString,
    is_inserted: bool,
}

impl Module {
    /// Inserts lithos.ko with parameters as on insmod's command line. A scheduler may be silent for longer
    /// than elsewhere, on a machine as slow as this, unless they say something else.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn lithos(parameters: &str) -> Self {
        // A parameter may be given once.
        let patience = if parameters.contains("silence_ms=") {
            ""
        } else {
            "silence_ms=2000 "
        };
        Self::insert(LITHOS, &format!("{patience}{parameters}")).expect("lithos.ko can be inserted")
    }

    /// Inserts a module.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn insert(path: impl AsRef<Path>, parameters: &str) -> nix::Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parameters = CString::new(parameters).expect("parameters without NUL");
        finit_module(&file, &parameters, ModuleInitFlags::empty())?;
        let name = path.file_stem().expect("a file").to_string_lossy();
        Ok(Self {
            name: CString::new(name.replace('-', "_")).expect("a name without NUL"),
            is_inserted: true,
        })
    }

    /// Removes it, if nobody uses it.
    pub fn remove(&mut self) -> nix::Result<()> {
        delete_module(&self.name, DeleteModuleFlags::O_NONBLOCK)?;
        self.is_inserted = false;
        Ok(())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if !self.is_inserted {
            return;
        }
        if std::thread::panicking() {
            // What the test left open closes with it.
            let _ = self.remove();
            return;
        }
        // A file is closed a moment after the process that had it has been waited for.
        let name = self.name.clone();
        wait_until(&format!("{name:?} can be removed"), || {
            match self.remove() {
                Ok(()) => true,
                Err(Errno::EAGAIN) => false,
                Err(error) => panic!("{name:?} cannot be removed: {error}"),
            }
        });
    }
}
