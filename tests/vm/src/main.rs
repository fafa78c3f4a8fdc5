// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The first process of the virtual machine: mounts what a system has, runs what it is for, looks whether
//! the kernel has come to harm, and powers off.
//!
//! Its arguments are those after `--` on the kernel's command line:
//!
//! | arguments | what runs |
//! | --- | --- |
//! | `tests` | every program in `/tests`: tests of the usual harness, one at a time |
//! | `tests PROGRAM [FILTER]...` | one of them, and of it the tests with names like that |
//! | `run PROGRAM [ARGUMENT]...` | that program |
//! | `over-lithos PROGRAM [ARGUMENT]...` | that program, while lithos.ko is inserted |
//!
//! All output goes to the console. The last line is for `scripts/lib/vm`: `vm-init: N passed, N failed`.
//! A program that does not end before `LITHOS_VM_SECONDS` are over is told on by the kernel, killed, and
//! counts as a failure; what runs after it does not run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lithos_vm::Module;
use lithos_vm::log::{Log, is_report, taints};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How many passed, and how many failed.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn count(&mut self, what: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        println!("{} {what}", if passed { "ok:" } else { "FAILED:" });
    }
}

fn main() {
    let mut tally = Tally::default();
    if let Err(error) = run(&mut tally) {
        tally.count(&format!("vm-init: {error:#}"), false);
    }
    println!("vm-init: {} passed, {} failed", tally.passed, tally.failed);
    nix::unistd::sync();
    let error = reboot(RebootMode::RB_POWER_OFF);
    panic!("the machine stays on: {error:?}");
}

fn run(tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    ensure!(
        std::process::id() == 1,
        "this is for the virtual machine of scripts/vm"
    );
    mount_all()?;
    let seconds = std::env::var("LITHOS_VM_SECONDS").context("LITHOS_VM_SECONDS")?;
    let deadline = start + Duration::from_secs(seconds.parse().context("LITHOS_VM_SECONDS")?);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("kernel {}", release.trim());

    let leaks = Leaks::from_now()?;
    let mut log = Log::from_now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["tests"] => {
            for program in programs("/tests")? {
                test(&program, &[], deadline, tally)?;
            }
        }
        ["tests", program, ref filter @ ..] => {
            test(&Path::new("/tests").join(program), filter, deadline, tally)?;
        }
        ["run", program, ref arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            tally.count(program, wait(command, deadline, |_| ())?);
        }
        ["over-lithos", program, ref arguments @ ..] => {
            let module = Module::lithos("");
            println!("lithos.ko is inserted");
            let mut command = Command::new(program);
            command.args(arguments);
            tally.count(program, wait(command, deadline, |_| ())?);
            drop(module);
            println!("lithos.ko is removed");
        }
        _ => anyhow::bail!("arguments {arguments:?}"),
    }

    let reports = log.lines();
    let reports: Vec<_> = reports.iter().filter(|line| is_report(line)).collect();
    println!();
    for report in &reports {
        println!("    {report}");
    }
    tally.count("the kernel has reported nothing", reports.is_empty());
    let taints = taints();
    tally.count(
        &format!("the kernel is tainted by nothing but its modules ({taints:#x})"),
        taints == 0,
    );
    if let Some(leaks) = leaks {
        let leaked = leaks.find()?;
        print!("{leaked}");
        tally.count(
            "the kernel has found no memory that was lost",
            leaked.is_empty(),
        );
    }
    Ok(())
}

