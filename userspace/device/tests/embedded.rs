// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A tenant and the embedded broker, on a socket pair: what they say, and what goes wrong.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::{Grant, Terms};
use lithos_abi::message::{Message, decode, encode, reply, text};
use lithos_abi::ring::Read;
use lithos_device::embedded::SocketBroker;
use lithos_device::pages::{self, Pages, PagesError};
use lithos_device::{Attached, Broker, BrokerError, Channel, ChannelError, packet};
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

const RECORDS: u32 = 64;
const GPU: [u8; 16] = *b"GPU of this test";

fn terms() -> Terms {
    let counts = Counts {
        stamps: RECORDS,
        gates: 2,
        atoms: 4,
        cluster_atoms: 4,
        tails: 2,
    };
    Terms {
        channel: 0x2_0000_0005,
        present: [0xff, 0],
        gpc: [0; 128],
        ..Terms::sized(counts)
    }
}

fn grant() -> Grant {
    Grant {
        sequence: 1,
        tpcs: [0x0f, 0],
        ..Default::default()
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("a socket pair")
}

/// Receives one request of type `Q`.
fn hear<Q: Message>(socket: BorrowedFd<'_>) -> Q {
    let deadline = Instant::now() + Duration::from_secs(30);
    packet::wait(socket, PollFlags::POLLIN, deadline).expect("a request comes");
    let mut buffer = [0; 1024];
    let size = packet::receive(socket, &mut buffer).expect("a request");
    decode(&buffer[..size]).expect("a request of this type")
}

fn say<A: Message>(socket: BorrowedFd<'_>, answer: &A, descriptors: &[BorrowedFd<'_>]) {
    packet::send(socket, &encode(answer), descriptors).expect("room for a reply");
}

fn channel_reply(terms: &Terms) -> lithos_channel {
    lithos_channel {
        reply: reply(0, ""),
        channel: terms.channel,
        ring_bytes: terms.ring_bytes,
        arena_bytes: terms.arena_bytes,
    }
}

/// Lets a broker that answers with `answer` serve one call of a tenant.
fn serve<T: Send>(
    answer: impl FnOnce(BorrowedFd<'_>) + Send,
    call: impl FnOnce(&mut SocketBroker) -> T,
) -> (T, SocketBroker) {
    let (ours, theirs) = pair();
    let mut broker = SocketBroker::from_socket(ours);
    let result = thread::scope(|scope| {
        scope.spawn(|| answer(theirs.as_fd()));
        call(&mut broker)
    });
    (result, broker)
}

fn create_with(
    reply: lithos_channel,
    descriptors: impl FnOnce(&Pages) -> Vec<BorrowedFd<'_>> + Send,
    pages: &Pages,
) -> Result<Channel, BrokerError> {
    serve(
        |socket| {
            hear::<lithos_channel_create>(socket);
            say(socket, &reply, &descriptors(pages));
        },
        |broker| broker.create_channel(GPU, 0),
    )
    .0
}

fn closes_on_exec(descriptor: impl AsFd) -> bool {
    let flags = fcntl(descriptor, FcntlArg::F_GETFD).expect("an open descriptor");
    FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC)
}

#[test]
fn a_tenant_attaches_by_the_name_of_its_partition() {
    let (attached, _) = serve(
        |socket| {
            let request: lithos_attach = hear(socket);
            assert_eq!(request.version, LITHOS_ABI_VERSION);
            assert_eq!(text(&request.partition).as_deref(), Some("inference"));
            let answer = lithos_attached {
                reply: reply(0, ""),
                tenant: 77,
                flags: LITHOS_ATTACHED_ENFORCE,
                version: LITHOS_ABI_VERSION,
            };
            say(socket, &answer, &[]);
        },
        |broker| broker.attach("inference"),
    );
    let expected = Attached {
        tenant: 77,
        enforce: true,
        least: false,
        sms: 0,
    };
    assert_eq!(attached.expect("attached"), expected);
}

