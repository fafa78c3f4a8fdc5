// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the driver's descriptors look like, by the kind of the launch.

use lithos_descriptor::hopper::{Descriptor, Kind, ReleaseSize, Words};
use lithos_tests::cuda::{Shape, Stream};

use crate::statement::statements;
use crate::subject::{Subject, nothing};
use crate::subscriber::Editable;

statements! {
    Ends:
        byte_72_of_every_descriptor_is_0x40
        every_bit_that_the_driver_sets_belongs_to_a_field_of_the_header
        a_plain_grid_has_type_2_and_is_counted_in_blocks
        a_grid_of_clusters_has_type_3_and_is_counted_in_clusters
        a_cooperative_grid_has_type_4_and_is_one_group_of_all_its_blocks
        a_cooperative_grid_of_clusters_has_type_5_and_is_one_group_of_all_its_clusters
        a_descriptor_of_type_1_runs_nothing_and_its_stream_goes_on
        the_driver_uses_release_0_for_one_word
        the_driver_leaves_releases_1_and_2_unused
        a_launch_arrives_at_a_latch_and_starts_at_0;
}

/// The shapes of launches of every kind.
fn shapes() -> [Shape; 4] {
    let plain = Shape::grid([8, 4, 2], 32);
    let clusters = plain.in_clusters([2, 2, 1]);
    [plain, clusters, plain.cooperative(), clusters.cooperative()]
}

/// The descriptors of launches of every kind.
fn descriptors_of(subject: &Subject) -> [Descriptor<Words>; 4] {
    let descriptors = shapes().map(|shape| {
        let upload = subject.launch_trace(&shape, &subject.stream, nothing);
        upload.descriptor
    });
    subject.stream.synchronize().expect("their end");
    descriptors
}

/// The same in a process that does nothing else.
fn descriptors() -> [Descriptor<Words>; 4] {
    descriptors_of(&Subject::new())
}

fn byte_72_of_every_descriptor_is_0x40() {
    for descriptor in descriptors() {
        assert_eq!(descriptor.to_bytes()[72], 0x40);
    }
}

fn every_bit_that_the_driver_sets_belongs_to_a_field_of_the_header() {
    for descriptor in descriptors() {
        assert_eq!(descriptor.unknown_bit(), None);
    }
}

fn a_plain_grid_has_type_2_and_is_counted_in_blocks() {
    let [plain, ..] = descriptors();
    assert_eq!((plain.kind(), plain.kind().bits()), (Kind::Grid, 2));
    assert_eq!(plain.grid(), [8, 4, 2]);
}

fn a_grid_of_clusters_has_type_3_and_is_counted_in_clusters() {
    let [_, clusters, ..] = descriptors();
    assert_eq!(
        (clusters.kind(), clusters.kind().bits()),
        (Kind::Clusters, 3)
    );
    assert_eq!(
        (clusters.grid(), clusters.cluster()),
        ([4, 2, 2], [2, 2, 1])
    );
}

fn a_cooperative_grid_has_type_4_and_is_one_group_of_all_its_blocks() {
    let [_, _, grid, _] = descriptors();
    assert_eq!((grid.kind(), grid.kind().bits()), (Kind::Cooperative, 4));
    assert_eq!((grid.grid(), grid.group()), ([1; 3], [8, 4, 2]));
}

fn a_cooperative_grid_of_clusters_has_type_5_and_is_one_group_of_all_its_clusters() {
    let [_, _, _, grid] = descriptors();
    assert_eq!(
        (grid.kind(), grid.kind().bits()),
        (Kind::CooperativeClusters, 5)
    );
    assert_eq!((grid.grid(), grid.group()), ([1; 3], [4, 2, 2]));
    assert_eq!(grid.cluster(), [2, 2, 1]);
}

fn a_descriptor_of_type_1_runs_nothing_and_its_stream_goes_on() {
    let subject = Subject::new();
    let null = |descriptor: &mut Editable| {
        descriptor.set_kind(Kind::Null).expect("a kind fits");
    };
    let trace = subject.trace(&Shape::row(12, 32), null);
    assert_eq!((trace.counts, trace.grid), (vec![0; 12], [0; 3]));
    subject.control();
}

fn the_driver_uses_release_0_for_one_word() {
    for descriptor in descriptors() {
        let release = descriptor.release(0).expect("release 0");
        assert_eq!(
            (release.size, release.reduction),
            (ReleaseSize::OneWord, None)
        );
    }
}

fn the_driver_leaves_releases_1_and_2_unused() {
    let subject = Subject::new();
    let urgent = Stream::urgent().expect("a stream");
    let one = Shape::row(1, 32);
    let more = [0; 3].map(|_| subject.launch_trace(&one, &urgent, nothing).descriptor);
    urgent.synchronize().expect("their end");
    for descriptor in descriptors_of(&subject).iter().chain(&more) {
        assert_eq!([1, 2].map(|slot| descriptor.release(slot)), [None; 2]);
    }
}

fn a_launch_arrives_at_a_latch_and_starts_at_0() {
    for descriptor in descriptors() {
        assert!(descriptor.arrival_latch().is_some());
        assert_eq!(descriptor.awaited_latch(), None);
        assert_eq!(descriptor.resume(), [0; 3]);
    }
}
