// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One GPU: who uses each of its TPCs, and the channels on it.
//!
//! For each TPC the question is not only who may submit with it but whose launches may still be
//! running on it. The *user* of a TPC is the only partition for which either is true. It *owns* the
//! TPC while its channels are granted it; afterwards the TPC is in transit, until every channel that
//! was granted it has drained and no dead process can have a launch left (it *lingers*). All channels
//! of a partition on a GPU have the same mask: what the partition owns there.
//!
//! Whose a TPC is does not change when it is *lent*: the lender stays its user. But when it passes from the
//! lender to somebody else, the borrowers' launches are awaited like the lender's.

use std::collections::{BTreeMap, VecDeque};

use crate::command::{Command, Grant};
use crate::handover::{Stand, next_owned};
use crate::id::{ChannelId, Nanos, Revision, TenantId};
use crate::partition::{PartitionName, PartitionSpec};
use crate::place::{Claim, plan};
use crate::share::{Stake, sizes};
use crate::topology::{Topology, tpcs_for_cluster};
use crate::tpc::TpcSet;

/// A GPU and what happens on it.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    pub(crate) topology: Topology,
    /// One for each TPC.
    pub(crate) slots: BTreeMap<u8, Slot>,
    /// One for each partition that exists on this GPU, as of the last `settle`.
    pub(crate) shares: BTreeMap<PartitionName, Share>,
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
}

/// One TPC.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// Whose launches may be running on it, and those of whom it lends it to. It is owned by this partition,
    /// reserved for it, or in transit from it.
    pub(crate) user: Option<PartitionName>,
    /// In transit: since when.
    pub(crate) since: Nanos,
    /// The channels that were granted or lent it and are no more, each with its first grant without it.
    pub(crate) awaiting: BTreeMap<ChannelId, Revision>,
    /// Until when launches of dead channels may be running on it. Kept while it is owned, too.
    pub(crate) linger_until: Option<Nanos>,
}

/// What a partition has on a GPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) size: u32,
    pub(crate) planned: TpcSet,
    /// Empty without channels.
    pub(crate) owned: TpcSet,
}

/// A channel.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) tenant: TenantId,
    pub(crate) partition: PartitionName,
    /// CTAs of the largest cluster seen; 1 if none was.
    pub(crate) cluster_ctas: u32,
    /// The grant that holds, or none if there has never been one.
    pub(crate) grant: Option<Grant>,
}

impl Gpu {
    pub(crate) fn new(topology: Topology) -> Self {
        let bits = topology.tpcs().iter();
        let slots = bits.map(|tpc| (tpc.bit, Slot::default())).collect();
        Self {
            topology,
            slots,
            shares: BTreeMap::new(),
            channels: BTreeMap::new(),
        }
    }

    /// The channels of a partition.
    pub(crate) fn channels_of(
        &self,
        partition: &PartitionName,
    ) -> impl Iterator<Item = (ChannelId, &Channel)> {
        let channels = self.channels.iter().map(|(&id, channel)| (id, channel));
        channels.filter(move |(_, channel)| channel.partition == *partition)
    }

    /// Whether a partition has a channel here that has had a grant.
    pub(crate) fn is_running(&self, partition: &PartitionName) -> bool {
        let mut channels = self.channels_of(partition);
        channels.any(|(_, channel)| channel.grant.is_some())
    }

    /// How many TPCs of one GPC the largest cluster of a partition needs.
    pub(crate) fn need(&self, partition: &PartitionName) -> u32 {
        let channels = self.channels_of(partition);
        let ctas = channels.map(|(_, channel)| channel.cluster_ctas).max();
        tpcs_for_cluster(ctas.unwrap_or(1))
    }

    /// Takes in what a scheduler before this one left: whose TPCs were whose, and the channels. What a
    /// partition held is planned for it, too, so that nothing moves that need not; a partition that is
    /// no more holds it until it has lingered.
    pub(crate) fn inherit(
        &mut self,
        held: &[(PartitionName, TpcSet)],
        channels: impl IntoIterator<Item = (ChannelId, Channel)>,
        linger_until: Nanos,
    ) {
        self.channels.extend(channels);
        let all = held
            .iter()
            .fold(TpcSet::EMPTY, |all, &(_, tpcs)| all | tpcs);
        for share in self.shares.values_mut() {
            share.planned -= all;
        }
        for (name, tpcs) in held {
            let is_running = self.is_running(name);
            for bit in tpcs.iter() {
                let slot = self.slots.entry(bit).or_default();
                slot.user = Some(name.clone());
                // Of channels that are not known here, too.
                slot.linger_until = Some(linger_until);
            }
            if let Some(share) = self.shares.get_mut(name) {
                share.planned = *tpcs;
                share.owned = if is_running { *tpcs } else { TpcSet::EMPTY };
            }
        }
    }

