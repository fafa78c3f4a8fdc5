// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A GPU in the abstract: memory with descriptors, and what the hardware's scheduler makes of their
//! bytes. Whatever may happen next is one of several steps, and the test says which is taken.
//!
//! It knows of blocks only that they start in order and end in any. It faults (panics) where the
//! hardware does, or where a chain would be wrong: a descriptor that is scheduled while it is
//! active, a counter that is counted down below zero, a copy that has a counter or a latch.

use std::sync::atomic::Ordering::SeqCst;

use lithos_descriptor::Field;
use lithos_descriptor::hopper::{Action, Dependent, Descriptor, Kind, RELEASES, Words, fields};

use crate::arena::Arena;

/// Something that the GPU did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A unit (block or cluster) has started.
    Started([u32; 3]),
    /// A unit has ended.
    Ended([u32; 3]),
    /// A release was written: address, payload.
    Released(u64, u64),
    /// It arrived at a latch.
    Arrived(u32),
    /// A descriptor that is not in the arena was counted down.
    CountedDown(u64),
}

/// A grid that runs.
struct Running {
    address: u64,
    words: Words,
    next: Option<[u32; 3]>,
    units: Vec<[u32; 3]>,
}

/// The GPU, and what it has done so far.
pub(crate) struct Gpu<'m> {
    arena: &'m Arena,
    scheduled: Vec<u64>,
    running: Vec<Running>,
    /// What it did, in order.
    pub(crate) log: Vec<Event>,
}

impl<'m> Gpu<'m> {
    /// A GPU to which the driver gives a descriptor: it begins at the first unit.
    pub(crate) fn launch(arena: &'m Arena, descriptor: &Descriptor<Words>) -> Self {
        let mut gpu = Gpu {
            arena,
            scheduled: Vec::new(),
            running: Vec::new(),
            log: Vec::new(),
        };
        let mut descriptor = *descriptor;
        descriptor.set_resume([0; 3]).expect("zeros fit");
        gpu.start(0, *descriptor.words());
        gpu
    }

    /// Whether nothing runs and nothing is going to.
    pub(crate) fn is_idle(&self) -> bool {
        self.scheduled.is_empty() && self.running.is_empty()
    }

    /// Does one of the things that may happen next, if there is one.
    pub(crate) fn step(&mut self, choice: usize) {
        let mut choices = self.scheduled.len();
        for grid in &self.running {
            choices += usize::from(grid.next.is_some()) + grid.units.len();
        }
        if choices == 0 {
            return;
        }
        let mut choice = choice % choices;
        if choice < self.scheduled.len() {
            let address = self.scheduled.swap_remove(choice);
            let words = self.arena.words_at(address);
            return self.start(address, words.expect("a descriptor in the arena"));
        }
        choice -= self.scheduled.len();
        for index in 0..self.running.len() {
            let grid = &self.running[index];
            let mine = usize::from(grid.next.is_some()) + grid.units.len();
            if choice < mine {
                if choice < grid.units.len() {
                    self.end_unit(index, choice);
                } else {
                    self.start_unit(index);
                }
                return;
            }
            choice -= mine;
        }
    }

    /// Goes on, until nothing happens any more but that a gate goes round.
    pub(crate) fn settle(&mut self) {
        // Without units to start or end, two steps lead from gate to bounce and back.
        let mut alone = 0;
        while !self.is_idle() && alone < 4 {
            alone = if self.running.is_empty() {
                alone + 1
            } else {
                0
            };
            // Those that are scheduled come first, and a gate may be among them.
            let units = self.scheduled.len();
            self.step(if self.running.is_empty() { 0 } else { units });
        }
    }

