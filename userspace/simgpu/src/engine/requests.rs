// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What each request does: one method per kind, refusals said aloud.

use std::rc::Rc;
use std::sync::Arc;

use super::Engine;
use super::client::{Client, Context, HostMemory, LoadedModule, QueuedOp, Running, Stream};
use super::space::{AddressSpace, MapError};
use crate::page::{CONTEXTS_MAX, EVENTS_MAX, STREAMS_MAX};
use crate::ptx::{Memory, Module, ParseError, ParseErrorKind};
use crate::shared::SharedMemory;
use crate::wire::{KernelInfo, ModuleInfo, Op, Refusal, Reply, Request, WRITE_BYTES_MAX};

/// What a kernel's code takes on the GPU; only its first address means anything.
const PROGRAM_BYTES: u64 = 256;
/// Operations that a client may have outstanding in one stream, far above what the driver queues.
const QUEUE_MAX: usize = 1 << 16;

impl From<MapError> for Refusal {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Overlap => Refusal::Overlap,
            MapError::Exhausted => Refusal::Exhausted,
        }
    }
}

impl Engine {
    pub(super) fn serve(
        &mut self,
        client: u64,
        request: Request,
        memory: Option<SharedMemory>,
        module: Option<Result<Module, ParseError>>,
    ) {
        let answer = match request {
            Request::Hello { .. } => Err(Refusal::Version),
            Request::Report => Ok(Reply::Report(self.report())),
            Request::Probe { address } => self.probe(client, address),
            Request::OpenContext { context, gpu } => self.open_context(client, context, gpu),
            Request::CloseContext { context } => self.close_context(client, context),
            Request::Allocate { context, bytes } => self.allocate(client, context, bytes),
            Request::Free { context, address } => self.free(client, context, address),
            Request::MapShared { address, .. } => {
                let memory = memory.ok_or(Refusal::Unknown);
                memory.and_then(|memory| {
                    self.map_host(client, address, HostMemory::Shared(Arc::new(memory)))
                })
            }
            Request::MapRemote { address, bytes } => {
                self.map_host(client, address, HostMemory::Remote(bytes))
            }
            Request::Unmap { address } => self.unmap_host(client, address),
            Request::LoadModule {
                context,
                module: number,
                ..
            } => {
                let module = module.ok_or(Refusal::Unknown);
                module.and_then(|module| self.load_module(client, context, number, module))
            }
            Request::UnloadModule { module } => self.unload_module(client, module),
            // What follows is one-way.
            Request::OpenStream {
                stream,
                context,
                priority,
                kind,
                completed,
            } => {
                let opened = Stream::new(context, priority, kind, completed);
                return self.open_stream(client, stream, opened);
            }
            Request::CloseStream { stream } => return self.close_stream(client, stream),
            Request::Submit { stream, op } => return self.submit(client, stream, op),
            Request::HostFunctionDone { stream } => return self.host_done(client, stream),
        };
        if let Some(client) = self.clients.get(&client) {
            client.answer.reply(&answer.unwrap_or_else(Reply::Refused));
        }
    }

    fn client(&mut self, client: u64) -> Result<&mut Client, Refusal> {
        self.clients.get_mut(&client).ok_or(Refusal::Unknown)
    }

    /// A context that lives.
    fn context(&mut self, client: u64, context: u32) -> Result<&mut Context, Refusal> {
        let entry = self.client(client)?.contexts.get_mut(&context);
        let entry = entry.ok_or(Refusal::Unknown)?;
        if entry.failed {
            return Err(Refusal::Failed);
        }
        Ok(entry)
    }

    fn probe(&mut self, client: u64, address: u64) -> Result<Reply, Refusal> {
        let pid = self.client(client)?.pid;
        let space = AddressSpace::new(pid, 0);
        match space.read_client(address, &mut [0]) {
            Ok(()) => Ok(Reply::Done),
            Err(_) => {
                eprintln!(
                    "simgpu: the memory of process {pid} is out of reach: simulated GPUs need the \
                     right to trace the programs that use them (see kernel.yama.ptrace_scope)"
                );
                Err(Refusal::OutOfReach)
            }
        }
    }

