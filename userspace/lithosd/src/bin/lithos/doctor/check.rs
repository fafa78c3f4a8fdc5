// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What findings mean: a line for each thing. Pure, so that every line can be tried on made-up findings.

use std::fmt::Display;

use lithos_abi::bindings::LITHOS_ABI_VERSION;
use lithosd::broker::BrokerKind;
use lithosd::config::MpsEnable;
use lithosd::selftest::Verdict;
use lithosd::status::{GpuStatus, Status};

use super::gather::{Findings, GpuFound, Injection, Permission, Place, Process, SecureBoot};
use super::{Line, State};

/// The driver that everything was measured on.
const MEASURED_DRIVER: &str = "580.159.04";
/// The generation of GPUs that is managed, by its compute capability.
const HOPPER: i32 = 9;
/// The version of launch descriptors that Hopper has.
const DESCRIPTOR_VERSION: &str = "4.0";

/// Judges findings.
pub(super) fn check(findings: &Findings) -> Vec<Line> {
    let mut lines = Vec::new();
    driver(findings, &mut lines);
    gpus(findings, &mut lines);
    daemon(findings, &mut lines);
    mps(findings, &mut lines);
    processes(findings, &mut lines);
    injection(findings, &mut lines);
    permissions(findings, &mut lines);
    lines.push(module(findings));
    lines.push(secure_boot(findings.secure_boot));
    lines
}

fn line(topic: &'static str, state: State, found: impl Display) -> Line {
    Line {
        topic,
        state,
        found: found.to_string(),
        todo: None,
    }
}

fn fine(topic: &'static str, found: impl Display) -> Line {
    line(topic, State::Fine, found)
}

fn unseen(topic: &'static str, found: impl Display) -> Line {
    line(topic, State::Unseen, found)
}

fn with(topic: &'static str, state: State, found: impl Display, todo: impl Display) -> Line {
    Line {
        todo: Some(todo.to_string()),
        ..line(topic, state, found)
    }
}

fn todo(topic: &'static str, found: impl Display, what: impl Display) -> Line {
    with(topic, State::Todo, found, what)
}

fn driver(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "driver";
    lines.push(match &findings.driver {
        Ok(driver) if driver.version == MEASURED_DRIVER || driver.is_simulated => {
            fine(TOPIC, format!("version {}", driver.version))
        }
        Ok(driver) => with(
            TOPIC,
            State::Note,
            format!(
                "version {}; LithOS was measured on {MEASURED_DRIVER}",
                driver.version
            ),
            "nothing, if the self-test below has passed",
        ),
        Err(why) => todo(
            TOPIC,
            format!("NVML does not work: {why}"),
            "install NVIDIA's driver, load its module (modprobe nvidia), look into dmesg",
        ),
    });
}

fn gpus(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "GPU";
    let Ok(driver) = &findings.driver else {
        lines.push(unseen(TOPIC, "no GPU can be seen without the driver"));
        return;
    };
    if driver.gpus.is_empty() {
        let found = "the driver lists no GPU";
        lines.push(todo(TOPIC, found, "look for it in lspci and dmesg"));
    }
    for gpu in &driver.gpus {
        lines.push(kind(gpu));
        lines.push(self_test(findings, gpu, &driver.version));
    }
}

fn kind(gpu: &GpuFound) -> Line {
    const TOPIC: &str = "GPU";
    let name = format!("GPU {}: {}, {}", gpu.index, gpu.name, gpu.uuid);
    if gpu.generation != Some(HOPPER) {
        return with(
            TOPIC,
            State::Note,
            format!("{name}: no Hopper GPU, so programs on it run unmanaged"),
            "use an H100 or H200 to have programs managed",
        );
    }
    match gpu.mig {
        Some(true) => todo(
            TOPIC,
            format!("{name}: cut into MIG instances, which LithOS does not manage"),
            format!("nvidia-smi -i {} -mig 0, then restart lithosd", gpu.index),
        ),
        _ => fine(
            TOPIC,
            format!("{name}: Hopper, launch descriptors of version {DESCRIPTOR_VERSION}"),
        ),
    }
}

