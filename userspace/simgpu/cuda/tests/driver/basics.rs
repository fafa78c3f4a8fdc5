// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The plain path: initialise, allocate, load, launch, synchronise.

use cudarc::driver::sys;

use crate::cuda::{NULL, Parameter, Program, get, ok, read, synchronize, words};
use crate::simulation::{Simulation, options};

pub(crate) const PROGRAMS: &[crate::Program] = &[("fill", fill)];

pub(crate) const TESTS: &[crate::Test] = &[("a_kernel_writes_what_it_computes", || {
    let simulation = Simulation::new(&options());
    simulation.run("fill");
    let summary = simulation.stop();
    assert_eq!(summary.gpus[0].kernels_run, 1);
})];

fn fill() {
    let program = Program::new();
    let out = words(256);
    let parameters = [Parameter::Address(out), Parameter::Word(1000)];
    program.launch("fill", [4, 1, 1], 64, NULL, &parameters);
    synchronize();
    assert_eq!(read(out, 256), (1000..1256).collect::<Vec<u32>>());
    let version = get(|out| {
        // SAFETY: gives a number through its first argument.
        unsafe { sys::cuDriverGetVersion(out) }
    });
    assert_eq!(version, 13_000);
    // SAFETY: allocated above.
    ok(unsafe { sys::cuMemFree_v2(out) });
}
