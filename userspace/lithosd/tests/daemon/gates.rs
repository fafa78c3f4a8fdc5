// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who shuts and opens the gates of chains, and when; the tenants and the GPU are played by hand.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lithos_abi::bindings::*;
use lithos_abi::chain::{Chains, Tail};
use lithos_abi::grant::Order;
use lithos_device::embedded::SocketBroker;
use lithos_device::{Broker, Channel};
use lithos_policy::{Hand, TpcSet};
use lithosd::control::{Reply, Request};
use nix::sys::signal::{Signal, kill};

use crate::harness::*;

/// One latency-critical, and two of best effort, which are split. One of them borrows; on its own TPCs its
/// atoms would be too long to go on there.
const SPLIT: &str = r#"
[[partition]]
name = "lc"
class = "lc"
guarantee = 4
[[partition]]
name = "be"
class = "be"
guarantee = 4
atom_us = 100
[[partition]]
name = "borrows"
class = "be"
atom_us = 1000
borrow = true
"#;

/// Two of the same class who lend each other all 13 TPCs.
const EQUALS: &str = r#"
[[partition]]
name = "one"
class = "lc"
guarantee = 7
ceiling = 13
atom_us = 100
borrow = true
[[partition]]
name = "other"
class = "lc"
guarantee = 6
ceiling = 13
atom_us = 100
borrow = true
"#;

/// A tenant with a channel.
struct Tenant {
    // Ends with the tenant.
    broker: SocketBroker,
    channel: Channel,
}

impl Tenant {
    fn of(daemon: &Daemon, partition: &str) -> Self {
        let mut broker = daemon.tenant(partition);
        let channel = broker.create_channel(GPU0, 7).unwrap();
        Self { broker, channel }
    }

    fn chains(&self) -> Chains<'_> {
        self.channel.arena().unwrap().chains().unwrap()
    }

    /// Publishes a chain of so many gates from one on, all open, as a shim does that sees no other order.
    fn publish(&self, first: u32, gates: u32, predicted_ns: u64) -> (u64, Tail<'_>) {
        self.publish_as(launch(&self.channel), first, gates, predicted_ns)
    }

    /// The same of a launch that has this sequence.
    fn publish_as(
        &self,
        sequence: u64,
        first: u32,
        gates: u32,
        predicted_ns: u64,
    ) -> (u64, Tail<'_>) {
        let number = self.channel.ring().begin_chain();
        let tail = self.chains().tail(number);
        tail.number().store(number, Relaxed);
        for gate in first..first + gates {
            self.chains()
                .gate(gate)
                .word()
                .store(LITHOS_GATE_OPEN, Relaxed);
        }
        tail.first_gate().store(first, Relaxed);
        tail.gates().store(gates, Relaxed);
        tail.remaining_ns().store(predicted_ns, Relaxed);
        let tpcs = self.channel.grant().read().unwrap().now();
        for (word, bits) in tail.tpcs().into_iter().zip(tpcs) {
            word.store(bits, Relaxed);
        }
        tail.published().store(sequence, Release);
        (sequence, tail)
    }

    fn gates_are(&self, gates: std::ops::Range<u32>, word: u32) -> bool {
        gates
            .into_iter()
            .all(|gate| self.chains().gate(gate).word().load(Acquire) == word)
    }

    fn await_gates(&self, gates: std::ops::Range<u32>, word: u32) {
        eventually("gates as ordered", || self.gates_are(gates.clone(), word));
    }

    /// Writes a stamp, as the GPU does.
    fn stamp(&self, address: u64, sequence: u64) {
        let start = self.channel.arena().unwrap().start();
        let offset = usize::try_from(address).unwrap() - start.as_ptr() as usize;
        // SAFETY: a word of the arena, which is mapped; everybody uses atomics on it.
        let word = unsafe { AtomicU32::from_ptr(start.byte_add(offset).cast().as_ptr()) };
        word.store(u32::try_from(sequence).unwrap(), Release);
    }

    fn order(&self) -> Order {
        self.channel.grant().order_at(0)
    }
}

/// A length of chain that no test waits for.
const LONG_NS: u64 = 1_000_000_000_000;

