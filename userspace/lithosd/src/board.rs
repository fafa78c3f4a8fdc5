// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What discovery found out about one board, as it is kept in the state directory.
//!
//! `<state>/topology/<uuid>.json` holds one [`Board`]. A board does not change, so the file is written
//! once; without it, or if it is of another version or of another board, discovery runs again.

use std::io;
use std::path::{Path, PathBuf};

use lithos_policy::Topology;
use serde::{Deserialize, Serialize};

/// The version of the file's form.
pub const BOARD_VERSION: u32 = 1;

/// One GPU's TPCs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// [`BOARD_VERSION`].
    pub version: u32,
    /// The GPU's UUID as NVML prints it, `GPU-...`.
    pub uuid: String,
    /// All its SMs.
    pub sms: u32,
    /// SMs per TPC.
    pub tpc_sms: u32,
    /// Its TPCs: mask bit and GPC of each.
    pub tpcs: Topology,
}

/// Why a kept board cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The file is there and cannot be read, or is not believed.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not hold a board.
    #[error("{path} does not hold the topology of a GPU")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file holds the board of another GPU, or is of another version.
    #[error("{path} has version {version} and is about {uuid}")]
    Other {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u32,
        /// The GPU found.
        uuid: String,
    },
}

impl Board {
    /// Returns where the board of a GPU is kept.
    pub fn path(state_dir: &Path, uuid: &str) -> PathBuf {
        Self::folder(state_dir).join(format!("{uuid}.json"))
    }

    /// Returns where boards are kept.
    pub fn folder(state_dir: &Path) -> PathBuf {
        state_dir.join("topology")
    }

    /// Reads the board of a GPU; `None` if it is not kept.
    pub fn load(state_dir: &Path, uuid: &str) -> Result<Option<Self>, BoardError> {
        let path = Self::path(state_dir, uuid);
        let text = match crate::file::read_ours(state_dir, &path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(source) => return Err(BoardError::Read { path, source }),
        };
        let board: Self = match serde_json::from_str(&text) {
            Ok(board) => board,
            Err(source) => return Err(BoardError::Json { path, source }),
        };
        if board.version != BOARD_VERSION || board.uuid != uuid {
            return Err(BoardError::Other {
                path,
                version: board.version,
                uuid: board.uuid,
            });
        }
        Ok(Some(board))
    }

    /// Keeps the board.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let path = Self::path(state_dir, &self.uuid);
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        crate::file::write_atomically(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lithos_policy::Tpc;

    use super::*;

    fn board() -> Board {
        Board {
            version: BOARD_VERSION,
            uuid: "GPU-1".into(),
            sms: 4,
            tpc_sms: 2,
            tpcs: Topology::new([(0, Some(0)), (75, None)].map(|(bit, gpc)| Tpc { bit, gpc }))
                .unwrap(),
        }
    }

    #[test]
    fn a_board_that_is_saved_is_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Board::load(dir.path(), "GPU-1").unwrap(), None);
        board().save(dir.path()).unwrap();
        assert_eq!(Board::load(dir.path(), "GPU-1").unwrap(), Some(board()));
    }

    #[test]
    fn the_board_of_another_gpu_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        board().save(dir.path()).unwrap();
        let other = Board::path(dir.path(), "GPU-2");
        fs::copy(Board::path(dir.path(), "GPU-1"), &other).unwrap();
        let error = Board::load(dir.path(), "GPU-2").unwrap_err();
        assert!(error.to_string().contains("about GPU-1"), "{error}");
        fs::write(&other, "{}").unwrap();
        let error = Board::load(dir.path(), "GPU-2").unwrap_err();
        assert!(matches!(error, BoardError::Json { .. }), "{error}");
    }
}
