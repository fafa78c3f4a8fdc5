// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Release semaphores: what the GPU writes when a launch has completed, and the time in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lithos_descriptor::hopper::{Kind, Release, ReleaseSize, StampSlot};
use lithos_tests::cuda::{HostWords, Shape};

use crate::statement::statements;
use crate::subject::{Meeting, Subject, buffer, nothing, read};
use crate::subscriber::Editable;

statements! {
    Ends:
        a_release_of_four_words_writes_payload_zero_and_time
        a_release_of_one_word_writes_its_payload_and_nothing_else
        releases_1_and_2_are_both_written
        launches_of_every_kind_are_stamped
        a_stamp_is_written_when_the_launch_completes_and_not_before
        stamps_of_a_stream_are_in_the_order_of_its_launches
        a_stamp_is_on_the_clock_that_kernels_read_as_globaltimer
        a_stamp_is_nanoseconds_of_the_wall_clock;
}

/// What memory holds before the GPU writes it.
const UNTOUCHED: u32 = 0xdead_beef;
/// Words of a stamp.
const STAMP_WORDS: usize = 4;

/// Memory for stamps, in the host.
struct Stamps(HostWords);

impl Stamps {
    fn new(count: usize) -> Self {
        let words = HostWords::zeroed(STAMP_WORDS * count).expect("host memory");
        for index in 0..STAMP_WORDS * count {
            words.store(index, UNTOUCHED);
        }
        Self(words)
    }

    fn address(&self, index: usize) -> u64 {
        self.0.address() + 4 * (STAMP_WORDS * index) as u64
    }

    fn words(&self, index: usize) -> [u32; STAMP_WORDS] {
        [0, 1, 2, 3].map(|word| self.0.load(STAMP_WORDS * index + word))
    }

    /// The time of a stamp, whose payload is told.
    fn time_ns(&self, index: usize, payload: u32) -> u64 {
        let [found, zero, low, high] = self.words(index);
        assert_eq!((found, zero), (payload, 0), "stamp {index}");
        u64::from(low) | u64::from(high) << 32
    }

    /// An edit that has a launch stamped.
    fn stamp(&self, index: usize, payload: u32) -> impl FnMut(&mut Editable) + Send + use<> {
        let address = self.address(index);
        move |descriptor| {
            let stamped = descriptor.stamp(StampSlot::One, address, payload);
            stamped.expect("a free release");
        }
    }
}

fn a_release_of_four_words_writes_payload_zero_and_time() {
    let subject = Subject::new();
    let stamps = Stamps::new(2);
    subject.trace(&Shape::row(5, 32), stamps.stamp(0, 77));
    assert_ne!(stamps.time_ns(0, 77), 0);
    assert_eq!(stamps.words(1), [UNTOUCHED; STAMP_WORDS]);
}

fn a_release_of_one_word_writes_its_payload_and_nothing_else() {
    let subject = Subject::new();
    let stamps = Stamps::new(1);
    let address = stamps.address(0);
    subject.trace(&Shape::row(5, 32), move |descriptor: &mut Editable| {
        let release = Release {
            address,
            payload: 78,
            size: ReleaseSize::OneWord,
            membar: false,
            reduction: None,
            payload64: false,
            trap: 0,
        };
        descriptor.set_release(1, Some(release)).expect("a release");
    });
    assert_eq!(stamps.words(0), [78, UNTOUCHED, UNTOUCHED, UNTOUCHED]);
}

fn releases_1_and_2_are_both_written() {
    let subject = Subject::new();
    let stamps = Stamps::new(2);
    let addresses = [0, 1].map(|index| stamps.address(index));
    subject.trace(&Shape::row(5, 32), move |descriptor: &mut Editable| {
        let slots = [StampSlot::One, StampSlot::Two];
        for ((slot, address), payload) in slots.into_iter().zip(addresses).zip(1..) {
            let stamped = descriptor.stamp(slot, address, payload);
            stamped.expect("a free release");
        }
    });
    assert_ne!(stamps.time_ns(0, 1), 0);
    assert_ne!(stamps.time_ns(1, 2), 0);
}

fn launches_of_every_kind_are_stamped() {
    let subject = Subject::new();
    let plain = Shape::grid([8, 4, 2], 32);
    let clusters = plain.in_clusters([2, 2, 1]);
    let stamps = Stamps::new(5);
    let shapes = [plain, clusters, plain.cooperative(), clusters.cooperative()];
    for (index, shape) in shapes.iter().enumerate() {
        subject.trace(shape, stamps.stamp(index, 9));
        assert_ne!(stamps.time_ns(index, 9), 0, "{shape:?}");
    }
    let mut stamp = stamps.stamp(4, 10);
    subject.trace(&plain, move |descriptor: &mut Editable| {
        descriptor.set_kind(Kind::Null).expect("a kind fits");
        stamp(descriptor);
    });
    assert_ne!(stamps.time_ns(4, 10), 0);
}

fn a_stamp_is_written_when_the_launch_completes_and_not_before() {
    let subject = Subject::new();
    let stamps = Stamps::new(1);
    let held = Meeting::new();
    let stamp = stamps.stamp(0, 5);
    subject.hold(&held, &Shape::row(1, 32), &subject.stream, stamp);
    assert_eq!(stamps.words(0), [UNTOUCHED; STAMP_WORDS]);
    held.let_go();
    subject.stream.synchronize().expect("the end of the launch");
    assert_ne!(stamps.time_ns(0, 5), 0);
}

fn stamps_of_a_stream_are_in_the_order_of_its_launches() {
    let subject = Subject::new();
    let stamps = Stamps::new(50);
    for (index, payload) in (0..50).zip(100..) {
        let (shape, stamp) = (Shape::row(4, 32), stamps.stamp(index, payload));
        subject.launch_trace(&shape, &subject.stream, stamp);
    }
    subject.stream.synchronize().expect("their end");
    let times = (0..50).zip(100..);
    let times: Vec<u64> = times
        .map(|(index, payload)| stamps.time_ns(index, payload))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
}

/// The GPU's time, as a kernel reads it in a launch that is edited.
fn globaltimer_ns(subject: &Subject, edit: impl FnMut(&mut Editable) + Send + 'static) -> u64 {
    let time = buffer(2);
    subject.launch_clock(time.address(), edit);
    subject.stream.synchronize().expect("the end of the launch");
    let words = read(&time);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

fn a_stamp_is_on_the_clock_that_kernels_read_as_globaltimer() {
    let subject = Subject::new();
    let stamps = Stamps::new(1);
    for payload in 1..20 {
        let before = globaltimer_ns(&subject, stamps.stamp(0, payload));
        let stamp = stamps.time_ns(0, payload);
        let after = globaltimer_ns(&subject, nothing);
        assert!(
            (before..=after).contains(&stamp),
            "{before} {stamp} {after}"
        );
    }
}

fn a_stamp_is_nanoseconds_of_the_wall_clock() {
    let subject = Subject::new();
    let stamps = Stamps::new(1);
    subject.trace(&Shape::row(1, 32), stamps.stamp(0, 1));
    let stamp = Duration::from_nanos(stamps.time_ns(0, 1));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    // Nobody keeps the two in step, so they are not compared to the second.
    let apart = now.abs_diff(stamp);
    assert!(
        apart < Duration::from_secs(600),
        "{stamp:?}, and here {now:?}"
    );
}
