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

use super::access::{Reach, lanes};
use super::block::{Barrier, BlockEnvironment};
use super::code::{
    BarrierResult, Code, Condition, FIXED_PREDICATES, Instruction, LANES, Operation, Row, RowIndex,
    SINK_ROW, TRUE,
};
use super::collective;
use super::memory::{Fault, Memory};
use super::module::Kernel;
use super::special::Clock;
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

/// How the block's cycles relate to the GPU's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// A moment in both reckonings.
    pub(super) anchor_ns: u64,
    pub(super) anchor_cycle: u64,
    /// What the SM's counter showed when the block's cycle was 0.
    pub(super) counter_base: u64,
    pub(super) clock_khz: u64,
}

impl Time {
    pub(super) fn ns(&self, cycle: u64) -> u64 {
        let cycles = u128::from(cycle.saturating_sub(self.anchor_cycle));
        let ns = cycles * 1_000_000 / u128::from(self.clock_khz);
        self.anchor_ns
            .saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    pub(super) fn cycles(&self, ns: u64) -> u64 {
        let cycles = u128::from(ns) * u128::from(self.clock_khz) / 1_000_000;
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }

    /// The first cycle that is not before `ns`.
    pub(super) fn cycle_at(&self, ns: u64) -> u64 {
        let since = u128::from(ns.saturating_sub(self.anchor_ns));
        let cycles = (since * u128::from(self.clock_khz)).div_ceil(1_000_000);
        self.anchor_cycle
            .saturating_add(u64::try_from(cycles).unwrap_or(u64::MAX))
    }

    fn read(&self, clock: Clock, cycle: u64) -> u64 {
        let count = self.counter_base.wrapping_add(cycle);
        match clock {
            Clock::Cycles => count & mask(32),
            Clock::CyclesHigh => count >> 32,
            Clock::Cycles64 => count,
            Clock::Nanoseconds => self.ns(cycle),
            Clock::NanosecondsLow => self.ns(cycle) & mask(32),
            Clock::NanosecondsHigh => self.ns(cycle) >> 32,
        }
    }
}

/// What follows an instruction.
enum Flow {
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
    local: Vec<u8>,
    pub(super) paths: Vec<Path>,
    /// Lanes that have not exited.
    pub(super) alive: u32,
    /// Its clock, in the block's cycles.
    pub(super) cycle: u64,
    /// The number of the cluster barrier at which each lane arrived last.
    cluster_arrivals: [u64; LANES],
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