fn order(daemon: &Daemon, partition: &str, hand: Hand) {
    let request = Request::Order {
        partition: partition.into(),
        hand,
    };
    match daemon.ask(&request) {
        Reply::Partition(partition) => assert_eq!(partition.hand, hand),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gates_of_a_partition_that_is_held_are_shut_until_it_is_released() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    tenant.publish(3, 7, LONG_NS);
    let other = Tenant::of(&daemon, "be");
    other.publish(64, 63, LONG_NS);
    for _ in 0..3 {
        order(&daemon, "be", Hand::Held);
        eventually("the gates are shut", || {
            tenant.gates_are(3..10, LITHOS_GATE_SHUT) && other.gates_are(64..127, LITHOS_GATE_SHUT)
        });
        assert_eq!(tenant.order(), Order::Shut);
        assert!(daemon.channel(tenant.channel.id()).unwrap().chains.held);
        order(&daemon, "be", Hand::Released);
        eventually("the gates are open", || {
            tenant.gates_are(3..10, LITHOS_GATE_OPEN) && other.gates_are(64..127, LITHOS_GATE_OPEN)
        });
        assert_eq!(tenant.order(), Order::Open);
    }
    // What is no gate of a chain's is nobody's business.
    assert!(tenant.gates_are(0..3, 0) && tenant.gates_are(10..20, 0));
    assert_eq!(daemon.channel(tenant.channel.id()).unwrap().chains.holds, 3);
}

#[test]
fn a_chain_that_is_published_with_open_gates_after_the_order_is_found() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    order(&daemon, "be", Hand::Held);
    // An honest shim would have seen the order.
    tenant.publish(0, 5, LONG_NS);
    tenant.await_gates(0..5, LITHOS_GATE_SHUT);
}

#[test]
fn best_effort_that_borrows_is_held_up_while_somebody_latency_critical_is_active() {
    let daemon = Daemon::start(SPLIT);
    let (critical, effort) = (Tenant::of(&daemon, "lc"), Tenant::of(&daemon, "borrows"));
    effort.publish(0, 7, LONG_NS);
    for round in 1..=20 {
        let active = launch(&critical.channel);
        effort.await_gates(0..7, LITHOS_GATE_SHUT);
        complete(&critical.channel, active);
        effort.await_gates(0..7, LITHOS_GATE_OPEN);
        let chains = daemon.channel(effort.channel.id()).unwrap().chains;
        assert!(chains.holds >= round, "{chains:?}");
    }
    assert!(daemon.status().reaction.count > 0);
}

#[test]
fn best_effort_goes_on_two_atoms_at_a_time_while_somebody_latency_critical_comes_and_goes() {
    let daemon = Daemon::start(SPLIT);
    let (critical, effort) = (Tenant::of(&daemon, "lc"), Tenant::of(&daemon, "borrows"));
    // The first launch has its gates be shut; what is published from then on has them shut at first.
    let active = launch(&critical.channel);
    eventually("an order", || effort.order() == Order::Shut);
    let (sequence, tail) = effort.publish(0, 7, LONG_NS);
    complete(&critical.channel, active);
    let open = |gates: u32| {
        effort.gates_are(0..gates, LITHOS_GATE_OPEN) && effort.gates_are(gates..7, LITHOS_GATE_SHUT)
    };
    let comes_and_goes = || complete(&critical.channel, launch(&critical.channel));
    let paced = |what: &str, gates: u32| {
        eventually(what, || {
            let is_so = open(gates);
            comes_and_goes();
            is_so
        });
    };
    paced("the first gate is open", 1);
    effort.stamp(tail.first_address(), sequence);
    paced("the second gate is open", 2);
    let atom_done = |gate: u32| effort.chains().gate(gate).atom_done_address();
    effort.stamp(atom_done(0), sequence);
    effort.stamp(atom_done(1), sequence);
    paced("the fourth gate is open", 4);
    // Nobody comes any more.
    effort.await_gates(0..7, LITHOS_GATE_OPEN);
    assert_eq!(effort.order(), Order::Open);
}

