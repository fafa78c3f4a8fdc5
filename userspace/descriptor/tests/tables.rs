// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tables say what NVIDIA's headers say, as far as that can be checked without them.

use std::collections::BTreeSet;

use lithos_descriptor::hopper::fields;
use lithos_descriptor::layout::{LAYOUTS, Status, V04_00};
use lithos_descriptor::{Field, Layout, Version};

/// How many fields each header defines for the version: the lines that contain `MW(`.
const DEFINED: [(&str, usize); 13] = [
    ("V00_06", 113),
    ("V01_06", 120),
    ("V01_07", 120),
    ("V02_00", 116),
    ("V02_01", 116),
    ("V02_02", 119),
    ("V02_03", 121),
    ("V02_04", 114),
    ("V03_00", 133),
    ("V04_00", 134),
    ("V04_01", 142),
    ("V05_00", 154),
    ("V05_01", 132),
];

#[test]
fn every_field_of_every_header_is_in_its_table_once() {
    for (layout, (version, count)) in LAYOUTS.into_iter().zip(DEFINED) {
        assert_eq!(layout.version.to_string(), version);
        assert_eq!(layout.fields.len(), count, "{version}");
        let names: BTreeSet<&str> = layout.fields.iter().map(Field::name).collect();
        assert_eq!(names.len(), count, "{version}");
    }
}

#[test]
fn only_version_4_0_is_verified_and_found_by_default() {
    for layout in LAYOUTS {
        let verified = layout.version == Version::V04_00;
        assert_eq!(layout.status == Status::Verified, verified);
        assert_eq!(Layout::of(layout.version).is_some(), verified);
        assert!(Layout::of_unverified(layout.version).is_some());
    }
    assert!(Layout::of_unverified(Version { major: 9, minor: 0 }).is_none());
}

#[test]
fn a_descriptor_is_detected_by_its_own_version_field() {
    for layout in LAYOUTS {
        let mut words = vec![0; layout.words()];
        let minor = layout
            .field("QMD_MINOR_VERSION")
            .or(layout.field("QMD_VERSION"));
        minor.unwrap().set(&mut words, layout.version.minor.into());
        let major = layout.field("QMD_MAJOR_VERSION").unwrap();
        major.set(&mut words, layout.version.major.into());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let found = Layout::detect_unverified(&bytes).unwrap();
        assert_eq!(found.version, layout.version);
        let verified = Layout::detect(&bytes).map(|layout| layout.version);
        let expected = (layout.status == Status::Verified).then_some(layout.version);
        assert_eq!(verified, expected);
    }
    assert!(Layout::detect(&[]).is_none());
    assert!(Layout::detect_unverified(&[0x40; 72]).is_none());
}

#[test]
fn no_field_lies_outside_its_descriptor_or_across_words() {
    for layout in LAYOUTS {
        let mut end = 0;
        for field in layout.fields.iter().flat_map(|field| field.elements()) {
            assert_eq!(field.lo() / 32, field.hi() / 32, "{field:?}");
            end = end.max(field.hi() as usize + 1);
        }
        assert_eq!(end, layout.size_bytes * 8, "{}", layout.version);
    }
}

/// Pairs of fields that have a bit in common, by name.
fn overlaps(layout: &Layout) -> BTreeSet<(&'static str, &'static str)> {
    let mut owner = vec![None::<&str>; layout.size_bytes * 8];
    let mut found = BTreeSet::new();
    for field in layout.fields.iter().flat_map(|field| field.elements()) {
        for bit in field.lo()..=field.hi() {
            match owner[bit as usize] {
                Some(first) => {
                    found.insert((first, field.name()));
                }
                None => owner[bit as usize] = Some(field.name()),
            }
        }
    }
    found
}

#[test]
fn fields_overlap_only_where_the_header_gives_two_names() {
    for layout in LAYOUTS {
        let overlaps = overlaps(layout);
        if layout.version.major < 5 {
            assert_eq!(overlaps, BTreeSet::new(), "{}", layout.version);
            continue;
        }
        // Version 5 names its dependents and its constant banks one by one and as arrays.
        for (one, array) in overlaps {
            let single = one.replacen("QMD0", "QMD", 1).replacen("QMD1", "QMD", 1);
            let single = single
                .replacen("BANK0", "BANK", 1)
                .replacen("BANK1", "BANK", 1);
            assert_ne!(one, array, "{}", layout.version);
            assert_eq!(single, array, "{}", layout.version);
        }
    }
}

#[test]
fn the_positions_that_were_measured_are_the_tables() {
    for (name, hi, lo) in [
        ("QMD_TYPE", 25, 23),
        ("TPC_DISABLE_MASK_VALID", 31, 31),
        ("TPC_DISABLE_MASK", 2463, 2432),
        ("SELF_COPY_ON_COMPLETION", 378, 378),
        ("REQUIRE_SCHEDULING_PCAS", 30, 30),
        ("DEPENDENT_QMD0_POINTER", 479, 448),
        ("GRID_DEPTH_RESUME", 1471, 1456),
        ("PRE_EXIT_AT_LAST_CTA_LAUNCH", 1150, 1150),
    ] {
        let field = V04_00.field(name).unwrap();
        assert_eq!((field.hi(), field.lo()), (hi, lo), "{name}");
    }
    assert_eq!(fields::RELEASE_ENABLE.at(2).lo(), 352);
    assert_eq!(fields::DEPENDENT_QMD_ENABLE.at(1).lo(), 373);
    let program = fields::PROGRAM_ADDRESS;
    assert_eq!((program.hi(), program.lo()), (1272, 1216));
    let address = fields::RELEASE_SEMAPHORE_ADDR.at(1);
    assert_eq!((address.width(), address.lo()), (57, 768));
    assert_eq!(fields::RELEASE_SEMAPHORE_PAYLOAD.at(2).hi(), 1023);
    assert_eq!(fields::TPC_DISABLE_MASK.at(0).lo() / 8, 304);
}

#[test]
fn a_field_shows_itself_as_nvidia_writes_it() {
    let show = |name| format!("{:?}", V04_00.field(name).unwrap());
    assert_eq!(show("QMD_TYPE"), "QMD_TYPE 25:23");
    assert_eq!(show("TPC_DISABLE_MASK"), "TPC_DISABLE_MASK[4] 2463:2432");
    assert_eq!(V04_00.field("NO_SUCH_FIELD"), None);
}
