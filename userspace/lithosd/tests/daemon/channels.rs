// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What tenants get, when, and what becomes of it when others come and go.

use lithos_abi::bindings::LITHOS_GPC_ALONE;
use lithos_abi::grant::GrantReader;
use lithos_device::{Broker, BrokerError};
use lithos_policy::TpcSet;
use lithosd::control::Reply;

use crate::harness::*;

fn whole_gpu() -> TpcSet {
    [0..4, 9..13, 18..22, 75..76]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn channels_of_different_partitions_never_share_a_tpc() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenants: Vec<_> = ["a", "b", "pool"].map(|name| daemon.tenant(name)).into();
    let channels: Vec<_> = tenants
        .iter_mut()
        .map(|t| t.create_channel(GPU0, 7).unwrap())
        .collect();
    let masks: Vec<TpcSet> = channels.iter().map(granted).collect();
    assert_eq!([masks[0].len(), masks[1].len()], [4, 4], "{masks:?}");
    assert_eq!(masks[2].len(), 5, "{masks:?}");
    let union = masks
        .iter()
        .fold(TpcSet::EMPTY, |union, &mask| union | mask);
    assert_eq!(union, whole_gpu());
}

#[test]
fn all_channels_of_a_partition_have_the_same_tpcs() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut one, mut two) = (daemon.tenant("a"), daemon.tenant("a"));
    let first = one.create_channel(GPU0, 1).unwrap();
    let second = one.create_channel(GPU0, 2).unwrap();
    let third = two.create_channel(GPU0, 1).unwrap();
    assert_eq!(granted(&first), granted(&second));
    assert_eq!(granted(&first), granted(&third));
    assert_ne!(first.id(), second.id());
}

#[test]
fn a_channel_is_told_the_terms_of_its_gpu_and_partition() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 7).unwrap();
    let terms = channel.terms();
    assert_eq!(TpcSet::from_words(terms.present), whole_gpu());
    assert_eq!((terms.gpc[0], terms.gpc[9], terms.gpc[21]), (0, 1, 2));
    assert_eq!(u32::from(terms.gpc[75]), LITHOS_GPC_ALONE);
    assert_eq!(
        (terms.tpc_sms, terms.records, terms.gpu_index),
        (2, 16_384, 0)
    );
    let status = daemon.channel(channel.id()).unwrap();
    assert_eq!((status.context, status.sms), (7, 8));
}

#[test]
fn the_grant_page_cannot_be_written_by_its_tenant() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 7).unwrap();
    use std::os::unix::fs::FileExt;
    let page = std::fs::File::from(channel.descriptors()[0].try_clone().unwrap());
    assert!(page.write_all_at(&[0; 8], 0).is_err());
}

#[test]
fn a_partition_that_is_set_smaller_gives_up_tpcs_at_the_next_launch() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 7).unwrap();
    let before = granted(&channel);
    assert!(matches!(daemon.set_guarantee("a", 2), Reply::Partition(_)));
    let after = granted(&channel);
    assert_eq!(after.len(), 2);
    assert!(after.is_subset(before));
}

#[test]
fn tpcs_are_in_transit_until_the_last_launch_on_them_has_its_stamp() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut a, mut pool) = (daemon.tenant("a"), daemon.tenant("pool"));
    let owner = a.create_channel(GPU0, 1).unwrap();
    let heir = pool.create_channel(GPU0, 1).unwrap();
    let before = granted(&owner);
    let launches = [launch(&owner), launch(&owner)];
    daemon.set_guarantee("a", 1);
    let revoked = before - granted(&owner);
    assert_eq!(revoked.len(), 3);
    complete(&owner, launches[1]);
    eventually("the second launch is known to have completed", || {
        daemon.channel(owner.id()).unwrap().totals.completed == 1
    });
    let transit = daemon.status().transit;
    assert_eq!(transit.len(), 1, "{transit:?}");
    assert_eq!(transit[0].tpcs, revoked);
    assert_eq!(
        (transit[0].from.as_str(), transit[0].to.as_deref()),
        ("a", Some("pool"))
    );
    let awaiting = &transit[0].awaiting[0];
    assert_eq!(
        (awaiting.channel, awaiting.drains[0].oldest),
        (owner.id(), Some(launches[0]))
    );
    assert!(granted(&heir).is_disjoint(before));

    let later = launch(&owner);
    complete(&owner, launches[0]);
    eventually("the TPCs have passed on", || {
        revoked.is_subset(granted(&heir))
    });
    let status = daemon.status();
    assert!(status.transit.is_empty(), "{:?}", status.transit);
    let channel = daemon.channel(owner.id()).unwrap();
    assert_eq!((channel.outstanding, channel.totals.violations), (1, 0));
    complete(&owner, later);
}

#[test]
fn a_tenant_that_disconnects_leaves_its_tpcs_to_others() {
    let daemon = Daemon::start(
        "[[partition]]\nname = \"x\"\nclass = \"be\"\n[[partition]]\nname = \"y\"\nclass = \"be\"\n",
    );
    let (mut x, mut y) = (daemon.tenant("x"), daemon.tenant("y"));
    let one = x.create_channel(GPU0, 1).unwrap();
    let two = y.create_channel(GPU0, 1).unwrap();
    assert!(granted(&two).is_disjoint(granted(&one)));
    drop(x);
    eventually("the other has all TPCs", || granted(&two) == whole_gpu());
    eventually("the page says that the channel has ended", || {
        GrantReader::is_retired(&one.grant())
    });
    assert_eq!(daemon.status().tenants.len(), 1);
}

