// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Tenants without a GPU: clients of the broker alone, who do by hand what the shim and the GPU do.
//!
//! The idea: a CUDA process is heavy, a connection is not. Hundreds of these fit into one process, and
//! the daemon sees no difference: requests, records, stamps and farewells are those of any tenant.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lithos_abi::bindings::*;
use lithos_abi::lithos_record;
use lithos_descriptor::hopper;
use lithos_device::embedded::SocketBroker;
use lithos_device::{Broker, BrokerError, Channel, Identity, build_id};
use serde_json::Value;

use crate::testbed::Testbed;

/// Where such tenants attach, and what they say about themselves.
#[derive(Clone, Debug)]
pub struct Place {
    socket: PathBuf,
    gpu: [u8; 16],
    identity: Identity,
}

/// A tenant, as long as this lives.
#[derive(Debug)]
pub struct Client {
    broker: SocketBroker,
    channels: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    channel: Channel,
    arena: File,
    /// Launches that have not completed.
    running: Vec<u64>,
}

impl Place {
    /// The first GPU of a testbed whose daemon runs.
    pub fn of(testbed: &Testbed) -> anyhow::Result<Self> {
        let status = testbed.status()?;
        let socket = status["daemon"]["broker_socket"]
            .as_str()
            .context("no socket")?;
        Ok(Self {
            socket: socket.into(),
            gpu: parse_uuid(&status["gpus"][0]["uuid"]).context("no UUID of a GPU")?,
            identity: Identity {
                edits: hopper::edits(),
                driver: driver_build_id(&testbed.driver_library())?,
            },
        })
    }
}

impl Client {
    /// Attaches to a partition.
    pub fn attach(place: &Place, partition: &str) -> Result<Self, BrokerError> {
        let broker = SocketBroker::connect(&place.socket)?;
        let mut broker = broker.with_identity(place.identity);
        broker.attach(partition)?;
        Ok(Self {
            broker,
            channels: Vec::new(),
        })
    }

    /// Opens a channel, and returns when it has a first grant.
    pub fn open_channel(&mut self, place: &Place) -> anyhow::Result<()> {
        let channel = self.broker.create_channel(place.gpu, 1)?;
        ensure!(
            channel.grant().read().is_some(),
            "a channel without a grant"
        );
        let arena = File::from(channel.descriptors()[2].try_clone()?);
        self.channels.push(Open {
            channel,
            arena,
            running: Vec::new(),
        });
        Ok(())
    }

    /// Gives the channel back that was opened first.
    pub fn close_channel(&mut self) -> anyhow::Result<()> {
        if !self.channels.is_empty() {
            let open = self.channels.remove(0);
            self.broker.destroy_channel(open.channel.id())?;
        }
        Ok(())
    }

    /// Returns how many channels are open.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Launches in each channel, and returns how many launches were recorded.
    pub fn launch(&mut self, count: u32) -> anyhow::Result<u64> {
        let mut recorded = 0;
        for open in &mut self.channels {
            for _ in 0..count {
                recorded += u64::from(open.launch()?);
            }
        }
        Ok(recorded)
    }

    /// Completes what was launched.
    pub fn complete(&mut self) -> anyhow::Result<()> {
        for open in &mut self.channels {
            for sequence in std::mem::take(&mut open.running) {
                open.complete(sequence)?;
            }
        }
        Ok(())
    }
}

impl Open {
    /// Reserves, reads the grant, records: as the shim does. Returns whether there was a place.
    fn launch(&mut self) -> anyhow::Result<bool> {
        let (ring, arena) = (self.channel.ring(), self.channel.arena());
        let stamps = arena.context("no place for the arena")?.stamps();
        let sequence = ring.reserve();
        let grant = self.channel.grant().read().context("no grant")?;
        if !ring.claim(sequence, Some(&stamps)) {
            ring.count(LITHOS_COUNT_OVERRUN);
            return Ok(false);
        }
        ring.write(&lithos_record {
            sequence,
            submitted_ns: sequence,
            grant: grant.sequence,
            tpcs: lithos_abi::lithos_tpcs { words: grant.tpcs },
            // Some operators, of a few shapes.
            program: 0x1000 * (sequence % 32),
            stream: 1 + sequence % 4,
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: [1; 3],
            flags: LITHOS_RECORD_STAMPED,
            ..lithos_record::default()
        });
        self.running.push(sequence);
        Ok(true)
    }

    /// Writes a stamp, as the GPU does.
    fn complete(&self, sequence: u64) -> anyhow::Result<()> {
        let region = self.channel.terms().regions[LITHOS_REGION_STAMPS as usize];
        let place = u64::try_from(self.channel.ring().place(sequence))?;
        let at = region.offset + place * u64::from(region.stride);
        let low = u32::try_from(sequence & 0xffff_ffff)?;
        Ok(self.arena.write_all_at(&low.to_le_bytes(), at)?)
    }
}

fn parse_uuid(uuid: &Value) -> Option<[u8; 16]> {
    let digits = uuid.as_str()?.strip_prefix("GPU-")?.replace('-', "");
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// The build id of the CUDA driver that tenants load. It is loaded for that, and not started.
fn driver_build_id(library: &Path) -> anyhow::Result<[u8; LITHOS_BUILD_ID_BYTES as usize]> {
    let path = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string; what the driver's library does when it is loaded is its affair,
    // and it stays loaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    ensure!(!handle.is_null(), "cannot load {}", library.display());
    // SAFETY: the handle was just opened, and the name is a C string.
    let address = unsafe { libc::dlsym(handle, c"cuInit".as_ptr()) };
    build_id(address).with_context(|| format!("{} has no build id", library.display()))
}
