// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One launch: its descriptor gets the grant's mask and a completion stamp, and the ring a record.
//!
//! What is not understood is left as the driver made it, and recorded as such: a scheduler has to
//! know that it runs anywhere. The order matters in one place: the launch's sequence is reserved
//! *before* the grant is read (see `struct lithos_ring`).

use lithos_abi::bindings::*;
use lithos_abi::lithos_record;
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Descriptor, Kind, Restricted, StampSlot, Words, fields};

use crate::channel::Managed;
use crate::local::{Call, Local};
use crate::report::{self, Unknown};
use crate::split;
use crate::widen::{Need, Widened};

/// How many launches ahead memory is asked for: more than one, because several threads may launch.
const AHEAD: u64 = 4;

/// Prepares a launch of a managed context for its upload.
#[inline]
pub(crate) fn prepare(managed: &Managed, words: &mut Words, function: u64, local: &Local) {
    let ring = managed.ring();
    let call = local.call.get();
    if let Some(cut) = local.take_cut()
        && split::prepare(managed, words, function, local, cut)
    {
        return;
    }
    let Ok(mut descriptor) = Descriptor::new(words) else {
        return leave(managed, function, local, Unknown::Version);
    };
    let kind = descriptor.kind();
    match kind {
        // A graph's head is a grid of no blocks. It runs again with every replay, unseen.
        Kind::Null => return ring.count(LITHOS_COUNT_NULL),
        Kind::Grid | Kind::Clusters | Kind::Cooperative | Kind::CooperativeClusters => {
            if descriptor.block_count() == 0 {
                return ring.count(LITHOS_COUNT_NULL);
            }
        }
        Kind::Queue | Kind::Unknown(_) => {
            return leave(managed, function, local, Unknown::Bits);
        }
    }
    if descriptor.unknown_bit().is_some() {
        return leave(managed, function, local, Unknown::Bits);
    }

    let reserved = local.reserve(managed);
    let sequence = reserved.sequence;
    let mut record = describe(&descriptor.view(), kind);
    record.sequence = sequence;
    record.submitted_ns = local.clock.now_ns();
    record.function = function;
    record.stream = call.stream;
    let is_node = is_graph_node(&descriptor, call);
    if let Some(fitting) = fitting(managed, &descriptor.view(), is_node, local, &mut record) {
        let restricted = descriptor.restrict(fitting.tpcs, managed.gpu.present);
        note(managed, restricted, fitting, &mut record);
    }

    if is_node {
        ring.count(LITHOS_COUNT_GRAPH_NODES);
        record.flags |= LITHOS_RECORD_GRAPH_NODE;
    }
    if !reserved.is_claimed {
        return ring.count(LITHOS_COUNT_OVERRUN);
    }
    let stamps = managed.stamps();
    if !is_node {
        let address = stamps
            .filter(|_| managed.may_stamp())
            .map(|stamps| stamps.address(ring.place(sequence)));
        if address.is_some_and(|address| stamp(&mut descriptor, address, sequence)) {
            record.flags |= LITHOS_RECORD_STAMPED;
        } else {
            ring.count(LITHOS_COUNT_UNSTAMPED);
        }
    }
    ring.write(&record);
    ring.prefetch(sequence + AHEAD, stamps.as_ref());
}

/// The TPCs that a launch gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fitting {
    pub(crate) tpcs: TpcMask,
    /// Those that it does without for now: they are lent, and their owners need them.
    pub(crate) recalled: TpcMask,
    /// Why they are not those of the grant alone.
    widened: Option<Widened>,
}

/// Returns the TPCs of the grant, or more where the launch would starve; `None` if there is no grant, and
/// the descriptor is to stay as it is.
#[inline(always)]
pub(crate) fn fitting(
    managed: &Managed,
    descriptor: &Descriptor<&Words>,
    is_node: bool,
    local: &Local,
    record: &mut lithos_record,
) -> Option<Fitting> {
    let gpu = &managed.gpu;
    let Some(grant) = managed.grant(record.submitted_ns, &local.last) else {
        managed.ring().count(LITHOS_COUNT_UNGRANTED);
        record.flags |= LITHOS_RECORD_UNMANAGED;
        record.tpcs.words = (descriptor.allowed() & gpu.present).bits();
        return None;
    };
    managed.note_grant(&grant);
    record.grant = grant.sequence;
    if grant.is_fail_static {
        record.flags |= LITHOS_RECORD_FAIL_STATIC;
    }
    // A plain grid runs on any TPCs.
    let (mut tpcs, mut widened) = (TpcMask::from_bits(grant.now()), None);
    let recalled = TpcMask::from_bits(grant.tpcs) - tpcs;
    if is_node || descriptor.kind() != Kind::Grid {
        tpcs = TpcMask::from_bits(grant.lasting());
    }
    if descriptor.kind() != Kind::Grid {
        let need = need(descriptor, local.call.get());
        (tpcs, widened) = gpu.fit(tpcs, descriptor.allowed(), need);
    }
    Some(Fitting {
        tpcs,
        recalled,
        widened,
    })
}