    fn execute<M: Memory + ?Sized>(
        &mut self,
        instruction: &Instruction,
        active: u32,
        around: &mut Surroundings<'_, M>,
    ) -> Result<Flow, Fault> {
        let mut out = [0; LANES];
        match &instruction.operation {
            Operation::Nothing => {}
            Operation::Unary(f, d, a) => {
                f(self.row(*a), &mut out);
                self.write(*d, active, &out);
            }
            Operation::Binary(f, d, a, b) => {
                f(self.row(*a), self.row(*b), &mut out);
                self.write(*d, active, &out);
            }
            Operation::Ternary(f, d, [a, b, c]) => {
                f(self.row(*a), self.row(*b), self.row(*c), &mut out);
                self.write(*d, active, &out);
            }
            Operation::Quaternary(f, d, [a, b, c, e]) => {
                f(
                    self.row(*a),
                    self.row(*b),
                    self.row(*c),
                    self.row(*e),
                    &mut out,
                );
                self.write(*d, active, &out);
            }
            Operation::Convert(conversion, d, a) => {
                for (out, word) in out.iter_mut().zip(self.row(*a)) {
                    *out = conversion.apply(*word);
                }
                self.write(*d, active, &out);
            }
            Operation::Compare {
                test,
                a,
                b,
                d,
                complement,
                logic,
                with,
            } => {
                let holds = test(self.row(*a), self.row(*b));
                let with = self.condition(*with);
                self.write_predicate(*d, active, logic.apply(holds, with));
                self.write_predicate(*complement, active, logic.apply(!holds, with));
            }
            Operation::Select { d, a, b, condition } => {
                let chosen = self.condition(*condition);
                self.rows_select(*d, *a, *b, chosen, active);
            }
            Operation::Predicate {
                logic,
                d,
                a,
                b,
                flip,
            } => {
                let value = logic.apply(self.condition(*a), self.condition(*b)) ^ flip;
                self.write_predicate(*d, active, value);
            }
            Operation::Carry { .. } => self.carry(&instruction.operation, active),
            Operation::Load { place, d, extend } => {
                let mut rows = [[0; LANES]; 4];
                let mut reach = Reach {
                    memory: around.memory,
                    shared: around.shared,
                    local: &mut self.local,
                    parameters: around.parameters,
                };
                reach.load(
                    *place,
                    &self.rows[usize::from(place.base)],
                    active,
                    &mut rows,
                )?;
                let unused = 64 - 8 * u32::from(place.bytes);
                for (d, row) in d.iter().zip(&mut rows).take(usize::from(place.count)) {
                    if *extend != 0 {
                        for word in row.iter_mut() {
                            let signed = (*word << unused).cast_signed() >> unused;
                            *word = signed.cast_unsigned() & *extend;
                        }
                    }
                    self.write(*d, active, row);
                }
            }
            Operation::Store { place, a } => {
                let mut reach = Reach {
                    memory: around.memory,
                    shared: around.shared,
                    local: &mut self.local,
                    parameters: around.parameters,
                };
                let rows = a.map(|row| &self.rows[usize::from(row)]);
                reach.store(*place, &self.rows[usize::from(place.base)], active, rows)?;
            }
            Operation::Atomic {
                place,
                atomic,
                d,
                a,
                compare,
            } => {
                let mut reach = Reach {
                    memory: around.memory,
                    shared: around.shared,
                    local: &mut self.local,
                    parameters: around.parameters,
                };
                let row = |row: RowIndex| &self.rows[usize::from(row)];
                let operands = (row(*a), row(*compare));
                reach.atomic(*place, row(place.base), active, *atomic, operands, &mut out)?;
                self.write(*d, active, &out);
            }
            Operation::Branch(target) => return Ok(Flow::Jump(active, *target)),
            Operation::BranchTable(index, targets) => {
                return Ok(self.branch_table(*index, targets, active));
            }
            Operation::Exit => return Ok(Flow::Exit(active)),
            Operation::Trap => return Err(Fault::Trap),
            Operation::Barrier { .. } => {
                return self.barrier(&instruction.operation, active);
            }
            Operation::ClusterArrive => {
                for lane in lanes(active) {
                    self.cluster_arrivals[lane] = around.cluster_arrived + 1;
                }
                return Ok(Flow::Tell(0, State::Ready, Stop::ClusterArrived(active)));
            }
            Operation::ClusterWait => {
                return Ok(self.cluster_wait(active, around));
            }
            Operation::Collective(members, collective) => {
                let ready = collective::ready_lanes(self, *members, active);
                if ready != 0 {
                    collective::execute(self, *collective, *members, ready);
                }
                if ready != active {
                    return Ok(Flow::Stay(active & !ready, State::Gathering));
                }
            }
            Operation::ActiveMask(d) => {
                self.write(*d, active, &[u64::from(active); LANES]);
            }
            Operation::Sleep(a) => {
                let row = self.row(*a);
                let longest = lanes(active).map(|lane| row[lane]).max();
                let cycles = around.time.cycles(longest.unwrap_or(0).min(1_000_000));
                self.cycle = self.cycle.saturating_add(cycles);
                return Ok(Flow::GiveWay);
            }
            Operation::ReadClock(clock, d) => {
                let now = around.time.read(*clock, self.cycle);
                self.write(*d, active, &[now; LANES]);
            }
        }
        Ok(Flow::Next)
    }

