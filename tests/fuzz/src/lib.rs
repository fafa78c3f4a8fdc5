// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Fuzz targets: whatever arrives from outside LithOS, in any form, through the code that takes it in.
//!
//! | target | what arrives | what holds of it |
//! | --- | --- | --- |
//! | [`protocol`] | packets of tenants, lines of operators, garbage in shared pages, time | the broker answers each, partitions share no TPC, and when all have gone nothing is left |
//! | [`ring`] | a ring and stamps with any bits, grants in between | the ledger stays as large as a ring and says nothing twice |
//! | [`config`] | a text | it is refused, or a broker works with it |
//! | [`descriptor`] | 384 bytes and edits | only the bits of an edit change, and some present TPC stays |
//!
//! Each is a function of bytes that panics where one of these does not hold. `scripts/fuzz` makes
//! programs of them that search for such bytes; the tests here try the inputs in `corpus`, those that
//! once did it among them.

mod config;
mod descriptor;
mod input;
mod memory;
mod protocol;
mod ring;
mod world;

pub use config::config;
pub use descriptor::descriptor;
pub use protocol::protocol;
pub use ring::ring;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Tries every committed input of a target.
    fn try_all(target: &str, function: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut tried = 0;
        for entry in fs::read_dir(folder).expect("a folder of inputs") {
            let path = entry.expect("an input").path();
            println!("{}", path.display());
            function(&fs::read(path).expect("an input"));
            tried += 1;
        }
        assert!(tried > 0, "there are no inputs");
    }

    #[test]
    fn no_committed_conversation_breaks_a_promise_of_the_broker() {
        try_all("protocol", super::protocol);
    }

    #[test]
    fn no_committed_ring_breaks_a_promise_of_the_ledger() {
        try_all("ring", super::ring);
    }

    #[test]
    fn no_committed_text_breaks_a_promise_of_the_configuration() {
        try_all("config", super::config);
    }

    #[test]
    fn no_committed_descriptor_breaks_a_promise_of_an_edit() {
        try_all("descriptor", super::descriptor);
    }
}
