// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `libcuda.so.1` of the simulated GPU, tested as programs see it.
//!
//! The idea: this executable plays both sides. A test starts a server and runs this same executable
//! again as the *program* under test, which loads the driver through cudarc and asserts what it sees.
//! Programs that must talk to their test do so over standard input and output, a line at a time.

mod basics;
mod callbacks;
mod chains;
mod cuda;
mod deaths;
mod descriptors;
mod hook;
mod memory;
mod sharing;
mod simulation;
mod streams;
mod time;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use simulation::PROGRAM_VARIABLE;

/// A program by name.
type Program = (&'static str, fn());
/// A test: its name is a sentence.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let programs: Vec<Program> = [
        basics::PROGRAMS,
        callbacks::PROGRAMS,
        chains::PROGRAMS,
        deaths::PROGRAMS,
        descriptors::PROGRAMS,
        memory::PROGRAMS,
        sharing::PROGRAMS,
        streams::PROGRAMS,
        time::PROGRAMS,
    ]
    .concat();
    if let Ok(name) = std::env::var(PROGRAM_VARIABLE) {
        let program = programs.iter().find(|(known, _)| *known == name);
        program.expect("a program of this name").1();
        return ExitCode::SUCCESS;
    }
    let tests: Vec<Test> = [
        basics::TESTS,
        callbacks::TESTS,
        chains::TESTS,
        deaths::TESTS,
        descriptors::TESTS,
        memory::TESTS,
        sharing::TESTS,
        streams::TESTS,
        time::TESTS,
    ]
    .concat();
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