    fn rows_select(&mut self, d: RowIndex, a: RowIndex, b: RowIndex, chosen: u32, active: u32) {
        let mut out = [0; LANES];
        let (a, b) = (self.row(a), self.row(b));
        for (lane, out) in out.iter_mut().enumerate() {
            let keep = u64::from(chosen >> lane & 1).wrapping_sub(1);
            *out = (b[lane] & keep) | (a[lane] & !keep);
        }
        self.write(d, active, &out);
    }

    fn carry(&mut self, operation: &Operation, active: u32) {
        let Operation::Carry {
            wide,
            subtract,
            carry_in,
            carry_out,
            d,
            a,
            b,
        } = *operation
        else {
            return;
        };
        let flag = super::code::CARRY;
        let incoming = if carry_in {
            self.predicates[usize::from(flag)]
        } else {
            0
        };
        let bits = if wide { 64 } else { 32 };
        let mut out = [0; LANES];
        let mut outgoing = 0_u32;
        for lane in 0..LANES {
            let (a, b) = (self.row(a)[lane], self.row(b)[lane]);
            let (a, b) = (u128::from(a), u128::from(b));
            let c = u128::from(incoming >> lane & 1);
            // A borrow sets the flag as a carry does; the two are never mixed in one chain.
            let result = if subtract {
                a.wrapping_sub(b).wrapping_sub(c)
            } else {
                a + b + c
            };
            out[lane] = lower(result) & mask(bits);
            outgoing |= u32::from(result >> bits & 1 != 0) << lane;
        }
        self.write(d, active, &out);
        if carry_out {
            self.write_predicate(flag, active, outgoing);
        }
    }

    /// Sorts the active lanes by where a branch table sends them.
    fn branch_table(&self, index: RowIndex, targets: &[u32], active: u32) -> Flow {
        let row = self.row(index);
        let mut jumps: Vec<(u32, u32)> = Vec::new();
        for lane in lanes(active) {
            // An index outside the table is undefined in PTX; here it takes the last entry.
            let entry = usize::try_from(row[lane]).unwrap_or(usize::MAX);
            let to = targets[entry.min(targets.len() - 1)];
            match jumps.iter_mut().find(|jump| jump.1 == to) {
                Some(jump) => jump.0 |= 1 << lane,
                None => jumps.push((1 << lane, to)),
            }
        }
        Flow::Scatter(jumps)
    }

    fn barrier(&mut self, operation: &Operation, active: u32) -> Result<Flow, Fault> {
        let Operation::Barrier {
            barrier,
            threads,
            waits,
            result,
            source,
        } = *operation
        else {
            return Ok(Flow::Next);
        };
        let lane = active.trailing_zeros() as usize;
        let number = self.row(barrier)[lane];
        let count = (threads != SINK_ROW).then(|| self.row(threads)[lane]);
        let voted = match result {
            BarrierResult::None => 0,
            _ => self.condition(source) & active,
        };
        let index = u8::try_from(number).ok().filter(|number| *number < 16);
        let (Some(index), false) = (index, count.is_some_and(|count| count % 32 != 0)) else {
            return Err(Fault::IllegalBarrier {
                barrier: number,
                threads: count.unwrap_or(0),
            });
        };
        let arrival = Arrival {
            index,
            threads: count,
            lanes: active,
            voted,
        };
        let staying = if waits { active } else { 0 };
        Ok(Flow::Tell(
            staying,
            State::AtBarrier(index),
            Stop::Barrier(arrival),
        ))
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

    /// Waits for the cluster barrier at which these lanes arrived last.
    fn cluster_wait<M: ?Sized>(&mut self, active: u32, around: &Surroundings<'_, M>) -> Flow {
        let arrivals = lanes(active).map(|lane| self.cluster_arrivals[lane]);
        let number = arrivals.max().unwrap_or(0);
        if number <= around.cluster_released {
            self.cycle = self.cycle.max(around.cluster_release_cycle);
            return Flow::Next;
        }
        Flow::Tell(active, State::AtCluster(number), Stop::ClusterWait)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low word is the result"
)]
fn lower(word: u128) -> u64 {
    word as u64
}
