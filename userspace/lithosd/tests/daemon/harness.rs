// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A real `lithosd` on made-up boards in a temporary directory, and the peers that talk to it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lithos_abi::bindings::LITHOS_RECORD_STAMPED;
use lithos_abi::lithos_record;
use lithos_device::embedded::SocketBroker;
use lithos_device::{Broker, Channel};
use lithos_policy::{Topology, Tpc, TpcSet};
use lithos_tests::footprint::Footprint;
use lithosd::board::{BOARD_VERSION, Board};
use lithosd::control::{Reply, Request};
use lithosd::status::{ChannelStatus, PartitionStatus, Status};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;

/// Nothing that is waited for here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an allocator may keep of what was done for the next time.
const SLACK_KB: u64 = 1024;

/// The bytes of the UUIDs of the made-up GPUs.
pub(crate) const GPU0: [u8; 16] = [0; 16];
pub(crate) const GPU1: [u8; 16] = [0x11; 16];

/// A daemon, which ends with this value.
pub(crate) struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_in_time(holds), "it never came: {what}");
}

/// Returns whether a condition comes to hold before patience ends.
fn holds_in_time(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Numbers that look random and are the same in each run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64 (Marsaglia).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap()
    }

    pub(crate) fn bytes(&mut self, count: u32) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(count as usize).collect()
    }
}

/// A directory with boards: each GPU has 3 GPCs of 4 TPCs, with holes between, and one TPC alone.
pub(crate) fn directory(gpus: &[[u8; 16]]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for gpu in gpus {
        let hex: String = gpu.iter().map(|byte| format!("{byte:02x}")).collect();
        let (a, b, c, d, e) = (
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        );
        let tpcs = (0..3_u8).flat_map(|gpc| {
            (0..4).map(move |tpc| Tpc {
                bit: 9 * gpc + tpc,
                gpc: Some(gpc),
            })
        });
        let alone = Tpc { bit: 75, gpc: None };
        let board = Board {
            version: BOARD_VERSION,
            uuid: format!("GPU-{a}-{b}-{c}-{d}-{e}"),
            sms: 26,
            tpc_sms: 2,
            tpcs: Topology::new(tpcs.chain([alone])).unwrap(),
        };
        board.save(&dir.path().join("state")).unwrap();
    }
    dir
}

/// Writes the configuration of a directory, with more lines of TOML before the tables. The kernel's broker
/// is the machine's, so these daemons are brokers themselves.
pub(crate) fn configure(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("lithosd.toml");
    let (run, state) = (dir.join("run"), dir.join("state"));
    let text = format!(
        "runtime_directory = {run:?}\nstate_directory = {state:?}\nbroker = \"embedded\"\n{more}"
    );
    fs::write(&path, text).unwrap();
    path
}

pub(crate) fn lithosd(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lithosd"));
    command.args(["--without-driver", "--config"]).arg(config);
    command.env("JOURNAL_STREAM", "1:1");
    command
}

/// Three partitions on one GPU of 13 TPCs: a and b are guaranteed 4, pool has none.
pub(crate) const PARTITIONS: &str = r#"
[[partition]]
name = "a"
class = "lc"
guarantee = 4
[[partition]]
name = "b"
class = "be"
guarantee = 4
enforce = true
[[partition]]
name = "pool"
class = "be"
"#;

impl Daemon {
    pub(crate) fn start(more: &str) -> Self {
        Self::start_in(directory(&[GPU0]), more)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, more: &str) -> Self {
        let config = configure(dir.path(), more);
        let child = lithosd(&config).stdin(Stdio::null()).spawn().unwrap();
        let mut daemon = Self { child, dir };
        daemon.await_ready();
        daemon
    }

