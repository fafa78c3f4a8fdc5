// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Copies and fills, a piece at a time.

use super::client::Client;
use super::space::AddressSpace;
use crate::ptx::{Fault, Memory};
use crate::wire::Place;

/// The most that is copied through one buffer.
const COPY_CHUNK_BYTES: u64 = 1 << 20;

/// Fills memory with a value of `width` bytes.
pub(super) fn fill(
    memory: &dyn Memory,
    address: u64,
    value: u32,
    width: u8,
    count: u64,
) -> Result<(), Fault> {
    let pattern = &value.to_le_bytes()[..usize::from(width)];
    let chunk = pattern.repeat(1 << 16);
    let mut left = count * u64::from(width);
    let mut at = address;
    while left > 0 {
        let part = left.min(chunk.len() as u64);
        // PANIC: no longer than the chunk.
        memory.store(at, &chunk[..usize::try_from(part).expect("a chunk")])?;
        at += part;
        left -= part;
    }
    Ok(())
}

/// Copies between memory of the GPUs and of the client. An address of device memory may belong to
/// any GPU of the client: they share one range of addresses.
pub(super) fn copy(
    client: &Client,
    space: &AddressSpace,
    to: Place,
    from: Place,
    bytes: u64,
) -> Result<(), Fault> {
    let owner = |address: u64| {
        let holder = client.spaces.values().find(|other| other.owns(address));
        holder.map_or(space, |holder| holder)
    };
    let mut buffer = vec![0; usize::try_from(bytes.min(COPY_CHUNK_BYTES)).unwrap_or(0)];
    let mut done = 0;
    while done < bytes {
        let part = (bytes - done).min(COPY_CHUNK_BYTES);
        // PANIC: no longer than the buffer.
        let buffer = &mut buffer[..usize::try_from(part).expect("a chunk")];
        match from {
            Place::Gpu(address) => owner(address).load(address + done, buffer)?,
            Place::Client(address) => space.read_client(address + done, buffer)?,
        }
        match to {
            Place::Gpu(address) => owner(address).store(address + done, buffer)?,
            Place::Client(address) => space.write_client(address + done, buffer)?,
        }
        done += part;
    }
    Ok(())
}
