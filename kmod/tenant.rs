// SPDX-License-Identifier: GPL-2.0
//! A tenant: an open file of a process, for as long as its address space lives.
//!
//! An address space and not a process or a file, because that is what a CUDA context lives in: a forked
//! child has another one and is no tenant, whatever descriptors it inherits; a descriptor that was passed
//! on is none in the hands of another process; and `exec` ends it. An mmu_notifier tells when an address
//! space ends, before any of its mappings goes and before its files are closed.

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{
        Arc,
        atomic::{Atomic, ordering},
    },
    task::Task,
    time::{Delta, delay::fsleep},
};

use crate::{abi::*, admission, answer::Awaited, charge::Charge, registry};

extern "C" {
    fn lithos_current_cgroup() -> u64;
    fn lithos_kill_users(mm: *mut c_void);
}

/// Who a process is, by the kernel's word.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    /// Of the process, in the initial namespace.
    pub(crate) pid: i32,
    /// Effective, in the initial user namespace.
    pub(crate) uid: u32,
    pub(crate) cgroup: u64,
    /// Since the machine started.
    pub(crate) start_ns: u64,
}

impl Identity {
    fn of_current() -> Self {
        let task = current!();
        let leader = task.group_leader().as_ptr();
        let euid = kernel::task::Kuid::current_euid().into_raw();
        Self {
            pid: task.tgid(),
            // SAFETY: the initial user namespace is always there.
            uid: unsafe { bindings::from_kuid(&raw mut bindings::init_user_ns, euid) },
            // SAFETY: in a process, as here.
            cgroup: unsafe { lithos_current_cgroup() },
            // SAFETY: the leader of the current task lives.
            start_ns: unsafe { (*leader).start_boottime },
        }
    }
}

/// A tenant.
#[pin_data(PinnedDrop)]
pub(crate) struct Tenant {
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    pub(crate) request: lithos_attach,
    /// Its address space, of which this has a reference: no other one has its address meanwhile.
    mm: *mut bindings::mm_struct,
    ended: Atomic<i32>,
    /// It may have GPU channels where those are not everybody's.
    admitted: Atomic<i32>,
    #[pin]
    charge: kernel::sync::Mutex<Option<Charge>>,
    #[pin]
    pub(crate) awaited: Awaited,
}

// SAFETY: the pointers are to what lives as long as this and is counted, not bound to a thread.
unsafe impl Send for Tenant {}
// SAFETY: as above; neither is looked into without what its owner asks for.
unsafe impl Sync for Tenant {}