fn self_test(findings: &Findings, gpu: &GpuFound, driver: &str) -> Line {
    const TOPIC: &str = "self-test";
    let Ok(status) = &findings.daemon else {
        let found = format!("GPU {}: lithosd makes it, and does not answer", gpu.index);
        return unseen(TOPIC, found);
    };
    let is_it = |uuid: &str| uuid == gpu.uuid;
    if let Some(unfit) = status.unfit.iter().find(|unfit| is_it(&unfit.uuid)) {
        return todo(
            TOPIC,
            format!("GPU {}: not managed: {}", gpu.index, unfit.why),
            "put that right, then restart lithosd",
        );
    }
    let known = status.gpus.iter().find(|known| is_it(&known.uuid));
    match known.map(|GpuStatus { self_test, .. }| self_test) {
        Some(Verdict::Passed(proof)) if proof.subject.driver == driver => fine(
            TOPIC,
            format!(
                "GPU {}: passed with driver {driver} (library {}, edits {})",
                gpu.index, proof.library, proof.subject.edits
            ),
        ),
        Some(Verdict::Passed(proof)) => todo(
            TOPIC,
            format!(
                "GPU {}: passed with driver {}, but the driver is {driver} now",
                gpu.index, proof.subject.driver
            ),
            "restart lithosd, which then tests again",
        ),
        Some(Verdict::Failed { why }) => todo(
            TOPIC,
            format!("GPU {}: failed, programs run unmanaged: {why}", gpu.index),
            "end other programs on the GPU and restart lithosd; if it fails again, this driver or \
             GPU is none that LithOS knows",
        ),
        None => todo(
            TOPIC,
            format!("GPU {}: lithosd does not know this GPU", gpu.index),
            "restart lithosd",
        ),
    }
}

fn daemon(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "broker";
    let status = match &findings.daemon {
        Ok(status) => status,
        Err(why) => {
            let found = format!("lithosd does not answer: {why}");
            lines.push(todo(TOPIC, found, "start lithosd, as root"));
            return;
        }
    };
    let daemon = &status.daemon;
    let found = format!(
        "{} broker of lithosd {}, process {}",
        daemon.broker, daemon.version, daemon.pid
    );
    let is_ours =
        daemon.version == env!("CARGO_PKG_VERSION") && daemon.abi_version == LITHOS_ABI_VERSION;
    lines.push(match is_ours {
        true => fine(TOPIC, found),
        false => todo(
            TOPIC,
            format!(
                "{found}; this command is of release {}",
                env!("CARGO_PKG_VERSION")
            ),
            "restart lithosd, so that daemon, command and shim are of one release",
        ),
    });
    let problems = status.problems.iter();
    lines.extend(problems.map(|problem| todo(TOPIC, problem, "see the log of lithosd")));
}

fn mps(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "MPS";
    let mps = &findings.mps;
    if let Some(why) = &mps.unsuitable {
        lines.push(line(TOPIC, State::Note, format!("not used: {why}")));
        return;
    }
    let Some(pid) = mps.pid else {
        let found = format!("does not run; its pipes are in {}", mps.pipe_directory);
        lines.push(match mps.enable {
            Some(MpsEnable::On) => todo(TOPIC, found, "lithos mps start"),
            _ => with(TOPIC, State::Note, found, "nothing: lithos run starts it"),
        });
        return;
    };
    lines.push(fine(
        TOPIC,
        format!("runs: process {pid}, {}", mps.pipe_directory),
    ));
    let servers = match &mps.servers {
        Ok(servers) => servers,
        Err(why) => {
            lines.push(unseen(TOPIC, format!("its servers and clients: {why}")));
            return;
        }
    };
    for server in servers {
        let clients: Vec<String> = server.clients.iter().map(i32::to_string).collect();
        let clients = match clients.is_empty() {
            true => "no clients".into(),
            false => format!("clients {}", clients.join(", ")),
        };
        let found = format!("server {} of user {}, {clients}", server.pid, server.uid);
        lines.push(
            match server.uid == findings.uid || server.clients.is_empty() {
                true => fine(TOPIC, found),
                false => with(
                    TOPIC,
                    State::Note,
                    format!("{found}; programs of other users wait until these have ended"),
                    "run all programs as one user, or end those clients",
                ),
            },
        );
    }
}

fn processes(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "processes";
    let Ok(driver) = &findings.driver else {
        lines.push(unseen(TOPIC, "none can be seen without the driver"));
        return;
    };
    let tenants: Option<Vec<i32>> = (findings.daemon.as_ref().ok())
        .map(|status: &Status| status.tenants.iter().map(|tenant| tenant.pid).collect());
    for gpu in &driver.gpus {
        let processes = match &gpu.processes {
            Ok(processes) => processes,
            Err(why) => {
                let found = format!("GPU {}: those on it cannot be seen: {why}", gpu.index);
                lines.push(unseen(TOPIC, found));
                continue;
            }
        };
        let programs = processes.iter().filter(|process| !process.is_mps_server);
        let programs: Vec<&Process> = programs.collect();
        let before = lines.len();
        let alone = programs.len() < 2 && !processes.iter().any(|process| process.is_mps_client);
        for process in &programs {
            let who = format!(
                "GPU {}: process {} ({})",
                gpu.index, process.pid, process.name
            );
            if !process.is_mps_client && !driver.is_simulated && !alone {
                lines.push(todo(
                    TOPIC,
                    format!("{who} is no client of MPS: it and all others take turns"),
                    "end it, and start it with lithos run while MPS runs",
                ));
            } else if tenants
                .as_ref()
                .is_some_and(|tenants| !tenants.contains(&process.pid))
            {
                lines.push(with(
                    TOPIC,
                    State::Note,
                    format!("{who} is no tenant: it uses all TPCs"),
                    "start it with lithos run to keep it within a partition",
                ));
            }
        }
        if lines.len() == before {
            let found = format!(
                "GPU {}: {} programs, as they should be",
                gpu.index,
                programs.len()
            );
            lines.push(fine(TOPIC, found));
        }
    }
}

