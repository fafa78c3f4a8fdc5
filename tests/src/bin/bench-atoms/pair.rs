// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A latency-critical tenant of short requests beside one that computes without end, on one GPU: alone, by
//! what there is without LithOS, and with atoms.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lithos_tests::testbed::{Process, Testbed};
use serde_json::Value;

use super::chain::Kernel;
use super::figures::{Name, Values};
use super::{GpuKind, lithos};
use lithos_tests::bench::words;

/// How both share the GPU.
struct System {
    name: &'static str,
    /// The partitions of the latency-critical and the best-effort tenant; none without LithOS.
    partitions: Option<[&'static str; 2]>,
    mps: bool,
    /// The best-effort tenant has the lower of the priorities that MPS gives clients.
    priorities: bool,
}

const SYSTEMS: [System; 5] = [
    System {
        name: "time slicing",
        partitions: None,
        mps: false,
        priorities: false,
    },
    System {
        name: "MPS",
        partitions: None,
        mps: true,
        priorities: false,
    },
    System {
        name: "MPS with priorities",
        partitions: None,
        mps: true,
        priorities: true,
    },
    System {
        name: "halves",
        partitions: Some(["lc-half", "be-half"]),
        mps: true,
        priorities: true,
    },
    System {
        name: "atoms",
        partitions: Some(["lc", "be"]),
        mps: true,
        priorities: true,
    },
];

/// What was measured.
#[derive(Clone, Copy, Debug)]
struct Row {
    p50_us: f64,
    p99_us: f64,
    kernels_per_s: f64,
    /// How long it took to shut gates, p50 and p99.
    reaction_us: [f64; 2],
}

/// What a bench is about: blocks of a length.
struct Blocks {
    us: u32,
    count: u32,
    /// Length of atoms.
    atom_us: &'static str,
}

pub(crate) fn beside(testbed: &Testbed, gpu: GpuKind, values: &mut Values) -> anyhow::Result<()> {
    let status = testbed.status()?;
    let tpcs = status["gpus"][0]["tpcs"]
        .as_array()
        .context("no GPU")?
        .len();
    let half = (tpcs / 2).to_string();
    // Best effort uses all of it, and has to have one of its own.
    let most = (tpcs - 1).to_string();
    let partitions: [&[&str]; 4] = [
        &["lc", "--class", "lc", "--guarantee", &most],
        &["be", "--class", "be"],
        &["lc-half", "--class", "lc", "--guarantee", &half],
        &["be-half", "--class", "be", "--guarantee", &half],
    ];
    let seconds = if gpu == GpuKind::Real { 3.0 } else { 0.5 };
    let lc = lc_arguments(testbed, gpu, seconds)?;
    for blocks in [
        Blocks {
            us: 20,
            count: 190_000,
            atom_us: "20",
        },
        Blocks {
            us: 190,
            count: 20_000,
            atom_us: "60",
        },
    ] {
        let kernel = Kernel::of_blocks(testbed, gpu, blocks.count)?;
        let alone_lc = testbed.json(testbed.unmanaged(&words(&lc)))?;
        let alone_be = testbed.json(testbed.unmanaged(&words(&kernel.arguments(seconds))))?;
        let alone = row(&alone_lc, &alone_be)?;
        println!("  blocks of {} us, {kernel:?}", blocks.us);
        print("alone", alone, alone);
        for system in &SYSTEMS {
            if gpu == GpuKind::Simulated && !system.mps {
                continue;
            }
            if system.mps && gpu == GpuKind::Real {
                testbed.start_mps()?;
            }
            let mut created = Vec::new();
            for name in system.partitions.iter().flatten() {
                let partition = partitions.iter().find(|words| words[0] == *name);
                let partition = partition.context("no such partition")?;
                let mut command = [&["partition", "create"], *partition].concat();
                if *name == "be" {
                    command.extend(["--borrow", "--atom-us", blocks.atom_us]);
                }
                lithos(testbed, &command)?;
                created.push(*name);
            }
            let found = together(testbed, system, &lc, &kernel);
            for name in created {
                lithos_tests::bench::delete(testbed, name)?;
            }
            if system.mps {
                testbed.stop_mps()?;
            }
            let found = found.with_context(|| system.name)?;
            print(system.name, found, alone);
            note(system.name, blocks.us, found, alone, values);
        }
    }
    Ok(())
}

/// Five kernels of 10 us every 2 ms.
fn lc_arguments(testbed: &Testbed, gpu: GpuKind, seconds: f64) -> anyhow::Result<Vec<String>> {
    let text = match gpu {
        GpuKind::Real => {
            let calibrate = testbed.unmanaged(&["calibrate", "--block-us", "10"]);
            let iterations = testbed.json(calibrate)?["iterations"].as_u64();
            let iterations = iterations.context("no iterations")?;
            format!(
                "lc --kernels 5 --blocks 32 --pause-us 2000 --iterations {iterations} --seconds {seconds}"
            )
        }
        GpuKind::Simulated => {
            format!("lc --kernels 5 --blocks 4 --pause-us 20000 --seconds {seconds}")
        }
    };
    Ok(text.split(' ').map(str::to_owned).collect())
}

fn together(
    testbed: &Testbed,
    system: &System,
    lc: &[String],
    kernel: &Kernel,
) -> anyhow::Result<Row> {
    let command = |index: usize, arguments: &[&str]| -> Command {
        let mut command = match system.partitions {
            Some(names) => testbed.managed(&["--partition", names[index]], arguments),
            None => testbed.unmanaged(arguments),
        };
        if system.mps {
            command.env("CUDA_MPS_PIPE_DIRECTORY", testbed.mps_pipe_directory());
        }
        if system.priorities {
            command.env("CUDA_MPS_CLIENT_PRIORITY", index.to_string());
        }
        command
    };
    let mut be = kernel.arguments(0.0);
    be.push("--until-eof".into());
    let mut be = Process::start("best-effort tenant", &mut command(1, &words(&be)))?;
    be.json()?;
    let lc = testbed.json(command(0, &words(lc)))?;
    let mut reaction = Value::Null;
    if let Ok(status) = testbed.status() {
        for channel in status["channels"].as_array().into_iter().flatten() {
            println!("    {} {}", channel["chains"], channel["counters"]);
        }
        reaction = status["reaction"].clone();
    }
    let mut row = row(&lc, &be.finish(Duration::from_secs(30))?.json()?)?;
    row.reaction_us = ["p50_ns", "p99_ns"].map(|key| reaction[key].as_f64().unwrap_or(0.0) / 1e3);
    Ok(row)
}

fn row(lc: &Value, be: &Value) -> anyhow::Result<Row> {
    let number =
        |report: &Value, key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
    Ok(Row {
        p50_us: number(lc, "p50_us")?,
        p99_us: number(lc, "p99_us")?,
        kernels_per_s: number(be, "kernels_per_s")?,
        reaction_us: [0.0; 2],
    })
}

fn print(name: &str, found: Row, alone: Row) {
    println!(
        "    {name:<20} LC p50 {:.1} us ({:.2} x), p99 {:.1} us ({:.2} x); BE {:.1} kernels/s ({:.1} %)",
        found.p50_us,
        found.p50_us / alone.p50_us,
        found.p99_us,
        found.p99_us / alone.p99_us,
        found.kernels_per_s,
        100.0 * found.kernels_per_s / alone.kernels_per_s,
    );
}

fn note(system: &str, us: u32, found: Row, alone: Row, values: &mut Values) {
    let p50 = found.p50_us / alone.p50_us;
    let kept = 100.0 * found.kernels_per_s / alone.kernels_per_s;
    match (system, us) {
        ("atoms", 20) => {
            values.set(Name::Lc20, found.p99_us / alone.p99_us);
            values.set(Name::Be20, kept);
            values.set(Name::ShutP50, found.reaction_us[0]);
            values.set(Name::ShutP99, found.reaction_us[1]);
        }
        ("atoms", _) => {
            values.set(Name::Lc190, p50);
            values.set(Name::Be190, kept);
        }
        ("time slicing", 190) => values.set(Name::Slicing190, p50),
        ("MPS", 190) => values.set(Name::Mps190, p50),
        ("MPS with priorities", 190) => values.set(Name::Priorities190, p50),
        ("halves", 190) => values.set(Name::Halves190, p50),
        _ => {}
    }
}
