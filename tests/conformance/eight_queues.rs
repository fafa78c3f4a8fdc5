// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Hardware queues, which streams share; simgpu has one for every stream.

use lithos_tests::cuda::{Shape, Stream};

use crate::queues::WAITING;
use crate::statement::{from_here_on, statements};
use crate::subject::{Meeting, Subject, nothing};

statements! {
    Hangs:
        a_launch_call_waits_while_8168_launches_of_many_streams_wait_for_their_turn;
}

/// Hardware queues of a context.
const QUEUES: usize = 8;
/// Streams, as many to each queue.
const STREAMS: usize = 4 * QUEUES;

fn a_launch_call_waits_while_8168_launches_of_many_streams_wait_for_their_turn() {
    let subject = Subject::new();
    let streams = [0; STREAMS].map(|_| Stream::new().expect("a stream"));
    let held = [0; STREAMS].map(|_| Meeting::new());
    let one = Shape::row(1, 32);
    subject.control();
    for (stream, held) in streams.iter().zip(&held) {
        subject.hold(held, &one, stream, nothing);
    }
    let mut launches = streams.iter().cycle().map(|stream| {
        subject.launch_trace(&one, stream, nothing);
    });
    assert_eq!(launches.by_ref().take(QUEUES * WAITING).count(), 8168);
    from_here_on();
    launches.next();
}
