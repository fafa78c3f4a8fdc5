// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which stream a launch belongs to.
//!
//! Launches of one stream run one after the other, so the scheduler wants to know which share one.
//! A handle is its stream's identity, but for the two default streams: the legacy one, which all
//! threads share, and the per-thread one, which has the same handle in every thread. NULL means one or
//! the other, depending on the entry point (`_ptsz`: per thread).

/// Handle of the legacy default stream, which is its identity, too.
const LEGACY: u64 = 1;
/// Handle of the default stream of the calling thread.
const PER_THREAD: u64 = 2;
/// In an identity: the per-thread default stream of the thread in the other bits. Handles are
/// addresses of the driver's, which have no such bit.
const OF_THREAD: u64 = 1 << 63;

/// Returns the identity of a stream; never 0, which means that it is not known.
#[inline]
pub(crate) fn identity(handle: u64, null_is_per_thread: bool, thread: u64) -> u64 {
    match handle {
        0 if null_is_per_thread => OF_THREAD | thread,
        0 | LEGACY => LEGACY,
        PER_THREAD => OF_THREAD | thread,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_what_the_entry_point_says() {
        assert_eq!(identity(0, false, 7), identity(1, true, 8));
        assert_eq!(identity(0, true, 7), identity(2, false, 7));
        assert_ne!(identity(0, true, 7), identity(0, true, 8));
        assert_ne!(identity(0, true, 7), identity(0, false, 7));
    }

    #[test]
    fn a_handle_is_its_own_identity_in_every_thread() {
        for per_thread in [false, true] {
            assert_eq!(identity(0x7f00_1234_5680, per_thread, 7), 0x7f00_1234_5680);
        }
    }

    #[test]
    fn no_identity_is_zero() {
        for handle in 0..4 {
            for per_thread in [false, true] {
                assert_ne!(identity(handle, per_thread, 0), 0);
            }
        }
    }
}
