// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A channel, mapped: what one CUDA context shares with the scheduler.
//!
//! Everything about the pages is checked here once: their sizes, that they cannot shrink under us
//! (a shrunken page is a SIGBUS in somebody else's program), and that what the grant page says
//! about the others is true. After that the accessors of lithos-abi cannot go wrong.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use lithos_abi::arena::{Stamps, region};
use lithos_abi::bindings::*;
use lithos_abi::chain::Chains;
use lithos_abi::grant::{GrantPageError, GrantReader, Terms};
use lithos_abi::ring::{RingError, RingWriter, ring_bytes};
use lithos_abi::{Page, lithos_stamp};
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::address;

/// Why the pages that a broker sent are not those of a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not as many descriptors as there should be: grant page, ring and arena, or a grant page.
    #[error("{wanted} descriptors should have come with the channel, not {found}")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many should have.
        wanted: usize,
    },
    /// A page could not be looked at or mapped.
    #[error("the {page} cannot be mapped")]
    Map {
        /// Which.
        page: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A page has another size than announced.
    #[error("the {page} has {found} bytes, not {wanted}")]
    Size {
        /// Which.
        page: &'static str,
        /// Bytes announced.
        wanted: u64,
        /// Bytes found.
        found: u64,
    },
    /// A page is not made of ordinary memory.
    #[error("the {page} is no file in memory")]
    Kind {
        /// Which.
        page: &'static str,
    },
    /// A page could shrink while it is mapped.
    #[error("the {page} is not sealed against shrinking")]
    Seals {
        /// Which.
        page: &'static str,
    },
    /// The grant page is none, or of another version.
    #[error(transparent)]
    GrantPage(#[from] GrantPageError),
    /// The ring cannot be one.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The grant page contradicts the broker's reply, or itself.
    #[error("the grant page's {0} is wrong")]
    Terms(&'static str),
}

/// A channel. The maps end with it; the broker has to be told separately.
#[derive(Debug)]
pub struct Channel {
    /// The grant page that holds, one of `pages`.
    grant: AtomicPtr<GrantPage>,
    /// All grant pages that ever held, because a launch may be reading one. Each has a place of its own,
    /// which `grant` points to.
    #[expect(
        clippy::vec_box,
        reason = "a list that grows would move what it holds itself"
    )]
    pages: Mutex<Vec<Box<GrantPage>>>,
    // These look into maps of this value, which never change: their lifetime is this channel's, and
    // the accessors say so.
    ring: RingWriter<'static>,
    arena: Option<Arena>,
    terms: Terms,
    _ring_map: MmapRaw,
    /// The grant page that the channel came with, and what a broker needs that takes it over: ring and
    /// arena. None where they are the kernel's.
    descriptors: Vec<OwnedFd>,
}

/// What the pages of a channel are called, in the order in which they come.
const PAGES: [&str; 3] = ["grant page", "ring", "arena"];

