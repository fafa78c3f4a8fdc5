// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The end of a client, whichever way it ends.
//!
//! Its work and its memory go at once, and nobody else notices: so it is where processes share a GPU by
//! time slices. Under MPS, as was measured on an H100, a client that ends stays on the GPU for some
//! milliseconds more: what it has begun goes on, and so do the launches behind that. What ends by then, or
//! is ended by a store into its gates, harms nobody. Whatever still runs or goes round a gate when the
//! memory is taken away is a fault, and that is everybody's. What it has counted down in part, the hardware
//! remembers. The configuration says which of the two
//! a simulated GPU does ([`Config::death_ns`](crate::config::Config::death_ns)).
//!
//! Memory stays if the server maps it, too: device memory, pinned memory, and registered memory that is
//! mapped from a sealed file. Other registered memory is out of reach as soon as its process has ended.

use super::Engine;
use super::error_code;
use super::grid::Owner;

impl Engine {
    /// A client has ended.
    pub(super) fn leave(&mut self, client: u64) {
        let Some(wait_ns) = self.config.death_ns else {
            return self.forget(client);
        };
        let busy: Vec<usize> = (0..self.gpus.len())
            .filter(|&gpu| self.gpus[gpu].work_of(client).is_some())
            .collect();
        let from_ns = busy.into_iter().map(|gpu| self.gpu_now_ns(gpu)).min();
        match (from_ns, self.clients.get_mut(&client)) {
            (Some(from_ns), Some(entry)) => entry.gone_ns = Some(from_ns + wait_ns),
            _ => self.forget(client),
        }
    }

    /// The next moment at which a client's memory goes, and the client.
    pub(super) fn next_death(&self) -> Option<(u64, u64)> {
        let dying = self.clients.iter();
        dying
            .filter_map(|(&id, client)| Some((client.gone_ns?, id)))
            .min()
    }

    /// Forgets those who have ended and whose work is over.
    pub(super) fn forget_idle(&mut self) {
        let is_idle = |client| self.gpus.iter().all(|gpu| gpu.work_of(client).is_none());
        let dying = self.clients.iter();
        let idle: Vec<u64> = dying
            .filter(|(_, client)| client.gone_ns.is_some())
            .map(|(&id, _)| id)
            .filter(|&id| is_idle(id))
            .collect();
        for client in idle {
            self.forget(client);
        }
    }

    /// Takes the memory of a client that has ended.
    pub(super) fn bury(&mut self, client: u64) {
        for gpu in 0..self.gpus.len() {
            if let Some(owner) = self.gpus[gpu].work_of(client).cloned() {
                let what = "it has ended, and its work goes on without memory";
                self.fail_owner(&owner, error_code::LAUNCH_FAILED, what);
            }
        }
        self.forget(client);
    }

    /// Takes away everything of a client.
    pub(super) fn forget(&mut self, client: u64) {
        if let Some(gone) = self.clients.remove(&client) {
            gone.answer.end();
        }
        self.drop_work(|owner| owner.client == client);
        let remembers = self.config.death_ns.is_some();
        for gpu in &mut self.gpus {
            gpu.leave_counts(client, remembers);
        }
        self.dispatch_all();
    }

    /// Takes work off all GPUs.
    pub(super) fn drop_work(&mut self, theirs: impl Fn(&Owner) -> bool) {
        for index in 0..self.gpus.len() {
            let now_ns = self.gpu_now_ns(index);
            self.gpus[index].remove_where(&theirs, now_ns);
        }
    }
}
