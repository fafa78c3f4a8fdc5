// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the kernel says: its log, and whether it counts itself as damaged.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// The kernel's log from some moment on.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// From now on.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn from_now() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        let mut file = file.expect("/dev/kmsg");
        file.seek(SeekFrom::End(0)).expect("the end of the log");
        Self(file)
    }

    /// Returns the lines that have come since, or since they were last asked for.
    ///
    /// # Panics
    ///
    /// If the log cannot be read.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                // Level, number, time, flags; text.
                Ok(bytes) => {
                    let record = String::from_utf8_lossy(&record[..bytes]);
                    let text = record.split_once(';').map_or(&*record, |(_, text)| text);
                    lines.extend(text.lines().next().map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return lines,
                // What was next has been written over.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    lines.push("(lines of the kernel's log are lost)".to_owned());
                }
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }
}

/// Returns whether a line of the log begins or belongs to the report of a mistake in the kernel.
pub fn is_report(line: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "BUG:",
        "WARNING:",
        "Oops",
        "Call Trace:",
        "kernel BUG",
        "general protection fault",
        "INFO: task ",
        "self-detected stall",
        "kmemleak: ",
    ];
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// Returns why the kernel is tainted, as bits, beyond what any module brings that was built outside of its
/// tree (12) and is not signed (13).
///
/// # Panics
///
/// If it does not say.
pub fn taints() -> u64 {
    let tainted = fs::read_to_string("/proc/sys/kernel/tainted").expect("the kernel's taints");
    let tainted: u64 = tainted.trim().parse().expect("a number");
    tainted & !(1 << 12 | 1 << 13)
}
