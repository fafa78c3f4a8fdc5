// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A warp: 32 lanes that share instructions while they agree where to go.
//!
//! The lanes of a warp form *paths*, sets of lanes at one instruction. The path at the lowest
//! instruction runs first, so that paths meet again where the code joins (compilers lay code out that
//! way) and become one. Alone, that rule would let a path that spins at a low address starve the one it
//! waits for; so a path that has run for [`TURN_INSTRUCTIONS`] while others were ready gives a
//! turn of the same length to the one that has waited longest. Every ready path is thus run again and
//! again whatever the others do, as under the independent thread scheduling of Volta and later.
//!
//! ```text
//!            arrives                     all arrive
//!   Ready ------------> AtBarrier(n) ---------------------> Ready
//!     |  .sync needs absent lanes           they come, or exit
//!     +----------------> Gathering -----------------------> Ready
//!     |  barrier.cluster.wait               the cluster has arrived
//!     +----------------> AtCluster(n) --------------------> Ready
//!     |  exit
//!     +----------------> (gone)
//! ```

use super::block::{Barrier, BlockEnvironment};
use super::code::{
    BarrierResult, Code, Condition, FIXED_PREDICATES, LANES, Operation, Row, RowIndex, TRUE,
};
use super::memory::{Fault, Memory};
use super::module::Kernel;
use super::time::Time;
use super::types::{Lane, mask};

/// How many instructions a path runs while others are ready, before it gives way.
const TURN_INSTRUCTIONS: u32 = 1024;

/// What a path is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// At a barrier of the block, whose number this is.
    AtBarrier(u8),
    /// At a `.sync` instruction that names lanes which are elsewhere.
    Gathering,
    /// At the wait for this cluster barrier, counted from 1.
    AtCluster(u64),
}

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) at: u32,
    pub(super) lanes: u32,
    pub(super) state: State,
    /// When it last ended a turn, in turns of the warp.
    last_turn: u64,
}

/// Why a warp stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// Its clock has come to the bound.
    Time,
    /// No path is ready.
    Blocked,
    /// A path came to a barrier; it is no longer ready if `waits`.
    Barrier(Arrival),
    /// Some lanes are gone.
    Exited,
    /// These lanes arrived at the cluster barrier.
    ClusterArrived(u32),
    /// A path waits at the cluster barrier.
    ClusterWait,
}

/// Lanes that come to a barrier of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) index: u8,
    /// How many threads take part; none for all of the block.
    pub(super) threads: Option<u64>,
    pub(super) lanes: u32,
    /// Those of them whose predicate is true.
    pub(super) voted: u32,
}

/// A fault and where it happened.
pub(super) type Failure = (Fault, u32);

/// What surrounds a warp while it runs.
pub(super) struct Surroundings<'a, M: ?Sized> {
    pub(super) memory: &'a M,
    pub(super) shared: &'a mut [u8],
    pub(super) parameters: &'a [u8],
    pub(super) time: Time,
    /// How many cluster barriers have been completed, and when the last one was.
    pub(super) cluster_released: u64,
    pub(super) cluster_release_cycle: u64,
    /// How many cluster barriers this block has arrived at.
    pub(super) cluster_arrived: u64,
}

/// What follows an instruction.
pub(super) enum Flow {
    Next,
    /// Lanes that jump, and where to.
    Jump(u32, u32),
    /// Several sets of lanes that jump, and where to.
    Scatter(Vec<(u32, u32)>),
    /// Lanes that are done.
    Exit(u32),
    /// Lanes that stay behind at this instruction in this state.
    Stay(u32, State),
    /// Lanes that stay behind, and something for the block to do.
    Tell(u32, State, Stop),
    /// Others should have a turn.
    GiveWay,
}

/// A warp in execution.
#[derive(Debug)]
pub(super) struct Warp {
    pub(super) rows: Vec<Row>,
    pub(super) predicates: Vec<u32>,
    pub(super) local: Vec<u8>,
    pub(super) paths: Vec<Path>,
    /// Lanes that have not exited.
    pub(super) alive: u32,
    /// Its clock, in the block's cycles.
    pub(super) cycle: u64,
    /// The number of the cluster barrier at which each lane arrived last.
    pub(super) cluster_arrivals: [u64; LANES],
    /// Instructions of the current turn.
    turn: u32,
    turns: u64,
    /// Whether the current turn is one for the path that has waited longest.
    fair: bool,
}

