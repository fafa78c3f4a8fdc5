// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The broker's two languages, spoken by several peers at once: packets of tenants and lines of
//! operators, as they come out of sockets, through decoding, broker and policy, while time passes.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use lithos_abi::bindings::*;
use lithos_abi::message::{self, PACKET_BYTES_MAX, decode, encode, set_text};
use lithos_device::Identity;
use lithos_policy::{Nanos, TpcSet};
use lithosd::broker::{Broker, Process};
use lithosd::clients::{self, Desk, Group};
use lithosd::config::{Config, MpsEnable};
use lithosd::control::{LINE_BYTES_MAX, Reply};
use lithosd::daemon::Facts;
use lithosd::peer::Peer;
use lithosd::session::Session;
use lithosd::status::{MpsStatus, OriginStatus, Status};

use crate::input::Input;
use crate::world::{self, GPU, START};

const CONFIGURATION: &str = r#"
[limits]
tenants = 3
channels_per_tenant = 2
linger_ms = 5
grant_wait_ms = 20
[channel]
ring_records = 64
gates = 1
atoms = 1
cluster_atoms = 1
tails = 1
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

const NAMES: [&str; 6] = ["a", "b", "pool", "c", "run-1", "a b"];
const CONNECTIONS: usize = 5;
/// Bits of the made-up GPU's TPCs.
const TPCS: u32 = 13;

struct Conversation {
    broker: Broker,
    facts: Facts,
    now: Nanos,
    connections: [Option<Connection>; CONNECTIONS],
    /// Partitions that were made for a process.
    owned: Vec<String>,
    granted: usize,
}

struct Connection {
    session: Session,
    /// A first grant is awaited, so nothing is read from the socket.
    waits: bool,
    /// The pages of its channels, as they came.
    pages: Vec<[File; 3]>,
}

/// Lets peers say anything to a broker, in any order.
pub fn protocol(data: &[u8]) {
    converse(data);
}

/// Returns how many channels were granted.
fn converse(data: &[u8]) -> usize {
    let mut input = Input(data);
    // What the conversation before has changed, if it changed anything.
    let _ = fs::remove_file(world::state().join("partitions.toml"));
    let mps = MpsStatus {
        enable: MpsEnable::Off,
        unsuitable: Some("there is no GPU".into()),
        pipe_directory: String::new(),
        log_directory: String::new(),
    };
    let facts = Facts {
        broker_socket: "/run/lithos/broker.sock".into(),
        mps,
        started: START,
    };
    let mut conversation = Conversation {
        broker: world::broker(config().clone()),
        facts,
        now: START,
        connections: Default::default(),
        owned: Vec::new(),
        granted: 0,
    };
    while !input.is_empty() {
        conversation.step(&mut input);
    }
    let granted = conversation.granted;
    conversation.finish();
    granted
}

