// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pre-upload callback of this process: takes TPCs away from the launches of the probe.
//!
//! The driver hands over each launch descriptor just before it uploads it (`lithos_descriptor::hook`
//! has the table of callbacks). There is one subscriber per process.

use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

use anyhow::{Context, bail};
use cudarc::driver::sys::{self, CUuuid, CUuuid_st};
use lithos_descriptor::TpcMask;
use lithos_descriptor::hook::{self, Enable, Subscribe, descriptor_words};
use lithos_descriptor::hopper::{Descriptor, Kind, Restricted, Words};

use super::driver::check;

/// What to do with the next launch.
#[derive(Clone, Copy, Debug)]
enum Order {
    None,
    TakeAway(TpcMask),
}

/// What became of it.
#[derive(Clone, Debug)]
enum Outcome {
    None,
    Done,
    Failed(String),
}

/// The hook, for as long as the process lives.
#[derive(Debug)]
pub(super) struct Hook {
    state: Mutex<(Order, Outcome)>,
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
            state: Mutex::new((Order::None, Outcome::None)),
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

    /// Makes a launch from which some TPCs are taken away.
    pub(super) fn around(
        &self,
        without: TpcMask,
        launch: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        *self.lock() = (Order::TakeAway(without), Outcome::None);
        let launched = launch();
        let (_, outcome) = std::mem::replace(&mut *self.lock(), (Order::None, Outcome::None));
        launched?;
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::None => bail!("the driver did not show the descriptor of a launch"),
            Outcome::Failed(why) => bail!("a launch could not be masked: {why}"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Order, Outcome)> {
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
    let Order::TakeAway(without) = state.0 else {
        return;
    };
    // SAFETY: the parameters begin with their size.
    let bytes = unsafe { parameters.cast::<u32>().read() };
    if bytes < descriptor_words::BYTES {
        state.1 = Outcome::Failed(format!("the callback has {bytes} bytes of parameters"));
        return;
    }
    // SAFETY: the parameters are large enough, as was checked, and words of 8 bytes.
    let words = unsafe {
        let word = parameters
            .cast::<*mut Words>()
            .add(descriptor_words::DESCRIPTOR)
            .read();
        word.as_mut()
    };
    state.1 = match words {
        Some(words) => take_away(words, without),
        None => Outcome::Failed("the callback has no descriptor".to_owned()),
    };
    state.0 = Order::None;
}

fn take_away(words: &mut Words, without: TpcMask) -> Outcome {
    let mut descriptor = match Descriptor::new(words) {
        Ok(descriptor) => descriptor,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    // For clusters of more than two blocks the driver itself takes away the TPCs without company
    // (seen on an H100, bits 72 to 127); they host no such cluster in any case.
    let is_cluster = descriptor.kind() == Kind::Clusters;
    if !is_cluster && descriptor.allowed() != TpcMask::ALL {
        return Outcome::Failed(format!(
            "the driver leaves only TPC bits {} already; is an MPS percentage or a green context \
             set?",
            descriptor.allowed()
        ));
    }
    if without.is_empty() {
        return Outcome::Done;
    }
    match descriptor.restrict(!without, TpcMask::ALL) {
        Restricted::To(_) => Outcome::Done,
        Restricted::Unchanged(_) => Outcome::Failed("no TPC would be left".to_owned()),
    }
}
