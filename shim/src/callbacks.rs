// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The driver calls: what its callbacks carry, and what becomes of them.
//!
//! Both kinds pass words whose meaning was measured (`launch-descriptors.md`); the first is the
//! size, which is checked before any other is read.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use lithos_abi::bindings::{LITHOS_COUNT_REFUSED_CLUSTER, LITHOS_COUNT_REFUSED_COOPERATIVE};
use lithos_descriptor::TpcMask;
use lithos_descriptor::hook::{DOMAIN_API, DOMAIN_DESCRIPTOR, descriptor_words};
use lithos_descriptor::hopper::Words;

use crate::api::{self, Form, Launch};
use crate::attribute;
use crate::channel::Managed;
use crate::driver::Status;
use crate::launch;
use crate::local::{self, Call, Ending, Local};
use crate::priority;
use crate::split;
use crate::start::{self, Shim};
use crate::stream;
use crate::table::Found;
use crate::ticket::Ticket;
use crate::wait;
use crate::widen::{Need, Widened};

/// Set once something went wrong that cannot go wrong: from then on nothing is done.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// `CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE`.
const TOO_LARGE: Status = 720;
/// `CUDA_ERROR_INVALID_CLUSTER_SIZE`.
const INVALID_CLUSTER: Status = 912;

/// Runs what must not unwind into the driver.
#[inline]
pub(crate) fn guarded(work: impl FnOnce()) {
    if BROKEN.load(Ordering::Relaxed) {
        return;
    }
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        BROKEN.store(true, Ordering::Relaxed);
    }
}

/// What the driver calls.
///
/// # Safety
///
/// For the driver only: `parameters` belong to the domain.
pub(crate) unsafe extern "C" fn on_callback(
    _user: *mut c_void,
    domain: c_int,
    id: c_int,
    parameters: *const c_void,
) {
    guarded(|| {
        let Some(shim) = start::shim() else { return };
        local::with(|local| {
            if local.is_own() {
                return;
            }
            match domain {
                // SAFETY: the driver's.
                DOMAIN_DESCRIPTOR => unsafe { on_descriptor(shim, local, parameters.cast()) },
                // SAFETY: the driver's.
                DOMAIN_API => unsafe { on_api(shim, local, id, parameters.cast()) },
                _ => {}
            }
        });
    });
}

/// A descriptor is about to be uploaded.
///
/// # Safety
///
/// The words are those of such a callback.
#[inline]
unsafe fn on_descriptor(shim: &Shim, local: &Local, words: *const u64) {
    use descriptor_words::{BYTES, CONTEXT, DESCRIPTOR, FUNCTION};
    // SAFETY: the size comes first and has 32 bits.
    if words.is_null() || unsafe { words.cast::<u32>().read() } < BYTES {
        return;
    }
    // SAFETY: there are so many words.
    let word = |index: usize| unsafe { words.add(index).read() };
    let descriptor = word(DESCRIPTOR) as *mut Words;
    if descriptor.is_null() || !descriptor.is_aligned() {
        return;
    }
    let prepare = |managed: &Managed| {
        // SAFETY: 1. on the GPUs whose contexts are managed a descriptor has 384 bytes. 2. the driver
        // has built it, and uploads it when we return: meanwhile it is ours.
        let descriptor = unsafe { &mut *descriptor };
        launch::prepare(managed, descriptor, word(FUNCTION), local);
    };
    let context = word(CONTEXT);
    if let Some(managed) = local.held(context) {
        prepare(managed);
    } else if let Found::Managed(managed) = shim.contexts.find(context) {
        prepare(&managed);
    }
}

/// Words of the API callback.
#[derive(Clone, Copy)]
struct ApiWords(*const u64);

impl ApiWords {
    const RESULT: usize = 5;
    const ARGUMENTS: usize = 7;
    const CONTEXT: usize = 8;
    const SITE: usize = 10;
    const SKIP: usize = 11;

    /// # Safety
    ///
    /// `words` are those of such a callback.
    unsafe fn new(words: *const u64) -> Option<Self> {
        let bytes = u32::try_from((Self::SKIP + 1) * 8).ok()?;
        // SAFETY: the size comes first and has 32 bits.
        let fits = !words.is_null() && unsafe { words.cast::<u32>().read() } >= bytes;
        fits.then_some(Self(words))
    }

    #[inline]
    fn word(self, index: usize) -> u64 {
        // SAFETY: `new` has seen that there are more words than any index here.
        unsafe { self.0.add(index).read() }
    }

    /// Whether the call begins; else it ends.
    #[inline]
    fn is_enter(self) -> bool {
        self.word(Self::SITE) >> 32 == 0
    }

    #[inline]
    fn arguments(self) -> *const c_void {
        self.word(Self::ARGUMENTS) as *const c_void
    }

