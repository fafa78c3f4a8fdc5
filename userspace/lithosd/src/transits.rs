// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! For how long TPCs have been in transit, by the partition whose launches are awaited.

use std::collections::BTreeMap;

use lithos_policy::{GpuId, Nanos, PartitionName, Scheduler, TpcSet, TpcState};

/// What is in transit, and was.
#[derive(Debug, Default)]
pub(crate) struct Transits {
    now: BTreeMap<(GpuId, PartitionName), TpcSet>,
    /// TPC-nanoseconds.
    so_far: BTreeMap<(GpuId, PartitionName), u64>,
    looked: Nanos,
}

impl Transits {
    /// Takes note of what is in transit from now on.
    pub(crate) fn see(&mut self, scheduler: &Scheduler, now: Nanos) {
        let span = now.0.saturating_sub(self.looked.0);
        self.looked = now;
        for (key, tpcs) in std::mem::take(&mut self.now) {
            *self.so_far.entry(key).or_default() += u64::from(tpcs.len()) * span;
        }
        for gpu in scheduler.gpus() {
            for tpc in gpu.tpcs {
                if let TpcState::InTransit { from, .. } = tpc.state {
                    let tpcs = self.now.entry((gpu.gpu, from)).or_default();
                    tpcs.insert(tpc.bit);
                }
            }
        }
        // Of partitions that are no more, at last.
        let is_known = |name: &PartitionName| scheduler.partition(name).is_some();
        self.so_far.retain(|(_, name), _| is_known(name));
    }

    /// Returns what is in transit from a partition on a GPU, and for how many TPC-nanoseconds TPCs of it were, up to
    /// the last change.
    pub(crate) fn of(&self, gpu: GpuId, name: &PartitionName) -> (TpcSet, u64) {
        let key = (gpu, name.clone());
        let now = self.now.get(&key).copied().unwrap_or_default();
        (now, self.so_far.get(&key).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use lithos_policy::{
        ChannelId, Class, Event, PartitionSpec, Revision, Settings, TenantId, Topology, Tpc,
    };

    use super::*;

    #[test]
    fn what_is_on_its_way_is_added_up_until_it_has_come() {
        let mut scheduler = Scheduler::new(Settings::default());
        let mut transits = Transits::default();
        let mut step = |now: u64, event| {
            let mut out = VecDeque::new();
            scheduler.step(Nanos(now), event, &mut out);
            transits.see(&scheduler, Nanos(now));
            let name = "chat".parse().unwrap();
            let (tpcs, so_far) = transits.of(GpuId(0), &name);
            (tpcs.len(), so_far)
        };
        let tpcs = (0..6).map(|bit| Tpc { bit, gpc: None });
        let topology = Topology::new(tpcs).unwrap();
        let gpu = GpuId(0);
        step(1, Event::GpuAdded { gpu, topology });
        let chat = |guarantee| {
            let name = "chat".parse().unwrap();
            Event::PartitionSet(PartitionSpec::new(name, Class::BestEffort, guarantee))
        };
        step(2, chat(5));
        let (tenant, channel) = (TenantId(1), ChannelId(1));
        let partition = "chat".parse().unwrap();
        step(3, Event::TenantAttached { tenant, partition });
        let opened = Event::ChannelOpened {
            channel,
            tenant,
            gpu,
        };
        assert_eq!(step(4, opened), (0, 0));
        assert_eq!(step(10, chat(2)), (3, 0));
        assert_eq!(step(15, Event::Tick), (3, 15));
        let drained = Event::Drained {
            channel,
            revision: Revision(2),
        };
        assert_eq!(step(20, drained), (0, 30));
        assert_eq!(step(30, Event::Tick), (0, 30));
        step(40, Event::TenantGone { tenant });
        step(50, Event::PartitionDeleted("chat".parse().unwrap()));
        assert_eq!(step(60, Event::Tick).1, 0, "nobody asks any more");
    }
}
