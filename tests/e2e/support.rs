// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the tests share: a GPU, and questions to the status.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lithos_tests::testbed::{Hardware, Process, Programs, Simulation, Testbed};
use serde_json::Value;

/// TPCs of the simulated GPU: enough for two partitions of four, a free rest, and GPCs that hold
/// clusters.
const SIMULATED_TPCS: u32 = 16;

/// The tests of one program take turns: the interpreter needs the machine, and there is one real GPU.
static TURN: Mutex<()> = Mutex::new(());

/// A testbed, and the turn to use it.
pub(crate) struct Turn {
    bed: Testbed,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Testbed;
    fn deref(&self) -> &Testbed {
        &self.bed
    }
}

impl std::ops::DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Testbed {
        &mut self.bed
    }
}

/// The GPU that the tests are about, with a daemon that has this configuration.
pub(crate) fn managed_gpu(configuration: &str) -> Turn {
    let mut turn = unmanaged_gpu();
    turn.start_daemon(configuration).expect("a daemon");
    turn
}

/// The same where simulated tenants share the GPU as under MPS; there is time for what is to be in time.
pub(crate) fn managed_gpu_under_mps(configuration: &str) -> Turn {
    let mut turn = gpu_or(&Simulation {
        mps_death_ms: Some(60_000),
        ..simulation()
    });
    turn.start_daemon(configuration).expect("a daemon");
    turn
}

/// The same without a daemon.
pub(crate) fn unmanaged_gpu() -> Turn {
    gpu_or(&simulation())
}

/// The real GPU, if it is what the tests are about.
fn gpu_or(simulation: &Simulation) -> Turn {
    let real = std::env::var_os("LITHOS_TEST_GPU").is_some_and(|value| value == "real");
    let hardware = if real {
        Hardware::Real
    } else {
        Hardware::Simulated(simulation.clone())
    };
    on(&hardware)
}

/// Hardware of a test's own choice, without a daemon.
pub(crate) fn on(hardware: &Hardware) -> Turn {
    // A test that failed has released the GPU all the same.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = Programs::beside_this().expect("programs");
    Turn {
        bed: Testbed::new(programs, hardware).expect("a testbed"),
        _turn: turn,
    }
}

/// The simulated GPU. These tests are about what happens, not when: it may lag.
pub(crate) fn simulation() -> Simulation {
    Simulation::of_tpcs(SIMULATED_TPCS)
}

/// Two partitions with a guarantee of four TPCs each, and no more than that.
pub(crate) const A_AND_B: &str = r#"
[[partition]]
name = "a"
class = "lc"
guarantee = 4

[[partition]]
name = "b"
class = "be"
guarantee = 4
"#;

/// Starts a tenant of a partition.
pub(crate) fn tenant(bed: &Testbed, partition: &str, arguments: &[&str]) -> Process {
    let mut command = bed.managed(&["--partition", partition], arguments);
    Process::start(&format!("tenant of {partition}"), &mut command).expect("a tenant")
}

/// Runs a tenant of a partition to its end and returns what it printed last.
pub(crate) fn run(bed: &Testbed, partition: &str, arguments: &[&str]) -> Value {
    bed.json(bed.managed(&["--partition", partition], arguments))
        .expect("a tenant")
}

/// Runs `lithos` and expects it to work.
pub(crate) fn lithos(bed: &Testbed, arguments: &[&str]) {
    let outcome = bed.outcome(bed.lithos(arguments)).expect("lithos");
    assert!(
        outcome.status.success(),
        "lithos {}: {}",
        arguments.join(" "),
        outcome.stderr
    );
}

/// Runs `lithos` and expects it to refuse; returns what it says.
pub(crate) fn lithos_refuses(bed: &Testbed, arguments: &[&str]) -> String {
    let outcome = bed.outcome(bed.lithos(arguments)).expect("lithos");
    assert!(
        !outcome.status.success(),
        "lithos {} worked",
        arguments.join(" ")
    );
    outcome.stderr
}

/// The SMs that an unmanaged launch may use: all.
pub(crate) fn all_sms(bed: &Testbed) -> u64 {
    let report = bed.json(bed.unmanaged(&["smids"])).expect("a tenant");
    number(&report["device_sms"])
}

/// A number.
pub(crate) fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// A set of TPCs, as the status lists them.
pub(crate) fn tpcs(value: &Value) -> BTreeSet<u64> {
    let bits = value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"));
    bits.iter().map(number).collect()
}

/// The channels of a partition's tenants.
pub(crate) fn channels<'a>(status: &'a Value, partition: &str) -> Vec<&'a Value> {
    let list = |key: &str| status[key].as_array().expect("a list").iter();
    let tenants: Vec<_> = list("tenants")
        .filter(|tenant| tenant["partition"] == partition)
        .map(|tenant| &tenant["tenant"])
        .collect();
    list("channels")
        .filter(|channel| tenants.contains(&&channel["tenant"]))
        .collect()
}

/// The only channel of a partition; fails if there are none or several.
pub(crate) fn channel<'a>(status: &'a Value, partition: &str) -> &'a Value {
    match channels(status, partition)[..] {
        [channel] => channel,
        ref others => panic!("{} channels of {partition}", others.len()),
    }
}

/// The TPCs in transit from a partition.
pub(crate) fn in_transit(status: &Value, from: &str) -> BTreeSet<u64> {
    status["transit"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|transit| transit["from"] == from)
        .flat_map(|transit| tpcs(&transit["tpcs"]))
        .collect()
}

/// Fails unless every launch of a channel carried a mask within the grant that it followed.
pub(crate) fn assert_all_within_grant(channel: &Value) {
    let totals = &channel["totals"];
    for key in ["violations", "stale", "unchecked", "unmanaged", "lost"] {
        assert_eq!(number(&totals[key]), 0, "{key} in {channel}");
    }
    assert!(number(&totals["launches"]) > 0, "no launches in {channel}");
}