    /// The first argument, if it is a handle or a pointer.
    fn first(self) -> u64 {
        let arguments = self.arguments().cast::<u64>();
        if arguments.is_null() {
            return 0;
        }
        // SAFETY: asked for only where the first argument has this size.
        unsafe { arguments.read() }
    }

    /// The context that the call's first argument, a `CUcontext *`, now points to.
    fn made_context(self) -> u64 {
        let context = self.first() as *const u64;
        if context.is_null() {
            return 0;
        }
        // SAFETY: the driver has just stored the context there.
        unsafe { context.read() }
    }

    /// The argument at a byte offset, if it is a `CUdevice`.
    fn device(self, offset: usize) -> Option<c_int> {
        let arguments = self.arguments();
        // SAFETY: asked for only where there is such an argument.
        (!arguments.is_null()).then(|| unsafe { arguments.byte_add(offset).cast::<c_int>().read() })
    }

    /// What the call, which is about to return, returns; `None` if the driver does not say.
    fn result(self) -> Option<Status> {
        let result = self.word(Self::RESULT) as *const Status;
        // SAFETY: this word is NULL or points to the result of the call.
        unsafe { result.as_ref() }.copied()
    }

    /// Has the driver skip the call, which is about to begin, and return `status`. False if it
    /// offers no way to.
    fn refuse(self, status: Status) -> bool {
        let result = self.word(Self::RESULT) as *mut Status;
        let skip = self.word(Self::SKIP) as *mut u32;
        if result.is_null() || skip.is_null() {
            return false;
        }
        // SAFETY: these words are NULL or point to the result of the call and to whether it is
        // skipped; the driver reads both when we return.
        unsafe {
            result.write(status);
            skip.write(1);
        }
        true
    }
}

/// An API call begins or ends.
///
/// # Safety
///
/// The words are those of such a callback, for the call of this number.
#[inline]
unsafe fn on_api(shim: &'static Shim, local: &Local, cbid: c_int, words: *const u64) {
    // SAFETY: the caller's.
    let Some(words) = (unsafe { ApiWords::new(words) }) else {
        return;
    };
    match (api::call(cbid), words.is_enter()) {
        (Some(api::Call::Launch(form, null_is_per_thread)), true) => {
            // Of a call whose end was not seen.
            local.set_ticket(None);
            // SAFETY: the arguments are of the form that belongs to the number.
            let launch = unsafe { Launch::read(form, words.arguments()) };
            if let Some(launch) = launch {
                enter_launch(shim, local, form, &launch, null_is_per_thread, words);
            }
        }
        (Some(api::Call::Launch(..)), false) => {
            local.call.set(Call::default());
            local.set_ticket(None);
        }
        (Some(api::Call::MakeStream), true) => {
            // SAFETY: these are the arguments of such a call, which is about to begin.
            unsafe { priority::lower(words.arguments()) };
        }
        (Some(call), true) => {
            local.set_ticket(None);
            local.ending.set(enter_end(shim, call, words));
        }
        (Some(call), false) => exit(shim, local, call, words),
        (None, _) => {}
    }
}

/// A launch call begins: no lock of the driver is held, so what has to be asked is asked here.
#[inline]
fn enter_launch(
    shim: &'static Shim,
    local: &Local,
    form: Form,
    launch: &Launch,
    null_is_per_thread: bool,
    words: ApiWords,
) {
    let context = words.word(ApiWords::CONTEXT);
    let mut found = shim.contexts.find_for(local.thread(), context);
    if let Found::Unknown = found {
        // Made in a way that we are not called around: a graphics API's, or a green one.
        shim.contexts.adopt(&shim.driver, context, None);
        found = shim.contexts.find_for(local.thread(), context);
    }
    let managed = match found {
        Found::Managed(managed) => Some(managed),
        _ => None,
    };
    // Calls that launch no kernel of their own have no function; they upload many descriptors or none.
    let (managed, others) = match launch.function {
        0 => (None, managed),
        _ => (managed, None),
    };
    if let Some(managed) = &others
        && managed.bound_ns() != 0
    {
        wait::until_allowed(managed, None, local);
    }
    let mut call = Call {
        stream: match form {
            Form::GraphChange => 0,
            _ => stream::identity(launch.stream, null_is_per_thread, local.thread()),
        },
        is_graph: form.is_graph(),
        ..Default::default()
    };
    if launch.is_cooperative {
        call.blocks = launch.blocks();
        // Not remembered from one launch to the next: the driver uses the handles of unloaded
        // functions again, and a wrong answer would hang a launch for ever.
        call.blocks_per_sm =
            shim.driver
                .blocks_per_sm(launch.function, launch.block_threads(), launch.shared_bytes);
    }
    if let Some(managed) = &managed
        && managed.refuses_oversize()
        && is_oversize(shim, local, managed, launch, call, words)
    {
        return;
    }
    local.call.set(call);
    let resident = || {
        let threads = launch.block_threads();
        let driver = &shim.driver;
        driver.blocks_per_sm(launch.function, threads, launch.shared_bytes)
    };
    let foresee = |managed: &Managed| split::foresee(managed, launch, local, resident);
    let splits = managed.as_deref().filter(|managed| managed.splits());
    let mut foreseen = splits.and_then(foresee);
    if let (Some(managed), Some(known)) = (splits, &foreseen)
        && managed.bound_ns() != 0
        && !known.is_split()
        && wait::until_allowed(managed, Some(known), local)
    {
        // Its grant, and what is known, may be others by now.
        foreseen = foresee(managed);
    }
    local.set_ticket(managed.map(|managed| Ticket::begin(context, managed)));
    let Some((managed, sequence)) = local.ticket() else {
        return;
    };
    if let Some(foreseen) = &foreseen {
        local.set_cut(split::begin(managed, launch, foreseen, sequence));
        if managed.bound_ns() != 0 {
            local.set_short(foreseen.short(sequence, call.stream));
        }
    }
    // After the launch, and the chain, has a number: whoever asks and then finds none is woken here.
    if managed.asks_to_ring() {
        managed.ring_bell();
    }
}

