// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Programs that want GPU channels where lithosd has lithos.ko see to who may have some.
//!
//! The GPU that lithosd schedules is simulated; the channels are those of the stand-in for NVIDIA's driver.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lithos_tests::testbed::{Hardware, Process, Programs, Simulation, Testbed};
use lithos_vm::nvidia::Variant;
use lithos_vm::process::NOBODY;
use lithos_vm::{Module, wait_until};
use serde_json::{Value, json};

const PROGRAMS: &str = "/lithos";
const GPU_USER: &str = "/bin/gpu-user";

const PARTITIONS: &str = "
[[partition]]
name = \"free\"
class = \"be\"
guarantee = 2

[[partition]]
name = \"strict\"
class = \"lc\"
guarantee = 2
enforce = true
";

fn testbed() -> Testbed {
    let programs = Programs::in_folder(Path::new(PROGRAMS)).expect("programs");
    let hardware = Hardware::Simulated(Simulation::of_tpcs(8));
    let mut bed = Testbed::new(programs, &hardware).expect("a testbed");
    bed.set_broker("auto");
    bed
}

fn configuration(mode: &str) -> String {
    format!("[admission]\nmode = \"{mode}\"\n{PARTITIONS}")
}

/// The driver's stand-in, lithos.ko and lithosd. They end in this order: lithosd, module, driver.
struct Bed {
    bed: Testbed,
    _module: Module,
    _driver: Module,
}

impl Bed {
    fn new(parameters: &str, configuration: &str) -> Self {
        let driver = Variant::Plain.insert();
        let module = Module::lithos(parameters);
        let mut bed = testbed();
        bed.start_daemon(configuration).expect("a daemon");
        Self {
            bed,
            _module: module,
            _driver: driver,
        }
    }

    fn admission(&self, arguments: &[&str]) -> Value {
        let words = [&["admission"], arguments, &["--json"]].concat();
        let outcome = self.bed.outcome(self.bed.lithos(&words)).expect("an end");
        assert!(outcome.status.success(), "{outcome:?}");
        serde_json::from_str(&outcome.lines.join("\n")).expect("JSON")
    }

    /// Starts a program by `lithos run`.
    fn run(&self, options: &[&str]) -> Process {
        let words = [&["run"], options, &["--", GPU_USER]].concat();
        Process::start("gpu-user", &mut self.bed.lithos(&words)).expect("a program")
    }
}

fn stranger() -> Process {
    Process::start("gpu-user", &mut Command::new(GPU_USER)).expect("a program")
}

/// Asks a program whether it gets a channel, itself or by a child.
fn gets_one(program: &mut Process, who: &str) -> bool {
    program.say(who).expect("a listener");
    let answer = program.json().expect("an answer");
    assert_eq!(answer["pid"], program.pid());
    answer["channel"].as_bool().expect("yes or no")
}

fn user<'a>(status: &'a Value, program: &Process) -> Option<&'a Value> {
    let users = status["users"].as_array().expect("a list");
    users.iter().find(|user| user["pid"] == program.pid())
}

fn cgroup(program: &Process) -> String {
    let path = format!("/proc/{}/cgroup", program.pid());
    std::fs::read_to_string(path).expect("its cgroups")
}

#[test]
fn a_program_that_may_run_unmanaged_is_admitted_with_all_that_it_starts_and_a_stranger_is_not() {
    let bed = Bed::new("", &configuration("enforce"));
    let mut program = bed.run(&["--partition", "free"]);
    assert!(gets_one(&mut program, "self"));
    assert!(gets_one(&mut program, "child"));
    assert_eq!(cgroup(&program), "0::/lithos\n");
    let mut other = bed.run(&["--tpcs", "1"]);
    assert!(gets_one(&mut other, "self"));
    let mut stranger = stranger();
    assert!(!gets_one(&mut stranger, "self"));
    assert!(!gets_one(&mut stranger, "child"));
    assert_eq!(cgroup(&stranger), "0::/\n");
}

/// A cgroup of a user's, for as long as it is there.
struct Users(PathBuf);

