// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How much memory the kernel has in use, to see whether any was lost.

use std::fs;
use std::time::Duration;

/// KiB of things that the kernel keeps for itself.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    slab: u64,
    free: u64,
    shmem: u64,
}

/// What may differ: lists that a processor keeps of its own, pages of page tables, buffers of the log.
const SLAB_TOLERANCE_KIB: u64 = 2048;
const FREE_TOLERANCE_KIB: u64 = 8192;

impl Memory {
    /// Looks after everything that can be given back has been: what is freed a moment later, and caches.
    ///
    /// # Panics
    ///
    /// If the kernel does not say.
    pub fn settled() -> Self {
        // Grace periods, and work that files and address spaces leave behind.
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(2));
            fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
            // It takes back what processors keep of their own.
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
        }
        let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let kib = |name| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect(name);
            line.trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number")
        };
        Self {
            slab: kib("SUnreclaim:"),
            free: kib("MemFree:"),
            shmem: kib("Shmem:"),
        }
    }

    /// Compares.
    ///
    /// # Panics
    ///
    /// If memory was lost.
    pub fn assert_as(&self, before: &Self) {
        println!("{before:?} -> {self:?}");
        assert!(
            self.slab <= before.slab + SLAB_TOLERANCE_KIB,
            "objects were lost"
        );
        assert!(
            self.free + FREE_TOLERANCE_KIB >= before.free,
            "pages were lost"
        );
        assert!(self.shmem <= before.shmem, "shmem was lost");
    }
}
