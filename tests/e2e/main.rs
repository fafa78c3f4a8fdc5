// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! LithOS end to end: `lithosd`, `lithos` and unmodified CUDA programs, driven from outside.
//!
//! Every test has a daemon and simulated GPUs of its own. With `LITHOS_TEST_GPU=real` the tests outside
//! of `simulated` run on the GPU of this machine instead, unchanged.

mod atoms;
mod churn;
mod confined;
mod grids;
mod habits;
mod lending;
mod life;
mod live;
mod load;
mod operator;
mod restart;
mod simulated;
mod support;
