// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A launch becomes a chain of atoms, where its grant has a length of atoms.
//!
//! In two steps, as for a [`Ticket`](crate::ticket::Ticket): when the launch call begins it is decided
//! into how many atoms to cut, and room is taken for them ([`begin`]); when the descriptor comes it is
//! cut, if it is one that may be ([`prepare`]). A launch that is known to be shorter than an atom
//! pays a look into a table.
//!
//! Whoever schedules shuts and opens gates at any time, without a lock: so a chain is published before it
//! is launched, and its gates are looked at again until they are as ordered (`LITHOS_ORDER_*`).

use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use lithos_abi::bindings::*;
use lithos_abi::chain::{Chains, Slot};
use lithos_abi::grant::Order;
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{
    Chain, Descriptor, Gate, GateState, Kind, Link, Place, SplitError, Splittable, Stamp,
    StampSlot, Words,
};

use crate::api::Launch;
use crate::backlog::Short;
use crate::channel::{Managed, Splitting};
use crate::launch::{describe, fitting, low_half, note};
use crate::local::Local;
use crate::operators::{Operator, is_first_short};
use crate::places::Held;

/// Links are asked for so long before they are written: the memory gives several lines at once, and each
/// late.
const AHEAD: u32 = 4;

/// How a launch is to be split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The number of the chain, and the sequence of the launch.
    number: (u64, u64),
    held: Held,
    /// What was asked to be launched, to know its descriptor by.
    blocks: u64,
    has_clusters: bool,
    /// How long it will take; 0 if that is not known.
    predicted_ns: u64,
}

/// What is to become of a launch, by what is known about its operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreseen {
    operator: Operator,
    /// The TPCs that it may use.
    tpcs: u32,
    /// Into how many atoms to cut it.
    atoms: u16,
    /// Why it is not, where there would be two or more: a [`lithos_counter`].
    why_whole: Option<lithos_counter>,
    /// How long it will take; 0 if that is not known.
    predicted_ns: u64,
    /// The TPCs that it may use if it begins now and is not split, and how long it takes then.
    short: (u32, u64),
}

/// At the begin of a launch call, and before it has a sequence: looks up what is known about its operator.
/// `resident` says how many of its blocks an SM holds, 0 if that is not known. `None` if launches are not
/// split.
#[cold]
#[inline(never)]
pub(crate) fn foresee(
    managed: &Managed,
    launch: &Launch,
    local: &Local,
    resident: impl FnOnce() -> u32,
) -> Option<Foreseen> {
    let ring = managed.ring();
    let chains = managed.chains()?;
    let grant = managed.grant(local.clock.now_ns(), &local.last)?;
    if grant.atom_ns == 0 {
        return None;
    }
    let Splitting { operators, places } = managed.splitting(&chains);
    places.prefetch(ring.reader().chains() + 1, &chains);
    let operator = operators.find(launch);
    operators.ask_resident(operator, resident);
    places.learn(operator, &chains, operators);
    let blocks = launch.blocks();
    let tpcs = (TpcMask::from_bits(grant.tpcs) & managed.gpu.present).count();
    // It is no faster on more than it has blocks for.
    let tpc_sms = managed.channel().terms().tpc_sms;
    let wanted = blocks.div_ceil(u64::from(tpc_sms.max(1)));
    let now = match operators.has_clusters(operator) {
        true => grant.lasting(),
        false => grant.now(),
    };
    let now_tpcs = (TpcMask::from_bits(now) & managed.gpu.present).count();
    let now_tpcs = now_tpcs.min(u32::try_from(wanted).unwrap_or(u32::MAX));
    let width = (tpcs, tpc_sms);
    let (atoms, predicted_ns) = operators.atoms(operator, blocks, width, grant.atom_ns);
    let why_whole = match launch.is_cooperative {
        true => Some(LITHOS_COUNT_WHOLE_COOPERATIVE),
        false => operators.why_whole(operator).filter(|_| atoms >= 2),
    };
    let ending = (!managed.may_stamp()).then_some(LITHOS_COUNT_WHOLE_ENDING);
    // What finds no room runs whole, and is bounded like what is never split.
    let full = grant.outstanding_ns != 0
        && atoms >= 2
        && !places.has_room(
            ring.reader().chains() + 1,
            operators.has_clusters(operator),
            &chains,
            operators,
        );
    let full = full.then_some(LITHOS_COUNT_WHOLE_FULL);
    Some(Foreseen {
        operator,
        tpcs,
        atoms,
        why_whole: why_whole.or(ending.filter(|_| atoms >= 2)).or(full),
        predicted_ns,
        short: (now_tpcs, operators.predicted_ns(operator, now_tpcs)),
    })
}

impl Foreseen {
    /// Returns whether it is to be split.
    pub(crate) fn is_split(&self) -> bool {
        self.atoms >= 2 && self.why_whole.is_none()
    }

    /// The launch of this sequence, as one that is not split.
    pub(crate) fn short(&self, sequence: u64, stream: u64) -> Short {
        let (tpcs, predicted_ns) = self.short;
        Short {
            sequence,
            stream,
            operator: self.operator,
            tpcs,
            predicted_ns,
        }
    }
}

