// SPDX-License-Identifier: GPL-2.0
//! `/dev/lithos`: open files, their roles, and every call on them.
//!
//! A call copies its structure in once, checks what must be zero, does one thing, and copies out once.

use core::mem::size_of;

use kernel::{
    bindings,
    error::to_result,
    fs::{File, Kiocb},
    iov::IovIterDest,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{Arc, Mutex, poll::PollTable},
    transmute::{AsBytes, FromBytes},
    types::{ForeignOwnable, Opaque},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    abi::*,
    account::Account,
    admission,
    charge::Charge,
    geometry::{Geometry, mapped_at},
    mapping, registry,
    scheduler::Scheduler,
    tenant::{Tenant, Watching, current_identity},
    watchdog,
};

macro_rules! plain {
    ($($structure:ty),* $(,)?) => {$(
        // SAFETY: integers, arrays of them and structures of them: any bytes are a value.
        unsafe impl FromBytes for $structure {}
        // SAFETY: the header leaves no padding and bindgen asserts the offsets.
        unsafe impl AsBytes for $structure {}
    )*};
}

plain!(
    lithos_admission,
    lithos_admit,
    lithos_answer,
    lithos_channel_info,
    lithos_channel_open,
    lithos_event,
    lithos_gpu_user,
    lithos_id,
    lithos_info,
    lithos_scheduler_claim,
    lithos_sleep,
    lithos_tenant_attach,
    lithos_tenant_info,
);

/// What an open file is.
enum Role {
    Nothing,
    /// Becoming something, in some thread.
    Becoming,
    Tenant(
        Arc<Tenant>,
        #[expect(dead_code, reason = "ends when it is dropped")] Watching,
    ),
    Scheduler(Arc<Scheduler>),
}

/// An open file.
#[pin_data]
pub(crate) struct Handle {
    #[pin]
    role: Mutex<Role>,
}

impl Handle {
    /// Makes the file what `become_it` says, if it is nothing yet. Nothing is locked meanwhile.
    fn become_with(&self, become_it: impl FnOnce() -> Result<Role>) -> Result {
        {
            let mut role = self.role.lock();
            match *role {
                Role::Nothing => *role = Role::Becoming,
                Role::Tenant(..) => return Err(EALREADY),
                Role::Becoming | Role::Scheduler(_) => return Err(EPERM),
            }
        }
        let (role, result) = match become_it() {
            Ok(role) => (role, Ok(())),
            Err(error) => (Role::Nothing, Err(error)),
        };
        *self.role.lock() = role;
        result
    }

    /// Returns the tenant that it is, to its own process.
    fn tenant(&self) -> Result<Arc<Tenant>> {
        match &*self.role.lock() {
            Role::Tenant(tenant, _) if tenant.is_current() => Ok(tenant.clone()),
            _ => Err(EPERM),
        }
    }

    /// Returns the scheduler that it is.
    fn scheduler(&self) -> Result<Arc<Scheduler>> {
        match &*self.role.lock() {
            Role::Scheduler(scheduler) => Ok(scheduler.clone()),
            _ => Err(EPERM),
        }
    }

    /// Returns the scheduler that it is, unless that is over.
    fn living_scheduler(&self) -> Result<Arc<Scheduler>> {
        let scheduler = self.scheduler()?;
        if scheduler.is_revoked() {
            return Err(ESTALE);
        }
        Ok(scheduler)
    }

    fn attach(&self, arg: usize) -> Result {
        let mut attach: lithos_tenant_attach = read(arg)?;
        let request = attach.request;
        if request.version != LITHOS_ABI_VERSION {
            return Err(EPROTONOSUPPORT);
        }
        if request.reserved != 0 || attach.tenant != 0 || !ends(&request.partition) {
            return Err(EINVAL);
        }
        self.become_with(|| {
            let identity = current_identity();
            let charge = Charge::take(identity.uid, Account::TENANT)?;
            let id = registry::reserve_tenant()?;
            let made = Tenant::of_current(id, identity, request, charge).and_then(|tenant| {
                let watching = Watching::current(tenant.clone())?;
                let attached = registry::tenant_attached(&tenant);
                if attached.is_err() {
                    // The last of it goes with the watch, where nothing may sleep.
                    tenant.end();
                }
                attached.map(|()| (tenant, watching))
            });
            match made {
                Ok((tenant, watching)) => {
                    attach.tenant = id;
                    Ok(Role::Tenant(tenant, watching))
                }
                Err(error) => {
                    registry::cancel_tenant(id);
                    Err(error)
                }
            }
        })?;
        write(arg, &attach)
    }