    fn start(&mut self, address: u64, words: Words) {
        let descriptor = Descriptor::new(words).expect("version 4.0");
        assert_eq!(descriptor.awaited_latch(), None);
        assert_eq!(descriptor.unknown_bit(), None);
        match descriptor.kind() {
            Kind::Null => {
                assert_eq!(descriptor.get(fields::PRE_EXIT_AT_LAST_CTA_LAUNCH), 0);
                self.complete(&descriptor);
            }
            Kind::Grid | Kind::Clusters => {
                assert_eq!(descriptor.get(fields::DEPENDENCE_COUNTER), 0);
                assert_eq!(descriptor.get(fields::HW_ONLY_DEPENDENCE_COUNTER), 0);
                self.running.push(Running {
                    address,
                    words,
                    next: Some(descriptor.resume()),
                    units: Vec::new(),
                });
            }
            kind => panic!("a descriptor of kind {kind:?}"),
        }
    }

    /// Starts the next unit of a grid: `x` rises fastest.
    fn start_unit(&mut self, index: usize) {
        let grid = &mut self.running[index];
        let descriptor = Descriptor::new(grid.words).expect("version 4.0");
        let [width, height, depth] = descriptor.grid();
        let at = grid.next.expect("a unit that has not started");
        let [x, y, z] = at;
        assert!(
            x < width && y < height && z < depth,
            "{at:?} of {:?}",
            descriptor.grid()
        );
        grid.units.push(at);
        grid.next = if x + 1 < width {
            Some([x + 1, y, z])
        } else if y + 1 < height {
            Some([0, y + 1, z])
        } else {
            (z + 1 < depth).then_some([0, 0, z + 1])
        };
        let last = grid.next.is_none();
        self.log.push(Event::Started(at));
        if last && descriptor.get(fields::PRE_EXIT_AT_LAST_CTA_LAUNCH) == 1 {
            self.act(descriptor.dependent(0));
        }
    }

    fn end_unit(&mut self, index: usize, unit: usize) {
        let grid = &mut self.running[index];
        self.log.push(Event::Ended(grid.units.swap_remove(unit)));
        if grid.next.is_none() && grid.units.is_empty() {
            let grid = self.running.swap_remove(index);
            self.complete(&Descriptor::new(grid.words).expect("version 4.0"));
        }
    }

    fn complete(&mut self, descriptor: &Descriptor<Words>) {
        for slot in 0..RELEASES {
            if let Some(release) = descriptor.release(slot) {
                self.log
                    .push(Event::Released(release.address, release.payload));
            }
        }
        if let Some(latch) = descriptor.arrival_latch() {
            self.log.push(Event::Arrived(latch));
        }
        if descriptor.get(fields::PRE_EXIT_AT_LAST_CTA_LAUNCH) == 0 {
            self.act(descriptor.dependent(0));
        }
        self.act(descriptor.dependent(1));
    }

    fn act(&mut self, dependent: Option<Dependent>) {
        let Some(Dependent {
            address, action, ..
        }) = dependent
        else {
            return;
        };
        match action {
            Action::Schedule => self.schedule(address),
            Action::DecrementDependence => {
                let Some(pairs) = self.arena.at(address) else {
                    return self.log.push(Event::CountedDown(address));
                };
                let count = |field: Field| {
                    let (pair, shift) = (&pairs[field.lo() as usize / 64], field.lo() % 64);
                    let count = pair.load(SeqCst) >> shift & 0xffff;
                    assert_ne!(count, 0, "counted down below zero");
                    pair.fetch_sub(1 << shift, SeqCst);
                    count - 1
                };
                let left = count(fields::DEPENDENCE_COUNTER);
                assert_eq!(left, count(fields::HW_ONLY_DEPENDENCE_COUNTER));
                if left == 0 {
                    self.schedule(address);
                }
            }
            action => panic!("action {action:?}"),
        }
    }

    fn schedule(&mut self, address: u64) {
        let active = self.running.iter().any(|grid| grid.address == address);
        assert!(
            !active && !self.scheduled.contains(&address),
            "{address:#x} is active"
        );
        self.scheduled.push(address);
    }
}
