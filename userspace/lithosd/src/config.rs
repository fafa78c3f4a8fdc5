// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's configuration: one TOML file, turned once into a checked value.
//!
//! Whatever can be wrong about the file is found here, before anything starts; an error names the
//! key, what was found and what would be right. Keys that are left out have the values of
//! [`Config::default`], which `lithosd.toml` beside this crate shows with explanations.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lithos_abi::arena::Counts;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::partition::{EntryError, PartitionEntry};

/// Where the configuration is looked for if no path is given.
pub const DEFAULT_PATH: &str = "/etc/lithos/lithosd.toml";
/// Where the daemon's sockets are if nothing else is said.
pub const DEFAULT_RUNTIME_DIRECTORY: &str = "/run/lithos";

const UNIX_PATH_BYTES_MAX: usize = 107;

/// What the daemon was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sockets, lock and MPS directories.
    pub runtime_directory: PathBuf,
    /// Topologies and changed partitions.
    pub state_directory: PathBuf,
    /// What is logged, in tracing's filter language.
    pub log: String,
    /// The group whose members may change things.
    pub group: String,
    /// Who is to hand out channels.
    pub broker: BrokerChoice,
    /// Tenants at a time.
    pub tenants_max: usize,
    /// Channels of one tenant at a time.
    pub tenant_channels_max: usize,
    /// How long launches of a process that has died may still be running.
    pub linger: Duration,
    /// How long a tenant waits for its first grant before it is refused.
    pub grant_wait: Duration,
    /// Launch records in a ring, and stamps in an arena; a power of two.
    pub ring_records: u32,
    /// What the other regions of an arena hold.
    pub regions: Counts,
    /// Who may have GPU channels.
    pub admission: AdmissionConfig,
    /// MPS.
    pub mps: MpsConfig,
    /// Partitions.
    pub partitions: Vec<PartitionEntry>,
}

/// Who is to hand out channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerChoice {
    /// The kernel's broker, if lithos.ko is there; else the daemon.
    #[default]
    Auto,
    /// The kernel's broker.
    Kernel,
    /// The daemon.
    Embedded,
}

/// What the kernel's broker does about GPU channels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// None: whatever lithos.ko has been told.
    pub mode: Option<AdmissionMode>,
    /// GPU channels that a tenant may have where that is enforced; 0: any number.
    pub gpu_channels_per_tenant: u32,
}

/// Who may have GPU channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionMode {
    /// Anybody.
    Off,
    /// Anybody, and it is counted and told.
    Audit,
    /// Tenants, and who was admitted.
    Enforce,
}

impl fmt::Display for AdmissionMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Off => "off",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        })
    }
}

/// How MPS is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpsConfig {
    /// Whether `lithos run` sees to it that MPS runs.
    pub enable: MpsEnable,
    /// `CUDA_MPS_PIPE_DIRECTORY`.
    pub pipe_directory: PathBuf,
    /// `CUDA_MPS_LOG_DIRECTORY`.
    pub log_directory: PathBuf,
}

/// Whether MPS is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MpsEnable {
    /// If the GPU is real and MPS is installed and can be started.
    #[default]
    Auto,
    /// Always: what needs it fails without.
    On,
    /// Never.
    Off,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A value is impossible.
    #[error("{key} = {found}: {right}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it holds.
        found: String,
        /// What would be right.
        right: String,
    },
    /// A partition is impossible.
    #[error(transparent)]
    Partition(#[from] EntryError),
}