    fn open_channel(&self, arg: usize) -> Result {
        let tenant = self.tenant()?;
        let mut open: lithos_channel_open = read(arg)?;
        if open.request.reserved != [0; 2]
            || [open.channel, open.ring_bytes, open.arena_bytes] != [0; 3]
        {
            return Err(EINVAL);
        }
        let channel = registry::open_channel(&tenant, &open.request)?;
        open.channel = channel.id;
        open.ring_bytes = channel.geometry.ring_bytes;
        open.arena_bytes = channel.geometry.arena_bytes;
        let written = write(arg, &open);
        if written.is_err() {
            // Nobody would ever know its id.
            let _ = registry::close_channel(&tenant, channel.id);
        }
        written
    }

    fn wait_for_tenant(&self, arg: usize) -> Result {
        let tenant = self.tenant()?;
        let asked = read_question(arg)?;
        if asked.id != tenant.id {
            return Err(ENOENT);
        }
        write(arg, &tenant.awaited.wait(asked.timeout_ns)?)
    }

    fn wait_for_channel(&self, arg: usize) -> Result {
        let tenant = self.tenant()?;
        let asked = read_question(arg)?;
        let channel = registry::channel_of(&tenant, asked.id)?;
        write(arg, &channel.awaited.wait(asked.timeout_ns)?)
    }

    fn sleep(&self, arg: usize) -> Result {
        let tenant = self.tenant()?;
        let mut sleep: lithos_sleep = read(arg)?;
        if sleep.reserved != 0 {
            return Err(EINVAL);
        }
        let channel = registry::channel_of(&tenant, sleep.channel)?;
        sleep.seen = channel.awaited.sleep(sleep.seen, sleep.timeout_ns)?;
        write(arg, &sleep)
    }

    fn claim(&self, file: &File, arg: usize) -> Result {
        may_administer()?;
        let mut claim: lithos_scheduler_claim = read(arg)?;
        if claim.version != LITHOS_ABI_VERSION {
            return Err(EPROTONOSUPPORT);
        }
        if claim.epoch != 0 {
            return Err(EINVAL);
        }
        let geometry = Geometry::of(&claim).ok_or(EINVAL)?;
        let claimed = match self.living_scheduler() {
            Ok(scheduler) => registry::claim(&scheduler, claim.gpu, geometry),
            Err(error) if error == ESTALE => Err(error),
            Err(_) => {
                let mut epoch = Err(EPERM);
                self.become_with(|| {
                    let scheduler = Scheduler::new(crate::events_max())?;
                    epoch = registry::claim(&scheduler, claim.gpu, geometry);
                    epoch?;
                    // SAFETY: the file has had no role, without which nothing can be mapped, and has
                    // the scheduler until it is closed.
                    unsafe { scheduler.list_mappings_of(file) };
                    Ok(Role::Scheduler(scheduler))
                })?;
                epoch
            }
        };
        claim.epoch = claimed?;
        watchdog::wake();
        write(arg, &claim)
    }

    fn end(&self) {
        let role = core::mem::replace(&mut *self.role.lock(), Role::Becoming);
        match &role {
            Role::Tenant(tenant, _) => tenant.end(),
            Role::Scheduler(scheduler) => registry::scheduler_ended(scheduler),
            Role::Nothing | Role::Becoming => {}
        }
    }
}

/// Whether the current process may say who is scheduled and admitted.
fn may_administer() -> Result {
    // SAFETY: in a process, as here.
    if unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
        return Ok(());
    }
    Err(EPERM)
}

fn read<T: FromBytes>(arg: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read()
}

fn write<T: AsBytes>(arg: usize, value: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .writer()
        .write(value)
}

fn read_id(arg: usize) -> Result<u64> {
    Ok(read::<lithos_id>(arg)?.id)
}

/// Returns whether a text ends.
fn ends(text: &[core::ffi::c_char]) -> bool {
    text.contains(&0)
}

/// Reads an answer that is to be filled in.
fn read_question(arg: usize) -> Result<lithos_answer> {
    let asked: lithos_answer = read(arg)?;
    if asked.flags != 0 || asked.reserved != 0 || asked.reply != lithos_reply::default() {
        return Err(EINVAL);
    }
    Ok(asked)
}

