// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The figures that sharing promises.

use lithos_tests::figures::{Figure, Target};

use super::Step;

/// What is measured, in the order of the promises: the figure, its unit, its target, and the step that
/// measures it.
const FIGURES: [(Name, &str, &str, Target, Step); 7] = {
    use Name::*;
    use Target::{AtLeast, AtMost};
    [
        (
            Busy,
            "throughput beside an idle tenant of equal guarantee, of that of the guarantee",
            "ratio",
            AtLeast(1.9),
            Step::Equals,
        ),
        (
            Wakes,
            "lateness of the idle tenant's first request, p99, beyond one atom",
            "us",
            AtMost(0.0),
            Step::Equals,
        ),
        (
            QueueLc,
            "LC p99 beside BE that queues 10,000 kernels of 20 us, of that alone",
            "ratio",
            AtMost(1.3),
            Step::Queue,
        ),
        (
            QueueBe,
            "that BE, of alone",
            "%",
            AtLeast(93.0),
            Step::Queue,
        ),
        (
            TorchLc,
            "ResNet-50 inference p99 beside transformer training, of that alone",
            "ratio",
            AtMost(1.3),
            Step::Torch,
        ),
        (
            TorchMps,
            "the same p99 under MPS, of ours",
            "ratio",
            AtLeast(5.0),
            Step::Torch,
        ),
        (
            TorchBe,
            "that training, of its throughput alone in the time that inference leaves",
            "%",
            AtLeast(80.0),
            Step::Torch,
        ),
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Busy,
    Wakes,
    QueueLc,
    QueueBe,
    TorchLc,
    TorchMps,
    TorchBe,
}

/// What has been measured so far.
pub(crate) type Values = lithos_tests::figures::Values<Name>;

/// One figure per promise, measured or not.
pub(crate) fn figures(values: &Values) -> Vec<Figure> {
    let figure = |&(name, figure, unit, target, step): &(Name, _, _, _, Step)| {
        Figure::new(figure, unit, target, step.command(), values.get(name))
    };
    FIGURES.iter().map(figure).collect()
}