/// Where the partition wants it, refuses a launch that does not fit into its grant; returns whether
/// it did.
#[cold]
fn is_oversize(
    shim: &Shim,
    local: &Local,
    managed: &Managed,
    launch: &Launch,
    call: Call,
    words: ApiWords,
) -> bool {
    let cluster_blocks = match launch.cluster_blocks {
        0 => shim.driver.cluster_blocks(launch.function),
        blocks => blocks,
    };
    let need = Need {
        cluster_blocks,
        resident_blocks: call.blocks,
        blocks_per_sm: call.blocks_per_sm,
    };
    let Some(grant) = managed.grant(local.clock.now_ns(), &local.last) else {
        return false;
    };
    let granted = TpcMask::from_bits(grant.lasting());
    let (status, counter) = match managed.gpu.fit(granted, TpcMask::ALL, need).1 {
        None => return false,
        Some(Widened::Cooperative) => (TOO_LARGE, LITHOS_COUNT_REFUSED_COOPERATIVE),
        Some(Widened::Cluster) => (INVALID_CLUSTER, LITHOS_COUNT_REFUSED_CLUSTER),
    };
    let is_refused = words.refuse(status);
    if is_refused {
        managed.ring().count(counter);
    }
    is_refused
}

/// Another call begins: some may end a context.
fn enter_end(shim: &Shim, call: api::Call, words: ApiWords) -> Option<Ending> {
    match call {
        api::Call::Destroy => shim.contexts.end_begins(words.first()),
        api::Call::DestroyGreen => {
            let context = shim.driver.of_green(words.first());
            shim.contexts.end_begins(context)
        }
        api::Call::Release => shim.contexts.primary_end_begins(words.device(0)?),
        api::Call::Create
        | api::Call::Retain
        | api::Call::Attribute
        | api::Call::MakeStream
        | api::Call::Launch(..) => None,
    }
}

/// Another call ends: a context is there, or one is gone.
fn exit(shim: &Shim, local: &Local, call: api::Call, words: ApiWords) {
    match call {
        api::Call::Create if words.result() == Some(0) => {
            shim.contexts
                .adopt(&shim.driver, words.made_context(), None);
        }
        api::Call::Retain if words.result() == Some(0) => {
            let device = words.device(size_of::<u64>());
            shim.contexts
                .adopt(&shim.driver, words.made_context(), device);
        }
        api::Call::Destroy | api::Call::DestroyGreen => {
            if let Some(ending) = local.ending.take() {
                // A context that is taken for ended and is not becomes a new one at its next launch.
                let has_ended = words.result().is_none_or(|status| status == 0);
                shim.contexts.end(ending, has_ended);
            }
        }
        api::Call::Release => {
            let device = words.device(0);
            if let (Some(ending), Some(device)) = (local.ending.take(), device) {
                let has_ended = !shim.driver.primary_is_active(device);
                shim.contexts.end(ending, has_ended);
            }
        }
        api::Call::Attribute if words.result() == Some(0) => {
            // SAFETY: these are the arguments of such a call, which has succeeded.
            unsafe { attribute::tell(words.arguments()) };
        }
        api::Call::Create
        | api::Call::Retain
        | api::Call::Attribute
        | api::Call::MakeStream
        | api::Call::Launch(..) => {}
    }
}
