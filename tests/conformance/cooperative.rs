// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Cooperative grids, all of whose blocks are resident at once or none.

use lithos_descriptor::TpcMask;

use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, TPC_SMS, nothing, only};

statements! {
    Ends:
        all_blocks_of_a_cooperative_grid_are_resident_at_once
        a_cooperative_grid_runs_where_its_mask_has_room_for_all_its_blocks;
    Hangs:
        a_cooperative_grid_hangs_where_its_mask_lacks_room_for_a_block;
}

fn all_blocks_of_a_cooperative_grid_are_resident_at_once() {
    let subject = Subject::new();
    let shape = subject.whole_sms(subject.gpu.sms).cooperative();
    assert!(subject.meets(&shape, nothing));
}

/// TPCs, and how many whole SMs they are.
fn some_tpcs(subject: &Subject) -> (TpcMask, u32) {
    let tpcs = subject.lowest_tpcs(3);
    (tpcs, TPC_SMS * tpcs.count())
}

fn a_cooperative_grid_runs_where_its_mask_has_room_for_all_its_blocks() {
    let subject = Subject::new();
    let (tpcs, sms) = some_tpcs(&subject);
    let shape = subject.whole_sms(sms).cooperative();
    assert!(subject.meets(&shape, only(tpcs)));
}

fn a_cooperative_grid_hangs_where_its_mask_lacks_room_for_a_block() {
    let subject = Subject::new();
    let (tpcs, sms) = some_tpcs(&subject);
    subject.control();
    // Its blocks would give up by themselves, if any of them ran.
    let shape = subject.whole_sms(sms + 1).cooperative();
    let meeting = Meeting::new();
    subject.launch_meeting(&meeting, &shape, &subject.stream, only(tpcs));
    from_here_on();
    subject.stream.synchronize().expect("the end of the launch");
    assert!(meeting.has_met());
}
