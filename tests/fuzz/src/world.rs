// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a broker needs around it: a made-up board and a state directory in memory.

use std::path::PathBuf;

use lithos_policy::{Nanos, Topology, Tpc};
use lithosd::board::{BOARD_VERSION, Board};
use lithosd::broker::Broker;
use lithosd::config::Config;
use lithosd::estate::Estate;
use lithosd::gpu::{Gpu, Listed};
use lithosd::operator::Partitions;
use lithosd::selftest::{Proof, Verdict};
use lithosd::store::Store;
use tempfile::TempDir;

/// The UUID of the made-up GPU.
pub(crate) const GPU: [u8; 16] = [0; 16];
/// When everything starts.
pub(crate) const START: Nanos = Nanos(1_000_000_000);

/// A broker of one GPU, with the state that is in the state directory.
pub(crate) fn broker(config: Config) -> Broker {
    succeeding(config, None, START)
}

/// The same, after another one that left something.
pub(crate) fn succeeding(config: Config, estate: Option<Estate>, now: Nanos) -> Broker {
    let store = Store::open(&state()).expect("a state directory that this process wrote");
    let partitions = Partitions::new(config.partitions.clone(), store);
    Broker::succeeding(config, vec![gpu()], Vec::new(), partitions, estate, now)
}

/// 3 GPCs of 4 TPCs, with holes between, and one TPC alone.
fn gpu() -> Gpu {
    let tpcs = (0..3_u8).flat_map(|gpc| {
        (0..4).map(move |tpc| Tpc {
            bit: 9 * gpc + tpc,
            gpc: Some(gpc),
        })
    });
    let uuid = "GPU-00000000-0000-0000-0000-000000000000";
    let board = Board {
        version: BOARD_VERSION,
        uuid: uuid.into(),
        sms: 26,
        tpc_sms: 2,
        tpcs: Topology::new(tpcs.chain([Tpc { bit: 75, gpc: None }])).expect("a topology"),
    };
    let listed = Listed {
        index: 0,
        name: "a board without a driver".into(),
        uuid: uuid.into(),
        vbios: String::new(),
        mig: false,
    };
    let verdict = Verdict::Passed(Proof::made_up(uuid));
    Gpu::new(listed, board, verdict).expect("a GPU")
}

thread_local! {
    static STATE: TempDir = tempfile::tempdir().expect("a folder");
}

/// The state directory of this thread. scripts/fuzz has it in memory: each change of a partition is
/// synced.
pub(crate) fn state() -> PathBuf {
    STATE.with(|state| state.path().to_owned())
}