#[test]
fn best_effort_is_let_go_for_its_share_although_somebody_latency_critical_is_never_idle() {
    let daemon = Daemon::start(&SPLIT.replace("borrow = true", "borrow = true\nmin_share = 20"));
    let (critical, effort) = (Tenant::of(&daemon, "lc"), Tenant::of(&daemon, "borrows"));
    effort.publish(0, 7, LONG_NS);
    // One launch is always under way.
    let mut active = launch(&critical.channel);
    let mut goes_on = || {
        let next = launch(&critical.channel);
        complete(&critical.channel, std::mem::replace(&mut active, next));
    };
    let chains = || daemon.channel(effort.channel.id()).unwrap().chains;
    for round in 1..=3 {
        eventually("it is held", || {
            goes_on();
            effort.gates_are(0..7, LITHOS_GATE_SHUT)
        });
        eventually("it is let go for its share", || {
            goes_on();
            effort.gates_are(0..1, LITHOS_GATE_OPEN)
        });
        let chains = chains();
        assert!(chains.rations >= round && !chains.held, "{chains:?}");
    }
}

#[test]
fn a_launch_that_never_comes_does_not_keep_best_effort_waiting() {
    let daemon = Daemon::start(SPLIT);
    let (critical, effort) = (Tenant::of(&daemon, "lc"), Tenant::of(&daemon, "borrows"));
    effort.publish(0, 7, LONG_NS);
    critical.channel.ring().reserve();
    effort.await_gates(0..7, LITHOS_GATE_SHUT);
    effort.await_gates(0..7, LITHOS_GATE_OPEN);
    // It can say that it is active all the same, by what it does.
    let active = launch(&critical.channel);
    effort.await_gates(0..7, LITHOS_GATE_SHUT);
    complete(&critical.channel, active);
    effort.await_gates(0..7, LITHOS_GATE_OPEN);
}

#[test]
fn a_chain_that_cannot_go_on_behind_shut_gates_is_let_pass_and_one_that_waits_there_is_not() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    let (sequence, stuck) = tenant.publish(0, 7, 1_000);
    order(&daemon, "be", Hand::Held);
    tenant.await_gates(0..7, LITHOS_GATE_SHUT);
    // Its last block has started, so it has come to the gate; but it does not complete.
    tenant.stamp(tenant.chains().gate(0).waiting_address(), sequence);
    eventually("it is let pass", || {
        stuck.stuck().load(Acquire) == 1 && tenant.gates_are(0..7, LITHOS_GATE_OPEN)
    });
    let chains = daemon.channel(tenant.channel.id()).unwrap().chains;
    assert_eq!((chains.stuck, chains.held), (1, true));

    let other = Tenant::of(&daemon, "be");
    let (sequence, waits) = other.publish(0, 7, 1_000);
    let gates = [0, 1, 2].map(|gate| other.chains().gate(gate));
    other.await_gates(0..7, LITHOS_GATE_SHUT);
    // The first atom and two more have completed, and it has come to the gate behind them.
    for address in [
        waits.first_address(),
        gates[0].atom_done_address(),
        gates[1].atom_done_address(),
        gates[2].waiting_address(),
    ] {
        other.stamp(address, sequence);
    }
    // As long as it takes to find out about another one.
    let later = Tenant::of(&daemon, "be");
    let (sequence, stuck) = later.publish(0, 7, 1_000);
    later.await_gates(0..7, LITHOS_GATE_SHUT);
    later.stamp(later.chains().gate(0).waiting_address(), sequence);
    eventually("the other is let pass", || stuck.stuck().load(Acquire) == 1);
    assert_eq!(waits.stuck().load(Acquire), 0);
    assert!(other.gates_are(0..7, LITHOS_GATE_SHUT));
}

#[test]
fn a_launch_that_waits_for_others_is_not_taken_for_stuck() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    let (_, waits) = tenant.publish(0, 7, 1_000);
    order(&daemon, "be", Hand::Held);
    let other = Tenant::of(&daemon, "be");
    let (sequence, stuck) = other.publish(0, 7, 1_000);
    other.await_gates(0..7, LITHOS_GATE_SHUT);
    other.stamp(other.chains().gate(0).waiting_address(), sequence);
    eventually("the other is let pass", || stuck.stuck().load(Acquire) == 1);
    assert_eq!(waits.stuck().load(Acquire), 0);
    assert!(tenant.gates_are(0..7, LITHOS_GATE_SHUT));
}

