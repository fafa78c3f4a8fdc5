// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where the policy's commands become words in grant pages and waits in ledgers.
//!
//! The order is what makes it safe: a grant is published, which ends in a full fence; then `reserved`
//! is read, so that the ledger knows which launches may have followed an older grant.

use std::collections::VecDeque;

use lithos_abi::bindings::*;
use lithos_abi::grant::{Grant, Terms};
use lithos_policy::{
    ChannelId, Command, Event, GpuId, Nanos, Oversize, Refusal, Revision, TpcSet, tpcs_for_cluster,
};

use crate::broker::{Answer, Broker, Channel};
use crate::config::Config;
use crate::gpu::Gpu;

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
        let mut answer = Ok(());
        for command in commands {
            match command {
                Command::Accepted(request) => tracing::trace!(?request, "accepted"),
                Command::Refuse { why, .. } => answer = Err(why),
                Command::Grant(grant) => self.publish(grant.channel, grant.revision, grant.tpcs),
                Command::AwaitDrain { channel, revision } => {
                    if let Some(channel) = self.channels.get_mut(&channel) {
                        channel.ledger.await_drain(revision);
                    }
                    self.next_poll = Some(now);
                }
            }
        }
        answer
    }

    /// Writes a grant, for now and for the time when nobody schedules.
    fn publish(&mut self, id: ChannelId, revision: Revision, tpcs: TpcSet) {
        let fail_static = self.fail_static(id, tpcs);
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let sequence = channel.pages.publish(&words(tpcs));
        let reserved = channel.pages.ring().reserved();
        channel.ledger.granted(sequence, revision, tpcs, reserved);
        channel.pages.publish_fail_static(&words(fail_static));
        channel.granted = tpcs;
        tracing::debug!(channel = %id, grant = sequence, %tpcs, "granted");
        if channel.waits_until.take().is_some() {
            self.answers.push(Answer {
                tenant: channel.tenant,
                outcome: Ok(id),
            });
        }
    }

    /// Writes anew what the channels of a partition may use when nobody schedules.
    pub(crate) fn refresh_fail_static(&mut self, partition: &str) {
        let of = |channel: &Channel| self.tenants.get(&channel.tenant).map(|t| &t.partition);
        let channels = self.channels.iter();
        let ids: Vec<ChannelId> = channels
            .filter(|(_, channel)| of(channel).is_some_and(|name| name == partition))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            let Some(tpcs) = self.channels.get(&id).map(|channel| channel.granted) else {
                continue;
            };
            let fail_static = self.fail_static(id, tpcs);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.pages.publish_fail_static(&words(fail_static));
            }
        }
    }

    /// Returns what a channel may use when nobody schedules: its partition's guarantee, taken from
    /// what it has now, so that it is nobody else's. Where that leaves no room for its clusters, or
    /// where there is no guarantee, it is all that it has now.
    fn fail_static(&self, id: ChannelId, tpcs: TpcSet) -> TpcSet {
        let Some(channel) = self.scheduler.channel(id) else {
            return tpcs;
        };
        let partition = self.scheduler.partition(&channel.partition);
        let guarantee = partition.map_or(0, |view| view.spec.guarantee);
        let some = tpcs.lowest(guarantee);
        let gpu = self.gpus.iter().find(|gpu| GpuId(gpu.index) == channel.gpu);
        let need = tpcs_for_cluster(channel.cluster_ctas);
        let fits = gpu.is_some_and(|gpu| gpu.board.tpcs.fits(some, need));
        if guarantee == 0 || !fits { tpcs } else { some }
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
pub(crate) fn terms(config: &Config, gpu: &Gpu, channel: u64, oversize: Oversize) -> Terms {
    let mut terms = Terms {
        channel,
        gpu_index: gpu.index,
        oversize: match oversize {
            Oversize::Widen => LITHOS_OVERSIZE_WIDEN,
            Oversize::Refuse => LITHOS_OVERSIZE_REFUSE,
        },
        tpc_sms: gpu.board.tpc_sms,
        present: gpu.board.tpcs.all().words(),
        ..Terms::sized(config.regions)
    };
    for tpc in gpu.board.tpcs.tpcs() {
        let alone = u8::try_from(LITHOS_GPC_ALONE).unwrap_or(u8::MAX);
        terms.gpc[usize::from(tpc.bit)] = tpc.gpc.unwrap_or(alone);
    }
    terms
}
