// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What one instruction does to the active lanes of a warp.

use super::access::{Reach, lanes};
use super::code::{
    BarrierResult, CARRY, Instruction, LANES, Operation, Place, Row, RowIndex, SINK_ROW,
};
use super::collective;
use super::memory::{Fault, Memory};
use super::types::mask;
use super::warp::{Arrival, Flow, State, Stop, Surroundings, Warp};

/// The longest that `nanosleep` sleeps.
const SLEEP_NS_MAX: u64 = 1_000_000;

impl Warp {
    pub(super) fn execute<M: Memory + ?Sized>(
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
            Operation::Load { place, d, extend } if place.count == 1 => {
                let rows = std::slice::from_mut(&mut out);
                self.load(*place, active, around, rows)?;
                extend_signs(*place, *extend, &mut out);
                self.write(d[0], active, &out);
            }
            Operation::Load { place, d, extend } => {
                let mut rows = [[0; LANES]; 4];
                let count = usize::from(place.count);
                self.load(*place, active, around, &mut rows[..count])?;
                for (d, row) in d.iter().zip(&mut rows).take(count) {
                    extend_signs(*place, *extend, row);
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
                let rows = &rows[..usize::from(place.count)];
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
                let cycles = around.time.cycles(longest.unwrap_or(0).min(SLEEP_NS_MAX));
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

    fn load<M: Memory + ?Sized>(
        &mut self,
        place: Place,
        active: u32,
        around: &mut Surroundings<'_, M>,
        into: &mut [Row],
    ) -> Result<(), Fault> {
        let mut reach = Reach {
            memory: around.memory,
            shared: around.shared,
            local: &mut self.local,
            parameters: around.parameters,
        };
        reach.load(place, &self.rows[usize::from(place.base)], active, into)
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
        let flag = CARRY;
        let incoming = if carry_in {
            self.predicates[usize::from(flag)]
        } else {
            0
        };
        let bits = if wide { 64 } else { 32 };
        let mut out = [0; LANES];
        let mut outgoing = 0_u32;
        for (lane, out) in out.iter_mut().enumerate() {
            let (a, b) = (self.row(a)[lane], self.row(b)[lane]);
            let (a, b) = (u128::from(a), u128::from(b));
            let c = u128::from(incoming >> lane & 1);
            // A borrow sets the flag as a carry does; the two are never mixed in one chain.
            let result = if subtract {
                a.wrapping_sub(b).wrapping_sub(c)
            } else {
                a + b + c
            };
            *out = lower(result) & mask(bits);
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

/// Extends the sign of narrow elements to their register, whose bits `extend` has; zero for none.
fn extend_signs(place: Place, extend: u64, row: &mut Row) {
    if extend == 0 {
        return;
    }
    let unused = 64 - 8 * u32::from(place.bytes);
    for word in row {
        let signed = (*word << unused).cast_signed() >> unused;
        *word = signed.cast_unsigned() & extend;
    }
}
