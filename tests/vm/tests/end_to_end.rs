// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! End-to-end tests of `tests/e2e`, once more, over the kernel's broker: those that say most about a
//! broker and need no programs but LithOS. `scripts/vm` puts them into `/lithos`. They are few, because each
//! takes a minute in a machine that is emulated; `daemon.rs` has what is about this broker alone.

use std::path::Path;
use std::process::Command;

use lithos_vm::{Device, Module, wait_until};

/// Runs one of them.
fn passes(name: &str) {
    let _module = Module::lithos("");
    let output = Command::new(Path::new("/lithos/e2e"))
        .env("LITHOS_TEST_BROKER", "kernel")
        .args(["--exact", name])
        .output()
        .expect("the tests");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("1 passed; 0 failed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let device = Device::open();
    wait_until("nobody is left", || {
        let info = device.info().expect("info");
        (info.tenants, info.channels, info.pinned_bytes) == (0, 0, 0)
    });
}

macro_rules! also_over_the_kernels_broker {
    ($($module:ident: $($name:ident),+;)+) => {$(mod $module {$(
        #[test]
        fn $name() {
            super::passes(concat!(stringify!($module), "::", stringify!($name)));
        }
    )+})+};
}

also_over_the_kernels_broker! {
    atoms:
        a_held_launch_goes_on_when_the_daemon_is_killed;
    confined:
        every_launch_in_the_ring_carries_a_mask_within_its_grant;
    lending:
        best_effort_leaves_what_is_lent_to_it_while_its_lender_is_active,
        streams_of_best_effort_that_borrows_have_the_least_priority;
    life:
        after_a_restart_partitions_that_were_changed_by_command_are_as_they_were;
    live:
        a_change_is_in_force_at_the_next_launch;
}