/// And when it has one: takes room for the launch of this sequence, if it is to be split.
#[cold]
#[inline(never)]
pub(crate) fn begin(
    managed: &Managed,
    launch: &Launch,
    foreseen: &Foreseen,
    sequence: u64,
) -> Option<Cut> {
    let ring = managed.ring();
    let chains = managed.chains()?;
    let whole = |why| {
        ring.count(why);
        None
    };
    if let Some(why) = foreseen.why_whole {
        return whole(why);
    }
    let Foreseen {
        operator,
        tpcs,
        atoms,
        predicted_ns,
        ..
    } = *foreseen;
    if atoms < 2 {
        return None;
    }
    let Splitting { operators, places } = managed.splitting(&chains);
    let number = (ring.begin_chain(), sequence);
    let has_clusters = operators.has_clusters(operator);
    let wanted = Held {
        first: 0,
        atoms,
        tpcs,
        operator,
    };
    let Some(held) = places.take(number, wanted, has_clusters, &chains, operators) else {
        return whole(LITHOS_COUNT_WHOLE_FULL);
    };
    places.build(held, |index| {
        gate(&chains, index).build(&place(chains.atom(index)));
    });
    chains.tail(number.0).prefetch();
    // The last is the first that is written.
    let links = held.first..held.first + u32::from(held.atoms) - 1;
    links
        .rev()
        .take(AHEAD as usize)
        .for_each(|index| chains.prefetch(index));
    Some(Cut {
        number,
        held,
        blocks: launch.blocks(),
        has_clusters,
        predicted_ns,
    })
}

/// Splits the launch whose descriptor this is. False if it is not split: then nothing was done to it.
#[inline(never)]
pub(crate) fn prepare(
    managed: &Managed,
    words: &mut Words,
    function: u64,
    local: &Local,
    cut: Cut,
) -> bool {
    let split = Some(managed)
        .filter(|managed| {
            let ticket = local.ticket();
            ticket.is_some_and(|(its, sequence)| {
                std::ptr::eq(its, *managed) && sequence == cut.number.1
            })
        })
        .and_then(|managed| Some((managed.chains()?, splittable(managed, words, &cut)?)));
    let Some((chains, mut target)) = split else {
        cut.give_back(managed);
        return false;
    };
    let reserved = local.reserve(managed);
    debug_assert_eq!(reserved.sequence, cut.number.1);
    let kind = target.view().kind();
    let mut record = describe(&target.view(), kind);
    record.sequence = reserved.sequence;
    record.submitted_ns = local.clock.now_ns();
    record.function = function;
    record.stream = local.call.get().stream;
    let mut tpcs = Tpcs {
        first: None,
        others: target.view().allowed(),
    };
    if let Some(fitting) = fitting(managed, &target.view(), false, local, &mut record) {
        // Atoms that have not started get what is lent again later: whoever lends sees to that. Of clusters no mask is
        // ever edited.
        let recalled = if cut.has_clusters {
            TpcMask::EMPTY
        } else {
            fitting.recalled
        };
        let restricted = target.restrict(fitting.tpcs | recalled, managed.gpu.present);
        note(managed, restricted, fitting, &mut record);
        let all = restricted.mask();
        let now = Some(fitting.tpcs & all).filter(|now| !now.is_empty());
        let now = now.unwrap_or(all);
        tpcs = Tpcs {
            first: (now != all).then_some(now),
            others: now,
        };
    }
    let tail = chains.tail(cut.number.0);
    let editable = if cut.has_clusters {
        TpcMask::EMPTY
    } else {
        tpcs.others & managed.gpu.present
    };
    for (word, bits) in tail.tpcs().into_iter().zip(editable.bits()) {
        word.store(bits, Relaxed);
    }
    let ring = managed.ring();
    let stamps = managed.stamps();
    if reserved.is_claimed {
        let address = stamps.map(|stamps| stamps.address(ring.place(reserved.sequence)));
        let payload = low_half(reserved.sequence);
        let is_stamped =
            address.is_some_and(|address| target.stamp(StampSlot::Two, address, payload).is_ok());
        if is_stamped {
            record.flags |= LITHOS_RECORD_STAMPED;
        } else {
            ring.count(LITHOS_COUNT_UNSTAMPED);
        }
    } else {
        ring.count(LITHOS_COUNT_OVERRUN);
    }
    let is_split = split_into(managed, target, &cut, &chains, tpcs, local);
    if is_split {
        record.flags |= LITHOS_RECORD_SPLIT;
        let tail = chains.tail(cut.number.0);
        let gates = u16::try_from(tail.gates().load(Relaxed)).unwrap_or(0);
        local.note_atoms(gates + 1);
    } else {
        cut.give_back(managed);
    }
    if reserved.is_claimed {
        ring.write(&record);
    }
    true
}

/// The TPCs that atoms may use.
#[derive(Clone, Copy, Debug)]
struct Tpcs {
    /// If not all that the launch may.
    first: Option<TpcMask>,
    others: TpcMask,
}

