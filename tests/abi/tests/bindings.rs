// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Do both sides agree on bytes? `include/lithos.h` is the contract; its Rust is generated, committed
//! (the kernel module includes the same file) and compared here with what bindgen makes of it now.
//! `LITHOS_BLESS=1` writes the file instead.

use std::fs;
use std::path::Path;

const NOTICE: &str = "// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Made by bindgen from include/lithos.h; tests/abi compares it, and writes it with LITHOS_BLESS=1.
";

#[test]
fn the_bindings_are_what_bindgen_makes_of_the_header() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/abi lies in the repository");
    let made = bindgen::Builder::default()
        .header(
            root.join("include/lithos.h")
                .to_str()
                .expect("a path in UTF-8"),
        )
        .use_core()
        .rust_target(bindgen::RustTarget::stable(85, 0).expect("the kernel's rustc is 1.85"))
        .rust_edition(bindgen::RustEdition::Edition2021)
        .allowlist_item("(lithos|LITHOS)_.*")
        .derive_default(true)
        .derive_eq(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(true)
        .disable_header_comment()
        .generate()
        .expect("bindgen reads the header")
        .to_string();
    let made = format!("{NOTICE}\n{made}");
    let committed = root.join("userspace/abi/src/bindings.rs");
    if std::env::var_os("LITHOS_BLESS").is_some() {
        fs::write(&committed, &made).expect("the bindings can be written");
    }
    let found = fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        found == made,
        "userspace/abi/src/bindings.rs differs from the header: run with LITHOS_BLESS=1"
    );
}