impl Users {
    fn new(path: &str) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(path);
        fs::create_dir(&path).expect("a cgroup");
        for owned in [path.clone(), path.join("cgroup.procs")] {
            chown(owned, Some(NOBODY), Some(NOBODY)).expect("an owner");
        }
        Self(path)
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        wait_until("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_cgroup_whose_members_a_user_chooses_is_not_admitted() {
    let theirs = Users::new("theirs");
    let chosen = Users::new("theirs/lithos");
    let bed = Bed::new("", &configuration("enforce"));
    let mut command = bed
        .bed
        .lithos(&["run", "--partition", "free", "--", GPU_USER]);
    let members = theirs.0.join("cgroup.procs");
    // SAFETY: it writes to a file; nobody else runs in the child, and nothing is locked that this takes.
    unsafe { command.pre_exec(move || fs::write(&members, "0")) };
    let mut program = Process::start("gpu-user", &mut command).expect("a program");
    assert!(gets_one(&mut program, "self"));
    assert!(!gets_one(&mut program, "child"));
    drop(program);
    drop((chosen, theirs, bed));
}

#[test]
fn a_program_that_must_be_managed_is_admitted_only_as_a_tenant() {
    let bed = Bed::new("", &configuration("enforce"));
    for options in [
        &["--partition", "strict"][..],
        &["--partition", "free", "--enforce"],
        &["--tpcs", "1", "--enforce"],
    ] {
        let mut program = bed.run(options);
        assert!(!gets_one(&mut program, "self"), "{options:?}");
        assert_eq!(cgroup(&program), "0::/\n");
    }
}

#[test]
fn who_has_gpu_channels_is_shown_and_an_administrator_admits_and_sets() {
    let bed = Bed::new("", &configuration("audit"));
    let mut stranger = stranger();
    assert!(gets_one(&mut stranger, "self"));
    assert!(gets_one(&mut stranger, "self"));
    let status = bed.admission(&["status"]);
    assert_eq!(
        (&status["mode"], &status["sees_driver"]),
        (&json!("audit"), &json!(true))
    );
    let found = user(&status, &stranger).expect("a user");
    assert_eq!(
        (&found["command"], &found["channels"], &found["refused"]),
        (&json!("gpu-user"), &json!(2), &json!(0))
    );
    assert_eq!(found["tenant"], Value::Null);
    let all = bed.bed.status().expect("a status");
    assert_eq!(all["daemon"]["admission"], status);
    let nothing_keeps_it_away = |status: &Value| {
        let texts = status["cannot_promise"].as_array().expect("a list");
        let text = "nothing keeps it away";
        texts
            .iter()
            .any(|line| line.as_str().is_some_and(|line| line.contains(text)))
    };
    assert!(nothing_keeps_it_away(&all));

    let status = bed.admission(&["set", "enforce", "--gpu-channels", "3"]);
    assert_eq!(
        (&status["mode"], &status["gpu_channels_per_tenant"]),
        (&json!("enforce"), &json!(3))
    );
    assert!(!nothing_keeps_it_away(&bed.bed.status().expect("a status")));
    assert!(!gets_one(&mut stranger, "self"));
    let status = bed.admission(&["status"]);
    assert_eq!(user(&status, &stranger).expect("a user")["refused"], 1);

    bed.admission(&["admit", &stranger.pid().to_string()]);
    assert!(gets_one(&mut stranger, "self"));
    assert!(gets_one(&mut stranger, "child"));

    let table = bed.bed.outcome(bed.bed.lithos(&["admission", "status"]));
    let table = table.expect("a table").lines.join("\n");
    assert!(table.starts_with("enforce: only tenants"), "{table}");
    assert!(table.contains("gpu-user"), "{table}");

    let none = bed
        .bed
        .outcome(bed.bed.lithos(&["admission", "admit", "4000000"]));
    let none = none.expect("an end");
    assert!(!none.status.success());
    assert!(
        none.stderr.contains("there is no process 4000000"),
        "{none:?}"
    );
}

#[test]
fn without_a_mode_it_stays_as_lithos_ko_was_told_and_the_daemon_itself_is_admitted() {
    // It learns about the GPU in processes of its own, which are no tenants.
    let bed = Bed::new("admission=2", PARTITIONS);
    let status = bed.admission(&["status"]);
    assert_eq!(status["mode"], "enforce");
    let all = bed.bed.status().expect("a status");
    assert_eq!(all["unfit"], json!([]));
    assert_eq!(all["gpus"][0]["self_test"]["is"], "passed", "{all}");
}

#[test]
fn a_daemon_does_not_start_where_what_it_has_to_enforce_cannot_be_seen() {
    let _driver = Variant::Blind.insert();
    let _module = Module::lithos("");
    let bed = testbed();
    let configuration = bed.write_configuration(&configuration("enforce"));
    let mut command = bed.command("lithosd");
    command.arg("--config").arg(configuration.expect("a file"));
    let outcome = bed.outcome(command).expect("its end");
    assert!(!outcome.status.success());
    for part in [
        "admission.mode is enforce",
        "cannot look at the NVIDIA driver",
    ] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}
