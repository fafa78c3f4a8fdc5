// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who has how many GPU channels, against a driver that does what NVIDIA's does with its objects.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::chained::{Host, chains};
use crate::holders::{Caller, Holders, Mode, Note, Parameters, Verdict};
use crate::nvidia::{Call, Kind, NO_RESOURCES, NOT_PERMITTED, done, parse, set_status};

const CHANNEL: u32 = 0xc86f;
const GROUP: u32 = 0xa06c;
const DOORBELL: u32 = 0xc661;
const SUBDEVICE: u32 = 0x2080;
const TENANTS_MAX: usize = 4;
const STRANGERS_MAX: usize = 6;
const OBJECTS_MAX: usize = 64;
const TICKETS: usize = 16;

fn holders() -> Holders<Host> {
    let mut holders = Holders::new(
        chains(TENANTS_MAX + STRANGERS_MAX, 4),
        chains(OBJECTS_MAX, 4),
        vec![None; TICKETS],
        vec![Note::default(); 8],
        vec![0; 64],
        TENANTS_MAX,
    );
    holders.mode = Mode::Audit;
    holders
}

fn process(pid: i32) -> Caller {
    Caller {
        pid,
        start_ns: 1000 + u64::from(pid.unsigned_abs()),
        task: usize::try_from(pid).unwrap(),
        uid: 0,
        command: *b"program\0\0\0\0\0\0\0\0\0",
    }
}

fn make(root: u32, parent: u32, class: u32) -> Call {
    let kind = Kind::of(class).unwrap();
    Call::Make {
        root,
        parent,
        class,
        kind,
    }
}

const NOWHERE: fn(&[u64]) -> bool = |_| false;

/// One call from beginning to end, which the driver does, or fails.
fn call(holders: &mut Holders<Host>, caller: &Caller, call: Call, done: Option<u32>) -> Verdict {
    let verdict = holders.enter(caller, 1, call, Parameters::default(), NOWHERE);
    if verdict == Verdict::Pass {
        holders.leave(caller.task, |_| done);
    }
    verdict
}

fn has(holders: &Holders<Host>, pid: i32) -> [u32; 3] {
    holders
        .next_user(pid - 1)
        .filter(|user| user.pid == pid)
        .map_or([0; 3], |user| user.has)
}

#[test]
fn a_call_that_fails_leaves_the_count_as_it_was() {
    let mut holders = holders();
    let caller = process(5);
    call(&mut holders, &caller, make(1, 2, CHANNEL), None);
    assert_eq!(has(&holders, 5), [0; 3]);
    call(&mut holders, &caller, make(1, 2, CHANNEL), Some(3));
    assert_eq!(has(&holders, 5), [1, 0, 0]);
    call(
        &mut holders,
        &caller,
        Call::Free { root: 1, handle: 3 },
        None,
    );
    assert_eq!(has(&holders, 5), [1, 0, 0]);
}

#[test]
fn whatever_way_a_channel_is_freed_it_counts_no_more() {
    let (root, device, group, channel, subdevice, doorbell) = (1, 2, 3, 4, 5, 6);
    for freed in [root, device] {
        let mut holders = holders();
        let caller = process(5);
        call(
            &mut holders,
            &caller,
            make(root, device, GROUP),
            Some(group),
        );
        call(
            &mut holders,
            &caller,
            make(root, group, CHANNEL),
            Some(channel),
        );
        call(
            &mut holders,
            &caller,
            make(root, device, SUBDEVICE),
            Some(subdevice),
        );
        call(
            &mut holders,
            &caller,
            make(root, subdevice, DOORBELL),
            Some(doorbell),
        );
        assert_eq!(has(&holders, 5), [1, 1, 1]);
        call(
            &mut holders,
            &caller,
            Call::Free {
                root,
                handle: freed,
            },
            Some(freed),
        );
        assert_eq!(has(&holders, 5), [0; 3], "{freed} was freed");
    }
    let mut holders = holders();
    let caller = process(5);
    call(
        &mut holders,
        &caller,
        make(root, device, GROUP),
        Some(group),
    );
    call(
        &mut holders,
        &caller,
        make(root, group, CHANNEL),
        Some(channel),
    );
    call(&mut holders, &caller, make(root, group, CHANNEL), Some(7));
    call(&mut holders, &caller, make(root, device, CHANNEL), Some(8));
    call(
        &mut holders,
        &caller,
        Call::Free {
            root,
            handle: channel,
        },
        Some(channel),
    );
    assert_eq!(has(&holders, 5), [2, 1, 0]);
    call(
        &mut holders,
        &caller,
        Call::Free {
            root,
            handle: group,
        },
        Some(group),
    );
    assert_eq!(has(&holders, 5), [1, 0, 0]);
    holders.file_closed(2);
    assert_eq!(has(&holders, 5), [1, 0, 0]);
    holders.file_closed(1);
    assert_eq!(has(&holders, 5), [0; 3]);
    assert!(holders.next_user(0).is_none());
}

