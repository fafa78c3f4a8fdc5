// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Tenants side by side: who runs where, and what they notice of each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lithos_tests::figures::to_f64;
use lithos_tests::latency::median;
use lithos_tests::testbed::{Hardware, Outcome, PATIENCE, Process, Testbed};
use lithos_tests::workload::{Pace, Pair};

use super::figures::{Name, Values};

/// The latest that was seen of each channel's launches: a channel goes with its tenant, so its ring has
/// to be looked at while the tenant runs.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// By the channel's id: launches, and those that were not within their grant.
    channels: BTreeMap<u64, (u64, u64)>,
}

impl Watch {
    /// Looks once.
    pub(crate) fn look(&mut self, testbed: &Testbed) -> anyhow::Result<()> {
        let status = testbed.status()?;
        for channel in status["channels"].as_array().context("no channels")? {
            let id = channel["channel"].as_u64().context("no id")?;
            let total = |key: &str| channel["totals"][key].as_u64().unwrap_or(0);
            let outside = ["violations", "stale", "unchecked", "unmanaged", "lost"];
            let outside = outside.into_iter().map(total).sum();
            self.channels.insert(id, (total("launches"), outside));
        }
        Ok(())
    }

    /// Looks again and again until a program has ended.
    pub(crate) fn until_end(
        &mut self,
        testbed: &Testbed,
        mut process: Process,
        within: Duration,
    ) -> anyhow::Result<Outcome> {
        let begin = Instant::now();
        while !process.has_ended()? && begin.elapsed() < within {
            self.look(testbed)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        process.finish(Duration::from_secs(1))
    }

    /// Writes down what was seen.
    pub(crate) fn note(&self, values: &mut Values) {
        for (launches, outside) in self.channels.values() {
            values.add_launches(*launches, launches.saturating_sub(*outside));
        }
    }
}

/// A partition that exists for a while.
struct Partition<'a> {
    testbed: &'a Testbed,
    name: &'static str,
}

impl<'a> Partition<'a> {
    fn create(
        testbed: &'a Testbed,
        name: &'static str,
        class: &str,
        tpcs: u64,
    ) -> anyhow::Result<Self> {
        let guarantee = tpcs.to_string();
        let create = ["partition", "create", name, "--class", class, "--guarantee"];
        let mut command = testbed.lithos(&create);
        command.arg(guarantee);
        let outcome = testbed.outcome(command)?;
        ensure!(outcome.status.success(), "{}", outcome.stderr);
        Ok(Self { testbed, name })
    }

