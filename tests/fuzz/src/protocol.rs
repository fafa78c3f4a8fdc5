// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The broker's two languages, spoken by several peers at once: packets of tenants and lines of
//! operators, as they come out of sockets, through decoding, broker and policy, while time passes and
//! one broker takes over from another.

use std::fs::{self, File};
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use lithos_abi::bindings::*;
use lithos_abi::message::{self, PACKET_BYTES_MAX, decode, encode, set_text};
use lithos_device::Identity;
use lithos_policy::{Nanos, TenantId, TpcSet};
use lithosd::broker::{Broker, Process, Refused};
use lithosd::clients::{self, Desk, Group};
use lithosd::config::{Config, MpsEnable};
use lithosd::control::{LINE_BYTES_MAX, Reply};
use lithosd::daemon::Facts;
use lithosd::estate::Estate;
use lithosd::peer::Peer;
use lithosd::session::Session;
use lithosd::status::{MpsStatus, OriginStatus, Status};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

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
gates = 2
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
    reached: Reached,
}

/// How far a conversation came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reached {
    granted: usize,
    taken_over: usize,
}

struct Connection {
    process: Process,
    session: Session,
    /// A first grant is awaited, so nothing is read from the socket.
    waits: bool,
    /// What the process was to the broker before.
    before: Option<TenantId>,
    channels: Vec<Channel>,
}

impl Connection {
    fn new(process: Process) -> Self {
        Self {
            process,
            session: Session::new(process),
            waits: false,
            before: None,
            channels: Vec::new(),
        }
    }

    fn tenant(&self) -> Option<TenantId> {
        self.session.tenant().or(self.before)
    }
}

/// A channel, as a tenant has it.
struct Channel {
    id: u64,
    /// Grant page, ring and arena, as they came.
    pages: [File; 3],
    /// The grant page that it is to follow from when it says so.
    next: Option<File>,
}

/// Lets peers say anything to a broker, in any order.
pub fn protocol(data: &[u8]) {
    converse(data);
}

fn converse(data: &[u8]) -> Reached {
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
        admission: None,
        started: START,
    };
    let mut conversation = Conversation {
        broker: world::broker(config().clone()),
        facts,
        now: START,
        connections: Default::default(),
        owned: Vec::new(),
        reached: Reached::default(),
    };
    while !input.is_empty() {
        conversation.step(&mut input);
    }
    let reached = conversation.reached;
    conversation.finish();
    reached
}

impl Conversation {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 17 {
            0 => self.say(input, |input| {
                let size = usize::from(input.short()) % PACKET_BYTES_MAX;
                input.bytes(size).to_vec()
            }),
            1 => self.say(input, |input| {
                let kind = u32::from(input.byte() % 8);
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
            12 => self.restart(),
            13 => {
                let tenant = input.number();
                let partition = NAMES[input.below(NAMES.len())];
                self.say_for(input, |connection| {
                    encode(&lithos_resume {
                        version: LITHOS_ABI_VERSION,
                        reserved: 0,
                        // A small number is how far it is from what is right.
                        tenant: connection.before.map_or(0, |before| before.0) ^ tenant,
                        partition: set_text(partition),
                    })
                });
            }
            14 => self.hand_over(input),
            15 => {
                let (index, other) = (input.below(3), input.number());
                self.say_for(input, |connection| {
                    let channel = connection.channels.get(index);
                    encode(&lithos_channel_resumed {
                        channel: channel.map_or(0, |channel| channel.id) ^ other,
                    })
                });
            }
            _ => self.wait(Nanos(u64::from(input.short()) * 1_000)),
        }
        self.deliver();
    }

    /// One connection says a packet, if anybody reads it.
    fn say(&mut self, input: &mut Input<'_>, packet: impl FnOnce(&mut Input<'_>) -> Vec<u8>) {
        let index = input.below(CONNECTIONS);
        let packet = packet(input);
        self.say_as(index, |_| packet);
    }

    /// One connection says a packet that follows from what it knows, if anybody reads it.
    fn say_for(&mut self, input: &mut Input<'_>, packet: impl FnOnce(&Connection) -> Vec<u8>) {
        self.say_as(input.below(CONNECTIONS), packet);
    }

