// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the tests of lithos.ko share. They run in the virtual machine of `scripts/vm`, as root, one at a
//! time, and each inserts the module for itself:
//!
//! | file | what |
//! | --- | --- |
//! | [`module`] | inserts and removes; a removal that fails is a test that fails |
//! | [`device`] | `/dev/lithos`: any call with any argument, and the calls that go right |
//! | [`pages`] | a channel's pages, mapped |
//! | [`scheduler`] | a scheduler that lives |
//! | [`process`] | other processes, by fork, as other users |
//! | [`nvidia`], [`program`] | the stand-in for NVIDIA's driver, and processes that use it |
//! | [`admission`] | a scheduler's calls about those |
//! | [`log`] | what the kernel said meanwhile |
//! | [`memory`] | whether any was lost |

pub mod admission;
pub mod device;
pub mod log;
pub mod memory;
pub mod module;
pub mod nvidia;
pub mod pages;
pub mod process;
pub mod program;
pub mod scheduler;

pub use device::Device;
pub use module::Module;
pub use pages::Pages;
pub use process::Process;
pub use program::Program;
pub use scheduler::Scheduler;

use std::time::{Duration, Instant};

/// How long a test waits for what must come. The machine is emulated, and may be on a busy one.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Panics
///
/// If it is not before the deadline.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
