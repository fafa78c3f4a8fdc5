// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Every line, on made-up findings.

use lithosd::selftest::{Proof, Verdict};
use serde_json::{Value, json};

use super::*;
use crate::doctor::gather::{Driver, MpsFound};
use crate::mps::Server;

/// A machine on which all is well.
fn well() -> Findings {
    Findings {
        driver: Ok(Driver {
            version: MEASURED_DRIVER.into(),
            is_simulated: false,
            gpus: vec![GpuFound {
                index: 0,
                name: "H100".into(),
                uuid: "GPU-1".into(),
                generation: Some(HOPPER),
                mig: Some(false),
                processes: Ok(vec![program(7, true), server(5)]),
            }],
        }),
        daemon: Ok(status(&passed(MEASURED_DRIVER))),
        mps: MpsFound {
            enable: Some(MpsEnable::Auto),
            unsuitable: None,
            pid: Some(4),
            pipe_directory: "/pipe".into(),
            servers: Ok(vec![Server {
                pid: 5,
                uid: 1000,
                clients: vec![7],
            }]),
        },
        injection: Injection::Free,
        shim: Ok(place("/lib/liblithos_shim.so")),
        uid: 1000,
        permission: Permission::Member,
        group: "lithos".into(),
        state_directory: Ok(place("/state")),
        module_loaded: true,
        secure_boot: SecureBoot::Off,
    }
}

fn place(path: &str) -> Place {
    Place {
        path: path.into(),
        others_write: false,
    }
}

fn program(pid: i32, is_mps_client: bool) -> Process {
    Process {
        pid,
        name: "python3".into(),
        is_mps_server: false,
        is_mps_client,
    }
}

fn server(pid: i32) -> Process {
    Process {
        is_mps_server: true,
        ..program(pid, false)
    }
}

fn passed(driver: &str) -> Value {
    let mut proof = Proof::made_up("GPU-1");
    proof.subject.driver = driver.into();
    serde_json::to_value(Verdict::Passed(proof)).expect("JSON")
}

/// A daemon with GPU 0 and the tenant 7.
fn status(self_test: &Value) -> Status {
    let status = json!({
        "daemon": {
            "version": env!("CARGO_PKG_VERSION"), "abi_version": LITHOS_ABI_VERSION, "pid": 3,
            "broker": "kernel", "broker_socket": "/run/broker.sock", "uptime_ms": 1, "refused": 0,
            "mps": {
                "enable": "auto", "unsuitable": null, "pipe_directory": "/pipe",
                "log_directory": "/log"
            },
            "state_directory": "/state", "group": "lithos"
        },
        "gpus": [{
            "index": 0, "uuid": "GPU-1", "name": "H100", "tpcs": [0, 1], "tpc_sms": 2, "pool": 2,
            "free": [0, 1], "self_test": self_test
        }],
        "unfit": [], "partitions": [], "channels": [], "transit": [], "problems": [],
        "tenants": [{
            "tenant": 1, "pid": 7, "uid": 1000, "command": "python3", "partition": "a",
            "channels": []
        }],
        "cannot_promise": []
    });
    serde_json::from_value(status).expect("a status")
}

/// What the doctor says about a machine that is well but for one thing: the lines that differ.
fn unwell(change: impl FnOnce(&mut Findings)) -> Vec<Line> {
    let usual = check(&well());
    let mut findings = well();
    change(&mut findings);
    let lines = check(&findings).into_iter();
    lines.filter(|line| !usual.contains(line)).collect()
}

