// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launches that need room: cooperative grids and clusters.

use serde_json::json;

use crate::support::*;

/// A partition that is too small for what is launched, and what it does about that.
fn small(oversize: &str) -> String {
    format!(
        "[[partition]]\nname = \"small\"\nclass = \"lc\"\nguarantee = 2\noversize = \"{oversize}\"\n"
    )
}

#[test]
fn a_cooperative_grid_that_fits_stays_in_its_partition() {
    let bed = managed_gpu(&small("refuse"));
    let report = run(&bed, "small", &["cooperative", "--blocks", "4"]);
    assert_eq!(report["result"], "CUDA_SUCCESS");
    assert_eq!((&report["met"], &report["sms"]), (&json!(true), &json!(4)));
}

#[test]
fn a_cooperative_grid_that_does_not_fit_runs_on_the_smallest_set_that_does() {
    let bed = managed_gpu(&small("widen"));
    let report = run(&bed, "small", &["cooperative", "--blocks", "10"]);
    assert_eq!(report["result"], "CUDA_SUCCESS");
    assert_eq!((&report["met"], &report["sms"]), (&json!(true), &json!(10)));
}

#[test]
fn a_cooperative_grid_that_does_not_fit_is_refused_where_the_partition_says_so() {
    let bed = managed_gpu(&small("refuse"));
    let report = run(&bed, "small", &["cooperative", "--blocks", "10"]);
    assert_ne!(report["result"], "CUDA_SUCCESS");
    assert_eq!(report["sms"], 0);
}

#[test]
fn clusters_that_fit_into_a_gpc_of_the_partition_stay_in_it() {
    let bed = managed_gpu(&small("refuse"));
    let report = run(
        &bed,
        "small",
        &["cluster", "--ctas", "2", "--clusters", "6"],
    );
    assert_eq!(report["result"], "CUDA_SUCCESS");
    assert_eq!(
        (&report["met"], &report["clusters"]),
        (&json!(true), &json!(6))
    );
    assert!(number(&report["sms"]) <= 4, "{report}");
}

#[test]
fn a_partition_that_launches_clusters_keeps_room_for_the_largest_one() {
    let bed = managed_gpu(&small("widen"));
    lithos(&bed, &["partition", "set", "small", "--guarantee", "6"]);
    let report = run(
        &bed,
        "small",
        &["cluster", "--ctas", "8", "--clusters", "4", "--repeat", "3"],
    );
    assert_eq!(report["result"], "CUDA_SUCCESS");
    assert_eq!(
        (&report["met"], &report["clusters"]),
        (&json!(true), &json!(12))
    );
}

#[test]
fn clusters_that_do_not_fit_run_wider_or_are_refused_as_the_partition_says() {
    let bed = managed_gpu(&small("widen"));
    // Every block of a cluster has an SM to itself among the cluster: eight need more than there are.
    let wide = ["cluster", "--ctas", "8", "--clusters", "2"];
    let report = run(&bed, "small", &wide);
    assert_eq!(report["result"], "CUDA_SUCCESS");
    assert_eq!(
        (&report["met"], &report["clusters"]),
        (&json!(true), &json!(2))
    );

    lithos(&bed, &["partition", "set", "small", "--oversize", "refuse"]);
    let report = run(&bed, "small", &wide);
    assert_ne!(report["result"], "CUDA_SUCCESS");
    assert_eq!(report["clusters"], 0);
}
