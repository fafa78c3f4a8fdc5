// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What holds after every event, whatever the events: random partitions, tenants and launches on
//! random GPUs, with a model of the hardware that remembers which launches are still running.
//!
//! A failure prints the shortest sequence of choices that shows it; the generator is seeded with a
//! constant, so every run tries the same sequences.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lithos_policy::{
    ChannelId, Class, Command, Event, GpuId, Left, Nanos, Oversize, PartitionName, PartitionSpec,
    Revision, Scheduler, Settings, ShareView, TenantId, Topology, Tpc, TpcSet, TpcState,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const SEQUENCES: u32 = 1000;
const LINGER: Nanos = Nanos(1000);
const NAMES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "omega"];

/// Something to do, where indices are taken modulo what exists.
#[derive(Clone, Debug)]
enum Choice {
    Partition {
        name: usize,
        best_effort: bool,
        guarantee: u32,
        ceiling: Option<u32>,
        priority: i32,
        borrow: bool,
        only_first_gpu: bool,
    },
    Delete(usize),
    Attach(usize),
    Gone(usize),
    Open {
        tenant: usize,
        gpu: u32,
    },
    Close {
        channel: usize,
        died: bool,
    },
    Cluster {
        channel: usize,
        ctas: u32,
    },
    Launch(usize),
    Complete(usize),
    /// Tell of the drains that have happened.
    Report,
    Pass(u64),
    /// Another scheduler goes on from what this one leaves.
    Restart,
}

fn choice() -> impl Strategy<Value = Choice> {
    let index = 0_usize..1000;
    let partition = (
        0..NAMES.len(),
        any::<bool>(),
        prop_oneof![Just(0), 0_u32..6, 0_u32..20],
        prop_oneof![Just(None), (1_u32..30).prop_map(Some)],
        -1..2_i32,
        any::<bool>(),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        3 => partition.prop_map(|(name, best_effort, guarantee, ceiling, priority, borrow, first)| {
            Choice::Partition {
                name,
                best_effort,
                guarantee,
                ceiling,
                priority,
                borrow,
                only_first_gpu: first,
            }
        }),
        1 => index.clone().prop_map(Choice::Delete),
        3 => index.clone().prop_map(Choice::Attach),
        1 => index.clone().prop_map(Choice::Gone),
        4 => (index.clone(), 0_u32..2).prop_map(|(tenant, gpu)| Choice::Open { tenant, gpu }),
        1 => (index.clone(), any::<bool>())
            .prop_map(|(channel, died)| Choice::Close { channel, died }),
        2 => (index.clone(), 1_u32..13)
            .prop_map(|(channel, ctas)| Choice::Cluster { channel, ctas }),
        6 => index.clone().prop_map(Choice::Launch),
        4 => index.prop_map(Choice::Complete),
        3 => Just(Choice::Report),
        1 => (0_u64..1500).prop_map(Choice::Pass),
        1 => Just(Choice::Restart),
    ]
}

/// A GPU with some GPCs of different sizes, some TPCs alone, and holes between the bits.
fn topology() -> impl Strategy<Value = Topology> {
    let gpcs = prop::collection::vec(1_u8..8, 1..5);
    (gpcs, 0_u8..3, 1_u8..4).prop_map(|(gpcs, alone, stride)| {
        let sizes = gpcs.iter().enumerate();
        let grouped = sizes
            .flat_map(|(gpc, &size)| vec![Some(u8::try_from(gpc).unwrap()); usize::from(size)]);
        let places = grouped.chain(vec![None; usize::from(alone)]);
        Topology::new(places.enumerate().map(|(i, gpc)| Tpc {
            bit: u8::try_from(i).unwrap() * stride + stride / 2,
            gpc,
        }))
        .unwrap()
    })
}

/// A launch that may still be running.
#[derive(Clone, Debug)]
struct Launch {
    channel: ChannelId,
    gpu: GpuId,
    revision: Revision,
    /// Those that are its partition's own.
    tpcs: TpcSet,
    /// Those that others lend, who have no other TPCs in it.
    lent: Vec<(PartitionName, TpcSet)>,
    /// Set when its process dies: when it has ended at the latest.
    ends: Option<Nanos>,
}