impl Tenant {
    /// One of the current process.
    pub(crate) fn of_current(
        id: u64,
        identity: Identity,
        request: lithos_attach,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        crate::fault::may_fail()?;
        Arc::pin_init(
            pin_init!(Self {
                id,
                identity,
                request,
                mm: {
                    let mm = current_mm();
                    // SAFETY: in a process, as here, it lives.
                    unsafe { bindings::mmgrab(mm) };
                    mm
                },
                ended: Atomic::new(0),
                admitted: Atomic::new(1),
                charge <- kernel::new_mutex!(Some(charge), "lithos_charge"),
                awaited <- Awaited::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns whether the current process is it.
    pub(crate) fn is_current(&self) -> bool {
        self.mm == current_mm()
    }

    /// Ends it, once: its channels end with it.
    pub(crate) fn end(&self) {
        if self.ended.xchg(1, ordering::Full) != 0 {
            return;
        }
        self.awaited.end();
        registry::tenant_ended(self);
        let charge = self.charge.lock().take();
        drop(charge);
    }

    /// Has it be a stranger to admission: it has ended, or its scheduler will not have it.
    pub(crate) fn admit_no_longer(&self) {
        if self.admitted.xchg(0, ordering::Full) != 0 {
            admission::tenant_ended(self.identity.pid, self.identity.start_ns);
        }
    }

    /// Kills every process that lives in its address space.
    pub(crate) fn kill(&self) {
        // SAFETY: this has a reference to it.
        unsafe { lithos_kill_users(self.mm.cast()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Tenant {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: the reference that `of_current` took.
        unsafe { bindings::mmdrop(self.mm) };
    }
}

/// Returns who the current process is.
pub(crate) fn current_identity() -> Identity {
    Identity::of_current()
}

fn current_mm() -> *mut bindings::mm_struct {
    // SAFETY: the current task lives, and its own address space does not change under it.
    unsafe { (*Task::current_raw()).mm }
}

/// The notifier of a tenant's address space.
#[repr(C)]
pub(crate) struct Watch {
    notifier: bindings::mmu_notifier,
    tenant: Arc<Tenant>,
}

/// What the notifier calls.
struct Operations(bindings::mmu_notifier_ops);
// SAFETY: a table of function pointers that nothing writes to.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::mmu_notifier_ops {
    release: Some(address_space_ends),
    free_notifier: Some(free),
    ..pin_init::zeroed()
});

/// A registered [`Watch`], until it is dropped.
pub(crate) struct Watching(NonNull<Watch>);

// SAFETY: it is only ever given back, by whatever thread.
unsafe impl Send for Watching {}
// SAFETY: nothing is reachable through it.
unsafe impl Sync for Watching {}

impl Watching {
    /// Watches the current process's address space for a tenant. Nothing may be locked that a mapping
    /// needs.
    pub(crate) fn current(tenant: Arc<Tenant>) -> Result<Self> {
        crate::fault::may_fail()?;
        let mm = tenant.mm;
        let watch = KBox::new(
            Watch {
                notifier: bindings::mmu_notifier {
                    ops: &OPERATIONS.0,
                    ..pin_init::zeroed()
                },
                tenant,
            },
            GFP_KERNEL,
        )?;
        let watch = KBox::into_raw(watch);
        // SAFETY: the current process's address space lives, and the watch until `free`.
        let registered = to_result(unsafe { bindings::mmu_notifier_register(watch.cast(), mm) });
        if let Err(error) = registered {
            // SAFETY: nobody has heard of it.
            drop(unsafe { KBox::from_raw(watch) });
            return Err(error);
        }
        WATCHES.fetch_add(1, ordering::Relaxed);
        // SAFETY: made by `into_raw`.
        Ok(Self(unsafe { NonNull::new_unchecked(watch) }))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // SAFETY: registered by `current`, and this is its only end. Whoever looks at it does so in
        // a read section of the notifiers; `free` comes after.
        unsafe { bindings::mmu_notifier_put(self.0.as_ptr().cast()) };
    }
}

/// Watches that are not freed yet.
static WATCHES: Atomic<i32> = Atomic::new(0);

/// Waits until every watch that was dropped has been freed. (`mmu_notifier_synchronize` waits until nobody
/// looks at one any more; what frees them may run on another processor, and later.)
pub(crate) fn synchronize() {
    // SAFETY: may sleep, as may this.
    unsafe { bindings::mmu_notifier_synchronize() };
    while WATCHES.load(ordering::Acquire) > 0 {
        fsleep(Delta::from_millis(1));
    }
}

/// # Safety
///
/// The notifier is that of a [`Watch`].
unsafe extern "C" fn address_space_ends(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
) {
    // SAFETY: it is the first field of a watch, which lives until `free`.
    unsafe { &*notifier.cast::<Watch>() }.tenant.end();
}

/// # Safety
///
/// The notifier is that of a [`Watch`], and nobody looks at it any more.
unsafe extern "C" fn free(notifier: *mut bindings::mmu_notifier) {
    // It must not sleep here. The tenant has ended, so it has no charge any more, and nothing else of
    // it sleeps when it is dropped.
    // SAFETY: the first field of what `into_raw` gave, and this is its only end.
    drop(unsafe { KBox::from_raw(notifier.cast::<Watch>()) });
    // The kernel waits for this to return before the module's code goes: it runs as a reader of RCU.
    WATCHES.fetch_sub(1, ordering::Release);
}
