// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the scheduler does, situation by situation.

use std::collections::VecDeque;

use lithos_policy::{
    ChannelId, Class, Command, Event, GpuId, Grant, Nanos, Oversize, PartitionSpec, PartitionView,
    Refusal, Request, Revision, Scheduler, Settings, ShareView, TenantId, Topology, Tpc, TpcSet,
    TpcState,
};

const GPU: GpuId = GpuId(0);

/// Four GPCs of four TPCs: bits 0 to 3, 10 to 13, 20 to 23 and 30 to 33. No TPC is alone.
fn four_by_four() -> Topology {
    topology((0..4).flat_map(|gpc| (0..4).map(move |i| (10 * gpc + i, Some(gpc)))))
}

fn topology(tpcs: impl IntoIterator<Item = (u8, Option<u8>)>) -> Topology {
    Topology::new(tpcs.into_iter().map(|(bit, gpc)| Tpc { bit, gpc })).unwrap()
}

fn lc(name: &str, guarantee: u32) -> PartitionSpec {
    PartitionSpec::new(name.parse().unwrap(), Class::LatencyCritical, guarantee)
}

fn be(name: &str, guarantee: u32) -> PartitionSpec {
    PartitionSpec::new(name.parse().unwrap(), Class::BestEffort, guarantee)
}

fn up_to(ceiling: u32, spec: PartitionSpec) -> PartitionSpec {
    PartitionSpec {
        ceiling: Some(ceiling),
        ..spec
    }
}

/// A scheduler with a clock, one tenant per partition and as little ceremony as possible.
struct World {
    scheduler: Scheduler,
    now: Nanos,
}

