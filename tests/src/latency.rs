// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Distributions of durations.

use serde::{Deserialize, Serialize};

/// What a sample of durations looks like; its unit is whatever went in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    /// The 0th to the 100th percentile, 101 values.
    pub percentiles: Vec<f64>,
}

impl Distribution {
    /// Describes a sample; `None` if it is empty.
    pub fn of(mut sample: Vec<f64>) -> Option<Self> {
        sample.sort_by(f64::total_cmp);
        let last = sample.len().checked_sub(1)?;
        // Nearest rank: the smallest value that at least so many per cent do not exceed.
        let at = |percent: usize| sample[(percent * sample.len()).div_ceil(100).max(1) - 1];
        Some(Self {
            count: sample.len(),
            p50: at(50),
            p99: at(99),
            max: sample[last],
            percentiles: (0..=100).map(at).collect(),
        })
    }
}

/// The middle of a sample; `None` if it is empty.
pub fn median(sample: &[f64]) -> Option<f64> {
    Distribution::of(sample.to_vec()).map(|distribution| distribution.p50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let sample = (1..=200).rev().map(f64::from).collect();
        let found = Distribution::of(sample).expect("a sample");
        assert_eq!((found.p50, found.p99, found.max), (100.0, 198.0, 200.0));
        assert_eq!(found.percentiles.len(), 101);
        assert_eq!((found.percentiles[0], found.percentiles[100]), (1.0, 200.0));
    }

    #[test]
    fn one_value_is_every_percentile() {
        let found = Distribution::of(vec![7.0]).expect("a sample");
        assert_eq!((found.p50, found.p99, found.max), (7.0, 7.0, 7.0));
        assert_eq!(Distribution::of(Vec::new()), None);
    }
}