    fn set(&self, tpcs: u64) -> anyhow::Result<()> {
        let mut command = self.testbed.lithos(&["partition", "set", self.name]);
        command.arg("--guarantee").arg(tpcs.to_string());
        let outcome = self.testbed.outcome(command)?;
        ensure!(outcome.status.success(), "{}", outcome.stderr);
        Ok(())
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.testbed.managed(&["--partition", self.name], arguments);
        Process::start(&format!("tenant of {}", self.name), &mut command)
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        // Refused while the daemon has not yet noticed that the last tenant has gone.
        for _ in 0..100 {
            let delete = self.testbed.lithos(&["partition", "delete", self.name]);
            let outcome = self.testbed.outcome(delete);
            if outcome.is_ok_and(|outcome| outcome.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("the partition {} could not be deleted", self.name);
    }
}

fn tpcs(testbed: &Testbed) -> anyhow::Result<u64> {
    let status = testbed.status()?;
    let tpcs = status["gpus"][0]["tpcs"].as_array().context("no GPU")?;
    Ok(tpcs.len() as u64)
}

/// Two tenants, each on half of the TPCs: all blocks of both, one per SM, are resident at once.
pub(crate) fn resident(testbed: &Testbed, values: &mut Values) -> anyhow::Result<()> {
    let half = tpcs(testbed)? / 2;
    let blocks = (2 * half).to_string();
    let partitions = [
        Partition::create(testbed, "first", "lc", half)?,
        Partition::create(testbed, "second", "be", half)?,
    ];
    let arguments = [
        "resident",
        "--blocks",
        &blocks,
        "--hold",
        "--patience-s",
        "30",
    ];
    let mut tenants = Vec::new();
    for partition in &partitions {
        tenants.push(partition.start(&arguments)?);
    }
    // Each stays until it is told to go: when both have said that all their blocks have met, all
    // blocks of both are resident.
    let mut met = 0;
    for tenant in &mut tenants {
        met += u64::from(tenant.json()?["resident"] == true);
    }
    let mut watch = Watch::default();
    watch.look(testbed)?;
    watch.note(values);
    for tenant in tenants {
        tenant.finish(PATIENCE)?.json()?;
    }
    let all = 2 * 2 * half;
    println!(
        "  {met} of 2 tenants met, {} of {all} blocks",
        met * 2 * half
    );
    values.set_of(Name::Resident, to_f64(met * 2 * half), to_f64(all));
    Ok(())
}

/// A partition changes while its tenant waits; the tenant's next launch has to follow.
pub(crate) fn live(testbed: &Testbed, values: &mut Values) -> anyhow::Result<()> {
    let most = tpcs(testbed)?.min(32);
    let partition = Partition::create(testbed, "live", "lc", most)?;
    let mut tenant = partition.start(&["smids", "--wait-for-line"])?;
    let mut sms = || -> anyhow::Result<u64> {
        tenant.tell()?;
        tenant.json()?["sms"].as_u64().context("no count of SMs")
    };
    let mut watch = Watch::default();
    let mut in_force = 0;
    let changes = [1, most, most / 2, 3, most / 4, most, 2, most / 2, 1, most];
    for guarantee in changes {
        partition.set(guarantee)?;
        let found = sms()?;
        watch.look(testbed)?;
        println!("  {guarantee} TPCs: {found} SMs at the next launch");
        in_force += u64::from(found == 2 * guarantee);
    }
    watch.note(values);
    tenant.finish(PATIENCE)?.json()?;
    values.set_of(Name::Live, to_f64(in_force), to_f64(changes.len() as u64));
    Ok(())
}

/// How often LC runs alone and beside BE, in turns.
const REPEATS: usize = 5;

/// LC on half of the TPCs, alone and beside BE on the other half.
pub(crate) fn beside(
    testbed: &Testbed,
    hardware: &Hardware,
    values: &mut Values,
) -> anyhow::Result<()> {
    let half = tpcs(testbed)? / 2;
    let pair = Pair::for_hardware(hardware, testbed)?;
    let pace = Pace { seconds: 3.0 };
    let _partitions = [
        Partition::create(testbed, "quick", "lc", half)?,
        Partition::create(testbed, "long", "be", half)?,
    ];
    let quick = |arguments: &[&str]| testbed.managed(&["--partition", "quick"], arguments);
    let long = |arguments: &[&str]| testbed.managed(&["--partition", "long"], arguments);
    let mut sides = [Vec::new(), Vec::new()];
    for repeat in 0..REPEATS {
        for turn in 0..2 {
            let beside = (repeat + turn) % 2 == 1;
            let lc = if beside {
                let (lc, be) = pair.together(testbed, pace, quick, long)?;
                println!(
                    "  beside BE ({:.0} kernels/s on {} SMs): p50 {:.1} us, p99 {:.1} us, {} SMs",
                    be.kernels_per_s, be.sms, lc.p50_us, lc.p99_us, lc.sms
                );
                lc
            } else {
                let lc = pair.lc_alone(testbed, pace, quick)?;
                println!(
                    "  alone: p50 {:.1} us, p99 {:.1} us, {} SMs",
                    lc.p50_us, lc.p99_us, lc.sms
                );
                lc
            };
            sides[usize::from(beside)].push(lc.p50_us);
        }
    }
    let middle = |side: &[f64]| median(side).context("no repeats");
    let [alone, beside] = [middle(&sides[0])?, middle(&sides[1])?];
    println!("  medians of {REPEATS}: {alone:.1} us alone, {beside:.1} us beside BE");
    values.set(Name::Beside, (beside / alone - 1.0) * 100.0);
    Ok(())
}
