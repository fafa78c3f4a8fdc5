// SPDX-License-Identifier: GPL-2.0
//! Who may have GPU channels: the NVIDIA driver's, through which all work reaches the GPU.
//!
//! ```text
//!   off        nothing is looked at
//!   audit      who has how many is counted, and a stranger's first is told
//!   enforce    only tenants, processes that were admitted, and members of cgroups that were, get any
//! ```
//!
//! Only channels, groups of them and doorbells are refused ([`crate::nvidia::Kind`]). No file is kept from
//! being opened and no other call is touched, so that `nvidia-smi`, NVML and DCGM work for whoever could
//! use them before. [`crate::holders`] decides and counts; here it is connected to the kernel.
//!
//! The driver may be loaded before or after this module, or be unloaded. Where it has no symbols to look
//! at it by, nobody is counted; and as to *enforce*:
//!
//! - while it is loaded, *enforce* cannot be asked for; an insertion that asks for it fails;
//! - when it is loaded later, every call of its that may make something (its parameters cannot be trusted
//!   from where they are seen then) is refused to whoever is neither tenant nor admitted;
//! - if it cannot even be looked at there, it is not loaded.
//!
//! What was made before anybody looked is not counted. What the kernel makes for itself (unified memory,
//! display) is not refused. One who may write to the kernel's list of kprobes can undo all this, and so can
//! a tenant that shares what it has.

use core::cell::UnsafeCell;

use kernel::{error::to_result, prelude::*};

use crate::{
    abi::*,
    chains::{Chains, Place, Storage},
    holders::{Caller, Holders, Mode, Note, Parameters, Process, Verdict},
    nvidia, registry,
};

/// Processes that are no tenants and have GPU channels, were refused any, or are admitted.
const STRANGERS_MAX: usize = 2048;
/// GPU channels, groups, doorbells and subdevices.
const OBJECTS_MAX: usize = 16384;
/// Groups of processes that are admitted.
const CGROUPS_MAX: usize = 256;
/// Refusals that were not told yet.
const NOTES_MAX: usize = 64;
/// Calls that matter, under way at once.
const CALLS_MAX: usize = 256;
/// No status: the call goes on.
const PASS: i64 = -1;

extern "C" {
    fn lithos_probe_init() -> c_int;
    fn lithos_probe_exit();
    fn lithos_probe_start() -> c_int;
    fn lithos_probe_start_blind() -> c_int;
    fn lithos_probe_stop();
    fn lithos_probe_tell();
    fn lithos_probe_lock() -> c_ulong;
    fn lithos_probe_unlock(flags: c_ulong);
    fn lithos_driver_is_there() -> bool;
    fn lithos_is_below(cgroups: *const u64, count: usize) -> bool;
    fn lithos_cgroup_is_there(id: u64) -> bool;
    fn lithos_process_start(pid: i32, start_ns: *mut u64) -> c_int;
    fn lithos_say_refused(command: *const u8, pid: i32, uid: u32, class: u32, permitted: bool);
    fn lithos_say_first(command: *const u8, pid: i32, uid: u32);
    fn lithos_say_more(count: u64);
}

// ---- What handlers look at ------------------------------------------------------------------------

/// The kernel's slices.
struct Kernel;

impl Storage for Kernel {
    type Slice<T: Copy> = KVVec<T>;
}

/// Behind the lock of probe.c.
struct Guarded(UnsafeCell<Option<Holders<Kernel>>>);

// SAFETY: it is only looked into under the lock.
unsafe impl Sync for Guarded {}

static HOLDERS: Guarded = Guarded(UnsafeCell::new(None));

/// Does something with it, with interrupts off and nothing else locked: it must be short, and neither call
/// the driver nor sleep. `None`: it is not there.
fn with<R>(act: impl FnOnce(&mut Holders<Kernel>) -> R) -> Option<R> {
    // SAFETY: unlocked below, on the same processor, since nothing here sleeps.
    let flags = unsafe { lithos_probe_lock() };
    // SAFETY: only here is it looked into, under the lock, and `act` cannot get here: no handler is
    // called where it runs.
    let result = unsafe { (*HOLDERS.0.get()).as_mut() }.map(act);
    // SAFETY: locked above.
    unsafe { lithos_probe_unlock(flags) };
    result
}