impl World {
    fn new(partitions: impl IntoIterator<Item = PartitionSpec>) -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(Settings::default()),
            now: Nanos(0),
        };
        world.ok(Event::GpuAdded {
            gpu: GPU,
            topology: four_by_four(),
        });
        for spec in partitions {
            world.ok(Event::PartitionSet(spec));
        }
        world
    }

    fn step(&mut self, event: Event) -> Vec<Command> {
        let mut out = VecDeque::new();
        self.scheduler.step(self.now, event, &mut out);
        out.into()
    }

    fn ok(&mut self, event: Event) -> Vec<Command> {
        let commands = self.step(event);
        let refused = |command: &Command| matches!(command, Command::Refuse { .. });
        assert!(!commands.iter().any(refused), "{commands:?}");
        commands
    }

    fn refused(&mut self, event: Event) -> Refusal {
        let before = format!("{:?}", self.scheduler);
        let mut commands = self.step(event);
        assert_eq!(format!("{:?}", self.scheduler), before);
        match (commands.pop(), commands.is_empty()) {
            (Some(Command::Refuse { why, .. }), true) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a channel of a new tenant of a partition, with one id for both.
    fn open(&mut self, id: u64, partition: &str) -> Vec<Command> {
        self.ok(Event::TenantAttached {
            tenant: TenantId(id),
            partition: partition.parse().unwrap(),
        });
        self.ok(Event::ChannelOpened {
            channel: ChannelId(id),
            tenant: TenantId(id),
            gpu: GPU,
        })
    }

    fn close(&mut self, id: u64, outstanding: bool) -> Vec<Command> {
        self.ok(Event::ChannelClosed {
            channel: ChannelId(id),
            outstanding,
        })
    }

    fn drained(&mut self, id: u64, revision: u64) -> Vec<Command> {
        self.ok(Event::Drained {
            channel: ChannelId(id),
            revision: Revision(revision),
        })
    }

    fn cluster(&mut self, id: u64, ctas: u32) -> Vec<Command> {
        self.ok(Event::ClusterSeen {
            channel: ChannelId(id),
            ctas,
        })
    }

    fn view(&self, partition: &str) -> PartitionView {
        let name = partition.parse().unwrap();
        self.scheduler.partition(&name).unwrap()
    }

    fn share(&self, partition: &str) -> ShareView {
        self.view(partition).shares.remove(0)
    }

    fn mask(&self, id: u64) -> Option<TpcSet> {
        let channel = self.scheduler.channel(ChannelId(id)).unwrap();
        channel.grant.map(|grant| grant.tpcs)
    }

    fn in_transit(&self) -> Vec<TpcState> {
        let gpu = self.scheduler.gpus().next().unwrap();
        let states = gpu.tpcs.into_iter().map(|tpc| tpc.state);
        states
            .filter(|state| matches!(state, TpcState::InTransit { .. }))
            .collect()
    }
}

fn grants(commands: &[Command]) -> Vec<(u64, u64, u32)> {
    let grants = commands.iter().filter_map(|command| match command {
        Command::Grant(grant) => Some(grant),
        _ => None,
    });
    grants
        .map(|g| (g.channel.0, g.revision.0, g.tpcs.len()))
        .collect()
}

fn awaits(commands: &[Command]) -> Vec<(u64, u64)> {
    let awaits = commands.iter().filter_map(|command| match command {
        Command::AwaitDrain { channel, revision } => Some((channel.0, revision.0)),
        _ => None,
    });
    awaits.collect()
}

#[test]
fn a_channel_is_granted_its_partitions_guarantee_at_once() {
    let mut world = World::new([lc("chat", 6), be("train", 4)]);
    let commands = world.open(1, "chat");
    assert_eq!(
        commands[0],
        Command::Accepted(Request::ChannelOpened(ChannelId(1)))
    );
    assert_eq!(grants(&commands), [(1, 1, 6)]);
    assert_eq!(grants(&world.open(2, "train")), [(2, 1, 4)]);
    assert!(world.mask(1).unwrap().is_disjoint(world.mask(2).unwrap()));
}

#[test]
fn tenants_of_one_partition_share_its_tpcs() {
    let mut world = World::new([lc("chat", 6)]);
    world.open(1, "chat");
    assert_eq!(grants(&world.open(2, "chat")), [(2, 1, 6)]);
    assert_eq!(world.mask(1), world.mask(2));
}

#[test]
fn a_guarantee_that_does_not_fit_is_refused_with_the_numbers() {
    let mut world = World::new([lc("chat", 10)]);
    let why = world.refused(Event::PartitionSet(lc("train", 7)));
    assert_eq!(
        why,
        Refusal::NoRoom {
            gpu: GPU,
            asked: 7,
            free: 6,
            total: 16,
            kept: 0
        }
    );
    assert_eq!(
        why.to_string(),
        "asked for 7 of the 16 TPCs of GPU 0, 6 are free; ask for at most 6, or lower another \
         guarantee"
    );
    world.ok(Event::PartitionSet(lc("train", 6)));
    world.ok(Event::PartitionSet(lc("chat", 9)));
}

#[test]
fn a_ceiling_below_the_guarantee_and_a_ceiling_of_none_are_refused() {
    let mut world = World::new([]);
    let why = world.refused(Event::PartitionSet(up_to(3, lc("chat", 4))));
    assert!(why.to_string().contains("it must be 4 or more"), "{why}");
    let why = world.refused(Event::PartitionSet(up_to(0, lc("chat", 0))));
    assert_eq!(why, Refusal::CeilingZero);
}

#[test]
fn a_partition_goes_only_without_tenants() {
    let mut world = World::new([lc("chat", 4)]);
    world.open(1, "chat");
    let delete = || Event::PartitionDeleted("chat".parse().unwrap());
    assert_eq!(world.refused(delete()), Refusal::HasTenants { tenants: 1 });
    world.ok(Event::TenantGone {
        tenant: TenantId(1),
    });
    world.ok(delete());
    let why = world.refused(delete());
    assert!(matches!(why, Refusal::UnknownPartition { .. }), "{why:?}");
}

#[test]
fn what_is_unknown_or_known_already_is_refused() {
    let mut world = World::new([lc("chat", 4)]);
    world.open(1, "chat");
    let tenant = TenantId(9);
    let channel = ChannelId(9);
    for event in [
        Event::GpuAdded {
            gpu: GPU,
            topology: four_by_four(),
        },
        Event::TenantAttached {
            tenant: TenantId(1),
            partition: "chat".parse().unwrap(),
        },
        Event::TenantAttached {
            tenant,
            partition: "chess".parse().unwrap(),
        },
        Event::TenantGone { tenant },
        Event::ChannelOpened {
            channel: ChannelId(1),
            tenant: TenantId(1),
            gpu: GPU,
        },
        Event::ChannelOpened {
            channel,
            tenant,
            gpu: GPU,
        },
        Event::ChannelOpened {
            channel,
            tenant: TenantId(1),
            gpu: GpuId(7),
        },
        Event::ChannelClosed {
            channel,
            outstanding: false,
        },
        Event::ClusterSeen { channel, ctas: 2 },
        Event::Drained {
            channel: ChannelId(1),
            revision: Revision(2),
        },
        Event::PartitionSet(PartitionSpec {
            gpus: Some([GpuId(7)].into()),
            ..lc("chess", 1)
        }),
        Event::PartitionSet(PartitionSpec {
            gpus: Some([].into()),
            ..lc("chess", 1)
        }),
    ] {
        world.refused(event);
    }
}

#[test]
fn a_report_about_a_channel_that_has_closed_is_no_error() {
    let mut world = World::new([lc("chat", 4)]);
    world.open(1, "chat");
    world.close(1, false);
    assert_eq!(world.drained(1, 1), []);
}

#[test]
fn setting_a_partition_to_what_it_is_changes_nothing() {
    let mut world = World::new([up_to(9, lc("chat", 4))]);
    world.open(1, "chat");
    let commands = world.ok(Event::PartitionSet(up_to(9, lc("chat", 4))));
    let accepted = Command::Accepted(Request::PartitionSet("chat".parse().unwrap()));
    assert_eq!(commands, [accepted]);
}

#[test]
fn a_larger_guarantee_is_in_force_at_once_where_tpcs_are_free() {
    let mut world = World::new([lc("chat", 4)]);
    world.open(1, "chat");
    let before = world.mask(1).unwrap();
    let commands = world.ok(Event::PartitionSet(lc("chat", 9)));
    assert_eq!(grants(&commands), [(1, 2, 9)]);
    assert_eq!(awaits(&commands), []);
    assert!(before.is_subset(world.mask(1).unwrap()));
}

#[test]
fn a_tpc_passes_on_only_when_the_last_launch_has_completed() {
    let mut world = World::new([up_to(16, be("train", 4))]);
    world.open(1, "train");
    world.open(2, "train");
    assert_eq!(world.mask(1).unwrap().len(), 16);
    world.ok(Event::PartitionSet(lc("chat", 12)));
    world.now = Nanos(5);
    assert_eq!(world.mask(1).unwrap().len(), 4);
    let waiting = world.open(3, "chat");
    assert_eq!(grants(&waiting), []);
    assert_eq!(world.mask(3), None);

    // Two channels must drain; a report about an older grant is not enough.
    assert_eq!(world.drained(1, 2), []);
    assert_eq!(world.drained(2, 1), []);
    let transit = world.in_transit();
    assert_eq!(transit.len(), 12);
    for state in transit {
        assert_eq!(
            state,
            TpcState::InTransit {
                from: "train".parse().unwrap(),
                to: Some("chat".parse().unwrap()),
                since: Nanos(0),
                awaiting: vec![ChannelId(2)],
                linger_until: None,
            }
        );
    }
    assert_eq!(grants(&world.drained(2, 2)), [(3, 1, 12)]);
    assert_eq!(world.in_transit(), []);
}

#[test]
fn a_revoked_tpc_that_comes_back_is_granted_again_at_once() {
    let mut world = World::new([lc("chat", 9)]);
    world.open(1, "chat");
    let before = world.mask(1);
    let commands = world.ok(Event::PartitionSet(lc("chat", 5)));
    assert_eq!(
        (grants(&commands), awaits(&commands)),
        (vec![(1, 2, 5)], vec![(1, 2)])
    );
    assert_eq!(world.in_transit().len(), 4);
    let commands = world.ok(Event::PartitionSet(lc("chat", 9)));
    assert_eq!(
        (grants(&commands), awaits(&commands)),
        (vec![(1, 3, 9)], vec![])
    );
    assert_eq!(world.mask(1), before);
    // The drain that was asked for has become meaningless, and says nothing about later grants.
    assert_eq!(world.drained(1, 2), []);
    world.ok(Event::PartitionSet(lc("chat", 5)));
    assert_eq!(world.in_transit().len(), 4);
    world.drained(1, 3);
    assert_eq!(world.in_transit().len(), 4);
    world.drained(1, 4);
    assert_eq!(world.in_transit().len(), 0);
}

#[test]
fn the_tpcs_of_a_process_that_died_linger() {
    let mut world = World::new([be("train", 10)]);
    world.open(1, "train");
    world.now = Nanos::from_secs(7);
    world.ok(Event::TenantGone {
        tenant: TenantId(1),
    });
    assert_eq!(world.in_transit().len(), 10);
    world.ok(Event::PartitionDeleted("train".parse().unwrap()));
    world.ok(Event::PartitionSet(lc("chat", 16)));
    assert_eq!(grants(&world.open(2, "chat")), [(2, 1, 6)]);
    assert_eq!(world.scheduler.next_deadline(), Some(Nanos::from_secs(8)));
    world.now = Nanos(7_999_999_999);
    assert_eq!(world.step(Event::Tick), []);
    world.now = Nanos::from_secs(8);
    assert_eq!(grants(&world.step(Event::Tick)), [(2, 2, 16)]);
    assert_eq!(world.scheduler.next_deadline(), None);
}

#[test]
fn launches_of_a_dead_channel_are_waited_for_even_after_its_partition_had_the_tpcs_again() {
    let mut world = World::new([be("train", 10)]);
    world.open(1, "train");
    world.close(1, true);
    // The same partition may have them at once ...
    assert_eq!(grants(&world.open(2, "train")), [(2, 1, 10)]);
    // ... but nobody else before the dead one's launches have ended.
    world.close(2, false);
    world.ok(Event::PartitionSet(be("train", 0)));
    world.ok(Event::PartitionSet(lc("chat", 16)));
    assert_eq!(grants(&world.open(3, "chat")), [(3, 1, 6)]);
    world.now = Nanos::from_secs(1);
    assert_eq!(grants(&world.step(Event::Tick)), [(3, 2, 16)]);
}

#[test]
fn a_channel_that_closes_with_nothing_outstanding_frees_its_tpcs_at_once() {
    let mut world = World::new([up_to(16, lc("chat", 4)), up_to(16, be("train", 4))]);
    world.open(1, "chat");
    assert_eq!(world.mask(1).unwrap().len(), 12);
    world.open(2, "train");
    assert_eq!(world.mask(2).unwrap().len(), 4);
    assert_eq!(grants(&world.close(1, false)), [(2, 2, 12)]);
}

#[test]
fn a_partition_without_guarantee_waits_for_a_free_tpc() {
    let mut world = World::new([up_to(16, lc("chat", 4)), be("scavenger", 0)]);
    world.open(1, "chat");
    assert_eq!(grants(&world.open(2, "scavenger")), []);
    let pending = world.scheduler.channel(ChannelId(2)).unwrap();
    assert_eq!(pending.grant, None);
    let commands = world.ok(Event::PartitionSet(up_to(10, lc("chat", 4))));
    assert_eq!(grants(&commands), [(1, 2, 10)]);
    assert_eq!(grants(&world.drained(1, 2)), [(2, 1, 6)]);
}

#[test]
fn a_running_channel_without_guarantee_keeps_one_tpc() {
    let mut world = World::new([be("scavenger", 0)]);
    world.open(1, "scavenger");
    assert_eq!(world.mask(1).unwrap().len(), 16);
    let why = world.refused(Event::PartitionSet(lc("chat", 16)));
    assert_eq!(
        why,
        Refusal::NoRoom {
            gpu: GPU,
            asked: 16,
            free: 15,
            total: 16,
            kept: 1
        }
    );
    assert!(why.to_string().contains("at most 15"), "{why}");
    world.ok(Event::PartitionSet(lc("chat", 15)));
    assert_eq!(world.mask(1).unwrap().len(), 1);
}

#[test]
fn guaranteed_tpcs_of_a_partition_without_channels_stay_free_for_it() {
    let mut world = World::new([lc("chat", 10), be("scavenger", 0)]);
    world.open(1, "scavenger");
    assert_eq!(world.mask(1).unwrap().len(), 6);
    let gpu = world.scheduler.gpus().next().unwrap();
    let chat = TpcState::Reserved {
        partition: "chat".parse().unwrap(),
    };
    assert_eq!(gpu.pool, 6);
    assert_eq!(gpu.tpcs.iter().filter(|tpc| tpc.state == chat).count(), 10);
    assert_eq!(grants(&world.open(2, "chat")), [(2, 1, 10)]);
}

#[test]
fn a_channel_that_launches_clusters_gets_room_in_one_gpc() {
    let mut world = World::new([up_to(3, be("a", 3)), be("b", 3), be("c", 3), lc("chat", 7)]);
    for (id, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "chat")] {
        world.open(id, name);
    }
    assert!(!world.share("chat").cluster_short);
    let before = world.mask(4).unwrap();
    let mut commands = world.cluster(4, 8);
    // Everyone drains until nobody is asked any more.
    while let Some((id, revision)) = awaits(&commands).first().copied() {
        commands = world.drained(id, revision);
        for id in 1..=4 {
            assert!(!world.mask(id).unwrap().is_empty());
        }
    }
    let after = world.mask(4).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(four_by_four().fits(after, 4), "{before} -> {after}");
    let share = world.share("chat");
    assert_eq!((share.cluster_tpcs, share.cluster_short), (4, false));
}