/// Looks whether the descriptor is that of the launch, and may be split.
fn splittable<'d>(managed: &Managed, words: &'d mut Words, cut: &Cut) -> Option<Splittable<'d>> {
    let descriptor = Descriptor::new(words).ok()?;
    let kind = descriptor.kind();
    // A launch call may upload descriptors of other kernels than its own.
    if descriptor.block_count() != cut.blocks || descriptor.is_graph_node() {
        return None;
    }
    let operators = &managed.splitting(&managed.chains()?).operators;
    let operator = cut.held.operator;
    match descriptor.splittable() {
        // It has taken links for the other kind; the next launch will take the right ones.
        Ok(_) if kind.has_clusters() != cut.has_clusters => {
            operators.note_clusters(operator, kind == Kind::Clusters);
            None
        }
        Ok(target) => Some(target),
        Err(why) => {
            let why = reason(why);
            operators.keep_whole(operator, why);
            managed.ring().count(why);
            None
        }
    }
}

/// What counts launches that are not split for this reason.
fn reason(why: SplitError) -> lithos_counter {
    match why {
        SplitError::Cooperative => LITHOS_COUNT_WHOLE_COOPERATIVE,
        SplitError::GraphNode => LITHOS_COUNT_WHOLE_GRAPH_NODE,
        SplitError::Programmatic => LITHOS_COUNT_WHOLE_PROGRAMMATIC,
        _ => LITHOS_COUNT_WHOLE_UNKNOWN,
    }
}

/// Writes the chain, publishes it, and makes its gates be as ordered.
fn split_into(
    managed: &Managed,
    target: Splittable<'_>,
    cut: &Cut,
    chains: &Chains<'_>,
    tpcs: Tpcs,
    local: &Local,
) -> bool {
    let Held { first, atoms, .. } = cut.held;
    let (number, sequence) = cut.number;
    let tail = chains.tail(number);
    let now_ns = local.clock.now_ns();
    let mut order = managed.order(now_ns);
    let payload = low_half(sequence);
    let Ok(mut plan) = target.plan(atoms, 0) else {
        return false;
    };
    if is_first_short(plan.atoms()) {
        plan = plan.with_short_first();
    }
    // The grid may have fewer rows or slices than there were to be atoms.
    let gates = first..first + u32::from(plan.atoms()) - 1;
    let chain = Chain {
        tail: place(tail.descriptor()),
        done: stamp(tail.done_address(), payload),
        stamp: Some(stamp(tail.first_address(), payload)),
        allowed: tpcs.first,
        gates: state(order),
        present: managed.gpu.present,
    };
    // Of atoms of clusters no mask is ever edited.
    let allowed = (!cut.has_clusters).then_some(tpcs.others);
    if chain.gates == GateState::Shut {
        gates
            .clone()
            .for_each(|index| chains.gate(index).forget_waiting());
    }
    let links = gates.map(|index| {
        if index >= first + AHEAD {
            chains.prefetch(index - AHEAD);
        }
        Link {
            gate: gate(chains, index),
            atom: place(chains.atom(index)),
            stamp: Some(stamp(chains.gate(index).atom_done_address(), payload)),
            allowed,
        }
    });
    if target.split(&plan, &chain, links).is_err() {
        return false;
    }
    tail.remaining_ns().store(cut.predicted_ns, Relaxed);
    tail.first_gate().store(first, Relaxed);
    tail.gates().store(u32::from(plan.atoms()) - 1, Relaxed);
    tail.shut().store(u32::from(order == Order::Shut), Relaxed);
    tail.stuck().store(0, Relaxed);
    tail.published().store(sequence, Release);
    if order == Order::Halt {
        chains.store(&tail, order);
    }
    loop {
        fence(SeqCst);
        let now = managed.order(now_ns);
        if now == order {
            return true;
        }
        order = now;
        tail.shut()
            .fetch_max(u32::from(order == Order::Shut), Relaxed);
        // Not over what somebody has halted.
        chains.store(&tail, order);
    }
}

fn state(order: Order) -> GateState {
    match order {
        Order::Open => GateState::Open,
        Order::Shut => GateState::Shut,
        // It is halted when it has been published.
        Order::Halt => GateState::Shut,
    }
}

fn gate<'a>(chains: &Chains<'a>, index: u32) -> Gate<'a> {
    let gate = chains.gate(index);
    Gate {
        descriptor: place(gate.descriptor()),
        bounce: place(gate.bounce()),
        waiting: stamp(gate.waiting_address(), LITHOS_GATE_WAITED),
    }
}

fn place((words, address): Slot<'_>) -> Place<'_> {
    Place::new(words, address).expect("an arena lies below 1 TiB, and its descriptors at 256 bytes")
}

fn stamp(address: u64, payload: u32) -> Stamp {
    Stamp::new(address, payload).expect("stamps in gates and tails lie at 16 bytes")
}

impl Cut {
    /// Gives back the room that was taken: no chain came of it.
    #[cold]
    pub(crate) fn give_back(self, managed: &Managed) {
        if let Some(chains) = managed.chains() {
            let places = &managed.splitting(&chains).places;
            places.give_back(self.number, self.held, &chains);
        }
    }
}

#[cfg(test)]
mod tests;