#[test]
fn gates_that_somebody_else_has_opened_are_shut_again() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    tenant.publish(0, 7, LONG_NS);
    order(&daemon, "be", Hand::Held);
    tenant.await_gates(0..7, LITHOS_GATE_SHUT);
    for gate in 2..5 {
        let word = tenant.chains().gate(gate).word();
        word.store(LITHOS_GATE_OPEN, Release);
    }
    tenant.await_gates(0..7, LITHOS_GATE_SHUT);
}

#[test]
fn a_squeezed_partition_has_few_tpcs_and_so_have_its_atoms_to_come() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    let before = granted(&tenant.channel);
    assert_eq!(before.len(), 4);
    tenant.publish(0, 3, LONG_NS);
    let disabled = |atom: u32| before - allowed(&tenant, atom);
    order(&daemon, "be", Hand::Squeezed);
    eventually("few TPCs", || {
        let now = granted(&tenant.channel);
        now.len() == 2 && now.is_subset(before)
    });
    let few = granted(&tenant.channel);
    eventually("few TPCs of its atoms", || {
        (0..3).all(|atom| (before & disabled(atom)).len() == 2 && (few & disabled(atom)).is_empty())
    });
    order(&daemon, "be", Hand::Released);
    eventually("all TPCs", || granted(&tenant.channel) == before);
    eventually("all TPCs of its atoms", || {
        (0..3).all(|atom| (before & disabled(atom)).is_empty())
    });
}

#[test]
fn a_squeezed_partition_has_as_many_tpcs_as_its_atoms_need_to_stay_short() {
    let daemon = Daemon::start(
        "[[partition]]\nname = \"long\"\nclass = \"be\"\nguarantee = 8\natom_us = 400\n",
    );
    let squeezed = |tenant: &Tenant, tpcs: u32| {
        eventually("TPCs that are enough", || {
            granted(&tenant.channel).len() == tpcs
        });
    };
    let one = Tenant::of(&daemon, "long");
    order(&daemon, "long", Hand::Squeezed);
    // 8 TPCs x 400 us are 3.2 ms on one, which is to be a millisecond at most;
    squeezed(&one, 4);
    order(&daemon, "long", Hand::Released);
    squeezed(&one, 8);
    let other = Tenant::of(&daemon, "long");
    order(&daemon, "long", Hand::Squeezed);
    // and twice as much for two at a time.
    squeezed(&one, 7);
    squeezed(&other, 7);
}

#[test]
fn who_borrows_has_the_tpcs_of_others_too() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "borrows");
    // 13 in all, of which 4 are guaranteed to another one of best effort.
    eventually("all TPCs", || granted(&tenant.channel).len() == 13);
    let critical = Tenant::of(&daemon, "lc");
    assert!(granted(&critical.channel).is_subset(granted(&tenant.channel)));
    daemon.set_guarantee("lc", 2);
    eventually("no more than there is", || {
        let borrowed = granted(&tenant.channel);
        granted(&critical.channel).len() == 2
            && granted(&critical.channel).is_subset(borrowed)
            && borrowed.len() == 13
    });
    assert_eq!(
        daemon
            .channel(tenant.channel.id())
            .unwrap()
            .totals
            .violations,
        0
    );
}

