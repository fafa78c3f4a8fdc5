// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many launches the hardware queues.

use lithos_tests::cuda::Shape;

use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, nothing};

statements! {
    Hangs:
        a_launch_call_waits_while_1021_launches_of_its_stream_wait_for_their_turn;
}

/// Launches that a hardware queue holds, those that have begun not among them.
pub(crate) const WAITING: usize = 1021;

fn a_launch_call_waits_while_1021_launches_of_its_stream_wait_for_their_turn() {
    let subject = Subject::new();
    let one = Shape::row(1, 32);
    let held = Meeting::new();
    subject.control();
    subject.hold(&held, &one, &subject.stream, nothing);
    for _ in 0..WAITING {
        subject.launch_trace(&one, &subject.stream, nothing);
    }
    from_here_on();
    subject.launch_trace(&one, &subject.stream, nothing);
}
