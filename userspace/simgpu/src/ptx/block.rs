// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One thread block in execution: its warps, its shared memory, its barriers and its clock.

use std::sync::Arc;

use super::memory::{Fault, Memory};
use super::module::Kernel;
use super::time::Time;
use super::warp::{Arrival, State, Stop, Surroundings, Warp};

/// What a block is told about the launch and about its own place in it.
#[derive(Clone, Debug)]
pub struct BlockEnvironment {
    /// Blocks of the grid (`%nctaid`), of the whole grid even if only a part of it runs.
    pub grid: [u32; 3],
    /// Threads of a block (`%ntid`).
    pub block: [u32; 3],
    /// Blocks of a cluster; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Whether the launch asked for clusters (`%is_explicit_cluster`).
    pub explicit_cluster: bool,
    /// This block's place in the grid (`%ctaid`).
    pub block_index: [u32; 3],
    /// The SM as the block sees it (`%smid`).
    pub sm: u32,
    /// How many SMs there are (`%nsmid`).
    pub sm_count: u32,
    /// The launch's number (`%gridid`).
    pub grid_id: u64,
    /// Shared memory asked for at the launch.
    pub dynamic_shared_bytes: u32,
    /// Constant bank 0 as it is in memory.
    pub constant_bank: Arc<[u8]>,
    /// Where the parameter area begins in it (0x210 on Hopper).
    pub parameter_offset: usize,
}

/// Why a block cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The constant bank ends before the kernel's parameters do.
    #[error("the constant bank has {found} bytes, the kernel's parameters end at {needed}")]
    ParametersMissing {
        /// Bytes that the bank has.
        found: usize,
        /// Bytes that it would need.
        needed: usize,
    },
    /// The block's shape is empty or too large for the kernel.
    #[error("a block of {threads} threads, where 1 to {most} are possible")]
    BlockShape {
        /// Threads asked for.
        threads: u64,
        /// Threads possible.
        most: u32,
    },
    /// The cluster's shape is empty or larger than 16 blocks.
    #[error("a cluster of {blocks} blocks, where 1 to 16 are possible")]
    ClusterShape {
        /// Blocks asked for.
        blocks: u64,
    },
    /// More shared memory than an SM has.
    #[error("{bytes} bytes of shared memory, where {most} are possible")]
    SharedMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes possible.
        most: u64,
    },
}

/// What one call of [`Block::run`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Modelled cycles by which the block's clock advanced, sleep included: it may exceed the budget by
    /// an instruction, or by much if every warp sleeps.
    pub cycles: u64,
    /// The block's modelled time now, in nanoseconds: when it next has something to do.
    pub end_ns: u64,
    /// Why the turn ended.
    pub outcome: Outcome,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The budget is spent: call again.
    Yielded,
    /// No warp can go on before [`Block::release_cluster`].
    WaitingAtClusterBarrier,
    /// No warp can ever go on: hardware would hang here.
    Hung,
    /// Every thread has exited.
    Finished,
    /// The block has failed; it must not be run again.
    Faulted {
        /// What happened.
        fault: Fault,
        /// The line of the PTX text.
        line: u32,
    },
}

/// How far a warp may run ahead of the next one, in cycles.
const AHEAD_CYCLES: u64 = 64;

/// The most threads of a block.
const THREADS_MAX: u32 = 1024;
/// The most blocks of a cluster.
const CLUSTER_BLOCKS_MAX: u64 = 16;
/// Shared memory that one block can have: 227 KiB.
const SHARED_BYTES_MAX: u64 = 227 << 10;

/// A barrier of the block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Barrier {
    /// Threads that have arrived.
    pub(super) arrived: u32,
    /// Those of them whose predicate was true.
    pub(super) voted: u32,
    /// The threads that take part, if not all.
    threads: Option<u64>,
    /// When the last one arrived.
    pub(super) cycle: u64,
}

/// A block in execution.
#[derive(Debug)]
pub struct Block {
    kernel: Arc<Kernel>,
    environment: BlockEnvironment,
    warps: Vec<Warp>,
    shared: Vec<u8>,
    barriers: [Barrier; 16],
    /// The block's clock, in cycles since its start.
    cycle: u64,
    /// Set by the first turn.
    time: Option<Time>,
    cluster: Cluster,
}

/// The block's part in the barriers of its cluster.
#[derive(Clone, Copy, Debug, Default)]
struct Cluster {
    /// Threads that have arrived at the current barrier.
    threads: u32,
    /// Barriers at which all threads have arrived.
    arrived: u64,
    /// Barriers at which all blocks have arrived.
    released: u64,
    /// When the last of them was.
    release_cycle: u64,
}

