// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The self-test: before a GPU is managed, what LithOS does to launches is shown to do what it should,
//! and nothing else.
//!
//! It runs in a process of its own, as discovery does and for the same reasons, and with the same edits
//! that the shim makes (`lithos-descriptor`), in memory of the same kind. `bench.rs` says what is shown.
//! A launch that hangs is given up after some seconds, and the process after [`DEADLINE`].
//!
//! What was shown is a [`Proof`], which is kept in the state directory. It holds for:
//!
//! - one **board** (its UUID) with one **VBIOS**: which TPCs are there and how masks mean them;
//! - one **driver** version of the kernel's, which the GPU's firmware comes with;
//! - one build of the driver's **library**, which builds descriptors and calls us: a container may have
//!   another one. A tenant tells the build id of its own;
//! - the **edits** of the launch path, as one number ([`hopper::edits`]): a shim that was built apart
//!   and makes the same edits is the same shim, and one of another release is not.
//!
//! Only proofs are kept. A test that failed is made again when the daemon starts again, because the
//! reason may have been another program; until then the GPU's tenants run as if LithOS were not there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_descriptor::hopper;
use lithos_device::{BUILD_ID_BYTES, Identity};
use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::discover::{driver, run_process};

mod bench;

/// How long the test of one GPU may take: it is some dozens of launches of a millisecond or two, and
/// the time to make a context.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The version of the file's form, and of what the test shows.
pub const PROOF_VERSION: u32 = 1;

/// What was shown on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// [`PROOF_VERSION`].
    pub version: u32,
    /// What it was shown of, as far as the daemon can see that without the driver's library.
    #[serde(flatten)]
    pub subject: Subject,
    /// The build id of the driver's library.
    pub library: BuildId,
}

/// What a proof is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The board's UUID.
    pub uuid: String,
    /// Its VBIOS; empty if NVML does not say.
    pub vbios: String,
    /// The version of the kernel's driver.
    pub driver: String,
    /// The edits of this daemon's release.
    pub edits: Number,
}

/// A number that is written in hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Number(pub u64);

/// A build id, as people see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(pub [u8; BUILD_ID_BYTES]);

/// What came of the self-test of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Verdict {
    /// All that had to be shown was.
    Passed(Proof),
    /// Something was not as it should be, or could not be looked at.
    Failed {
        /// What.
        why: String,
    },
}

impl Verdict {
    /// Whether a tenant's launches may be edited; the error says why not.
    pub fn allows(&self, identity: &Identity) -> Result<(), String> {
        let proof = match self {
            Self::Passed(proof) => proof,
            Self::Failed { why } => return Err(format!("the self-test failed: {why}")),
        };
        let Subject { driver, edits, .. } = &proof.subject;
        if identity.edits != edits.0 {
            return Err(format!(
                "the shim makes other edits ({:016x}) than were proven ({edits}); use the shim and \
                 the daemon of one release",
                identity.edits
            ));
        }
        if identity.driver != proof.library.0 {
            return Err(format!(
                "the process has a CUDA driver (build id {}) other than the one that was proven \
                 (build id {}, version {driver}); use that of this machine, or remove the proof \
                 and restart lithosd if the machine's was changed",
                BuildId(identity.driver),
                proof.library
            ));
        }
        Ok(())
    }
}

/// Tests the GPU with this board, in this process, which should do nothing else; returns the build id
/// of the driver's library.
pub fn run(board: &Board) -> anyhow::Result<BuildId> {
    let gpu = driver::Gpu::open(&board.uuid)?;
    let library = gpu.library().context(
        "the CUDA driver's library has no build id, so that it cannot be told from another",
    )?;
    bench::Bench::new(&gpu, board)?.run()?;
    Ok(BuildId(library))
}

/// Returns the verdict on a GPU: the proof in the state directory, or that of the process which
/// `command` starts, and which prints what [`run`] returns as JSON.
pub fn load_or_prove(
    state_dir: &Path,
    subject: Subject,
    command: impl FnOnce() -> Command,
) -> Verdict {
    match Proof::load(state_dir, &subject.uuid) {
        Ok(Some(proof)) if proof.version == PROOF_VERSION && proof.subject == subject => {
            return Verdict::Passed(proof);
        }
        Ok(_) => {}
        Err(error) => tracing::warn!("{:#}; testing again", anyhow::Error::from(error)),
    }
    let uuid = subject.uuid.clone();
    match prove(state_dir, subject, command()) {
        Ok(proof) => {
            tracing::info!(uuid, "the self-test has passed");
            if let Err(error) = proof.save(state_dir) {
                tracing::warn!("cannot keep the proof of {uuid}: {error}");
            }
            Verdict::Passed(proof)
        }
        Err(error) => {
            let why = format!("{error:#}");
            tracing::error!(uuid, "the self-test has failed: {why}");
            Verdict::Failed { why }
        }
    }
}

fn prove(state_dir: &Path, subject: Subject, mut command: Command) -> anyhow::Result<Proof> {
    let printed = run_process(&mut command, state_dir, DEADLINE)?;
    let library = serde_json::from_str(&printed)
        .with_context(|| format!("the test printed no build id: {printed:?}"))?;
    Ok(Proof {
        version: PROOF_VERSION,
        subject,
        library,
    })
}

