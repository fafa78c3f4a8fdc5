// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The configuration: any text.

use std::collections::BTreeSet;

use lithos_abi::arena::layout;
use lithos_abi::ring::ring_bytes;
use lithos_device::Identity;
use lithosd::broker::Process;
use lithosd::config::Config;

use crate::world::{self, START};

/// Reads a configuration, and works with it if it is one.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) => work_with(config),
    }
}

fn work_with(config: Config) {
    let directories = [&config.runtime_directory, &config.state_directory];
    assert!(directories.iter().all(|directory| directory.is_absolute()));
    assert!(config.broker_socket().as_os_str().len() < 108);
    let (_, arena_bytes) = layout(config.regions);
    assert!(arena_bytes < 1 << 32 && ring_bytes(config.ring_records) < 1 << 32);
    let names: BTreeSet<&str> = config.partitions.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names.len(), config.partitions.len());
    let wanted: Vec<String> = config.partitions.iter().map(|p| p.name.clone()).collect();

    let mut broker = world::broker(config);
    // Each partition is there, or it is said why not.
    let left_out = wanted
        .iter()
        .filter(|name| broker.partition_status(name).is_none());
    let left_out = left_out.count();
    let known = broker.partition_statuses();
    assert_eq!(known.len() + left_out, wanted.len());
    let shares = known
        .iter()
        .flat_map(|p| p.shares.iter().map(|share| share.owned.len()));
    assert!(shares.sum::<u32>() <= 13, "more TPCs than there are");
    let process = Process {
        pid: 1,
        uid: 0,
        start_ticks: 0,
    };
    for name in &wanted {
        let tenant = broker.next_tenant();
        let attached = broker.attach(tenant, process, Identity::default(), name, START);
        if attached.is_ok() {
            broker.end_tenant(tenant, "it was only a visit", START);
        }
    }
    broker.turn(START);
}