impl Block {
    /// Sets up a block before its first instruction.
    pub fn new(kernel: Arc<Kernel>, environment: BlockEnvironment) -> Result<Self, BlockError> {
        let needed = usize::try_from(kernel.parameter_bytes)
            .ok()
            .and_then(|bytes| environment.parameter_offset.checked_add(bytes))
            .unwrap_or(usize::MAX);
        let found = environment.constant_bank.len();
        if found < needed {
            return Err(BlockError::ParametersMissing { found, needed });
        }
        let volume = |shape: [u32; 3]| {
            shape.iter().fold(1_u64, |volume, side| {
                volume.saturating_mul(u64::from(*side))
            })
        };
        let most = kernel.max_threads.min(THREADS_MAX);
        let wanted = volume(environment.block);
        let threads = u32::try_from(wanted)
            .ok()
            .filter(|threads| (1..=most).contains(threads))
            .ok_or(BlockError::BlockShape {
                threads: wanted,
                most,
            })?;
        let blocks = volume(environment.cluster);
        if !(1..=CLUSTER_BLOCKS_MAX).contains(&blocks) {
            return Err(BlockError::ClusterShape { blocks });
        }
        let bytes =
            u64::from(kernel.static_shared_bytes) + u64::from(environment.dynamic_shared_bytes);
        let shared = usize::try_from(bytes)
            .ok()
            .filter(|_| bytes <= SHARED_BYTES_MAX)
            .ok_or(BlockError::SharedMemory {
                bytes,
                most: SHARED_BYTES_MAX,
            })?;
        let warps = (0..threads.div_ceil(32))
            .map(|warp| Warp::new(&kernel, &environment, warp, threads - warp * 32))
            .collect();
        Ok(Self {
            kernel,
            environment,
            warps,
            shared: vec![0; shared],
            barriers: [Barrier::default(); 16],
            cycle: 0,
            time: None,
            cluster: Cluster::default(),
        })
    }