/// Why a proof cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The file is there and cannot be read, or is not believed.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not hold a proof.
    #[error("{path} does not hold the proof of a self-test")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Proof {
    /// A proof for tests without a driver: of tenants that say nothing about themselves.
    pub fn made_up(uuid: &str) -> Self {
        Self {
            version: PROOF_VERSION,
            subject: Subject {
                uuid: uuid.into(),
                vbios: String::new(),
                driver: "none".into(),
                edits: Number(0),
            },
            library: BuildId::default(),
        }
    }

    /// Returns where the proof of a GPU is kept.
    pub fn path(state_dir: &Path, uuid: &str) -> PathBuf {
        state_dir.join("proof").join(format!("{uuid}.json"))
    }

    /// Reads the proof of a GPU; `None` if there is none. It is not believed if another user than root
    /// and the daemon's own could have written it.
    pub fn load(state_dir: &Path, uuid: &str) -> Result<Option<Self>, ProofError> {
        let path = Self::path(state_dir, uuid);
        match crate::file::read_ours(state_dir, &path) {
            Ok(Some(text)) => {
                let proof = serde_json::from_str(&text);
                proof
                    .map(Some)
                    .map_err(|source| ProofError::Json { path, source })
            }
            Ok(None) => Ok(None),
            Err(source) => Err(ProofError::Read { path, source }),
        }
    }

    /// Keeps the proof.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        crate::file::write_atomically(&Self::path(state_dir, &self.subject.uuid), &text)
    }
}

impl Subject {
    /// What is to be proven of a GPU by this release.
    pub fn new(uuid: &str, vbios: &str, driver: &str) -> Self {
        Self {
            uuid: uuid.into(),
            vbios: vbios.into(),
            driver: driver.into(),
            edits: Number(hopper::edits()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Number> for String {
    fn from(number: Number) -> Self {
        number.to_string()
    }
}

impl TryFrom<String> for Number {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

impl fmt::Display for BuildId {
    /// Writes the digits of a build id of the usual length, and more if there are more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self
            .0
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        if length == 0 {
            return f.write_str("none");
        }
        self.0[..length]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for BuildId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = || format!("{text:?} is no build id");
        let mut id = [0; BUILD_ID_BYTES];
        if text == "none" {
            return Ok(Self(id));
        }
        if !text.len().is_multiple_of(2) || !text.is_ascii() || text.len() > 2 * id.len() {
            return Err(wrong());
        }
        for (at, byte) in id.iter_mut().take(text.len() / 2).enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn proof() -> Proof {
        let mut library = [0; BUILD_ID_BYTES];
        library[..20].fill(0xa5);
        Proof {
            version: PROOF_VERSION,
            subject: Subject::new("GPU-1", "96.00", "580.159.04"),
            library: BuildId(library),
        }
    }

    fn printing(text: &str) -> Command {
        let mut command = Command::new("printf");
        command.args(["%s", text]);
        command
    }

    fn printed() -> String {
        serde_json::to_string(&proof().library).unwrap()
    }

    fn tell(proof: &Proof) -> Identity {
        Identity {
            edits: proof.subject.edits.0,
            driver: proof.library.0,
        }
    }

    #[test]
    fn a_gpu_is_tested_once_and_again_for_whatever_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let subject = proof().subject;
        let never = || panic!("the proof is kept");
        let first = load_or_prove(dir.path(), subject.clone(), || printing(&printed()));
        assert_eq!(first, Verdict::Passed(proof()));
        assert_eq!(load_or_prove(dir.path(), subject.clone(), never), first);
        let changes: [fn(&mut Subject); 3] = [
            |subject| subject.driver = "590.1".into(),
            |subject| subject.vbios = "96.01".into(),
            |subject| subject.edits.0 += 1,
        ];
        for change in changes {
            let mut other = subject.clone();
            change(&mut other);
            let failing = load_or_prove(dir.path(), other, || Command::new("false"));
            assert!(matches!(failing, Verdict::Failed { .. }), "{failing:?}");
        }
    }

    #[test]
    fn a_failure_says_why_and_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let failing = || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo 'lithosd: masks do not hold' >&2; exit 1"]);
            command
        };
        let verdict = load_or_prove(dir.path(), proof().subject, failing);
        let Verdict::Failed { why } = &verdict else {
            panic!("{verdict:?}");
        };
        assert!(why.contains("masks do not hold"), "{why}");
        assert!(verdict.allows(&tell(&proof())).is_err());
        assert_eq!(Proof::load(dir.path(), "GPU-1").unwrap(), None);
    }

    #[test]
    fn a_proof_that_others_can_write_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        proof().save(dir.path()).unwrap();
        assert_eq!(Proof::load(dir.path(), "GPU-1").unwrap(), Some(proof()));
        let path = Proof::path(dir.path(), "GPU-1");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = Proof::load(dir.path(), "GPU-1").unwrap_err();
        assert!(matches!(error, ProofError::Read { .. }), "{error}");
        let again = load_or_prove(dir.path(), proof().subject, || printing(&printed()));
        assert_eq!(again, Verdict::Passed(proof()));
        assert_eq!(Proof::load(dir.path(), "GPU-1").unwrap(), Some(proof()));
    }

    #[test]
    fn a_tenant_with_other_edits_or_another_driver_is_left_alone() {
        let verdict = Verdict::Passed(proof());
        let told = tell(&proof());
        verdict.allows(&told).unwrap();
        let other_edits = Identity { edits: 1, ..told };
        let why = verdict.allows(&other_edits).unwrap_err();
        assert!(why.contains("other edits"), "{why}");
        let mut driver = told.driver;
        driver[19] ^= 1;
        let why = verdict.allows(&Identity { driver, ..told }).unwrap_err();
        assert!(why.contains("580.159.04") && why.contains("a5a5"), "{why}");
    }

    #[test]
    fn a_build_id_is_the_same_as_text_and_as_bytes() {
        for id in [
            proof().library,
            BuildId::default(),
            BuildId([7; BUILD_ID_BYTES]),
        ] {
            assert_eq!(BuildId::try_from(id.to_string()), Ok(id));
        }
        for wrong in ["0", "xy", &"00".repeat(BUILD_ID_BYTES + 1)] {
            assert!(BuildId::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