/// Puts it there, or takes it away.
fn replace(holders: Option<Holders<Kernel>>) {
    let mut other = holders;
    // SAFETY: as in `with`.
    unsafe {
        let flags = lithos_probe_lock();
        core::ptr::swap(HOLDERS.0.get(), &mut other);
        lithos_probe_unlock(flags);
    }
}

fn slice<T: Copy>(value: T, count: usize) -> Result<KVVec<T>> {
    crate::fault::may_fail()?;
    Ok(KVVec::from_elem(value, count, GFP_KERNEL)?)
}

fn chains<T: Copy>(places: usize) -> Result<Chains<T, Kernel>> {
    let heads = slice(0, (places / 4).next_power_of_two())?;
    Ok(Chains::new(slice(Place::EMPTY, places)?, heads))
}

// ---- The driver ------------------------------------------------------------------------------------

/// How the driver is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// Not at all: it is not there, or nobody wants to, or it has no symbols.
    Nothing,
    Calls,
    /// Calls of which nothing can be known.
    BlindCalls,
}

struct Driver {
    is_there: bool,
    view: View,
    mode: Mode,
}

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is inserted, before there is a device.
    unsafe(uninit) static DRIVER: Mutex<Driver> = Driver {
        is_there: false,
        view: View::Nothing,
        mode: Mode::Off,
    };
}

impl Driver {
    /// Looks at it, if that is wanted and possible. Returns whether all that is wanted can be seen.
    fn look(&mut self) -> bool {
        if self.view == View::Nothing && self.is_there && self.mode != Mode::Off {
            // SAFETY: not started, as the view says.
            match to_result(unsafe { lithos_probe_start() }) {
                Ok(()) => self.view = View::Calls,
                Err(error) => pr_warn!(
                    "the NVIDIA driver has no rm_ioctl to look at ({:?}): nobody is counted\n",
                    error
                ),
            }
        }
        self.view == View::Calls || !self.is_there || self.mode == Mode::Off
    }

    fn look_away(&mut self) {
        if self.view != View::Nothing {
            // SAFETY: may sleep, as may this.
            unsafe { lithos_probe_stop() };
            self.view = View::Nothing;
            with(Holders::forget_all);
        }
    }

    fn comes(&mut self) -> Result {
        if self.is_there {
            return Ok(());
        }
        self.is_there = true;
        if self.look() || self.mode != Mode::Enforce {
            return Ok(());
        }
        // SAFETY: not started, as the view says.
        match to_result(unsafe { lithos_probe_start_blind() }) {
            Ok(()) => {
                self.view = View::BlindCalls;
                pr_warn!("enforced without counting: strangers can make nothing at all\n");
                Ok(())
            }
            Err(_) => {
                self.is_there = false;
                pr_err!("enforced: an NVIDIA driver that cannot be looked at is not loaded\n");
                Err(EOPNOTSUPP)
            }
        }
    }
}

/// The driver is followed while this is there.
pub(crate) struct Following;

impl Following {
    /// Begins, with one of `LITHOS_ADMISSION_*`.
    ///
    /// # Safety
    ///
    /// Once, before anything else here.
    pub(crate) unsafe fn begin(mode: u32, tenants_max: usize) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { DRIVER.init() };
        replace(Some(Holders::new(
            chains(tenants_max + STRANGERS_MAX)?,
            chains(OBJECTS_MAX)?,
            slice(None, CALLS_MAX)?,
            slice(Note::default(), NOTES_MAX)?,
            slice(0, CGROUPS_MAX)?,
            tenants_max,
        )));
        let following = Self;
        // SAFETY: `drop` ends it.
        to_result(unsafe { lithos_probe_init() })?;
        // After the notifier is there: no driver comes in between.
        // SAFETY: in a process, as here.
        let is_there = unsafe { lithos_driver_is_there() };
        DRIVER.lock().is_there |= is_there;
        set(mode, 0)?;
        Ok(following)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // SAFETY: may sleep, as may this; ends whatever there is.
        unsafe { lithos_probe_exit() };
        replace(None);
    }
}

