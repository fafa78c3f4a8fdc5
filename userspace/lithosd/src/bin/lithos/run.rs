// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `lithos run`: becomes a program, in an environment in which the CUDA driver loads our shim.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use lithosd::config::MpsEnable;
use lithosd::control::{Joined, Reply, Request};
use lithosd::partition::ClassWord;

use crate::client::{Client, unexpected};
use crate::mps::Mps;

/// Names the library that the CUDA driver loads at its start.
pub(crate) const INJECTION: &str = "CUDA_INJECTION64_PATH";
/// The partition of those who name none.
const DEFAULT_PARTITION: &str = "default";

const SHIM: &str = "liblithos_shim.so";

/// Run a program, and all CUDA programs that it starts, in a partition.
///
/// With --tpcs the partition is made for this program and goes with it; with --partition the program
/// joins one that exists. Without either it joins the partition named default.
///
/// The program is executed in place of this command, with these variables in its environment:
/// CUDA_INJECTION64_PATH (the shim), LITHOS_SOCKET, LITHOS_PARTITION, LITHOS_ENFORCE where the
/// partition demands that; where MPS is used CUDA_MPS_PIPE_DIRECTORY and CUDA_MPS_LOG_DIRECTORY; and
/// CUDA_MPS_CLIENT_PRIORITY=1 for best-effort programs. The shim is looked for in LITHOS_SHIM, beside
/// this command, and in ../lib/lithos from there.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Run {
    /// The partition to join.
    #[arg(long, short, conflicts_with = "tpcs")]
    partition: Option<String>,
    /// Make a partition that is guaranteed so many TPCs, for as long as the program runs.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    tpcs: Option<u32>,
    /// The class of that partition: lc (latency-critical) or be (best-effort).
    #[arg(long, requires = "tpcs", default_value = "be")]
    class: ClassWord,
    /// Do not let the program run if it cannot be managed.
    #[arg(long)]
    enforce: bool,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Becomes the program; returns only if that fails.
    pub(crate) fn exec(&self, socket: &Path) -> ExitCode {
        let mut command = match self.command(socket) {
            Ok(command) => command,
            Err(error) => {
                eprintln!("lithos: {error:#}");
                return ExitCode::from(125);
            }
        };
        let error = command.exec();
        let program = command.get_program().display();
        eprintln!("lithos: cannot run {program}: {error}");
        match error.kind() {
            std::io::ErrorKind::NotFound => ExitCode::from(127),
            _ => ExitCode::from(126),
        }
    }

    fn command(&self, socket: &Path) -> anyhow::Result<Command> {
        let shim = find_shim()?;
        refuse_profiler(std::env::var_os(INJECTION).as_deref(), &shim)?;
        let mut client = Client::connect(socket)?;
        let joined = match client.ask(&self.request()) {
            Ok(Reply::Joined(joined)) => joined,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if self.partition.is_none() && self.tpcs.is_none() => {
                let text = "name a partition with --partition, or ask for TPCs with --tpcs";
                return Err(error.context(text));
            }
            Err(error) => return Err(error),
        };
        see_to_mps(&joined)?;
        let [program, arguments @ ..] = self.command.as_slice() else {
            bail!("name a program to run");
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command.envs(environment(&joined, &shim, self.enforce));
        Ok(command)
    }

    fn request(&self) -> Request {
        match (&self.partition, self.tpcs) {
            (_, Some(tpcs)) => Request::Run {
                tpcs,
                class: self.class,
                enforce: self.enforce,
            },
            (partition, None) => Request::Join {
                partition: partition.as_deref().unwrap_or(DEFAULT_PARTITION).into(),
                enforce: self.enforce,
            },
        }
    }
}

/// The variables of a tenant.
fn environment(joined: &Joined, shim: &Path, enforce: bool) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&'static str, OsString)> = vec![
        (INJECTION, shim.into()),
        ("LITHOS_SOCKET", (&joined.broker_socket).into()),
        ("LITHOS_PARTITION", (&joined.partition).into()),
        // Said even if not, because a tenant's children may be tenants of another partition.
        (
            "LITHOS_ENFORCE",
            if enforce || joined.enforce { "1" } else { "0" }.into(),
        ),
    ];
    if joined.mps.unsuitable.is_none() {
        variables.push((
            "CUDA_MPS_PIPE_DIRECTORY",
            (&joined.mps.pipe_directory).into(),
        ));
        variables.push(("CUDA_MPS_LOG_DIRECTORY", (&joined.mps.log_directory).into()));
    }
    let priority = match joined.class {
        ClassWord::Lc => "0",
        ClassWord::Be => "1",
    };
    variables.push(("CUDA_MPS_CLIENT_PRIORITY", priority.into()));
    variables
}