impl Conversation {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0 => self.say(input, |input| {
                let size = usize::from(input.short()) % PACKET_BYTES_MAX;
                input.bytes(size).to_vec()
            }),
            1 => self.say(input, |input| {
                let kind = u32::from(input.byte() % 5);
                let size = usize::from(input.byte());
                let body = input.bytes(size);
                let size = u32::try_from(body.len()).expect("a byte's worth");
                [&kind.to_le_bytes(), &size.to_le_bytes(), body].concat()
            }),
            2 | 3 => self.say(input, |input| {
                encode(&lithos_attach {
                    version: LITHOS_ABI_VERSION,
                    reserved: 0,
                    partition: set_text(NAMES[input.below(NAMES.len())]),
                    // Those of the broker's proof are all zeros.
                    // Others than were proven, now and then.
                    edits: u64::from(input.byte() == 255),
                    driver: [u8::from(input.byte() == 255); LITHOS_BUILD_ID_BYTES as usize],
                })
            }),
            4 | 5 => self.say(input, |input| {
                encode(&lithos_channel_create {
                    gpu: if input.byte() == 255 { [1; 16] } else { GPU },
                    context: input.number(),
                    reserved: [0; 2],
                })
            }),
            6 => self.say(input, |input| {
                encode(&lithos_channel_destroy {
                    channel: input.number(),
                })
            }),
            7 => self.hang_up(input.below(CONNECTIONS)),
            8 => self.scribble(input),
            9 => {
                let size = usize::from(input.short()) % LINE_BYTES_MAX;
                let line = input.bytes(size);
                self.ask(line);
            }
            10 => self.ask(line(input).as_bytes()),
            _ => self.wait(Nanos(u64::from(input.short()) * 1_000)),
        }
        self.deliver();
    }

    /// One connection says a packet, if anybody reads it.
    fn say(&mut self, input: &mut Input<'_>, packet: impl FnOnce(&mut Input<'_>) -> Vec<u8>) {
        let index = input.below(CONNECTIONS);
        let packet = packet(input);
        let process = Process {
            pid: 1 + i32::try_from(index).expect("few connections"),
            uid: 1000,
            start_ticks: 0,
        };
        let connection = self.connections[index].get_or_insert_with(|| Connection {
            session: Session::new(process),
            waits: false,
            pages: Vec::new(),
        });
        if connection.waits {
            return;
        }
        match connection.session.take(&packet, &mut self.broker, self.now) {
            Some(reply) => check_reply(&packet, &reply),
            None => connection.waits = true,
        }
    }

    /// Hands out the answers to those who wait for a first grant.
    fn deliver(&mut self) {
        for answer in self.broker.take_answers() {
            let mut connections = self.connections.iter_mut().flatten();
            let connection = connections.find(|c| c.session.tenant() == Some(answer.tenant));
            let connection = connection.expect("an answer is for somebody who is there");
            assert!(connection.waits, "an answer is for somebody who waits");
            connection.waits = false;
            let granted = answer.outcome.is_ok();
            self.granted += usize::from(granted);
            let (reply, pages) = connection
                .session
                .answer(answer.outcome, &mut self.broker)
                .expect("a channel that was just granted");
            let reply: lithos_channel = decode(&reply).expect("a reply to a channel's creation");
            assert_eq!(
                (reply.reply.error == 0, pages.len()),
                (granted, if granted { 3 } else { 0 })
            );
            if let [grant, ring, arena] = pages[..] {
                let copy = |page: std::os::fd::BorrowedFd<'_>| {
                    File::from(page.try_clone_to_owned().expect("a descriptor"))
                };
                connection
                    .pages
                    .push([copy(grant), copy(ring), copy(arena)]);
            }
        }
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(connection) = self.connections[index].take()
            && let Some(tenant) = connection.session.tenant()
        {
            self.broker.end_tenant(tenant, "it hung up", self.now);
        }
    }

    /// A tenant writes what it likes where it can.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let connection = &self.connections[input.below(CONNECTIONS)];
        let Some(connection) = connection.as_ref().filter(|c| !c.pages.is_empty()) else {
            return;
        };
        let pages = &connection.pages[input.below(connection.pages.len())];
        let page = &pages[1 + input.below(2)];
        let size = page.metadata().expect("a file").len();
        let at = u64::from(input.short()) * 8 % size;
        let count = usize::from(input.byte());
        let room = usize::try_from(size - at).unwrap_or(usize::MAX);
        let bytes = input.bytes(count.min(room));
        page.write_all_at(bytes, at)
            .expect("a page of a tenant's own");
        assert!(
            pages[0].write_all_at(&[0], 0).is_err(),
            "a grant page was written"
        );
    }

    /// An operator says a line.
    fn ask(&mut self, line: &[u8]) {
        let mut desk = Desk {
            broker: &mut self.broker,
            facts: &self.facts,
            owners: Vec::new(),
        };
        let group = Group {
            name: "lithos".into(),
            gid: None,
        };
        let reply = clients::reply(line, peer(), &mut desk, &group, self.now);
        self.owned
            .extend(desk.owners.into_iter().map(|(_, name)| name));
        let text = serde_json::to_string(&reply).expect("JSON");
        assert!(!text.contains('\n'));
        assert_eq!(
            serde_json::from_str::<Reply>(&text).expect("a reply"),
            reply
        );
    }

    fn wait(&mut self, span: Nanos) {
        self.now = self.now.after(span);
        self.broker.turn(self.now);
        assert!(self.broker.next_turn().is_none_or(|due| due > self.now));
        self.deliver();
        self.check();
    }

    fn status(&self) -> Status {
        let daemon = self.facts.status(self.now, &self.broker);
        self.broker.status(daemon, self.now)
    }

    /// What holds at any time.
    fn check(&self) {
        let partitions = self.broker.partition_statuses();
        let mut taken = TpcSet::EMPTY;
        for share in partitions.iter().flat_map(|partition| &partition.shares) {
            assert!(share.owned.is_disjoint(taken), "{partitions:?}");
            taken |= share.owned;
        }
        assert!(taken.len() <= TPCS);
    }

    /// Everybody leaves.
    fn finish(mut self) {
        self.check();
        for index in 0..CONNECTIONS {
            self.hang_up(index);
        }
        for name in std::mem::take(&mut self.owned) {
            self.broker.end_run_owner(&name, self.now);
        }
        // What somebody left went to others who waited, and have left, too.
        self.broker.take_answers();
        self.wait(Nanos::from_secs(1));
        let status = self.status();
        assert!(
            status.tenants.is_empty() && status.channels.is_empty(),
            "{status:?}"
        );
        assert!(status.transit.is_empty(), "{status:?}");
        assert!(status.problems.is_empty(), "{status:?}");
        // Every TPC is free, or reserved for a partition that has nobody.
        let shares = status.partitions.iter().flat_map(|p| &p.shares);
        let mut known: TpcSet = shares.fold(TpcSet::EMPTY, |known, share| known | share.planned);
        for gpu in &status.gpus {
            known |= gpu.free;
        }
        assert_eq!(known.len(), TPCS, "{status:?}");
        for partition in status.partitions {
            assert!(
                !matches!(partition.origin, OriginStatus::Run { .. }),
                "{partition:?}"
            );
            let view = self.broker.partition_status(&partition.spec.name);
            assert!(view.is_some_and(|partition| partition.tenants.is_empty()));
        }
        assert!(self.broker.next_turn().is_none());
        assert!(
            self.broker
                .attach(
                    Process {
                        pid: 1,
                        uid: 0,
                        start_ticks: 0,
                    },
                    Identity::default(),
                    "nobody's",
                    self.now
                )
                .is_err()
        );
    }
}

