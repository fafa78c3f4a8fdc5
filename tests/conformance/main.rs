// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What LithOS believes of the CUDA driver and the GPU, a test per statement.
//!
//! The idea: the whole design rests on what a launch descriptor does to a launch, none of which NVIDIA
//! promises. So each belief is a test whose name says it, and the same program runs on simgpu, which must
//! agree, and on a real GPU (`LITHOS_TEST_GPU=real`), which is right. It is a client of the driver like
//! any other, without daemon or shim, and edits its own launches.
//!
//! A driver has one subscriber per process, and a launch that hangs ends the process that made it. So
//! every statement has a process of its own: this executable plays both sides, and in the process that
//! is to show a statement, a variable names it (`statement.rs`).
//!
//! - `subscriber.rs`, `subject.rs`, `stay.rs`, `arena.rs`: what statements are made with: callbacks, a GPU
//!   with kernels, blocks that stay, and memory for chains.
//! - `hook.rs`, `launches.rs`, `masks.rs`, `clusters.rs`, `cooperative.rs`, `ends.rs`, `releases.rs`,
//!   `queues.rs`, `chains.rs`, `gates.rs`: the statements by what they are about.
//! - `graphs.rs`, `green.rs`, `eight_queues.rs`: what only a real GPU can show, because simgpu has no CUDA
//!   graphs, no green contexts, and a queue for every stream.

mod arena;
mod chains;
mod clusters;
mod cooperative;
mod eight_queues;
mod ends;
mod gates;
mod graphs;
mod green;
mod hook;
mod launches;
mod masks;
mod queues;
mod releases;
mod statement;
mod stay;
mod subject;
mod subscriber;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use statement::Statement;

/// What every GPU must do, simulated or real.
const EVERYWHERE: [&[Statement]; 10] = [
    hook::STATEMENTS,
    launches::STATEMENTS,
    masks::STATEMENTS,
    clusters::STATEMENTS,
    cooperative::STATEMENTS,
    ends::STATEMENTS,
    releases::STATEMENTS,
    queues::STATEMENTS,
    chains::STATEMENTS,
    gates::STATEMENTS,
];
/// What simgpu does not simulate.
const REAL_ONLY: [&[Statement]; 3] = [
    graphs::STATEMENTS,
    green::STATEMENTS,
    eight_queues::STATEMENTS,
];

fn main() -> ExitCode {
    let mut statements = EVERYWHERE.concat();
    if statement::is_about_a_real_gpu() {
        statements.extend(REAL_ONLY.concat());
    }
    if let Some(name) = statement::to_be_shown() {
        let statement = statements.iter().find(|known| known.name() == name);
        statement.expect("a statement of this name").show();
        return ExitCode::SUCCESS;
    }
    let tests = statements.iter().map(Statement::test).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