/// A scheduler with what surrounds it: processes that launch, hardware that runs, a daemon that
/// reports.
struct World {
    scheduler: Scheduler,
    now: Nanos,
    topologies: Vec<Topology>,
    launches: Vec<(PartitionName, Launch)>,
    /// Drains that were asked for.
    awaited: BTreeSet<(ChannelId, Revision)>,
    grants: BTreeMap<ChannelId, (Revision, TpcSet)>,
    next_id: u64,
    log: Vec<Command>,
}

impl World {
    fn new(topologies: Vec<Topology>) -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(Settings { linger: LINGER }),
            now: Nanos(0),
            topologies: topologies.clone(),
            launches: Vec::new(),
            awaited: BTreeSet::new(),
            grants: BTreeMap::new(),
            next_id: 1,
            log: Vec::new(),
        };
        for (id, topology) in (0..).zip(topologies) {
            world.step(Event::GpuAdded {
                gpu: GpuId(id),
                topology,
            });
        }
        world
    }

    /// The scheduler's step, and everything that must hold after it.
    fn step(&mut self, event: Event) {
        let had_room = self.channels_with_room();
        let mut out = VecDeque::new();
        self.scheduler.step(self.now, event, &mut out);
        let open = self.scheduler.channels().count();
        assert!(out.len() <= 1 + 2 * open, "too many commands: {out:?}");
        self.obey(&out);
        self.log.extend(out);
        self.check();
        for (channel, need) in had_room {
            let Some(view) = self.scheduler.channel(channel) else {
                continue;
            };
            let share = self.share(&view.partition, view.gpu);
            if share.cluster_tpcs <= need && share.size >= need {
                assert!(!share.cluster_short, "{channel} lost its room: {share:?}");
            }
        }
        let mut again = VecDeque::new();
        self.scheduler.step(self.now, Event::Tick, &mut again);
        assert!(again.is_empty(), "nothing happened, yet: {again:?}");
    }

    fn obey(&mut self, commands: &VecDeque<Command>) {
        let mut granted = BTreeSet::new();
        for command in commands {
            match command {
                Command::Grant(grant) => {
                    assert!(!grant.tpcs.is_empty(), "empty grant");
                    assert!(granted.insert(grant.channel), "two grants in one step");
                    let new = (grant.revision, grant.tpcs);
                    let old = self.grants.insert(grant.channel, new);
                    let before = old.map_or(Revision(0), |(revision, _)| revision);
                    assert!(grant.revision > before, "revisions grow");
                }
                Command::AwaitDrain { channel, revision } => {
                    assert_eq!(self.grants[channel].0, *revision, "of the grant just made");
                    self.awaited.insert((*channel, *revision));
                }
                Command::Refuse { why, .. } => {
                    assert!(
                        why.to_string().contains(char::is_numeric) || !why.to_string().is_empty()
                    );
                }
                Command::Accepted(_) => {}
            }
        }
    }

    /// The channels whose partition has room for its clusters, and how many TPCs that takes.
    fn channels_with_room(&self) -> Vec<(ChannelId, u32)> {
        let channels = self.scheduler.channels();
        let shares = channels.map(|c| (c.channel, self.share(&c.partition, c.gpu)));
        let roomy = shares.filter(|(_, s)| !s.owned.is_empty() && !s.cluster_short);
        roomy.map(|(c, share)| (c, share.cluster_tpcs)).collect()
    }

    fn share(&self, partition: &PartitionName, gpu: GpuId) -> ShareView {
        let view = self.scheduler.partition(partition).unwrap();
        let mut shares = view.shares.into_iter();
        shares.find(|share| share.gpu == gpu).unwrap()
    }

    fn check(&self) {
        let partitions: Vec<_> = self.scheduler.partitions().collect();
        for gpu in self.scheduler.gpus() {
            let topology = &self.topologies[gpu.gpu.0 as usize];
            let bits: TpcSet = gpu.tpcs.iter().map(|tpc| tpc.bit).collect();
            assert_eq!(bits, topology.all(), "TPCs are conserved");
            let shares = || {
                let shares = partitions
                    .iter()
                    .flat_map(|p| p.shares.iter().map(move |s| (p, s)));
                shares.filter(|(_, share)| share.gpu == gpu.gpu)
            };
            let (mut owned, mut planned, mut guaranteed) = (TpcSet::EMPTY, TpcSet::EMPTY, 0);
            for (partition, share) in shares() {
                assert!(owned.is_disjoint(share.owned), "masks overlap");
                assert!(planned.is_disjoint(share.planned), "plans overlap");
                owned |= share.owned;
                planned |= share.planned;
                guaranteed += partition.spec.guarantee;
                assert!(
                    share.owned.len() <= partition.spec.ceiling(),
                    "above the ceiling"
                );
                assert_eq!(share.planned.len(), share.size);
                assert!(share.size >= partition.spec.guarantee);
                for &channel in &share.channels {
                    let view = self.scheduler.channel(channel).unwrap();
                    let mask = view.grant.map_or(TpcSet::EMPTY, |grant| grant.tpcs);
                    assert_eq!(mask, share.owned, "a channel has what its partition owns");
                    let lent = view.grant.map_or(TpcSet::EMPTY, |grant| grant.lent);
                    let lenders = shares().filter(|(p, _)| p.spec.lends_to(&partition.spec));
                    let all = lenders.fold(TpcSet::EMPTY, |all, (_, share)| all | share.planned);
                    assert!(lent.is_subset(all - mask), "nobody lends {lent} of {all}");
                }
            }
            assert!(guaranteed <= topology.total(), "guarantees beyond the GPU");
            for tpc in &gpu.tpcs {
                let is_owned = matches!(tpc.state, TpcState::Owned { .. });
                assert_eq!(is_owned, owned.contains(tpc.bit));
            }
            // The point of it all: while a launch may be running on a TPC, no channel of another
            // partition may submit with that TPC.
            let here = |(_, launch): &&(PartitionName, Launch)| launch.gpu == gpu.gpu;
            for (user, launch) in self.launches.iter().filter(here) {
                for (partition, share) in shares() {
                    let name = &partition.spec.name;
                    let others = launch.lent.iter().filter(|(lender, _)| lender != name);
                    let lent = others.fold(TpcSet::EMPTY, |all, &(_, tpcs)| all | tpcs);
                    if name != user {
                        assert!(
                            share.owned.is_disjoint(launch.tpcs | lent),
                            "{name} has TPCs of {launch:?} of {user}",
                        );
                    }
                }
            }
        }
    }

    fn apply(&mut self, choice: &Choice) {
        let pick = |index: usize, len: usize| (len > 0).then(|| index % len.max(1));
        match *choice {
            Choice::Partition {
                name,
                best_effort,
                guarantee,
                ceiling,
                priority,
                borrow,
                only_first_gpu,
            } => {
                let class = match best_effort {
                    true => Class::BestEffort,
                    false => Class::LatencyCritical,
                };
                let name = NAMES[name].parse().unwrap();
                self.step(Event::PartitionSet(PartitionSpec {
                    ceiling,
                    priority,
                    borrow,
                    weight: 1 + guarantee % 3,
                    oversize: Oversize::Widen,
                    gpus: only_first_gpu.then(|| [GpuId(0)].into()),
                    ..PartitionSpec::new(name, class, guarantee)
                }));
            }
            Choice::Delete(name) => {
                let name = NAMES[name % NAMES.len()].parse().unwrap();
                self.step(Event::PartitionDeleted(name));
            }
            Choice::Attach(name) => {
                let tenant = TenantId(self.fresh());
                let partition = NAMES[name % NAMES.len()].parse().unwrap();
                self.step(Event::TenantAttached { tenant, partition });
            }
            Choice::Gone(index) => {
                let tenants = self.tenants();
                if let Some(at) = pick(index, tenants.len()) {
                    let channels: Vec<_> = self.scheduler.channels().collect();
                    for view in channels {
                        if view.tenant == tenants[at] {
                            self.dies(view.channel);
                        }
                    }
                    self.step(Event::TenantGone {
                        tenant: tenants[at],
                    });
                }
            }
            Choice::Open { tenant, gpu } => {
                let tenants = self.tenants();
                if let Some(at) = pick(tenant, tenants.len()) {
                    let channel = ChannelId(self.fresh());
                    self.step(Event::ChannelOpened {
                        channel,
                        tenant: tenants[at],
                        gpu: GpuId(gpu),
                    });
                }
            }
            Choice::Close { channel, died } => {
                if let Some(channel) = self.channel(channel) {
                    if died {
                        self.dies(channel);
                    } else {
                        self.launches.retain(|(_, l)| l.channel != channel);
                    }
                    self.step(Event::ChannelClosed {
                        channel,
                        outstanding: died,
                    });
                }
            }
            Choice::Cluster { channel, ctas } => {
                if let Some(channel) = self.channel(channel) {
                    self.step(Event::ClusterSeen { channel, ctas });
                }
            }
            Choice::Launch(index) => {
                let channel = self.channel(index);
                let view = channel.and_then(|channel| self.scheduler.channel(channel));
                if let Some((view, grant)) = view.and_then(|v| v.grant.map(|g| (v, g))) {
                    let partitions = self.scheduler.partitions().flat_map(|p| {
                        let shares = p.shares.into_iter().filter(|s| s.gpu == view.gpu);
                        shares.map(move |s| (p.spec.name.clone(), s.planned & grant.lent))
                    });
                    let launch = Launch {
                        channel: grant.channel,
                        gpu: view.gpu,
                        revision: grant.revision,
                        tpcs: grant.tpcs,
                        lent: partitions.filter(|(_, lent)| !lent.is_empty()).collect(),
                        ends: None,
                    };
                    self.launches.push((view.partition, launch));
                }
            }
            Choice::Complete(index) => {
                if let Some(at) = pick(index, self.launches.len()) {
                    self.launches.remove(at);
                }
            }
            Choice::Report => self.report(),
            Choice::Pass(nanos) => {
                self.now = self.now.after(Nanos(nanos));
                let now = self.now;
                self.launches
                    .retain(|(_, l)| l.ends.is_none_or(|ends| ends > now));
                self.step(Event::Tick);
            }
            Choice::Restart => self.restart(),
        }
    }

    /// Puts another scheduler in the place of this one: it knows the partitions, and of what runs only
    /// what the one before kept about it.
    fn restart(&mut self) {
        let old = std::mem::replace(
            &mut self.scheduler,
            Scheduler::new(Settings { linger: LINGER }),
        );
        let topologies = (0..).zip(self.topologies.clone());
        let gpus = topologies.map(|(id, topology)| Event::GpuAdded {
            gpu: GpuId(id),
            topology,
        });
        let partitions = old.partitions().map(|p| Event::PartitionSet(p.spec));
        let tenants = old.partitions().flat_map(|p| {
            let attached = move |tenant| Event::TenantAttached {
                tenant,
                partition: p.spec.name.clone(),
            };
            p.tenants.into_iter().map(attached).collect::<Vec<_>>()
        });
        let launches = self.launches.clone();
        let inherited = old.gpus().map(|gpu| Event::Inherited {
            gpu: gpu.gpu,
            held: old.held(gpu.gpu),
            channels: (old.channels())
                .filter(|view| view.gpu == gpu.gpu && view.grant.is_some())
                .map(|view| Left {
                    channel: view.channel,
                    tenant: view.tenant,
                    cluster_ctas: view.cluster_ctas,
                    // What runs is seen in its ring.
                    lent: (launches.iter())
                        .filter(|(_, launch)| launch.channel == view.channel)
                        .flat_map(|(_, launch)| &launch.lent)
                        .map(|&(_, lent)| lent)
                        .chain(view.grant.map(|grant| grant.lent))
                        .fold(TpcSet::EMPTY, |all, lent| all | lent),
                })
                .collect(),
        });
        // Grants count anew, and whatever runs followed an older one.
        self.awaited.clear();
        self.grants.clear();
        for (_, launch) in &mut self.launches {
            launch.revision = Revision(0);
        }
        for view in old.channels().filter(|view| view.grant.is_some()) {
            let none = (Revision(1), TpcSet::EMPTY);
            self.grants.insert(view.channel, none);
        }
        // Whoever waits for a first grant asks again.
        let pending = old.channels().filter(|view| view.grant.is_none());
        let opened = pending.map(|view| Event::ChannelOpened {
            channel: view.channel,
            tenant: view.tenant,
            gpu: view.gpu,
        });
        let inherited = inherited.chain(opened);
        let events = gpus.chain(partitions).chain(tenants).chain(inherited);
        for event in events.collect::<Vec<_>>() {
            let mut out = VecDeque::new();
            self.scheduler.step(self.now, event, &mut out);
            let refused = |command: &Command| matches!(command, Command::Refuse { .. });
            assert!(!out.iter().any(refused), "{out:?}");
            self.obey(&out);
            self.log.extend(out);
        }
        self.check();
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn tenants(&self) -> Vec<TenantId> {
        self.scheduler
            .partitions()
            .flat_map(|p| p.tenants)
            .collect()
    }

    fn channel(&self, index: usize) -> Option<ChannelId> {
        let channels: Vec<_> = self.scheduler.channels().collect();
        let at = index.checked_rem(channels.len())?;
        Some(channels[at].channel)
    }

    /// A channel's launches go on for less than the linger time after its process has died.
    fn dies(&mut self, channel: ChannelId) {
        let ends = Nanos(self.now.0 + LINGER.0);
        let dead = self
            .launches
            .iter_mut()
            .filter(|(_, l)| l.channel == channel);
        dead.for_each(|(_, launch)| launch.ends = Some(ends));
    }

    /// Reports the drains that were asked for and have happened.
    fn report(&mut self) {
        let running = |channel, revision| {
            let mut launches = self.launches.iter();
            launches.any(|(_, l)| l.channel == channel && l.revision < revision)
        };
        let (waiting, drained) = self.awaited.iter().partition(|(c, r)| running(*c, *r));
        let drained: BTreeSet<(ChannelId, Revision)> = drained;
        self.awaited = waiting;
        for (channel, revision) in drained {
            self.step(Event::Drained { channel, revision });
        }
    }

    /// Lets everything that runs complete and be reported, until nobody is asked any more.
    fn come_to_rest(&mut self) {
        let bound = 4 + 4 * self.topologies.iter().map(Topology::total).sum::<u32>();
        for _ in 0..bound {
            self.launches.clear();
            self.now = self.now.after(LINGER);
            self.step(Event::Tick);
            if self.awaited.is_empty() {
                return;
            }
            self.report();
        }
        panic!("drains are asked for without end: {:?}", self.awaited);
    }

    /// What holds once everything has drained.
    fn check_rest(&self) {
        assert_eq!(self.scheduler.next_deadline(), None);
        for gpu in self.scheduler.gpus() {
            for tpc in gpu.tpcs {
                assert!(!matches!(tpc.state, TpcState::InTransit { .. }), "{tpc:?}");
            }
            let topology = &self.topologies[gpu.gpu.0 as usize];
            let partitions: Vec<_> = self.scheduler.partitions().collect();
            let shares = partitions.iter().flat_map(|p| &p.shares);
            let shares: Vec<_> = shares.filter(|s| s.gpu == gpu.gpu).collect();
            let with_clusters = shares.iter().filter(|s| s.cluster_tpcs > 1).count();
            for share in shares {
                if share.channels.is_empty() {
                    continue;
                }
                assert_eq!(share.owned, share.planned, "the plan is reached");
                let possible = share.size >= share.cluster_tpcs
                    && topology.fits(topology.all(), share.cluster_tpcs);
                if possible && with_clusters == 1 {
                    assert!(!share.cluster_short, "{share:?}");
                }
            }
        }
    }
}

