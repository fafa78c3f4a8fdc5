// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a descriptor begins, and what its completion does.
//!
//! The driver brings one from a stream, which goes on when some descriptor arrives at the latch that the
//! driver chose: the same one, or the last of a chain. All others are in memory and were scheduled by
//! descriptors before them ([`chain`](super::chain)).

use super::chain::Scheduled;
use super::client::Running;
use super::gpu::GridId;
use super::grid::{Grid, GridError, Owner, Shape};
use super::{Engine, error_code, fault_code};
use crate::descriptor::{Descriptor, DescriptorError};
use crate::ptx::Memory;

/// Where a descriptor comes from, and when.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// Where it lies; `None` if the driver brought it.
    address: Option<u64>,
    /// Whether it begins at the first block, whatever its RESUME says.
    restarts: bool,
    from_ns: u64,
    /// See [`Scheduled`].
    idle_since_ns: Option<u64>,
}

/// Why a descriptor cannot begin.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error(transparent)]
    Grid(#[from] GridError),
}

impl LaunchError {
    /// What a context fails with.
    fn code(&self) -> u32 {
        match self {
            Self::Grid(GridError::Program(_)) => error_code::INVALID_PC,
            Self::Grid(GridError::Bank(_)) => error_code::ILLEGAL_ADDRESS,
            _ => error_code::LAUNCH_FAILED,
        }
    }
}

impl Engine {
    /// Begins the driver's own launch, which resets RESUME.
    pub(super) fn start_launch(&mut self, owner: Owner, bytes: &[u8], from_ns: u64) {
        let Some(gpu) = self.gpu_of(&owner) else {
            return;
        };
        let origin = Origin {
            address: None,
            restarts: true,
            from_ns,
            idle_since_ns: None,
        };
        self.start(gpu, owner, bytes, origin);
    }

    /// Begins a descriptor that another one has scheduled, as it is in memory now.
    pub(super) fn start_scheduled(&mut self, gpu: usize, scheduled: &Scheduled) {
        let owner = scheduled.owner.clone();
        let origin = Origin {
            address: Some(scheduled.address),
            restarts: scheduled.restarts,
            from_ns: scheduled.at_ns,
            idle_since_ns: scheduled.idle_since_ns,
        };
        match scheduled.read() {
            Ok(bytes) => self.start(gpu, owner, &bytes, origin),
            Err(fault) => {
                let what = format!("a descriptor that was scheduled: {fault}");
                self.fail_owner(&owner, fault_code(fault), &what);
            }
        }
    }

    /// The GPU that somebody's work runs on.
    fn gpu_of(&self, owner: &Owner) -> Option<usize> {
        let client = self.clients.get(&owner.client)?;
        Some(client.contexts.get(&owner.context)?.gpu as usize)
    }

    fn start(&mut self, index: usize, owner: Owner, bytes: &[u8], origin: Origin) {
        let gpu = &mut self.gpus[index];
        let id = GridId::new(&owner, gpu.number());
        let read = Descriptor::read(bytes).map_err(LaunchError::from);
        let read = read.and_then(|mut descriptor| {
            if let Some(work) = &mut descriptor.work
                && origin.restarts
            {
                work.restart();
            }
            let work = descriptor.work.as_ref();
            let shape = work
                .map(|work| Shape::new(work, gpu.board(), &owner.space, id.number))
                .transpose()?;
            Ok((descriptor, shape))
        });
        let (descriptor, shape) = match read {
            Ok(read) => read,
            Err(error) => return self.fail_owner(&owner, error.code(), &error.to_string()),
        };
        let runs_nothing = shape.is_none();
        let grid = Grid {
            owner,
            address: origin.address,
            descriptor,
            shape,
            resident: 0,
            from_ns: origin.from_ns,
            idle_since_ns: runs_nothing.then_some(origin.idle_since_ns.unwrap_or(origin.from_ns)),
            end_ns: origin.from_ns,
        };
        if grid.is_complete() {
            return self.complete(index, &grid);
        }
        let failure = gpu.add(id, grid);
        self.after_dispatch(index, failure);
    }

    pub(super) fn complete_grid(&mut self, gpu: usize, id: GridId) {
        if let Some(grid) = self.gpus[gpu].remove(id) {
            self.gpus[gpu].completed += 1;
            self.complete(gpu, &grid);
            let failure = self.gpus[gpu].dispatch(grid.end_ns);
            self.after_dispatch(gpu, failure);
        }
    }

    /// Does what a descriptor asks for on completion, and goes on in its stream.
    fn complete(&mut self, gpu: usize, grid: &Grid) {
        let owner = &grid.owner;
        let released = grid.descriptor.releases.iter().try_for_each(|release| {
            let bytes = release.bytes(grid.end_ns);
            owner.space.store(release.address, &bytes)
        });
        if let Err(fault) = released {
            let what = format!("a release semaphore: {fault}");
            return self.fail_owner(owner, fault_code(fault), &what);
        }
        if let Err(error) = self.gpus[gpu].follow(grid) {
            return self.fail_owner(owner, error.code(), &error.to_string());
        }
        if let Some(latch) = grid.descriptor.arrival
            && let Some(client) = self.clients.get_mut(&owner.client)
            && let Some(stream) = client.stream_running(owner.context, Running::Latch(latch))
        {
            client.complete(stream, grid.end_ns);
            self.pump(owner.client);
        }
    }
}
