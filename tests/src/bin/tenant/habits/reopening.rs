// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The driver's library opened again, by its name and under another path, and closed again.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use lithos_tests::cuda::{self, Gpu, Shape, Stream, is_simulated};
use serde::Serialize;

use super::super::work::Work;
use super::Tally;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Opens a copy of the library instead of the library itself: a second driver in the process.
    #[arg(long)]
    copy: bool,
    /// Launches after each step.
    #[arg(long, default_value_t = 16)]
    launches: u64,
}

#[derive(Serialize)]
struct Reopened {
    /// SMs that a grid ran on that would have filled the GPU.
    sms: u32,
}

/// The library, opened.
struct Library(*mut c_void);

impl Library {
    fn open(path: &CStr) -> anyhow::Result<Self> {
        // SAFETY: the path ends with NUL; what the driver does when it is loaded is its own affair.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        ensure!(!handle.is_null(), "dlopen of {path:?}: {}", why());
        Ok(Self(handle))
    }

    fn symbol(&self, name: &CStr) -> anyhow::Result<*mut c_void> {
        // SAFETY: the library is open and the name ends with NUL.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        ensure!(!symbol.is_null(), "there is no {name:?}");
        Ok(symbol)
    }

    fn initialise(&self) -> anyhow::Result<()> {
        let symbol = self.symbol(c"cuInit")?;
        // SAFETY: this is the function's type.
        let function: unsafe extern "C" fn(c_uint) -> c_int =
            unsafe { std::mem::transmute(symbol) };
        // SAFETY: flags must be 0.
        let status = unsafe { function(0) };
        ensure!(status == 0, "cuInit returned {status}");
        Ok(())
    }

    /// Where the library's file is.
    fn path(&self) -> anyhow::Result<PathBuf> {
        let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: any address may be asked about, and there is room for the answer.
        let found = unsafe { libc::dladdr(self.symbol(c"cuInit")?, info.as_mut_ptr()) };
        ensure!(found != 0, "cuInit lies in no library");
        // SAFETY: it was filled in; the name is a string that lives as long as the library.
        let name: *const c_char = unsafe { info.assume_init() }.dli_fname;
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(name) };
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        path.canonicalize().context("the driver's library")
    }

    fn close(self) -> anyhow::Result<()> {
        // SAFETY: nothing that was found through this handle is used again; others keep the library.
        let status = unsafe { libc::dlclose(self.0) };
        ensure!(status == 0, "dlclose: {}", why());
        Ok(())
    }
}

/// What the loader says went wrong.
fn why() -> String {
    // SAFETY: NULL or a string that lives until the next call of this thread.
    let said = unsafe { libc::dlerror().as_ref() };
    // SAFETY: as above.
    let said = said.map(|said| unsafe { CStr::from_ptr(said) });
    said.unwrap_or_default().to_string_lossy().into_owned()
}

const NAME: &CStr = c"libcuda.so.1";

pub(crate) fn run(device: i32, arguments: &Arguments) -> anyhow::Result<()> {
    let first = Library::open(NAME)?;
    first.initialise()?;
    let folder = tempfile::tempdir()?;
    let elsewhere = folder.path().join("libcuda.so.1");
    let file = first.path()?;
    if arguments.copy {
        std::fs::copy(&file, &elsewhere)?;
    } else {
        std::os::unix::fs::symlink(&file, &elsewhere)?;
    }
    let elsewhere = CString::new(elsewhere.into_os_string().into_encoded_bytes())?;
    let second = Library::open(&elsewhere)?;
    if arguments.copy == (second.symbol(c"cuInit")? == first.symbol(c"cuInit")?) {
        bail!("the library under another path is not what it should be");
    }
    second.initialise()?;
    first.initialise()?;

    cuda::initialise()?;
    let gpu = Gpu::find(device)?;
    let _context = gpu.primary()?;
    let (work, stream) = (Work::load(&gpu)?, Stream::new()?);
    let mut tally = Tally::default();
    tally.launch(&work, &stream, arguments.launches)?;
    first.close()?;
    tally.launch(&work, &stream, arguments.launches)?;
    second.initialise()?;
    second.close()?;
    cuda::initialise()?;
    tally.launch(&work, &stream, arguments.launches)?;
    let again = Library::open(NAME)?;
    again.initialise()?;
    tally.launch(&work, &stream, arguments.launches)?;

    let shape = Shape::row(2 * gpu.sms, 32).with_shared(gpu.shared_bytes_max);
    work.sms.clear()?;
    work.launch(&shape, if is_simulated() { 50 } else { 20_000 }, &stream)?;
    stream.synchronize()?;
    let sms = work.sms.count()?;
    again.close()?;
    super::report_and_stay("reopening", tally, Reopened { sms })
}
