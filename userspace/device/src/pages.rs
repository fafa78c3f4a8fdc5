// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pages of a channel, seen from the scheduler.
//!
//! The embedded broker makes them: three memfds, which cannot change their size. The grant page belongs
//! to the broker: mode 0600, and what a tenant gets is a read-only descriptor, which only the owner could
//! open again for writing. A broker that starts takes over the channels of the one before ([`adopt`]):
//! ring and arena are then what a process hands over and says they are, so they are looked at like any
//! stranger's.
//!
//! The kernel's broker makes and keeps them itself; a scheduler maps them
//! ([`Scheduler::pages`](crate::scheduler::Scheduler::pages)), and goes on in them where another one
//! ended.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::ptr::NonNull;
use std::sync::Arc;

use lithos_abi::Page;
use lithos_abi::arena::{Stamps, region};
use lithos_abi::bindings::{LITHOS_PAGE_BYTES, LITHOS_REGION_STAMPS};
use lithos_abi::chain::Chains;
use lithos_abi::grant::{Grant, GrantPageError, GrantWriter, Order, Terms, beat};
use lithos_abi::ring::{RingError, RingReader};
use memmap2::MmapRaw;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::ChannelError;
use crate::channel::{Place, check};

/// Why there are no pages.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The kernel gave no memory, or no descriptor.
    #[error("cannot make the {page}")]
    Io {
        /// Which.
        page: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The terms name a ring that cannot be one.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The terms put the stamps outside of the arena.
    #[error("the region of stamps does not lie in the arena")]
    Stamps,
    /// What was handed over cannot be what it is said to be.
    #[error(transparent)]
    HandedOver(#[from] ChannelError),
    /// The kernel's grant page is not that of the channel.
    #[error(transparent)]
    GrantPage(#[from] GrantPageError),
}

/// The three pages of one channel, mapped.
#[derive(Debug)]
pub struct Pages {
    // These look into the maps below, which never change: their lifetime is this value's, and the
    // accessors say so.
    grant: GrantWriter<'static>,
    ring: RingReader<'static>,
    stamps: Stamps<'static>,
    grant_page: Page<'static>,
    chains: Option<Chains<'static>>,
    maps: Arc<[MmapRaw; 3]>,
    /// Grant page (read-only), ring and arena, for the tenant; none if the kernel's broker has them.
    files: Option<[OwnedFd; 3]>,
}

/// Where a scheduler says that it lives; keeps its page mapped.
#[derive(Clone, Debug)]
pub struct Heart {
    // Looks into the maps below.
    page: Page<'static>,
    _maps: Arc<[MmapRaw; 3]>,
}

/// What a scheduler looks at and stores into while programs run, beside whoever writes grants: what a channel has
/// launched, and its gates. Keeps the pages mapped.
#[derive(Clone, Debug)]
pub struct LivePages {
    // These look into the maps below.
    grant_page: Page<'static>,
    ring: RingReader<'static>,
    stamps: Stamps<'static>,
    chains: Option<Chains<'static>>,
    _maps: Arc<[MmapRaw; 3]>,
}

impl LivePages {
    /// Returns the ring, of which nothing is to be believed.
    pub fn ring(&self) -> &RingReader<'_> {
        &self.ring
    }

    /// Returns the completion stamps.
    pub fn stamps(&self) -> &Stamps<'_> {
        &self.stamps
    }

    /// Returns where the channel's chains are, if its arena has room for any.
    pub fn chains(&self) -> Option<&Chains<'_>> {
        self.chains.as_ref()
    }

    /// See [`grant::order`](lithos_abi::grant::order).
    pub fn order(&self, order: Order) {
        lithos_abi::grant::order(&self.grant_page, order);
    }

    /// See [`grant::lend`](lithos_abi::grant::lend).
    pub fn lend(&self, tpcs: [u64; 2]) {
        lithos_abi::grant::lend(&self.grant_page, tpcs);
    }

    /// See [`grant::hold`](lithos_abi::grant::hold).
    pub fn hold(&self, is_held: bool) {
        lithos_abi::grant::hold(&self.grant_page, is_held);
    }

    /// See [`grant::ask_to_ring`](lithos_abi::grant::ask_to_ring).
    pub fn ask_to_ring(&self, number: u64) {
        lithos_abi::grant::ask_to_ring(&self.grant_page, number);
    }
}

impl Heart {
    /// Says so; the time is the monotonic clock's. Any thread may.
    pub fn beat(&self, now_ns: u64) {
        beat(&self.page, now_ns);
    }
}

/// Makes the pages of a channel, and writes the grant page: no grant yet.
pub fn create(terms: &Terms) -> Result<Pages, PagesError> {
    let ring = memfd(c"lithos-ring", terms.ring_bytes).map_err(io("ring"))?;
    let arena = memfd(c"lithos-arena", terms.arena_bytes).map_err(io("arena"))?;
    with_grant_page(terms, ring.into(), arena.into(), 0)
}

/// Takes over the ring and the arena of a channel whose broker has ended, and makes a new grant page
/// for it, whose grants come after `last`.
pub fn adopt(terms: &Terms, [ring, arena]: [OwnedFd; 2], last: u64) -> Result<Pages, PagesError> {
    check("ring", &ring, terms.ring_bytes)?;
    check("arena", &arena, terms.arena_bytes)?;
    with_grant_page(terms, ring, arena, last)
}