#[test]
fn only_tenants_and_who_is_admitted_get_anything_when_that_is_enforced() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    let (tenant, admitted, stranger) = (process(5), process(6), process(7));
    assert!(holders.tenant_attached(5, tenant.start_ns, 0, 77));
    assert!(holders.admit_process(6, admitted.start_ns, true));
    let class = make(1, 2, CHANNEL);
    let refused = Verdict::Refuse(NOT_PERMITTED);
    assert_eq!(call(&mut holders, &tenant, class, Some(3)), Verdict::Pass);
    assert_eq!(call(&mut holders, &admitted, class, Some(4)), Verdict::Pass);
    assert_eq!(call(&mut holders, &stranger, class, Some(5)), refused);
    assert_eq!(
        call(&mut holders, &stranger, make(1, 2, GROUP), Some(5)),
        refused
    );
    assert_eq!(
        call(&mut holders, &stranger, make(1, 2, DOORBELL), Some(5)),
        refused
    );
    assert_eq!(
        call(&mut holders, &stranger, make(1, 2, SUBDEVICE), Some(5)),
        Verdict::Pass
    );
    let user = holders.next_user(6).unwrap();
    assert_eq!((user.pid, user.refused, user.has), (7, 3, [0; 3]));

    // Another process with the number of one that was admitted is a stranger.
    let reused = Caller {
        start_ns: 9,
        ..admitted
    };
    assert_eq!(call(&mut holders, &reused, class, Some(6)), refused);
    // And so is who was a tenant, or admitted.
    holders.tenant_ended(5, tenant.start_ns);
    holders.admit_process(6, admitted.start_ns, false);
    assert_eq!(call(&mut holders, &tenant, class, Some(6)), refused);
    assert_eq!(call(&mut holders, &admitted, class, Some(6)), refused);
    // Nothing of what they have is taken from them.
    assert_eq!(has(&holders, 5), [1, 0, 0]);
}

#[test]
fn a_member_of_an_admitted_cgroup_gets_what_it_asks_for() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    assert!(holders.admit_cgroup(40, true));
    assert!(holders.admit_cgroup(41, true));
    assert!(holders.admit_cgroup(40, false));
    let caller = process(5);
    let class = make(1, 2, CHANNEL);
    let enter = |holders: &mut Holders<Host>, own: u64| {
        holders.enter(&caller, 1, class, Parameters::default(), |ids| {
            ids.contains(&own)
        })
    };
    assert_eq!(enter(&mut holders, 40), Verdict::Refuse(NOT_PERMITTED));
    assert_eq!(enter(&mut holders, 41), Verdict::Pass);
    for id in 100.. {
        if !holders.admit_cgroup(id, true) {
            break;
        }
        assert!(id < 200, "there is no bound");
    }
    assert!(holders.admit_cgroup(41, true), "it is admitted already");
}

