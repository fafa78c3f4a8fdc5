// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One simulated GPU: its SMs, the grids on it, and the blocks that are resident.
//!
//! The idea: an agenda of moments. Every resident block has one entry, the modelled time up to which
//! it has run; [`Gpu::step`] takes the earliest and runs that block for a small slice, so that blocks
//! that wait for one another take turns, and no block runs ahead of the wall clock by more than a
//! slice. A block that has finished leaves its SM when the clock reaches its modelled end.
//!
//! What other descriptors have scheduled ([`chain`](super::chain)) has an entry, too, for the time at
//! which it begins.
//!
//! Blocks are started for grids in the order of client priority, stream priority and arrival. A grid
//! whose next block finds no room *claims* the SMs that it may use: later grids do not overtake it
//! there (NVIDIA calls the policy "leftover"). A grid that could not even run on an empty GPU, because
//! its mask leaves no TPC, none with room for its clusters, or too few for a cooperative grid, hangs
//! and claims nothing.
//!
//! Units: nanoseconds of the wall clock, modelled cycles inside the interpreter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::chain::{ChainError, Scheduled};
use super::grid::{Grid, Needs, Owner, Shape};
use super::usage::Usage;
use crate::board::{Board, SM_BLOCKS, SM_REGISTERS, SM_SHARED_BYTES, SM_WARPS, SMS_PER_TPC};
use crate::ptx::{Block, BlockError, Fault, Outcome};

/// How far a block runs at a time.
const SLICE_NS: u64 = 50_000;
/// The least and the most cycles of a slice.
const SLICE_CYCLES: (u64, u64) = (16, 1000);

/// The order in which grids start blocks: client priority, stream priority, arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GridId {
    pub(super) client_priority: u8,
    pub(super) stream_priority: i32,
    pub(super) number: u64,
}

impl GridId {
    pub(super) fn new(owner: &Owner, number: u64) -> Self {
        Self {
            client_priority: owner.client_priority,
            stream_priority: owner.stream_priority,
            number,
        }
    }
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing that others must know.
    Quiet,
    /// A grid is complete.
    Complete(GridId),
    /// The time has come for a descriptor that was scheduled.
    Due(Scheduled),
    /// A grid has failed.
    Failed(GridId, Failure),
}

/// Why a grid failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The program did something that is not possible.
    #[error("kernel {kernel}, line {line} of its PTX: {fault}")]
    Fault {
        kernel: String,
        line: u32,
        fault: Fault,
    },
    /// The block could not be set up.
    #[error("kernel {kernel}: {error}")]
    Block {
        kernel: String,
        #[source]
        error: BlockError,
    },
    /// What it was to schedule when its last block had started could not be.
    #[error(transparent)]
    Chain(ChainError),
}

/// What is free on an SM.
#[derive(Clone, Copy, Debug)]
struct Sm {
    blocks: u32,
    warps: u32,
    registers: u32,
    shared_bytes: u32,
    gpc: u32,
}

impl Sm {
    fn empty(gpc: u32) -> Self {
        Self {
            blocks: SM_BLOCKS,
            warps: SM_WARPS,
            registers: SM_REGISTERS,
            shared_bytes: SM_SHARED_BYTES,
            gpc,
        }
    }

    fn fits(&self, needs: Needs) -> bool {
        self.blocks > 0
            && self.warps >= needs.warps
            && self.registers >= needs.registers
            && self.shared_bytes >= needs.shared_bytes
    }

    fn take(&mut self, needs: Needs) {
        self.blocks -= 1;
        self.warps -= needs.warps;
        self.registers -= needs.registers;
        self.shared_bytes -= needs.shared_bytes;
    }

    fn give(&mut self, needs: Needs) {
        self.blocks += 1;
        self.warps += needs.warps;
        self.registers += needs.registers;
        self.shared_bytes += needs.shared_bytes;
    }
}

/// A block on an SM.
#[derive(Debug)]
struct Resident {
    block: Block,
    grid: GridId,
    sm: usize,
    needs: Needs,
    cluster: Option<u64>,
    /// The modelled time up to which it has run.
    at_ns: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Waits for the other blocks of its cluster.
    Barrier,
    /// Will never go on, and holds its SM for ever.
    Hung,
    /// Has finished, and leaves when the clock reaches its end.
    Finished,
}

/// The resident blocks of a cluster.
#[derive(Debug, Default)]
struct Cluster {
    blocks: Vec<u64>,
    /// Barriers that have been passed.
    released: u64,
}