/// Where one of a channel's pages is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl<'a> Place<'a> {
    /// The places of grant page, ring and arena, each at an offset of a file.
    pub(crate) fn of_pages(
        files: [(BorrowedFd<'a>, u64); 3],
        ring_bytes: u64,
        arena_bytes: u64,
    ) -> [Self; 3] {
        let [grant, ring, arena] = files;
        let place = |(file, offset), bytes| Self {
            file,
            offset,
            bytes,
        };
        [
            place(grant, LITHOS_PAGE_BYTES.into()),
            place(ring, ring_bytes),
            place(arena, arena_bytes),
        ]
    }

    /// What to map it with.
    pub(crate) fn options(&self) -> io::Result<MmapOptions> {
        let mut options = MmapOptions::new();
        options
            .offset(self.offset)
            .len(usize::try_from(self.bytes).map_err(io::Error::other)?);
        Ok(options)
    }
}

/// A grant page, mapped.
#[derive(Debug)]
struct GrantPage {
    // Looks into the map below.
    reader: GrantReader<'static>,
    _map: MmapRaw,
}

impl GrantPage {
    fn map(place: Place<'_>) -> Result<Self, ChannelError> {
        let map = (place.options())
            .and_then(|mut options| options.populate().map_raw_read_only(&place.file))
            .and_then(not_in_children)
            .map_err(|source| ChannelError::Map {
                page: PAGES[0],
                source,
            })?;
        // SAFETY: 1. the map has page alignment, cannot shrink (checked, or the kernel's own) and
        // lives in the value returned beside what is made of this view; a `GrantReader` writes nothing.
        // 2. nobody else in this process knows it.
        let reader = GrantReader::new(unsafe { view(&map) })?;
        Ok(Self { reader, _map: map })
    }
}

impl Channel {
    /// Maps the pages of a channel that came as files: grant page, ring, arena.
    pub fn map(reply: &lithos_channel, descriptors: Vec<OwnedFd>) -> Result<Self, ChannelError> {
        let descriptors: [OwnedFd; 3] = exactly(descriptors)?;
        let files = descriptors.each_ref().map(|file| (file.as_fd(), 0));
        let places = Place::of_pages(files, reply.ring_bytes, reply.arena_bytes);
        for (page, (file, place)) in PAGES.iter().zip(descriptors.iter().zip(&places)) {
            check(page, file, place.bytes)?;
        }
        let channel = Self::map_places(reply, places)?;
        Ok(Self {
            descriptors: descriptors.into(),
            ..channel
        })
    }

    /// Maps the pages of a channel that has them in these places: grant page, ring, arena.
    pub(crate) fn map_places(
        reply: &lithos_channel,
        [grant, ring, arena]: [Place<'_>; 3],
    ) -> Result<Self, ChannelError> {
        let page = Box::new(GrantPage::map(grant)?);
        let terms = page.reader.terms();
        check_terms(reply, &terms)?;

        let ring_map = (ring.options())
            .and_then(|mut options| options.populate().map_raw(&ring.file))
            .and_then(not_in_children)
            .map_err(|source| ChannelError::Map {
                page: PAGES[1],
                source,
            })?;
        // SAFETY: as in `GrantPage::map`; this map is writable.
        let ring = RingWriter::create(unsafe { view(&ring_map) }, terms.records)?;
        let arena = Arena::map(arena, &terms)?;
        Ok(Self {
            grant: AtomicPtr::new((&raw const *page).cast_mut()),
            pages: Mutex::new(vec![page]),
            ring,
            arena,
            terms,
            _ring_map: ring_map,
            descriptors: Vec::new(),
        })
    }

    /// Maps the grant page that a broker gives a channel which it has taken over, and has it hold for
    /// all launches that reserve their sequences from now on.
    pub fn replace_grant(
        &self,
        reply: &lithos_channel,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        let [descriptor] = exactly(descriptors)?;
        let place = Place {
            file: descriptor.as_fd(),
            offset: 0,
            bytes: LITHOS_PAGE_BYTES.into(),
        };
        check(PAGES[0], &descriptor, place.bytes)?;
        let page = Box::new(GrantPage::map(place)?);
        let terms = page.reader.terms();
        check_terms(reply, &terms)?;
        if terms != self.terms {
            return Err(ChannelError::Terms("part that never changes"));
        }
        let holds = (&raw const *page).cast_mut();
        // A panic elsewhere leaves a list of pages.
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.push(page);
        // Sequentially consistent, as a launch's reservation and its load of this are.
        self.grant.store(holds, Ordering::SeqCst);
        Ok(())
    }

    /// Returns the channel's id, with its generation.
    pub fn id(&self) -> u64 {
        self.terms.channel
    }

    /// Returns what stays the same while the channel lives.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Returns the grant page that holds.
    #[inline]
    pub fn grant(&self) -> GrantReader<'_> {
        // SAFETY: this is one of `pages`, which are boxed, not changed and never taken out.
        unsafe { &*self.grant.load(Ordering::SeqCst) }.reader
    }

    /// Returns the ring.
    #[inline]
    pub fn ring(&self) -> RingWriter<'_> {
        self.ring
    }

    /// Returns the arena, if there was a place for it below 1 TiB.
    #[inline]
    pub fn arena(&self) -> Option<&Arena> {
        self.arena.as_ref()
    }

    /// Returns the descriptors of grant page (the first one), ring and arena; none if the pages are the
    /// kernel's.
    pub fn descriptors(&self) -> &[OwnedFd] {
        &self.descriptors
    }
}

/// The arena of a channel, mapped below 1 TiB.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    // These look into the map; see `Channel`.
    stamps: Stamps<'static>,
    chains: Option<Chains<'static>>,
}

// SAFETY: the map belongs to the process and not to a thread, and only atomics of it are touched.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    fn map(place: Place<'_>, terms: &Terms) -> Result<Option<Self>, ChannelError> {
        let error = |source| ChannelError::Map {
            page: PAGES[2],
            source,
        };
        let bytes = usize::try_from(terms.arena_bytes)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or(ChannelError::Terms("arena_bytes"))?;
        let Some(start) = map_low(place, bytes).map_err(error)? else {
            return Ok(None);
        };
        let arena = start.cast::<u8>();
        let bytes = bytes.get();
        // SAFETY: as in `Channel::map`; the map ends in `drop`.
        let page: Page<'static> = unsafe { Page::new(arena, bytes) };
        let stamps = region(&page, &terms.regions, LITHOS_REGION_STAMPS).map(Stamps::new);
        let arena = Self {
            start: arena,
            bytes,
            stamps: stamps.ok_or(ChannelError::Terms("region of stamps"))?,
            chains: Chains::new(&page, &terms.regions),
        };
        // SAFETY: these are the pages that were mapped above.
        unsafe { madvise(start, bytes, MmapAdvise::MADV_DONTFORK) }
            .map_err(|errno| error(errno.into()))?;
        Ok(Some(arena))
    }

    /// Returns the address of the first byte, for the driver to register.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the completion stamps.
    #[inline]
    pub fn stamps(&self) -> Stamps<'_> {
        self.stamps
    }

    /// Returns where chains can be, if there is room for any.
    #[inline]
    pub fn chains(&self) -> Option<Chains<'_>> {
        self.chains
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: these are the pages that `map` mapped, and every view of them ended with `self`.
        // The kernel refuses only what is no mapping.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

