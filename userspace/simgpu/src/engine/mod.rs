// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine: one thread that owns every simulated GPU, every client's streams, and the clock.
//!
//! The idea: two kinds of things happen, in the order of time. Requests arrive from clients and take
//! effect at once; the GPUs' agendas ([`gpu`]) hold what is to happen at a modelled time, and it
//! happens when the wall clock gets there. If the interpreter is too slow, modelled time lags behind
//! the clock; the lag is recorded, never hidden, and nothing is skipped.
//!
//! What a stream's head does when it begins is in `begin`; how a descriptor begins, and what follows from
//! its completion (releases, latch, the next operation of the stream, dependents), in [`launch`]; what a
//! fault does to its author and, as under MPS, to all others on that GPU in `fail_context`; how a client
//! ends in [`death`].
//!
//! Copies, fills and host functions take no modelled time.

mod chain;
mod client;
mod death;
mod gpu;
mod grid;
mod launch;
mod null;
mod requests;
mod space;
mod transfer;
mod usage;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::Pid;

use crate::board::Board;
use crate::config::Config;
use crate::page::StatusPage;
use crate::ptx::{self, Fault, Memory};
use crate::shared::SharedMemory;
use crate::wire::{GpuReport, Op, ProcessReport, Reply, Request};
use client::{Client, Running};
use gpu::{Failure, Gpu, GridId, Step};
use grid::Owner;

/// What a context fails with; numbers of CUDA.
mod error_code {
    /// A kernel used an address that is not mapped.
    pub(super) const ILLEGAL_ADDRESS: u32 = 700;
    /// A kernel's barrier or cluster was not possible.
    pub(super) const ILLEGAL_INSTRUCTION: u32 = 715;
    /// A kernel used an address that is no multiple of the access.
    pub(super) const MISALIGNED_ADDRESS: u32 = 716;
    /// A descriptor names code that is not there.
    pub(super) const INVALID_PC: u32 = 718;
    /// Anything else; also what every other client of the GPU gets.
    pub(super) const LAUNCH_FAILED: u32 = 719;
}

/// Messages that are taken in between two steps of the simulation.
const MESSAGES_PER_STEP: usize = 64;
/// Where replies to a client go.
pub trait Answer: Send + std::fmt::Debug {
    /// Sends a reply, or gives the client up.
    fn reply(&self, reply: &Reply);

    /// Ends the conversation.
    fn end(&self);
}

/// Something that happened to a client.
#[derive(Debug)]
pub enum Inbound {
    /// It has said hello.
    Joined {
        /// Its number.
        client: u64,
        /// Its process.
        pid: Pid,
        /// See [`Request::Hello`].
        priority: u8,
        /// Its status page.
        page: Option<StatusPage>,
        /// Where its replies go.
        answer: Box<dyn Answer>,
    },
    /// It wants something.
    Asked {
        /// Its number.
        client: u64,
        /// What it wants.
        request: Request,
        /// The memory that came along with `MapShared`.
        memory: Option<SharedMemory>,
        /// The text of `LoadModule`, parsed.
        module: Option<Result<ptx::Module, ptx::ParseError>>,
    },
    /// It has gone.
    Left {
        /// Its number.
        client: u64,
    },
    /// The server is to end.
    Stop,
}

/// What the simulation came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The state of every GPU at the end.
    pub gpus: Vec<GpuReport>,
}

impl Summary {
    /// Whether modelled time kept up with the clock.
    pub fn kept_up(&self) -> bool {
        !self.gpus.iter().any(|gpu| gpu.fell_behind)
    }
}

/// The wall clock, made monotonic: nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    start_ns: u64,
}

impl Clock {
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            start_ns: since_1970.map_or(0, nanoseconds),
        }
    }

    fn now_ns(&self) -> u64 {
        self.start_ns + nanoseconds(self.start.elapsed())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// What is first on this GPU's agenda.
    Gpu(usize),
    /// The memory of this client goes.
    Death(u64),
}

/// Owns the simulated GPUs. Runs on one thread, which makes it.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    clock: Clock,
    gpus: Vec<Gpu>,
    /// For each GPU the furthest that it has lagged behind.
    behind_ns: Vec<u64>,
    clients: BTreeMap<u64, Client>,
}

impl Engine {
    /// Makes the GPUs.
    pub fn new(config: Config) -> Self {
        let board = Board::new(&config.layout);
        let gpus: Vec<Gpu> = (0..config.gpus)
            .map(|_| Gpu::new(board.clone(), config.clock_khz))
            .collect();
        Self {
            clock: Clock::new(),
            behind_ns: vec![0; gpus.len()],
            gpus,
            clients: BTreeMap::new(),
            config,
        }
    }

