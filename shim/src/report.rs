// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the shim says: one line on stderr, in a program that is not ours.

use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a process that may not run unmanaged (`EX_UNAVAILABLE`).
const EXIT_UNMANAGED: i32 = 69;

/// Whether a process that cannot be managed must not run.
static ENFORCE: AtomicBool = AtomicBool::new(false);

/// From now on a process that cannot be managed does not run.
pub(crate) fn enforce() {
    ENFORCE.store(true, Ordering::Relaxed);
}

/// Says something.
pub(crate) fn say(text: &str) {
    // One write, so that lines of several processes do not mix. Nobody can be told if it fails.
    let _ = std::io::stderr().write_all(format!("lithos: {text}\n").as_bytes());
}

/// Says that this process, or one context of it, runs as if LithOS were not there; or ends the
/// process if it may not.
pub(crate) fn unmanaged(reason: &dyn Error) {
    let reason = chain(reason);
    if ENFORCE.load(Ordering::Relaxed) {
        say(&format!(
            "{reason}; the partition demands that its programs be managed, so this one ends"
        ));
        // SAFETY: no handler of the program's may run here, inside the driver: it could deadlock.
        unsafe { libc::_exit(EXIT_UNMANAGED) }
    }
    say(&format!("{reason}; the program runs unmanaged"));
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_said_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("no channel")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::from_raw_os_error(libc::ENOENT));
        let text = chain(&error);
        assert!(text.starts_with("no channel: No such file"), "{text}");
    }
}
