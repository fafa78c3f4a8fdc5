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
    ChannelId, ChannelView, Class, Command, Event, GpuId, Hand, Nanos, Oversize, PartitionName,
    Refusal, Revision, Standing, TpcSet, TpcState, tpcs_for_cluster,
};

use crate::broker::{Answer, Arrival, Broker};
use crate::gatekeeper::Wanted;
use crate::gpu::Gpu;

/// TPCs that a channel keeps at least when it is squeezed,
const SQUEEZED_TPCS: u32 = 2;
/// and how long its atoms may become by it, in microseconds: those that run when a process dies have to end
/// within a few milliseconds, or its neighbours die, too.
const SQUEEZED_ATOM_US: u32 = 1000;
/// What a channel of no partition that is known is.
const NOBODYS: Standing = Standing {
    class: Class::LatencyCritical,
    is_guaranteed: false,
    borrows: false,
    min_share: 0,
    hand: Hand::Released,
};

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
        // Before anybody can use what is granted now.
        self.keep_estate();
        let mut answer = Ok(());
        for command in commands {
            match command {
                Command::Accepted(request) => tracing::trace!(?request, "accepted"),
                Command::Refuse { why, .. } => answer = Err(why),
                Command::Grant(grant) => self.publish(grant.channel, grant.revision, grant.tpcs),
                Command::AwaitDrain { channel, revision } => {
                    self.await_drain(channel, revision);
                    self.next_poll = Some(now);
                }
            }
        }
        self.lend();
        answer
    }

    /// Publishes anew what those may use who borrow, where that is something else now.
    fn lend(&mut self) {
        let outdated = |view: &ChannelView| {
            let grant = view.grant?;
            let borrowed = self.borrowed(view.channel)?;
            let channel = self.channels.get(&view.channel)?;
            (channel.granted != grant.tpcs | borrowed && !channel.is_squeezed).then_some(grant)
        };
        let grants = (self.scheduler.channels()).filter_map(|view| outdated(&view));
        self.publish_again(grants.collect());
    }

    fn publish_again(&mut self, grants: Vec<lithos_policy::Grant>) {
        for grant in grants {
            self.publish(grant.channel, grant.revision, grant.tpcs);
        }
    }

    /// Returns the TPCs that a channel may use besides its partition's own, up to its ceiling, while those
    /// whose they are do not. Nothing if it does not borrow.
    fn borrowed(&self, id: ChannelId) -> Option<TpcSet> {
        let channel = self.scheduler.channel(id)?;
        let known = self.partitions.known(channel.partition.as_str())?;
        if !known.entry.borrow {
            return None;
        }
        let gpu = self.scheduler.gpus().find(|view| view.gpu == channel.gpu)?;
        let borrower = known.standing();
        let is_lender = |name: &PartitionName| {
            let lender = self.partitions.known(name.as_str());
            *name != channel.partition
                && lender.is_some_and(|lender| lender.standing().lends_to(&borrower))
        };
        let lent = gpu.tpcs.iter().filter(|tpc| match &tpc.state {
            TpcState::Owned { partition } | TpcState::Reserved { partition } => {
                is_lender(partition)
            }
            TpcState::Free | TpcState::InTransit { .. } => false,
        });
        let lent: TpcSet = lent.map(|tpc| tpc.bit).collect();
        let own = channel.grant.map_or(0, |grant| grant.tpcs.len());
        let room = known.entry.ceiling.unwrap_or(u32::MAX);
        Some(lent.lowest(room.saturating_sub(own)))
    }

    /// Writes a grant, for now and for the time when nobody schedules.
    pub(crate) fn publish(&mut self, id: ChannelId, revision: Revision, tpcs: TpcSet) {
        let fail_static = self.fail_static(id, tpcs);
        let partition = self.scheduler.channel(id).map(|view| view.partition);
        let known = (partition.as_ref()).and_then(|name| self.partitions.known(name.as_str()));
        let (standing, atom_us) = match known {
            Some(known) => (known.standing(), known.entry.atom_us()),
            None => (NOBODYS, 0),
        };
        let bound_us = known.and_then(|known| known.entry.bound_us());
        let squeezed = (standing.hand == Hand::Squeezed).then(|| self.squeezed(id, tpcs, atom_us));
        let borrowed = self.borrowed(id).unwrap_or_default();
        let Some(channel) = self.channels.get_mut(&id) else {
            // Not handed over yet: it is told then.
            return;
        };
        let lent = match squeezed {
            Some(_) => TpcSet::EMPTY,
            None => borrowed - tpcs,
        };
        let own = squeezed.unwrap_or(tpcs);
        let tpcs = own | lent;
        let grant = Grant {
            atom_ns: u64::from(atom_us) * 1_000,
            lent: lent.words(),
            outstanding_ns: u64::from(bound_us.unwrap_or(0)) * 1_000,
            ..words(tpcs)
        };
        let sequence = (channel.pages).publish_with(&grant, &words(fail_static));
        // So few TPCs that atoms would become too long are no place to go to.
        let narrow_us = tpcs.len().saturating_mul(atom_us) / own.len().max(1);
        let place = (narrow_us <= SQUEEZED_ATOM_US).then(|| Nanos(u64::from(narrow_us) * 1_000));
        let wanted = Wanted {
            partition,
            standing,
            atom: Nanos(grant.atom_ns),
            own,
            is_squeezed: squeezed.is_some(),
            place,
        };
        self.gates.set(id, wanted);
        // Until a channel is taken over its launches may follow another page.
        let reserved = match channel.arrival {
            Arrival::HandedOver { .. } => u64::MAX,
            Arrival::Made | Arrival::TakenOver => channel.pages.ring().reserved(),
        };
        (channel.ledger).granted(sequence, revision, (tpcs, lent), reserved);
        channel.granted = tpcs;
        channel.lent = lent;
        channel.is_squeezed = squeezed.is_some();
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
    /// and its atoms time, beside those of the other channels of its partition.
    fn squeezed(&self, id: ChannelId, tpcs: TpcSet, atom_us: u32) -> TpcSet {
        let Some(channel) = self.scheduler.channel(id) else {
            return tpcs;
        };
        let together =
            |other: &ChannelView| other.partition == channel.partition && other.gpu == channel.gpu;
        let channels = self.scheduler.channels().filter(together).count();
        let channels = u32::try_from(channels).unwrap_or(u32::MAX);
        let work_us = tpcs.len().saturating_mul(atom_us).saturating_mul(channels);
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