    /// Forgets a channel; with launches outstanding, its TPCs linger until then.
    pub(crate) fn close(&mut self, id: ChannelId, linger_until: Option<Nanos>) {
        let Some(channel) = self.channels.remove(&id) else {
            return;
        };
        let share = self.shares.get(&channel.partition);
        let granted = match (&channel.grant, share) {
            (Some(grant), Some(share)) => share.owned | grant.lent,
            _ => TpcSet::EMPTY,
        };
        for (&bit, slot) in &mut self.slots {
            let awaited = slot.awaiting.remove(&id).is_some();
            if awaited || granted.contains(bit) {
                slot.linger_until = slot.linger_until.max(linger_until);
            }
        }
    }

    /// Takes note that a channel's launches under grants older than this one have completed.
    pub(crate) fn drained(&mut self, id: ChannelId, revision: Revision) {
        for slot in self.slots.values_mut() {
            if slot
                .awaiting
                .get(&id)
                .is_some_and(|&since| since <= revision)
            {
                slot.awaiting.remove(&id);
            }
        }
    }

    /// Ends the lingering that is over, and tells whether any was.
    pub(crate) fn expire(&mut self, now: Nanos) -> bool {
        let mut any = false;
        for slot in self.slots.values_mut() {
            if slot.linger_until.is_some_and(|until| until <= now) {
                slot.linger_until = None;
                any = true;
            }
        }
        any
    }

