// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Many tenants at a time. `load --seconds 600` is the long form.

use lithos_tests::load::{self, CONFIGURATION, Load, Until};

use crate::support::*;

#[test]
fn two_hundred_tenants_that_attach_launch_and_leave_leave_nothing_behind() {
    let mut bed = managed_gpu(CONFIGURATION);
    let load = Load {
        tenants: 200,
        processes: 3,
        seed: 3,
        until: Until::Steps(2_000),
    };
    let report = load::run(&mut bed, &load).expect("nothing of it stays");
    assert_eq!(report.steps, 2_000);
    assert!(
        report.attached > 400 && report.launches > 10_000,
        "{report:?}"
    );
    assert!(report.ended > 3 && report.changes > 3, "{report:?}");
}