#[test]
fn atoms_that_a_daemon_had_narrowed_are_wide_again_under_the_next() {
    let daemon = Daemon::start(SPLIT);
    let mut tenant = Tenant::of(&daemon, "be");
    eventually("its TPCs", || granted(&tenant.channel).len() == 4);
    tenant.publish(0, 3, LONG_NS);
    let all = granted(&tenant.channel);
    order(&daemon, "be", Hand::Squeezed);
    let have =
        |tenant: &Tenant, tpcs: u32| (0..3).all(|atom| (allowed(tenant, atom) & all).len() == tpcs);
    eventually("few TPCs", || have(&tenant, 2));
    let id = daemon.status().tenants[0].tenant;
    let daemon = Daemon::start_in(daemon.kill(), SPLIT);
    tenant.broker = SocketBroker::connect(&daemon.socket()).unwrap();
    tenant.broker.resume(id, "be").unwrap();
    tenant.broker.resume_channel(&tenant.channel).unwrap();
    eventually("all its TPCs", || have(&tenant, 4));
}

#[test]
fn a_chain_whose_record_does_not_come_is_held_and_let_go_and_its_masks_are_left_alone() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    eventually("its TPCs", || granted(&tenant.channel).len() == 4);
    let atoms = || [0, 1, 2].map(|atom| allowed(&tenant, atom));
    let before = atoms();
    tenant.publish_as(tenant.channel.ring().reserve(), 0, 3, LONG_NS);
    let honest = Tenant::of(&daemon, "be");
    honest.publish(0, 3, LONG_NS);
    for (hand, word) in [
        (Hand::Held, LITHOS_GATE_SHUT),
        (Hand::Squeezed, LITHOS_GATE_OPEN),
    ] {
        order(&daemon, "be", hand);
        tenant.await_gates(0..3, word);
    }
    let all = granted(&honest.channel);
    eventually("the other's are squeezed", || {
        (0..3).all(|atom| (allowed(&honest, atom) & all).len() == 2)
    });
    assert_eq!(atoms(), before);
}

#[test]
fn what_equals_lend_each_other_is_recalled_while_the_lender_is_active() {
    let daemon = Daemon::start(EQUALS);
    let (one, other) = (Tenant::of(&daemon, "one"), Tenant::of(&daemon, "other"));
    let now = |tenant: &Tenant| TpcSet::from_words(tenant.channel.grant().read().unwrap().now());
    eventually("all TPCs each", || {
        now(&one).len() == 13 && now(&other).len() == 13
    });
    let (sequence, tail) = one.publish(0, 7, LONG_NS);
    for round in 1..=10 {
        let active = launch(&other.channel);
        eventually("its own TPCs", || now(&one).len() == 7);
        // Whose chain runs is in the other's way as well.
        eventually("none in common", || (now(&one) & now(&other)).is_empty());
        eventually("atoms on its own TPCs, which go on", || {
            one.gates_are(0..7, LITHOS_GATE_OPEN)
                && (0..7).all(|atom| allowed(&one, atom) == now(&one))
        });
        complete(&other.channel, active);
        eventually("all TPCs again", || now(&one).len() == 13);
        eventually("atoms on all of them", || {
            (0..7).all(|atom| allowed(&one, atom) == now(&one))
        });
        let seen = daemon.channel(one.channel.id()).unwrap().chains;
        assert!(
            seen.recalls >= round && seen.borrowed.len() == 6,
            "{seen:?}"
        );
    }
    // It is active all the time itself.
    assert_eq!(now(&other).len(), 6);
    one.stamp(tail.done_address(), sequence);
    complete(&one.channel, sequence);
    eventually("all TPCs each again", || {
        now(&one).len() == 13 && now(&other).len() == 13
    });
}

#[test]
fn who_borrows_has_no_more_than_the_ceiling() {
    let daemon = Daemon::start(&EQUALS.replacen("ceiling = 13", "ceiling = 8", 1));
    let one = Tenant::of(&daemon, "one");
    let now = || TpcSet::from_words(one.channel.grant().read().unwrap().now());
    eventually("8 TPCs", || now().len() == 8);
    eventually("no more is shown", || {
        let share = &daemon.status().partitions[0].shares[0];
        (share.owned.len(), share.borrowed.len()) == (7, 1)
    });
}