#[test]
fn a_tenant_gets_as_many_channels_as_it_may_have_and_more_when_it_frees_some() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    holders.tenant_channels_max = 2;
    let tenant = process(5);
    holders.tenant_attached(5, tenant.start_ns, 0, 77);
    let class = make(1, 2, CHANNEL);
    // Two threads at once have the last two places.
    let thread = Caller {
        task: 1000,
        ..tenant
    };
    assert_eq!(
        holders.enter(&tenant, 1, class, Parameters::default(), NOWHERE),
        Verdict::Pass
    );
    assert_eq!(
        holders.enter(&thread, 1, class, Parameters::default(), NOWHERE),
        Verdict::Pass
    );
    let third = Caller {
        task: 1001,
        ..tenant
    };
    let full = Verdict::Refuse(NO_RESOURCES);
    assert_eq!(call(&mut holders, &third, class, Some(9)), full);
    holders.leave(thread.task, |_| None);
    assert_eq!(call(&mut holders, &third, class, Some(9)), Verdict::Pass);
    holders.leave(tenant.task, |_| Some(8));
    assert_eq!(call(&mut holders, &third, class, Some(10)), full);
    assert_eq!(
        call(&mut holders, &third, make(1, 2, GROUP), Some(11)),
        Verdict::Pass
    );
    call(
        &mut holders,
        &third,
        Call::Free { root: 1, handle: 8 },
        Some(8),
    );
    assert_eq!(call(&mut holders, &third, class, Some(10)), Verdict::Pass);
}

/// A process of a user of its own.
fn user(pid: i32) -> Caller {
    Caller {
        uid: pid.unsigned_abs(),
        ..process(pid)
    }
}

#[test]
fn when_there_is_no_room_it_is_refused_where_that_is_enforced_and_else_let_through_and_marked() {
    let mut holders = holders();
    let tenant = process(5);
    holders.tenant_attached(5, tenant.start_ns, 0, 77);
    // As many as one user may have.
    for handle in 0..u32::try_from(OBJECTS_MAX / 2).unwrap() {
        call(
            &mut holders,
            &tenant,
            make(1, 2, CHANNEL),
            Some(100 + handle),
        );
    }
    assert!(!holders.next_user(0).unwrap().is_inexact);
    let more = make(1, 2, CHANNEL);
    holders.mode = Mode::Enforce;
    let full = Verdict::Refuse(NO_RESOURCES);
    assert_eq!(call(&mut holders, &tenant, more, Some(99)), full);
    let refused = holders.next_user(0).unwrap();
    assert_eq!((refused.is_inexact, holders.missed()), (false, 0));
    holders.mode = Mode::Audit;
    assert_eq!(call(&mut holders, &tenant, more, Some(99)), Verdict::Pass);
    let user = holders.next_user(0).unwrap();
    assert_eq!(
        (user.has[0] as usize, user.is_inexact),
        (OBJECTS_MAX / 2, true)
    );
    assert_eq!(holders.missed(), 1);

    // Strangers take no places that are kept for tenants.
    let mut holders = self::holders();
    for pid in 10..30 {
        call(
            &mut holders,
            &self::user(pid),
            make(1, 2, CHANNEL),
            Some(pid.unsigned_abs()),
        );
    }
    assert!(has(&holders, 9 + i32::try_from(STRANGERS_MAX).unwrap()) != [0; 3]);
    assert!(has(&holders, 10 + i32::try_from(STRANGERS_MAX).unwrap()) == [0; 3]);
    for pid in 1..=4 {
        assert!(holders.tenant_attached(pid, 1, 0, 1));
    }
    assert!(!holders.tenant_attached(5, 1, 0, 1));
}

#[test]
fn a_user_with_all_the_channels_that_there_is_room_for_leaves_room_for_others() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    for pid in 1..=4 {
        assert!(holders.tenant_attached(pid, process(pid).start_ns, pid.unsigned_abs(), 1));
    }
    let mut had = 0;
    for pid in 1..=4_i32 {
        let mut handle = 1000 * pid.unsigned_abs();
        let root = pid.unsigned_abs();
        while call(
            &mut holders,
            &user(pid),
            make(root, 2, DOORBELL),
            Some(handle),
        ) == Verdict::Pass
        {
            handle += 1;
        }
        let has = has(&holders, pid)[2] as usize;
        assert!(has >= OBJECTS_MAX / 16, "{pid} has {has}");
        had += has;
    }
    assert!(had < OBJECTS_MAX);
}

