// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The figures that the main job promises, and what was measured of them.

use lithos_tests::figures::{Figure, Target, Value, to_f64};

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
        let Text {
            figure,
            unit,
            target,
            step,
        } = name.text();
        let found = self.measured.iter().find(|(other, _)| *other == name);
        let measured = found.map(|(_, value)| *value);
        Figure::new(figure, unit, target, step.command(), measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_figure_for_each_promise() {
        let figures = Values::default().figures();
        assert_eq!(figures.len(), Name::ALL.len());
    }

    #[test]
    fn launches_of_several_looks_add_up() {
        let mut values = Values::default();
        values.add_launches(5, 5);
        values.add_launches(7, 7);
        let figure = values.figure(Name::Masks);
        assert!(figure.met && figure.target == "all of 12");
        values.add_launches(1, 0);
        assert!(!values.figure(Name::Masks).met);
    }
}
