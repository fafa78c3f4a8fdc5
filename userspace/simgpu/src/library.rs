// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The folder from which programs load the simulated driver.
//!
//! It must not be Cargo's own output folder, which Cargo itself puts on the library path: a
//! `libcuda.so.1` there would be found by programs that never asked for a simulated GPU. So the
//! libraries keep names of their own where they are built, and a folder beside the program holds
//! links under NVIDIA's names.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The folder's name, beside the program.
pub const FOLDER: &str = "simgpu-lib";

/// NVIDIA's names and ours.
const LINKS: [(&str, &str); 4] = [
    ("libcuda.so.1", "libsimgpu_cuda.so"),
    ("libcuda.so", "libsimgpu_cuda.so"),
    ("libnvidia-ml.so.1", "libsimgpu_nvml.so"),
    ("libnvidia-ml.so", "libsimgpu_nvml.so"),
];

/// Why there is no such folder.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The program's own place is unknown.
    #[error("cannot tell where this program is")]
    Program(#[source] io::Error),
    /// The libraries were not built.
    #[error("{0} is missing: build it with `cargo build -p simgpu-cuda -p simgpu-nvml`")]
    Missing(PathBuf),
    /// The folder could not be made.
    #[error("cannot make {0}")]
    Folder(PathBuf, #[source] io::Error),
}

/// Makes sure that the folder beside the running program exists, and names it.
pub fn folder() -> Result<PathBuf, LibraryError> {
    let program = std::env::current_exe().map_err(LibraryError::Program)?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    folder_in(beside)
}

/// Makes sure that the folder exists in the folder that holds the libraries, and names it.
pub fn folder_in(libraries: &Path) -> Result<PathBuf, LibraryError> {
    for (_, library) in LINKS {
        let built = libraries.join(library);
        if !built.exists() {
            return Err(LibraryError::Missing(built));
        }
    }
    let folder = libraries.join(FOLDER);
    let complete = |folder: &Path| {
        LINKS.iter().all(|(link, library)| {
            fs::read_link(folder.join(link)).is_ok_and(|to| to == Path::new("..").join(library))
        })
    };
    if complete(&folder) {
        return Ok(folder);
    }
    let fail = |error| LibraryError::Folder(folder.clone(), error);
    // Made aside and renamed, so that nobody ever sees half of it.
    let aside = tempfile::Builder::new()
        .prefix(FOLDER)
        .tempdir_in(libraries)
        .map_err(fail)?;
    for (link, library) in LINKS {
        symlink(Path::new("..").join(library), aside.path().join(link)).map_err(fail)?;
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755)).map_err(fail)?;
    match fs::rename(aside.path(), &folder) {
        Ok(()) => {
            // It has a new name and is to stay.
            let _ = aside.keep();
            Ok(folder)
        }
        // Somebody else was faster.
        Err(_) if complete(&folder) => Ok(folder),
        Err(error) => Err(fail(error)),
    }
}

/// A value for LD_LIBRARY_PATH that has the folder first.
pub fn search_path(folder: &Path, before: Option<OsString>) -> OsString {
    let mut path = folder.as_os_str().to_owned();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        path.push(":");
        path.push(before);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_links_to_what_was_built() {
        let place = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            folder_in(place.path()),
            Err(LibraryError::Missing(_))
        ));
        for name in ["libsimgpu_cuda.so", "libsimgpu_nvml.so"] {
            fs::write(place.path().join(name), name).expect("a library");
        }
        let folder = folder_in(place.path()).expect("the folder");
        let read = |name| fs::read_to_string(folder.join(name)).expect("a link");
        assert_eq!(read("libcuda.so.1"), "libsimgpu_cuda.so");
        assert_eq!(read("libnvidia-ml.so.1"), "libsimgpu_nvml.so");
        assert_eq!(folder_in(place.path()).expect("again"), folder);
    }
}
