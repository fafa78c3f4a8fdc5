// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One process's memory as one GPU sees it.
//!
//! The idea: an address space is a sorted list of ranges, and a range is one of three things: device
//! memory (the server's own, touched by nobody else), memory shared with the client (pinned host
//! memory, a memfd that both map), or the client's own memory reached through the kernel
//! (`cuMemHostRegister` at its own address). Everything the GPU reads or writes, kernels, copies,
//! releases and constant banks alike, goes through here, and what is not mapped faults.
//!
//! An aligned word of up to eight bytes is never torn. Atomics are atomic among blocks everywhere and
//! against the CPU in shared memory; in memory reached through the kernel they are not atomic against
//! the CPU.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use crate::ptx::{Access, Atomic, Fault, Kernel, Memory};
use crate::shared::SharedMemory;

/// Device memory is handed out in multiples of this, with at least as much unmapped space after it.
const ALLOCATION_UNIT: u64 = 512;
/// Allocations of this size or more begin at multiples of it, as with a real driver's pages.
const LARGE_PAGE: u64 = 2 << 20;
/// Where device memory of the first GPU begins: above what a program puts below 1 TiB, below where
/// the kernel maps things.
const DEVICE_BASE: u64 = 0x0a00_0000_0000;
/// Addresses that belong to each GPU.
const DEVICE_SPAN: u64 = 0x0400_0000_0000;

/// What lies behind a range of addresses.
#[derive(Clone, Debug)]
enum Backing {
    Device(Arc<MmapRaw>),
    Shared(Arc<SharedMemory>),
    Remote,
}

#[derive(Clone, Debug)]
struct Range {
    start: u64,
    bytes: u64,
    backing: Backing,
}

impl Range {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end()).contains(&address)
    }
}

/// Why an address range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapError {
    /// Another mapping is in the way.
    Overlap,
    /// There is no room.
    Exhausted,
}

/// One process's memory on one GPU, and the programs loaded into it.
#[derive(Debug)]
pub(super) struct AddressSpace {
    pid: Pid,
    base: u64,
    ranges: RefCell<Vec<Range>>,
    /// The index at which the last access found its range.
    hot: Cell<usize>,
    /// Where to look for free addresses next.
    next: Cell<u64>,
    /// Device memory in use.
    used_bytes: Cell<u64>,
    /// Whether the process was found to have ended.
    is_gone: Cell<bool>,
    programs: RefCell<BTreeMap<u64, Arc<Kernel>>>,
}

impl AddressSpace {
    pub(super) fn new(pid: Pid, gpu: u32) -> Self {
        let base = DEVICE_BASE + u64::from(gpu) * DEVICE_SPAN;
        Self {
            pid,
            base,
            ranges: RefCell::default(),
            hot: Cell::new(0),
            next: Cell::new(base),
            used_bytes: Cell::new(0),
            is_gone: Cell::new(false),
            programs: RefCell::default(),
        }
    }

    /// Whether an address is one of this GPU's device memory, mapped or not.
    pub(super) fn owns(&self, address: u64) -> bool {
        (self.base..self.base + DEVICE_SPAN).contains(&address)
    }