fn exactly<const N: usize>(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; N], ChannelError> {
    descriptors
        .try_into()
        .map_err(|found: Vec<_>| ChannelError::Descriptors {
            found: found.len(),
            wanted: N,
        })
}

/// Looks at a file that another process made: that it is memory, has the size that it should have, and
/// cannot shrink.
pub(crate) fn check(
    page: &'static str,
    descriptor: &OwnedFd,
    wanted: u64,
) -> Result<(), ChannelError> {
    let error = |errno: nix::Error| ChannelError::Map {
        page,
        source: errno.into(),
    };
    let stat = fstat(descriptor).map_err(error)?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found != wanted || wanted == 0 {
        return Err(ChannelError::Size {
            page,
            wanted,
            found,
        });
    }
    // No file but one in memory knows seals.
    let seals = fcntl(descriptor, FcntlArg::F_GET_SEALS).map_err(error)?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return Err(ChannelError::Seals { page });
    }
    // Huge pages can be sealed, too, but there may be none when they are touched.
    if fstatfs(descriptor).map_err(error)?.filesystem_type() != TMPFS_MAGIC {
        return Err(ChannelError::Kind { page });
    }
    Ok(())
}

fn check_terms(reply: &lithos_channel, terms: &Terms) -> Result<(), ChannelError> {
    let stamps = terms.regions[LITHOS_REGION_STAMPS as usize];
    let checks = [
        (
            "channel",
            terms.channel == reply.channel && terms.channel != 0,
        ),
        ("ring_bytes", terms.ring_bytes == reply.ring_bytes),
        ("arena_bytes", terms.arena_bytes == reply.arena_bytes),
        (
            "records",
            terms.records.is_power_of_two()
                && u64::try_from(ring_bytes(terms.records)).is_ok_and(|n| n <= terms.ring_bytes),
        ),
        ("tpc_sms", (1..=16).contains(&terms.tpc_sms)),
        ("oversize", terms.oversize <= LITHOS_OVERSIZE_REFUSE),
        ("present", terms.present != [0; 2]),
        (
            "region of stamps",
            stamps.count >= terms.records && stamps.stride as usize == size_of::<lithos_stamp>(),
        ),
        (
            "regions",
            terms.regions.iter().all(|region| {
                u64::from(region.stride)
                    .checked_mul(u64::from(region.count))
                    .and_then(|bytes| bytes.checked_add(region.offset))
                    .is_some_and(|end| end <= terms.arena_bytes)
            }),
        ),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(ChannelError::Terms(what)),
        None => Ok(()),
    }
}

/// Keeps a map out of forked children, which are no tenants.
fn not_in_children(map: MmapRaw) -> io::Result<MmapRaw> {
    map.advise(Advice::DontFork)?;
    Ok(map)
}

/// Returns a map as atomic words, for a lifetime that the caller sees to.
///
/// # Safety
///
/// As for [`Page::new`].
unsafe fn view(map: &MmapRaw) -> Page<'static> {
    let start = NonNull::new(map.as_mut_ptr()).expect("a map is not at address 0");
    // SAFETY: the caller's.
    unsafe { Page::new(start, map.len()) }
}

/// Maps pages at a free address below 1 TiB; `None` if there is none.
fn map_low(place: Place<'_>, bytes: NonZeroUsize) -> io::Result<Option<NonNull<std::ffi::c_void>>> {
    let offset = i64::try_from(place.offset).map_err(io::Error::other)?;
    let size = u64::try_from(bytes.get()).map_err(io::Error::other)?;
    for candidate in address::read_candidates(size)? {
        let wanted = usize::try_from(candidate).ok().and_then(NonZeroUsize::new);
        // SAFETY: with MAP_FIXED_NOREPLACE no mapping of anybody's is replaced.
        let mapped = unsafe {
            mmap(
                wanted,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE,
                place.file,
                offset,
            )
        };
        match mapped {
            Ok(start) if Some(start.addr()) == wanted => return Ok(Some(start)),
            // A kernel before 4.17 takes the address as a hint.
            // SAFETY: nobody has heard of this map.
            Ok(elsewhere) => unsafe { munmap(elsewhere, bytes.get()) }?,
            Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
