// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Waits for a first grant that have become too long, and what each waited for.

use std::collections::{BTreeMap, BTreeSet};

use lithos_policy::{ChannelId, Nanos, TpcSet, TpcState};

use crate::broker::{Answer, Broker, Channel, Refused};

impl Broker {
    /// Refuses those who have waited for too long.
    pub(crate) fn end_waits(&mut self, now: Nanos) {
        let over = |channel: &Channel| channel.waits_until.is_some_and(|until| until <= now);
        let over: Vec<ChannelId> = (self.channels.iter())
            .filter_map(|(&id, channel)| over(channel).then_some(id))
            .collect();
        for id in over {
            let text = self.explain_wait(id);
            let Some(tenant) = self.channels.get(&id).map(|channel| channel.tenant) else {
                continue;
            };
            self.close_channel(id, now);
            self.answers.push(Answer {
                tenant,
                channel: id,
                outcome: Err(Refused::new(libc::ETIMEDOUT, text)),
            });
        }
    }

    /// Says what a channel without a grant waits for.
    fn explain_wait(&self, id: ChannelId) -> String {
        let waited = format!(
            "waited {} ms for a first TPC",
            self.config.grant_wait.as_millis()
        );
        let Some(view) = self.scheduler.channel(id) else {
            return waited;
        };
        let gpu = self.scheduler.gpus().find(|gpu| gpu.gpu == view.gpu);
        let tpcs = gpu.map(|gpu| gpu.tpcs).unwrap_or_default();
        let mut from = BTreeMap::<String, (TpcSet, BTreeSet<ChannelId>)>::new();
        for tpc in &tpcs {
            if let TpcState::InTransit {
                from: user,
                to,
                awaiting,
                ..
            } = &tpc.state
                && to.as_ref() == Some(&view.partition)
            {
                let (set, channels) = from.entry(user.to_string()).or_default();
                set.insert(tpc.bit);
                channels.extend(awaiting);
            }
        }
        if from.is_empty() {
            return format!(
                "{waited}: partition {} has none on GPU {}, because guarantees and running \
                 channels of others take all; give it a guarantee, or lower others",
                view.partition, view.gpu
            );
        }
        let transit: Vec<String> = (from.iter())
            .map(|(user, (set, channels))| {
                let channels: Vec<String> = channels.iter().map(ChannelId::to_string).collect();
                format!("TPCs {set} of {user} (channels {})", channels.join(", "))
            })
            .collect();
        let transit = transit.join("; ");
        format!("{waited}: launches have not completed on {transit}; see lithos status")
    }
}