fn mount_all() -> Result<()> {
    for (kind, place, data) in [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", "mode=0755"),
        ("devpts", "/dev/pts", "ptmxmode=0666"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/run", "mode=0755"),
        ("debugfs", "/sys/kernel/debug", ""),
        ("cgroup2", "/sys/fs/cgroup", ""),
    ] {
        fs::create_dir_all(place).with_context(|| format!("no {place}"))?;
        match mount(Some(kind), place, Some(kind), MsFlags::empty(), Some(data)) {
            // The kernel may have mounted it itself.
            Ok(()) | Err(Errno::EBUSY) => (),
            Err(error) => return Err(error).with_context(|| format!("cannot mount {kind}")),
        }
    }
    // Every process may see the kernel's addresses and log: it is all about them.
    for (name, value) in [
        ("kptr_restrict", "0"),
        ("dmesg_restrict", "0"),
        ("sysrq", "1"),
    ] {
        fs::write(Path::new("/proc/sys/kernel").join(name), value)
            .with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// The programs in a folder, in the order of their names.
fn programs(folder: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.to_owned())?;
    let mut programs: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    programs.sort();
    ensure!(!programs.is_empty(), "there is nothing in {folder}");
    Ok(programs)
}

/// Runs a program of tests and counts its results; one that ends without them has failed.
fn test(program: &Path, filter: &[&str], deadline: Instant, tally: &mut Tally) -> Result<()> {
    let name = program.file_name().unwrap_or(OsStr::new("")).display();
    println!("\n== {name}");
    let mut command = Command::new(program);
    command.arg("--test-threads=1").args(filter);
    let results = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&results);
    let is_fine = wait(command, deadline, move |line| {
        if let Some(tally) = result_of(line) {
            *seen.lock().expect("no other holds it") = Some(tally);
        }
    })?;
    let results = results
        .lock()
        .expect("no other holds it")
        .unwrap_or_default();
    tally.passed += results.passed;
    tally.failed += results.failed;
    if !is_fine && results.failed == 0 {
        tally.count(&format!("{name} ended without a result"), false);
    }
    Ok(())
}

/// What libtest says last: `test result: ok. 5 passed; 0 failed; 0 ignored; ...`.
fn result_of(line: &str) -> Option<Tally> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what| {
        let part = numbers.split("; ").find_map(|part| part.strip_suffix(what));
        part?.trim().parse().ok()
    };
    Some(Tally {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

/// Runs a program to its end, with what it writes on the console, and returns whether it was a success.
/// Processes whose parents have ended are this one's, and are buried here.
fn wait(
    mut command: Command,
    deadline: Instant,
    mut see: impl FnMut(&str) + Send + 'static,
) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/")
        .env("RUST_BACKTRACE", "1")
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let output = child.stdout.take().context("a pipe")?;
    let reader = std::thread::spawn(move || {
        // As bytes come: the name of a test comes before what becomes of it.
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(bytes @ [_, ..]) = output.fill_buf() {
            let mut console = std::io::stdout();
            let _ = console.write_all(bytes).and_then(|()| console.flush());
            for &byte in bytes {
                if byte == b'\n' {
                    see(&String::from_utf8_lossy(&line));
                    line.clear();
                } else {
                    line.push(byte);
                }
            }
            let read = bytes.len();
            output.consume(read);
        }
    });
    let pid = Pid::from_raw(child.id().try_into()?);
    let mut is_late = false;
    let status = loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
            WaitStatus::Exited(ended, status) if ended == pid => break status == 0,
            WaitStatus::Signaled(ended, signal, _) if ended == pid => {
                println!("ended by {signal}");
                break false;
            }
            WaitStatus::StillAlive if Instant::now() > deadline && !is_late => {
                is_late = true;
                println!(
                    "\nit is late: what hangs in the kernel, if anything, and what each processor does"
                );
                fs::write("/proc/sysrq-trigger", "w")?;
                fs::write("/proc/sysrq-trigger", "l")?;
                killpg(pid, Signal::SIGKILL)?;
            }
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(5)),
            _ => (),
        }
    };
    // A process that it left behind has its output, too.
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = reader.join();
    Ok(status && !is_late)
}

/// Memory that nothing points to any more, in a kernel that looks for it.
struct Leaks;

impl Leaks {
    const FILE: &str = "/sys/kernel/debug/kmemleak";

    /// What is there already is not to be told.
    fn from_now() -> Result<Option<Self>> {
        if !fs::exists(Self::FILE)? {
            return Ok(None);
        }
        fs::write(Self::FILE, "scan=off")?;
        fs::write(Self::FILE, "clear")?;
        Ok(Some(Self))
    }

    /// Returns what has been lost since, and by whom.
    fn find(&self) -> Result<String> {
        // It takes nothing for lost that is younger than five seconds, and believes what it saw twice.
        std::thread::sleep(Duration::from_secs(6));
        for _ in 0..2 {
            let mut file = File::options().write(true).open(Self::FILE)?;
            file.write_all(b"scan")?;
        }
        fs::read_to_string(Self::FILE).context("kmemleak")
    }
}