    fn say_as(&mut self, index: usize, packet: impl FnOnce(&Connection) -> Vec<u8>) {
        let process = Process {
            pid: 1 + i32::try_from(index).expect("few connections"),
            uid: 1000,
            start_ticks: 0,
        };
        let connection = self.connections[index].get_or_insert_with(|| Connection::new(process));
        if connection.waits {
            return;
        }
        let packet = packet(connection);
        match connection.session.take(&packet, &mut self.broker, self.now) {
            Some(reply) => {
                check_reply(&packet, &reply);
                if let Ok(resumed) = decode::<lithos_channel_resumed>(&packet)
                    && decode::<lithos_reply>(&reply).expect("checked above").error == 0
                {
                    let mut channels = connection.channels.iter_mut();
                    let channel = channels.find(|channel| channel.id == resumed.channel);
                    let channel = channel.expect("a channel that was handed over");
                    channel.pages[0] = channel.next.take().expect("a page to follow");
                    self.reached.taken_over += 1;
                }
            }
            None => connection.waits = true,
        }
    }

    /// The broker ends, and another one begins with what it left.
    fn restart(&mut self) {
        let estate = self.broker.estate();
        let text = serde_json::to_string(&estate).expect("JSON");
        let read: Estate = serde_json::from_str(&text).expect("an estate");
        assert_eq!(read, estate);
        self.broker = world::succeeding(config().clone(), Some(read), self.now);
        let known = self
            .broker
            .status(self.facts.status(self.now, &self.broker), self.now);
        for connection in self.connections.iter_mut().flatten() {
            let tenant = connection.tenant();
            connection.before = tenant.filter(|id| known.tenants.iter().any(|t| t.tenant == id.0));
            connection.session = Session::new(connection.process);
            connection.waits = false;
            for channel in &mut connection.channels {
                channel.next = None;
            }
        }
    }

    /// A process hands over a channel, or what it takes for one.
    fn hand_over(&mut self, input: &mut Input<'_>) {
        let index = input.below(CONNECTIONS);
        let Some(connection) = self.connections[index].as_mut().filter(|c| !c.waits) else {
            return;
        };
        let count = connection.channels.len();
        let other = input.number();
        let id = match connection.channels.get(input.below(count + 1)) {
            Some(channel) => channel.id ^ other,
            None => other,
        };
        let mut packet = encode(&lithos_channel_resume {
            channel: id,
            reserved: [0; 3],
        });
        let own = connection.channels.iter().find(|channel| channel.id == id);
        let own = own.or(connection.channels.first());
        let copy = |page: usize| own.map(|own| descriptor(own.pages[page].as_fd()));
        let files = match input.byte() % 8 {
            0 => [copy(2), copy(1)],
            1 => [copy(0), copy(0)],
            2 => [copy(1), Some(memory(input))],
            3 => [Some(memory(input)), copy(2)],
            4 => {
                packet.truncate(usize::from(input.byte()));
                [copy(1), copy(2)]
            }
            _ => [copy(1), copy(2)],
        };
        let files = match files {
            [Some(ring), Some(arena)] => Ok([ring, arena]),
            _ => Err(Refused::new(libc::EBADMSG, "none came")),
        };
        let session = &mut connection.session;
        let (reply, pages) = session.hand_over(&packet, files, &mut self.broker, self.now);
        let reply: lithos_channel = decode(&reply).expect("a reply to a channel's handing over");
        assert_eq!(reply.reply.error == 0, pages.len() == 1);
        if let [page] = pages[..] {
            let channel = connection
                .channels
                .iter_mut()
                .find(|channel| channel.id == id);
            let channel = channel.expect("a channel that this process had");
            channel.next = Some(File::from(descriptor(page)));
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
            self.reached.granted += usize::from(granted);
            let (reply, pages) = connection
                .session
                .answer(answer, &mut self.broker)
                .expect("a channel that was just granted");
            let reply: lithos_channel = decode(&reply).expect("a reply to a channel's creation");
            assert_eq!(
                (reply.reply.error == 0, pages.len()),
                (granted, if granted { 3 } else { 0 })
            );
            if let Ok(pages) = <[BorrowedFd<'_>; 3]>::try_from(pages) {
                connection.channels.push(Channel {
                    id: reply.channel,
                    pages: pages.map(|page| File::from(descriptor(page))),
                    next: None,
                });
            }
        }
    }

    fn hang_up(&mut self, index: usize) {
        let Some(connection) = self.connections[index].take() else {
            return;
        };
        if let Some(tenant) = connection.session.tenant() {
            self.broker.end_tenant(tenant, "it hung up", self.now);
        }
        if let Some(tenant) = connection.before {
            self.broker.end_absent(tenant, self.now);
        }
    }

