// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where the policy's commands become words in grant pages and waits in ledgers.
//!
//! The order is what makes it safe: what follows is kept for the next daemon; a grant is published, with
//! what is left of it when nobody schedules, which ends in a full fence; then `reserved` is read, so that
//! the ledger knows which launches may have followed an older grant.

use std::collections::VecDeque;

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::{Grant, Terms};
use lithos_policy::{
    ChannelId, ChannelView, Command, Event, GpuId, Hand, LONGEST_ATOM, Nanos, Oversize, Party,
    Refusal, TpcSet, tpcs_for_cluster,
};

use crate::broker::{Answer, Arrival, Broker};
use crate::gatekeeper::Wanted;
use crate::gpu::Gpu;

/// TPCs that a channel keeps at least when it is squeezed,
const SQUEEZED_TPCS: u32 = 2;
/// and how long its atoms may become by it, in microseconds.
const SQUEEZED_ATOM_US: u32 = LITHOS_ATOM_LONGEST_NS / 1_000;
// The policy and the shim say the same.
const _: () = assert!(LONGEST_ATOM.0 == LITHOS_ATOM_LONGEST_NS as u64);
impl Broker {
    /// Tells the policy something that it has no reason to refuse.
    pub(crate) fn step_quietly(&mut self, now: Nanos, event: Event) {
        if let Err(why) = self.step(now, event.clone()) {
            tracing::error!("the policy refused {event:?}: {why}");
        }
    }

    /// Tells the policy something, does what it wants done, and returns its answer.
    pub(crate) fn step(&mut self, now: Nanos, event: Event) -> Result<(), Refusal> {
        let mut commands = VecDeque::new();
        self.scheduler.step(now, event, &mut commands);
        self.transits.see(&self.scheduler, now);
        // Before anybody can use what is granted now.
        self.keep_estate();
        let mut answer = Ok(());
        for command in commands {
            match command {
                Command::Accepted(request) => tracing::trace!(?request, "accepted"),
                Command::Refuse { why, .. } => answer = Err(why),
                Command::Grant(grant) => self.publish(&grant),
                Command::AwaitDrain { channel, revision } => {
                    self.await_drain(channel, revision);
                    self.next_poll = Some(now);
                }
            }
        }
        answer
    }

    fn publish_again(&mut self, grants: Vec<lithos_policy::Grant>) {
        for grant in grants {
            self.publish(&grant);
        }
    }

    /// Writes a grant, for now and for the time when nobody schedules.
    pub(crate) fn publish(&mut self, grant: &lithos_policy::Grant) {
        let &lithos_policy::Grant {
            channel: id,
            revision,
            tpcs: own,
            lent,
            ..
        } = grant;
        let fail_static = self.fail_static(id, own);
        let partition = self.scheduler.channel(id).map(|view| view.partition);
        let known = (partition.as_ref()).and_then(|name| self.partitions.known(name.as_str()));
        let party = known.zip(partition).map(|(known, name)| Party {
            name,
            standing: known.standing(),
            priority: known.entry.priority,
            weight: known.entry.weight,
            ceiling: known.entry.ceiling.unwrap_or(u32::MAX),
            own,
            lent,
            atom: Nanos(u64::from(known.entry.atom_us()) * 1_000),
        });
        let (hand, atom_us, bound_us) = match known {
            Some(known) => {
                let entry = &known.entry;
                (known.hand, entry.atom_us(), entry.bound_us().unwrap_or(0))
            }
            None => (Hand::Released, 0, 0),
        };
        // Who is squeezed has few of its own, and nobody else's.
        let squeezed = (hand == Hand::Squeezed).then(|| {
            let all = (own | lent).len();
            self.squeezed(id, own, all.saturating_mul(atom_us))
        });
        let Some(channel) = self.channels.get_mut(&id) else {
            // Not handed over yet: it is told then.
            return;
        };
        let (own, lent) = match squeezed {
            Some(squeezed) => (squeezed, TpcSet::EMPTY),
            None => (own, lent),
        };
        let tpcs = own | lent;
        // Atoms are cut for all of them, of which it never has more than its ceiling.
        let most = match &party {
            Some(party) => tpcs.len().min(party.ceiling.max(own.len())),
            None => tpcs.len(),
        };
        let atom_tpc_ns = u64::from(atom_us) * 1_000 * u64::from(most);
        let grant = Grant {
            atom_ns: atom_tpc_ns / u64::from(tpcs.len().max(1)),
            lent: lent.words(),
            outstanding_ns: u64::from(bound_us) * 1_000,
            ..words(tpcs)
        };
        let sequence = (channel.pages).publish_with(&grant, &words(fail_static));
        let wanted = Wanted {
            party: party.map(|party| Party { lent, ..party }),
            own,
        };
        self.gates.set(id, wanted);
        // Until a channel is taken over its launches may follow another page.
        let reserved = match channel.arrival {
            Arrival::HandedOver { .. } => u64::MAX,
            Arrival::Made | Arrival::TakenOver => channel.pages.ring().reserved(),
        };
        (channel.ledger).granted(sequence, revision, tpcs, reserved);
        channel.granted = tpcs;
        channel.lent = lent;
        tracing::debug!(channel = %id, grant = sequence, %tpcs, "granted");
        if channel.waits_until.take().is_some() {
            self.answers.push(Answer {
                tenant: channel.tenant,
                channel: id,
                outcome: Ok(()),
            });
        }
    }

