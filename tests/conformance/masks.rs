// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! TPC masks.

use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::fields;
use lithos_tests::cuda::{Shape, Stream};

use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, TPC_SMS, nothing, only, without};
use crate::subscriber::Editable;

statements! {
    Ends:
        a_set_bit_takes_the_two_sms_of_its_tpc_away_or_stands_for_none
        the_bits_of_tpcs_are_not_dense
        a_launch_runs_on_the_tpcs_that_its_mask_leaves_and_on_no_others
        a_mask_that_is_not_marked_valid_does_nothing
        a_mask_holds_for_its_own_launch_only
        launches_under_disjoint_masks_are_resident_at_once
        every_tpc_has_two_smids_of_its_own_under_whatever_mask;
    Hangs:
        a_mask_that_leaves_no_present_tpc_hangs_its_launch
        a_mask_that_leaves_nothing_at_all_hangs_its_launch;
}

/// The bits that stand for TPCs.
fn present(subject: &Subject) -> TpcMask {
    let bits = (0..TpcMask::BITS).filter(|&bit| subject.is_present(bit));
    bits.collect()
}

fn a_set_bit_takes_the_two_sms_of_its_tpc_away_or_stands_for_none() {
    let subject = Subject::new();
    // Each bit by itself is looked at in there.
    assert_eq!(TPC_SMS * present(&subject).count(), subject.gpu.sms);
}

fn the_bits_of_tpcs_are_not_dense() {
    let present = present(&Subject::new());
    let last = present.iter().last().expect("a TPC");
    assert!(last >= present.count(), "{present}");
}

fn a_launch_runs_on_the_tpcs_that_its_mask_leaves_and_on_no_others() {
    let subject = Subject::new();
    let tpcs = subject.lowest_tpcs(5);
    for count in 1..=5 {
        let mask = tpcs.lowest(count);
        assert_eq!(subject.sms(only(mask)), TPC_SMS * count, "{mask}");
        let others = TpcMask::ALL - mask;
        assert_eq!(
            subject.sms(only(others)),
            subject.gpu.sms - TPC_SMS * count,
            "{others}"
        );
    }
}

fn a_mask_that_is_not_marked_valid_does_nothing() {
    let subject = Subject::new();
    let tpc = subject.lowest_tpcs(1);
    let mut mask = only(tpc);
    let invalid = move |descriptor: &mut Editable| {
        mask(descriptor);
        fields::TPC_DISABLE_MASK_VALID.set(descriptor.words_mut(), 0);
    };
    assert_eq!(subject.sms(invalid), subject.gpu.sms);
}

fn a_mask_holds_for_its_own_launch_only() {
    let subject = Subject::new();
    let tpc = subject.lowest_tpcs(1);
    for _ in 0..3 {
        assert_eq!(subject.sms(only(tpc)), TPC_SMS);
        assert_eq!(subject.sms(nothing), subject.gpu.sms);
    }
}

fn launches_under_disjoint_masks_are_resident_at_once() {
    let subject = Subject::new();
    let tpcs = subject.lowest_tpcs(4);
    let halves = [tpcs.lowest(2), tpcs - tpcs.lowest(2)];
    let streams = [0; 2].map(|_| Stream::new().expect("a stream"));
    // Blocks that take a whole SM and stay until they are told to go.
    let shape = subject.whole_sms(2 * TPC_SMS);
    let meetings = [0; 2].map(|_| Meeting::new());
    for half in 0..2 {
        let (stream, edit) = (&streams[half], only(halves[half]));
        subject.hold(&meetings[half], &shape, stream, edit);
    }
    for (meeting, stream) in meetings.iter().zip(&streams) {
        meeting.let_go();
        stream.synchronize().expect("the end of the launch");
    }
}

fn every_tpc_has_two_smids_of_its_own_under_whatever_mask() {
    let subject = Subject::new();
    let all: Vec<u32> = (0..subject.gpu.sms).collect();
    assert_eq!(subject.smids(nothing), all);
    let tpcs = subject.lowest_tpcs(5);
    let mut together = Vec::new();
    for tpc in tpcs.iter().map(TpcMask::single) {
        let its = subject.smids(only(tpc));
        let rest = subject.smids(without(tpc));
        assert!(
            all.iter().all(|sm| its.contains(sm) != rest.contains(sm)),
            "{tpc}: {its:?}"
        );
        together.extend(its);
    }
    together.sort_unstable();
    assert_eq!(subject.smids(only(tpcs)), together);
}

/// Makes a launch that this mask leaves, and waits for its end.
fn launch_under(subject: &Subject, mask: TpcMask) {
    subject.control();
    subject.launch_trace(&Shape::row(1, 32), &subject.stream, only(mask));
    from_here_on();
    subject.stream.synchronize().expect("the end of the launch");
}

fn a_mask_that_leaves_no_present_tpc_hangs_its_launch() {
    let subject = Subject::new();
    let mask = TpcMask::single(subject.absent_bit());
    launch_under(&subject, mask);
}

fn a_mask_that_leaves_nothing_at_all_hangs_its_launch() {
    launch_under(&Subject::new(), TpcMask::EMPTY);
}