fn with_grant_page(
    terms: &Terms,
    ring: OwnedFd,
    arena: OwnedFd,
    last: u64,
) -> Result<Pages, PagesError> {
    let grant = memfd(c"lithos-grant", u64::from(LITHOS_PAGE_BYTES)).map_err(io("grant page"))?;
    grant
        .set_permissions(Permissions::from_mode(0o600))
        .map_err(io("grant page"))?;
    let read_only =
        File::open(format!("/proc/self/fd/{}", grant.as_raw_fd())).map_err(io("grant page"))?;
    let files = [grant.as_fd(), ring.as_fd(), arena.as_fd()].map(|file| (file, 0));
    let places = Place::of_pages(files, terms.ring_bytes, terms.arena_bytes);
    let pages = map(terms, places, |page| {
        Ok(GrantWriter::create_after(page, terms, last))
    })?;
    Ok(Pages {
        files: Some([read_only.into(), ring, arena]),
        ..pages
    })
}

/// Maps grant page, ring and arena, and has the grant page written.
pub(crate) fn map(
    terms: &Terms,
    [grant, ring, arena]: [Place<'_>; 3],
    write: impl FnOnce(Page<'static>) -> Result<GrantWriter<'static>, GrantPageError>,
) -> Result<Pages, PagesError> {
    let grant_map = (grant.options())
        .and_then(|options| options.map_raw(&grant.file))
        .map_err(io("grant page"))?;
    let ring_map = (ring.options())
        .and_then(|options| options.map_raw_read_only(&ring.file))
        .map_err(io("ring"))?;
    let arena_map = (arena.options())
        .and_then(|options| options.map_raw(&arena.file))
        .map_err(io("arena"))?;
    let maps = [grant_map, ring_map, arena_map];
    // SAFETY: 1. maps have page alignment, those of grant page and arena are writable and nothing writes
    // to the ring, the files cannot shrink (sealed in `memfd`, checked by `adopt`, or the kernel's own), and
    // the maps live in the value returned, beside what is made of these views. 2. nobody else in this
    // process knows them.
    let [grant_page, ring_page, arena_page] = maps.each_ref().map(|map| unsafe { view(map) });
    let stamps = region(&arena_page, &terms.regions, LITHOS_REGION_STAMPS)
        .map(Stamps::new)
        .filter(|stamps| stamps.count() >= terms.records as usize)
        .ok_or(PagesError::Stamps)?;
    Ok(Pages {
        ring: RingReader::new(ring_page, terms.records)?,
        grant: write(grant_page)?,
        stamps,
        grant_page,
        chains: Chains::new(&arena_page, &terms.regions),
        maps: Arc::new(maps),
        files: None,
    })
}

impl Pages {
    /// Returns the descriptors that go to the tenant: grant page (read-only), ring, arena. None if it has
    /// the pages from the kernel.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().flatten().map(AsFd::as_fd).collect()
    }

    /// Returns the ring, of which nothing is to be believed.
    pub fn ring(&self) -> RingReader<'_> {
        self.ring
    }

    /// Returns the completion stamps.
    pub fn stamps(&self) -> Stamps<'_> {
        self.stamps
    }

    /// See [`GrantWriter::publish`].
    pub fn publish(&mut self, grant: &Grant) -> u64 {
        self.grant.publish(grant)
    }

    /// See [`GrantWriter::publish_with`].
    pub fn publish_with(&mut self, grant: &Grant, fail_static: &Grant) -> u64 {
        self.grant.publish_with(grant, fail_static)
    }

    /// Returns where to say that the scheduler lives; none where the kernel sees to that.
    pub fn heart(&self) -> Option<Heart> {
        self.files.as_ref()?;
        Some(Heart {
            page: self.grant_page,
            _maps: Arc::clone(&self.maps),
        })
    }

    /// Returns what a scheduler looks at and stores into while programs run.
    pub fn live(&self) -> LivePages {
        LivePages {
            grant_page: self.grant_page,
            ring: self.ring,
            stamps: self.stamps,
            chains: self.chains,
            _maps: Arc::clone(&self.maps),
        }
    }

    /// See [`GrantWriter::set_broker`]. The kernel's broker says it itself.
    pub fn set_broker(&self, state: u32, epoch: u64) {
        if self.files.is_some() {
            self.grant.set_broker(state, epoch);
        }
    }

    /// See [`GrantWriter::latest`].
    pub fn latest(&self) -> u64 {
        self.grant.latest()
    }
}

/// Makes a file in memory whose size is final.
fn memfd(name: &CStr, bytes: u64) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Some systems insist on files that cannot be executed; old kernels do not know the flag.
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let file = match memfd_create(name, flags | no_exec) {
        Err(nix::Error::EINVAL) => memfd_create(name, flags),
        other => other,
    }?;
    let file = File::from(file);
    file.set_len(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn io(page: &'static str) -> impl Fn(io::Error) -> PagesError {
    move |source| PagesError::Io { page, source }
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