    /// Runs until it is told to stop or nobody is left who could.
    pub fn run(mut self, inbox: &Receiver<Inbound>) -> Summary {
        loop {
            let wait = match self.next() {
                None => Duration::MAX,
                Some((at_ns, due)) => {
                    let now_ns = self.clock.now_ns();
                    match due {
                        _ if at_ns > now_ns => {}
                        Due::Gpu(gpu) => {
                            self.behind_ns[gpu] = self.behind_ns[gpu].max(now_ns - at_ns);
                            self.step(gpu);
                            self.forget_idle();
                        }
                        Due::Death(client) => self.bury(client),
                    }
                    Duration::from_nanos(at_ns.saturating_sub(now_ns))
                }
            };
            let first = match wait {
                Duration::ZERO => None,
                Duration::MAX => inbox.recv().ok().or(Some(Inbound::Stop)),
                wait => match inbox.recv_timeout(wait) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Inbound::Stop),
                },
            };
            let more = inbox.try_iter().take(MESSAGES_PER_STEP);
            for message in first.into_iter().chain(more) {
                if matches!(message, Inbound::Stop) {
                    return Summary {
                        gpus: self.report(),
                    };
                }
                self.handle(message);
            }
        }
    }

    /// The time as a GPU has it: the wall clock, or what its agenda has come to if that lags behind. A
    /// request arrives at this time, so that nothing on a GPU happens before its cause.
    fn gpu_now_ns(&mut self, gpu: usize) -> u64 {
        let now_ns = self.clock.now_ns();
        self.gpus[gpu]
            .next_ns()
            .map_or(now_ns, |at_ns| at_ns.min(now_ns))
    }

    /// The earliest moment at which something is to be done.
    fn next(&mut self) -> Option<(u64, Due)> {
        let death = self
            .next_death()
            .map(|(at_ns, client)| (at_ns, Due::Death(client)));
        self.gpus
            .iter_mut()
            .enumerate()
            .filter_map(|(index, gpu)| Some((gpu.next_ns()?, Due::Gpu(index))))
            .chain(death)
            .min()
    }

    fn handle(&mut self, message: Inbound) {
        match message {
            Inbound::Joined {
                client,
                pid,
                priority,
                page,
                answer,
            } => {
                let infos = (0..self.config.gpus).map(|i| self.config.gpu_info(i));
                answer.reply(&Reply::Gpus(infos.collect()));
                let joined = Client::new(pid, priority, page, answer);
                self.clients.insert(client, joined);
            }
            Inbound::Asked {
                client,
                request,
                memory,
                module,
            } => self.serve(client, request, memory, module),
            Inbound::Left { client } => {
                self.leave(client);
            }
            Inbound::Stop => {}
        }
    }

    /// Starts what has room after grids were taken off.
    fn dispatch_all(&mut self) {
        for index in 0..self.gpus.len() {
            let now_ns = self.gpu_now_ns(index);
            let failure = self.gpus[index].dispatch(now_ns);
            self.after_dispatch(index, failure);
        }
    }

    fn after_dispatch(&mut self, gpu: usize, failure: Option<(GridId, Failure)>) {
        if let Some((id, failure)) = failure {
            self.fail_grid(gpu, id, &failure);
        }
    }

    fn step(&mut self, gpu: usize) {
        match self.gpus[gpu].step() {
            Step::Quiet => {}
            Step::Complete(id) => self.complete_grid(gpu, id),
            Step::Due(scheduled) => self.start_scheduled(gpu, &scheduled),
            Step::Failed(id, failure) => self.fail_grid(gpu, id, &failure),
        }
    }

    /// Begins everything that may begin in a client's streams.
    fn pump(&mut self, client: u64) {
        loop {
            let ready = self.clients.get(&client).map(Client::ready);
            let Some(ready) = ready.filter(|ready| !ready.is_empty()) else {
                return;
            };
            for (stream, from_ns) in ready {
                self.begin(client, stream, from_ns);
            }
        }
    }

    /// Begins the head of a stream; what takes no time is complete when this returns.
    fn begin(&mut self, client_id: u64, stream_id: u32, from_ns: u64) {
        // An earlier stream of the same round may have failed the context.
        let Some(client) = self.clients.get_mut(&client_id) else {
            return;
        };
        let Some(stream) = client.streams.get_mut(&stream_id) else {
            return;
        };
        let context = stream.context;
        let Some(head) = stream.queue.front_mut() else {
            return;
        };
        // The operation is used up here; what remains in the queue only holds the place.
        let op = std::mem::replace(&mut head.op, Op::HostFunction);
        let Some(space) = client.contexts.get(&context).map(|c| c.space.clone()) else {
            return;
        };
        let result = match op {
            Op::Launch {
                descriptor,
                latch,
                priority,
            } => {
                stream.running = Some(Running::Latch(latch));
                let owner = Owner {
                    client: client_id,
                    context,
                    client_priority: client.priority,
                    stream_priority: priority.unwrap_or(stream.priority),
                    space,
                };
                return self.start_launch(owner, &descriptor, from_ns);
            }
            Op::HostFunction => {
                stream.running = Some(Running::HostFunction);
                if let Some(page) = &client.page {
                    page.set_host_function(stream_id as usize, stream.completed + 1);
                    page.notify();
                }
                return;
            }
            Op::Free { address } => {
                if let Some(entry) = client.contexts.get_mut(&context) {
                    entry.allocations.remove(&address);
                }
                space.free(address);
                Ok(())
            }
            Op::Record { event, record } => {
                client.events.insert(event, (record, from_ns));
                if let Some(page) = &client.page {
                    page.set_event(event as usize, record, from_ns);
                }
                Ok(())
            }
            Op::WaitEvent { .. } => Ok(()),
            Op::Write { address, bytes } => space.store(address, &bytes),
            Op::Fill {
                address,
                value,
                width,
                count,
            } => transfer::fill(&*space, address, value, width, count),
            Op::Copy { to, from, bytes } => transfer::copy(client, &space, to, from, bytes),
        };
        match result {
            Ok(()) => client.complete(stream_id, from_ns),
            Err(fault) => {
                let (error, what) = (fault_code(fault), fault.to_string());
                self.fail_context(client_id, context, error, &what);
            }
        }
    }

    fn fail_grid(&mut self, gpu: usize, id: GridId, failure: &Failure) {
        let Some(grid) = self.gpus[gpu].remove(id) else {
            return;
        };
        let error = match failure {
            Failure::Fault { fault, .. } => fault_code(*fault),
            Failure::Block { .. } => error_code::LAUNCH_FAILED,
            Failure::Chain(error) => error.code(),
        };
        self.fail_owner(&grid.owner, error, &failure.to_string());
    }

    fn fail_owner(&mut self, owner: &Owner, error: u32, what: &str) {
        self.fail_context(owner.client, owner.context, error, what);
    }

    /// Ends a context with an error of its own making, and every other context on the same GPU with
    /// it: under MPS they are one fault domain. Where a death harms nobody, work that failed because its
    /// process has ended is no error: it goes with the process.
    fn fail_context(&mut self, client: u64, context: u32, error: u32, what: &str) {
        let Some((pid, gpu, is_gone)) = self.clients.get(&client).and_then(|entry| {
            let context = entry.contexts.get(&context)?;
            Some((entry.pid, context.gpu, context.space.is_gone()))
        }) else {
            return;
        };
        if is_gone && self.config.death_ns.is_none() {
            return self.forget(client);
        }
        eprintln!("simgpu: GPU {gpu}: process {pid}: error {error}: {what}");
        let now_ns = self.gpu_now_ns(gpu as usize);
        self.gpus[gpu as usize].remove_where(|_| true, now_ns);
        for (&id, entry) in &mut self.clients {
            let theirs: Vec<u32> = entry
                .contexts
                .iter()
                .filter(|(_, other)| other.gpu == gpu)
                .map(|(&number, _)| number)
                .collect();
            for number in theirs {
                let culprit = id == client && number == context;
                let error = if culprit {
                    error
                } else {
                    error_code::LAUNCH_FAILED
                };
                entry.fail_context(number, error);
            }
        }
    }

    /// What the GPUs are doing.
    fn report(&mut self) -> Vec<GpuReport> {
        let now_ns = self.clock.now_ns();
        (0..self.config.gpus)
            .zip(&mut self.gpus)
            .zip(&self.behind_ns)
            .map(|((index, gpu), &behind_ns)| {
                let processes: Vec<ProcessReport> = self
                    .clients
                    .values()
                    .filter(|client| client.contexts.values().any(|c| c.gpu == index))
                    .map(|client| ProcessReport {
                        pid: client.pid.as_raw().cast_unsigned(),
                        memory_used_bytes: client
                            .spaces
                            .get(&index)
                            .map_or(0, |space| space.used_bytes()),
                    })
                    .collect();
                GpuReport {
                    info: self.config.gpu_info(index),
                    memory_used_bytes: processes.iter().map(|p| p.memory_used_bytes).sum(),
                    resident_blocks: gpu.resident_blocks(),
                    kernels_run: gpu.completed,
                    kernels_pending: gpu.grids_pending(),
                    utilization_percent: gpu.usage.percent(now_ns),
                    behind_ns,
                    fell_behind: behind_ns > self.config.tolerance_ns,
                    processes,
                }
            })
            .collect()
    }
}

fn fault_code(fault: Fault) -> u32 {
    match fault {
        Fault::IllegalAddress { .. } => error_code::ILLEGAL_ADDRESS,
        Fault::Misaligned { .. } => error_code::MISALIGNED_ADDRESS,
        Fault::IllegalBarrier { .. } => error_code::ILLEGAL_INSTRUCTION,
        Fault::Trap => error_code::LAUNCH_FAILED,
    }
}
