// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The figures that atoms promise, and what was measured of them.

use lithos_tests::figures::{Figure, Target};

use super::Step;

/// What is measured, in the order of the promises: the figure, its unit, its target, and the step that
/// measures it.
const FIGURES: [(Name, &str, &str, Target, Step); 23] = {
    use Name::*;
    use Target::{All, AtLeast, AtMost, NoMore};
    [
        (
            Chain16,
            "compute kernel of 3.7 ms in 16 atoms with gates, added",
            "%",
            AtMost(1.0),
            Step::Chain,
        ),
        (
            Chain64,
            "compute kernel of 3.7 ms in 64 atoms with gates, added",
            "%",
            AtMost(4.0),
            Step::Chain,
        ),
        (
            Saxpy,
            "saxpy of 1.27 ms in 4 atoms with gates, added",
            "%",
            AtMost(3.0),
            Step::Chain,
        ),
        (
            BuildAtom,
            "CPU time of building, for each atom",
            "ns",
            AtMost(60.0),
            Step::Build,
        ),
        (
            BuildLaunch,
            "CPU time of building, for each launch",
            "ns",
            AtMost(300.0),
            Step::Build,
        ),
        (
            Lc20,
            "LC p99 beside BE of 20 us blocks, of that alone",
            "ratio",
            AtMost(1.15),
            Step::Pair,
        ),
        (
            Be20,
            "BE of 20 us blocks beside LC, of that alone",
            "%",
            AtLeast(93.0),
            Step::Pair,
        ),
        (
            Lc190,
            "LC p50 beside BE of 190 us blocks, of that alone",
            "ratio",
            AtMost(2.5),
            Step::Pair,
        ),
        (
            Be190,
            "BE of 190 us blocks beside LC, of that alone",
            "%",
            AtLeast(93.0),
            Step::Pair,
        ),
        (
            Slicing190,
            "the same LC p50 by time slicing",
            "ratio",
            AtLeast(0.0),
            Step::Pair,
        ),
        (
            Mps190,
            "the same LC p50 under MPS",
            "ratio",
            AtLeast(0.0),
            Step::Pair,
        ),
        (
            Priorities190,
            "the same LC p50 under MPS with priorities",
            "ratio",
            AtLeast(0.0),
            Step::Pair,
        ),
        (
            Halves190,
            "the same LC p50 on halves of the TPCs",
            "ratio",
            AtLeast(0.0),
            Step::Pair,
        ),
        (
            Kills,
            "kills of a suspended or squeezed tenant that took a neighbour along, of 100",
            "kills",
            NoMore,
            Step::Kills,
        ),
        (
            PlainKills,
            "the same of a plain client of MPS",
            "kills",
            AtLeast(0.0),
            Step::Kills,
        ),
        (
            Stop,
            "gates shut to last block finished, beyond one atom",
            "us",
            AtMost(20.0),
            Step::Reaction,
        ),
        (
            GoP50,
            "gates open to first block started, p50",
            "us",
            AtMost(15.0),
            Step::Reaction,
        ),
        (
            GoP99,
            "gates open to first block started, p99",
            "us",
            AtMost(50.0),
            Step::Reaction,
        ),
        (
            ShutP50,
            "LC active to gates shut, p50",
            "us",
            AtMost(10.0),
            Step::Pair,
        ),
        (
            ShutP99,
            "LC active to gates shut, p99",
            "us",
            AtMost(50.0),
            Step::Pair,
        ),
        (
            Random,
            "random launches with random suspensions that were right",
            "launches",
            All,
            Step::Random,
        ),
        (
            TorchBits,
            "PyTorch workloads with the same bits, split and suspended at random",
            "workloads",
            All,
            Step::Torch,
        ),
        (
            TorchCost,
            "PyTorch with launches split and nobody suspended, added",
            "%",
            AtMost(2.0),
            Step::Torch,
        ),
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Chain16,
    Chain64,
    Saxpy,
    BuildAtom,
    BuildLaunch,
    Lc20,
    Be20,
    Lc190,
    Be190,
    Slicing190,
    Mps190,
    Priorities190,
    Halves190,
    Kills,
    PlainKills,
    Stop,
    GoP50,
    GoP99,
    ShutP50,
    ShutP99,
    Random,
    TorchBits,
    TorchCost,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_was_not_measured_is_not_met() {
        let mut values = Values::default();
        assert!(figures(&values).iter().all(|figure| !figure.met));
        values.set(Name::Chain16, 0.5);
        let met: Vec<_> = (figures(&values).iter())
            .filter(|figure| figure.met)
            .map(|figure| figure.unit)
            .collect();
        assert_eq!(met, ["%"]);
    }
}
