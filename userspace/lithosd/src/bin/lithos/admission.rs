// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `lithos admission`: who may have GPU channels, and who has some.

use std::path::Path;

use clap::Subcommand;
use lithosd::config::AdmissionMode;
use lithosd::control::{Reply, Request};
use lithosd::status::AdmissionStatus;

use crate::client::{self, Client};
use crate::mps::Mps;
use crate::{Output, show};

/// Set who may have GPU channels, through which all work reaches a GPU, and see who has some.
///
/// Needs lithos.ko, which looks at the NVIDIA driver. Off: anybody may, and nobody is counted. Audit:
/// anybody may, and is counted. Enforce: tenants may; so may programs that `lithos run` has started in
/// partitions that do not enforce management, and what has been admitted. Nobody is kept from opening a
/// GPU's device files, so nvidia-smi and the like go on.
#[derive(Debug, Subcommand)]
pub(crate) enum Admission {
    /// Show what is in force, and who has GPU channels.
    Status(Output),
    /// Set what is in force, until lithosd starts again with a configuration that says something else.
    Set {
        /// What is to be in force.
        mode: AdmissionMode,
        /// GPU channels that a tenant may have where that is enforced; 0: any number. Default: as before.
        #[arg(long, value_name = "CHANNELS")]
        gpu_channels: Option<u32>,
        #[command(flatten)]
        output: Output,
    },
    /// Let a process, and what it starts from now on, have GPU channels. `lithos mps start` does that
    /// for MPS.
    Admit {
        /// The process.
        pid: u32,
        #[command(flatten)]
        output: Output,
    },
}

impl Admission {
    pub(crate) fn perform(&self, socket: &Path) -> anyhow::Result<()> {
        let mut client = Client::connect(socket)?;
        let (request, output) = match *self {
            Self::Status(output) => (Request::Status, output),
            Self::Set {
                mode,
                gpu_channels,
                output,
            } => {
                let gpu_channels_per_tenant = gpu_channels;
                let request = Request::AdmissionSet {
                    mode,
                    gpu_channels_per_tenant,
                };
                (request, output)
            }
            Self::Admit { pid, output } => (Request::Admit { pid }, output),
        };
        let status = match client.ask(&request)? {
            Reply::Admission(status) => Some(status),
            Reply::Status(status) => status.daemon.admission,
            other => return Err(client::unexpected(&other)),
        };
        output.print(&status, || show::admission(status.as_ref()))
    }
}

/// Has MPS, which runs, admitted, so that its servers can have channels for their clients.
pub(crate) fn admit_mps(socket: &Path, mps: &Mps) -> anyhow::Result<()> {
    let Ok(mut client) = Client::connect(socket) else {
        // Nobody who could enforce anything: MPS may well run before lithosd.
        return Ok(());
    };
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Ok(());
    };
    if !is_enforced(status.daemon.admission.as_ref()) {
        return Ok(());
    }
    let servers = mps.servers()?.into_iter().map(|server| server.pid);
    for pid in mps.state().pid.into_iter().chain(servers) {
        let pid = pid.unsigned_abs();
        client.ask(&Request::Admit { pid })?;
    }
    Ok(())
}

fn is_enforced(admission: Option<&AdmissionStatus>) -> bool {
    admission.is_some_and(|admission| admission.mode == AdmissionMode::Enforce)
}
