// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The model: memory, who stores into it, and the GPU.
//!
//! ```text
//!   tenant     begin: read the order      scheduler  begin: store the order, fence
//!              build, publish, fence                 is it published and not done?
//!              look: another order?                  then store into each gate
//!              then store, fence, look               fence: settled
//!              launch
//! ```
//!
//! Processors see their own stores first and each other's later, in order (total store order, as on
//! x86): a store waits in a buffer until it *leaves*; a fence waits until the buffer is empty. The
//! GPU sees memory. It reads a gate's word and acts on it in two steps, and schedules the next gate
//! when an atom has started, not when it has ended.

use core::fmt;

use lithos_descriptor::hopper::GateState::{self, Halted, Open, Shut};

/// Atoms of a chain, and gates.
const ATOMS: usize = 3;
const GATES: usize = ATOMS - 1;
/// The most launches that there can be.
const LAUNCHES: usize = 4;

/// The rules of the protocol, each of which can be left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) publish_then_look: bool,
    pub(crate) order_then_scan: bool,
    pub(crate) look_again: bool,
    pub(crate) launch_last: bool,
    pub(crate) one_store: bool,
    pub(crate) reuse_when_done: bool,
    pub(crate) count_all: bool,
    pub(crate) halt_last: bool,
    pub(crate) run_out: bool,
    pub(crate) watch: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Rules {
        publish_then_look: true,
        order_then_scan: true,
        look_again: true,
        launch_last: true,
        one_store: true,
        reuse_when_done: true,
        count_all: true,
        halt_last: true,
        run_out: true,
        watch: true,
    };
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// An atom ran twice.
    Repeated,
    /// The GPU was at one launch and found an atom or the tail of another.
    OfAnotherLaunch,
    /// A launch was done before all its atoms had ended.
    Incomplete,
    /// The GPU found a gate open after all had been shut, or halted.
    Unheld,
    /// Nothing can happen any more, and a launch has not completed.
    Lost,
    /// Nothing can happen any more, and the GPU goes round a gate of a channel that was halted.
    Restless,
    /// The same, and a tail was counted down in part: the hardware would remember it.
    HalfCounted,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::Repeated => "an atom ran twice",
            Violation::OfAnotherLaunch => "an atom of another launch",
            Violation::Incomplete => "done before all atoms have ended",
            Violation::Unheld => "a gate is open that was shut",
            Violation::Lost => "a launch does not complete",
            Violation::Restless => "a gate goes round after a halt",
            Violation::HalfCounted => "a tail was counted down in part",
        })
    }
}

/// Words that are shared. Launches are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Memory {
    order: GateState,
    /// The launch that the tail says is published.
    published: u8,
    /// The launch that the GPU says is done.
    done: u8,
    /// The launch whose descriptors lie in the places.
    built: u8,
    gates: [GateState; GATES],
    /// The atoms behind them that were made void.
    void: [bool; GATES],
    /// The launch is not done when the tail has been counted down.
    silent: bool,
    /// The last launch that the GPU was given.
    launched: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Store {
    Order(GateState),
    Published(u8),
    Built(u8),
    Gate(u8, GateState),
    Silent,
    Void(u8),
    Launched(u8),
}

impl Memory {
    fn take(&mut self, store: Store) {
        match store {
            Store::Order(order) => self.order = order,
            Store::Published(launch) => self.published = launch,
            Store::Built(launch) => {
                self.built = launch;
                (self.void, self.silent) = ([false; GATES], false);
            }
            Store::Silent => self.silent = true,
            Store::Void(gate) => self.void[usize::from(gate)] = true,
            Store::Gate(gate, state) => self.gates[usize::from(gate)] = state,
            Store::Launched(launch) => self.launched = launch,
        }
    }
}

/// Stores that have not left their processor, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Buffer([Option<Store>; 8]);

impl Buffer {
    const EMPTY: Self = Buffer([None; 8]);

    fn push(&mut self, store: Store) {
        let free = self.0.iter_mut().find(|place| place.is_none());
        *free.expect("a tenant fences before it has as many") = Some(store);
    }

    /// Makes the tail silent, if it is to be.
    fn silence(&mut self, state: GateState) {
        if state == Halted {
            self.push(Store::Silent);
        }
    }

    /// Stores into a gate, and before that into the atom behind it, if that is to be void.
    fn store(&mut self, rules: Rules, gate: u8, state: GateState) {
        if state == Halted && rules.run_out {
            self.push(Store::Void(gate));
        }
        self.push(Store::Gate(gate, state));
    }

