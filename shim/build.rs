// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Names the library, and keeps it in the process once it is there: the driver calls into it at every
//! launch, whatever becomes of the handle that loaded it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,liblithos_shim.so");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
