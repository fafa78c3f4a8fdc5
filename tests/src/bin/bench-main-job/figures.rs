// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The figures that the main job promises, and what was measured of them.

use serde::Serialize;

use super::Step;

/// What is measured, in the order of the promises. Their texts and targets are in [`Name::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    LaunchP50,
    LaunchP99,
    Calls,
    TorchSms,
    TorchBits,
    Resident,
    Masks,
    Live,
    Beside,
}

/// What is promised of a value.
enum Target {
    AtMost(f64),
    Below(f64),
    Exactly(f64),
    /// All of as many as there are.
    All,
}

struct Text {
    figure: &'static str,
    unit: &'static str,
    target: Target,
    step: Step,
}

impl Name {
    const ALL: [Self; 9] = [
        Self::LaunchP50,
        Self::LaunchP99,
        Self::Calls,
        Self::TorchSms,
        Self::TorchBits,
        Self::Resident,
        Self::Masks,
        Self::Live,
        Self::Beside,
    ];

    fn text(self) -> Text {
        let (figure, unit, target, step) = match self {
            Self::LaunchP50 => (
                "launch of an empty kernel, p50, managed minus unmanaged",
                "us",
                Target::AtMost(0.25),
                Step::Launch,
            ),
            Self::LaunchP99 => (
                "launch of an empty kernel, p99, managed minus unmanaged",
                "us",
                Target::AtMost(1.0),
                Step::Launch,
            ),
            Self::Calls => (
                "system calls of 100,000 managed launches minus those of 1,000",
                "calls",
                Target::Below(10.0),
                Step::Calls,
            ),
            Self::TorchSms => (
                "SMs that PyTorch runs on under lithos run --tpcs 16",
                "SMs",
                Target::Exactly(32.0),
                Step::Torch,
            ),
            Self::TorchBits => (
                "PyTorch workloads with the same output bits with and without LithOS",
                "workloads",
                Target::All,
                Step::Torch,
            ),
            Self::Resident => (
                "blocks of two tenants resident at once, a whole SM each",
                "blocks",
                Target::All,
                Step::Resident,
            ),
            Self::Masks => (
                "launches whose mask was within their grant, of those in the rings",
                "launches",
                Target::All,
                Step::Resident,
            ),
            Self::Live => (
                "changes of a live partition in force at the next submitted launch",
                "changes",
                Target::All,
                Step::Live,
            ),
            Self::Beside => (
                "LC p50 on half the TPCs beside BE on the other half, against the half alone",
                "%",
                Target::AtMost(5.0),
                Step::Beside,
            ),
        };
        Text {
            figure,
            unit,
            target,
            step,
        }
    }
}

/// A value, and how many there could have been where the target is all of them.
#[derive(Clone, Copy, Debug)]
struct Value {
    value: f64,
    of: f64,
}

/// What has been measured so far.
#[derive(Debug, Default)]
pub(crate) struct Values {
    measured: Vec<(Name, Value)>,
    /// Launches seen in rings, and those of them that were within their grant.
    launches: (u64, u64),
}

impl Values {
    /// Notes a value.
    pub(crate) fn set(&mut self, name: Name, value: f64) {
        self.set_of(name, value, value);
    }

    /// Notes a value of as many as there could have been.
    pub(crate) fn set_of(&mut self, name: Name, value: f64, of: f64) {
        self.measured.retain(|(other, _)| *other != name);
        self.measured.push((name, Value { value, of }));
    }

    /// Notes what rings said: launches, and how many of them were within their grant.
    pub(crate) fn add_launches(&mut self, launches: u64, within: u64) {
        self.launches.0 += launches;
        self.launches.1 += within;
        if self.launches.0 > 0 {
            let [all, within] = [self.launches.0, self.launches.1].map(to_f64);
            self.set_of(Name::Masks, within, all);
        }
    }

    /// One figure per promise, measured or not.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        Name::ALL
            .into_iter()
            .map(|name| self.figure(name))
            .collect()
    }

    fn figure(&self, name: Name) -> Figure {
        let text = name.text();
        let found = self.measured.iter().find(|(other, _)| *other == name);
        let value = found.map(|(_, value)| *value);
        let (target, met) = match text.target {
            Target::AtMost(most) => (
                format!("at most {most}"),
                value.is_some_and(|found| found.value <= most),
            ),
            Target::Below(bound) => (
                format!("less than {bound}"),
                value.is_some_and(|found| found.value < bound),
            ),
            Target::Exactly(wanted) => (
                wanted.to_string(),
                value.is_some_and(|found| (found.value - wanted).abs() < 0.5),
            ),
            Target::All => (
                value.map_or_else(|| "all".to_owned(), |found| format!("all of {}", found.of)),
                value.is_some_and(|found| found.value >= found.of),
            ),
        };
        Figure {
            figure: text.figure,
            value: value.map(|found| (found.value * 1000.0).round() / 1000.0),
            unit: text.unit,
            target,
            met,
            command: text.step.command(),
        }
    }
}

/// A count as a value.
pub(crate) fn to_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
    let value = count as f64;
    value
}

/// A figure as it is written down.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) figure: &'static str,
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) target: String,
    pub(crate) met: bool,
    pub(crate) command: String,
}

/// Everything that is written down.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) device: String,
    pub(crate) driver: String,
    pub(crate) commit: String,
    pub(crate) figures: Vec<Figure>,
}

impl Results {
    /// Prints the figures of these steps.
    pub(crate) fn print(&self, steps: &[Step]) {
        println!("\n{}, driver {}, {}", self.device, self.driver, self.commit);
        for figure in &self.figures {
            if !figure.step().is_some_and(|step| steps.contains(&step)) {
                continue;
            }
            let value = match figure.value {
                Some(value) => format!("{value} {}", figure.unit),
                None => "not measured".to_owned(),
            };
            let met = if figure.met { "met" } else { "NOT MET" };
            println!("{met:>8}  {}: {value} ({})", figure.figure, figure.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_met() {
        let figures = Values::default().figures();
        assert_eq!(figures.len(), Name::ALL.len());
        assert!(
            figures
                .iter()
                .all(|figure| !figure.met && figure.value.is_none())
        );
    }

    #[test]
    fn targets_are_bounds_numbers_or_all() {
        let mut values = Values::default();
        values.set(Name::LaunchP50, 0.25);
        values.set(Name::Calls, 10.0);
        values.set(Name::TorchSms, 32.0);
        values.set_of(Name::Live, 9.0, 10.0);
        values.add_launches(5, 5);
        values.add_launches(7, 7);
        let met = |name| values.figure(name).met;
        assert!(met(Name::LaunchP50) && met(Name::TorchSms) && met(Name::Masks));
        assert!(!met(Name::Calls) && !met(Name::Live));
        assert_eq!(values.figure(Name::Masks).value, Some(12.0));
        assert_eq!(values.figure(Name::Live).target, "all of 10");
    }
}
