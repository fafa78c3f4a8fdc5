// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What benchmarks write down: `results/<where>/<topic>.json`, a figure per promise.
//!
//! A figure that was not measured has no value and is not met; so a file says of every promise whether
//! it was kept, whatever went wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::Serialize;

use crate::testbed::{Hardware, Testbed};

/// What is promised of a value.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    Exactly(f64),
    /// All of as many as there are.
    All,
    /// No more than something else was measured to have.
    NoMore,
}

/// A value, and how many there could have been, or others have had, where the target speaks of them.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub value: f64,
    pub of: f64,
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self { value, of: value }
    }
}

/// What has been measured so far, by name.
#[derive(Clone, Debug)]
pub struct Values<N>(Vec<(N, Value)>);

impl<N> Default for Values<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N: Copy + PartialEq> Values<N> {
    /// Notes a value.
    pub fn set(&mut self, name: N, value: f64) {
        self.set_of(name, value, value);
    }

    /// Notes a value of as many as there could have been.
    pub fn set_of(&mut self, name: N, value: f64, of: f64) {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, Value { value, of }));
    }

    /// What was measured of it.
    pub fn get(&self, name: N) -> Option<Value> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| *value)
    }
}

/// A count as a value.
pub fn to_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
    let value = count as f64;
    value
}

/// A figure as it is written down.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub figure: &'static str,
    pub value: Option<f64>,
    pub unit: &'static str,
    pub target: String,
    pub met: bool,
    /// The command line that measures it.
    pub command: String,
}

impl Figure {
    /// Compares what was measured, if anything, with the target.
    pub fn new(
        figure: &'static str,
        unit: &'static str,
        target: Target,
        command: String,
        measured: Option<Value>,
    ) -> Self {
        let holds = |condition: fn(f64, f64) -> bool, bound| {
            measured.is_some_and(|found| condition(found.value, bound))
        };
        let (target, met) = match target {
            Target::AtLeast(least) => (
                format!("at least {least}"),
                holds(|value, least| value >= least, least),
            ),
            Target::AtMost(most) => (
                format!("at most {most}"),
                holds(|value, most| value <= most, most),
            ),
            Target::Below(bound) => (
                format!("less than {bound}"),
                holds(|value, bound| value < bound, bound),
            ),
            Target::Exactly(wanted) => (
                wanted.to_string(),
                holds(|value, wanted| (value - wanted).abs() < 0.5, wanted),
            ),
            Target::All => (
                measured.map_or_else(|| "all".to_owned(), |found| format!("all of {}", found.of)),
                measured.is_some_and(|found| found.value >= found.of),
            ),
            Target::NoMore => (
                measured.map_or_else(
                    || "no more".to_owned(),
                    |found| format!("at most {}", found.of),
                ),
                measured.is_some_and(|found| found.value <= found.of),
            ),
        };
        Self {
            figure,
            value: measured.map(|found| (found.value * 1000.0).round() / 1000.0),
            unit,
            target,
            met,
            command,
        }
    }
}

/// Everything that is written down.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub device: String,
    pub driver: String,
    pub commit: String,
    pub figures: Vec<Figure>,
}

impl Results {
    /// Prints the figures that commands of which this is true have measured.
    pub fn print(&self, asked: impl Fn(&str) -> bool) {
        println!("\n{}, driver {}, {}", self.device, self.driver, self.commit);
        for figure in self.figures.iter().filter(|figure| asked(&figure.command)) {
            let value = match figure.value {
                Some(value) => format!("{value} {}", figure.unit),
                None => "not measured".to_owned(),
            };
            let met = if figure.met { "met" } else { "NOT MET" };
            println!("{met:>8}  {}: {value} ({})", figure.figure, figure.target);
        }
    }

    /// Writes them to the folder of their kind of GPU, and returns where.
    pub fn write(&self, root: &Path, topic: &str) -> anyhow::Result<PathBuf> {
        let is_real =
            |kind: &&str| self.device.contains(kind) && !self.device.contains("simulated");
        let kind = ["H100", "H200"].into_iter().find(is_real);
        let folder = root.join(kind.map_or_else(|| "sim".to_owned(), str::to_lowercase));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{topic}.json"));
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("written to {}", path.display());
        Ok(path)
    }
}

/// The GPU of a testbed whose daemon runs.
pub fn device_name(testbed: &Testbed) -> anyhow::Result<String> {
    let status = testbed.status()?;
    let name = status["gpus"][0]["name"].as_str();
    Ok(name.context("the daemon manages no GPU")?.to_owned())
}

/// The version of the driver.
pub fn driver_version(hardware: &Hardware) -> String {
    let query = ["--query-gpu=driver_version", "--format=csv,noheader"];
    match hardware {
        Hardware::Simulated(_) => "simgpu".to_owned(),
        Hardware::Real => first_line(Command::new("nvidia-smi").args(query)),
    }
}

/// The revision of the working tree.
pub fn commit() -> String {
    first_line(Command::new("git").args(["rev-parse", "HEAD"]))
}

/// The first line that a command prints; "unknown" if there is none.
fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    output
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(target: Target, measured: Option<Value>) -> bool {
        Figure::new("a figure", "things", target, String::new(), measured).met
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let targets = [
            Target::AtLeast(0.0),
            Target::AtMost(1.0),
            Target::Below(1.0),
            Target::Exactly(0.0),
            Target::All,
            Target::NoMore,
        ];
        assert!(targets.iter().all(|target| !met(*target, None)));
    }

    #[test]
    fn targets_are_bounds_numbers_or_all() {
        let some = |value: f64| Some(Value::from(value));
        assert!(met(Target::AtMost(0.25), some(0.25)) && !met(Target::AtMost(0.25), some(0.26)));
        assert!(met(Target::Below(10.0), some(9.9)) && !met(Target::Below(10.0), some(10.0)));
        assert!(met(Target::AtLeast(1.0), some(1.0)) && !met(Target::AtLeast(1.0), some(0.0)));
        assert!(met(Target::Exactly(32.0), some(32.0)) && !met(Target::Exactly(0.0), some(1.0)));
        let nine_of_ten = Value {
            value: 9.0,
            of: 10.0,
        };
        assert!(met(Target::All, some(5.0)) && !met(Target::All, Some(nine_of_ten)));
        assert!(met(Target::NoMore, Some(nine_of_ten)));
        let ten_where_nine = Value {
            value: 10.0,
            of: 9.0,
        };
        assert!(met(Target::NoMore, some(9.0)) && !met(Target::NoMore, Some(ten_where_nine)));
    }
}
