// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What benchmarks of partitions share.

use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;

use crate::testbed::{Hardware, Testbed, until};
use crate::workload;

/// Which GPU is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GpuKind {
    Real,
    Simulated,
}

impl GpuKind {
    pub fn hardware(self) -> Hardware {
        match self {
            Self::Real => Hardware::Real,
            Self::Simulated => Hardware::Simulated(workload::simulation()),
        }
    }

    /// What a daemon's configuration says about MPS.
    pub fn configuration(self) -> String {
        let mps = match self {
            Self::Real => "on",
            Self::Simulated => "off",
        };
        format!("[mps]\nenable = \"{mps}\"\n")
    }
}

/// Runs `lithos` with these arguments.
pub fn lithos(testbed: &Testbed, arguments: &[&str]) -> anyhow::Result<()> {
    let outcome = testbed.outcome(testbed.lithos(arguments))?;
    ensure!(outcome.status.success(), "lithos: {}", outcome.stderr);
    Ok(())
}

/// Deletes a partition, once the daemon has noticed that its tenant has gone.
pub fn delete(testbed: &Testbed, name: &str) -> anyhow::Result<()> {
    until("deletion of a partition", Duration::from_secs(10), || {
        let outcome = testbed.outcome(testbed.lithos(&["partition", "delete", name]))?;
        Ok(outcome.status.success().then_some(()))
    })
}

/// Deletes all partitions, so that the next step has the GPU to itself.
pub fn clear(testbed: &Testbed) -> anyhow::Result<()> {
    let status = testbed.status()?;
    for partition in status["partitions"].as_array().into_iter().flatten() {
        delete(
            testbed,
            partition["spec"]["name"].as_str().unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// The arguments as they are passed on.
pub fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
