// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How much memory the kernel has in use, to see whether any was lost.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// `/proc/meminfo`, in KiB; and [`PROCESSORS`].
#[derive(Clone, Debug)]
pub struct Memory(BTreeMap<String, u64>);

/// Free pages that processors keep at hand, several MiB each: `MemFree` is without them.
const PROCESSORS: &str = "Processors";
const PAGE_KIB: u64 = 4;

/// What may differ: objects that a processor keeps of its own, buffers of the log.
const SLAB_TOLERANCE_KIB: u64 = 2048;
const USED_TOLERANCE_KIB: u64 = 4096;
/// Less than this coming back is no more.
const SETTLED_KIB: u64 = 256;
const ROUNDS_MAX: usize = 20;

impl Memory {
    /// Looks after everything that can be given back has been: what is freed a moment later, and caches.
    ///
    /// # Panics
    ///
    /// If the kernel does not say.
    pub fn settled() -> Self {
        let mut last = Self::swept();
        // Grace periods, and work that files and address spaces leave behind: until no more comes back.
        for _ in 0..ROUNDS_MAX {
            let next = Self::swept();
            if next.used() + SETTLED_KIB > last.used() {
                return next;
            }
            last = next;
        }
        last
    }

    fn swept() -> Self {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_secs(2));
            fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
        }
        let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim().strip_suffix(" kB")?.parse().ok()?;
            Some((name.to_owned(), value))
        };
        let mut memory: BTreeMap<_, _> = text.lines().filter_map(line).collect();
        memory.insert(PROCESSORS.to_owned(), processors());
        Self(memory)
    }

    fn kib(&self, name: &str) -> u64 {
        self.0.get(name).copied().expect(name)
    }

    /// What is in use and is not some process's own.
    fn used(&self) -> u64 {
        let free = self.kib("MemFree") + self.kib(PROCESSORS);
        self.kib("MemTotal") - free - self.kib("AnonPages") - self.kib("PageTables")
    }

    /// Compares.
    ///
    /// # Panics
    ///
    /// If memory was lost.
    pub fn assert_as(&self, before: &Self) {
        for (name, now) in &self.0 {
            let was = before.kib(name);
            if was != *now {
                println!("{name}: {was} -> {now} KiB");
            }
        }
        let slab = |memory: &Self| memory.kib("SUnreclaim");
        assert!(
            slab(self) <= slab(before) + SLAB_TOLERANCE_KIB,
            "objects were lost"
        );
        assert!(
            self.used() <= before.used() + USED_TOLERANCE_KIB,
            "pages were lost"
        );
        assert!(self.kib("Shmem") <= before.kib("Shmem"), "shmem was lost");
    }
}

/// The pages in the lists of every processor and zone, in KiB.
fn processors() -> u64 {
    let text = fs::read_to_string("/proc/zoneinfo").expect("zoneinfo");
    let count = |line: &str| line.trim().strip_prefix("count:")?.trim().parse().ok();
    let counts: Vec<u64> = text.lines().filter_map(count).collect();
    assert!(!counts.is_empty(), "zoneinfo names no processor's pages");
    counts.iter().sum::<u64>() * PAGE_KIB
}