    fn open_context(&mut self, client: u64, context: u32, gpu: u32) -> Result<Reply, Refusal> {
        if gpu >= self.config.gpus || context as usize >= CONTEXTS_MAX {
            return Err(Refusal::Unknown);
        }
        let entry = self.client(client)?;
        if entry.contexts.contains_key(&context) || entry.page.is_none() {
            return Err(Refusal::Unknown);
        }
        let space = match entry.spaces.get(&gpu) {
            Some(space) => space.clone(),
            None => {
                let space = Rc::new(AddressSpace::new(entry.pid, gpu));
                for (&address, memory) in &entry.host {
                    memory.map_into(&space, address)?;
                }
                entry.spaces.insert(gpu, space.clone());
                space
            }
        };
        let opened = Context {
            gpu,
            space,
            failed: false,
            allocations: std::collections::BTreeSet::new(),
        };
        entry.contexts.insert(context, opened);
        Ok(Reply::Done)
    }

    fn close_context(&mut self, client: u64, context: u32) -> Result<Reply, Refusal> {
        self.drop_work(|owner| owner.client == client && owner.context == context);
        let closed = self.client(client)?.close_context(context);
        self.dispatch_all();
        closed.then_some(Reply::Done).ok_or(Refusal::Unknown)
    }

    fn allocate(&mut self, client: u64, context: u32, bytes: u64) -> Result<Reply, Refusal> {
        let limit = self.config.memory_bytes;
        let gpu = self.context(client, context)?.gpu;
        let used: u64 = self
            .clients
            .values()
            .filter_map(|client| client.spaces.get(&gpu))
            .map(|space| space.used_bytes())
            .sum();
        let wanted = (bytes <= limit).then(|| AddressSpace::allocation_bytes(bytes));
        if wanted.is_none_or(|wanted| used + wanted > limit) {
            return Err(Refusal::Exhausted);
        }
        let context = self.context(client, context)?;
        let address = context.space.allocate(bytes)?;
        context.allocations.insert(address);
        Ok(Reply::Address(address))
    }

    fn free(&mut self, client: u64, context: u32, address: u64) -> Result<Reply, Refusal> {
        let context = self.context(client, context)?;
        let freed = context.allocations.remove(&address) && context.space.free(address);
        freed.then_some(Reply::Done).ok_or(Refusal::Unknown)
    }

    fn map_host(
        &mut self,
        client: u64,
        address: u64,
        memory: HostMemory,
    ) -> Result<Reply, Refusal> {
        let entry = self.client(client)?;
        let mut mapped = Vec::new();
        for space in entry.spaces.values() {
            if let Err(error) = memory.map_into(space, address) {
                for space in mapped {
                    AddressSpace::unmap(space, address);
                }
                return Err(error.into());
            }
            mapped.push(space);
        }
        entry.host.insert(address, memory);
        Ok(Reply::Done)
    }

    fn unmap_host(&mut self, client: u64, address: u64) -> Result<Reply, Refusal> {
        let entry = self.client(client)?;
        entry.host.remove(&address).ok_or(Refusal::Unknown)?;
        for space in entry.spaces.values() {
            space.unmap(address);
        }
        Ok(Reply::Done)
    }

    fn load_module(
        &mut self,
        client: u64,
        context: u32,
        number: u64,
        module: Result<Module, ParseError>,
    ) -> Result<Reply, Refusal> {
        let module = match module {
            Ok(module) => module,
            Err(error) => {
                return Ok(Reply::ModuleRefused {
                    unsupported: error.kind == ParseErrorKind::Unsupported,
                    message: error.to_string(),
                });
            }
        };
        let space = self.context(client, context)?.space.clone();
        let mut loaded = LoadedModule {
            context,
            allocations: Vec::new(),
            programs: Vec::new(),
        };
        let result = link(&module, &space, &mut loaded);
        if matches!(result, Ok(Reply::Module(_))) {
            self.client(client)?.modules.insert(number, loaded);
        } else {
            loaded.unload(&space);
        }
        result
    }

    fn unload_module(&mut self, client: u64, module: u64) -> Result<Reply, Refusal> {
        let entry = self.client(client)?;
        let module = entry.modules.remove(&module).ok_or(Refusal::Unknown)?;
        if let Some(context) = entry.contexts.get(&module.context) {
            module.unload(&context.space);
        }
        Ok(Reply::Done)
    }

