// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The module as dkms has built it from what `make -C kmod dkms` lays out.

use lithos_abi::bindings::LITHOS_ABI_VERSION;
use lithos_vm::{Device, Module};

#[test]
fn the_module_that_dkms_builds_is_the_device() {
    let _module = Module::insert("/modules/dkms/lithos.ko", "").expect("it can be inserted");
    let info = Device::open().info().expect("info");
    assert_eq!(info.version, LITHOS_ABI_VERSION);
}
