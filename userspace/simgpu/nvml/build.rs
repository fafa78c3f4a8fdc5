// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Gives the library the name under which programs look for it, whatever its file is called.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
}
