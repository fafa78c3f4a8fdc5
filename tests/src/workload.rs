// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pair of tenants that demo and benchmarks compare: a latency-critical one that answers short
//! requests, and a best-effort one that computes without end.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::latency::Distribution;
use crate::testbed::{Hardware, Process, Simulation, Testbed};

/// How long the tenants work; both sides of a comparison take the same.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub seconds: f64,
}

/// The arguments of both tenants.
#[derive(Clone, Debug)]
pub struct Pair {
    lc: Vec<String>,
    be: Vec<String>,
}

/// What the latency-critical tenant says.
#[derive(Clone, Debug, Deserialize)]
pub struct Lc {
    pub requests_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub sms: u32,
    pub latency_us: Distribution,
}

/// What the best-effort tenant says.
#[derive(Clone, Debug, Deserialize)]
pub struct Be {
    pub kernels_per_s: f64,
    pub sms: u32,
}

/// Simulated GPUs on which the pair is quick enough to watch and slow enough to interpret.
pub fn simulation() -> Simulation {
    Simulation {
        gpus: 1,
        tpcs: 8,
        clock_mhz: 0.1,
        tolerance_ms: 100,
        mps_death_ms: None,
    }
}

impl Pair {
    /// Chooses sizes for the hardware. On a real GPU this measures how long an iteration takes, so that
    /// blocks are as long as intended; a simulated GPU's clock is known.
    pub fn for_hardware(hardware: &Hardware, testbed: &Testbed) -> anyhow::Result<Self> {
        match hardware {
            Hardware::Simulated(_) => Ok(Self::simulated()),
            Hardware::Real => Self::real(testbed),
        }
    }

    /// Requests of five kernels of 32 blocks of about 10 us; kernels of 2000 blocks that take about
    /// 200 us each when an SM is full of them.
    fn real(testbed: &Testbed) -> anyhow::Result<Self> {
        let iterations = |block_us: &str| -> anyhow::Result<String> {
            let command = testbed.unmanaged(&["calibrate", "--block-us", block_us]);
            let found = testbed.json(command)?["iterations"].as_u64();
            Ok(found.context("no iterations")?.to_string())
        };
        let lc = iterations("10")?;
        let be = iterations("50")?;
        Ok(Self {
            lc: words(
                "lc --kernels 5 --blocks 32 --pause-us 2000 --iterations",
                &lc,
            ),
            be: words("be --blocks 2000 --queue 2 --iterations", &be),
        })
    }

    /// Blocks of one warp that take an SM each: 4 of 1 ms in each of five kernels, against waves of
    /// 11 ms.
    fn simulated() -> Self {
        let whole = "--shared-bytes whole --iterations";
        Self {
            lc: words(
                &format!("lc --kernels 5 --blocks 4 --pause-us 20000 --warm-up 3 {whole}"),
                "10",
            ),
            be: words(&format!("be --blocks 64 --queue 2 {whole}"), "130"),
        }
    }

    /// The latency-critical tenant by itself. `start` makes the command of a tenant from its arguments.
    pub fn lc_alone(
        &self,
        testbed: &Testbed,
        pace: Pace,
        start: impl Fn(&[&str]) -> Command,
    ) -> anyhow::Result<Lc> {
        let seconds = pace.seconds.to_string();
        let mut arguments: Vec<&str> = self.lc.iter().map(String::as_str).collect();
        arguments.extend(["--seconds", &seconds]);
        parsed(testbed.json(start(&arguments))?)
    }

    /// The best-effort tenant by itself.
    pub fn be_alone(
        &self,
        testbed: &Testbed,
        pace: Pace,
        start: impl Fn(&[&str]) -> Command,
    ) -> anyhow::Result<Be> {
        let seconds = pace.seconds.to_string();
        let mut arguments: Vec<&str> = self.be.iter().map(String::as_str).collect();
        arguments.extend(["--seconds", &seconds]);
        parsed(testbed.json(start(&arguments))?)
    }

    /// Both: the best-effort tenant is at work from before the other's first request until after its
    /// last.
    pub fn together(
        &self,
        testbed: &Testbed,
        pace: Pace,
        start_lc: impl Fn(&[&str]) -> Command,
        start_be: impl Fn(&[&str]) -> Command,
    ) -> anyhow::Result<(Lc, Be)> {
        let mut arguments: Vec<&str> = self.be.iter().map(String::as_str).collect();
        arguments.push("--until-eof");
        let mut be = Process::start("best-effort tenant", &mut start_be(&arguments))?;
        be.json()?;
        let lc = self.lc_alone(testbed, pace, start_lc)?;
        let be = be.finish(Duration::from_secs(30))?.json()?;
        Ok((lc, parsed(be)?))
    }
}

fn words(text: &str, last: &str) -> Vec<String> {
    text.split_whitespace()
        .chain([last])
        .map(str::to_owned)
        .collect()
}

fn parsed<T: for<'a> Deserialize<'a>>(value: Value) -> anyhow::Result<T> {
    let text = value.to_string();
    serde_json::from_value(value).with_context(|| format!("unexpected: {text}"))
}
