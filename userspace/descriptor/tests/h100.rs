// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Recorded descriptors (`recorded/mod.rs`) are read as the launches that they were.

mod recorded;

use lithos_descriptor::hopper::{
    Action, Descriptor, Kind, ReleaseSize, Restricted, StampSlot, WORDS, fields,
};
use lithos_descriptor::layout::V04_00;
use lithos_descriptor::{Layout, TpcMask, Version};
use recorded::{launch, launches};

#[test]
fn every_recorded_launch_is_of_the_verified_version_without_unknown_bits() {
    let launches = launches();
    assert_eq!(launches.len(), 20);
    for (name, launch) in launches {
        let layout = Layout::detect(&launch.to_bytes()).expect(name);
        assert_eq!(layout.version, Version::V04_00);
        assert_eq!(launch.unknown_bit(), None, "{name}");
        assert_eq!(
            Descriptor::from_bytes(&launch.to_bytes()),
            Ok(launch),
            "{name}"
        );
    }
}

#[test]
fn the_values_that_are_not_zero_are_the_whole_descriptor() {
    for (name, launch) in launches() {
        let mut words = [0; WORDS];
        for (field, value) in V04_00.values(launch.words()) {
            field.set(&mut words, value);
        }
        assert_eq!(&words, launch.words(), "{name}");
    }
}

#[test]
fn plain_grids_are_read_as_they_were_launched() {
    let one = launch("plain 1 block");
    assert_eq!(one.kind(), Kind::Grid);
    assert_eq!(
        (one.blocks(), one.block(), one.registers()),
        ([1; 3], [32, 1, 1], 16)
    );
    assert_eq!((one.cluster(), one.group()), ([1; 3], [1; 3]));
    assert_eq!(one.resume(), [0; 3]);
    assert_eq!(one.shared_bytes(), 1024);
    assert_eq!(one.program(), 0x7fec_d37a_f400);
    assert_eq!(one.allowed(), TpcMask::ALL);
    assert!(!one.is_graph_node());
    assert_eq!(one.awaited_latch(), None);
    assert_eq!(one.arrival_latch(), Some(8));
    let parameters = one.constant_buffer(0).unwrap();
    assert_eq!(
        (parameters.address, parameters.size_bytes),
        (0x7fec_d228_0000, 768)
    );
    for bank in [2, 3, 4, 6] {
        assert_eq!(one.constant_buffer(bank), None);
    }

    let box_ = launch("plain 7x6x5 blocks of 32x4x2");
    assert_eq!((box_.blocks(), box_.block()), ([7, 6, 5], [32, 4, 2]));
    assert_eq!((box_.block_count(), box_.block_threads()), (210, 256));
    let long = launch("plain 70000x2x3 blocks of 1024");
    assert_eq!((long.grid(), long.block()), ([70000, 2, 3], [1024, 1, 1]));
}

#[test]
fn shared_memory_includes_what_the_system_takes() {
    // 1000 bytes static, aligned to 16, and 5000 dynamic; 1 KiB for the system; units of 128.
    let shared = launch("plain with shared memory").shared_bytes();
    assert_eq!(shared, (1008_u32 + 5000 + 1024).next_multiple_of(128));
    let most = launch("plain with the most shared memory").shared_bytes();
    assert_eq!(most, 228 * 1024);
}

#[test]
fn grids_of_clusters_count_clusters() {
    let small = launch("clusters of 2");
    assert_eq!(small.kind(), Kind::Clusters);
    assert_eq!((small.grid(), small.cluster()), ([4, 1, 1], [2, 1, 1]));
    assert_eq!(small.blocks(), [8, 1, 1]);
    let cube = launch("clusters of 2x2x2 in 8x4x2");
    assert_eq!((cube.grid(), cube.cluster()), ([4, 2, 1], [2, 2, 2]));
    assert_eq!(cube.blocks(), [8, 4, 2]);
}

#[test]
fn the_driver_keeps_wide_clusters_off_tpcs_without_a_gpc() {
    assert_eq!(launch("clusters of 2 in 8x4x2").allowed(), TpcMask::ALL);
    for name in [
        "clusters of 3",
        "clusters of 8",
        "clusters of 2x2x2 in 8x4x2",
        "cooperative clusters of 2x3x1 in 4x6x2",
    ] {
        assert_eq!(launch(name).allowed(), "0-71".parse().unwrap(), "{name}");
    }
}

#[test]
fn a_cooperative_launch_is_one_group_of_all_its_blocks() {
    let launch = launch("cooperative 5 blocks");
    assert_eq!(launch.kind(), Kind::Cooperative);
    assert!(launch.kind().is_cooperative());
    assert_eq!((launch.grid(), launch.group()), ([1; 3], [5, 1, 1]));
    assert_eq!(launch.blocks(), [5, 1, 1]);
}

#[test]
fn a_cooperative_launch_of_clusters_is_one_group_of_all_its_clusters() {
    let launch = launch("cooperative clusters of 2x3x1 in 4x6x2");
    assert_eq!(launch.kind(), Kind::CooperativeClusters);
    assert_eq!((launch.grid(), launch.group()), ([1; 3], [2, 2, 2]));
    assert_eq!(launch.cluster(), [2, 3, 1]);
    assert_eq!(launch.blocks(), [4, 6, 2]);
}