#[test]
fn a_tenant_with_launches_outstanding_keeps_its_tpcs_for_a_while_after_its_end() {
    let partitions = "[limits]\nlinger_ms = 60000\n[[partition]]\nname = \"x\"\nclass = \"be\"\n\
                      [[partition]]\nname = \"y\"\nclass = \"be\"\n";
    let daemon = Daemon::start(partitions);
    let (mut x, mut y) = (daemon.tenant("x"), daemon.tenant("y"));
    let one = x.create_channel(GPU0, 1).unwrap();
    let two = y.create_channel(GPU0, 1).unwrap();
    launch(&one);
    drop(x);
    eventually("the tenant has ended", || {
        daemon.status().tenants.len() == 1
    });
    let transit = daemon.status().transit;
    assert_eq!(transit[0].tpcs, granted(&one), "{transit:?}");
    assert!(transit[0].linger_ms.is_some() && transit[0].awaiting.is_empty());
    assert!(granted(&two).is_disjoint(granted(&one)));
}

#[test]
fn a_destroyed_channel_is_gone_and_its_id_is_not_used_again() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let first = tenant.create_channel(GPU0, 1).unwrap();
    tenant.destroy_channel(first.id()).unwrap();
    assert!(first.grant().is_retired());
    assert!(daemon.channel(first.id()).is_none());
    let error = tenant.destroy_channel(first.id()).unwrap_err();
    assert!(
        matches!(
            error,
            BrokerError::Refused {
                errno: libc::ENOENT,
                ..
            }
        ),
        "{error}"
    );
    let second = tenant.create_channel(GPU0, 1).unwrap();
    assert_ne!(first.id(), second.id());
}

#[test]
fn a_tenant_that_waits_is_answered_when_tpcs_come_free() {
    let all = "[[partition]]\nname = \"all\"\nclass = \"lc\"\nguarantee = 13\n\
               [[partition]]\nname = \"pool\"\nclass = \"be\"\n";
    let daemon = Daemon::start(all);
    let mut owner = daemon.tenant("all");
    let channel = owner.create_channel(GPU0, 1).unwrap();
    let sequence = launch(&channel);
    let socket = daemon.socket();
    let waiter = std::thread::spawn(move || {
        let mut broker = lithos_device::embedded::SocketBroker::connect(&socket).unwrap();
        broker.attach("pool").unwrap();
        let channel = broker.create_channel(GPU0, 2).unwrap();
        (granted(&channel), broker)
    });
    eventually("the second channel waits", || {
        daemon.status().channels.len() == 2
    });
    daemon.set_guarantee("all", 10);
    assert_eq!(granted(&channel).len(), 10);
    assert!(!waiter.is_finished());
    complete(&channel, sequence);
    let (mask, _broker) = waiter.join().unwrap();
    assert!(
        !mask.is_empty() && mask.is_disjoint(granted(&channel)),
        "{mask}"
    );
}

#[test]
fn a_wait_that_is_over_says_what_was_waited_for() {
    let all = "[limits]\ngrant_wait_ms = 50\n[[partition]]\nname = \"all\"\nclass = \"lc\"\n\
               guarantee = 13\n[[partition]]\nname = \"pool\"\nclass = \"be\"\n";
    let daemon = Daemon::start(all);
    let mut pool = daemon.tenant("pool");
    let error = pool.create_channel(GPU0, 1).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("waited 50 ms") && text.contains("partition pool has none"),
        "{text}"
    );
    let mut owner = daemon.tenant("all");
    let channel = owner.create_channel(GPU0, 1).unwrap();
    launch(&channel);
    daemon.set_guarantee("all", 10);
    let error = pool.create_channel(GPU0, 1).unwrap_err().to_string();
    assert!(
        error.contains("launches have not completed on TPCs"),
        "{error}"
    );
    assert_eq!(daemon.status().channels.len(), 1);
}

#[test]
fn gpus_are_shared_independently() {
    let on_one = format!(
        "{PARTITIONS}\n[[partition]]\nname = \"one\"\nclass = \"lc\"\nguarantee = 1\ngpus = [1]\n"
    );
    let daemon = Daemon::start_in(directory(&[GPU0, GPU1]), &on_one);
    let mut tenant = daemon.tenant("a");
    let first = tenant.create_channel(GPU0, 1).unwrap();
    let second = tenant.create_channel(GPU1, 2).unwrap();
    assert_eq!((first.terms().gpu_index, second.terms().gpu_index), (0, 1));
    assert_eq!((granted(&first).len(), granted(&second).len()), (4, 4));
    let mut one = daemon.tenant("one");
    let error = one.create_channel(GPU0, 1).unwrap_err().to_string();
    assert!(error.contains("does not exist on GPU 0"), "{error}");
    assert_eq!(granted(&one.create_channel(GPU1, 1).unwrap()).len(), 1);
}

#[test]
fn a_channel_that_launches_clusters_is_given_room_for_them() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("pool");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let ring = channel.ring();
    let sequence = ring.reserve();
    assert!(ring.claim(sequence, None));
    ring.write(&lithos_abi::lithos_record {
        sequence,
        grant: 1,
        tpcs: lithos_abi::lithos_tpcs {
            words: granted(&channel).words(),
        },
        stream: 1,
        cluster: [8, 1, 1],
        flags: lithos_abi::bindings::LITHOS_RECORD_STAMPED,
        ..lithos_abi::lithos_record::default()
    });
    eventually("the cluster is seen", || {
        daemon.channel(channel.id()).unwrap().totals.cluster_ctas == 8
    });
    complete(&channel, sequence);
    let gpcs: [TpcSet; 3] = [(0..4).collect(), (9..13).collect(), (18..22).collect()];
    eventually("a whole GPC is granted", || {
        gpcs.iter().any(|gpc| gpc.is_subset(granted(&channel)))
    });
}
