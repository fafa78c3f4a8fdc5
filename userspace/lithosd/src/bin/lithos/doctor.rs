// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `lithos doctor`: looks at everything that LithOS needs, and says what to do.
//!
//! `gather.rs` looks and judges nothing; `check.rs` judges and looks at nothing. What cannot be seen,
//! because there is no daemon, no GPU or no right to, is said to be so and is no reason to do anything.

mod check;
mod gather;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::{Output, show};

/// Look at driver, GPUs, self-test, MPS, processes, permissions and broker, and say what to do.
///
/// Changes nothing, and needs neither root, nor the daemon, nor a GPU: what cannot be seen without is
/// said to be so. Exit status: 0 if all is well, 1 if there is something to do.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Doctor {
    #[command(flatten)]
    output: Output,
}

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It is as it should be.
    Fine,
    /// It is worth knowing, and nothing has to be done.
    Note,
    /// Something has to be done.
    Todo,
    /// It could not be looked at.
    Unseen,
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// The thing.
    pub(crate) topic: &'static str,
    /// How it stands.
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do, or what could be done.
    pub(crate) todo: Option<String>,
}

#[derive(Serialize)]
struct Diagnosis {
    is_well: bool,
    lines: Vec<Line>,
}

impl Doctor {
    /// Prints what there is to say.
    pub(crate) fn perform(&self, socket: &Path) -> anyhow::Result<ExitCode> {
        let lines = check::check(&gather::gather(socket));
        let is_well = lines.iter().all(|line| line.state != State::Todo);
        let diagnosis = Diagnosis { is_well, lines };
        self.output
            .print(&diagnosis, || show::diagnosis(&diagnosis.lines))?;
        Ok(match is_well {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}