/// One simulated GPU.
#[derive(Debug)]
pub(super) struct Gpu {
    board: Board,
    clock_khz: u64,
    sms: Vec<Sm>,
    pub(super) grids: BTreeMap<GridId, Grid>,
    /// Descriptors that others have scheduled and that have not begun.
    pub(super) scheduled: HashMap<u64, Scheduled>,
    /// What is left of the counters that clients have begun to count down, by address.
    pub(super) half_counted: HashMap<(u64, u64), u16>,
    /// The same of clients that are gone.
    pub(super) remembered: HashMap<u64, u16>,
    residents: HashMap<u64, Resident>,
    clusters: HashMap<u64, Cluster>,
    /// When each running or finished block is next looked at, and when each scheduled descriptor
    /// begins. Entries of what has gone are skipped.
    pub(super) agenda: BinaryHeap<Reverse<(u64, u64)>>,
    numbers: u64,
    pub(super) usage: Usage,
    /// Descriptors that have run something and completed.
    pub(super) completed: u64,
}

impl Gpu {
    pub(super) fn new(board: Board, clock_khz: u64) -> Self {
        let sms = board
            .tpcs()
            .iter()
            .flat_map(|tpc| (0..SMS_PER_TPC).map(|_| Sm::empty(tpc.gpc)))
            .collect();
        Self {
            board,
            clock_khz,
            sms,
            grids: BTreeMap::new(),
            scheduled: HashMap::new(),
            half_counted: HashMap::new(),
            remembered: HashMap::new(),
            residents: HashMap::new(),
            clusters: HashMap::new(),
            agenda: BinaryHeap::new(),
            numbers: 0,
            usage: Usage::default(),
            completed: 0,
        }
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    pub(super) fn resident_blocks(&self) -> u64 {
        self.residents.len() as u64
    }

    pub(super) fn grids_pending(&self) -> u64 {
        (self.grids.len() + self.scheduled.len()) as u64
    }

    /// Whose work it is that a client has on this GPU, if it has any.
    pub(super) fn work_of(&self, client: u64) -> Option<&Owner> {
        let grids = self.grids.values().map(|grid| &grid.owner);
        let scheduled = self.scheduled.values().map(|scheduled| &scheduled.owner);
        grids.chain(scheduled).find(|owner| owner.client == client)
    }

    /// The next number for a grid, block, cluster or scheduled descriptor.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// When something is next to be done.
    pub(super) fn next_ns(&mut self) -> Option<u64> {
        while let Some(&Reverse((at_ns, id))) = self.agenda.peek() {
            let block = self.residents.get(&id).is_some_and(|r| r.at_ns == at_ns);
            if block || self.scheduled.contains_key(&id) {
                return Some(at_ns);
            }
            self.agenda.pop();
        }
        None
    }

    /// Takes a grid in and starts what has room.
    pub(super) fn add(&mut self, id: GridId, mut grid: Grid) -> Option<(GridId, Failure)> {
        let at_ns = grid.from_ns;
        if let Some(shape) = &mut grid.shape {
            let empty = self.sms.iter().map(|sm| Sm::empty(sm.gpc)).collect();
            let claimed = vec![false; self.sms.len()];
            shape.possible = self.has_room(shape, empty, &claimed);
        }
        self.grids.insert(id, grid);
        self.dispatch(at_ns)
    }

    /// Takes a grid out; its blocks vanish.
    pub(super) fn remove(&mut self, id: GridId) -> Option<Grid> {
        let grid = self.grids.remove(&id)?;
        let gone: Vec<u64> = self
            .residents
            .iter()
            .filter(|(_, resident)| resident.grid == id)
            .map(|(&number, _)| number)
            .collect();
        for number in gone {
            self.leave(number, grid.end_ns);
        }
        Some(grid)
    }

    /// Takes everything out that belongs to somebody.
    pub(super) fn remove_where(&mut self, theirs: impl Fn(&Owner) -> bool, now_ns: u64) {
        self.scheduled
            .retain(|_, scheduled| !theirs(&scheduled.owner));
        let ids: Vec<GridId> = self
            .grids
            .iter()
            .filter(|(_, grid)| theirs(&grid.owner))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.remove(id);
        }
        self.usage.set_busy(!self.residents.is_empty(), now_ns);
    }