#[test]
fn a_channel_is_three_pages_that_both_sides_see() {
    let terms = terms();
    let mut pages = pages::create(&terms).expect("pages");
    pages.publish(&grant());
    let (channel, broker) = serve(
        |socket| {
            let request: lithos_channel_create = hear(socket);
            assert_eq!((request.gpu, request.context), (GPU, 0xc0ffee));
            say(socket, &channel_reply(&terms), &pages.descriptors());
        },
        |broker| broker.create_channel(GPU, 0xc0ffee),
    );
    let channel = channel.expect("a channel");
    assert_eq!(channel.id(), terms.channel);
    assert_eq!(*channel.terms(), terms);
    assert_eq!(channel.grant().read(), Some(grant()));
    assert!(channel.descriptors().iter().all(closes_on_exec));
    assert!(broker.descriptor().is_some());

    // The ring, from tenant to broker.
    let sequence = channel.ring().reserve();
    assert_eq!(pages.ring().reserved(), sequence);
    assert!(channel.ring().claim(sequence, None));
    let record = lithos_abi::lithos_record {
        sequence,
        program: 0xabcd,
        ..Default::default()
    };
    channel.ring().write(&record);
    assert_eq!(pages.ring().read(sequence), Read::Record(record));

    // The arena, from "GPU" to both.
    let arena = channel.arena().expect("there is room below 1 TiB");
    let start = arena.start().as_ptr().addr() as u64;
    assert!(start + terms.arena_bytes <= 1 << 40);
    assert_eq!(arena.bytes() as u64, terms.arena_bytes);
    let place = channel.ring().place(sequence);
    assert!((start..start + terms.arena_bytes).contains(&arena.stamps().address(place)));
    let stamp = arena.stamps().address(place) as *mut u32;
    // SAFETY: the stamp lies in the arena, which is mapped, and nobody else writes it.
    unsafe { std::sync::atomic::AtomicU32::from_ptr(stamp) }.store(1, Relaxed);
    assert!(arena.stamps().has_completed(place, sequence));
    assert!(pages.stamps().has_completed(place, sequence));

    // Grants go on after that.
    pages.publish(&Grant {
        tpcs: [0xf0, 0],
        ..grant()
    });
    let second = channel.grant().read().expect("a grant");
    assert_eq!((second.sequence, second.tpcs), (2, [0xf0, 0]));
    assert_eq!(pages.latest(), 2);
    pages.set_broker(LITHOS_BROKER_RETIRED, 1);
    assert!(channel.grant().is_retired());
}

#[test]
fn two_arenas_of_one_process_lie_apart() {
    let terms = terms();
    let pages = pages::create(&terms).expect("pages");
    let map = || create_with(channel_reply(&terms), Pages::descriptors, &pages);
    let (first, second) = (map().expect("a channel"), map().expect("a channel"));
    let start = |channel: &Channel| channel.arena().expect("room").start().addr().get();
    assert!(start(&first).abs_diff(start(&second)) >= 1 << 30);
}

#[test]
fn the_maps_of_a_channel_end_with_it() {
    let terms = terms();
    let pages = pages::create(&terms).expect("pages");
    let channel = create_with(channel_reply(&terms), Pages::descriptors, &pages);
    let channel = channel.expect("a channel");
    let start = channel.arena().expect("room").start().addr().get();
    let is_mapped = || {
        std::fs::read_to_string("/proc/self/maps")
            .expect("procfs")
            .lines()
            .any(|line| line.starts_with(&format!("{start:x}-")))
    };
    assert!(is_mapped());
    drop(channel);
    assert!(!is_mapped());
}

#[test]
fn the_tenants_grant_page_cannot_be_written_and_no_page_can_shrink() {
    let pages = pages::create(&terms()).expect("pages");
    let [grant_page, ring, arena] = pages.descriptors()[..] else {
        panic!("three pages")
    };
    for page in [grant_page, ring, arena] {
        assert!(closes_on_exec(page));
        let seals = fcntl(page, FcntlArg::F_GET_SEALS).expect("a memfd");
        let seals = SealFlag::from_bits_truncate(seals);
        assert!(seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW));
        assert!(!seals.intersects(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE));
    }
    for page in [ring, arena] {
        let file = File::from(page.try_clone_to_owned().expect("a duplicate"));
        file.set_len(0).expect_err("sealed");
    }
    let file = File::from(grant_page.try_clone_to_owned().expect("a duplicate"));
    let mode = file.metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else can open it for writing");
    nix::unistd::write(&file, b"x").expect_err("read-only");
    memmap2::MmapRaw::map_raw(&file).expect_err("read-only");
}