/// Called by probe.c when the driver is loaded.
#[no_mangle]
extern "C" fn lithos_driver_comes() -> c_int {
    match DRIVER.lock().comes() {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Called by probe.c when it is unloaded.
#[no_mangle]
extern "C" fn lithos_driver_goes() {
    let mut driver = DRIVER.lock();
    driver.look_away();
    driver.is_there = false;
}

// ---- Calls of the driver. In these nothing may sleep, and the kernel takes it for an NMI. -----------

/// # Safety
///
/// `parameters` are so many bytes that nobody else looks at, or `bytes` is 0.
unsafe fn bytes<'a>(parameters: *mut u8, bytes: u32) -> &'a mut [u8] {
    if bytes == 0 || parameters.is_null() {
        return &mut [];
    }
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts_mut(parameters, bytes as usize) }
}

/// Returns whether a call of `rm_ioctl` is of any interest.
///
/// # Safety
///
/// The parameters are those that the driver was given.
#[no_mangle]
unsafe extern "C" fn lithos_call_matters(command: u32, parameters: *mut u8, count: u32) -> bool {
    // SAFETY: the caller's; they are the driver's own copy.
    nvidia::parse(command, unsafe { bytes(parameters, count) }).is_some()
}

/// Judges a call of `rm_ioctl`. Returns what it is to return, or [`PASS`].
///
/// # Safety
///
/// As above, until the thread leaves `rm_ioctl`; `caller` is the current thread.
#[no_mangle]
unsafe extern "C" fn lithos_call_begins(
    caller: *const Caller,
    file: usize,
    command: u32,
    parameters: *mut u8,
    count: u32,
) -> i64 {
    // SAFETY: the caller's.
    let (caller, parameters) = unsafe { (&*caller, bytes(parameters, count)) };
    let Some(call) = nvidia::parse(command, parameters) else {
        return PASS;
    };
    let where_they_are = Parameters {
        command,
        bytes: count,
        at: parameters.as_mut_ptr() as usize,
    };
    let verdict = with(|holders| holders.enter(caller, file, call, where_they_are, is_below));
    match verdict {
        Some(Verdict::Refuse(status)) => {
            // SAFETY: may be called anywhere.
            unsafe { lithos_probe_tell() };
            if nvidia::set_status(command, parameters, status) {
                0
            } else {
                status.into()
            }
        }
        Some(Verdict::Pass) | None => PASS,
    }
}

/// Returns whether what comes of a call of `rm_ioctl` has to be seen. [`lithos_call_begins`] may have come
/// before, or come next.
///
/// # Safety
///
/// As there.
#[no_mangle]
unsafe extern "C" fn lithos_call_is_awaited(
    caller: *const Caller,
    command: u32,
    parameters: *mut u8,
    count: u32,
) -> bool {
    // SAFETY: the caller's.
    let (caller, parameters) = unsafe { (&*caller, bytes(parameters, count)) };
    let call = nvidia::parse(command, parameters);
    call.and_then(|call| with(|holders| holders.awaits(caller, call, is_below)))
        .unwrap_or(false)
}

/// Takes in that a thread leaves `rm_ioctl`, which returns a status.
///
/// # Safety
///
/// It is the current thread, and the parameters that it came with are still there.
#[no_mangle]
unsafe extern "C" fn lithos_call_is_over(task: usize, status: u32) {
    let told = with(|holders| {
        holders.leave(task, |parameters| {
            // SAFETY: the caller's: the driver frees its copy after `rm_ioctl`.
            let bytes = unsafe { bytes(parameters.at as *mut u8, parameters.bytes) };
            (status == 0)
                .then(|| nvidia::done(parameters.command, bytes))
                .flatten()
        });
        holders.has_notes()
    });
    if told == Some(true) {
        // SAFETY: may be called anywhere.
        unsafe { lithos_probe_tell() };
    }
}

/// Takes in that an open file of the driver ends.
#[no_mangle]
extern "C" fn lithos_file_ends(file: usize) {
    with(|holders| holders.file_closed(file));
}

/// Judges a call of which nothing is known but its number.
///
/// # Safety
///
/// `caller` is the current thread.
#[no_mangle]
unsafe extern "C" fn lithos_call_is_refused_blindly(caller: *const Caller, command: u32) -> bool {
    // SAFETY: the caller's.
    let caller = unsafe { &*caller };
    if !nvidia::may_make(command) {
        return false;
    }
    let verdict = with(|holders| holders.enter_blindly(caller, is_below));
    let refused = matches!(verdict, Some(Verdict::Refuse(_)));
    if refused {
        // SAFETY: may be called anywhere.
        unsafe { lithos_probe_tell() };
    }
    refused
}

fn is_below(cgroups: &[u64]) -> bool {
    // SAFETY: a slice, of the current thread.
    unsafe { lithos_is_below(cgroups.as_ptr(), cgroups.len()) }
}

// ---- Telling, in a process of its own ----------------------------------------------------------------

/// Called by probe.c after [`lithos_probe_tell`]. Returns whether there is more to tell by now.
#[no_mangle]
extern "C" fn lithos_tell() -> bool {
    for _ in 0..NOTES_MAX {
        let Some(note) = with(Holders::next_note).flatten() else {
            break;
        };
        tell(&note);
    }
    forget_the_dead();
    with(|holders| holders.has_notes()).unwrap_or(false)
}

fn tell(note: &Note) {
    if note.lost > 0 {
        // SAFETY: may be called anywhere.
        unsafe { lithos_say_more(note.lost) };
        return;
    }
    let mut command = note.command;
    for byte in command.iter_mut().filter(|byte| **byte != 0) {
        if !byte.is_ascii_graphic() && *byte != b' ' {
            *byte = b'?';
        }
    }
    let (command, pid, uid, class) = (command.as_ptr(), note.pid, note.uid, note.class);
    if note.status == 0 {
        // SAFETY: 16 characters.
        unsafe { lithos_say_first(command, pid, uid) };
        return;
    }
    let permitted = note.status != nvidia::NOT_PERMITTED;
    // SAFETY: 16 characters.
    unsafe { lithos_say_refused(command, pid, uid, class, permitted) };
    registry::gpu_refused(pid, uid, note.tenant, class);
}

/// Forgets who was refused, or admitted, and lives no more.
fn forget_the_dead() {
    let places = with(|holders| holders.places()).unwrap_or(0);
    for at in 0..places {
        with(|holders| {
            holders.forget_if_dead(at, |pid, start_ns| start_of(pid) == Ok(start_ns));
        });
    }
}

/// Forgets cgroups that were admitted and are not there any more. No other one ever has the same id.
fn forget_removed_cgroups() {
    let mut at = 0;
    while let Some(id) = with(|holders| holders.cgroup_at(at)).flatten() {
        // SAFETY: in a process, as here.
        if unsafe { lithos_cgroup_is_there(id) } {
            at += 1;
        } else {
            // The last one takes its place.
            with(|holders| holders.admit_cgroup(id, false));
        }
    }
}

/// Returns when a process started.
fn start_of(pid: i32) -> Result<u64> {
    let mut start_ns = 0;
    // SAFETY: a value to write to.
    to_result(unsafe { lithos_process_start(pid, &mut start_ns) })?;
    Ok(start_ns)
}

// ---- For the rest of the module ------------------------------------------------------------------------

/// Sets what is done. See `LITHOS_ADMISSION_SET`.
pub(crate) fn set(mode: u32, tenant_channels_max: u32) -> Result {
    let mode = match mode {
        LITHOS_ADMISSION_OFF => Mode::Off,
        LITHOS_ADMISSION_AUDIT => Mode::Audit,
        LITHOS_ADMISSION_ENFORCE => Mode::Enforce,
        _ => return Err(EINVAL),
    };
    let mut driver = DRIVER.lock();
    let before = core::mem::replace(&mut driver.mode, mode);
    let sees_all = driver.look();
    if mode == Mode::Enforce && !sees_all && driver.view != View::BlindCalls {
        driver.mode = before;
        pr_err!("not enforced: the NVIDIA driver cannot be looked at\n");
        return Err(EOPNOTSUPP);
    }
    if mode == Mode::Off || mode == Mode::Audit && driver.view == View::BlindCalls {
        driver.look_away();
    }
    with(|holders| {
        holders.mode = mode;
        holders.tenant_channels_max = tenant_channels_max;
    });
    Ok(())
}

/// Returns what is done, and whether the driver is seen.
pub(crate) fn state() -> (u32, bool) {
    let driver = DRIVER.lock();
    let mode = match driver.mode {
        Mode::Off => LITHOS_ADMISSION_OFF,
        Mode::Audit => LITHOS_ADMISSION_AUDIT,
        Mode::Enforce => LITHOS_ADMISSION_ENFORCE,
    };
    (mode, driver.view == View::Calls)
}

/// Returns how many calls were let through without being counted as what they are.
pub(crate) fn missed() -> u64 {
    with(|holders| holders.missed()).unwrap_or(0)
}

/// Admits a process or a cgroup, or no longer. ENOENT: there is no such; ENOSPC: there are too many.
pub(crate) fn admit(admit: &lithos_admit) -> Result {
    if admit.reserved != 0 || admit.admitted > 1 {
        return Err(EINVAL);
    }
    let admitted = admit.admitted == 1;
    let has_room = match admit.kind {
        LITHOS_ADMIT_PROCESS => {
            let pid = i32::try_from(admit.id).map_err(|_| ENOENT)?;
            let start_ns = start_of(pid).map_err(|_| ENOENT)?;
            forget_the_dead();
            with(|holders| holders.admit_process(pid, start_ns, admitted))
        }
        LITHOS_ADMIT_CGROUP => {
            // SAFETY: in a process, as here.
            if admitted && !unsafe { lithos_cgroup_is_there(admit.id) } {
                return Err(ENOENT);
            }
            forget_removed_cgroups();
            with(|holders| holders.admit_cgroup(admit.id, admitted))
        }
        _ => return Err(EINVAL),
    };
    has_room.filter(|fits| *fits).map(drop).ok_or(ENOSPC)
}

/// Returns what the next process has after a pid.
pub(crate) fn next_user(after: i32) -> Result<lithos_gpu_user> {
    if after == 0 {
        forget_the_dead();
    }
    let user: Process = with(|holders| holders.next_user(after))
        .flatten()
        .ok_or(ENOENT)?;
    Ok(lithos_gpu_user {
        pid: user.pid,
        channels: user.has[nvidia::Kind::Channel as usize],
        groups: user.has[nvidia::Kind::Group as usize],
        doorbells: user.has[nvidia::Kind::Doorbell as usize],
        refused: user.refused,
        tenant: user.tenant,
        command: user.command.map(|byte| byte as i8),
        flags: if user.is_inexact {
            LITHOS_GPU_USER_INEXACT
        } else {
            0
        },
        ..lithos_gpu_user::default()
    })
}

/// Takes in that a process has become a tenant.
pub(crate) fn tenant_attached(pid: i32, start_ns: u64, uid: u32, tenant: u64) -> Result {
    let taken = with(|holders| holders.tenant_attached(pid, start_ns, uid, tenant));
    taken.filter(|fits| *fits).map(drop).ok_or(EUSERS)
}

/// Takes in that it is one no longer.
pub(crate) fn tenant_ended(pid: i32, start_ns: u64) {
    with(|holders| holders.tenant_ended(pid, start_ns));
}

/// Returns how many GPU channels a process has.
pub(crate) fn channels_of(pid: i32, start_ns: u64) -> u32 {
    with(|holders| holders.channels_of(pid, start_ns)).unwrap_or(0)
}