#[test]
fn a_partition_too_small_for_its_clusters_says_so() {
    let mut world = World::new([lc("chat", 3)]);
    world.open(1, "chat");
    assert_eq!(grants(&world.cluster(1, 8)), []);
    assert!(world.share("chat").cluster_short);
    world.ok(Event::PartitionSet(lc("chat", 4)));
    assert!(!world.share("chat").cluster_short);
    world.cluster(1, 16);
    assert!(world.share("chat").cluster_short);
    world.close(1, false);
    assert!(!world.share("chat").cluster_short);
}

#[test]
fn what_becomes_of_oversized_launches_is_granted_anew_when_it_changes() {
    let mut world = World::new([lc("chat", 3)]);
    world.open(1, "chat");
    let commands = world.ok(Event::PartitionSet(PartitionSpec {
        oversize: Oversize::Refuse,
        ..lc("chat", 3)
    }));
    let grant = Grant {
        channel: ChannelId(1),
        revision: Revision(2),
        tpcs: world.mask(1).unwrap(),
        lent: TpcSet::EMPTY,
        oversize: Oversize::Refuse,
    };
    assert_eq!(commands[1..], [Command::Grant(grant)]);
}

#[test]
fn gpus_are_independent_of_each_other() {
    let mut world = World::new([lc("everywhere", 4)]);
    let second = GpuId(1);
    world.ok(Event::GpuAdded {
        gpu: second,
        topology: topology([0, 5, 7, 9, 11, 13].map(|bit| (bit, Some(0)))),
    });
    let on_second = PartitionSpec {
        gpus: Some([second].into()),
        ..be("second", 2)
    };
    world.ok(Event::PartitionSet(on_second.clone()));
    let why = world.refused(Event::PartitionSet(be("third", 1)));
    assert!(matches!(why, Refusal::NoRoom { gpu, free: 0, .. } if gpu == second));
    world.open(1, "everywhere");
    let open_on_second = |channel, tenant| Event::ChannelOpened {
        channel: ChannelId(channel),
        tenant: TenantId(tenant),
        gpu: second,
    };
    let commands = world.ok(open_on_second(2, 1));
    assert_eq!(grants(&commands), [(2, 1, 4)]);
    world.ok(Event::TenantAttached {
        tenant: TenantId(3),
        partition: "second".parse().unwrap(),
    });
    let why = world.refused(Event::ChannelOpened {
        channel: ChannelId(3),
        tenant: TenantId(3),
        gpu: GPU,
    });
    assert_eq!(
        why.to_string(),
        "partition second does not exist on GPU 0, but on 1"
    );
    assert_eq!(grants(&world.ok(open_on_second(3, 3))), [(3, 1, 2)]);
    let why = world.refused(Event::PartitionSet(PartitionSpec {
        gpus: Some([GPU].into()),
        ..on_second
    }));
    assert_eq!(
        why,
        Refusal::ChannelsOnGpu {
            gpu: second,
            channels: 1
        }
    );
    let small = topology([0, 1, 2].map(|bit| (bit, None)));
    let why = world.refused(Event::GpuAdded {
        gpu: GpuId(2),
        topology: small,
    });
    assert_eq!(
        why,
        Refusal::GpuTooSmall {
            gpu: GpuId(2),
            guaranteed: 4,
            total: 3
        }
    );
}