    /// Advances the block's modelled time by about `budget_cycles`.
    ///
    /// `now_ns` is the GPU's time as the block is to see it; a time before the block's own is raised to
    /// that. `clock_khz` is the modelled clock.
    pub fn run<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        now_ns: u64,
        clock_khz: u64,
        budget_cycles: u64,
    ) -> Turn {
        let time = self.set_time(now_ns, clock_khz.max(1));
        let start = self.cycle;
        let end = start.saturating_add(budget_cycles.max(1));
        let kernel = Arc::clone(&self.kernel);
        let outcome = loop {
            let Some((warp, bound)) = self.next_warp(end) else {
                break self.standstill();
            };
            if self.warps[warp].cycle >= end {
                break Outcome::Yielded;
            }
            let offset = self.environment.parameter_offset;
            let parameters = &self.environment.constant_bank[offset..];
            let mut around = Surroundings {
                memory,
                shared: &mut self.shared,
                parameters: &parameters[..kernel.parameter_bytes as usize],
                time,
                cluster_released: self.cluster.released,
                cluster_release_cycle: self.cluster.release_cycle,
                cluster_arrived: self.cluster.arrived,
            };
            let stop = self.warps[warp].run(&kernel.code, &mut around, bound);
            let stop = match stop {
                Ok(stop) => stop,
                Err((fault, line)) => {
                    self.cycle = self.cycle.max(self.warps[warp].cycle);
                    break Outcome::Faulted { fault, line };
                }
            };
            self.attend(warp, stop);
        };
        let ready = self.warps.iter().filter(|warp| warp.is_ready());
        let clock = if outcome == Outcome::Yielded {
            ready.map(|warp| warp.cycle).min()
        } else {
            self.warps.iter().map(|warp| warp.cycle).max()
        };
        self.cycle = self.cycle.max(clock.unwrap_or(0));
        Turn {
            cycles: self.cycle - start,
            end_ns: time.ns(self.cycle),
            outcome,
        }
    }

    /// How many cluster barriers all threads of this block have arrived at so far. When every block of
    /// the cluster has come to `n`, call `release_cluster(n, latest arrival)` on each.
    pub fn cluster_arrivals(&self) -> u64 {
        // A block whose threads have all exited holds nobody up.
        if self.warps.iter().all(|warp| warp.alive == 0) {
            u64::MAX
        } else {
            self.cluster.arrived
        }
    }

    /// Lets waits at the first `count` cluster barriers pass, from the GPU time `at_ns` on.
    pub fn release_cluster(&mut self, count: u64, at_ns: u64) {
        let at = self.time.map_or(self.cycle, |time| time.cycle_at(at_ns));
        self.cluster.released = self.cluster.released.max(count);
        self.cluster.release_cycle = self.cluster.release_cycle.max(at);
        for warp in &mut self.warps {
            let mut passed = false;
            for path in &mut warp.paths {
                if let State::AtCluster(number) = path.state
                    && number <= count
                {
                    path.state = State::Ready;
                    path.at += 1;
                    passed = true;
                }
            }
            if passed {
                warp.cycle = warp.cycle.max(at);
            }
        }
    }

    /// Relates the block's cycles to the GPU's time, anew where the two no longer agree.
    fn set_time(&mut self, now_ns: u64, clock_khz: u64) -> Time {
        let fresh = Time {
            anchor_ns: now_ns,
            anchor_cycle: self.cycle,
            counter_base: 0,
            clock_khz,
        };
        let time = match self.time {
            None => Time {
                counter_base: fresh.cycles(now_ns),
                ..fresh
            },
            Some(time) => {
                let mine = time.ns(self.cycle);
                // A nanosecond is what rounding loses between two turns.
                if time.clock_khz == clock_khz && now_ns <= mine.saturating_add(1) {
                    time
                } else {
                    Time {
                        anchor_ns: now_ns.max(mine),
                        counter_base: time.counter_base,
                        ..fresh
                    }
                }
            }
        };
        self.time = Some(time);
        time
    }

    /// The ready warp that is earliest, and how far it may run.
    fn next_warp(&self, end: u64) -> Option<(usize, u64)> {
        let mut first: Option<(usize, u64)> = None;
        let mut second = u64::MAX;
        for (index, warp) in self.warps.iter().enumerate() {
            if !warp.is_ready() {
                continue;
            }
            match first {
                Some((_, cycle)) if cycle <= warp.cycle => second = second.min(warp.cycle),
                _ => {
                    second = first.map_or(second, |(_, cycle)| cycle);
                    first = Some((index, warp.cycle));
                }
            }
        }
        first.map(|(index, _)| (index, end.min(second.saturating_add(AHEAD_CYCLES))))
    }

    /// What it means that no warp is ready.
    fn standstill(&self) -> Outcome {
        let mut paths = self.warps.iter().flat_map(|warp| &warp.paths);
        if self.warps.iter().all(|warp| warp.paths.is_empty()) {
            Outcome::Finished
        } else if paths.any(|path| matches!(path.state, State::AtCluster(_))) {
            Outcome::WaitingAtClusterBarrier
        } else {
            Outcome::Hung
        }
    }

    fn attend(&mut self, warp: usize, stop: Stop) {
        match stop {
            Stop::Time | Stop::Blocked => {}
            Stop::ClusterWait => self.complete_cluster_barrier(),
            Stop::Barrier(arrival) => self.arrive(warp, arrival),
            Stop::Exited => {
                for index in 0..self.barriers.len() {
                    self.complete_barrier(index);
                }
                self.complete_cluster_barrier();
            }
            Stop::ClusterArrived(lanes) => {
                self.cluster.threads += lanes.count_ones();
                self.complete_cluster_barrier();
            }
        }
    }

    fn alive(&self) -> u32 {
        self.warps.iter().map(|warp| warp.alive.count_ones()).sum()
    }

    fn arrive(&mut self, warp: usize, arrival: Arrival) {
        let index = usize::from(arrival.index);
        let cycle = self.warps[warp].cycle;
        let barrier = &mut self.barriers[index];
        barrier.arrived += arrival.lanes.count_ones();
        barrier.voted += arrival.voted.count_ones();
        barrier.threads = arrival.threads;
        barrier.cycle = barrier.cycle.max(cycle);
        self.complete_barrier(index);
    }

    /// Opens a barrier if everyone it waits for has arrived. Threads that have exited are not waited for.
    fn complete_barrier(&mut self, index: usize) {
        let barrier = self.barriers[index];
        let expected = barrier.threads.unwrap_or_else(|| u64::from(self.alive()));
        if barrier.arrived == 0 || u64::from(barrier.arrived) < expected {
            return;
        }
        self.barriers[index] = Barrier::default();
        for warp in &mut self.warps {
            warp.pass_barrier(&self.kernel.code, index, barrier);
        }
    }

    fn complete_cluster_barrier(&mut self) {
        if self.cluster.threads != 0 && self.cluster.threads >= self.alive() {
            self.cluster.threads = 0;
            self.cluster.arrived += 1;
        }
        // A block without a cluster is a cluster of its own.
        if self.environment.cluster == [1, 1, 1] && self.cluster.released < self.cluster.arrived {
            let latest = self.warps.iter().map(|warp| warp.cycle).max();
            let at = self.time.map_or(0, |time| time.ns(latest.unwrap_or(0)));
            self.release_cluster(self.cluster.arrived, at);
        }
    }
}
