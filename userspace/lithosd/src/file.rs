// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Files of the state directory: whole or not there, and nobody else's.
//!
//! They are written beside their place, synced, and renamed into it. What they say decides which masks
//! are set, so one that somebody else could have written is not believed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces a file by a text, so that a reader, and a reader after a crash, finds the old text or the
/// new one. Makes the folder if it is missing. The file can be read by all.
pub(crate) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder");
    let folder = path.parent().ok_or_else(missing)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".lithosd-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Reads a file that [`write_atomically`] wrote somewhere below a directory; `None` if it is not there.
/// An error if anybody but root and this process's user could have written it, or put another in its
/// place within that directory.
pub(crate) fn read_ours(directory: &Path, path: &Path) -> io::Result<Option<String>> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    check_ours(path, &file.metadata()?)?;
    let folders = path.ancestors().skip(1);
    for folder in folders.take_while(|folder| folder.starts_with(directory)) {
        check_ours(folder, &fs::metadata(folder)?)?;
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Whether only root and this process's user can write a file of this owner and mode.
pub fn is_ours_alone(uid: u32, mode: u32) -> bool {
    let is_ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    is_ours && mode & 0o022 == 0
}

fn check_ours(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let (uid, mode) = (metadata.uid(), metadata.mode());
    if is_ours_alone(uid, mode) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} belongs to user {uid} with mode {:03o}: others than lithosd can write it",
            path.display(),
            mode & 0o777
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/the/way.toml");
        write_atomically(&path, "one").unwrap();
        write_atomically(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1);
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        let read = || read_ours(dir.path(), &path);
        assert_eq!(read().unwrap(), None);
        write_atomically(&path, "ours").unwrap();
        let folder = path.parent().unwrap();
        let places = [
            (&*path, 0o666, 0o644),
            (folder, 0o775, 0o755),
            (dir.path(), 0o777, 0o755),
        ];
        for (place, open, closed) in places {
            fs::set_permissions(place, fs::Permissions::from_mode(open)).unwrap();
            let error = read().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            fs::set_permissions(place, fs::Permissions::from_mode(closed)).unwrap();
        }
        assert_eq!(read().unwrap().as_deref(), Some("ours"));
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(read().is_err(), "a link");
        assert!(!is_ours_alone(
            nix::unistd::geteuid().as_raw() + 1,
            0o100_600
        ));
    }
}
