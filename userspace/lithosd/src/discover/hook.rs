// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pre-upload callback of this process: edits the launches of the probe, and looks at them.
//!
//! The driver hands over each launch descriptor just before it uploads it (`lithos_descriptor::hook`
//! has the table of callbacks). There is one subscriber per process. A descriptor that is not of the
//! kind that is known is left as it is, and that is an error of the launch.

use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

use anyhow::{Context, bail};
use cudarc::driver::sys::{self, CUuuid, CUuuid_st};
use lithos_descriptor::TpcMask;
use lithos_descriptor::hook::{self, Enable, Subscribe, descriptor_words};
use lithos_descriptor::hopper::{Descriptor, Kind, Restricted, StampSlot, Words};

use lithos_device::BUILD_ID_BYTES;

use super::driver::check;

/// What to do with a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edit {
    /// Of these TPCs one at least must be left; the GPU's, where they are known.
    pub(crate) present: TpcMask,
    /// The launch may use these only; all: no mask is set.
    pub(crate) allowed: TpcMask,
    /// By which semaphore and where the GPU says that the launch has completed, and what it writes.
    pub(crate) stamp: Option<(StampSlot, u64, u32)>,
}

impl Edit {
    /// Changes nothing.
    pub(crate) const NONE: Self = Self {
        present: TpcMask::ALL,
        allowed: TpcMask::ALL,
        stamp: None,
    };
}

/// What a launch looked like when the driver showed it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The `CUcontext` that the driver told.
    pub(crate) context: u64,
    /// The `CUfunction` that it told.
    pub(crate) function: u64,
    /// The descriptor as the driver made it.
    pub(crate) before: Words,
    /// The descriptor as it was uploaded.
    pub(crate) after: Words,
}

/// The hook, for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Hook {
    state: Mutex<State>,
    /// The build id of the library that the table of callbacks lies in, the driver's.
    library: Option<[u8; BUILD_ID_BYTES]>,
}

/// What to do with the next launch, and what became of it.
#[derive(Debug, Default)]
struct State {
    order: Option<Edit>,
    outcome: Option<Result<Box<Seen>, String>>,
}

impl Hook {
    /// Subscribes to the driver's callbacks. The driver has been initialised.
    pub(super) fn install() -> anyhow::Result<&'static Self> {
        let mut table: *const c_void = ptr::null();
        let id: CUuuid = CUuuid_st {
            bytes: hook::TABLE.map(u8::cast_signed),
        };
        // SAFETY: both pointers are to locals that outlive the call.
        check("cuGetExportTable", unsafe {
            sys::cuGetExportTable(&raw mut table, &raw const id)
        })
        .context("this driver has no callback table")?;
        if table.is_null() {
            bail!("this driver's callback table is empty");
        }
        let library = lithos_device::build_id(table);
        let table = table.cast::<Option<unsafe extern "C" fn()>>();
        // SAFETY: the table has more than six entries, each a function or null; that they have these
        // types was found out on the drivers that LithOS supports.
        let (subscribe, enable) = unsafe {
            (
                std::mem::transmute::<Option<unsafe extern "C" fn()>, Option<Subscribe>>(
                    *table.add(hook::SUBSCRIBE),
                ),
                std::mem::transmute::<Option<unsafe extern "C" fn()>, Option<Enable>>(
                    *table.add(hook::ENABLE),
                ),
            )
        };
        let subscribe = subscribe.context("this driver lets nobody subscribe")?;
        let enable = enable.context("this driver lets nobody enable callbacks")?;