/// The driver loads one library: with a profiler's there is no room for ours.
fn refuse_profiler(found: Option<&OsStr>, shim: &Path) -> anyhow::Result<()> {
    match found {
        Some(found) if !found.is_empty() && Path::new(found) != shim => bail!(
            "{INJECTION} is set to {}, probably by a profiler; the CUDA driver loads one such library \
             only, so unset it to run under LithOS, or run the program without lithos run",
            found.display()
        ),
        _ => Ok(()),
    }
}

/// Starts MPS where the configuration wants it.
fn see_to_mps(joined: &Joined) -> anyhow::Result<()> {
    let status = &joined.mps;
    if status.unsuitable.is_some() {
        return Ok(());
    }
    match (Mps::new(status).start(), status.enable) {
        (Ok(_), _) => Ok(()),
        (Err(error), MpsEnable::On) => Err(error.context("mps.enable is on, and MPS does not run")),
        (Err(error), _) => {
            eprintln!("lithos: without MPS programs take turns on the GPU: {error:#}");
            Ok(())
        }
    }
}

/// Finds the library that the CUDA driver is to load.
pub(crate) fn find_shim() -> anyhow::Result<PathBuf> {
    let told = std::env::var_os("LITHOS_SHIM").filter(|path| !path.is_empty());
    if let Some(path) = told.map(PathBuf::from) {
        return path
            .canonicalize()
            .with_context(|| format!("LITHOS_SHIM names {}", path.display()));
    }
    let this = std::env::current_exe().context("cannot find this command's own place")?;
    let folder = this.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(SHIM), folder.join("../lib/lithos").join(SHIM)];
    let found = places.iter().find_map(|path| path.canonicalize().ok());
    found.with_context(|| {
        format!(
            "{SHIM} is neither {} nor {}; name its place in LITHOS_SHIM",
            places[0].display(),
            places[1].display()
        )
    })
}

#[cfg(test)]
mod tests {
    use lithosd::status::MpsStatus;

    use super::*;

    fn joined(class: ClassWord, unsuitable: Option<String>) -> Joined {
        Joined {
            partition: "a".into(),
            class,
            enforce: false,
            broker_socket: "/run/lithos/broker.sock".into(),
            mps: MpsStatus {
                enable: MpsEnable::Auto,
                unsuitable,
                pipe_directory: "/pipe".into(),
                log_directory: "/log".into(),
            },
        }
    }

    #[test]
    fn a_best_effort_tenant_on_a_real_gpu_is_an_mps_client_of_low_priority() {
        let variables = environment(&joined(ClassWord::Be, None), Path::new("/shim.so"), false);
        for expected in [
            (INJECTION, "/shim.so"),
            ("LITHOS_PARTITION", "a"),
            ("LITHOS_ENFORCE", "0"),
            ("CUDA_MPS_PIPE_DIRECTORY", "/pipe"),
            ("CUDA_MPS_CLIENT_PRIORITY", "1"),
        ] {
            assert!(
                variables.contains(&(expected.0, expected.1.into())),
                "{expected:?}"
            );
        }
    }

    #[test]
    fn on_a_simulated_gpu_there_is_no_mps() {
        let simulated = joined(ClassWord::Lc, Some("the GPU is simulated".into()));
        let variables = environment(&simulated, Path::new("/shim.so"), true);
        assert!(
            variables
                .iter()
                .all(|(name, _)| !name.ends_with("_DIRECTORY"))
        );
        assert!(variables.contains(&("CUDA_MPS_CLIENT_PRIORITY", "0".into())));
        assert!(variables.contains(&("LITHOS_ENFORCE", "1".into())));
    }

    #[test]
    fn a_profiler_is_left_alone_and_a_nested_run_is_not_one() {
        let shim = Path::new("/lib/liblithos_shim.so");
        for fine in [None, Some(""), Some("/lib/liblithos_shim.so")] {
            refuse_profiler(fine.map(OsStr::new), shim).unwrap();
        }
        let error = refuse_profiler(Some(OsStr::new("/cupti.so")), shim)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/cupti.so") && error.contains("profiler"),
            "{error}"
        );
    }
}
