// SPDX-License-Identifier: GPL-2.0
//! A mapping of a channel's pages into a process.
//!
//! A tenant's has all its pages at once and tells the channel when the arena goes: at the end of an
//! address space that is after the tenant has ended and before the process's other files are closed, the
//! NVIDIA driver's among them. That is the moment to wait until the GPU has left the arena.
//!
//! A scheduler's has its pages as they are touched, see [`crate::scheduler`].

use kernel::{
    bindings, error::to_result, mm::virt::VmaNew, page::PAGE_SIZE, prelude::*, sync::Arc,
};

use crate::{abi::*, channel::Channel, registry, scheduler::Scheduler};

/// Whose it is.
enum Owner {
    Tenant,
    Scheduler(Arc<Scheduler>),
}

/// What a mapped area knows; split areas share it.
struct Mapping {
    channel: Arc<Channel>,
    kind: u32,
    owner: Owner,
}

struct Operations(bindings::vm_operations_struct);
// SAFETY: a table of function pointers that nothing writes to.
unsafe impl Sync for Operations {}

static TENANTS: Operations = Operations(bindings::vm_operations_struct {
    open: Some(open),
    close: Some(close),
    may_split: Some(may_split),
    ..pin_init::zeroed()
});

static SCHEDULERS: Operations = Operations(bindings::vm_operations_struct {
    open: Some(open),
    close: Some(close),
    may_split: Some(may_split),
    fault: Some(fault),
    ..pin_init::zeroed()
});

/// Maps pages for the channel's tenant: the grant page only to be read.
pub(crate) fn map_for_tenant(vma: &VmaNew, channel: Arc<Channel>, kind: u32) -> Result {
    let pages = prepare(vma, &channel, kind, kind == LITHOS_MAP_GRANT)?;
    let mut at = vma.start();
    for page in pages.iter() {
        // SAFETY: the area is being set up, and takes a reference of its own.
        to_result(unsafe { bindings::vm_insert_page(vma.as_ptr(), at, page) })?;
        at += PAGE_SIZE;
    }
    attach(vma, channel.clone(), kind, Owner::Tenant, &TENANTS)
}

/// Maps pages for a scheduler: the ring only to be read.
pub(crate) fn map_for_scheduler(
    vma: &VmaNew,
    channel: Arc<Channel>,
    kind: u32,
    scheduler: Arc<Scheduler>,
) -> Result {
    prepare(vma, &channel, kind, kind == LITHOS_MAP_RING)?;
    attach(
        vma,
        channel.clone(),
        kind,
        Owner::Scheduler(scheduler),
        &SCHEDULERS,
    )
}

fn prepare<'a>(
    vma: &VmaNew,
    channel: &'a Channel,
    kind: u32,
    read_only: bool,
) -> Result<&'a crate::pages::Pages> {
    let pages = channel.pages(kind).ok_or(EINVAL)?;
    let is_shared = vma.flags() & bindings::VM_SHARED != 0;
    if vma.end() - vma.start() != pages.bytes() || !is_shared {
        return Err(EINVAL);
    }
    if read_only {
        vma.try_clear_maywrite().map_err(|_| EACCES)?;
    }
    vma.try_clear_mayexec().map_err(|_| EACCES)?;
    vma.set_dontcopy();
    vma.set_dontexpand();
    vma.set_dontdump();
    vma.set_mixedmap();
    Ok(pages)
}

/// Makes the area know its channel. Nothing may fail afterwards.
fn attach(
    vma: &VmaNew,
    channel: Arc<Channel>,
    kind: u32,
    owner: Owner,
    operations: &'static Operations,
) -> Result {
    crate::fault::may_fail()?;
    let mapping = Arc::new(
        Mapping {
            channel,
            kind,
            owner,
        },
        GFP_KERNEL,
    )?;
    mapping.count();
    // SAFETY: the area is being set up, and nobody else knows it.
    unsafe {
        (*vma.as_ptr()).vm_private_data = Arc::into_raw(mapping).cast_mut().cast();
        (*vma.as_ptr()).vm_ops = &operations.0;
    }
    Ok(())
}

impl Mapping {
    fn is_tenants_arena(&self) -> bool {
        self.kind == LITHOS_MAP_ARENA && matches!(self.owner, Owner::Tenant)
    }

    fn count(&self) {
        if self.is_tenants_arena() {
            self.channel.arena_mapped();
        }
    }

    fn uncount(&self) {
        if self.is_tenants_arena() && self.channel.arena_unmapped() {
            registry::arena_unmapped(&self.channel);
        }
    }
}

/// # Safety
///
/// The area is one that [`attach`] has set up, or a copy of one.
unsafe fn mapping(vma: *mut bindings::vm_area_struct) -> *const Mapping {
    // SAFETY: the caller's; `attach` stored it.
    unsafe { (*vma).vm_private_data.cast::<Mapping>() }
}

/// # Safety
///
/// As for [`mapping`].
unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: the area that this one is a copy of has a reference, and lives during this call.
    let mapping = unsafe { kernel::sync::ArcBorrow::from_raw(mapping(vma)) };
    mapping.count();
    // One more reference, which the area keeps.
    let _ = Arc::into_raw(Arc::from(mapping));
}

/// # Safety
///
/// As for [`mapping`], and the area ends.
unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: the area's own reference.
    let mapping = unsafe { Arc::from_raw(mapping(vma)) };
    mapping.uncount();
}

/// All of a piece is mapped, or nothing.
///
/// # Safety
///
/// None.
unsafe extern "C" fn may_split(_: *mut bindings::vm_area_struct, _: c_ulong) -> c_int {
    EINVAL.to_errno()
}

/// # Safety
///
/// The fault is in an area as for [`mapping`].
unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: the kernel's, for this call.
    let (vma, address) = unsafe {
        let what = &(*fault).__bindgen_anon_1;
        (what.vma, what.address)
    };
    // SAFETY: the area has a reference and lives during this call.
    let mapping = unsafe { &*mapping(vma) };
    let sigbus = bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    let Owner::Scheduler(scheduler) = &mapping.owner else {
        return sigbus;
    };
    // The area may have been moved, as a whole.
    // SAFETY: the area lives, and is locked for this call.
    let start = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start };
    let index = (address - start) / PAGE_SIZE;
    let page = mapping
        .channel
        .pages(mapping.kind)
        .and_then(|pages| pages.iter().nth(index));
    let Some(page) = page else {
        return sigbus;
    };
    let inserted = scheduler.unless_revoked(|| {
        // SAFETY: the area is one for single pages, and takes a reference of its own.
        unsafe { bindings::vm_insert_page(vma, (address & !(PAGE_SIZE - 1)) as c_ulong, page) }
    });
    match inserted {
        Some(0) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        // Somebody was faster.
        Some(error) if error == EBUSY.to_errno() => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        Some(error) if error == ENOMEM.to_errno() => bindings::vm_fault_reason_VM_FAULT_OOM,
        _ => sigbus,
    }
}
