// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What `lithos run` tells the shim, in the environment.

use std::ffi::OsString;
use std::path::PathBuf;

use lithos_device::embedded::DEFAULT_SOCKET;
use lithos_device::kernel::DEFAULT_DEVICE;

/// A process that is to be managed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Name of the partition.
    pub(crate) partition: String,
    /// Where the kernel's broker is, if it is.
    pub(crate) device: PathBuf,
    /// Where the embedded broker listens.
    pub(crate) socket: PathBuf,
    /// Whether the process must not run if it cannot be managed. The broker may demand it, too; this
    /// is for the case that it cannot even be reached.
    pub(crate) enforce: bool,
}

/// Reads the configuration; `None` if this process is nobody's tenant.
pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Option<Config> {
    let text = |name| variable(name).filter(|value| !value.is_empty());
    Some(Config {
        partition: text("LITHOS_PARTITION")?.to_string_lossy().into_owned(),
        device: text("LITHOS_DEVICE").map_or_else(|| DEFAULT_DEVICE.into(), PathBuf::from),
        socket: text("LITHOS_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from),
        enforce: text("LITHOS_ENFORCE").is_some_and(|value| value == "1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Option<Config> {
        read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.into())
        })
    }

    #[test]
    fn without_a_partition_there_is_nothing_to_do() {
        assert_eq!(from(&[]), None);
        assert_eq!(
            from(&[("LITHOS_SOCKET", "/x"), ("LITHOS_ENFORCE", "1")]),
            None
        );
        assert_eq!(from(&[("LITHOS_PARTITION", "")]), None);
    }

    #[test]
    fn brokers_and_enforcement_have_defaults() {
        let config = from(&[("LITHOS_PARTITION", "batch")]).expect("a partition");
        assert_eq!(config.partition, "batch");
        assert_eq!(config.device, PathBuf::from(DEFAULT_DEVICE));
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        assert!(!config.enforce);
        let config = from(&[
            ("LITHOS_PARTITION", "batch"),
            ("LITHOS_DEVICE", "/dev/other"),
            ("LITHOS_SOCKET", "/tmp/b.sock"),
            ("LITHOS_ENFORCE", "1"),
        ])
        .expect("a partition");
        assert_eq!(config.device, PathBuf::from("/dev/other"));
        assert_eq!(config.socket, PathBuf::from("/tmp/b.sock"));
        assert!(config.enforce);
    }
}