    /// Starts blocks wherever there is room.
    pub(super) fn dispatch(&mut self, at_ns: u64) -> Option<(GridId, Failure)> {
        let mut claimed = vec![false; self.sms.len()];
        let waiting: Vec<GridId> = self
            .grids
            .iter()
            .filter(|(_, grid)| {
                grid.shape
                    .as_ref()
                    .is_some_and(|shape| shape.possible && shape.next.is_some())
            })
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            let mut room = None;
            // PANIC: the ids were collected just above, and only whole grids are removed.
            while let Some(shape) = &self.grids[&id].shape
                && shape.next.is_some()
                && *room.get_or_insert_with(|| {
                    shape.clusters_at_once() == 1
                        || self.has_room(shape, self.sms.clone(), &claimed)
                })
                && let Some(places) = self.places(shape, &self.sms, &claimed)
            {
                if let Err(failure) = self.start(id, &places, at_ns) {
                    return Some((id, failure));
                }
            }
            let shape = self.grids[&id].shape.as_ref();
            if let Some(shape) = shape.filter(|shape| shape.next.is_some()) {
                for &sm in &shape.sms {
                    claimed[sm as usize] = true;
                }
                if claimed.iter().all(|&taken| taken) {
                    break;
                }
            }
        }
        None
    }

    /// Whether everything that a grid must start at once has room, given what is free.
    fn has_room(&self, shape: &Shape, mut free: Vec<Sm>, claimed: &[bool]) -> bool {
        (0..shape.clusters_at_once()).all(|_| {
            let Some(places) = self.places(shape, &free, claimed) else {
                return false;
            };
            for index in places {
                free[shape.sms[index] as usize].take(shape.needs);
            }
            true
        })
    }

    /// The SMs for the next cluster of a grid, as indices into the grid's own list, if it has room
    /// given what is free. A whole cluster must fit inside one GPC, each of its blocks on an SM of its own.
    fn places(&self, shape: &Shape, free: &[Sm], claimed: &[bool]) -> Option<Vec<usize>> {
        let usable = shape
            .sms
            .iter()
            .enumerate()
            .filter(|&(_, &sm)| !claimed[sm as usize])
            .map(|(index, &sm)| (index, free[sm as usize]))
            .filter(|(_, sm)| sm.fits(shape.needs));
        if !shape.has_clusters() {
            return usable
                .max_by_key(|&(index, sm)| (sm.warps, Reverse(index)))
                .map(|(index, _)| vec![index]);
        }
        (0..self.board.gpcs()).find_map(|gpc| {
            let mut sms: Vec<(usize, Sm)> =
                usable.clone().filter(|(_, sm)| sm.gpc == gpc).collect();
            (0..shape.cluster_blocks())
                .map(|_| {
                    let emptiest = sms.iter().enumerate();
                    let (at, &(index, _)) =
                        emptiest.max_by_key(|(_, (index, sm))| (sm.warps, Reverse(*index)))?;
                    sms.swap_remove(at);
                    Some(index)
                })
                .collect()
        })
    }

    fn start(&mut self, id: GridId, places: &[usize], at_ns: u64) -> Result<(), Failure> {
        // PANIC: the caller found the grid, and a grid without shape has no places.
        let grid = self.grids.get_mut(&id).expect("the grid");
        let at_ns = at_ns.max(grid.from_ns);
        let shape = grid.shape.as_mut().expect("a grid with blocks");
        let environments = shape.start_next(places);
        let needs = shape.needs;
        let kernel = shape.kernel.clone();
        let sms: Vec<usize> = places.iter().map(|&i| shape.sms[i] as usize).collect();
        grid.resident += u32::try_from(sms.len()).unwrap_or(u32::MAX);
        let has_all_started = shape.next.is_none();
        let cluster = shape.has_clusters().then(|| self.number());
        for (environment, sm) in environments.into_iter().zip(sms) {
            let block =
                Block::new(kernel.clone(), environment).map_err(|error| Failure::Block {
                    kernel: kernel.name.clone(),
                    error,
                })?;
            let number = self.number();
            self.sms[sm].take(needs);
            if let Some(cluster) = cluster {
                self.clusters
                    .entry(cluster)
                    .or_default()
                    .blocks
                    .push(number);
            }
            let resident = Resident {
                block,
                grid: id,
                sm,
                needs,
                cluster,
                at_ns,
                state: State::Running,
            };
            self.residents.insert(number, resident);
            self.agenda.push(Reverse((at_ns, number)));
        }
        self.usage.set_busy(true, at_ns);
        if has_all_started {
            self.pre_exit(id, at_ns).map_err(Failure::Chain)?;
        }
        Ok(())
    }

    /// Takes a block off its SM.
    fn leave(&mut self, number: u64, at_ns: u64) -> Option<GridId> {
        let resident = self.residents.remove(&number)?;
        self.sms[resident.sm].give(resident.needs);
        if let Some(id) = resident.cluster
            && let Some(cluster) = self.clusters.get_mut(&id)
        {
            cluster.blocks.retain(|&block| block != number);
            if cluster.blocks.is_empty() {
                self.clusters.remove(&id);
            }
        }
        if self.residents.is_empty() {
            self.usage.set_busy(false, at_ns);
        }
        Some(resident.grid)
    }

    /// Does the next thing on the agenda. The caller has made sure that its time has come.
    pub(super) fn step(&mut self) -> Step {
        if self.next_ns().is_none() {
            return Step::Quiet;
        }
        let Some(Reverse((at_ns, number))) = self.agenda.pop() else {
            return Step::Quiet;
        };
        if let Some(scheduled) = self.scheduled.remove(&number) {
            return Step::Due(scheduled);
        }
        if self.residents[&number].state == State::Finished {
            return self.finish(number, at_ns);
        }
        self.run_slice(number)
    }

    fn finish(&mut self, number: u64, at_ns: u64) -> Step {
        let Some(id) = self.leave(number, at_ns) else {
            return Step::Quiet;
        };
        // PANIC: a grid is removed together with its blocks.
        let grid = self.grids.get_mut(&id).expect("the block's grid");
        grid.resident -= 1;
        grid.end_ns = grid.end_ns.max(at_ns);
        if grid.is_complete() {
            return Step::Complete(id);
        }
        match self.dispatch(at_ns) {
            Some((id, failure)) => Step::Failed(id, failure),
            None => Step::Quiet,
        }
    }

    fn run_slice(&mut self, number: u64) -> Step {
        // PANIC: `next_ns` has just found the block, and a grid is removed together with its blocks.
        let resident = self.residents.get_mut(&number).expect("a resident block");
        let grid = &self.grids[&resident.grid];
        let (least, most) = SLICE_CYCLES;
        let budget = (self.clock_khz * SLICE_NS / 1_000_000).clamp(least, most);
        let turn = resident
            .block
            .run(&*grid.owner.space, resident.at_ns, self.clock_khz, budget);
        resident.at_ns = turn.end_ns.max(resident.at_ns);
        resident.state = match turn.outcome {
            Outcome::Yielded => State::Running,
            Outcome::WaitingAtClusterBarrier => State::Barrier,
            Outcome::Hung => State::Hung,
            Outcome::Finished => State::Finished,
            Outcome::Faulted { fault, line } => {
                let kernel = grid.shape.as_ref().map(|shape| shape.kernel.name.clone());
                let failure = Failure::Fault {
                    kernel: kernel.unwrap_or_default(),
                    line,
                    fault,
                };
                return Step::Failed(resident.grid, failure);
            }
        };
        if matches!(resident.state, State::Running | State::Finished) {
            self.agenda.push(Reverse((resident.at_ns, number)));
        }
        if let Some(cluster) = resident.cluster {
            self.pass_barrier(cluster);
        }
        Step::Quiet
    }

    /// Lets the blocks of a cluster go on when all of them have come to its next barrier. Blocks that
    /// have finished wait for nobody and are waited for by nobody.
    fn pass_barrier(&mut self, id: u64) {
        let Some(cluster) = self.clusters.get_mut(&id) else {
            return;
        };
        let blocks = || {
            cluster
                .blocks
                .iter()
                .map(|number| (number, &self.residents[number]))
                .filter(|(_, resident)| resident.state != State::Finished)
        };
        let arrivals = blocks()
            .map(|(_, resident)| resident.block.cluster_arrivals())
            .min();
        let Some(arrivals) = arrivals.filter(|&count| count > cluster.released) else {
            return;
        };
        let at_ns = blocks()
            .map(|(_, resident)| resident.at_ns)
            .max()
            .unwrap_or(0);
        cluster.released = arrivals;
        for number in cluster.blocks.clone() {
            // PANIC: a cluster lists resident blocks only.
            let resident = self.residents.get_mut(&number).expect("a resident block");
            if resident.state == State::Finished {
                continue;
            }
            resident.block.release_cluster(arrivals, at_ns);
            if resident.state == State::Barrier {
                resident.state = State::Running;
                resident.at_ns = at_ns;
                self.agenda.push(Reverse((at_ns, number)));
            }
        }
    }
}
