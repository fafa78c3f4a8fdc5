// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a restart of the daemon costs the programs under it, by the records of their own launches.
//!
//! The rings say it all: when a launch was submitted, and whether it found nobody who schedules. They are
//! read where the programs have them open, so that neither a program nor the daemon is asked.

use std::fs::{self, File};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use lithos_abi::bindings::{LITHOS_RECORD_FAIL_STATIC, lithos_ring};
use lithos_abi::lithos_record;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::testbed::{PATIENCE, Process, Testbed, until};

/// Programs that run at once.
pub const TENANTS: usize = 16;
/// How often the daemon is killed.
const ROUNDS: usize = 5;

/// The worst that any program saw in any round.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// From the kill of the daemon to the first launch that kept to what is guaranteed.
    pub fail_static_ms: f64,
    /// From the start of the next daemon to the first launch that it had granted.
    pub taken_over_ms: f64,
}

/// The configuration: a partition of one TPC for each program.
pub fn configuration() -> String {
    let partition =
        |number| format!("[[partition]]\nname = \"p{number}\"\nclass = \"be\"\nguarantee = 1\n");
    (0..TENANTS).map(partition).collect()
}

/// Kills and restarts the daemon of a testbed, which was started with [`configuration`], under programs
/// that launch without a pause; fails if one of them loses a launch.
pub fn measure(testbed: &mut Testbed) -> anyhow::Result<Restart> {
    let mut programs = Vec::new();
    for number in 0..TENANTS {
        let partition = format!("p{number}");
        let mut command = testbed.managed(&["--partition", &partition], &["be", "--until-eof"]);
        programs.push(Process::start(&partition, &mut command)?);
    }
    for program in &mut programs {
        program.json()?;
    }
    let rings = programs.iter().map(|program| Ring::of(program.pid()));
    let rings = rings.collect::<anyhow::Result<Vec<Ring>>>()?;
    let mut worst = Restart {
        fail_static_ms: 0.0,
        taken_over_ms: 0.0,
    };
    for _ in 0..ROUNDS {
        let killed_ns = now_ns()?;
        let daemon = testbed.daemon().context("no daemon was started")?;
        daemon.signal(Signal::SIGKILL)?;
        let span_ms = first_of_all(&rings, killed_ns, true)?;
        worst.fail_static_ms = worst.fail_static_ms.max(span_ms);
        testbed.kill_daemon();
        let started_ns = now_ns()?;
        testbed.start_daemon(&configuration())?;
        let span_ms = first_of_all(&rings, started_ns, false)?;
        worst.taken_over_ms = worst.taken_over_ms.max(span_ms);
    }
    for program in programs {
        let report = program.finish(PATIENCE)?.json()?;
        let (run, expected) = (&report["blocks"], &report["blocks_expected"]);
        ensure!(run == expected, "{run} blocks ran, of {expected}");
    }
    Ok(worst)
}

/// Waits until every program has submitted a launch after a time that is fail-static, or is not; returns
/// how long after it the first such launch of the last program came.
fn first_of_all(rings: &[Ring], after_ns: u64, is_fail_static: bool) -> anyhow::Result<f64> {
    let mut last_ns = after_ns;
    for ring in rings {
        let found = until("launch of a program", PATIENCE, || {
            let launches = ring.read()?.into_iter();
            let wanted = launches.filter(|launch| {
                launch.submitted_ns > after_ns && launch.is_fail_static == is_fail_static
            });
            Ok(wanted.map(|launch| launch.submitted_ns).min())
        })?;
        last_ns = last_ns.max(found);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a minute of nanoseconds is exact"
    )]
    let span_ms = (last_ns - after_ns) as f64 / 1e6;
    Ok(span_ms)
}

/// A ring that a program has open.
struct Ring(File);

#[derive(Clone, Copy, Debug)]
struct Launch {
    submitted_ns: u64,
    is_fail_static: bool,
}

impl Ring {
    fn of(pid: u32) -> anyhow::Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let path = entry?.path();
            let target = fs::read_link(&path).unwrap_or_else(|_| PathBuf::new());
            if target.to_string_lossy().contains("memfd:lithos-ring") {
                return Ok(Self(File::open(path)?));
            }
        }
        anyhow::bail!("process {pid} has no channel")
    }

    /// The launches that it holds.
    fn read(&self) -> anyhow::Result<Vec<Launch>> {
        let mut bytes = vec![0; usize::try_from(self.0.metadata()?.len())?];
        self.0.read_exact_at(&mut bytes, 0)?;
        let records = bytes[size_of::<lithos_ring>()..].chunks_exact(size_of::<lithos_record>());
        let word = |record: &[u8], offset: usize| -> u64 {
            let word = record[offset..].first_chunk().copied();
            u64::from_le_bytes(word.unwrap_or_default())
        };
        let held = records.filter(|record| word(record, offset_of!(lithos_record, sequence)) != 0);
        let launch = |record: &[u8]| {
            let flags = record[offset_of!(lithos_record, flags)..]
                .first_chunk()
                .copied();
            let flags = u32::from_le_bytes(flags.unwrap_or_default());
            Launch {
                submitted_ns: word(record, offset_of!(lithos_record, submitted_ns)),
                is_fail_static: flags & LITHOS_RECORD_FAIL_STATIC != 0,
            }
        };
        Ok(held.map(launch).collect())
    }
}

fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let (seconds, nanos) = (u64::try_from(now.tv_sec())?, u64::try_from(now.tv_nsec())?);
    Ok(seconds * 1_000_000_000 + nanos)
}