#[test]
fn a_programmatic_launch_waits_for_a_latch() {
    assert!(launch("programmatic").awaited_latch().is_some());
    assert!(launch("after an event").awaited_latch().is_none());
}

#[test]
fn the_driver_uses_release_0_and_dependent_0_only() {
    for (name, launch) in launches() {
        for slot in [1, 2] {
            assert_eq!(launch.release(slot), None, "{name}");
        }
        assert_eq!(launch.dependent(1), None, "{name}");
    }
    let plain = launch("plain 1 block");
    let release = plain.release(0).unwrap();
    assert_eq!(release.size, ReleaseSize::OneWord);
    assert_eq!((release.address, release.payload), (0x2_0463_7f3c, 6));
    assert_eq!(release.reduction, None);
    let dependent = plain.dependent(0).unwrap();
    assert_eq!(dependent.action, Action::DecrementDependence);
    assert_eq!(dependent.address, 0x2_04e1_0000);
}

#[test]
fn a_graph_is_a_head_that_schedules_nodes_the_last_of_which_releases() {
    let (head, node, last) = (
        launch("graph head"),
        launch("graph node"),
        launch("graph last node"),
    );
    for launch in [head, node, last] {
        assert_eq!(launch.arrival_latch(), None);
    }
    assert!(node.is_graph_node() && last.is_graph_node());
    // The head carries no mark: it is a grid of no blocks.
    assert!(!head.is_graph_node());
    assert_eq!((head.kind(), head.block_count()), (Kind::Grid, 0));
    assert_eq!(head.dependent(0).unwrap().action, Action::Schedule);
    assert_eq!(node.dependent(0).unwrap().action, Action::Schedule);
    assert_eq!(node.release(0), None);
    assert_eq!(last.dependent(0), None);
    assert!(last.release(0).unwrap().reduction.is_some());
}

#[test]
fn a_blank_descriptor_differs_from_the_drivers_only_in_what_it_leaves_out() {
    use fields::*;
    let mut blank = Descriptor::blank();
    let plain = launch("plain 1 block");
    for field in [
        PROGRAM_ADDRESS,
        PROGRAM_PREFETCH_ADDR_LOWER_SHIFTED,
        PROGRAM_PREFETCH_ADDR_UPPER_SHIFTED,
        PROGRAM_PREFETCH_SIZE,
        ARRIVE_AT_LATCH_VALID,
        ARRIVE_AT_LATCH_ID,
        SHADER_LOCAL_MEMORY_HIGH_SIZE,
        MIN_SM_CONFIG_SHARED_MEM_SIZE,
        MAX_SM_CONFIG_SHARED_MEM_SIZE,
        TARGET_SM_CONFIG_SHARED_MEM_SIZE,
        BARRIER_COUNT,
        CONSTANT_BUFFER_PREFETCH.at(5),
    ] {
        blank.set(field, plain.get(field)).unwrap();
    }
    blank.set_block(plain.block()).unwrap();
    blank.set_release(0, plain.release(0)).unwrap();
    blank.set_dependent(0, plain.dependent(0)).unwrap();
    for bank in 0..8 {
        blank
            .set_constant_buffer(bank, plain.constant_buffer(bank))
            .unwrap();
    }
    assert_eq!(blank, plain);
}

#[test]
fn shapes_are_written_as_the_driver_writes_them() {
    let shapes = [
        ("plain 7x6x5 blocks of 32x4x2", [7, 6, 5], None, false),
        ("clusters of 2 in 8x4x2", [8, 4, 2], Some([2, 1, 1]), false),
        ("clusters of 2x2x2 in 8x4x2", [8, 4, 2], Some([2; 3]), false),
        ("cooperative 5 blocks", [5, 1, 1], None, true),
        ("cooperative 3x4x5 blocks", [3, 4, 5], None, true),
        (
            "cooperative clusters of 2x3x1 in 4x6x2",
            [4, 6, 2],
            Some([2, 3, 1]),
            true,
        ),
    ];
    for (name, blocks, cluster, cooperative) in shapes {
        let theirs = launch(name);
        let mut ours = Descriptor::blank();
        ours.set_blocks(blocks, cluster, cooperative).unwrap();
        assert_eq!(ours.kind(), theirs.kind(), "{name}");
        assert_eq!(ours.grid(), theirs.grid(), "{name}");
        assert_eq!(ours.cluster(), theirs.cluster(), "{name}");
        assert_eq!(ours.group(), theirs.group(), "{name}");
    }
}

#[test]
fn every_recorded_launch_takes_a_mask_and_two_stamps() {
    let present: TpcMask = "0-3,9-16,18-25,27-34,36-43,45-52,54-71,75,78"
        .parse()
        .unwrap();
    let allowed: TpcMask = "9-16,75".parse().unwrap();
    for (name, mut launch) in launches() {
        let driver = launch.allowed();
        let restricted = launch.restrict(allowed, present);
        assert_eq!(restricted, Restricted::To(allowed & driver), "{name}");
        assert_eq!(launch.allowed(), allowed & driver, "{name}");
        for slot in [StampSlot::One, StampSlot::Two] {
            assert_eq!(launch.stamp(slot, 0x4_0000_1230, 7), Ok(()), "{name}");
        }
        assert_eq!(launch.unknown_bit(), None, "{name}");
    }
}