/// Fails unless exactly one line differs, and it says these things.
#[track_caller]
fn says(lines: &[Line], topic: &str, state: State, parts: &[&str]) {
    let [line] = lines else {
        panic!("not one line: {lines:?}");
    };
    assert_eq!((line.topic, line.state), (topic, state), "{line:?}");
    let text = format!(
        "{} {}",
        line.found,
        line.todo.as_deref().unwrap_or_default()
    );
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn gpu(findings: &mut Findings) -> &mut GpuFound {
    let driver = findings.driver.as_mut().expect("a driver");
    &mut driver.gpus[0]
}

#[test]
fn where_all_is_well_nothing_is_to_be_done() {
    let lines = check(&well());
    for line in &lines {
        assert_eq!(line.state, State::Fine, "{line:?}");
        assert_eq!(line.todo, None, "{line:?}");
    }
    let topics = [
        "driver",
        "GPU",
        "self-test",
        "broker",
        "MPS",
        "processes",
        "injection",
        "permissions",
        "module",
        "Secure Boot",
    ];
    for topic in topics {
        assert!(lines.iter().any(|line| line.topic == topic), "{topic}");
    }
}

#[test]
fn a_driver_that_was_not_measured_is_noted() {
    let lines = unwell(|findings| {
        findings.driver.as_mut().expect("a driver").version = "600.1".into();
        findings.daemon = Ok(status(&passed("600.1")));
    });
    let notes: Vec<Line> = lines
        .into_iter()
        .filter(|line| line.topic == "driver")
        .collect();
    says(&notes, "driver", State::Note, &["600.1", MEASURED_DRIVER]);
}

#[test]
fn without_a_driver_the_gpus_are_unseen_and_it_is_to_be_installed() {
    let lines = unwell(|findings| findings.driver = Err("library not found".into()));
    let of = |topic: &str| {
        let lines = lines.iter().filter(|line| line.topic == topic);
        lines.cloned().collect::<Vec<_>>()
    };
    says(
        &of("driver"),
        "driver",
        State::Todo,
        &["library not found", "modprobe"],
    );
    says(&of("GPU"), "GPU", State::Unseen, &["driver"]);
    says(&of("processes"), "processes", State::Unseen, &["driver"]);
}

#[test]
fn gpus_that_are_not_managed_are_named_with_the_reason() {
    let lines = unwell(|findings| gpu(findings).generation = Some(8));
    says(&lines, "GPU", State::Note, &["unmanaged", "H100"]);
    let lines = unwell(|findings| gpu(findings).mig = Some(true));
    says(&lines, "GPU", State::Todo, &["nvidia-smi -i 0 -mig 0"]);
    let lines = unwell(|findings| gpu(findings).uuid = "GPU-2".into());
    let lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| line.topic != "GPU")
        .collect();
    says(
        &lines,
        "self-test",
        State::Todo,
        &["does not know", "restart"],
    );
    let lines = unwell(|findings| {
        findings.driver.as_mut().expect("a driver").gpus.clear();
    });
    let lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| line.topic == "GPU")
        .collect();
    says(&lines, "GPU", State::Todo, &["no GPU", "lspci"]);
}

#[test]
fn a_self_test_that_failed_is_told_with_its_reason() {
    let failed = json!({"is": "failed", "why": "masks do not hold"});
    let lines = unwell(|findings| findings.daemon = Ok(status(&failed)));
    says(
        &lines,
        "self-test",
        State::Todo,
        &["unmanaged", "masks do not hold", "restart"],
    );
    let lines = unwell(|findings| findings.daemon = Ok(status(&passed("570.1"))));
    says(
        &lines,
        "self-test",
        State::Todo,
        &["570.1", MEASURED_DRIVER, "restart lithosd"],
    );
    let lines = unwell(|findings| {
        let status = findings.daemon.as_mut().expect("a daemon");
        let unfit = json!({"index": 0, "uuid": "GPU-1", "name": "H100", "why": "it is odd"});
        status.unfit = vec![serde_json::from_value(unfit).expect("a GPU")];
    });
    says(
        &lines,
        "self-test",
        State::Todo,
        &["not managed: it is odd"],
    );
}

#[test]
fn without_a_daemon_there_is_nobody_to_ask() {
    let lines = unwell(|findings| findings.daemon = Err("connection refused".into()));
    let [self_test, broker] = &lines[..] else {
        panic!("{lines:?}");
    };
    let (self_test, broker) = ([self_test.clone()], [broker.clone()]);
    says(&self_test, "self-test", State::Unseen, &["lithosd"]);
    says(
        &broker,
        "broker",
        State::Todo,
        &["connection refused", "start lithosd"],
    );
}

#[test]
fn a_daemon_of_another_release_or_with_problems_is_told() {
    let lines = unwell(|findings| {
        findings.daemon.as_mut().expect("a daemon").daemon.version = "9.9".into();
    });
    says(&lines, "broker", State::Todo, &["9.9", "one release"]);
    let lines = unwell(|findings| {
        let status = findings.daemon.as_mut().expect("a daemon");
        status.problems.push("partition a does not fit".into());
    });
    says(&lines, "broker", State::Todo, &["partition a does not fit"]);
}

#[test]
fn mps_that_does_not_run_is_started_by_hand_only_where_it_is_required() {
    let stopped = |enable| {
        unwell(|findings| {
            findings.mps.pid = None;
            findings.mps.enable = enable;
        })
    };
    says(
        &stopped(Some(MpsEnable::Auto)),
        "MPS",
        State::Note,
        &["/pipe", "lithos run"],
    );
    says(&stopped(None), "MPS", State::Note, &["/pipe"]);
    says(
        &stopped(Some(MpsEnable::On)),
        "MPS",
        State::Todo,
        &["lithos mps start"],
    );
    let lines = unwell(|findings| findings.mps.unsuitable = Some("mps.enable is off".into()));
    says(&lines, "MPS", State::Note, &["mps.enable is off"]);
}