/// The file's form. Its defaults are those of [`Config`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    runtime_directory: PathBuf,
    state_directory: PathBuf,
    log: String,
    group: String,
    broker: BrokerChoice,
    limits: Limits,
    channel: Channel,
    admission: AdmissionConfig,
    mps: Mps,
    partition: Vec<PartitionEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    tenants: usize,
    channels_per_tenant: usize,
    linger_ms: u64,
    grant_wait_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Channel {
    ring_records: u32,
    gates: u32,
    atoms: u32,
    cluster_atoms: u32,
    tails: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mps {
    enable: MpsEnable,
    pipe_directory: Option<PathBuf>,
    log_directory: Option<PathBuf>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            runtime_directory: DEFAULT_RUNTIME_DIRECTORY.into(),
            state_directory: "/var/lib/lithos".into(),
            log: "info".into(),
            group: "lithos".into(),
            broker: BrokerChoice::default(),
            limits: Limits::default(),
            channel: Channel::default(),
            admission: AdmissionConfig::default(),
            mps: Mps::default(),
            partition: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tenants: 256,
            channels_per_tenant: 16,
            linger_ms: 1_000,
            grant_wait_ms: 10_000,
        }
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            ring_records: 16_384,
            gates: 4_608,
            atoms: 4_096,
            cluster_atoms: 512,
            tails: 1_024,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("").expect("an empty file has the defaults, which are possible")
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)?;
        let File {
            limits,
            channel,
            mps,
            ..
        } = file;
        check_directory("runtime_directory", &file.runtime_directory)?;
        check_directory("state_directory", &file.state_directory)?;
        let socket = broker_socket(&file.runtime_directory);
        if socket.as_os_str().len() > UNIX_PATH_BYTES_MAX {
            let right = format!(
                "a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes, {} has {}",
                socket.display(),
                socket.as_os_str().len()
            );
            return Err(value(
                "runtime_directory",
                file.runtime_directory.display(),
                right,
            ));
        }
        if let Err(error) = EnvFilter::try_new(&file.log) {
            let right = format!("a filter is a level or a list like info,lithosd=debug ({error})");
            return Err(value("log", format!("{:?}", file.log), right));
        }
        if file.group.is_empty() {
            return Err(value(
                "group",
                "\"\"",
                "name a group; it need not exist".into(),
            ));
        }
        within("limits.tenants", limits.tenants, 1, 4_096)?;
        within(
            "limits.channels_per_tenant",
            limits.channels_per_tenant,
            1,
            64,
        )?;
        within("limits.linger_ms", limits.linger_ms, 0, 60_000)?;
        within("limits.grant_wait_ms", limits.grant_wait_ms, 1, 600_000)?;
        within("channel.ring_records", channel.ring_records, 64, 1 << 20)?;
        if !channel.ring_records.is_power_of_two() {
            let right = format!(
                "it must be a power of two, such as {}",
                channel.ring_records.next_power_of_two()
            );
            return Err(value("channel.ring_records", channel.ring_records, right));
        }
        for (key, count) in [
            ("channel.gates", channel.gates),
            ("channel.atoms", channel.atoms),
            ("channel.cluster_atoms", channel.cluster_atoms),
            ("channel.tails", channel.tails),
        ] {
            within(key, count, 1, 1 << 14)?;
        }
        let atoms = channel.atoms + channel.cluster_atoms;
        if channel.gates < atoms {
            let right = format!("there is a gate before each atom, so it must be {atoms} or more");
            return Err(value("channel.gates", channel.gates, right));
        }
        let mps = check_mps(mps, &file.runtime_directory)?;
        for (index, entry) in file.partition.iter().enumerate() {
            entry.check()?;
            if file.partition[..index]
                .iter()
                .any(|other| other.name == entry.name)
            {
                return Err(EntryError {
                    name: entry.name.clone(),
                    key: "name",
                    found: format!("{:?}", entry.name),
                    right: "two partitions have this name; give each its own".into(),
                }
                .into());
            }
        }
        Ok(Self {
            runtime_directory: file.runtime_directory,
            state_directory: file.state_directory,
            log: file.log,
            group: file.group,
            broker: file.broker,
            tenants_max: limits.tenants,
            tenant_channels_max: limits.channels_per_tenant,
            linger: Duration::from_millis(limits.linger_ms),
            grant_wait: Duration::from_millis(limits.grant_wait_ms),
            ring_records: channel.ring_records,
            regions: Counts {
                stamps: channel.ring_records,
                gates: channel.gates,
                atoms: channel.atoms,
                cluster_atoms: channel.cluster_atoms,
                tails: channel.tails,
            },
            admission: file.admission,
            mps,
            partitions: file.partition,
        })
    }

    /// Where tenants connect.
    pub fn broker_socket(&self) -> PathBuf {
        broker_socket(&self.runtime_directory)
    }

    /// Where the command connects.
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.runtime_directory)
    }
}

/// Where tenants connect.
pub fn broker_socket(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("broker.sock")
}

/// Where the command connects.
pub fn control_socket(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("lithos.sock")
}

fn check_mps(mps: Mps, runtime_directory: &Path) -> Result<MpsConfig, ConfigError> {
    let below = |name| runtime_directory.join("mps").join(name);
    let config = MpsConfig {
        enable: mps.enable,
        pipe_directory: mps.pipe_directory.unwrap_or_else(|| below("pipe")),
        log_directory: mps.log_directory.unwrap_or_else(|| below("log")),
    };
    check_directory("mps.pipe_directory", &config.pipe_directory)?;
    check_directory("mps.log_directory", &config.log_directory)?;
    Ok(config)
}