#[test]
fn strangers_that_make_what_they_may_leave_room_for_tenants() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    let tenant = user(1);
    holders.tenant_attached(1, tenant.start_ns, 1, 77);
    for handle in 0..2 * u32::try_from(OBJECTS_MAX).unwrap() {
        let made = call(
            &mut holders,
            &user(50),
            make(50, 2, SUBDEVICE),
            Some(100 + handle),
        );
        assert_eq!(made, Verdict::Pass);
    }
    let channel = make(1, 2, CHANNEL);
    assert_eq!(call(&mut holders, &tenant, channel, Some(9)), Verdict::Pass);
    // When they are gone there is as much room as before.
    let all = Call::Free {
        root: 50,
        handle: 50,
    };
    call(&mut holders, &user(50), all, Some(50));
    let mut made = 1;
    while call(&mut holders, &tenant, channel, Some(100 + made)) == Verdict::Pass {
        made += 1;
    }
    assert_eq!(made as usize, OBJECTS_MAX / 2);
}

#[test]
fn strangers_whose_calls_never_end_leave_tickets_for_tenants() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    let tenant = user(1);
    holders.tenant_attached(1, tenant.start_ns, 1, 77);
    for task in 1000..1000 + 2 * TICKETS {
        let stranger = Caller { task, ..user(50) };
        let below = make(50, 2, SUBDEVICE);
        let awaited = holders.awaits(&stranger, below, NOWHERE);
        let verdict = holders.enter(&stranger, 50, below, Parameters::default(), NOWHERE);
        assert_eq!(verdict, Verdict::Pass);
        // Nothing more than what has a ticket has a place in the kernel's pool.
        assert_eq!(awaited, task < 1000 + TICKETS / 2);
        assert_eq!(holders.awaits(&stranger, below, NOWHERE), awaited);
    }
    let channel = make(1, 2, CHANNEL);
    assert!(holders.awaits(&tenant, channel, NOWHERE));
    assert_eq!(call(&mut holders, &tenant, channel, Some(9)), Verdict::Pass);
    assert_eq!(has(&holders, 1), [1, 0, 0]);
    let of_nothing = Call::Free { root: 7, handle: 8 };
    assert!(!holders.awaits(&user(51), of_nothing, NOWHERE));
    assert!(
        !holders.awaits(&user(51), channel, NOWHERE),
        "it is refused"
    );
}

#[test]
fn strangers_that_are_refused_leave_room_for_who_is_in_an_admitted_cgroup() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    let channel = make(1, 2, CHANNEL);
    for pid in 100..120 {
        let stranger = Caller {
            uid: 50,
            ..process(pid)
        };
        let refused = Verdict::Refuse(NOT_PERMITTED);
        assert_eq!(call(&mut holders, &stranger, channel, None), refused);
    }
    let member = holders.enter(&user(6), 1, channel, Parameters::default(), |_| true);
    assert_eq!(member, Verdict::Pass);
    assert!(holders.admit_process(7, 1, true));
}

#[test]
fn what_is_left_of_the_dead_is_forgotten_but_for_what_they_have() {
    let mut holders = holders();
    holders.mode = Mode::Enforce;
    let (refused, admitted, holder) = (process(5), process(6), process(7));
    call(&mut holders, &refused, make(1, 2, CHANNEL), None);
    holders.admit_process(6, admitted.start_ns, true);
    holders.admit_process(7, holder.start_ns, true);
    call(&mut holders, &holder, make(1, 2, CHANNEL), Some(3));
    for at in 0..holders.places() {
        holders.forget_if_dead(at, |_, _| false);
    }
    assert_eq!(holders.next_user(0).unwrap().pid, 7);
    assert!(holders.next_user(7).is_none());
    assert_eq!(
        call(&mut holders, &admitted, make(1, 2, CHANNEL), None),
        Verdict::Refuse(NOT_PERMITTED)
    );
    assert_eq!(
        call(&mut holders, &holder, make(1, 2, CHANNEL), None),
        Verdict::Refuse(NOT_PERMITTED)
    );
}