        let hook: &'static Self = Box::leak(Box::new(Self {
            state: Mutex::default(),
            library,
        }));
        let mut handle = 0;
        let user = ptr::from_ref(hook).cast_mut().cast();
        // SAFETY: the callback has the type that the driver calls, and what it is given lives for ever.
        let result = unsafe { subscribe(&raw mut handle, on_upload, user) };
        if result != 0 {
            bail!("cannot subscribe to launches (error {result}); is a profiler attached?");
        }
        // SAFETY: plain values, and the handle is the subscriber's.
        let result = unsafe { enable(1, handle, hook::DOMAIN_DESCRIPTOR, hook::DESCRIPTOR) };
        if result != 0 {
            bail!("cannot enable the callbacks of launches (error {result})");
        }
        Ok(hook)
    }

    pub(super) fn library(&self) -> Option<[u8; BUILD_ID_BYTES]> {
        self.library
    }

    /// Makes a launch with an edit, and returns what it looked like.
    pub(crate) fn around(
        &self,
        edit: Edit,
        launch: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Box<Seen>> {
        *self.lock() = State {
            order: Some(edit),
            outcome: None,
        };
        let launched = launch();
        let state = std::mem::take(&mut *self.lock());
        launched?;
        match state.outcome {
            Some(Ok(seen)) => Ok(seen),
            Some(Err(why)) => bail!("a launch could not be edited: {why}"),
            None => bail!("the driver did not show the descriptor of a launch"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Called by the driver, on the launching thread, inside the launch.
unsafe extern "C" fn on_upload(user: *mut c_void, domain: i32, id: i32, parameters: *const c_void) {
    if (domain, id) != (hook::DOMAIN_DESCRIPTOR, hook::DESCRIPTOR) || parameters.is_null() {
        return;
    }
    // SAFETY: this is the hook that was given to `subscribe`; it is never freed.
    let hook = unsafe { &*user.cast::<Hook>() };
    let mut state = hook.lock();
    if let Some(edit) = state.order.take() {
        // SAFETY: the driver's.
        state.outcome = Some(unsafe { look(parameters, edit) });
    }
}

/// Looks at a launch and edits it.
///
/// # Safety
///
/// The parameters are those of a descriptor callback that runs.
unsafe fn look(parameters: *const c_void, edit: Edit) -> Result<Box<Seen>, String> {
    // SAFETY: the parameters begin with their size.
    let bytes = unsafe { parameters.cast::<u32>().read() };
    if bytes < descriptor_words::BYTES {
        return Err(format!(
            "the callback has {bytes} bytes of parameters, and {} are needed",
            descriptor_words::BYTES
        ));
    }
    let parameters = parameters.cast::<u64>();
    // SAFETY: the parameters are large enough, as was checked, and words of 8 bytes.
    let word = |index: usize| unsafe { parameters.add(index).read() };
    let words = word(descriptor_words::DESCRIPTOR) as *mut Words;
    if !words.is_aligned() {
        return Err("the callback's descriptor is not aligned".to_owned());
    }
    // SAFETY: NULL, or a descriptor that is ours while the callback runs.
    let words = unsafe { words.as_mut() }.ok_or("the callback has no descriptor")?;
    let before = *words;
    apply(words, edit)?;
    Ok(Box::new(Seen {
        context: word(descriptor_words::CONTEXT),
        function: word(descriptor_words::FUNCTION),
        before,
        after: *words,
    }))
}

fn apply(words: &mut Words, edit: Edit) -> Result<(), String> {
    let mut descriptor = Descriptor::new(words).map_err(|error| error.to_string())?;
    if let Some(bit) = descriptor.unknown_bit() {
        return Err(format!(
            "bit {bit} of the launch descriptor is set, and belongs to nothing that LithOS knows"
        ));
    }
    // For clusters of more than two blocks the driver itself takes away the TPCs without company
    // (seen on an H100, bits 72 to 127); they host no such cluster in any case.
    let is_cluster = descriptor.kind() == Kind::Clusters;
    if !is_cluster && descriptor.allowed() != TpcMask::ALL {
        return Err(format!(
            "the driver leaves only TPC bits {} already; is an MPS percentage or a green context \
             set?",
            descriptor.allowed()
        ));
    }
    if edit.allowed != TpcMask::ALL
        && let Restricted::Unchanged(_) = descriptor.restrict(edit.allowed, edit.present)
    {
        return Err("no TPC would be left".to_owned());
    }
    if let Some((slot, address, payload)) = edit.stamp {
        let stamped = descriptor.stamp(slot, address, payload);
        stamped.map_err(|error| error.to_string())?;
    }
    Ok(())
}
