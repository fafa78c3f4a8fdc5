// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many launches the hardware queues.

use lithos_tests::cuda::Shape;

use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, nothing};

statements! {
    Hangs:
        a_launch_call_waits_while_1021_launches_of_its_stream_are_outstanding;
}

/// Launches of one stream that can be outstanding.
const QUEUE: u32 = 1021;

fn a_launch_call_waits_while_1021_launches_of_its_stream_are_outstanding() {
    let subject = Subject::new();
    let launch = || subject.launch_trace(&Shape::row(1, 32), &subject.stream, nothing);
    let held = Meeting::new();
    subject.control();
    // Behind this one all others wait.
    subject.hold(&held, &Shape::row(1, 32), &subject.stream, nothing);
    for _ in 1..QUEUE {
        launch();
    }
    from_here_on();
    launch();
    held.let_go();
}