#[test]
fn a_refusal_says_why() {
    let (refused, mut broker) = serve(
        |socket| {
            hear::<lithos_attach>(socket);
            let answer = lithos_attached {
                reply: reply(
                    libc::ENOENT,
                    "no partition `x`; there are: batch, inference",
                ),
                tenant: 0,
                flags: 0,
                version: LITHOS_ABI_VERSION,
            };
            say(socket, &answer, &[]);
        },
        |broker| broker.attach("x"),
    );
    let refused = refused.expect_err("refused");
    assert!(matches!(&refused, BrokerError::Refused { errno, .. } if *errno == libc::ENOENT));
    assert!(refused.to_string().contains("there are: batch, inference"));
    // The connection is still good; here the other side has gone meanwhile.
    assert!(matches!(broker.attach("x"), Err(BrokerError::Closed)));
}

#[test]
fn a_broker_of_another_version_is_refused() {
    let (attached, _) = serve(
        |socket| {
            hear::<lithos_attach>(socket);
            let answer = lithos_attached {
                reply: reply(0, ""),
                tenant: 1,
                flags: 0,
                version: LITHOS_ABI_VERSION + 1,
            };
            say(socket, &answer, &[]);
        },
        |broker| broker.attach("x"),
    );
    assert!(matches!(attached, Err(BrokerError::Version(2))));
}

#[test]
fn a_name_that_does_not_fit_is_refused_without_asking() {
    for name in ["", "a\0b", &"n".repeat(64)] {
        let (socket, _theirs) = pair();
        let refused = SocketBroker::from_socket(socket).attach(name);
        assert!(matches!(refused, Err(BrokerError::Name(_))), "{name:?}");
    }
}

#[test]
fn a_reply_of_another_type_or_size_ends_the_connection() {
    let (attached, mut broker) = serve(
        |socket| {
            hear::<lithos_attach>(socket);
            say(socket, &reply(0, ""), &[]);
        },
        |broker| broker.attach("x"),
    );
    assert!(matches!(attached, Err(BrokerError::Message(_))));
    assert!(broker.descriptor().is_none());
    assert!(matches!(
        broker.destroy_channel(1),
        Err(BrokerError::Closed)
    ));
    let (attached, _) = serve(
        |socket| {
            hear::<lithos_attach>(socket);
            packet::send(socket, &[0; 4000], &[]).expect("room");
        },
        |broker| broker.attach("x"),
    );
    assert!(matches!(attached, Err(BrokerError::Io(_))));
}

#[test]
fn a_broker_that_says_nothing_is_left_at_the_deadline() {
    let (ours, _theirs) = pair();
    let short = Duration::from_millis(20);
    let mut broker = SocketBroker::from_socket(ours).with_deadlines(short, short);
    assert!(matches!(broker.attach("x"), Err(BrokerError::Deadline(d)) if d == short));
    assert!(
        matches!(broker.create_channel(GPU, 0), Err(BrokerError::Closed)),
        "a late reply must not answer the next request"
    );
}

#[test]
fn a_broker_that_ends_the_connection_is_noticed() {
    let (ours, theirs) = pair();
    drop(theirs);
    let mut broker = SocketBroker::from_socket(ours);
    assert!(matches!(broker.attach("x"), Err(BrokerError::Closed)));
}

#[test]
fn where_nobody_listens_the_error_names_the_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broker.sock");
    let error = SocketBroker::connect(&path).expect_err("nobody is there");
    assert!(error.to_string().contains("broker.sock"));
}

#[test]
fn a_tenant_connects_by_path() {
    use nix::sys::socket::{Backlog, UnixAddr, bind, listen, socket};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broker.sock");
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    bind(
        listener.as_raw_fd(),
        &UnixAddr::new(&path).expect("a short path"),
    )
    .expect("a free path");
    listen(&listener, Backlog::new(1).expect("1")).expect("listens");
    let broker = SocketBroker::connect(&path).expect("connects");
    assert!(broker.descriptor().is_some());
}