/// Takes note of the mask that a launch carries.
#[inline(always)]
pub(crate) fn note(
    managed: &Managed,
    restricted: Restricted,
    fitting: Fitting,
    record: &mut lithos_record,
) {
    record.tpcs.words = restricted.mask().bits();
    let exception = match (restricted, fitting.widened) {
        (Restricted::To(_), None) => return,
        (Restricted::To(_), Some(Widened::Cooperative)) => LITHOS_COUNT_WIDENED_COOPERATIVE,
        (Restricted::To(_), Some(Widened::Cluster)) => LITHOS_COUNT_WIDENED_CLUSTER,
        (Restricted::Unchanged(_), _) => LITHOS_COUNT_DRIVER_MASK_KEPT,
    };
    managed.ring().count(exception);
    record.flags |= LITHOS_RECORD_WIDENED;
}

/// Records a launch that is left as the driver made it.
#[cold]
fn leave(managed: &Managed, function: u64, local: &Local, what: Unknown) {
    report::left_alone(what);
    let ring = managed.ring();
    ring.count(match what {
        Unknown::Version => LITHOS_COUNT_UNKNOWN_VERSION,
        Unknown::Bits => LITHOS_COUNT_UNKNOWN_BITS,
    });
    let reserved = local.reserve(managed);
    if !reserved.is_claimed {
        return ring.count(LITHOS_COUNT_OVERRUN);
    }
    ring.count(LITHOS_COUNT_UNSTAMPED);
    ring.write(&lithos_record {
        sequence: reserved.sequence,
        submitted_ns: local.clock.now_ns(),
        tpcs: lithos_tpcs {
            words: managed.gpu.present.bits(),
        },
        function,
        stream: local.call.get().stream,
        flags: LITHOS_RECORD_UNMANAGED,
        ..Default::default()
    });
}

/// What the descriptor says about its launch.
#[inline]
pub(crate) fn describe(descriptor: &Descriptor<&Words>, kind: Kind) -> lithos_record {
    let sixteen = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    lithos_record {
        program: descriptor.program(),
        grid: descriptor
            .blocks()
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        shared_bytes: descriptor.shared_bytes(),
        block: descriptor.block().map(sixteen),
        cluster: descriptor.cluster().map(sixteen),
        flags: if kind.is_cooperative() {
            LITHOS_RECORD_COOPERATIVE
        } else {
            0
        },
        ..Default::default()
    }
}

/// What the launch needs in order not to starve.
fn need(descriptor: &Descriptor<&Words>, call: Call) -> Need {
    let blocks = descriptor.block_count();
    let is_cooperative = descriptor.kind().is_cooperative();
    Need {
        cluster_blocks: descriptor.cluster().into_iter().map(u64::from).product(),
        resident_blocks: if is_cooperative { blocks } else { 0 },
        // A launch call may upload descriptors of other kernels than its own: the grid tells.
        blocks_per_sm: if call.blocks == blocks {
            call.blocks_per_sm
        } else {
            0
        },
    }
}

/// Whether the descriptor is uploaded once and runs whenever its graph does. A launch call's own
/// descriptor is none, although one with a programmatic dependence has one of the marks, too. What
/// a graph call uploads always is one: graphs of one or two kernels are uploaded once as well (seen
/// on an H100), those of two without a mark, and a stamp in one of them would come again with
/// every replay, over those of later launches.
#[inline]
fn is_graph_node(descriptor: &Descriptor<&mut Words>, call: Call) -> bool {
    call.is_graph
        || descriptor.is_graph_node()
        || (call.stream == 0 && descriptor.get(fields::REQUIRE_SCHEDULING_PCAS) != 0)
}

/// What a stamp holds of a sequence.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits")]
pub(crate) fn low_half(sequence: u64) -> u32 {
    sequence as u32
}

/// Has the GPU say when the launch completes, if the driver leaves it a way to.
#[inline]
fn stamp(descriptor: &mut Descriptor<&mut Words>, address: u64, sequence: u64) -> bool {
    let payload = low_half(sequence);
    [StampSlot::One, StampSlot::Two]
        .into_iter()
        .any(|slot| descriptor.stamp(slot, address, payload).is_ok())
}

#[cfg(test)]
pub(crate) mod tests;