    /// Device memory in use.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.get()
    }

    /// Whether an access failed because the process has ended: its own memory goes before its
    /// connection does.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// What an allocation of `bytes` takes.
    pub(super) fn allocation_bytes(bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(ALLOCATION_UNIT)
    }

    /// Finds room for `bytes` of zeroed device memory.
    pub(super) fn allocate(&self, bytes: u64) -> Result<u64, MapError> {
        let bytes = Self::allocation_bytes(bytes);
        let size = usize::try_from(bytes).map_err(|_| MapError::Exhausted)?;
        let address = self.find_room(bytes).ok_or(MapError::Exhausted)?;
        let map = MmapOptions::new()
            .len(size)
            .no_reserve_swap()
            .map_anon()
            .map_err(|_| MapError::Exhausted)?;
        self.insert(Range {
            start: address,
            bytes,
            backing: Backing::Device(Arc::new(map.into())),
        })?;
        self.next.set(address + bytes + ALLOCATION_UNIT);
        self.used_bytes.set(self.used_bytes.get() + bytes);
        Ok(address)
    }

    /// Gives device memory back; says whether there was an allocation at this address.
    pub(super) fn free(&self, address: u64) -> bool {
        let Some(range) = self.remove(address, |backing| matches!(backing, Backing::Device(_)))
        else {
            return false;
        };
        self.used_bytes.set(self.used_bytes.get() - range.bytes);
        true
    }

    /// Maps memory that the client shares.
    pub(super) fn map_shared(
        &self,
        address: u64,
        memory: Arc<SharedMemory>,
    ) -> Result<(), MapError> {
        self.insert(Range {
            start: address,
            bytes: memory.bytes() as u64,
            backing: Backing::Shared(memory),
        })
    }

    /// Maps the client's own memory.
    pub(super) fn map_remote(&self, address: u64, bytes: u64) -> Result<(), MapError> {
        self.insert(Range {
            start: address,
            bytes,
            backing: Backing::Remote,
        })
    }

    /// Undoes `map_shared` or `map_remote`; says whether there was such a mapping.
    pub(super) fn unmap(&self, address: u64) -> bool {
        self.remove(address, |backing| !matches!(backing, Backing::Device(_)))
            .is_some()
    }

    /// Makes a kernel executable at an address.
    pub(super) fn add_program(&self, address: u64, kernel: Arc<Kernel>) {
        self.programs.borrow_mut().insert(address, kernel);
    }

    /// Forgets the kernel at an address.
    pub(super) fn remove_program(&self, address: u64) {
        self.programs.borrow_mut().remove(&address);
    }

    /// The kernel whose code begins at an address.
    pub(super) fn program(&self, address: u64) -> Option<Arc<Kernel>> {
        self.programs.borrow().get(&address).cloned()
    }

    /// Reads the client's memory, mapped for the GPU or not.
    pub(super) fn read_client(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let fault = illegal(address, bytes.len(), Access::Load);
        let remote = [remote(address, bytes.len()).ok_or(fault)?];
        let wanted = bytes.len();
        let read = process_vm_readv(self.pid, &mut [IoSliceMut::new(bytes)], &remote);
        self.reached(read, wanted, fault)
    }

    /// Judges what the kernel says to an access to the client's memory.
    fn reached(
        &self,
        result: nix::Result<usize>,
        wanted: usize,
        fault: Fault,
    ) -> Result<(), Fault> {
        if result == Err(Errno::ESRCH) {
            self.is_gone.set(true);
        }
        if result == Ok(wanted) {
            Ok(())
        } else {
            Err(fault)
        }
    }

    /// Writes the client's memory, mapped for the GPU or not.
    pub(super) fn write_client(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let fault = illegal(address, bytes.len(), Access::Store);
        // A stamp's words are written last to first, so that whoever sees the first sees all.
        let tail = if bytes.len() == 16 && address.is_multiple_of(8) {
            8
        } else {
            0
        };
        let (head, last) = bytes.split_at(bytes.len() - tail);
        for (address, part) in [(address + head.len() as u64, last), (address, head)] {
            if part.is_empty() {
                continue;
            }
            let remote = [remote(address, part.len()).ok_or(fault)?];
            let written = process_vm_writev(self.pid, &[IoSlice::new(part)], &remote);
            self.reached(written, part.len(), fault)?;
        }
        Ok(())
    }

    fn find_room(&self, bytes: u64) -> Option<u64> {
        let align = if bytes >= LARGE_PAGE {
            LARGE_PAGE
        } else {
            ALLOCATION_UNIT
        };
        let limit = self.base + DEVICE_SPAN;
        let ranges = self.ranges.borrow();
        [(self.next.get(), limit), (self.base, self.next.get())]
            .into_iter()
            .find_map(|(from, to)| {
                let mut at = from.next_multiple_of(align);
                let first = ranges.partition_point(|range| range.end() <= at);
                for range in &ranges[first..] {
                    if at + bytes + ALLOCATION_UNIT <= range.start {
                        break;
                    }
                    at = at.max((range.end() + ALLOCATION_UNIT).next_multiple_of(align));
                }
                (at + bytes + ALLOCATION_UNIT <= to.max(from)).then_some(at)
            })
    }

    fn insert(&self, range: Range) -> Result<(), MapError> {
        let end = range.start.checked_add(range.bytes);
        if range.bytes == 0 || end.is_none_or(|end| end > 1 << 56) {
            return Err(MapError::Overlap);
        }
        let mut ranges = self.ranges.borrow_mut();
        let index = ranges.partition_point(|other| other.end() <= range.start);
        if ranges
            .get(index)
            .is_some_and(|other| other.start < range.end())
        {
            return Err(MapError::Overlap);
        }
        ranges.insert(index, range);
        Ok(())
    }

    fn remove(&self, address: u64, wanted: impl Fn(&Backing) -> bool) -> Option<Range> {
        let mut ranges = self.ranges.borrow_mut();
        let index = ranges.binary_search_by_key(&address, |r| r.start).ok()?;
        wanted(&ranges[index].backing).then(|| ranges.remove(index))
    }

    /// Calls `visit` for each part of an access that lies in one range: its backing, its offset in
    /// the range, and which bytes of the access they are.
    fn access(
        &self,
        address: u64,
        bytes: usize,
        access: Access,
        mut visit: impl FnMut(&Backing, usize, std::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let ranges = self.ranges.borrow();
        let mut done = 0;
        while done < bytes {
            let at = address
                .checked_add(done as u64)
                .ok_or_else(|| illegal(address, bytes, access))?;
            let mut index = self.hot.get();
            if !ranges.get(index).is_some_and(|range| range.contains(at)) {
                index = ranges.partition_point(|range| range.end() <= at);
                if !ranges.get(index).is_some_and(|range| range.contains(at)) {
                    return Err(illegal(address, bytes, access));
                }
                self.hot.set(index);
            }
            let range = &ranges[index];
            let left = usize::try_from(range.end() - at).unwrap_or(usize::MAX);
            let count = left.min(bytes - done);
            let offset =
                usize::try_from(at - range.start).map_err(|_| illegal(address, bytes, access))?;
            visit(&range.backing, offset, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

impl Memory for AddressSpace {
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.access(
            address,
            bytes.len(),
            Access::Load,
            |backing, offset, part| {
                let at = address + part.start as u64;
                let bytes = &mut bytes[part];
                match backing {
                    Backing::Device(map) => {
                        // SAFETY: `access` keeps offset and length inside the range, whose length is
                        // the mapping's; only this thread touches device memory, and no reference to it
                        // exists; `bytes` is the caller's own.
                        unsafe {
                            let from = map.as_ptr().add(offset);
                            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
                        }
                        Ok(())
                    }
                    Backing::Shared(memory) => {
                        load_shared(memory, offset, bytes);
                        Ok(())
                    }
                    Backing::Remote => self.read_client(at, bytes),
                }
            },
        )
    }

    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.access(
            address,
            bytes.len(),
            Access::Store,
            |backing, offset, part| {
                let at = address + part.start as u64;
                let bytes = &bytes[part];
                match backing {
                    Backing::Device(map) => {
                        // SAFETY: as in `load`, with the roles of the two sides exchanged.
                        unsafe {
                            let to = map.as_mut_ptr().add(offset);
                            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
                        }
                        Ok(())
                    }
                    Backing::Shared(memory) => {
                        store_shared(memory, offset, bytes);
                        Ok(())
                    }
                    Backing::Remote => self.write_client(at, bytes),
                }
            },
        )
    }

    fn atomic(
        &self,
        address: u64,
        atomic: Atomic,
        operand: u64,
        compare: u64,
    ) -> Result<u64, Fault> {
        let size = atomic.bytes();
        if !address.is_multiple_of(size as u64) {
            return Err(Fault::Misaligned {
                address,
                bytes: size as u64,
            });
        }
        let mut old = 0;
        self.access(address, size, Access::Atomic, |backing, offset, part| {
            if part.len() != size {
                return Err(illegal(address, size, Access::Atomic));
            }
            if let Backing::Shared(memory) = backing {
                old = atomic_shared(memory, offset, atomic, operand, compare);
                return Ok(());
            }
            let mut word = [0; 8];
            self.load(address, &mut word[..size])?;
            old = u64::from_le_bytes(word);
            let new = atomic.apply(old, operand, compare).to_le_bytes();
            self.store(address, &new[..size])
        })?;
        Ok(old)
    }
}

fn illegal(address: u64, bytes: usize, access: Access) -> Fault {
    Fault::IllegalAddress {
        address,
        bytes: bytes as u64,
        access,
    }
}

fn remote(address: u64, len: usize) -> Option<RemoteIoVec> {
    let base = usize::try_from(address).ok()?;
    Some(RemoteIoVec { base, len })
}

/// The largest power of two, up to eight, by which an address and a length are both divisible.
fn word_bytes(address: usize, length: usize) -> usize {
    1 << (address | length | 8).trailing_zeros()
}

/// Moves shared memory word by word between the mapping and `$bytes`.
macro_rules! by_words {
    ($atomic:ty, $word:ty, $base:expr, $bytes:expr, |$cell:ident, $chunk:ident| $action:expr) => {
        for (i, $chunk) in $bytes.enumerate() {
            // SAFETY: the caller keeps the whole access inside the mapping, and the word's size
            // divides its address; memory shared with another process is touched by atomics only.
            let $cell = unsafe { <$atomic>::from_ptr($base.cast::<$word>().add(i)) };
            $action
        }
    };
}

fn load_shared(memory: &SharedMemory, offset: usize, bytes: &mut [u8]) {
    assert!(offset + bytes.len() <= memory.bytes());
    // SAFETY: just checked to stay inside the mapping.
    let base = unsafe { memory.as_ptr().add(offset) };
    match word_bytes(base.addr(), bytes.len()) {
        8 => by_words!(
            AtomicU64,
            u64,
            base,
            bytes.chunks_exact_mut(8),
            |cell, chunk| chunk.copy_from_slice(&cell.load(Ordering::Acquire).to_ne_bytes())
        ),
        4 => by_words!(
            AtomicU32,
            u32,
            base,
            bytes.chunks_exact_mut(4),
            |cell, chunk| chunk.copy_from_slice(&cell.load(Ordering::Acquire).to_ne_bytes())
        ),
        2 => by_words!(
            AtomicU16,
            u16,
            base,
            bytes.chunks_exact_mut(2),
            |cell, chunk| chunk.copy_from_slice(&cell.load(Ordering::Acquire).to_ne_bytes())
        ),
        _ => by_words!(AtomicU8, u8, base, bytes.iter_mut(), |cell, byte| *byte =
            cell.load(Ordering::Acquire)),
    }
}

/// Stores from the last word to the first, so that whoever sees a stamp's first word sees all of it.
fn store_shared(memory: &SharedMemory, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= memory.bytes());
    // SAFETY: just checked to stay inside the mapping.
    let base = unsafe { memory.as_ptr().add(offset) };
    let word = word_bytes(base.addr(), bytes.len());
    for at in (0..bytes.len()).step_by(word).rev() {
        // SAFETY: `at` is inside the access, which is inside the mapping.
        let to = unsafe { base.add(at) };
        let chunk = &bytes[at..at + word];
        // SAFETY: the word's size divides its address, the word lies inside the mapping, and memory
        // shared with another process is touched by atomics only.
        // PANIC: the chunk has as many bytes as the word.
        unsafe {
            match word {
                8 => AtomicU64::from_ptr(to.cast()).store(
                    u64::from_ne_bytes(chunk.try_into().expect("a word")),
                    Ordering::Release,
                ),
                4 => AtomicU32::from_ptr(to.cast()).store(
                    u32::from_ne_bytes(chunk.try_into().expect("a word")),
                    Ordering::Release,
                ),
                2 => AtomicU16::from_ptr(to.cast()).store(
                    u16::from_ne_bytes(chunk.try_into().expect("a word")),
                    Ordering::Release,
                ),
                _ => AtomicU8::from_ptr(to).store(chunk[0], Ordering::Release),
            }
        }
    }
}

fn atomic_shared(
    memory: &SharedMemory,
    offset: usize,
    atomic: Atomic,
    operand: u64,
    compare: u64,
) -> u64 {
    let size = atomic.bytes();
    assert!(offset + size <= memory.bytes());
    // SAFETY: just checked to stay inside the mapping.
    let at = unsafe { memory.as_ptr().add(offset) };
    // SAFETY: the GPU address was checked to be a multiple of the word's size; ranges begin at whole
    // words and mappings at pages, so this one is too. Only atomics touch shared memory.
    unsafe {
        if size == 8 {
            let cell = AtomicU64::from_ptr(at.cast());
            cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
                Some(atomic.apply(old, operand, compare))
            })
            .unwrap_or_else(|old| old)
        } else {
            let cell = AtomicU32::from_ptr(at.cast());
            let old = cell
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
                    let new = atomic.apply(old.into(), operand, compare);
                    u32::try_from(new & 0xffff_ffff).ok()
                })
                .unwrap_or_else(|old| old);
            old.into()
        }
    }
}