#[test]
fn a_channel_whose_pages_contradict_its_reply_is_refused() {
    let terms = terms();
    let pages = pages::create(&terms).expect("pages");
    let good = channel_reply(&terms);
    let wrong: [(lithos_channel, &str); 3] = [
        (
            lithos_channel {
                channel: good.channel + 1,
                ..good
            },
            "the grant page's channel is wrong",
        ),
        (
            lithos_channel {
                ring_bytes: good.ring_bytes * 2,
                ..good
            },
            "the ring has",
        ),
        (
            lithos_channel {
                arena_bytes: 4096,
                ..good
            },
            "the arena has",
        ),
    ];
    for (reply, expected) in wrong {
        match create_with(reply, Pages::descriptors, &pages) {
            Err(BrokerError::Channel(error)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_channel_without_its_three_sealed_pages_is_refused() {
    let terms = terms();
    let pages = pages::create(&terms).expect("pages");
    let two = create_with(
        channel_reply(&terms),
        |pages| pages.descriptors()[..2].into(),
        &pages,
    );
    assert!(matches!(
        two,
        Err(BrokerError::Channel(ChannelError::Descriptors {
            found: 2,
            wanted: 3
        }))
    ));

    let swapped = create_with(
        channel_reply(&terms),
        |pages| {
            let [grant, ring, arena] = pages.descriptors()[..] else {
                panic!("three pages")
            };
            vec![ring, grant, arena]
        },
        &pages,
    );
    assert!(matches!(
        swapped,
        Err(BrokerError::Channel(ChannelError::Size { .. }))
    ));

    let unsealed = tempfile::tempfile().expect("a file");
    unsealed.set_len(terms.arena_bytes).expect("room");
    let (shrinks, _) = serve(
        |socket| {
            hear::<lithos_channel_create>(socket);
            let [grant, ring, _] = pages.descriptors()[..] else {
                panic!("three pages")
            };
            say(
                socket,
                &channel_reply(&terms),
                &[grant, ring, unsealed.as_fd()],
            );
        },
        |broker| broker.create_channel(GPU, 0),
    );
    match shrinks {
        // A file system that knows no seals says EINVAL.
        Err(BrokerError::Channel(
            ChannelError::Seals { page } | ChannelError::Map { page, .. },
        )) => {
            assert_eq!(page, "arena");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_grant_page_that_contradicts_itself_is_refused() {
    let mut cases = Vec::new();
    let mut case = |what: &'static str, change: fn(&mut Terms)| {
        let mut terms = terms();
        change(&mut terms);
        cases.push((what, terms));
    };
    case("tpc_sms", |t| t.tpc_sms = 0);
    case("present", |t| t.present = [0; 2]);
    case("oversize", |t| t.oversize = 9);
    case("region", |t| t.regions[2].count = u32::MAX);
    case("channel", |t| t.channel = 0);
    for (what, terms) in cases {
        let pages = pages::create(&terms).expect("pages");
        let reply = channel_reply(&terms);
        match create_with(reply, Pages::descriptors, &pages) {
            Err(BrokerError::Channel(error @ ChannelError::Terms(_))) => {
                assert!(error.to_string().contains(what), "{error}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn pages_are_not_made_for_terms_that_cannot_be() {
    let mut few = terms();
    few.regions[0].count = RECORDS - 1;
    assert!(matches!(pages::create(&few), Err(PagesError::Stamps)));
    let mut odd = terms();
    odd.records = 48;
    assert!(matches!(pages::create(&odd), Err(PagesError::Ring(_))));
}

#[test]
fn a_channel_is_given_back_by_its_id() {
    let (result, _) = serve(
        |socket| {
            let request: lithos_channel_destroy = hear(socket);
            assert_eq!(request.channel, 41);
            say(socket, &reply(0, ""), &[]);
        },
        |broker| broker.destroy_channel(41),
    );
    result.expect("given back");
}

#[test]
fn a_server_takes_no_descriptors_from_a_tenant() {
    let (ours, theirs) = pair();
    let (sent, other) = pair();
    packet::send(ours.as_fd(), b"hello", &[sent.as_fd()]).expect("room");
    drop(sent);
    let mut buffer = [0; 64];
    assert_eq!(
        packet::receive(theirs.as_fd(), &mut buffer).expect("a packet"),
        5
    );
    // The descriptor that was sent is closed everywhere, so its peer sees the end.
    assert_eq!(
        packet::receive(other.as_fd(), &mut buffer).expect("the end"),
        0
    );
    let again = packet::receive(theirs.as_fd(), &mut buffer).expect_err("nothing more");
    assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_forked_child_reads_another_mark() {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    let mark = lithos_device::ForkMark::new().expect("a page");
    assert!(mark.is_parent());
    // SAFETY: the child reads a word and ends with `_exit`.
    match unsafe { fork() }.expect("a child") {
        // SAFETY: ends this child without running anything of the parent's.
        ForkResult::Child => unsafe { libc::_exit(i32::from(mark.is_parent())) },
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
    assert!(mark.is_parent());
    mark.clear();
    assert!(!mark.is_parent());
}
