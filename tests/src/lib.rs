// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the programs of the end-to-end tests, the demo and the benchmarks share.
//!
//! The idea: everything here is an ordinary CUDA driver-API program that knows nothing of LithOS, so
//! that what is measured and tested is what any program gets. The same binaries run on simgpu and on
//! a real GPU; only their default sizes differ ([`cuda::is_simulated`]), because the simulated GPU
//! interprets every instruction.

pub mod cuda;
pub mod latency;