#[test]
fn a_call_whose_end_is_missed_counts_until_its_client_goes() {
    let mut holders = holders();
    let caller = process(5);
    holders.enter(
        &caller,
        1,
        make(1, 2, CHANNEL),
        Parameters::default(),
        NOWHERE,
    );
    call(&mut holders, &caller, make(1, 2, CHANNEL), Some(3));
    assert_eq!(has(&holders, 5), [2, 0, 0]);
    call(
        &mut holders,
        &caller,
        Call::Free { root: 1, handle: 1 },
        Some(1),
    );
    assert_eq!(has(&holders, 5), [0; 3]);
    // One that never comes back goes with its file.
    holders.enter(
        &caller,
        1,
        make(1, 2, CHANNEL),
        Parameters::default(),
        NOWHERE,
    );
    assert_eq!(has(&holders, 5), [1, 0, 0]);
    holders.file_closed(1);
    assert_eq!(has(&holders, 5), [0; 3]);
}

#[test]
fn a_refusal_and_the_first_channel_of_a_stranger_are_told() {
    let mut holders = holders();
    let caller = process(5);
    for handle in 3..6 {
        call(&mut holders, &caller, make(1, 2, CHANNEL), Some(handle));
    }
    let told = holders.next_note().unwrap();
    assert_eq!((told.status, told.class, told.pid), (0, CHANNEL, 5));
    assert_eq!(holders.next_note(), None);
    holders.mode = Mode::Enforce;
    let mut refuse = |pid, times| {
        for _ in 0..times {
            call(&mut holders, &process(pid), make(1, 2, GROUP), None);
        }
        let notes = core::iter::from_fn(|| holders.next_note());
        notes
            .map(|note| (note.status, note.class, note.pid, note.lost))
            .collect::<Vec<_>>()
    };
    let told = (NOT_PERMITTED, GROUP, 5, 0);
    assert_eq!(refuse(5, 10), vec![told; 8]);
    // From then on when their number has doubled.
    assert_eq!(refuse(5, 5), []);
    assert_eq!(refuse(5, 1), [told]);
    assert_eq!(refuse(5, 15), []);
    assert_eq!(refuse(5, 1), [told]);
    for pid in [6, 7] {
        call(&mut holders, &process(pid), make(1, 2, GROUP), None);
    }
    for pid in [6, 7] {
        assert_eq!(holders.next_note().unwrap().pid, pid);
    }
    // What finds no room is counted.
    for _ in 0..5 {
        for pid in [6, 7] {
            call(&mut holders, &process(pid), make(1, 2, GROUP), None);
        }
    }
    let lost = core::iter::from_fn(|| holders.next_note()).map(|note| note.lost);
    assert_eq!(lost.collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 0, 0, 2]);
}

// ---- Any order of anything ---------------------------------------------------------------------------

/// What the driver has: client and handle of each object, with its parent, its class, and for whom.
#[derive(Default)]
struct Driver(BTreeMap<(u32, u32), (u32, u32, i32)>);

impl Driver {
    fn act(&mut self, call: Call, handle: u32, pid: i32) -> Option<u32> {
        match call {
            Call::Make {
                root,
                parent,
                class,
                ..
            } => {
                if self.0.contains_key(&(root, handle)) {
                    return None;
                }
                // What is above must be there, unless it is the device, which always is.
                let above = self.0.get(&(root, parent)).map(|object| object.1);
                let fits = match class {
                    CHANNEL => parent == 2 || above == Some(GROUP),
                    DOORBELL => above == Some(SUBDEVICE),
                    _ => parent == 2,
                };
                fits.then(|| self.0.insert((root, handle), (parent, class, pid)))?;
                Some(handle)
            }
            Call::Free { root, handle } => {
                let before = self.0.len();
                self.free(root, handle);
                (before != self.0.len()).then_some(handle)
            }
            Call::Unclear { .. } => None,
        }
    }

