// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A layout: all fields of one version of the launch descriptor, as data.
//!
//! Which versions may be *edited* is decided here, once: those whose behaviour was measured on
//! hardware are [`Status::Verified`], and only they are found by default. The others are in the
//! table so that people can look at them ([`Layout::of_unverified`]) and so that verifying one
//! is a change of one word.
//!
//! The bytes alone cannot tell every version from every other: to V04 the byte that holds V05's
//! version is a part of a pointer, and to V05 the byte that holds V04's is a part of a payload.
//! So [`Layout::detect`] answers "if this is a descriptor for a GPU that uses version 4.0, is it
//! as expected?"; whoever edits has to know the GPU's generation as well.

use core::fmt;

use crate::field::Field;
use crate::tables;

/// A version of the launch descriptor, shown as `V04_00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major version: 4 on Hopper.
    pub major: u8,
    /// Minor version: 0 on Hopper.
    pub minor: u8,
}

impl Version {
    /// Hopper's version.
    pub const V04_00: Version = Version { major: 4, minor: 0 };

    /// The byte in which a descriptor holds its version.
    pub const fn byte(self) -> u8 {
        self.major << 4 | self.minor
    }

    const fn from_byte(byte: u8) -> Self {
        Version {
            major: byte >> 4,
            minor: byte & 0xf,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{:02}_{:02}", self.major, self.minor)
    }
}

/// How far a layout may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its fields did what their names say, on hardware.
    Verified,
    /// Nobody tried it: to be looked at, never to be edited.
    Unverified,
}

/// All fields of one version.
#[derive(Debug)]
pub struct Layout {
    /// The version that this is the layout of.
    pub version: Version,
    /// The public header that it was taken from.
    pub header: &'static str,
    /// Size of a descriptor in bytes. No header says it: it is where the last field ends.
    pub size_bytes: usize,
    /// How far it may be trusted.
    pub status: Status,
    /// The fields in the header's order.
    pub fields: &'static [Field],
}

/// Every layout, oldest first.
pub static LAYOUTS: [&Layout; 13] = [
    &V00_06, &V01_06, &V01_07, &V02_00, &V02_01, &V02_02, &V02_03, &V02_04, &V03_00, &V04_00,
    &V04_01, &V05_00, &V05_01,
];

/// Declares layouts: `NAME = (major, minor), header, bytes, status, table;`.
macro_rules! layouts {
    ($(
        $name:ident = ($major:literal, $minor:literal),
        $header:literal, $bytes:literal, $status:ident, $table:ident;
    )*) => {
        $(
            #[doc = concat!("The layout in `", $header, "`, version ", $major, ".", $minor, ".")]
            pub const $name: Layout = Layout {
                version: Version { major: $major, minor: $minor },
                header: $header,
                size_bytes: $bytes,
                status: Status::$status,
                fields: &tables::$table::FIELDS,
            };
        )*
    };
}

layouts! {
    V00_06 = (0, 6), "clb1c0qmd.h", 256, Unverified, v00_06;
    V01_06 = (1, 6), "cla0c0qmd.h", 256, Unverified, v01_06;
    V01_07 = (1, 7), "clc1c0qmd.h", 256, Unverified, v01_07;
    V02_00 = (2, 0), "clc1c0qmd.h", 256, Unverified, v02_00;
    V02_01 = (2, 1), "clc1c0qmd.h", 256, Unverified, v02_01;
    V02_02 = (2, 2), "clc4c0qmd.h", 256, Unverified, v02_02;
    V02_03 = (2, 3), "clc7c0qmd.h", 256, Unverified, v02_03;
    V02_04 = (2, 4), "clc9c0qmd.h", 256, Unverified, v02_04;
    V03_00 = (3, 0), "clcbc0qmd.h", 256, Unverified, v03_00;
    V04_00 = (4, 0), "clcbc0qmd.h", 384, Verified, v04_00;
    V04_01 = (4, 1), "clcec0qmd.h", 384, Unverified, v04_01;
    V05_00 = (5, 0), "clcec0qmd.h", 384, Unverified, v05_00;
    V05_01 = (5, 1), "clcec0qmd.h", 512, Unverified, v05_01;
}

/// The byte that holds the version up to V04.
const VERSION_BYTE: usize = 72;
/// The byte that holds it from V05 on.
const VERSION_BYTE_5: usize = 58;

impl Layout {
    /// Finds the verified layout of `version`.
    pub fn of(version: Version) -> Option<&'static Layout> {
        Self::of_unverified(version).filter(|layout| layout.status == Status::Verified)
    }

    /// Finds the layout of `version`, verified or not: to look at a descriptor, not to edit it.
    pub fn of_unverified(version: Version) -> Option<&'static Layout> {
        LAYOUTS.into_iter().find(|layout| layout.version == version)
    }

    /// Finds the verified layout of the version that a descriptor says it has. The caller knows
    /// that the GPU is of a generation that uses such a version (see above).
    pub fn detect(descriptor: &[u8]) -> Option<&'static Layout> {
        Self::of(Version::from_byte(*descriptor.get(VERSION_BYTE)?))
    }

    /// Guesses the layout of any descriptor, verified or not: to look at it, not to edit it.
    pub fn detect_unverified(descriptor: &[u8]) -> Option<&'static Layout> {
        let at = |byte: usize| {
            let version = Version::from_byte(*descriptor.get(byte)?);
            Self::of_unverified(version)
        };
        at(VERSION_BYTE)
            .filter(|layout| layout.version.major < 5)
            .or_else(|| at(VERSION_BYTE_5).filter(|layout| layout.version.major >= 5))
    }

    /// Finds a field by NVIDIA's name.
    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields
            .iter()
            .find(|field| field.name() == name)
            .copied()
    }

    /// Finds a field by name when compiling; a wrong name does not compile in a `const`.
    ///
    /// # Panics
    ///
    /// If there is no such field.
    pub const fn require(&self, name: &str) -> Field {
        let mut index = 0;
        while index < self.fields.len() {
            if same(self.fields[index].name(), name) {
                return self.fields[index];
            }
            index += 1;
        }
        panic!("no field of this name in this layout")
    }

    /// Every field, element for element, that is not zero in a descriptor: for people to read.
    /// What `words` does not hold is left out.
    pub fn values<'a>(&self, words: &'a [u32]) -> impl Iterator<Item = (Field, u64)> + use<'a> {
        let bits = words.len() * 32;
        self.fields
            .iter()
            .flat_map(|field| field.elements())
            .filter(move |field| (field.hi() as usize) < bits)
            .map(|field| (field, field.get(words)))
            .filter(|&(_, value)| value != 0)
    }

    /// Every bit that belongs to some field, in the first `N` words.
    pub const fn covered<const N: usize>(&self) -> [u32; N] {
        let mut covered = [0; N];
        let mut index = 0;
        while index < self.fields.len() {
            let [by_i, by_j] = self.fields[index].repeats();
            let mut element = 0;
            while element < by_i.count * by_j.count {
                let field = self.fields[index].at2(element / by_j.count, element % by_j.count);
                field.set(&mut covered, field.max());
                element += 1;
            }
            index += 1;
        }
        covered
    }

    /// The number of 32-bit words of a descriptor.
    pub const fn words(&self) -> usize {
        self.size_bytes / 4
    }
}

/// `==` for `str`, which is not yet `const`.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}