fn check_directory(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    let right = "it must be an absolute path, from / on".into();
    Err(value(
        key,
        format!("{:?}", path.display().to_string()),
        right,
    ))
}

fn within<N: PartialOrd + std::fmt::Display>(
    key: &'static str,
    found: N,
    least: N,
    most: N,
) -> Result<(), ConfigError> {
    if found >= least && found <= most {
        return Ok(());
    }
    Err(value(
        key,
        found,
        format!("it must be from {least} to {most}"),
    ))
}

fn value(key: &'static str, found: impl std::fmt::Display, right: String) -> ConfigError {
    ConfigError::Value {
        key,
        found: found.to_string(),
        right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::ClassWord;

    #[test]
    fn the_example_is_a_configuration_and_its_defaults_are_the_defaults() {
        let example = include_str!("../lithosd.toml");
        let mut config = Config::parse(example).unwrap();
        assert!(!config.partitions.is_empty());
        config.partitions.clear();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_partition_needs_a_name_and_a_class() {
        let text = "[[partition]]\nname = \"chat\"\nclass = \"lc\"\n";
        let config = Config::parse(text).unwrap();
        let expected = PartitionEntry::new("chat", ClassWord::Lc, 0);
        assert_eq!(config.partitions, [expected]);
        let error = Config::parse("[[partition]]\nname = \"chat\"\n").unwrap_err();
        assert!(error.to_string().contains("class"), "{error}");
    }

    #[test]
    fn mps_directories_follow_the_runtime_directory() {
        let config = Config::parse("runtime_directory = \"/run/x\"").unwrap();
        assert_eq!(config.mps.pipe_directory, Path::new("/run/x/mps/pipe"));
        assert_eq!(config.broker_socket(), Path::new("/run/x/broker.sock"));
    }

    #[test]
    fn what_is_impossible_is_named_with_its_key_and_what_would_be_right() {
        let long = format!("runtime_directory = \"/{}\"", "x".repeat(120));
        let cases: [(&str, &[&str]); 20] = [
            ("colour = 1", &["colour", "runtime_directory"]),
            ("[limits]\ntenant = 1", &["tenant", "tenants"]),
            ("group = 5", &["group = 5", "string"]),
            ("group = \"\"", &["group", "name a group"]),
            ("broker = \"best\"", &["best", "auto", "kernel", "embedded"]),
            ("log = \"a=b=c\"", &["log", "info"]),
            ("state_directory = \"x\"", &["state_directory", "absolute"]),
            (&long, &["runtime_directory", "107"]),
            (
                "[limits]\ntenants = 0",
                &["limits.tenants = 0", "1 to 4096"],
            ),
            ("[limits]\nchannels_per_tenant = 65", &["= 65", "1 to 64"]),
            (
                "[limits]\nlinger_ms = 60001",
                &["limits.linger_ms", "60000"],
            ),
            (
                "[limits]\ngrant_wait_ms = 0",
                &["limits.grant_wait_ms", "1 to"],
            ),
            (
                "[channel]\nring_records = 1000",
                &["ring_records = 1000", "1024"],
            ),
            ("[channel]\nring_records = 32", &["ring_records = 32", "64"]),
            ("[channel]\ngates = 0", &["channel.gates = 0", "16384"]),
            (
                "[channel]\ngates = 4607",
                &["channel.gates = 4607", "4608 or more"],
            ),
            ("[mps]\nenable = \"maybe\"", &["maybe", "auto", "on", "off"]),
            (
                "[mps]\npipe_directory = \"p\"",
                &["mps.pipe_directory", "absolute"],
            ),
            (
                "[[partition]]\nname = \"a\"\nclass = \"lc\"\nguarantee = 4\nceiling = 2",
                &["\"a\"", "ceiling = 2", "4 or more"],
            ),
            (
                "[[partition]]\nname = \"a\"\nclass = \"lc\"\n\
                 [[partition]]\nname = \"a\"\nclass = \"be\"",
                &["\"a\"", "two partitions"],
            ),
        ];
        for (text, expected) in cases {
            let error = Config::parse(text).unwrap_err().to_string();
            for word in expected {
                assert!(
                    error.contains(word),
                    "{text}: {word} is missing in: {error}"
                );
            }
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Config::load(Path::new("/nonexistent/lithosd.toml")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/lithosd.toml"),
            "{error}"
        );
    }
}