    fn leave(&mut self) -> Option<Store> {
        let first = self.0[0].take();
        self.0.rotate_left(1);
        first
    }

    fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    /// Memory as the processor sees it.
    fn over(&self, mut memory: Memory) -> Memory {
        self.0
            .iter()
            .flatten()
            .for_each(|&store| memory.take(store));
        memory
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tenant {
    Idle,
    /// It has read the order, and goes on with what it says.
    Building(GateState),
    /// It has built or stored; a fence is next.
    Stored(GateState),
    Looking(GateState),
    Launching,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheduler {
    Idle,
    /// It has stored an order; a fence is next.
    Ordered,
    Scanning,
    /// It has stored into the gates from this one on.
    Storing(u8),
    /// Between two stores into this gate.
    Halfway(u8),
    /// It has stored into all of them; a fence is next.
    Stored,
}

/// Where the GPU's scheduler is on its way through a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Walk {
    /// No launch.
    Idle,
    /// The gate before this atom is next.
    Before(u8),
    /// It has read the gate's word and has not acted on it.
    Read(u8, GateState),
    /// The last atom has started, or nothing is to come any more.
    Ended,
}

/// All of it, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    memory: Memory,
    tenant: Tenant,
    tenant_buffer: Buffer,
    /// The launch that the tenant is at, or was at last.
    launch: u8,
    scheduler: Scheduler,
    scheduler_buffer: Buffer,
    walk: Walk,
    /// The launch that the GPU is at.
    at: u8,
    running: [bool; ATOMS],
    /// How many atoms of the launch have still to count the tail down.
    count: u8,
    /// Which atoms have run, of each launch.
    ran: [[bool; ATOMS]; LAUNCHES],
    /// The order that holds for every gate, if the scheduler has seen to that.
    settled: Option<GateState>,
    /// All gates were halted once: nothing may run from then on.
    halted: bool,
    /// A store of an older scheduler has landed, and no look at the gates has begun since.
    disturbed: bool,
    /// What may still happen.
    launches: u8,
    orders: u8,
    stale_store: bool,
    may_die: bool,
}

/// What a step leads to.
type Next<'a> = &'a mut dyn FnMut(&'static str, Result<State, Violation>);

impl State {
    /// The beginning: so many launches to come, and so many orders, besides a last one that opens.
    pub(crate) const fn new(launches: u8, orders: u8) -> Self {
        assert!(launches as usize <= LAUNCHES);
        State {
            memory: Memory {
                order: Open,
                published: 0,
                done: 0,
                built: 0,
                gates: [Open; GATES],
                void: [false; GATES],
                silent: false,
                launched: 0,
            },
            tenant: Tenant::Idle,
            tenant_buffer: Buffer::EMPTY,
            launch: 0,
            scheduler: Scheduler::Idle,
            scheduler_buffer: Buffer::EMPTY,
            walk: Walk::Idle,
            at: 0,
            running: [false; ATOMS],
            count: 0,
            ran: [[false; ATOMS]; LAUNCHES],
            settled: Some(Open),
            halted: false,
            disturbed: false,
            launches,
            orders,
            stale_store: false,
            may_die: false,
        }
    }

    /// And a store of an older scheduler, which lands at some time.
    pub(crate) const fn with_stale_store(mut self) -> Self {
        self.stale_store = true;
        self
    }

    /// And the tenant may die.
    pub(crate) const fn with_death(mut self) -> Self {
        self.may_die = true;
        self
    }

    /// Names every step that can be taken, and what it leads to.
    pub(crate) fn steps(&self, rules: Rules, next: Next<'_>) {
        self.tenant_steps(rules, next);
        self.scheduler_steps(rules, next);
        self.gpu_steps(rules, next);
        self.accidents(next);
    }

    /// What is wrong if nothing can happen any more.
    pub(crate) fn wrong_at_rest(&self) -> Option<Violation> {
        if self.memory.order == Halted {
            let round = matches!(self.walk, Walk::Before(_)).then_some(Violation::Restless);
            return round.or((self.count > 0).then_some(Violation::HalfCounted));
        }
        (self.memory.done != self.memory.launched || self.launches > 0).then_some(Violation::Lost)
    }

    fn tenant_steps(&self, rules: Rules, next: Next<'_>) {
        let mut after = *self;
        if let Some(store) = after.tenant_buffer.leave() {
            after.memory.take(store);
            next("a store of the tenant's leaves", Ok(after));
        }
        let mut after = *self;
        let seen = self.tenant_buffer.over(self.memory);
        match self.tenant {
            Tenant::Idle => {
                let free = seen.published == seen.done || !rules.reuse_when_done;
                if self.launches > 0 && free && self.tenant_buffer.is_empty() {
                    after.launches -= 1;
                    after.launch += 1;
                    after.tenant = Tenant::Building(seen.order);
                    next("the tenant begins a launch and reads the order", Ok(after));
                }
            }
            Tenant::Building(order) => {
                after.tenant_buffer.push(Store::Built(self.launch));
                after.store_gates(rules, order);
                if !rules.launch_last {
                    after.tenant_buffer.push(Store::Launched(self.launch));
                }
                after.tenant_buffer.push(Store::Published(self.launch));
                after.tenant = Tenant::Stored(order);
                next("the tenant builds and publishes", Ok(after));
            }
            Tenant::Stored(order) => {
                if self.tenant_buffer.is_empty() || !rules.publish_then_look {
                    after.tenant = Tenant::Looking(order);
                    next("the tenant fences", Ok(after));
                }
            }
            Tenant::Looking(order) => {
                after.tenant = Tenant::Launching;
                if seen.order != order {
                    if !self.tenant_buffer.is_empty() {
                        return;
                    }
                    after.store_gates(rules, seen.order);
                    if rules.look_again {
                        after.tenant = Tenant::Stored(seen.order);
                    }
                }
                next("the tenant looks at the order", Ok(after));
            }
            Tenant::Launching => {
                if rules.launch_last {
                    after.tenant_buffer.push(Store::Launched(self.launch));
                }
                after.tenant = Tenant::Idle;
                next("the tenant launches", Ok(after));
            }
            Tenant::Dead => {}
        }
    }

    fn store_gates(&mut self, rules: Rules, state: GateState) {
        self.tenant_buffer.silence(state);
        for gate in 0..GATES {
            // PANIC: there are few gates.
            let gate = u8::try_from(gate).expect("few gates");
            self.tenant_buffer.store(rules, gate, state);
        }
    }

    fn scheduler_steps(&self, rules: Rules, next: Next<'_>) {
        let mut after = *self;
        if let Some(store) = after.scheduler_buffer.leave() {
            after.memory.take(store);
            next("a store of the scheduler's leaves", Ok(after));
        }
        let mut after = *self;
        let seen = self.scheduler_buffer.over(self.memory);
        let order = seen.order;
        // A halt takes everything in, whatever the tenant said.
        let concerned = order == Halted || seen.published != seen.done;
        match self.scheduler {
            Scheduler::Idle => {
                for wanted in [Open, Shut, Halted] {
                    if self.may_order(rules, order, wanted) {
                        let mut after = *self;
                        after.orders = self.orders.saturating_sub(1);
                        after.settled = None;
                        after.scheduler_buffer.push(Store::Order(wanted));
                        after.scheduler = Scheduler::Ordered;
                        next("the scheduler stores an order", Ok(after));
                    }
                }
                let astray = seen.gates.iter().any(|&gate| gate != order);
                if rules.watch && concerned && astray && self.scheduler_buffer.is_empty() {
                    after.scheduler = Scheduler::Scanning;
                    next("the scheduler looks after the gates", Ok(after));
                }
            }
            Scheduler::Ordered => {
                if self.scheduler_buffer.is_empty() || !rules.order_then_scan {
                    after.scheduler = Scheduler::Scanning;
                    next("the scheduler fences", Ok(after));
                }
            }
            Scheduler::Scanning => {
                after.scheduler = Scheduler::Stored;
                if concerned {
                    after.scheduler = Scheduler::Storing(0);
                    after.scheduler_buffer.silence(order);
                    after.disturbed = false;
                }
                next("the scheduler looks what is published", Ok(after));
            }
            Scheduler::Storing(gate) if usize::from(gate) == GATES => {
                after.scheduler = Scheduler::Stored;
                next("the scheduler has been at every gate", Ok(after));
            }
            Scheduler::Storing(gate) => {
                if rules.one_store || order == Halted {
                    after.scheduler_buffer.store(rules, gate, order);
                    after.scheduler = Scheduler::Storing(gate + 1);
                } else {
                    after.scheduler_buffer.push(Store::Gate(gate, Halted));
                    after.scheduler = Scheduler::Halfway(gate);
                }
                next("the scheduler stores into a gate", Ok(after));
            }
            Scheduler::Halfway(gate) => {
                after.scheduler_buffer.push(Store::Gate(gate, order));
                after.scheduler = Scheduler::Storing(gate + 1);
                next("the scheduler stores the other half", Ok(after));
            }
            Scheduler::Stored => {
                if self.scheduler_buffer.is_empty() {
                    after.scheduler = Scheduler::Idle;
                    if !self.disturbed {
                        after.settled = Some(order);
                        after.halted |= order == Halted;
                    }
                    next("the scheduler has settled its order", Ok(after));
                }
            }
        }
    }

    /// Whether the scheduler, in the mood for it, may give an order now.
    fn may_order(&self, rules: Rules, now: GateState, wanted: GateState) -> bool {
        let died = self.tenant == Tenant::Dead;
        if now == wanted || !self.scheduler_buffer.is_empty() {
            return false;
        }
        match (now, wanted) {
            (Halted, _) => !rules.halt_last && self.orders > 0,
            // Of a death it learns when the dead one's stores have left.
            (_, Halted) => self.orders > 0 || died && self.tenant_buffer.is_empty(),
            (_, Shut) => self.orders > 0,
            (_, Open) => true,
        }
    }

    fn gpu_steps(&self, rules: Rules, next: Next<'_>) {
        let mut after = *self;
        match self.walk {
            Walk::Idle => {
                if self.memory.launched > self.at {
                    after.at += 1;
                    // PANIC: there are few atoms.
                    let atoms = u8::try_from(ATOMS).expect("few atoms");
                    after.count = if rules.count_all { atoms } else { atoms - 1 };
                    next("the GPU begins a launch", after.start(0));
                }
            }
            Walk::Before(atom) => {
                // A gate that is shut leads back to here.
                let gate = self.memory.gates[usize::from(atom) - 1];
                if gate != Shut {
                    after.walk = Walk::Read(atom, gate);
                    let held = self.halted || self.settled == Some(Shut);
                    let passes = gate == Open && !self.memory.void[usize::from(atom) - 1];
                    let result = if passes && held {
                        Err(Violation::Unheld)
                    } else {
                        Ok(after)
                    };
                    next("the GPU reads a gate", result);
                }
            }
            Walk::Read(atom, state) => {
                let result = if self.memory.built != self.at {
                    Err(Violation::OfAnotherLaunch)
                } else if self.memory.void[usize::from(atom) - 1] {
                    after.pass(atom);
                    after.count_down()
                } else if state == Open {
                    after.start(atom)
                } else {
                    after.walk = Walk::Ended;
                    Ok(after)
                };
                next("the GPU goes through a gate", result);
            }
            Walk::Ended => {}
        }
        for atom in (0..ATOMS).filter(|&atom| self.running[atom]) {
            next("an atom ends", self.end(atom));
        }
    }

    fn start(mut self, atom: u8) -> Result<Self, Violation> {
        let index = usize::from(atom);
        let ran = &mut self.ran[usize::from(self.at) - 1][index];
        if core::mem::replace(ran, true) {
            return Err(Violation::Repeated);
        }
        self.running[index] = true;
        self.pass(atom);
        Ok(self)
    }

    /// Goes on to the gate behind an atom.
    fn pass(&mut self, atom: u8) {
        self.walk = if usize::from(atom) + 1 < ATOMS {
            Walk::Before(atom + 1)
        } else {
            Walk::Ended
        };
    }

    fn end(mut self, atom: usize) -> Result<Self, Violation> {
        self.running[atom] = false;
        if self.memory.built != self.at {
            return Err(Violation::OfAnotherLaunch);
        }
        self.count_down()
    }

    fn count_down(mut self) -> Result<Self, Violation> {
        self.count -= 1;
        if self.count == 0 {
            // A launch that is never done may lack what it likes.
            let ran = self.ran[usize::from(self.at) - 1];
            let is_whole = ran == [true; ATOMS] || self.memory.silent;
            if !is_whole || self.running != [false; ATOMS] {
                return Err(Violation::Incomplete);
            }
            self.memory.done = self.at;
            self.walk = if self.memory.silent {
                Walk::Ended
            } else {
                Walk::Idle
            };
        }
        Ok(self)
    }

    fn accidents(&self, next: Next<'_>) {
        if self.stale_store {
            for gate in 0..GATES {
                for state in [Open, Shut] {
                    let mut after = *self;
                    after.stale_store = false;
                    after.settled = None;
                    after.halted = false;
                    after.disturbed = true;
                    after.memory.gates[gate] = state;
                    next("a store of an older scheduler lands", Ok(after));
                }
            }
        }
        if self.may_die && self.tenant != Tenant::Dead {
            let mut after = *self;
            after.tenant = Tenant::Dead;
            after.launches = 0;
            next("the tenant dies", Ok(after));
        }
    }
}