#[test]
fn another_users_clients_of_mps_are_named() {
    let lines = unwell(|findings| findings.uid = 2000);
    says(
        &lines,
        "MPS",
        State::Note,
        &["user 1000", "clients 7", "wait"],
    );
    let lines = unwell(|findings| findings.mps.servers = Err("permission denied".into()));
    says(&lines, "MPS", State::Unseen, &["permission denied"]);
    let lines = unwell(|findings| {
        findings.uid = 2000;
        findings.mps.servers.as_mut().expect("servers")[0]
            .clients
            .clear();
    });
    says(&lines, "MPS", State::Fine, &["no clients"]);
}

#[test]
fn processes_that_take_turns_and_those_that_are_no_tenants_are_named() {
    let lines = unwell(|findings| {
        gpu(findings).processes = Ok(vec![program(7, true), program(8, false)]);
    });
    says(
        &lines,
        "processes",
        State::Todo,
        &["process 8 (python3)", "take turns", "lithos run"],
    );
    let lines = unwell(|findings| {
        gpu(findings).processes = Ok(vec![program(7, true), program(8, true)]);
    });
    says(
        &lines,
        "processes",
        State::Note,
        &["process 8", "no tenant"],
    );
    let lines = unwell(|findings| gpu(findings).processes = Ok(vec![program(8, false)]));
    says(
        &lines,
        "processes",
        State::Note,
        &["process 8", "no tenant"],
    );
    let lines = unwell(|findings| gpu(findings).processes = Err("no permission".into()));
    says(&lines, "processes", State::Unseen, &["no permission"]);
}

#[test]
fn a_profiler_in_the_place_of_the_shim_is_named() {
    let lines = unwell(|findings| findings.injection = Injection::Taken("/cupti.so".into()));
    says(&lines, "injection", State::Todo, &["/cupti.so", "unset"]);
    let lines = unwell(|findings| findings.injection = Injection::Shim);
    says(&lines, "injection", State::Fine, &["the shim"]);
    let lines = unwell(|findings| findings.shim = Err("it is nowhere".into()));
    says(
        &lines,
        "injection",
        State::Todo,
        &["it is nowhere", "install"],
    );
    let lines = unwell(|findings| {
        findings.shim.as_mut().expect("a shim").others_write = true;
    });
    says(
        &lines,
        "injection",
        State::Todo,
        &["every tenant", "chmod go-w"],
    );
}

#[test]
fn what_a_user_may_do_and_how_to_be_allowed_more_is_said() {
    let may = |permission| unwell(|findings| findings.permission = permission);
    says(
        &may(Permission::Root),
        "permissions",
        State::Fine,
        &["root"],
    );
    says(
        &may(Permission::NextLogin),
        "permissions",
        State::Todo,
        &["log out"],
    );
    says(
        &may(Permission::NoMember),
        "permissions",
        State::Note,
        &["usermod -aG lithos"],
    );
    says(
        &may(Permission::NoGroup),
        "permissions",
        State::Note,
        &["groupadd lithos"],
    );
    let lines = unwell(|findings| {
        let state = findings.state_directory.as_mut().expect("a folder");
        state.others_write = true;
    });
    says(
        &lines,
        "permissions",
        State::Todo,
        &["does not believe", "chmod go-w /state"],
    );
    let lines = unwell(|findings| findings.state_directory = Err("no such folder".into()));
    says(&lines, "permissions", State::Unseen, &["no such folder"]);
}

#[test]
fn what_secure_boot_means_for_the_module_is_said() {
    let boot = |found| unwell(|findings| findings.secure_boot = found);
    says(
        &boot(SecureBoot::On),
        "Secure Boot",
        State::Note,
        &["signed", "mokutil"],
    );
    says(
        &boot(SecureBoot::NoEfi),
        "Secure Boot",
        State::Fine,
        &["EFI"],
    );
    says(
        &boot(SecureBoot::Unreadable),
        "Secure Boot",
        State::Unseen,
        &["read"],
    );
    let lines = unwell(|findings| findings.module_loaded = false);
    says(&lines, "module", State::Note, &["needs no module"]);
}

#[test]
fn a_module_that_is_there_and_not_used_is_noticed() {
    let lines = unwell(|findings| {
        let status = findings.daemon.as_mut().expect("a daemon");
        status.daemon.broker = BrokerKind::Embedded;
    });
    let notes: Vec<Line> = lines
        .into_iter()
        .filter(|line| line.topic == "module")
        .collect();
    says(
        &notes,
        "module",
        State::Note,
        &["the broker itself", "auto"],
    );
}
