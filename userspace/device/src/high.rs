// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Descriptors with high numbers.
//!
//! When a process ends, the kernel closes its files from the highest number down, and those of the NVIDIA
//! driver take their time; after them the process's memory is gone from the GPU. So whoever is told of a
//! process's end by the hang-up of a connection hears of it in time only if the connection's number is above
//! the driver's (measured: ARCHITECTURE.md, "Death, holds and gates, measured").

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Lower bounds of numbers to try. The usual soft limit is 1024.
const NUMBERS: [i32; 3] = [1000, 500, 200];

/// Returns another descriptor of the same file, with a number above those of most others if there is such.
pub fn duplicate(file: impl AsFd) -> nix::Result<OwnedFd> {
    let mut error = nix::Error::EMFILE;
    for number in NUMBERS.into_iter().chain([0]) {
        match fcntl(file.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(number)) {
            // SAFETY: the kernel has just made it, and nobody else has heard of it.
            Ok(duplicate) => return Ok(unsafe { OwnedFd::from_raw_fd(duplicate) }),
            Err(why) => error = why,
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_has_a_high_number() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        let duplicate = duplicate(&file).expect("a duplicate");
        assert!(duplicate.as_raw_fd() >= 200);
    }
}
