// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! PyTorch as a tenant: its programs do under LithOS what they do without, bit by bit.
//!
//! PyTorch needs a real GPU. On simgpu there are no such tests; on a real GPU (`LITHOS_TEST_GPU=real`)
//! they need `python3` with PyTorch, and fail without.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use lithos_tests::testbed::{Hardware, Process, Programs, Testbed};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("habits.py");
const HABITS: [&str; 5] = [
    "forked_workers",
    "worker_that_leaves",
    "timer",
    "streams",
    "graph",
];
const PARTITION: &str = r#"
[[partition]]
name = "a"
class = "be"
guarantee = 8
[[partition]]
name = "b"
class = "be"
guarantee = 8
report_sms = true
"#;
const SMS: &str = "import torch; print(torch.cuda.get_device_properties(0).multi_processor_count)";
/// Importing PyTorch alone can take most of a minute on a cold machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let is_real = std::env::var_os("LITHOS_TEST_GPU").is_some_and(|value| value == "real");
    let test = || habits().map_err(|error| Failed::from(format!("{error:#}")));
    let name = "with_the_pytorch_of_this_machine_its_habits_have_the_same_outcome_under_lithos";
    let tests = match is_real {
        true => vec![Trial::test(name, test)],
        false => Vec::new(),
    };
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn habits() -> anyhow::Result<()> {
    let mut bed = Testbed::new(Programs::beside_this()?, &Hardware::Real)?;
    let script = bed.folder().join("habits.py");
    std::fs::write(&script, SCRIPT)?;

    let mut plain = Command::new("python3");
    plain.arg(&script);
    let without = Process::start("PyTorch", &mut plain)?
        .finish(PATIENCE)?
        .json()
        .context("PyTorch without LithOS")?;

    bed.start_daemon(PARTITION)?;
    let mut command = bed.lithos(&["run", "--partition", "a", "--", "python3"]);
    command.arg(&script);
    let mut process = Process::start("PyTorch under lithos run", &mut command)?;
    let text = process.line(PATIENCE)?;
    let with: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    for habit in HABITS {
        let is_same = with[habit] == without[habit] && with[habit].is_string();
        ensure!(is_same, "{habit}: {without} without, {with} with");
    }
    let channels = bed.status()?["channels"].clone();
    let channels = channels.as_array().context("a list of channels")?;
    ensure!(!channels.is_empty(), "it was not managed");
    for channel in channels {
        let totals = &channel["totals"];
        for key in ["violations", "stale", "unmanaged", "lost"] {
            ensure!(totals[key] == 0, "{key} in {channel}");
        }
    }

    // It ends by os._exit, and nothing of it stays.
    let outcome = process.finish(PATIENCE)?;
    ensure!(outcome.status.success(), "{outcome:?}");
    let status = bed.status_until("end of the tenant", |status| {
        let lists = ["tenants", "channels"];
        let is_empty = lists.iter().all(|key| status[key] == json!([]));
        is_empty.then(|| status.clone())
    })?;
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);
    // The daemon serves on.
    let report = bed.json(bed.managed(&["--partition", "a"], &["smids"]))?;
    ensure!(report["sms"] == json!([16]), "{report}");
    // It is told how many SMs it has.
    let mut command = bed.lithos(&["run", "--partition", "b", "--", "python3", "-c", SMS]);
    let mut process = Process::start("PyTorch that asks for SMs", &mut command)?;
    let told = process.line(PATIENCE)?;
    ensure!(told == "16", "{told} SMs");
    process.finish(PATIENCE)?;
    Ok(())
}
