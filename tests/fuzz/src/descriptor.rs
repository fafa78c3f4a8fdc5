// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The descriptor editor: 384 bytes that may be a launch descriptor, and edits in any order.

use lithos_descriptor::hopper::{
    Action, CONSTANT_BUFFERS, ConstantBuffer, DEPENDENTS, Dependent, Descriptor, RELEASES, Release,
    ReleaseSize, Restricted, StampSlot, WORDS, Words, fields,
};
use lithos_descriptor::{Field, Layout, TpcMask, Version};

use crate::input::Input;

const BYTES: usize = WORDS * 4;
const VERSION_BYTE: usize = 72;

/// Reads a descriptor of any bytes in every way, and edits it.
pub fn descriptor(data: &[u8]) {
    let mut input = Input(data);
    let says_so = input.flag();
    let mut bytes = [0; BYTES];
    let given = input.bytes(BYTES);
    bytes[..given.len()].copy_from_slice(given);
    if says_so {
        bytes[VERSION_BYTE] = Version::V04_00.byte();
    }
    if let Some(layout) = Layout::detect_unverified(&bytes)
        && layout.words() <= WORDS
    {
        let words: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
        assert!(
            layout
                .values(&words)
                .all(|(field, value)| value <= field.max())
        );
    }
    match Descriptor::from_bytes(&bytes) {
        Err(wrong) => assert_ne!(bytes[VERSION_BYTE], Version::V04_00.byte(), "{wrong}"),
        Ok(mut descriptor) => {
            assert_eq!(descriptor.to_bytes(), bytes);
            read(&descriptor);
            // Each edit takes some bytes, so that there is an end.
            while !input.is_empty() {
                edit(&mut descriptor, &mut input);
                read(&descriptor);
            }
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Everything that can be asked of a descriptor.
fn read(descriptor: &Descriptor<Words>) {
    let kind = descriptor.kind();
    assert_eq!(u64::from(kind.bits()), descriptor.get(fields::QMD_TYPE));
    let blocks = descriptor.blocks();
    assert!(
        descriptor.block_count()
            >= blocks
                .into_iter()
                .max()
                .filter(|_| !blocks.contains(&0))
                .unwrap_or(0)
    );
    assert!(descriptor.block_threads() >= descriptor.block().into_iter().min().unwrap_or(0).into());
    assert_eq!(
        descriptor.grid().map(u64::from),
        [fields::GRID_WIDTH, fields::GRID_HEIGHT, fields::GRID_DEPTH]
            .map(|field| descriptor.get(field))
    );
    assert!(
        descriptor
            .unknown_bit()
            .is_none_or(|bit| (bit as usize) < BYTES * 8)
    );
    for bank in 0..CONSTANT_BUFFERS {
        descriptor.constant_buffer(bank);
    }
    for slot in 0..RELEASES {
        descriptor.release(slot);
    }
    for slot in 0..DEPENDENTS {
        descriptor.dependent(slot);
    }
    for tpc in descriptor.allowed().iter() {
        assert!(tpc < 128);
    }
}

fn edit(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) {
    let before = *descriptor;
    let changes: Vec<Field> = match input.byte() % 6 {
        0 => restrict(descriptor, input),
        1 => stamp(descriptor, input),
        2 => release(descriptor, input),
        3 => dependent(descriptor, input),
        4 => constant_buffer(descriptor, input),
        _ => shape(descriptor, input),
    };
    let words = before.words().iter().zip(descriptor.words());
    for (index, (before, after)) in (0..).zip(words) {
        let mut changed = before ^ after;
        while changed != 0 {
            let bit = index * 32 + changed.trailing_zeros();
            changed &= changed - 1;
            let is_meant = |field: &Field| (field.lo()..=field.hi()).contains(&bit);
            assert!(
                changes.iter().any(is_meant),
                "bit {bit} is not of this edit"
            );
        }
    }
}

fn mask(input: &mut Input<'_>) -> TpcMask {
    match input.byte() {
        0 => TpcMask::ALL,
        // Few TPCs: that is where nothing could be left.
        few @ 1..128 => (0..few % 4)
            .map(|_| u32::from(input.byte()) % 128)
            .collect(),
        _ => TpcMask::from_bits([input.word(), input.word()]),
    }
}

fn restrict(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let (allowed, present) = (mask(input), mask(input));
    let before = *descriptor;
    let could_run = before.allowed() & present;
    match descriptor.restrict(allowed, present) {
        Restricted::To(left) => {
            assert!(!left.is_empty(), "an empty mask hangs the launch for ever");
            assert_eq!(left, could_run & allowed);
            assert_eq!(descriptor.allowed(), before.allowed() & allowed);
        }
        Restricted::Unchanged(left) => {
            assert!((could_run & allowed).is_empty());
            assert_eq!(left, could_run);
            assert_eq!(*descriptor, before);
        }
    }
    let mut fields: Vec<Field> = (0..4).map(|i| fields::TPC_DISABLE_MASK.at(i)).collect();
    fields.push(fields::TPC_DISABLE_MASK_VALID);
    fields
}

fn stamp(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let (slot, index) = match input.flag() {
        true => (StampSlot::Two, 2),
        false => (StampSlot::One, 1),
    };
    let address = input.word();
    let payload = input.half();
    let before = *descriptor;
    let is_used = before.release(index).is_some();
    match descriptor.stamp(slot, address, payload) {
        Ok(()) => {
            assert!(!is_used);
            let release = descriptor.release(index).expect("the stamp");
            assert_eq!(
                (release.address, release.payload),
                (address, payload.into())
            );
            assert_eq!(
                (release.size, release.membar),
                (ReleaseSize::FourWords, false)
            );
        }
        Err(_) => assert_eq!(*descriptor, before),
    }
    release_fields(index)
}

fn release_fields(slot: u16) -> Vec<Field> {
    use fields::*;
    [
        RELEASE_ENABLE,
        RELEASE_STRUCTURE_SIZE,
        RELEASE_MEMBAR_TYPE,
        RELEASE_REDUCTION_ENABLE,
        RELEASE_REDUCTION_OP,
        RELEASE_REDUCTION_FORMAT,
        RELEASE_TRAP_TYPE,
        RELEASE_PAYLOAD64B,
        RELEASE_SEMAPHORE_ADDR,
        RELEASE_SEMAPHORE_PAYLOAD,
    ]
    .map(|field| field.at(slot))
    .to_vec()
}

fn release(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let slot = u16::from(input.byte()) % RELEASES;
    // What one slot says is said by another.
    let from = u16::from(input.byte()) % RELEASES;
    let wanted = descriptor.release(from).map(|release| Release {
        address: input.word(),
        payload: input.word(),
        ..release
    });
    if descriptor.set_release(slot, wanted).is_ok() {
        assert_eq!(descriptor.release(slot).is_some(), wanted.is_some());
    }
    release_fields(slot)
}

fn dependent(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let slot = u16::from(input.byte()) % DEPENDENTS;
    let wanted = input.flag().then(|| Dependent {
        address: input.word(),
        action: match input.byte() % 5 {
            0 => Action::IncrementPut,
            1 => Action::Schedule,
            2 => Action::InvalidateCopySchedule,
            3 => Action::DecrementDependence,
            _ => Action::Unknown(input.byte()),
        },
        prefetch: input.flag(),
    });
    if descriptor.set_dependent(slot, wanted).is_ok() {
        assert_eq!(
            descriptor.dependent(slot).map(|d| d.address),
            wanted.map(|d| d.address)
        );
    }
    use fields::*;
    [
        DEPENDENT_QMD_ENABLE,
        DEPENDENT_QMD_ACTION,
        DEPENDENT_QMD_PREFETCH,
        DEPENDENT_QMD_POINTER,
    ]
    .map(|field| field.at(slot))
    .to_vec()
}

fn constant_buffer(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let bank = u16::from(input.byte()) % CONSTANT_BUFFERS;
    let wanted = input.flag().then(|| ConstantBuffer {
        address: input.word(),
        size_bytes: input.half(),
    });
    if descriptor.set_constant_buffer(bank, wanted).is_ok() {
        assert_eq!(descriptor.constant_buffer(bank), wanted);
    }
    use fields::*;
    [
        CONSTANT_BUFFER_VALID,
        CONSTANT_BUFFER_ADDR_SHIFTED6,
        CONSTANT_BUFFER_SIZE_SHIFTED4,
    ]
    .map(|field| field.at(bank))
    .to_vec()
}

fn shape(descriptor: &mut Descriptor<Words>, input: &mut Input<'_>) -> Vec<Field> {
    let extents = [input.half(), input.half(), input.half()];
    use fields::*;
    match input.byte() % 4 {
        0 => {
            if descriptor.set_resume(extents).is_ok() {
                assert_eq!(descriptor.resume(), extents);
            }
            vec![GRID_WIDTH_RESUME, GRID_HEIGHT_RESUME, GRID_DEPTH_RESUME]
        }
        1 => {
            if descriptor.set_grid(extents).is_ok() {
                assert_eq!(descriptor.grid(), extents);
            }
            vec![GRID_WIDTH, GRID_HEIGHT, GRID_DEPTH]
        }
        2 => {
            if descriptor.set_block(extents).is_ok() {
                assert_eq!(descriptor.block(), extents);
            }
            vec![
                CTA_THREAD_DIMENSION0,
                CTA_THREAD_DIMENSION1,
                CTA_THREAD_DIMENSION2,
            ]
        }
        _ => {
            let allowed = input.flag().then(|| mask(input));
            if descriptor.set_allowed(allowed).is_ok() {
                assert_eq!(descriptor.allowed(), allowed.unwrap_or(TpcMask::ALL));
            }
            let mut fields: Vec<Field> = (0..4).map(|i| TPC_DISABLE_MASK.at(i)).collect();
            fields.push(TPC_DISABLE_MASK_VALID);
            fields
        }
    }
}
