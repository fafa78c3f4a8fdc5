// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the programs of the end-to-end tests, the demo and the benchmarks share.
//!
//! The idea: everything here is an ordinary CUDA driver-API program that knows nothing of LithOS, so
//! that what is measured and tested is what any program gets. The same binaries run on simgpu and on
//! a real GPU; only their default sizes differ ([`cuda::is_simulated`]), because the simulated GPU
//! interprets every instruction.

pub mod bench;
pub mod client;
pub mod cuda;
pub mod figures;
pub mod footprint;
pub mod latency;
pub mod load;
pub mod plot;
pub mod restart;
pub mod testbed;
pub mod workload;

#[cfg(test)]
mod tests {
    use super::cuda::source;

    /// The interpreter refuses at once what it cannot run.
    #[test]
    fn the_simulated_gpu_can_run_every_kernel() {
        for ptx in [
            source::EMPTY,
            source::WORK,
            source::MEET,
            source::CLUSTER,
            source::TRACE,
            source::ONCE,
            source::CHECKSUM,
        ] {
            if let Err(error) = simgpu::ptx::Module::parse(ptx) {
                panic!("{error}\n{ptx}");
            }
        }
    }
}