    fn await_ready(&mut self) {
        let (socket, lock) = (self.control(), self.dir().join("run/lithosd.lock"));
        let pid = self.pid().as_raw();
        eventually("the daemon is ready", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            // Another one may be there, and may be stopped: it takes in no more than so many connections.
            let signed = fs::read_to_string(&lock).is_ok_and(|text| text == format!("{pid}\n"));
            let listener = || -> std::io::Result<i32> {
                let stream = UnixStream::connect(&socket)?;
                Ok(getsockopt(&stream, PeerCredentials)?.pid())
            };
            signed && listener().is_ok_and(|listener| listener == pid)
        });
    }

    /// Goes on with another process, which serves the same directory.
    pub(crate) fn replace(&mut self, next: Child) -> Child {
        let before = std::mem::replace(&mut self.child, next);
        self.await_ready();
        before
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir().join("run/lithos.sock")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("run/broker.sock")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Ends the daemon as an init system does, and returns what is left.
    pub(crate) fn stop(mut self) -> (ExitStatus, tempfile::TempDir) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (status, dir)
    }

    /// Ends the daemon as a crash does.
    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        let line = serde_json::to_string(request).unwrap();
        serde_json::from_str(&self.ask_line(&line)).unwrap()
    }

    pub(crate) fn ask_line(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.control()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        reply
    }

    pub(crate) fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    pub(crate) fn channel(&self, id: u64) -> Option<ChannelStatus> {
        self.status()
            .channels
            .into_iter()
            .find(|channel| channel.channel == id)
    }

    pub(crate) fn partition(&self, name: &str) -> Option<PartitionStatus> {
        let partitions = self.status().partitions;
        partitions
            .into_iter()
            .find(|partition| partition.spec.name == name)
    }

    /// Sets a guarantee, which is the ceiling, too.
    pub(crate) fn set_guarantee(&self, name: &str, guarantee: u32) -> Reply {
        let change = serde_json::json!({ "guarantee": guarantee });
        self.ask(&Request::PartitionSet {
            name: name.into(),
            change: serde_json::from_value(change).unwrap(),
        })
    }

    pub(crate) fn tenant(&self, partition: &str) -> SocketBroker {
        let mut broker = SocketBroker::connect(&self.socket()).unwrap();
        broker.attach(partition).unwrap();
        broker
    }

    /// Descriptors that the daemon has open.
    pub(crate) fn descriptors(&self) -> usize {
        self.footprint().descriptors
    }

    /// What the daemon holds now.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint::read(self.child.id()).unwrap()
    }

    /// Does something again and again, and checks that the daemon holds no more after it than before.
    pub(crate) fn keeps_nothing_of(&self, mut what: impl FnMut(&Self)) {
        // The first time fills what is kept for the next: the allocator's free lists, above all.
        what(self);
        let before = self.footprint();
        for _ in 0..4 {
            what(self);
        }
        let mut after = before;
        let gone = || {
            after = self.footprint();
            after.is_within(&before, SLACK_KB)
        };
        if !holds_in_time(gone) {
            panic!("{before:?} before, {after:?} after");
        }
        assert!(self.status().tenants.is_empty());
    }

    pub(crate) fn lithos(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lithos"));
        command.arg("--socket").arg(self.control());
        for name in ["CUDA_INJECTION64_PATH", "LITHOS_SOCKET", "LITHOS_PARTITION"] {
            command.env_remove(name);
        }
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The TPCs that a channel may use now.
pub(crate) fn granted(channel: &Channel) -> TpcSet {
    TpcSet::from_words(channel.grant().read().unwrap().tpcs)
}

/// Launches as the shim does: reserve, read the grant, record. Returns the sequence.
pub(crate) fn launch(channel: &Channel) -> u64 {
    let (ring, arena) = (channel.ring(), channel.arena().unwrap());
    let sequence = ring.reserve();
    let grant = channel.grant().read().unwrap();
    assert!(ring.claim(sequence, Some(&arena.stamps())));
    ring.write(&lithos_record {
        sequence,
        submitted_ns: sequence,
        grant: grant.sequence,
        tpcs: lithos_abi::lithos_tpcs { words: grant.tpcs },
        program: 0x1000,
        stream: 1,
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        flags: LITHOS_RECORD_STAMPED,
        ..lithos_record::default()
    });
    sequence
}

/// Completes a launch, as the GPU does.
pub(crate) fn complete(channel: &Channel, sequence: u64) {
    use std::os::unix::fs::FileExt;
    let regions = channel.terms().regions;
    let place = channel.ring().place(sequence) as u64;
    let at = regions[0].offset + place * u64::from(regions[0].stride);
    let low = u32::try_from(sequence & 0xffff_ffff).unwrap();
    let arena = fs::File::from(channel.descriptors()[2].try_clone().unwrap());
    arena.write_all_at(&low.to_le_bytes(), at).unwrap();
}