    /// Writes anew what the channels of a partition may use when nobody schedules.
    pub(crate) fn refresh_fail_static(&mut self, partition: &str) {
        let grants = (self.scheduler.channels())
            .filter(|view| view.partition.as_str() == partition)
            .filter_map(|view| view.grant);
        self.publish_again(grants.collect());
    }

    /// Returns what a channel may use while it is squeezed: as few of its TPCs as its clusters have room on,
    /// and its atoms, of so many microseconds on a TPC, time, beside those of the other channels of its partition.
    fn squeezed(&self, id: ChannelId, tpcs: TpcSet, atom_tpc_us: u32) -> TpcSet {
        let Some(channel) = self.scheduler.channel(id) else {
            return tpcs;
        };
        let together =
            |other: &ChannelView| other.partition == channel.partition && other.gpu == channel.gpu;
        let channels = self.scheduler.channels().filter(together).count();
        let channels = u32::try_from(channels).unwrap_or(u32::MAX);
        let work_us = atom_tpc_us.saturating_mul(channels);
        let needed = work_us.div_ceil(SQUEEZED_ATOM_US).max(SQUEEZED_TPCS);
        self.fewest(&channel, tpcs, needed)
    }

    /// Returns so many of a channel's TPCs, or all if its clusters have no room on these.
    fn fewest(&self, channel: &ChannelView, tpcs: TpcSet, count: u32) -> TpcSet {
        let some = tpcs.lowest(count);
        let gpu = self.gpus.iter().find(|gpu| GpuId(gpu.index) == channel.gpu);
        let need = tpcs_for_cluster(channel.cluster_ctas);
        let fits = gpu.is_some_and(|gpu| gpu.board.tpcs.fits(some, need));
        if fits { some } else { tpcs }
    }

    /// Returns what a channel may use when nobody schedules: its partition's guarantee, taken from
    /// what it has now, so that it is nobody else's. Where that leaves no room for its clusters, or
    /// where there is no guarantee, it is all that it has now.
    fn fail_static(&self, id: ChannelId, tpcs: TpcSet) -> TpcSet {
        let Some(channel) = self.scheduler.channel(id) else {
            return tpcs;
        };
        let partition = self.scheduler.partition(&channel.partition);
        match partition.map_or(0, |view| view.spec.guarantee) {
            0 => tpcs,
            guarantee => self.fewest(&channel, tpcs, guarantee),
        }
    }
}

/// A grant of TPCs and of nothing else.
fn words(tpcs: TpcSet) -> Grant {
    Grant {
        tpcs: tpcs.words(),
        ..Grant::default()
    }
}

/// The terms of a channel.
pub(crate) fn terms(counts: Counts, gpu: &Gpu, channel: u64, oversize: Oversize) -> Terms {
    let mut terms = Terms {
        channel,
        gpu_index: gpu.index,
        oversize: match oversize {
            Oversize::Widen => LITHOS_OVERSIZE_WIDEN,
            Oversize::Refuse => LITHOS_OVERSIZE_REFUSE,
        },
        tpc_sms: gpu.board.tpc_sms,
        present: gpu.board.tpcs.all().words(),
        ..Terms::sized(counts)
    };
    for tpc in gpu.board.tpcs.tpcs() {
        let alone = u8::try_from(LITHOS_GPC_ALONE).unwrap_or(u8::MAX);
        terms.gpc[usize::from(tpc.bit)] = tpc.gpc.unwrap_or(alone);
    }
    terms
}