    fn open_stream(&mut self, client: u64, stream: u32, opened: Stream) {
        if (stream as usize) < STREAMS_MAX
            && let Ok(entry) = self.client(client)
            && entry.contexts.contains_key(&opened.context)
        {
            entry.streams.insert(stream, opened);
        }
    }

    fn close_stream(&mut self, client: u64, stream: u32) {
        if let Ok(entry) = self.client(client)
            && let Some(open) = entry.streams.get_mut(&stream)
        {
            open.closing = true;
            if open.queue.is_empty() {
                entry.streams.remove(&stream);
            }
        }
    }

    /// The time on the GPU of a stream whose context lives.
    fn stream_now_ns(&mut self, client: u64, stream: u32) -> Option<u64> {
        let entry = self.clients.get(&client)?;
        let context = entry.streams.get(&stream)?.context;
        let context = entry.contexts.get(&context).filter(|c| !c.failed)?;
        let gpu = context.gpu as usize;
        Some(self.gpu_now_ns(gpu))
    }

    fn submit(&mut self, client: u64, stream: u32, op: Op) {
        let Some(arrival_ns) = self.stream_now_ns(client, stream) else {
            return;
        };
        let Ok(entry) = self.client(client) else {
            return;
        };
        let Some(target) = entry.streams.get_mut(&stream) else {
            return;
        };
        if !is_possible(&op) || target.queue.len() >= QUEUE_MAX {
            return;
        }
        entry.tickets += 1;
        target.queue.push_back(QueuedOp {
            op,
            ticket: entry.tickets,
            arrival_ns,
        });
        self.pump(client);
    }

    fn host_done(&mut self, client: u64, stream: u32) {
        let Some(now_ns) = self.stream_now_ns(client, stream) else {
            return;
        };
        if let Ok(entry) = self.client(client)
            && let Some(waiting) = entry.streams.get(&stream)
            && waiting.running == Some(Running::HostFunction)
        {
            entry.complete(stream, now_ns);
            self.pump(client);
        }
    }
}

/// Whether the numbers in an operation are inside their bounds.
fn is_possible(op: &Op) -> bool {
    match op {
        Op::Record { event, .. } | Op::WaitEvent { event, .. } => (*event as usize) < EVENTS_MAX,
        Op::Fill { width, count, .. } => {
            matches!(width, 1 | 2 | 4) && count.checked_mul(4).is_some()
        }
        Op::Write { bytes, .. } => bytes.len() <= WRITE_BYTES_MAX,
        _ => true,
    }
}

impl HostMemory {
    fn map_into(&self, space: &AddressSpace, address: u64) -> Result<(), MapError> {
        match self {
            Self::Shared(memory) => space.map_shared(address, memory.clone()),
            Self::Remote(bytes) => space.map_remote(address, *bytes),
        }
    }
}

/// Puts a module's variables and kernels at addresses.
fn link(
    module: &Module,
    space: &AddressSpace,
    loaded: &mut LoadedModule,
) -> Result<Reply, Refusal> {
    let mut allocate = |bytes: u64| {
        let address = space.allocate(bytes)?;
        loaded.allocations.push(address);
        Ok::<u64, Refusal>(address)
    };
    let mut variables = Vec::new();
    for variable in module.variables() {
        let address = allocate(variable.bytes)?;
        variables.push((variable.name.clone(), address, variable.bytes));
    }
    let code = allocate(PROGRAM_BYTES * module.kernels().len() as u64)?;
    let find = |name: &str| {
        let found = variables.iter().find(|(other, ..)| other == name);
        found.map(|&(_, address, _)| address)
    };
    let image = match module.link(find) {
        Ok(image) => image,
        Err(error) => {
            return Ok(Reply::ModuleRefused {
                unsupported: false,
                message: error.to_string(),
            });
        }
    };
    for (address, bytes) in &image.contents {
        space
            .store(*address, bytes)
            .map_err(|_| Refusal::Exhausted)?;
    }
    let mut kernels = Vec::new();
    for (index, kernel) in (0..).zip(module.kernels()) {
        let address = code + PROGRAM_BYTES * index;
        if let Some(linked) = image.kernels.get(&kernel.name) {
            space.add_program(address, linked.clone());
            loaded.programs.push(address);
            kernels.push(KernelInfo::new(linked, address));
        }
    }
    Ok(Reply::Module(ModuleInfo { kernels, variables }))
}
