// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sleeping on words of memory that processes share, and waking who does (futex(2)).

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The kernel waits on so many words at once.
pub const WORDS_MAX: usize = 128;

/// Wakes everybody who waits on a word.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word is mapped, and the kernel does nothing to it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Waits until one of the words, at most [`WORDS_MAX`], is said to have changed, or has another value than
/// the one beside it, or time is up. An error where the kernel does not offer that (before 5.16), or does
/// not let us: nothing was waited for.
pub fn wait(words: &[(&AtomicU32, u32)], limit: Duration) -> io::Result<()> {
    /// `FUTEX2_SIZE_U32`, and not private.
    const SIZE_U32: u32 = 2;
    /// `struct futex_waitv`.
    #[repr(C)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    let waiters: Vec<Waiter> = (words.iter())
        .map(|(word, value)| Waiter {
            value: u64::from(*value),
            address: word.as_ptr() as u64,
            flags: SIZE_U32,
            reserved: 0,
        })
        .collect();
    let until = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).saturating_add(limit);
    let until = libc::timespec {
        tv_sec: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: until.subsec_nanos().into(),
    };
    // SAFETY: the waiters and the time live during the call, and the words are mapped.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            waiters.len(),
            0,
            &raw const until,
            libc::CLOCK_MONOTONIC,
        )
    };
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if result != -1 => Ok(()),
        Some(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT) => Ok(()),
        _ => Err(error),
    }
}