    /// A tenant writes what it likes where it can.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let connection = &self.connections[input.below(CONNECTIONS)];
        let Some(connection) = connection.as_ref().filter(|c| !c.channels.is_empty()) else {
            return;
        };
        let pages = &connection.channels[input.below(connection.channels.len())].pages;
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
            facts: &mut self.facts,
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

        // Whatever page a process follows, it has no TPC that a process of another partition has.
        let tenants = self.status().tenants;
        let mut granted = Vec::<(&str, TpcSet)>::new();
        for connection in self.connections.iter().flatten() {
            let id = connection.tenant();
            let Some(tenant) = tenants
                .iter()
                .find(|t| id.is_some_and(|id| id.0 == t.tenant))
            else {
                continue;
            };
            let known = |id| tenant.channels.contains(&id) || tenant.left.contains(&id);
            for channel in connection.channels.iter().filter(|c| known(c.id)) {
                let pages = [Some(&channel.pages[0]), channel.next.as_ref()];
                let tpcs = pages.into_iter().flatten().map(tpcs_in);
                granted.extend(tpcs.map(|tpcs| (tenant.partition.as_str(), tpcs)));
            }
        }
        for (index, (partition, tpcs)) in granted.iter().enumerate() {
            for (other, others) in &granted[..index] {
                assert!(
                    partition == other || tpcs.is_disjoint(*others),
                    "{granted:?}"
                );
            }
        }
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
                    self.broker.next_tenant(),
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
        .map_or(0, |head| u32::from_le_bytes(*head) & !LITHOS_MESSAGE_REPLY);
    // A reply that several requests have bears the type of the first.
    let asked = match asked {
        LITHOS_MESSAGE_RESUME => LITHOS_MESSAGE_ATTACH,
        LITHOS_MESSAGE_CHANNEL_RESUME => LITHOS_MESSAGE_CHANNEL_CREATE,
        LITHOS_MESSAGE_CHANNEL_RESUMED => LITHOS_MESSAGE_CHANNEL_DESTROY,
        other => other,
    };
    assert_eq!(kind, asked | LITHOS_MESSAGE_REPLY);
    let well_formed = match asked {
        LITHOS_MESSAGE_ATTACH => decode::<lithos_attached>(reply).is_ok(),
        LITHOS_MESSAGE_CHANNEL_CREATE => decode::<lithos_channel>(reply).is_ok(),
        LITHOS_MESSAGE_CHANNEL_DESTROY => decode::<lithos_reply>(reply).is_ok(),
        _ => reply.len() == size_of::<lithos_message>() + size_of::<lithos_reply>(),
    };
    assert!(well_formed, "{reply:?}");
}

/// The TPCs of the grants in a grant page.
fn tpcs_in(page: &File) -> TpcSet {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        page.read_exact_at(&mut bytes, at as u64)
            .expect("a grant page");
        u64::from_le_bytes(bytes)
    };
    let latest = word(offset_of!(lithos_grant_page, latest));
    let slot =
        offset_of!(lithos_grant_page, slots) + (latest & 1) as usize * size_of::<lithos_grant>();
    let in_slot = |slot: usize| {
        let at = slot + offset_of!(lithos_grant, tpcs);
        TpcSet::from_words([word(at), word(at + 8)])
    };
    in_slot(slot) | in_slot(offset_of!(lithos_grant_page, fail_static))
}

fn descriptor(file: BorrowedFd<'_>) -> OwnedFd {
    file.try_clone_to_owned().expect("a descriptor")
}

/// A file in memory, of any size, which may be sealed.
fn memory(input: &mut Input<'_>) -> OwnedFd {
    let flags = MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"stranger", flags).expect("a file in memory"));
    let pages = u64::from(input.byte() % 32);
    file.set_len(pages * u64::from(LITHOS_PAGE_BYTES))
        .expect("a size");
    if input.flag() {
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    }
    file.into()
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
        assert_eq!(converse(two_tenants).granted, 2);
        let garbage = include_bytes!("../corpus/protocol/garbage-in-pages");
        assert_eq!(converse(garbage).granted, 2);
    }

    #[test]
    fn channels_of_the_committed_conversations_are_taken_over() {
        let restart = include_bytes!("../corpus/protocol/restart");
        let expected = Reached {
            granted: 2,
            taken_over: 3,
        };
        assert_eq!(converse(restart), expected);
    }
}
