// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The search: every state that can be reached, nearest first, so that what is found wrong is found
//! by the shortest way.

use core::fmt;
use std::collections::HashMap;

use crate::model::{Rules, State, Violation};

/// A way to a violation.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) violation: Violation,
    steps: Vec<&'static str>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "{}", self.violation)
    }
}

/// Returns the number of states, or the shortest way to a violation.
pub(crate) fn search(rules: Rules, begin: State) -> Result<usize, Found> {
    // A state's number, and in its place how it was reached.
    let mut numbers: HashMap<State, usize> = HashMap::from([(begin, 0)]);
    let mut states = vec![(begin, 0, "begin")];
    let mut next = 0;
    while next < states.len() {
        let state = states[next].0;
        let mut rests = true;
        let mut violation = None;
        state.steps(rules, &mut |step, result| {
            rests = false;
            match result {
                Ok(after) => {
                    let number = states.len();
                    numbers.entry(after).or_insert_with(|| {
                        states.push((after, next, step));
                        number
                    });
                }
                Err(found) => violation = violation.or(Some((step, found))),
            }
        });
        if rests {
            violation = state.wrong_at_rest().map(|found| ("nothing more", found));
        }
        if let Some((step, violation)) = violation {
            let mut steps = vec![step];
            while next != 0 {
                steps.push(states[next].2);
                next = states[next].1;
            }
            steps.reverse();
            return Err(Found { violation, steps });
        }
        next += 1;
    }
    Ok(states.len())
}
