// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Faults that a driver and a GPU do not have, for those who must notice them.
//!
//! `SIMGPU_FAULTS` names those of this process, with commas between. Some are in what a subscriber is
//! shown, and gone when it has looked; the others are in what reaches the GPU.

use std::ffi::OsStr;
use std::sync::OnceLock;

use lithos_descriptor::hopper::{Words, fields as f};

/// Names the faults.
const VARIABLE: &str = "SIMGPU_FAULTS";
/// A bit that belongs to no field of a descriptor.
const UNKNOWN_BIT: (usize, u32) = (0, 26);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A subscriber is shown a version that nobody knows.
    Version,
    /// A subscriber is shown a bit that belongs to no field.
    UnknownBit,
    /// A subscriber is told that the parameters are shorter than they are.
    ShortParameters,
    /// Somebody has subscribed already.
    Subscriber,
    /// The GPU is a MIG instance, by its name.
    Mig,
    /// TPC masks are ignored.
    IgnoredMask,
    /// Release semaphores other than the driver's own are never written.
    LostStamp,
    /// They get another payload.
    WrongStamp,
    /// A launch with a mask loses the last part of its grid.
    Neighbour,
}

const NAMES: [(&str, Fault); 9] = [
    ("version", Fault::Version),
    ("unknown-bit", Fault::UnknownBit),
    ("short-parameters", Fault::ShortParameters),
    ("subscriber", Fault::Subscriber),
    ("mig", Fault::Mig),
    ("ignored-mask", Fault::IgnoredMask),
    ("lost-stamp", Fault::LostStamp),
    ("wrong-stamp", Fault::WrongStamp),
    ("neighbour", Fault::Neighbour),
];

/// Whether this process has a fault.
pub fn has(fault: Fault) -> bool {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    let faults = FAULTS.get_or_init(|| read(std::env::var_os(VARIABLE).as_deref()));
    faults.contains(&fault)
}

fn read(names: Option<&OsStr>) -> Vec<Fault> {
    let names = names.unwrap_or_default().to_string_lossy();
    let known = |name: &str| NAMES.iter().find(|(known, _)| *known == name);
    let names = names.split(',').map(str::trim);
    names.filter_map(known).map(|&(_, fault)| fault).collect()
}

/// Has a subscriber look at a descriptor as the faults show it, and lets the GPU have what the faults
/// make of the edited one.
pub fn around(words: &mut Words, look: impl FnOnce(&mut Words)) {
    let (index, bit) = UNKNOWN_BIT;
    let version = f::QMD_MINOR_VERSION.get(words);
    if has(Fault::Version) {
        f::QMD_MINOR_VERSION.set(words, version ^ 0xf);
    }
    if has(Fault::UnknownBit) {
        words[index] |= 1 << bit;
    }
    look(words);
    f::QMD_MINOR_VERSION.set(words, version);
    words[index] &= !(1 << bit);
    spoil(words, has);
}

fn spoil(words: &mut Words, has: impl Fn(Fault) -> bool) {
    let is_masked = f::TPC_DISABLE_MASK_VALID.get(words) != 0;
    if has(Fault::IgnoredMask) {
        f::TPC_DISABLE_MASK_VALID.set(words, 0);
    }
    for slot in [1, 2] {
        if has(Fault::LostStamp) {
            f::RELEASE_ENABLE.at(slot).set(words, 0);
        }
        let payload = f::RELEASE_SEMAPHORE_PAYLOAD.at(slot);
        if has(Fault::WrongStamp) {
            let wrong = payload.get(words) ^ 1;
            payload.set(words, wrong);
        }
    }
    if is_masked && has(Fault::Neighbour) {
        let field = [f::GRID_WIDTH, f::GRID_HEIGHT, f::GRID_DEPTH]
            .into_iter()
            .find(|field| field.get(words) > 1);
        if let Some(field) = field {
            let end = field.get(words) - 1;
            field.set(words, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_with_commas_between_and_unknown_names_are_none() {
        let found = read(Some(OsStr::new("mig, lost-stamp,nonsense")));
        assert_eq!(found, [Fault::Mig, Fault::LostStamp]);
        assert_eq!(read(None), []);
    }

    #[test]
    fn the_unknown_bit_belongs_to_no_field() {
        let (index, bit) = UNKNOWN_BIT;
        let covered: Words = lithos_descriptor::layout::V04_00.covered();
        assert_eq!(covered[index] >> bit & 1, 0);
    }

    #[test]
    fn a_descriptor_without_mask_keeps_its_grid() {
        let mut words = [0; lithos_descriptor::hopper::WORDS];
        f::GRID_WIDTH.set(&mut words, 7);
        let before = words;
        spoil(&mut words, |fault| fault == Fault::Neighbour);
        assert_eq!(words, before);
        f::TPC_DISABLE_MASK_VALID.set(&mut words, 1);
        spoil(&mut words, |fault| fault == Fault::Neighbour);
        assert_eq!(f::GRID_WIDTH.get(&words), 6);
    }
}
