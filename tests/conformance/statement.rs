// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A statement, and the process that shows it.
//!
//! Most statements *hold* if the function that shows them returns. Some say that a launch *hangs*: then
//! the function says [`from_here_on`] once that launch is all that is left to wait for, and the statement
//! holds if nothing more is heard for [`SILENCE`], after which the process is killed. Processes that
//! hang must not share the GPU with others through MPS: they would take them along.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use lithos_tests::testbed::{Hardware, PATIENCE, Process, Programs, Simulation, Testbed};

/// Names the statement that this process is to show.
const VARIABLE: &str = "LITHOS_CONFORMANCE_STATEMENT";
/// How long a launch that hangs is watched: a control launch has shown before that others take far less.
const SILENCE: Duration = Duration::from_secs(3);
/// What a process says before the launch that must not end.
const FROM_HERE_ON: &str = "from here on";

/// TPCs of the simulated GPU: GPCs of 7 and 8, and one TPC without company.
const SIMULATED_TPCS: u32 = 16;
/// The statements of one program take turns: the interpreter needs the machine, and there is one GPU.
static TURN: Mutex<()> = Mutex::new(());

/// What the process that shows a statement comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It ends, and ends well.
    Ends,
    /// It never ends.
    Hangs,
}

/// A statement about driver and GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statement {
    pub(crate) module: &'static str,
    pub(crate) sentence: &'static str,
    pub(crate) course: Course,
    /// Runs in a process of its own, which it may leave in any state.
    pub(crate) show: fn(),
}

/// Declares a module's statements: functions whose names are the sentences.
macro_rules! statements {
    ($($course:ident: $($name:ident)*;)*) => {
        pub(crate) const STATEMENTS: &[$crate::statement::Statement] = &[$($(
            $crate::statement::Statement {
                module: module_path!(),
                sentence: stringify!($name),
                course: $crate::statement::Course::$course,
                show: $name,
            },
        )*)*];
    };
}
pub(crate) use statements;

/// Whether the GPU of this machine is meant.
pub(crate) fn is_about_a_real_gpu() -> bool {
    std::env::var_os("LITHOS_TEST_GPU").is_some_and(|value| value == "real")
}

/// The name of the statement that this process is to show, if it is one that shows something.
pub(crate) fn to_be_shown() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Says that all is as it should be so far, and that what follows must not end.
pub(crate) fn from_here_on() {
    println!("{FROM_HERE_ON}");
}

impl Statement {
    /// Its name, with the module that it is in.
    pub(crate) fn name(&self) -> String {
        let module = self.module.rsplit("::").next().unwrap_or(self.module);
        format!("{module}::{}", self.sentence)
    }

    /// Shows it, in this process.
    pub(crate) fn show(&self) {
        (self.show)();
    }

    /// It as a test.
    pub(crate) fn test(&self) -> Trial {
        let statement = *self;
        Trial::test(self.name(), move || {
            // A statement that did not hold has released the GPU all the same.
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            statement
                .check()
                .map_err(|error| format!("{error:#}").into())
        })
    }

    /// Has it shown by a process, and looks whether that takes the course that it must.
    fn check(&self) -> anyhow::Result<()> {
        let hardware = if is_about_a_real_gpu() {
            Hardware::Real
        } else {
            Hardware::Simulated(simulation())
        };
        let bed = Testbed::new(Programs::beside_this()?, &hardware)?;
        let name = self.name();
        let mut command = bed.this_program()?;
        command
            .env(VARIABLE, &name)
            .env_remove("CUDA_INJECTION64_PATH")
            // Otherwise the driver looks for an MPS daemon in the default place.
            .env("CUDA_MPS_PIPE_DIRECTORY", bed.folder().join("no-mps"));
        let mut process = Process::start(&name, &mut command)?;
        match self.course {
            Course::Ends => {
                let end = process.finish(PATIENCE)?;
                ensure!(end.status.success(), "{}: {}", end.status, end.stderr);
            }
            Course::Hangs => {
                let line = process.line(PATIENCE)?;
                ensure!(line == FROM_HERE_ON, "it said {line:?}");
                if process.line(SILENCE).is_ok() || process.has_ended()? {
                    let end = process.finish(PATIENCE)?;
                    anyhow::bail!("it did not hang: {}: {}", end.status, end.stderr);
                }
            }
        }
        Ok(())
    }
}

/// The simulated GPU. Statements are about what happens, not when: it may lag.
fn simulation() -> Simulation {
    Simulation::of_tpcs(SIMULATED_TPCS)
}
