// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! MPS: NVIDIA's server through which processes run on a GPU at the same time.
//!
//! If its processes end all their clients do, so they are no children of the daemon: `lithos` starts
//! them, they detach themselves, and they outlive both. Their environment is made from nothing: with our
//! shim in it, the server itself would become a tenant.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lithosd::control::{Reply, Request};
use lithosd::status::MpsStatus;
use serde::Serialize;

use crate::client::Client;

const PROGRAM: &str = "nvidia-cuda-mps-control";
/// The kernel keeps the first 15 bytes of a program's name.
const COMM: &str = "nvidia-cuda-mps";
/// Written by the control process into its pipe directory.
const PID_FILE: &str = "nvidia-cuda-mps-control.pid";

const START_PATIENCE: Duration = Duration::from_secs(10);
const RACE_PATIENCE: Duration = Duration::from_secs(1);
/// Stopping waits for clients to end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// MPS in its directories.
#[derive(Debug)]
pub(crate) struct Mps {
    pipe_directory: PathBuf,
    log_directory: PathBuf,
    unsuitable: Option<String>,
    path: OsString,
}

/// Whether MPS runs.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    /// The control process, if it runs.
    pub(crate) pid: Option<i32>,
    /// Why MPS is not for this machine, if it is not.
    pub(crate) unsuitable: Option<String>,
    /// `CUDA_MPS_PIPE_DIRECTORY`.
    pub(crate) pipe_directory: PathBuf,
    /// `CUDA_MPS_LOG_DIRECTORY`.
    pub(crate) log_directory: PathBuf,
}

/// A server of MPS's, which its clients of one user share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its process.
    pub(crate) pid: i32,
    /// Its user.
    pub(crate) uid: u32,
    /// Its clients' processes.
    pub(crate) clients: Vec<i32>,
}