/// Checks that a reply answers a request.
fn check_reply(request: &[u8], reply: &[u8]) {
    let kind = message::kind(reply).expect("a whole message");
    let asked = request
        .first_chunk()
        .map_or(0, |head| u32::from_le_bytes(*head));
    // A reply that several requests have bears the type of the first.
    let asked = match asked {
        LITHOS_MESSAGE_RESUME => LITHOS_MESSAGE_ATTACH,
        LITHOS_MESSAGE_CHANNEL_RESUME => LITHOS_MESSAGE_CHANNEL_CREATE,
        LITHOS_MESSAGE_CHANNEL_RESUMED => LITHOS_MESSAGE_CHANNEL_DESTROY,
        other => other,
    };
    assert_eq!(kind, asked | LITHOS_MESSAGE_REPLY);
    let well_formed = match asked & !LITHOS_MESSAGE_REPLY {
        LITHOS_MESSAGE_ATTACH => decode::<lithos_attached>(reply).is_ok(),
        LITHOS_MESSAGE_CHANNEL_CREATE => decode::<lithos_channel>(reply).is_ok(),
        LITHOS_MESSAGE_CHANNEL_DESTROY => decode::<lithos_reply>(reply).is_ok(),
        _ => reply.len() == size_of::<lithos_message>() + size_of::<lithos_reply>(),
    };
    assert!(well_formed, "{reply:?}");
}

fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config::parse(CONFIGURATION).expect("a configuration"))
}

/// A line that may well be a request.
fn line(input: &mut Input<'_>) -> String {
    let name = NAMES[input.below(NAMES.len())];
    let class = if input.flag() { "lc" } else { "be" };
    let number = u32::from(input.byte() % 16);
    match input.byte() % 7 {
        0 => format!(
            "{{\"request\":\"partition-create\",\"partition\":{{\"name\":\"{name}\",\"class\":\"{class}\",\"guarantee\":{number}}}}}"
        ),
        1 => {
            let ceiling = input.byte() % 16;
            format!(
                "{{\"request\":\"partition-set\",\"name\":\"{name}\",\"change\":{{\"guarantee\":{number},\"ceiling\":{ceiling}}}}}"
            )
        }
        2 => format!("{{\"request\":\"partition-delete\",\"name\":\"{name}\"}}"),
        3 => format!("{{\"request\":\"run\",\"tpcs\":{number},\"class\":\"{class}\"}}"),
        4 => format!("{{\"request\":\"join\",\"partition\":\"{name}\"}}"),
        5 => "{\"request\":\"partition-list\"}".into(),
        _ => "{\"request\":\"status\"}".into(),
    }
}

/// This process, as a peer of itself.
fn peer() -> &'static Peer {
    static PEER: OnceLock<Peer> = OnceLock::new();
    PEER.get_or_init(|| {
        let (one, _other) = UnixStream::pair().expect("two sockets");
        Peer::of(one.as_fd()).expect("a peer")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search that begins with conversations in which everything is refused finds little.
    #[test]
    fn tenants_of_the_committed_conversations_are_granted_channels() {
        let two_tenants = include_bytes!("../corpus/protocol/two-tenants");
        assert_eq!(converse(two_tenants), 2);
        let garbage = include_bytes!("../corpus/protocol/garbage-in-pages");
        assert_eq!(converse(garbage), 2);
    }
}
