// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Descriptors that the driver built (580.159.04, CUDA 13.0, H100 80GB HBM3), recorded in the
//! callback just before the upload.
//!
//! `h100.txt`: a line with a name, then indented lines with the words that are not zero, as
//! `index:value` with a decimal index and a hexadecimal value.

use std::collections::BTreeMap;

use lithos_descriptor::hopper::{Descriptor, WORDS, Words};

/// The launches by name.
pub(crate) fn launches() -> BTreeMap<&'static str, Descriptor<Words>> {
    let mut launches: BTreeMap<&str, Words> = BTreeMap::new();
    let mut name = "";
    for line in include_str!("../h100.txt").lines() {
        if !line.starts_with(' ') {
            name = line;
            launches.insert(name, [0; WORDS]);
            continue;
        }
        let words = launches.get_mut(name).unwrap();
        for item in line.split_whitespace() {
            let (index, value) = item.split_once(':').unwrap();
            words[index.parse::<usize>().unwrap()] = u32::from_str_radix(value, 16).unwrap();
        }
    }
    launches
        .into_iter()
        .map(|(name, words)| (name, Descriptor::new(words).unwrap()))
        .collect()
}

/// The launch of that name.
pub(crate) fn launch(name: &str) -> Descriptor<Words> {
    launches()[name]
}
