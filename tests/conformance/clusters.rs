// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Clusters, which fit inside a GPC or nowhere.
//!
//! Which TPCs share a GPC is found out without anything that could hang, as `lithosd` does it: clusters of
//! four blocks with an SM each need two TPCs of one GPC, so a GPC with an even number of TPCs has room for
//! one cluster less when it loses one, and a GPC with an odd number does not.

use lithos_descriptor::TpcMask;
use lithos_tests::cuda::Shape;

use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, TPC_SMS, nothing, only, without};

statements! {
    Ends:
        the_driver_masks_no_cluster_of_one_or_two_blocks
        the_driver_disables_tpcs_72_to_127_for_clusters_of_more_than_two_blocks
        a_cluster_runs_on_two_tpcs_of_one_gpc
        a_tpc_without_company_hosts_a_cluster_of_two_blocks
        every_block_of_a_cluster_has_an_sm_to_itself_among_the_cluster;
    Hangs:
        a_cluster_across_two_gpcs_hangs
        a_cluster_for_which_the_mask_leaves_too_few_tpcs_hangs
        a_cluster_of_more_blocks_than_the_mask_leaves_sms_hangs_however_small_they_are
        a_tpc_without_company_hosts_no_cluster_wider_than_itself;
}

/// Blocks of the clusters that need two TPCs.
const BLOCKS: u32 = 4;
/// The bit of the first TPC that may be without company.
const FIRST_LONE_BIT: u32 = 72;

/// So many clusters of blocks with an SM each.
fn clusters(subject: &Subject, count: u32, blocks: u32) -> Shape {
    subject
        .whole_sms(count * blocks)
        .in_clusters([blocks, 1, 1])
}

/// How many clusters run at once on the whole GPU.
fn room(subject: &Subject) -> u32 {
    let runs = |&count: &u32| subject.meets(&clusters(subject, count, BLOCKS), nothing);
    let room = (1..).take_while(runs).last().expect("room for one cluster");
    // With two TPCs less one is left at least.
    assert!(room >= 3, "room for {room} clusters");
    room
}

/// Two TPCs of one GPC, and two of two.
fn pairs(subject: &Subject) -> (TpcMask, TpcMask) {
    let room = room(subject);
    let has_room = |count, gone| {
        let shape = clusters(subject, count, BLOCKS);
        subject.meets(&shape, without(gone))
    };
    let (mut first, mut together, mut apart) = (None, None, None);
    for bit in (0..TpcMask::BITS).filter(|&bit| subject.is_present(bit)) {
        let tpc = TpcMask::single(bit);
        if has_room(room, tpc) {
            // Of a GPC with an odd number of TPCs.
            apart = apart.or(first.map(|first| first | tpc));
            continue;
        }
        match first {
            None => first = Some(tpc),
            Some(first) if has_room(room - 1, first | tpc) => together = Some(first | tpc),
            Some(first) => apart = Some(first | tpc),
        }
        if together.is_some() && apart.is_some() {
            break;
        }
    }
    (
        together.expect("two TPCs of a GPC with an even number"),
        apart.expect("two TPCs of two GPCs"),
    )
}

/// A TPC that shares no GPC.
fn lone_tpc(subject: &Subject) -> TpcMask {
    let mut lone = (FIRST_LONE_BIT..TpcMask::BITS).filter(|&bit| subject.is_present(bit));
    TpcMask::single(lone.next().expect("a TPC without company"))
}

/// The TPCs that the driver leaves to a cluster.
fn left_by_the_driver(subject: &Subject, cluster: [u32; 3]) -> TpcMask {
    let shape = Shape::grid(cluster, 32).in_clusters(cluster);
    let upload = subject.launch_trace(&shape, &subject.stream, nothing);
    subject.stream.synchronize().expect("the end of the launch");
    upload.descriptor.allowed()
}

fn the_driver_masks_no_cluster_of_one_or_two_blocks() {
    let subject = Subject::new();
    for cluster in [[2, 1, 1], [1, 2, 1], [1, 1, 2]] {
        let left = left_by_the_driver(&subject, cluster);
        assert_eq!(left, TpcMask::ALL, "{cluster:?}");
    }
    // One block is asked for as a plain grid, too.
    let plain = left_by_the_driver(&subject, [1; 3]);
    assert_eq!(plain, TpcMask::ALL);
}

fn the_driver_disables_tpcs_72_to_127_for_clusters_of_more_than_two_blocks() {
    let subject = Subject::new();
    for cluster in [[3, 1, 1], [4, 1, 1], [2, 2, 1], [2, 2, 2], [8, 1, 1]] {
        let left = left_by_the_driver(&subject, cluster);
        assert_eq!(left, (0..FIRST_LONE_BIT).collect(), "{cluster:?}");
    }
}

fn a_cluster_runs_on_two_tpcs_of_one_gpc() {
    let subject = Subject::new();
    let (together, _) = pairs(&subject);
    assert!(subject.meets(&clusters(&subject, 1, BLOCKS), only(together)));
}

fn a_tpc_without_company_hosts_a_cluster_of_two_blocks() {
    let subject = Subject::new();
    let tpc = lone_tpc(&subject);
    assert!(subject.meets(&clusters(&subject, 1, 2), only(tpc)));
}

fn every_block_of_a_cluster_has_an_sm_to_itself_among_the_cluster() {
    let subject = Subject::new();
    let (together, _) = pairs(&subject);
    // Small enough for all of them to fit on one SM.
    let shape = Shape::row(BLOCKS, 32).in_clusters([BLOCKS, 1, 1]);
    let meeting = Meeting::new();
    subject.launch_meeting(&meeting, &shape, &subject.stream, only(together));
    subject.stream.synchronize().expect("the end of the launch");
    assert_eq!(meeting.sms(), BLOCKS);
}

/// Launches one cluster on these TPCs, and waits for its end.
fn launch_on(subject: &Subject, tpcs: TpcMask, shape: &Shape) {
    subject.control();
    let meeting = Meeting::new();
    subject.launch_meeting(&meeting, shape, &subject.stream, only(tpcs));
    from_here_on();
    subject.stream.synchronize().expect("the end of the launch");
    assert!(meeting.has_met());
}

fn a_cluster_across_two_gpcs_hangs() {
    let subject = Subject::new();
    let (_, apart) = pairs(&subject);
    launch_on(&subject, apart, &clusters(&subject, 1, BLOCKS));
}

fn a_cluster_for_which_the_mask_leaves_too_few_tpcs_hangs() {
    let subject = Subject::new();
    let tpc = subject.lowest_tpcs(1);
    launch_on(&subject, tpc, &clusters(&subject, 1, BLOCKS));
}

fn a_cluster_of_more_blocks_than_the_mask_leaves_sms_hangs_however_small_they_are() {
    let subject = Subject::new();
    let tpc = subject.lowest_tpcs(1);
    let blocks = TPC_SMS + 1;
    let shape = Shape::row(blocks, 32).in_clusters([blocks, 1, 1]);
    launch_on(&subject, tpc, &shape);
}

fn a_tpc_without_company_hosts_no_cluster_wider_than_itself() {
    let subject = Subject::new();
    let tpc = lone_tpc(&subject);
    let blocks = TPC_SMS + 1;
    launch_on(&subject, tpc, &clusters(&subject, 1, blocks));
}