impl Mps {
    /// MPS as the daemon wants it.
    pub(crate) fn new(status: &MpsStatus) -> Self {
        Self {
            pipe_directory: (&status.pipe_directory).into(),
            log_directory: (&status.log_directory).into(),
            unsuitable: status.unsuitable.clone(),
            path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// Asks the daemon how it wants MPS; without a daemon it is where the default puts it.
    pub(crate) fn find(socket: &Path) -> Self {
        let asked = Client::connect(socket).and_then(|mut client| client.ask(&Request::Mps));
        if let Ok(Reply::Mps(status)) = asked {
            return Self::new(&status);
        }
        let directory = socket.parent().unwrap_or(Path::new("/")).join("mps");
        Self {
            pipe_directory: directory.join("pipe"),
            log_directory: directory.join("log"),
            unsuitable: None,
            path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// Returns how it stands.
    pub(crate) fn state(&self) -> State {
        State {
            pid: self.pid(),
            unsuitable: self.unsuitable.clone(),
            pipe_directory: self.pipe_directory.clone(),
            log_directory: self.log_directory.clone(),
        }
    }

    /// Asks the control process, which runs, for its servers and their clients.
    pub(crate) fn servers(&self) -> anyhow::Result<Vec<Server>> {
        let mut servers = Vec::new();
        for pid in self.list("get_server_list")? {
            let place = format!("/proc/{pid}");
            let uid = fs::metadata(&place).with_context(|| format!("cannot look at {place}"))?;
            servers.push(Server {
                pid,
                uid: uid.uid(),
                clients: self.list(&format!("get_client_list {pid}"))?,
            });
        }
        Ok(servers)
    }

    /// Asks the control process for processes, a line each.
    fn list(&self, request: &str) -> anyhow::Result<Vec<i32>> {
        let (status, said) = self.control(&[], &format!("{request}\n"), RACE_PATIENCE)?;
        if !status.success() {
            bail!("{PROGRAM} ended with {status}: {said}");
        }
        Ok(said
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect())
    }

    /// Starts it if it does not run, and returns its control process.
    pub(crate) fn start(&self) -> anyhow::Result<i32> {
        if let Some(why) = &self.unsuitable {
            bail!("MPS is not for this machine: {why}");
        }
        if let Some(pid) = self.pid() {
            return Ok(pid);
        }
        for directory in [&self.pipe_directory, &self.log_directory] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
        let (status, said) = self.control(&["-d"], "", START_PATIENCE)?;
        // Where it failed, another one may have been faster; then all is well.
        let patience = if status.success() {
            START_PATIENCE
        } else {
            RACE_PATIENCE
        };
        match wait_for(patience, || Ok(self.pid()))? {
            Some(pid) => Ok(pid),
            None => bail!("{PROGRAM} -d ended with {status} and MPS does not run: {said}"),
        }
    }

    /// Stops it if it runs.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        let (_, said) = self.control(&[], "quit\n", STOP_PATIENCE)?;
        let stopped = || Ok(self.pid().is_none().then_some(()));
        if wait_for(STOP_PATIENCE, stopped)?.is_none() {
            bail!(
                "MPS (process {pid}) was told to quit and still runs after {} s, probably because \
                 it has clients: {said}",
                STOP_PATIENCE.as_secs()
            );
        }
        Ok(())
    }

    /// Returns the control process, if it runs.
    fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.pipe_directory.join(PID_FILE)).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        // The file stays behind when the process is killed, and the number is used again.
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (comm.trim_end() == COMM).then_some(pid)
    }

    /// Runs the control program to its end, and returns how it ended and what it said.
    fn control(
        &self,
        arguments: &[&str],
        input: &str,
        patience: Duration,
    ) -> anyhow::Result<(ExitStatus, String)> {
        let program = self.program()?;
        // Files and not pipes: the process that detaches itself may keep them open.
        let mut said = tempfile::tempfile()?;
        let mut child = Command::new(&program)
            .args(arguments)
            .env_clear()
            .env("PATH", &self.path)
            .env("CUDA_MPS_PIPE_DIRECTORY", &self.pipe_directory)
            .env("CUDA_MPS_LOG_DIRECTORY", &self.log_directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A control program that cannot reach its daemon ends without reading; its status tells.
            let _ = stdin.write_all(input.as_bytes());
        }
        let Some(status) = wait_for(patience, || Ok(child.try_wait()?))? else {
            child.kill()?;
            child.wait()?;
            bail!("{PROGRAM} had not ended after {} s", patience.as_secs());
        };
        let mut text = Vec::new();
        said.rewind()?;
        said.read_to_end(&mut text)?;
        Ok((status, String::from_utf8_lossy(&text).trim().to_owned()))
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        let mut candidates = std::env::split_paths(&self.path).map(|folder| folder.join(PROGRAM));
        let found = candidates.find(|path| path.is_file());
        found.with_context(|| format!("{PROGRAM} is not in PATH; it comes with the NVIDIA driver"))
    }
}

fn wait_for<T>(
    patience: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what the control program does, as far as it matters here.
    const FAKE: &str = r#"#!/bin/sh
env > "$CUDA_MPS_LOG_DIRECTORY/environment"
cd "$CUDA_MPS_PIPE_DIRECTORY" || exit 1
if [ "$1" = -d ]; then
    touch running
    (while test -e running; do sleep 0.05; done) </dev/null >/dev/null 2>&1 &
    echo $! > new
    mv new nvidia-cuda-mps-control.pid
else
    read -r word
    test "$word" = quit && rm running
fi
"#;

    fn mps(dir: &Path, script: Option<&str>) -> Mps {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        if let Some(script) = script {
            // Not written by this process: a child of another test could hold the descriptor, and
            // what is being written is not executed.
            let mut shell = Command::new("sh");
            shell.args(["-c", "printf %s \"$0\" > \"$1\" && chmod +x \"$1\"", script]);
            assert!(shell.arg(bin.join(PROGRAM)).status().unwrap().success());
        }
        let rest = std::env::var_os("PATH").unwrap();
        let path = [bin].into_iter().chain(std::env::split_paths(&rest));
        Mps {
            pipe_directory: dir.join("pipe"),
            log_directory: dir.join("log"),
            unsuitable: None,
            path: std::env::join_paths(path).unwrap(),
        }
    }

    #[test]
    fn mps_is_started_once_in_a_clean_environment_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mps = mps(dir.path(), Some(FAKE));
        assert_eq!(mps.state().pid, None);
        let pid = mps.start().unwrap();
        assert_eq!(mps.start().unwrap(), pid);
        assert_eq!(mps.state().pid, Some(pid));
        let environment = fs::read_to_string(dir.path().join("log/environment")).unwrap();
        let ours = [
            "CUDA_MPS_PIPE_DIRECTORY=",
            "CUDA_MPS_LOG_DIRECTORY=",
            "PATH=",
        ];
        for name in ours {
            assert!(environment.contains(name), "{environment}");
        }
        let shell = ["PWD=", "_=", "SHLVL=", "OLDPWD="];
        for line in environment.lines() {
            let known = ours.iter().chain(&shell).any(|name| line.starts_with(name));
            assert!(known, "{line}");
        }
        mps.stop().unwrap();
        assert_eq!(mps.state().pid, None);
        mps.stop().unwrap();
    }

    #[test]
    fn a_process_that_has_the_number_of_an_old_one_is_not_mps() {
        let dir = tempfile::tempdir().unwrap();
        let mps = mps(dir.path(), None);
        fs::create_dir_all(dir.path().join("pipe")).unwrap();
        let own = std::process::id().to_string();
        fs::write(dir.path().join("pipe").join(PID_FILE), own).unwrap();
        assert_eq!(mps.state().pid, None);
    }

    #[test]
    fn what_keeps_mps_from_starting_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut mps = mps(dir.path(), None);
        mps.path = dir.path().into();
        let error = mps.start().unwrap_err().to_string();
        assert!(error.contains("is not in PATH"), "{error}");
        mps.unsuitable = Some("the GPU is simulated".into());
        let error = mps.start().unwrap_err().to_string();
        assert!(error.contains("the GPU is simulated"), "{error}");
    }
}