    fn free(&mut self, root: u32, handle: u32) {
        if handle == root {
            self.0.retain(|key, _| key.0 != root);
            return;
        }
        self.0.remove(&(root, handle));
        let below: Vec<_> = self
            .0
            .iter()
            .filter(|(key, object)| key.0 == root && object.0 == handle)
            .collect();
        for handle in below.into_iter().map(|(key, _)| key.1).collect::<Vec<_>>() {
            self.free(root, handle);
        }
    }

    fn has(&self, pid: i32) -> [u32; 3] {
        let count = |class| {
            let own = self
                .0
                .values()
                .filter(|object| object.1 == class && object.2 == pid);
            u32::try_from(own.count()).unwrap()
        };
        [count(CHANNEL), count(GROUP), count(DOORBELL)]
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin {
        thread: usize,
        call: Call,
        handle: u32,
    },
    Act {
        thread: usize,
    },
    End {
        thread: usize,
    },
    Close {
        file: usize,
    },
}

fn any_call() -> impl Strategy<Value = Call> {
    let class = proptest::sample::select(vec![CHANNEL, CHANNEL, GROUP, DOORBELL, SUBDEVICE]);
    let root = 100..102_u32;
    prop_oneof![
        3 => (root.clone(), 2..8_u32, class).prop_map(|(root, parent, class)| make(root, parent, class)),
        1 => (root, 2..12_u32).prop_map(|(root, handle)| Call::Free {
            root,
            handle: if handle > 8 { root } else { handle },
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, any_call(), 3..8_u32).prop_map(|(thread, call, handle)| Step::Begin {
            thread,
            call,
            handle
        }),
        (0..4_usize).prop_map(|thread| Step::Act { thread }),
        (0..4_usize).prop_map(|thread| Step::End { thread }),
        (100..102_usize).prop_map(|file| Step::Close { file }),
    ]
}

/// A thread in the driver.
#[derive(Clone, Copy)]
struct Under {
    call: Call,
    handle: u32,
    /// What came of it, once the driver has acted.
    outcome: Option<Option<u32>>,
}

fn root(call: Call) -> u32 {
    match call {
        Call::Make { root, .. } | Call::Free { root, .. } => root,
        Call::Unclear { .. } => 0,
    }
}

fn end(holders: &mut Holders<Host>, caller: &Caller, under: Under) {
    holders.leave(caller.task, |_| under.outcome.flatten());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_threads_do_at_once_a_count_is_never_too_low(
        steps in proptest::collection::vec(any_step(), 0..150),
    ) {
        let mut holders = holders();
        let mut driver = Driver::default();
        // Two processes of two threads each.
        let callers: Vec<_> = (0..4)
            .map(|thread: i32| Caller { task: usize::try_from(thread + 1).unwrap(), ..process(5 + thread / 2) })
            .collect();
        let mut threads: [Option<Under>; 4] = [None; 4];
        for step in steps {
            match step {
                Step::Begin { thread, call, handle } if threads[thread].is_none() => {
                    let file = root(call) as usize;
                    holders.enter(&callers[thread], file, call, Parameters::default(), NOWHERE);
                    threads[thread] = Some(Under { call, handle, outcome: None });
                }
                Step::Act { thread } => {
                    if let Some(under) = &mut threads[thread]
                        && under.outcome.is_none()
                    {
                        under.outcome = Some(driver.act(under.call, under.handle, callers[thread].pid));
                    }
                }
                Step::End { thread } if threads[thread].is_some_and(|under| under.outcome.is_some()) => {
                    end(&mut holders, &callers[thread], threads[thread].take().unwrap());
                }
                Step::Close { file } => {
                    let busy = threads.iter().flatten().any(|under| root(under.call) as usize == file);
                    if !busy {
                        driver.free(file as u32, file as u32);
                        holders.file_closed(file);
                    }
                }
                Step::Begin { .. } | Step::End { .. } => {}
            }
            for pid in [5, 6] {
                let (counted, real) = (has(&holders, pid), driver.has(pid));
                let enough = counted.iter().zip(&real).all(|(counted, real)| counted >= real);
                prop_assert!(enough, "{pid} has {real:?} and is counted as {counted:?}");
            }
        }
        // When all is over, nothing is left.
        for (thread, under) in threads.iter().enumerate() {
            if let Some(under) = *under {
                end(&mut holders, &callers[thread], under);
            }
        }
        holders.file_closed(100);
        holders.file_closed(101);
        prop_assert!(holders.next_user(0).is_none());
    }

    #[test]
    fn of_calls_one_after_the_other_a_count_is_exact(
        calls in proptest::collection::vec((0..4_usize, any_call(), 3..8_u32), 0..100),
    ) {
        let mut holders = holders();
        let mut driver = Driver::default();
        for (thread, call, handle) in calls {
            let caller = process(5 + i32::try_from(thread).unwrap() / 2);
            let outcome = driver.act(call, handle, caller.pid);
            holders.enter(&caller, 1, call, Parameters::default(), NOWHERE);
            holders.leave(caller.task, |_| outcome);
            for pid in [5, 6] {
                prop_assert_eq!(has(&holders, pid), driver.has(pid));
            }
        }
    }

    #[test]
    fn any_bytes_are_understood_or_left_alone(
        command in prop_oneof![Just(0x2b_u32), Just(0x28), Just(0x29), any::<u32>()],
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut changed = bytes.clone();
        let known = set_status(command, &mut changed, 0x1b);
        prop_assert!(known || changed == bytes, "what is not understood was changed");
        if matches!(parse(command, &bytes), Some(Call::Make { .. } | Call::Free { .. })) {
            prop_assert!(known);
            prop_assert_eq!(done(command, &changed), None);
        }
    }
}

#[test]
fn calls_are_read_as_the_driver_lays_them_out() {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let channel = Some(Call::Make {
        root: 0xa,
        parent: 0xb,
        class: CHANNEL,
        kind: Kind::Channel,
    });
    // Root, parent, handle, class, a pointer, its size, the status.
    let short = words(&[0xa, 0xb, 0xc, CHANNEL, 1, 2, 3, 0]);
    assert_eq!(parse(0x2b, &short), channel);
    assert_eq!(done(0x2b, &short), Some(0xc));
    // The same with rights and flags.
    let long = words(&[0xa, 0xb, 0xc, CHANNEL, 1, 2, 3, 4, 5, 6, 0, 7]);
    assert_eq!(parse(0x2b, &long), channel);
    assert_eq!(done(0x2b, &long), Some(0xc));
    let old = words(&[0xa, 0xb, 0xc, CHANNEL, 0]);
    assert_eq!(parse(0x28, &old), channel);
    assert_eq!(done(0x28, &old), Some(0xc));
    let free = words(&[0xa, 0xb, 0xc, 0]);
    assert_eq!(
        parse(0x29, &free),
        Some(Call::Free {
            root: 0xa,
            handle: 0xc
        })
    );
    for (command, mut bytes) in [(0x2b, short), (0x2b, long), (0x28, old), (0x29, free)] {
        assert!(set_status(command, &mut bytes, 0x1b));
        assert_eq!(done(command, &bytes), None);
    }
    // A size that no driver is known to have.
    let strange = words(&[0xa, 0xb, 0xc, CHANNEL, 0, 0]);
    assert_eq!(
        parse(0x2b, &strange),
        Some(Call::Unclear { class: CHANNEL })
    );
    // Classes of no concern, and other commands.
    assert_eq!(
        parse(0x2b, &words(&[0xa, 0xb, 0xc, 0x3e, 0, 0, 0, 0])),
        None
    );
    assert_eq!(
        parse(0x2a, &words(&[0xa, 0xb, 0xc, CHANNEL, 0, 0, 0, 0])),
        None
    );
}