fn injection(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "injection";
    lines.push(match &findings.shim {
        Ok(Place {
            path,
            others_write: true,
            ..
        }) => todo(
            TOPIC,
            format!("{path} can be written by others, and runs in every tenant"),
            format!("chown root {path}; chmod go-w {path}"),
        ),
        Ok(Place { path, .. }) => fine(TOPIC, format!("the shim is {path}")),
        Err(why) => todo(
            TOPIC,
            format!("there is no shim: {why}"),
            "install LithOS whole",
        ),
    });
    lines.push(match &findings.injection {
        Injection::Free => fine(TOPIC, "CUDA_INJECTION64_PATH is not set"),
        Injection::Shim => fine(TOPIC, "CUDA_INJECTION64_PATH names the shim"),
        Injection::Taken(other) => todo(
            TOPIC,
            format!(
                "CUDA_INJECTION64_PATH is {other}, of a profiler perhaps; there is room for one"
            ),
            "unset CUDA_INJECTION64_PATH; profile programs without LithOS",
        ),
    });
}

fn permissions(findings: &Findings, lines: &mut Vec<Line>) {
    const TOPIC: &str = "permissions";
    let group = &findings.group;
    lines.push(match findings.permission {
        Permission::Root => fine(TOPIC, "root may change partitions"),
        Permission::Member => fine(
            TOPIC,
            format!("as a member of {group} you may change partitions"),
        ),
        Permission::NextLogin => todo(
            TOPIC,
            format!("you are a member of {group}, but were not when you logged in"),
            "log out and in again",
        ),
        Permission::NoMember => with(
            TOPIC,
            State::Note,
            format!("you may run programs and look, but not change partitions: not in {group}"),
            format!("to change them: sudo usermod -aG {group} USER, then log in again"),
        ),
        Permission::NoGroup => with(
            TOPIC,
            State::Note,
            format!("there is no group {group}: only root may change partitions"),
            format!("to let others: sudo groupadd {group}, then restart lithosd"),
        ),
    });
    lines.push(match &findings.state_directory {
        Ok(Place {
            path,
            others_write: true,
            ..
        }) => todo(
            TOPIC,
            format!("{path} can be written by others, so lithosd does not believe what is in it"),
            format!("chown root {path}; chmod go-w {path}"),
        ),
        Ok(Place { path, .. }) => fine(TOPIC, format!("only its owner writes {path}")),
        Err(why) => unseen(TOPIC, why),
    });
}

fn module(findings: &Findings) -> Line {
    const TOPIC: &str = "module";
    let kind = findings.daemon.as_ref().map(|status| status.daemon.broker);
    match (findings.module_loaded, kind) {
        (true, Ok(BrokerKind::Embedded)) => with(
            TOPIC,
            State::Note,
            "lithos.ko is loaded, and lithosd is the broker itself",
            "have broker = \"auto\" in lithosd.toml and restart lithosd; if it stays so lithos status \
             says why",
        ),
        (true, _) => fine(TOPIC, "lithos.ko is loaded"),
        (false, _) => line(
            TOPIC,
            State::Note,
            "lithos.ko is not loaded: lithosd is the broker itself, which needs no module; lithos status \
             says what that cannot promise",
        ),
    }
}

fn secure_boot(found: SecureBoot) -> Line {
    const TOPIC: &str = "Secure Boot";
    match found {
        SecureBoot::Off => fine(TOPIC, "off: modules need no signature"),
        SecureBoot::NoEfi => fine(TOPIC, "not booted by EFI: modules need no signature"),
        SecureBoot::On => with(
            TOPIC,
            State::Note,
            "on: the kernel loads signed modules only; the embedded broker needs none",
            "for lithos.ko: sign it with a key that is enrolled (mokutil --import)",
        ),
        SecureBoot::Unreadable => unseen(TOPIC, "the EFI variable SecureBoot cannot be read"),
    }
}

#[cfg(test)]
mod tests;
