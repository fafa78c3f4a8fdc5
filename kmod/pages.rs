// SPDX-License-Identifier: GPL-2.0
//! Pages that the kernel holds and processes map: a channel's grant page, ring and arena.
//!
//! Ring and arena are shmem, which the NVIDIA driver is known to pin; the grant page, which only CPUs
//! read, is the kernel's own. All are there from the beginning, so that no access ever has to wait for
//! one, and each lives as long as anybody holds it: this value, a mapping, a pin of a device.
//!
//! The other side writes whatever it likes at any time, so they are only ever touched as single atomic
//! words, and nothing read from them is believed.

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::from_err_ptr,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{Atomic, AtomicType},
};

// Lock classes are empty C structs here; nothing looks into one.
#[allow(improper_ctypes)]
extern "C" {
    fn lithos_shmem_file(name: *const c_char, bytes: bindings::loff_t) -> *mut bindings::file;
    fn lithos_shmem_page(file: *mut bindings::file, index: c_ulong) -> *mut bindings::page;
    fn lithos_put_page(page: *mut bindings::page);
}

/// A file in memory that only the kernel has.
pub(crate) struct Shmem(NonNull<bindings::file>);

// SAFETY: a file's reference count is not bound to a thread.
unsafe impl Send for Shmem {}
// SAFETY: nothing of it is changed through a shared reference.
unsafe impl Sync for Shmem {}

impl Shmem {
    pub(crate) fn new(name: &CStr, bytes: usize) -> Result<Self> {
        crate::fault::may_fail()?;
        // SAFETY: the name ends; it is copied.
        let file =
            unsafe { lithos_shmem_file(name.as_char_ptr().cast(), bytes as bindings::loff_t) };
        let file = from_err_ptr(file)?;
        Ok(Self(NonNull::new(file).ok_or(ENOMEM)?))
    }

    /// Returns the address space of the file, which lives as long as this value.
    pub(crate) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: the file lives.
        unsafe { (*self.0.as_ptr()).f_mapping }
    }
}

impl Drop for Shmem {
    fn drop(&mut self) {
        // SAFETY: this value has a reference.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

/// So many pages, each with a reference of this value's.
pub(crate) struct Pages {
    pages: KVVec<NonNull<bindings::page>>,
    /// Whose they are, if they are shmem.
    _file: Option<Shmem>,
}

// SAFETY: a page's reference count is not bound to a thread.
unsafe impl Send for Pages {}
// SAFETY: contents are only touched as atomic words.
unsafe impl Sync for Pages {}

impl Pages {
    /// One zeroed page of the kernel's.
    pub(crate) fn one() -> Result<Self> {
        crate::fault::may_fail()?;
        let mut pages = KVVec::with_capacity(1, GFP_KERNEL)?;
        let flags = bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_ZERO;
        // SAFETY: it may sleep, as may this.
        let page = unsafe { bindings::alloc_pages(flags, 0) };
        pages.push(NonNull::new(page).ok_or(ENOMEM)?, GFP_KERNEL)?;
        Ok(Self { pages, _file: None })
    }

    /// Zeroed pages of shmem.
    pub(crate) fn shmem(name: &CStr, bytes: u64) -> Result<Self> {
        let bytes = usize::try_from(bytes)?;
        let file = Shmem::new(name, bytes)?;
        let count = bytes.div_ceil(PAGE_SIZE);
        let mut made = Self {
            pages: KVVec::with_capacity(count, GFP_KERNEL)?,
            _file: None,
        };
        for index in 0..count {
            crate::fault::may_fail()?;
            // SAFETY: the file lives; it may sleep, as may this.
            let page = unsafe { lithos_shmem_page(file.0.as_ptr(), index) };
            let page = NonNull::new(from_err_ptr(page)?).ok_or(ENOMEM)?;
            made.pages.push(page, GFP_KERNEL)?;
        }
        made._file = Some(file);
        Ok(made)
    }

    /// Returns the size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * PAGE_SIZE
    }

    /// Returns the pages, for a mapping, which takes references of its own.
    pub(crate) fn iter(&self) -> impl Iterator<Item = *mut bindings::page> + '_ {
        self.pages.iter().map(|page| page.as_ptr())
    }

    /// Lets a closure see the word at an offset, which is a multiple of the word's size. What lies
    /// outside is nothing.
    pub(crate) fn word<T: AtomicType, R: Default>(
        &self,
        at: usize,
        see: impl FnOnce(&Atomic<T>) -> R,
    ) -> R {
        let Some(page) = self.pages.get(at / PAGE_SIZE) else {
            return R::default();
        };
        // SAFETY: this value has a reference to the page.
        let start = unsafe { bindings::kmap_local_page(page.as_ptr()) };
        // SAFETY: an aligned word does not lie across pages, and all sides use atomic accesses.
        let word = unsafe { Atomic::from_ptr(start.cast::<u8>().add(at % PAGE_SIZE).cast::<T>()) };
        let seen = see(word);
        // SAFETY: what was mapped last.
        unsafe { bindings::kunmap_local(start) };
        seen
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for page in self.iter() {
            // SAFETY: a reference of this value's.
            unsafe { lithos_put_page(page) };
        }
    }
}
