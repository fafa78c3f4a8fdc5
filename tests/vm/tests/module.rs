// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! lithos.ko as a module: what is there while it is inserted, and that a program in C is a client, too.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use lithos_abi::bindings::*;
use lithos_vm::device::GPU;
use lithos_vm::{Device, Module, Process, process::NOBODY};
use nix::errno::Errno;

#[test]
fn the_device_is_there_while_the_module_is() {
    let mut module = Module::lithos("");
    assert!(fs::exists("/dev/lithos").expect("/dev"));
    assert_eq!(module.remove(), Ok(()));
    assert!(!fs::exists("/dev/lithos").expect("/dev"));
}

#[test]
fn a_module_that_has_a_file_open_cannot_be_removed() {
    let mut module = Module::lithos("");
    let device = Device::open();
    assert_eq!(module.remove(), Err(Errno::EAGAIN));
    drop(device);
    assert_eq!(module.remove(), Ok(()));
}

#[test]
fn a_module_whose_summary_is_open_cannot_be_removed() {
    let mut module = Module::lithos("");
    let mut summary = File::open("/sys/kernel/debug/lithos/summary").expect("a summary");
    assert_eq!(module.remove(), Err(Errno::EAGAIN));
    let mut text = String::new();
    summary.read_to_string(&mut text).expect("a text");
    assert!(text.starts_with("tenants 0, channels 0,"), "{text}");
    drop(summary);
    assert_eq!(module.remove(), Ok(()));
}

#[test]
fn the_device_says_that_nobody_is_there() {
    let _module = Module::lithos("");
    let expected = lithos_info {
        version: LITHOS_ABI_VERSION,
        ..lithos_info::default()
    };
    assert_eq!(Device::open().info(), Ok(expected));
}

#[test]
fn the_device_tells_what_is_there_to_any_user() {
    let _module = Module::lithos("");
    let scheduler = Device::open();
    scheduler.claim(GPU).expect("a claim");
    // As the udev rule would have it, which nobody applies here.
    fs::set_permissions("/dev/lithos", PermissionsExt::from_mode(0o666)).expect("chmod");
    Process::run(NOBODY, || {
        assert_eq!(Device::open().info().expect("info").schedulers, 1);
    });
}

#[test]
fn a_command_that_there_is_not_is_no_ioctl_of_this_device() {
    let _module = Module::lithos("");
    let device = Device::open();
    let mut info = lithos_info::default();
    let (number, kind) = (0xff, 8);
    // Another number, another letter, another direction, another size.
    for wrong in [
        LITHOS_INFO | number,
        LITHOS_INFO ^ (1 << kind),
        LITHOS_INFO ^ (3 << 30),
    ] {
        assert_eq!(
            device.call(wrong, &mut info),
            Err(Errno::ENOTTY),
            "{wrong:#x}"
        );
    }
    let mut long = [0_u64; size_of::<lithos_info>() / 8 + 1];
    let longer = LITHOS_INFO + (8 << 16);
    assert_eq!(device.call(longer, &mut long), Err(Errno::ENOTTY));
}

#[test]
fn a_program_in_c_is_a_client() {
    let _module = Module::lithos("");
    let output = Command::new("/bin/client").output().expect("the client");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{:?}", output.status);
    assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
    assert!(said.ends_with("ok the end\n"), "{said}");
}