/// Reads an answer that is filled in.
fn read_answer(arg: usize) -> Result<lithos_answer> {
    let answer: lithos_answer = read(arg)?;
    let flags = LITHOS_ATTACHED_ENFORCE | LITHOS_ATTACHED_LEAST | LITHOS_ATTACHED_SMS_MASK;
    let known = answer.flags & !flags == 0;
    let fine = known
        && answer.timeout_ns == 0
        && answer.reserved == 0
        && answer.reply.reserved == 0
        && ends(&answer.reply.text);
    fine.then_some(answer).ok_or(EINVAL)
}

#[vtable]
impl MiscDevice for Handle {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        crate::fault::may_fail()?;
        let handle = pin_init!(Self {
            role <- new_mutex!(Role::Nothing, "lithos_role"),
        });
        KBox::pin_init(handle, GFP_KERNEL)
    }

    fn release(handle: Self::Ptr, _file: &File) {
        handle.end();
    }

    fn ioctl(me: Pin<&Self>, file: &File, command: u32, arg: usize) -> Result<isize> {
        match command {
            LITHOS_INFO => write(arg, &registry::info()?)?,

            LITHOS_TENANT_ATTACH => me.attach(arg)?,
            LITHOS_TENANT_WAIT => me.wait_for_tenant(arg)?,
            LITHOS_CHANNEL_OPEN => me.open_channel(arg)?,
            LITHOS_CHANNEL_WAIT => me.wait_for_channel(arg)?,
            LITHOS_CHANNEL_SLEEP => me.sleep(arg)?,
            LITHOS_CHANNEL_RING => {
                let tenant = me.tenant()?;
                let channel = registry::channel_of(&tenant, read_id(arg)?)?;
                registry::ring(&channel)?;
            }
            LITHOS_CHANNEL_CLOSE => {
                let tenant = me.tenant()?;
                registry::close_channel(&tenant, read_id(arg)?)?;
            }

            LITHOS_SCHEDULER_CLAIM => me.claim(file, arg)?,
            LITHOS_SCHEDULER_BEAT => me.living_scheduler()?.beat(),
            LITHOS_TENANT_ANSWER => {
                let scheduler = me.living_scheduler()?;
                registry::answer_tenant(&scheduler, read_answer(arg)?)?;
            }
            LITHOS_CHANNEL_ANSWER => {
                let scheduler = me.living_scheduler()?;
                registry::answer_channel(&scheduler, read_answer(arg)?)?;
            }
            LITHOS_CHANNEL_WAKE => registry::wake(&me.living_scheduler()?, read_id(arg)?)?,
            LITHOS_TENANT_EVICT => registry::evict(&me.living_scheduler()?, read_id(arg)?)?,
            LITHOS_TENANT_NEXT => {
                me.living_scheduler()?;
                let after: lithos_tenant_info = read(arg)?;
                write(arg, &registry::next_tenant(after.tenant)?)?;
            }
            LITHOS_CHANNEL_NEXT => {
                let scheduler = me.living_scheduler()?;
                let after: lithos_channel_info = read(arg)?;
                write(arg, &registry::next_channel(&scheduler, after.channel)?)?;
            }
            LITHOS_ADMISSION_SET => {
                may_administer()?;
                let set: lithos_admission = read(arg)?;
                if set.reserved != [0; 2] {
                    return Err(EINVAL);
                }
                admission::set(set.mode, set.tenant_channels_max)?;
            }
            LITHOS_ADMIT => {
                may_administer()?;
                admission::admit(&read(arg)?)?;
            }
            LITHOS_GPU_USER_NEXT => {
                may_administer()?;
                let after: lithos_gpu_user = read(arg)?;
                write(arg, &admission::next_user(after.pid)?)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn mmap(me: Pin<&Self>, _file: &File, vma: &VmaNew) -> Result {
        // SAFETY: the area is being set up by this thread.
        let page = unsafe { (*vma.as_ptr()).vm_pgoff };
        let offset = (page as u64)
            .checked_mul(u64::from(LITHOS_PAGE_BYTES))
            .ok_or(EINVAL)?;
        let (bits, kind) = mapped_at(offset).ok_or(EINVAL)?;
        if let Ok(tenant) = me.tenant() {
            let channel = registry::channel_at(bits)?;
            if channel.tenant != tenant.id {
                return Err(ENOENT);
            }
            return mapping::map_for_tenant(vma, channel, kind);
        }
        let scheduler = me.living_scheduler()?;
        let channel = registry::channel_at(bits)?;
        registry::channel_for(&scheduler, channel.id)?;
        mapping::map_for_scheduler(vma, channel, kind, scheduler)
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let scheduler = kiocb.file().scheduler()?;
        // SAFETY: the file lives during the call.
        let flags = unsafe { (*(*kiocb.as_raw()).ki_filp).f_flags };
        let may_wait = flags & bindings::O_NONBLOCK == 0;
        if iov.len() < size_of::<lithos_event>() {
            return Err(EINVAL);
        }
        let mut copied = 0;
        while iov.len() >= size_of::<lithos_event>() {
            let event = match scheduler.take(may_wait && copied == 0) {
                Ok(event) => event,
                Err(error) if copied == 0 => return Err(error),
                Err(_) => break,
            };
            if event.type_ == LITHOS_EVENT_DOORBELL {
                registry::heard(event.channel);
            }
            let bytes = iov.copy_to_iter(event.as_bytes());
            if bytes != size_of::<lithos_event>() {
                // The event is lost to a reader that gave a bad pointer; it is told so.
                scheduler.lose();
                return if copied > 0 { Ok(copied) } else { Err(EFAULT) };
            }
            copied += bytes;
        }
        Ok(copied)
    }

    fn show_fdinfo(me: Pin<&Self>, m: &SeqFile, _file: &File) {
        match &*me.role.lock() {
            Role::Nothing | Role::Becoming => {}
            Role::Tenant(tenant, _) => {
                let identity = &tenant.identity;
                seq_print!(m, "lithos-role: tenant\nlithos-tenant: {}\n", tenant.id);
                seq_print!(
                    m,
                    "lithos-pid: {}\nlithos-uid: {}\n",
                    identity.pid,
                    identity.uid
                );
                let (channels, pinned) = registry::usage(tenant);
                seq_print!(m, "lithos-channels: {channels}\nlithos-pinned: {pinned}\n");
            }
            Role::Scheduler(scheduler) => {
                let state = if scheduler.is_revoked() {
                    "revoked"
                } else {
                    "alive"
                };
                seq_print!(m, "lithos-role: scheduler\nlithos-state: {state}\n");
            }
        }
    }
}

// ---- poll: `MiscDevice` has no hook for it, so the table that it builds is copied and completed. ----

/// # Safety
///
/// `file` must be a live file of a [`Registration`], `table` null or valid for this call.
unsafe extern "C" fn poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: `open` of the copied table stored a `Handle` there, and `release` has not run.
    let me =
        unsafe { <<Handle as MiscDevice>::Ptr as ForeignOwnable>::borrow((*file).private_data) };
    let Ok(scheduler) = me.scheduler() else {
        return bindings::POLLERR;
    };
    // SAFETY: by this function's requirements.
    let (file, table) = unsafe { (File::from_raw_file(file), PollTable::from_raw(table)) };
    // The scheduler, and with it what is waited on, lives as long as the file.
    table.register_wait(file, &scheduler.news);
    let mut found = 0;
    if scheduler.has_news() {
        found |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    if scheduler.is_revoked() {
        found |= bindings::POLLHUP;
    }
    found
}

// Some architectures' `struct module` has empty C structs; nothing here looks into it.
#[allow(improper_ctypes)]
extern "C" {
    /// This module; kbuild defines it.
    static __this_module: Opaque<bindings::module>;
}

struct Fops(bindings::file_operations);

// SAFETY: a table of function pointers that nothing writes to.
unsafe impl Sync for Fops {}

const OPTIONS: MiscDeviceOptions = MiscDeviceOptions { name: c"lithos" };

static FOPS: Fops = {
    // SAFETY: `into_raw` points `fops` at a table that lives as long as this module.
    let mut fops = unsafe { *OPTIONS.into_raw::<Handle>().fops };
    fops.poll = Some(poll);
    // Keeps the module while a file is open; 7.2 leaves it null.
    // SAFETY: only its address is taken.
    fops.owner = unsafe { __this_module.get() };
    Fops(fops)
};

/// `/dev/lithos`, while it lives. `MiscDevice::open` is handed this as a `MiscDeviceRegistration<Handle>`:
/// that type is a transparent wrapper of the same `Opaque<miscdevice>`.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(crate) struct Registration {
    #[pin]
    inner: Opaque<bindings::miscdevice>,
}

// SAFETY: registering and deregistering may happen on different threads.
unsafe impl Send for Registration {}
// SAFETY: nothing is reachable through a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                let mut raw = OPTIONS.into_raw::<Handle>();
                raw.fops = &FOPS.0;
                raw.mode = 0o666;
                // SAFETY: `slot` may be written, and stays pinned until `drop` deregisters it.
                unsafe {
                    slot.write(raw);
                    to_result(bindings::misc_register(slot))
                }
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Registration {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` registered it.
        unsafe { bindings::misc_deregister(self.inner.get()) };
    }
}