    /// When some lingering will be over next.
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.slots.values().filter_map(|s| s.linger_until).min()
    }

    /// Decides everything anew from the partitions and the state of the TPCs, and has granted what
    /// follows. Doing it twice changes nothing the second time.
    pub(crate) fn settle<'a>(
        &mut self,
        now: Nanos,
        specs: impl Iterator<Item = &'a PartitionSpec>,
        out: &mut VecDeque<Command>,
    ) {
        self.vacate(now);
        let specs: Vec<&PartitionSpec> = specs.collect();
        self.resize(&specs);
        for spec in &specs {
            self.hand_over(now, spec);
        }
        for spec in &specs {
            let lent = self.lent(spec, &specs);
            self.grant(spec, lent, out);
        }
    }

    /// Takes what partitions without channels own, and frees what nobody uses any more.
    fn vacate(&mut self, now: Nanos) {
        let Self {
            slots,
            shares,
            channels,
            ..
        } = self;
        for (name, share) in shares.iter_mut() {
            if !channels.values().any(|channel| channel.partition == *name) {
                for bit in share.owned.iter() {
                    slots.entry(bit).or_default().since = now;
                }
                share.owned = TpcSet::EMPTY;
            }
        }
        let grants = channels.values().filter_map(|channel| channel.grant);
        let lent = grants.fold(TpcSet::EMPTY, |lent, grant| lent | grant.lent);
        for (&bit, slot) in slots {
            let share = slot.user.as_ref().and_then(|user| shares.get(user));
            let owned = share.is_some_and(|share| share.owned.contains(bit)) || lent.contains(bit);
            if !owned && slot.awaiting.is_empty() && slot.linger_until.is_none() {
                slot.user = None;
            }
        }
    }

    /// Gives each partition its size and its plan.
    fn resize(&mut self, specs: &[&PartitionSpec]) {
        let stakes: Vec<Stake> = specs.iter().map(|spec| self.stake(spec)).collect();
        let sizes = sizes(self.topology.total(), &stakes);
        let claims: Vec<Claim> = (specs.iter().zip(&stakes).zip(&sizes))
            .map(|((spec, stake), &size)| {
                let share = self.shares.get(&spec.name).copied().unwrap_or_default();
                Claim {
                    class: spec.class,
                    priority: spec.priority,
                    size,
                    need: self.need(&spec.name),
                    active: stake.active,
                    owned: share.owned,
                    obtainable: self.obtainable(&spec.name, share.owned),
                    planned: share.planned,
                }
            })
            .collect();
        let plan = plan(&self.topology, &claims);
        self.shares = (specs.iter().zip(&claims).zip(plan))
            .map(|((spec, claim), planned)| {
                let share = Share {
                    size: claim.size,
                    planned,
                    owned: claim.owned,
                };
                (spec.name.clone(), share)
            })
            .collect();
    }

    /// What a partition brings to the division of this GPU.
    pub(crate) fn stake(&self, spec: &PartitionSpec) -> Stake {
        Stake {
            class: spec.class,
            priority: spec.priority,
            weight: spec.weight,
            guarantee: spec.guarantee,
            ceiling: spec.ceiling(),
            active: self.channels_of(&spec.name).next().is_some(),
            running: self.is_running(&spec.name),
        }
    }

    /// What a partition could be granted at once beyond what it owns: what nobody uses, and what is
    /// on its way from this very partition.
    fn obtainable(&self, partition: &PartitionName, owned: TpcSet) -> TpcSet {
        let usable = |user: &PartitionName| user == partition;
        let slots = self.slots.iter();
        let bits = slots.filter(|(_, slot)| slot.user.as_ref().is_none_or(usable));
        bits.map(|(&bit, _)| bit).collect::<TpcSet>() - owned
    }

    /// Moves what a partition owns towards its plan, as far as that can be done now.
    fn hand_over(&mut self, now: Nanos, spec: &PartitionSpec) {
        let Some(&share) = self.shares.get(&spec.name) else {
            return;
        };
        if self.channels_of(&spec.name).next().is_none() {
            return;
        }
        let stand = Stand {
            owned: share.owned,
            plan: share.planned,
            need: self.need(&spec.name),
        };
        let obtainable = self.obtainable(&spec.name, share.owned);
        let owned = next_owned(&self.topology, stand, obtainable);
        let awaiting: BTreeMap<ChannelId, Revision> = self
            .channels_of(&spec.name)
            .filter_map(|(id, channel)| Some((id, next_revision(channel.grant?))))
            .collect();
        for bit in (share.owned - owned).iter() {
            let slot = self.slots.entry(bit).or_default();
            slot.since = now;
            slot.awaiting.extend(&awaiting);
        }
        let channels = &self.channels;
        for bit in (owned - share.owned).iter() {
            let slot = self.slots.entry(bit).or_default();
            slot.user = Some(spec.name.clone());
            // It may still be others who were lent it.
            slot.awaiting.retain(|id, _| {
                let channel = channels.get(id);
                channel.is_some_and(|channel| channel.partition != spec.name)
            });
        }
        self.shares
            .insert(spec.name.clone(), Share { owned, ..share });
    }

    /// What may be lent to a partition: what is and stays another's, or is kept for it and used by nobody else.
    fn lent(&self, borrower: &PartitionSpec, specs: &[&PartitionSpec]) -> TpcSet {
        let lenders = specs.iter().filter(|lender| lender.lends_to(borrower));
        let mut lent = TpcSet::EMPTY;
        for lender in lenders {
            let Some(share) = self.shares.get(&lender.name) else {
                continue;
            };
            let is_lendable = |bit: &u8| {
                self.slots.get(bit).is_some_and(|slot| {
                    let is_free = slot.user.as_ref().is_none_or(|user| *user == lender.name)
                        && slot.awaiting.is_empty()
                        && slot.linger_until.is_none();
                    share.owned.contains(*bit) || is_free
                })
            };
            lent |= share.planned.iter().filter(is_lendable).collect();
        }
        lent
    }

    /// Grants the channels of a partition what it owns and may be lent, where that is not what they have.
    fn grant(&mut self, spec: &PartitionSpec, lent: TpcSet, out: &mut VecDeque<Command>) {
        let tpcs = self.shares.get(&spec.name).map(|share| share.owned);
        let Some(tpcs) = tpcs.filter(|tpcs| !tpcs.is_empty()) else {
            return;
        };
        for (&id, channel) in &mut self.channels {
            if channel.partition != spec.name {
                continue;
            }
            let grant = Grant {
                channel: id,
                revision: channel.grant.map_or(Revision(1), next_revision),
                tpcs,
                lent,
                oversize: spec.oversize,
            };
            let (before, unlent) = match channel.grant {
                Some(old)
                    if Grant {
                        revision: old.revision,
                        ..grant
                    } == old =>
                {
                    continue;
                }
                Some(old) => (old.tpcs | old.lent, old.lent - (tpcs | lent)),
                None => (TpcSet::EMPTY, TpcSet::EMPTY),
            };
            let revoked = before - (tpcs | lent);
            channel.grant = Some(grant);
            for bit in lent.iter() {
                let slot = self.slots.entry(bit).or_default();
                // Kept for its lender, who is the only one who may lend it.
                if slot.user.is_none() {
                    let shares = self.shares.iter();
                    let mut lenders = shares.filter(|(_, share)| share.planned.contains(bit));
                    slot.user = lenders.next().map(|(name, _)| name.clone());
                }
            }
            for bit in unlent.iter() {
                let slot = self.slots.entry(bit).or_default();
                slot.awaiting.insert(id, grant.revision);
            }
            out.push_back(Command::Grant(grant));
            if !revoked.is_empty() {
                out.push_back(Command::AwaitDrain {
                    channel: id,
                    revision: grant.revision,
                });
            }
        }
    }
}

fn next_revision(grant: Grant) -> Revision {
    Revision(grant.revision.0.saturating_add(1))
}
