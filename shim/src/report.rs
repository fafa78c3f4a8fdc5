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

/// What is not known about a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unknown {
    Version,
    Bits,
}

/// Says, once, that launches are left as the driver made them; or ends the process, before the launch,
/// if it may not run so. Called under the driver's locks: one system call, no lock and no allocation.
#[cold]
pub(crate) fn left_alone(what: Unknown) {
    static SAID: AtomicBool = AtomicBool::new(false);
    macro_rules! text {
        ($what:literal, $outcome:literal) => {
            concat!(
                "lithos: launch descriptors have ",
                $what,
                ", ",
                $outcome,
                "\n"
            )
        };
    }
    macro_rules! texts {
        ($outcome:literal) => {
            match what {
                Unknown::Version => text!("a version that LithOS does not know", $outcome),
                Unknown::Bits => text!("bits that LithOS does not know", $outcome),
            }
        };
    }
    let is_enforced = ENFORCE.load(Ordering::Relaxed);
    let text = match is_enforced {
        true => texts!("and the partition demands that its programs be managed, so this one ends"),
        false => texts!("and such launches run unmanaged"),
    };
    if !SAID.swap(true, Ordering::Relaxed) {
        // SAFETY: the text is so long. Nobody can be told if it is not written.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    if is_enforced {
        // SAFETY: as in `unmanaged`.
        unsafe { libc::_exit(EXIT_UNMANAGED) }
    }
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