#[test]
fn best_effort_with_a_place_of_its_own_leaves_what_is_lent_and_is_not_held() {
    let daemon = Daemon::start(&SPLIT.replace("atom_us = 1000", "atom_us = 100"));
    let (critical, effort) = (Tenant::of(&daemon, "lc"), Tenant::of(&daemon, "borrows"));
    eventually("all TPCs", || granted(&effort.channel).len() == 13);
    effort.publish(0, 7, LONG_NS);
    let active = launch(&critical.channel);
    let now = || TpcSet::from_words(effort.channel.grant().read().unwrap().now());
    // Its own 5, and 4 that are kept for "be", of which nobody is there.
    eventually("all but the lender's", || now().len() == 9);
    let left = now();
    assert!((left & granted(&critical.channel)).is_empty());
    eventually("atoms on these, which go on", || {
        effort.gates_are(0..7, LITHOS_GATE_OPEN)
            && (0..7).all(|atom| allowed(&effort, atom) == left)
    });
    let seen = daemon.channel(effort.channel.id()).unwrap().chains;
    assert!(seen.holds == 0 && seen.borrowed.len() == 4, "{seen:?}");
    complete(&critical.channel, active);
    eventually("atoms on all TPCs", || {
        (0..7).all(|atom| allowed(&effort, atom) == granted(&effort.channel))
    });
}

/// The TPCs that an atom may use.
fn allowed(tenant: &Tenant, atom: u32) -> TpcSet {
    let words = tenant.chains().atom(atom).0;
    let all = TpcSet::from_words(tenant.channel.terms().present);
    all - TpcSet::from_words([38, 39].map(|index: usize| words[index].load(Acquire)))
}

#[test]
fn whatever_a_tenant_writes_into_its_tails_and_gates_hurts_nobody_else() {
    let daemon = Daemon::start(SPLIT);
    let (liar, honest) = (Tenant::of(&daemon, "be"), Tenant::of(&daemon, "be"));
    let mut chance = Chance(77);
    honest.publish(0, 7, LONG_NS);
    for round in 0..200 {
        let number = liar.channel.ring().begin_chain();
        let tail = liar.chains().tail(number);
        let half = |chance: &mut Chance| u32::try_from(chance.next() >> 32).unwrap();
        tail.first_gate().store(half(&mut chance), Relaxed);
        tail.gates().store(half(&mut chance), Relaxed);
        tail.remaining_ns().store(chance.next(), Relaxed);
        tail.shut().store(half(&mut chance), Relaxed);
        tail.published().store(chance.next(), Release);
        for gate in 0..liar.chains().gates() {
            liar.chains()
                .gate(gate)
                .word()
                .store(half(&mut chance), Relaxed);
        }
        if round % 50 == 0 {
            order(&daemon, "be", Hand::Held);
            honest.await_gates(0..7, LITHOS_GATE_SHUT);
            order(&daemon, "be", Hand::Released);
            honest.await_gates(0..7, LITHOS_GATE_OPEN);
        }
    }
    assert!(daemon.status().tenants.len() == 2);
}

#[test]
fn a_daemon_that_is_stopped_holds_nobody_up() {
    let daemon = Daemon::start(SPLIT);
    let tenant = Tenant::of(&daemon, "be");
    tenant.publish(0, 7, LONG_NS);
    order(&daemon, "be", Hand::Held);
    tenant.await_gates(0..7, LITHOS_GATE_SHUT);
    // Nobody schedules from now on, and whoever launches sees that.
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let late = |ns: u64| tenant.channel.grant().order_at(ns);
    assert_eq!(late(0), Order::Shut);
    assert_eq!(late(u64::MAX), Order::Open);
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    order(&daemon, "be", Hand::Released);
    tenant.await_gates(0..7, LITHOS_GATE_OPEN);
}

#[test]
fn the_chains_of_a_process_that_lives_and_leaves_are_not_halted() {
    let daemon = Daemon::start(SPLIT);
    // This process lives.
    let leaves = Tenant::of(&daemon, "be");
    leaves.publish(0, 7, LONG_NS);
    let id = leaves.channel.id();
    let Tenant { broker, channel } = leaves;
    drop(broker);
    eventually("its end", || daemon.channel(id).is_none());
    let chains = channel.arena().unwrap().chains().unwrap();
    assert!((0..7).all(|gate| chains.gate(gate).word().load(Acquire) == LITHOS_GATE_OPEN));
}
