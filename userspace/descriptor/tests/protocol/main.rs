// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The protocol of chains and gates (`src/hopper/chain.rs`), searched exhaustively.
//!
//! A model of one tenant that launches chain after chain into the same places, a scheduler that
//! shuts, opens and halts gates, the GPU, and whatever may come between: a store of an older
//! scheduler that lands late, and the tenant's death. Every order of their steps is tried, and
//! every time at which a store leaves the processor's store buffer (`model.rs`). In each state:
//!
//! - **once**: no atom runs twice, none of another launch than the one that the GPU is at;
//! - **complete**: a launch is done when all its atoms have ended, and not before;
//! - **held**: when the scheduler has shut (or halted) all gates, and until it opens them, the GPU
//!   finds no gate open that it comes to;
//!
//! and where nothing can happen any more:
//!
//! - **not lost**: unless the gates were halted, every launch has completed;
//! - **at rest**: after a halt nothing goes round a gate, and no tail is counted down in part: the GPU
//!   needs the arena no more, and remembers nothing of it.
//!
//! With a store of an older scheduler, *held* is from when the present one has looked after the
//! gates again. Each rule of the protocol is left out once, and the search finds what it is for.

mod model;
mod search;

use model::{Rules, State, Violation};
use search::search;

/// How many chains, orders and accidents there are.
const ALL: State = State::new(3, 3).with_stale_store().with_death();

fn violation(rules: Rules, begin: State) -> Violation {
    match search(rules, begin) {
        Err(found) => found.violation,
        Ok(states) => panic!("{states} states and no violation"),
    }
}

#[test]
fn no_atom_is_lost_repeated_or_unheld() {
    match search(Rules::ALL, ALL) {
        Ok(states) => assert!(states > 200_000, "{states} states are too few to be all"),
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn nor_with_more_orders() {
    match search(Rules::ALL, State::new(3, 6)) {
        Ok(states) => assert!(states > 40_000, "{states} states are too few to be all"),
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn nor_with_more_launches() {
    match search(Rules::ALL, State::new(4, 3)) {
        Ok(states) => assert!(states > 30_000, "{states} states are too few to be all"),
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn without_a_fence_between_publishing_and_looking_an_atom_is_unheld() {
    let rules = Rules {
        publish_then_look: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 1)), Violation::Unheld);
}

#[test]
fn without_a_fence_between_order_and_scan_an_atom_is_unheld() {
    let rules = Rules {
        order_then_scan: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 1)), Violation::Unheld);
}

#[test]
fn without_a_second_look_an_atom_is_lost_or_unheld() {
    let rules = Rules {
        look_again: false,
        watch: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 1)), Violation::Lost);
    let rules = Rules {
        look_again: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 3)), Violation::Unheld);
}

#[test]
fn launched_before_it_looks_an_atom_is_unheld() {
    let rules = Rules {
        launch_last: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 1)), Violation::Unheld);
}

#[test]
fn with_two_stores_for_a_gate_the_rest_of_a_launch_is_lost() {
    let rules = Rules {
        one_store: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 1)), Violation::Lost);
}

#[test]
fn used_again_before_it_is_done_a_chain_runs_atoms_of_another_launch() {
    let rules = Rules {
        reuse_when_done: false,
        ..Rules::ALL
    };
    assert_eq!(
        violation(rules, State::new(2, 0)),
        Violation::OfAnotherLaunch
    );
}

#[test]
fn a_tail_that_counts_too_few_completes_too_early() {
    let rules = Rules {
        count_all: false,
        ..Rules::ALL
    };
    assert_eq!(violation(rules, State::new(1, 0)), Violation::Incomplete);
}

#[test]
fn opened_after_a_halt_an_atom_runs_of_a_tenant_that_is_dead() {
    let rules = Rules {
        halt_last: false,
        ..Rules::ALL
    };
    assert_eq!(
        violation(rules, State::new(1, 2).with_death()),
        Violation::Unheld
    );
}

#[test]
fn a_chain_that_ends_at_a_gate_leaves_a_tail_that_was_counted_down_in_part() {
    let rules = Rules {
        run_out: false,
        ..Rules::ALL
    };
    assert_eq!(
        violation(rules, State::new(1, 1).with_death()),
        Violation::HalfCounted
    );
}

#[test]
fn without_a_look_after_the_gates_a_late_store_loses_atoms() {
    let rules = Rules {
        watch: false,
        ..Rules::ALL
    };
    let begin = State::new(1, 0).with_stale_store();
    assert_eq!(violation(rules, begin), Violation::Lost);
    let dead = State::new(1, 0).with_stale_store().with_death();
    assert_eq!(violation(rules, dead), Violation::Restless);
}

#[test]
fn without_a_late_store_no_look_after_the_gates_is_needed() {
    let rules = Rules {
        watch: false,
        ..Rules::ALL
    };
    if let Err(found) = search(rules, State::new(3, 3).with_death()) {
        panic!("{found}");
    }
}

#[test]
fn a_violation_comes_with_the_steps_that_lead_to_it() {
    let rules = Rules {
        reuse_when_done: false,
        ..Rules::ALL
    };
    let found = search(rules, State::new(2, 0)).unwrap_err();
    let text = found.to_string();
    assert!(text.contains("the tenant begins"), "{text}");
    assert!(text.ends_with("an atom of another launch"), "{text}");
}