fn run(topologies: &[Topology], choices: &[Choice]) -> World {
    let mut world = World::new(topologies.to_vec());
    // Something to begin with, so that most choices find something to act on.
    let begin = (0..NAMES.len()).flat_map(|i| {
        let partition = Choice::Partition {
            name: i,
            best_effort: i % 2 == 0,
            guarantee: 2,
            ceiling: Some(9),
            priority: 0,
            borrow: i % 2 == 0,
            only_first_gpu: false,
        };
        let open = |gpu| Choice::Open { tenant: i, gpu };
        [partition, Choice::Attach(i), open(0), open(1)]
    });
    for choice in begin.collect::<Vec<_>>().iter().chain(choices) {
        world.apply(choice);
    }
    world
}

/// Tries the same random sequences in every run.
fn for_all(check: impl Fn(&[Topology], &[Choice])) {
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, b"who gets what, and who waits for");
    let strategy = (
        prop::collection::vec(topology(), 1..3),
        prop::collection::vec(choice(), 1..120),
    );
    TestRunner::new_with_rng(config, seed)
        .run(&strategy, |(topologies, choices)| {
            check(&topologies, &choices);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn no_launch_runs_on_a_tpc_that_another_partition_may_use() {
    // Everything that `World::check` says holds after every event.
    for_all(|topologies, choices| {
        run(topologies, choices);
    });
}

#[test]
fn shares_are_met_once_drains_arrive() {
    for_all(|topologies, choices| {
        let mut world = run(topologies, choices);
        world.come_to_rest();
        world.check_rest();
    });
}

#[test]
fn the_same_events_give_the_same_commands() {
    for_all(|topologies, choices| {
        let (first, second) = (run(topologies, choices), run(topologies, choices));
        assert_eq!(first.log, second.log);
    });
}
