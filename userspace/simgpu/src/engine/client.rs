// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the engine remembers of one client: contexts, streams, events, modules.
//!
//! The idea: a stream is a queue whose head is the only operation that may run, and an operation's
//! *ticket* says when it was submitted in relation to the other streams of its context. From the two
//! follow all of CUDA's ordering rules: the legacy stream's head waits while a blocking stream has an
//! older ticket, a blocking stream's head while the legacy stream has.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use nix::unistd::Pid;

use super::Answer;
use super::space::AddressSpace;
use crate::page::StatusPage;
use crate::shared::SharedMemory;
use crate::wire::{Op, StreamKind};

/// A client: one connection of one process.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) pid: Pid,
    /// 0, or 1 for a client whose work comes after that of others.
    pub(super) priority: u8,
    /// Missing for a client that only looks.
    pub(super) page: Option<StatusPage>,
    pub(super) answer: Box<dyn Answer>,
    pub(super) contexts: BTreeMap<u32, Context>,
    pub(super) streams: BTreeMap<u32, Stream>,
    /// Its memory on each GPU on which it has had a context.
    pub(super) spaces: BTreeMap<u32, Rc<AddressSpace>>,
    pub(super) modules: HashMap<u64, LoadedModule>,
    /// Host memory that every GPU sees, by address.
    pub(super) host: BTreeMap<u64, HostMemory>,
    /// For every event how many of its records are complete, and the GPU's time at the last.
    pub(super) events: HashMap<u32, (u64, u64)>,
    /// The next ticket.
    pub(super) tickets: u64,
    /// When its memory goes, if it has ended.
    pub(super) gone_ns: Option<u64>,
}

/// Host memory that every GPU of a client sees.
#[derive(Clone, Debug)]
pub(super) enum HostMemory {
    /// A memfd that both map.
    Shared(Arc<SharedMemory>),
    /// So many bytes of the client's own.
    Remote(u64),
}

/// A context.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) gpu: u32,
    pub(super) space: Rc<AddressSpace>,
    /// Whether something has ended it.
    pub(super) failed: bool,
    /// Its device memory: given back when it ends.
    pub(super) allocations: std::collections::BTreeSet<u64>,
}

/// A loaded module.
#[derive(Debug)]
pub(super) struct LoadedModule {
    pub(super) context: u32,
    /// Device memory of code and variables.
    pub(super) allocations: Vec<u64>,
    /// Where its kernels begin.
    pub(super) programs: Vec<u64>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) context: u32,
    pub(super) priority: i32,
    pub(super) kind: StreamKind,
    pub(super) queue: VecDeque<QueuedOp>,
    /// What the head is waiting for once it has begun.
    pub(super) running: Option<Running>,
    /// Operations that are complete.
    pub(super) completed: u64,
    /// The GPU's time at which the last one was.
    pub(super) completed_ns: u64,
    /// To be forgotten when the queue is empty.
    pub(super) closing: bool,
}

/// An operation that is not complete.
#[derive(Debug)]
pub(super) struct QueuedOp {
    pub(super) op: Op,
    pub(super) ticket: u64,
    /// When it was submitted.
    pub(super) arrival_ns: u64,
}

/// What completes the head of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// An arrival at this latch.
    Latch(u32),
    /// The client's word that its function returned.
    HostFunction,
}

impl Stream {
    pub(super) fn new(context: u32, priority: i32, kind: StreamKind, completed: u64) -> Self {
        Self {
            context,
            priority,
            kind,
            queue: VecDeque::new(),
            running: None,
            completed,
            completed_ns: 0,
            closing: false,
        }
    }

    fn oldest_ticket(&self) -> u64 {
        self.queue.front().map_or(u64::MAX, |op| op.ticket)
    }
}

impl Client {
    pub(super) fn new(
        pid: Pid,
        priority: u8,
        page: Option<StatusPage>,
        answer: Box<dyn Answer>,
    ) -> Self {
        Self {
            pid,
            priority,
            page,
            answer,
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            spaces: BTreeMap::new(),
            modules: HashMap::new(),
            host: BTreeMap::new(),
            events: HashMap::new(),
            tickets: 0,
            gone_ns: None,
        }
    }

    /// The streams whose head may begin now, with the GPU's time from which on it may.
    pub(super) fn ready(&self) -> Vec<(u32, u64)> {
        self.streams
            .iter()
            .filter(|(_, stream)| stream.running.is_none())
            .filter_map(|(&id, stream)| {
                let head = stream.queue.front()?;
                let mut from_ns = head.arrival_ns.max(stream.completed_ns);
                if let Op::WaitEvent { event, record } = head.op {
                    let &(records, at_ns) = self.events.get(&event)?;
                    if records < record {
                        return None;
                    }
                    from_ns = from_ns.max(at_ns);
                }
                // None of thousands of streams that wait for nobody looks at all others.
                let joined = match stream.kind {
                    StreamKind::Legacy => Some(StreamKind::Blocking),
                    StreamKind::Blocking => Some(StreamKind::Legacy),
                    StreamKind::NonBlocking => None,
                };
                for other in self.streams.values().filter(|_| joined.is_some()) {
                    if other.context == stream.context && Some(other.kind) == joined {
                        if other.oldest_ticket() < head.ticket {
                            return None;
                        }
                        from_ns = from_ns.max(other.completed_ns);
                    }
                }
                Some((id, from_ns))
            })
            .collect()
    }

    /// Counts the head of a stream as complete and tells the client.
    pub(super) fn complete(&mut self, stream: u32, at_ns: u64) {
        let Some(entry) = self.streams.get_mut(&stream) else {
            return;
        };
        entry.queue.pop_front();
        entry.running = None;
        entry.completed += 1;
        entry.completed_ns = entry.completed_ns.max(at_ns);
        if let Some(page) = &self.page {
            page.set_completed(stream as usize, entry.completed);
            page.notify();
        }
        if entry.closing && entry.queue.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// The stream whose head is completed by `what`.
    pub(super) fn stream_running(&self, context: u32, what: Running) -> Option<u32> {
        self.streams
            .iter()
            .find(|(_, s)| s.context == context && s.running == Some(what))
            .map(|(&id, _)| id)
    }

    /// Drops all work of a context and marks it with an error for the client to see.
    pub(super) fn fail_context(&mut self, context: u32, error: u32) {
        for stream in self.streams.values_mut() {
            if stream.context == context {
                stream.queue.clear();
                stream.running = None;
            }
        }
        if let Some(entry) = self.contexts.get_mut(&context) {
            entry.failed = true;
        }
        if let Some(page) = &self.page {
            if page.error(context as usize) == 0 {
                page.set_error(context as usize, error);
            }
            page.notify();
        }
    }

    /// Forgets a context and everything in it.
    pub(super) fn close_context(&mut self, context: u32) -> bool {
        let Some(closed) = self.contexts.remove(&context) else {
            return false;
        };
        self.streams.retain(|_, stream| stream.context != context);
        self.modules.retain(|_, module| {
            if module.context == context {
                module.unload(&closed.space);
            }
            module.context != context
        });
        for address in closed.allocations {
            closed.space.free(address);
        }
        if let Some(page) = &self.page {
            page.set_error(context as usize, 0);
        }
        true
    }
}

impl LoadedModule {
    /// Gives back what the module has on the GPU.
    pub(super) fn unload(&self, space: &AddressSpace) {
        for &program in &self.programs {
            space.remove_program(program);
        }
        for &address in &self.allocations {
            space.free(address);
        }
    }
}
