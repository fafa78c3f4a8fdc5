// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the death of a best-effort tenant does to its neighbours under MPS: killed while its chains are
//! held or squeezed, and as a plain client of MPS that runs the same kernels.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::figures::to_f64;
use lithos_tests::testbed::{PATIENCE, Process, Testbed, until};
use nix::sys::signal::Signal;

use super::chain::Kernel;
use super::figures::{Name, Values};
use super::{GpuKind, lithos};
use lithos_tests::bench::words;

/// Victims that are there at a time, where the death of one is to harm no other.
const VICTIMS: usize = 5;
/// For how long a neighbour is waited for before it is taken for dead.
const ANSWER: Duration = Duration::from_secs(3);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// A client of MPS without LithOS.
    Plain,
    /// A tenant with this order.
    Managed(&'static str),
}

/// The GPU's tenants.
struct Scene {
    /// One that works without end, and one that answers whether launches complete.
    neighbours: [Process; 2],
    victims: Vec<Process>,
}

pub(crate) fn beside(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let kills = if gpu == GpuKind::Real { 50 } else { 2 };
    let kernel = Kernel::of_blocks(testbed, gpu, 190_000)?;
    if gpu == GpuKind::Real {
        testbed.start_mps()?;
    }
    let lc = [
        "partition",
        "create",
        "lc",
        "--class",
        "lc",
        "--guarantee",
        "4",
    ];
    lithos(testbed, &lc)?;
    let be = [
        "partition",
        "create",
        "be",
        "--class",
        "be",
        "--atom-us",
        "60",
    ];
    lithos(testbed, &be)?;
    let mut harmful = 0;
    for order in ["hold", "squeeze"] {
        let side = Side::Managed(order);
        let found = harm(testbed, side, &kernel, kills)?;
        println!("  {side:?}: {found} of {kills} kills took a neighbour along");
        harmful += found;
        lithos(testbed, &["release", "be"])?;
    }
    let plain = harm(testbed, Side::Plain, &kernel, 2 * kills)?;
    println!("  plain clients of MPS: {plain} of {} did", 2 * kills);
    values.set_of(Name::Kills, to_f64(harmful), to_f64(plain));
    values.set(Name::PlainKills, to_f64(plain));
    for name in ["be", "lc"] {
        lithos_tests::bench::delete(testbed, name)?;
    }
    testbed.stop_mps()
}

/// Kills so many, and returns how many of them took a neighbour along.
fn harm(testbed: &Testbed, side: Side, kernel: &Kernel, kills: u64) -> anyhow::Result<u64> {
    let mut scene = Scene::start(testbed, side, kernel)?;
    let mut harmful = 0;
    for _ in 0..kills {
        if scene.victims.is_empty() {
            scene.enter(testbed, side, kernel)?;
        }
        let mut victim = scene.victims.pop().context("a victim")?;
        victim.signal(Signal::SIGKILL)?;
        until("end of who was killed", PATIENCE, || {
            Ok(victim.has_ended()?.then_some(()))
        })?;
        if !scene.is_well()? {
            harmful += 1;
            drop(scene);
            scene = Scene::start(testbed, side, kernel)?;
        }
    }
    Ok(harmful)
}

impl Scene {
    fn start(testbed: &Testbed, side: Side, kernel: &Kernel) -> anyhow::Result<Self> {
        let start = |name: &str, arguments: &[&str]| {
            Process::start(name, &mut command(testbed, side, "lc", arguments))
        };
        let works = start(
            "who works",
            &["lc", "--pause-us", "1000", "--seconds", "3600"],
        )?;
        let answers = [
            "launches",
            "--count",
            "1000000",
            "--warm-up",
            "1",
            "--turn",
            "8",
        ];
        let answers = start("who answers", &answers)?;
        let mut scene = Self {
            neighbours: [works, answers],
            victims: Vec::new(),
        };
        scene.enter(testbed, side, kernel)?;
        // Whatever came before, they are well now.
        let [_, answers] = &mut scene.neighbours;
        answers.tell()?;
        answers.line(PATIENCE)?;
        Ok(scene)
    }

    /// Has victims come, and be as they are to be when they are killed.
    fn enter(&mut self, testbed: &Testbed, side: Side, kernel: &Kernel) -> anyhow::Result<()> {
        let count = if side == Side::Plain { 1 } else { VICTIMS };
        let mut arguments = kernel.arguments(0.0);
        arguments.push("--until-eof".into());
        if side != Side::Plain {
            lithos(testbed, &["release", "be"])?;
        }
        for _ in 0..count {
            let mut command = command(testbed, side, "be", &words(&arguments));
            self.victims.push(Process::start("victim", &mut command)?);
        }
        for victim in &mut self.victims {
            victim.json()?;
        }
        if let Side::Managed(order) = side {
            lithos(testbed, &[order, "be"])?;
            testbed.status_until("chains of all victims", |status| {
                let channels = status["channels"].as_array()?;
                // Nobody else has chains.
                let ready = channels.iter().filter(|channel| {
                    let chains = &channel["chains"];
                    chains["running"].as_u64() > Some(0) && chains["held"] == (order == "hold")
                });
                (ready.count() == count).then_some(())
            })?;
        }
        Ok(())
    }

    /// Whether both neighbours go on.
    fn is_well(&mut self) -> anyhow::Result<bool> {
        let [works, answers] = &mut self.neighbours;
        let answer = answers.tell().and_then(|()| answers.line(ANSWER));
        Ok(answer.is_ok() && !works.has_ended()? && !answers.has_ended()?)
    }
}

fn command(testbed: &Testbed, side: Side, partition: &str, arguments: &[&str]) -> Command {
    let mut command = match side {
        Side::Plain => testbed.unmanaged(arguments),
        Side::Managed(_) => testbed.managed(&["--partition", partition], arguments),
    };
    command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
    command
}