impl Warp {
    pub(super) fn new(
        kernel: &Kernel,
        environment: &BlockEnvironment,
        index: u32,
        threads: u32,
    ) -> Self {
        let code = &kernel.code;
        let mut rows = vec![[0; LANES]; usize::from(code.rows).max(1)];
        for constant in &code.constants {
            rows[usize::from(constant.row)] = [constant.value; LANES];
        }
        for (special, row) in &code.specials {
            rows[usize::from(*row)] = special.row(environment, kernel, index);
        }
        let mut predicates = vec![0; usize::from(code.predicates.max(FIXED_PREDICATES))];
        predicates[usize::from(TRUE)] = u32::MAX;
        let alive = u32::from_lane(mask(u8::try_from(threads.min(32)).unwrap_or(32)));
        let local_bytes = usize::try_from(kernel.local_bytes).unwrap_or(usize::MAX);
        Self {
            rows,
            predicates,
            local: vec![0; local_bytes.saturating_mul(LANES)],
            paths: vec![Path {
                at: 0,
                lanes: alive,
                state: State::Ready,
                last_turn: 0,
            }],
            alive,
            cycle: 0,
            cluster_arrivals: [0; LANES],
            turn: 0,
            turns: 0,
            fair: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.paths.iter().any(|path| path.state == State::Ready)
    }

    pub(super) fn condition(&self, condition: Condition) -> u32 {
        self.predicates[usize::from(condition.predicate)] ^ condition.flip
    }

    pub(super) fn row(&self, row: RowIndex) -> &Row {
        &self.rows[usize::from(row)]
    }

    /// Writes the active lanes of a row.
    pub(super) fn write(&mut self, row: RowIndex, active: u32, values: &Row) {
        let target = &mut self.rows[usize::from(row)];
        if active == u32::MAX {
            *target = *values;
        } else {
            for (lane, (target, value)) in target.iter_mut().zip(values).enumerate() {
                let keep = u64::from(active >> lane & 1).wrapping_sub(1);
                *target = (*target & keep) | (*value & !keep);
            }
        }
    }

    /// Writes the active lanes of a predicate.
    pub(super) fn write_predicate(&mut self, predicate: u16, active: u32, value: u32) {
        let target = &mut self.predicates[usize::from(predicate)];
        *target = (*target & !active) | (value & active);
    }

    /// Runs until the clock comes to `until` or something stops the warp.
    pub(super) fn run<M: Memory + ?Sized>(
        &mut self,
        code: &Code,
        around: &mut Surroundings<'_, M>,
        until: u64,
    ) -> Result<Stop, Failure> {
        while self.cycle < until {
            let Some((mut path, next)) = self.choose() else {
                return Ok(Stop::Blocked);
            };
            let alone = self.paths.iter().all(|other| other.state != State::Ready);
            let stop = self.run_path(code, around, until, &mut path, (next, alone));
            if path.lanes != 0 {
                self.paths.push(path);
            }
            if let Some(stop) = stop? {
                return Ok(stop);
            }
        }
        Ok(Stop::Time)
    }

    /// Takes the path to run out of the list, with the instruction at which to look again.
    fn choose(&mut self) -> Option<(Path, u32)> {
        self.merge();
        let ready = |path: &&Path| path.state == State::Ready;
        if self.paths.iter().filter(ready).count() < 2 {
            self.fair = false;
            self.turn = 0;
        }
        let chosen = if self.fair {
            self.paths
                .iter()
                .filter(ready)
                .min_by_key(|path| path.last_turn)?
        } else {
            self.paths.iter().filter(ready).min_by_key(|path| path.at)?
        };
        let at = chosen.at;
        let index = self
            .paths
            .iter()
            .position(|path| path.at == at && path.state == State::Ready)?;
        let path = self.paths.swap_remove(index);
        let next = if self.fair {
            0
        } else {
            let others = self.paths.iter().filter(ready).map(|path| path.at);
            others.min().unwrap_or(u32::MAX)
        };
        Some((path, next))
    }

    /// Joins ready paths at one instruction.
    fn merge(&mut self) {
        let mut i = 0;
        while i < self.paths.len() {
            let mut j = i + 1;
            while j < self.paths.len() {
                let (a, b) = (self.paths[i], self.paths[j]);
                if a.at == b.at && a.state == State::Ready && b.state == State::Ready {
                    self.paths[i].lanes |= b.lanes;
                    self.paths[i].last_turn = a.last_turn.min(b.last_turn);
                    self.paths.swap_remove(j);
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    fn end_turn(&mut self, path: &mut Path) {
        self.turns += 1;
        path.last_turn = self.turns;
        self.fair = !self.fair;
        self.turn = 0;
    }

    /// Runs one path while nothing needs a new choice. Lanes that leave it are pushed to the list.
    fn run_path<M: Memory + ?Sized>(
        &mut self,
        code: &Code,
        around: &mut Surroundings<'_, M>,
        until: u64,
        path: &mut Path,
        (next, alone): (u32, bool),
    ) -> Result<Option<Stop>, Failure> {
        loop {
            // PANIC: the parser ends every kernel with an exit and resolves every label inside it.
            let instruction = &code.instructions[path.at as usize];
            let active = path.lanes & self.condition(instruction.guard);
            self.cycle += u64::from(instruction.cycles);
            let flow = if active == 0 {
                Flow::Next
            } else {
                self.execute(instruction, active, around)
                    .map_err(|fault| (fault, instruction.line))?
            };
            match flow {
                Flow::Next => path.at += 1,
                Flow::Jump(lanes, target) if lanes == path.lanes => path.at = target,
                Flow::Jump(lanes, target) => {
                    self.split(path, lanes, target, State::Ready);
                    path.at += 1;
                    return Ok(None);
                }
                Flow::Scatter(jumps) => {
                    for (lanes, target) in jumps {
                        self.split(path, lanes, target, State::Ready);
                    }
                    path.at += 1;
                    return Ok(None);
                }
                Flow::Exit(lanes) => {
                    path.lanes &= !lanes;
                    path.at += 1;
                    self.alive &= !lanes;
                    self.gather_again();
                    return Ok(Some(Stop::Exited));
                }
                Flow::Stay(lanes, state) => {
                    self.split(path, lanes, path.at, state);
                    path.at += 1;
                    self.meet();
                    return Ok(None);
                }
                Flow::Tell(lanes, state, stop) => {
                    self.split(path, lanes, path.at, state);
                    path.at += 1;
                    return Ok(Some(stop));
                }
                Flow::GiveWay => {
                    path.at += 1;
                    if !alone {
                        self.end_turn(path);
                        self.fair = true;
                    }
                    return Ok(None);
                }
            }
            if !alone {
                self.turn += 1;
                if self.turn >= TURN_INSTRUCTIONS {
                    self.end_turn(path);
                    return Ok(None);
                }
                if path.at >= next {
                    return Ok(None);
                }
            }
            if self.cycle >= until {
                return Ok(None);
            }
        }
    }

    /// Moves lanes from `path` to a path of their own.
    fn split(&mut self, path: &mut Path, lanes: u32, at: u32, state: State) {
        path.lanes &= !lanes;
        if lanes != 0 {
            self.paths.push(Path {
                at,
                lanes,
                state,
                last_turn: path.last_turn,
            });
        }
    }

    /// Lets lanes that gather at one instruction try again together.
    fn meet(&mut self) {
        for i in 0..self.paths.len() {
            let at = self.paths[i].at;
            let same = |path: &Path| path.state == State::Gathering && path.at == at;
            if self.paths.iter().filter(|path| same(path)).count() > 1 {
                for path in &mut self.paths {
                    if same(path) {
                        path.state = State::Ready;
                    }
                }
            }
        }
    }

    /// Lets all gathering lanes try again, because some they waited for may have exited.
    fn gather_again(&mut self) {
        for path in &mut self.paths {
            if path.state == State::Gathering {
                path.state = State::Ready;
            }
        }
    }

    /// Lets the paths at a barrier of the block go on, with what the barrier found.
    pub(super) fn pass_barrier(&mut self, code: &Code, index: usize, barrier: Barrier) {
        for i in 0..self.paths.len() {
            let Path { at, lanes, .. } = self.paths[i];
            if !matches!(self.paths[i].state, State::AtBarrier(number) if usize::from(number) == index)
            {
                continue;
            }
            if let Operation::Barrier { result, .. } = code.instructions[at as usize].operation {
                let spread = |holds: bool| if holds { u32::MAX } else { 0 };
                match result {
                    BarrierResult::None => {}
                    BarrierResult::Count(d) => {
                        self.write(d, lanes, &[u64::from(barrier.voted); LANES]);
                    }
                    BarrierResult::All(d) => {
                        self.write_predicate(d, lanes, spread(barrier.voted == barrier.arrived));
                    }
                    BarrierResult::Any(d) => {
                        self.write_predicate(d, lanes, spread(barrier.voted != 0));
                    }
                }
            }
            self.paths[i].state = State::Ready;
            self.paths[i].at += 1;
            self.cycle = self.cycle.max(barrier.cycle);
        }
    }
}
