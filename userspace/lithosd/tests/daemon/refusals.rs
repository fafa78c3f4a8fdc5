// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Bad input: a clear refusal for whoever sent it, and nothing for anybody else.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lithos_abi::bindings::*;
use lithos_abi::message::{PACKET_BYTES_MAX, encode};
use lithos_device::embedded::SocketBroker;
use lithos_device::{Attached, Broker, BrokerError, Identity, packet};
use lithosd::control::{FailureKind, Reply, Request};
use nix::sys::signal::{Signal, kill};

use crate::harness::*;
use crate::raw::{Raw, attach, create};

fn refusal(outcome: Result<Attached, BrokerError>) -> (i32, String) {
    match outcome {
        Err(BrokerError::Refused { errno, text }) => (errno, text),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn packets_that_are_no_requests_are_refused_and_the_connection_lives() {
    let daemon = Daemon::start(PARTITIONS);
    let raw = Raw::connect(&daemon);
    let good = attach("a");
    let mut reserved = good.clone();
    reserved[12] = 1;
    let mut endless = good.clone();
    endless[16..80].fill(b'x');
    let mut unknown = good.clone();
    unknown[0] = 77;
    // A program that mistakes itself for the broker gets what such a reply is the reply to.
    let reply = LITHOS_MESSAGE_CHANNEL_CREATE | LITHOS_MESSAGE_REPLY;
    let mut replying = good.clone();
    replying[..4].copy_from_slice(&reply.to_le_bytes());
    let cases = [
        ("three bytes", vec![1, 0, 0], 0),
        ("a header alone", good[..8].to_vec(), LITHOS_MESSAGE_ATTACH),
        (
            "a truncated message",
            good[..40].to_vec(),
            LITHOS_MESSAGE_ATTACH,
        ),
        ("a set reserved field", reserved, LITHOS_MESSAGE_ATTACH),
        ("a text without an end", endless, LITHOS_MESSAGE_ATTACH),
        ("an unknown type", unknown, 77),
        ("the type of a reply", replying, reply),
        (
            "an oversized packet",
            vec![1; PACKET_BYTES_MAX + 1],
            0x0101_0101,
        ),
        (
            "a channel of no id",
            encode(&lithos_channel_destroy { channel: 0 }),
            LITHOS_MESSAGE_CHANNEL_DESTROY,
        ),
    ];
    for (what, bytes, kind) in cases {
        let (replied, errno, text) = raw.refused(&bytes);
        assert_eq!(replied, kind | LITHOS_MESSAGE_REPLY, "{what}");
        assert_eq!(errno, libc::EBADMSG, "{what}: {text}");
        assert!(
            text.contains("no request of ABI version 1"),
            "{what}: {text}"
        );
    }
    assert_eq!(raw.attach("a")[8], 0);
    assert_eq!(daemon.status().daemon.refused, 9);
}

#[test]
fn a_tenant_of_another_version_is_told_so() {
    let daemon = Daemon::start(PARTITIONS);
    let raw = Raw::connect(&daemon);
    let mut newer = attach("a");
    newer[8] = 2;
    let (_, errno, text) = raw.refused(&newer);
    assert_eq!(errno, libc::EPROTONOSUPPORT);
    assert!(
        text.contains("speaks ABI version 2, the broker 1"),
        "{text}"
    );
}

#[test]
fn requests_out_of_order_are_refused() {
    let daemon = Daemon::start(PARTITIONS);
    let raw = Raw::connect(&daemon);
    let (_, errno, text) = raw.refused(&create(GPU0));
    assert_eq!(errno, libc::ENOTCONN, "{text}");
    let (_, errno, text) = raw.refused(&encode(&lithos_channel_destroy { channel: 1 }));
    assert_eq!(errno, libc::ENOTCONN, "{text}");
    raw.attach("a");
    let (_, errno, text) = raw.refused(&attach("b"));
    assert_eq!(errno, libc::EALREADY, "{text}");
}

#[test]
fn unknown_partitions_and_gpus_are_refused_with_those_that_there_are() {
    let daemon = Daemon::start(PARTITIONS);
    let mut broker = SocketBroker::connect(&daemon.socket()).unwrap();
    let (errno, text) = refusal(broker.attach("chat"));
    assert_eq!(errno, libc::ENOENT);
    assert_eq!(text, "there is no partition \"chat\"; there is: a, b, pool");
    broker.attach("a").unwrap();
    let error = broker.create_channel(GPU1, 1).unwrap_err().to_string();
    assert!(
        error.contains("GPU-11111111-1111") && error.contains("GPU-00000000-0000"),
        "{error}"
    );
}

#[test]
fn a_tenant_that_is_not_what_was_proven_attaches_and_gets_no_channel() {
    let daemon = Daemon::start(PARTITIONS);
    let proven = Identity::default();
    let others = [
        (Identity { edits: 1, ..proven }, "other edits"),
        (
            Identity {
                driver: [0xab; 32],
                ..proven
            },
            "build id abab",
        ),
    ];
    for (identity, part) in others {
        let broker = SocketBroker::connect(&daemon.socket()).unwrap();
        let mut broker = broker.with_identity(identity);
        assert!(broker.attach("b").unwrap().enforce);
        let error = broker.create_channel(GPU0, 1).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("GPU 0"), "{error}");
    }
    assert!(daemon.status().channels.is_empty());
}

#[test]
fn only_so_many_tenants_and_channels_are_taken_in() {
    let limits = "[limits]\ntenants = 2\nchannels_per_tenant = 2\n";
    let daemon = Daemon::start(&format!("{limits}{PARTITIONS}"));
    let mut first = daemon.tenant("a");
    let second = daemon.tenant("a");
    let mut third = SocketBroker::connect(&daemon.socket()).unwrap();
    let (errno, text) = refusal(third.attach("a"));
    assert_eq!(errno, libc::EUSERS);
    assert!(
        text.contains("2 tenants") && text.contains("limits.tenants"),
        "{text}"
    );
    let _channels = [1, 2].map(|context| first.create_channel(GPU0, context).unwrap());
    let error = first.create_channel(GPU0, 3).unwrap_err().to_string();
    assert!(
        error.contains("2 channels") && error.contains("channels_per_tenant"),
        "{error}"
    );
    drop(second);
    eventually("there is a place again", || third.attach("a").is_ok());
}

#[test]
fn a_tenant_cannot_destroy_the_channel_of_another() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut one, mut two) = (daemon.tenant("a"), daemon.tenant("a"));
    let channel = one.create_channel(GPU0, 1).unwrap();
    assert!(two.destroy_channel(channel.id()).is_err());
    assert!(daemon.channel(channel.id()).is_some());
}

#[test]
fn descriptors_that_peers_send_are_not_kept() {
    let daemon = Daemon::start(PARTITIONS);
    let raw = Raw::connect(&daemon);
    raw.attach("a");
    let before = daemon.descriptors();
    for _ in 0..8 {
        packet::send(
            raw.0.as_fd(),
            &create(GPU1),
            &[raw.0.as_fd(), raw.0.as_fd()],
        )
        .unwrap();
        raw.receive();
    }
    assert_eq!(daemon.descriptors(), before);
}

#[test]
fn nothing_is_leaked_by_tenants_that_come_and_go() {
    let daemon = Daemon::start(PARTITIONS);
    drop(daemon.tenant("a").create_channel(GPU0, 1).unwrap());
    eventually("the first tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    let before = daemon.descriptors();
    for round in 0..20 {
        let mut tenant = daemon.tenant("a");
        let kept = tenant.create_channel(GPU0, round).unwrap();
        let destroyed = tenant.create_channel(GPU0, round).unwrap();
        tenant.destroy_channel(destroyed.id()).unwrap();
        assert!(tenant.create_channel(GPU1, round).is_err());
        assert!(
            SocketBroker::connect(&daemon.socket())
                .unwrap()
                .attach("x")
                .is_err()
        );
        drop((kept, destroyed));
    }
    eventually("all tenants have ended", || {
        daemon.status().tenants.is_empty()
    });
    eventually("all descriptors are closed", || {
        daemon.descriptors() <= before
    });
}

#[test]
fn a_peer_that_takes_no_replies_is_dropped_and_others_are_served() {
    let daemon = Daemon::start(PARTITIONS);
    let raw = Raw::connect(&daemon);
    raw.attach("a");
    eventually("the peer is dropped", || {
        let sent = packet::send(raw.0.as_fd(), &create(GPU1), &[]);
        sent.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    });
    eventually("its tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    daemon.tenant("a").create_channel(GPU0, 1).unwrap();
}

#[test]
fn a_tenant_that_closes_while_it_waits_leaves_nothing() {
    let all = "[[partition]]\nname = \"all\"\nclass = \"lc\"\nguarantee = 13\n\
               [[partition]]\nname = \"pool\"\nclass = \"be\"\n";
    let daemon = Daemon::start(all);
    let raw = Raw::connect(&daemon);
    raw.attach("pool");
    raw.send(&create(GPU0));
    eventually("the channel waits", || daemon.status().channels.len() == 1);
    drop(raw);
    eventually("the tenant has ended", || {
        daemon.status().tenants.is_empty()
    });
    assert!(daemon.status().channels.is_empty());
}

#[test]
fn lines_that_are_no_requests_are_answered_with_what_is_wrong() {
    let daemon = Daemon::start(PARTITIONS);
    let cases = [
        ("hello", "expected value"),
        (r#"{"request": "stop"}"#, "partition-create"),
        (r#"{"request": "join"}"#, "partition"),
        ("", "EOF"),
    ];
    for (line, expected) in cases {
        let reply: Reply = serde_json::from_str(&daemon.ask_line(line)).unwrap();
        let Reply::Error(failure) = reply else {
            panic!("{line}: {reply:?}");
        };
        assert_eq!(failure.kind, FailureKind::Malformed);
        assert!(failure.message.contains(expected), "{line}: {failure}");
    }
}

#[test]
fn a_line_without_end_is_refused_and_the_connection_closed() {
    let daemon = Daemon::start(PARTITIONS);
    let mut stream = UnixStream::connect(daemon.control()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The daemon may close before all is written.
    let _ = stream.write_all(&[b'x'; 70_000]);
    let mut reply = String::new();
    BufReader::new(&stream).read_line(&mut reply).unwrap();
    assert!(reply.contains("at most 65536 bytes"), "{reply}");
    let rest = stream.read(&mut [0; 8]);
    assert!(!matches!(rest, Ok(1..)), "{rest:?}");
}

#[test]
fn many_connections_and_half_lines_keep_nobody_out() {
    let daemon = Daemon::start(PARTITIONS);
    let idle: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.control()).unwrap();
            // The daemon may have closed it in favour of a later one.
            let _ = stream.write_all(b"{\"request\":");
            stream
        })
        .collect();
    assert!(
        matches!(daemon.ask(&Request::PartitionList), Reply::Partitions(list) if list.len() == 3)
    );
    assert_eq!(idle.len(), 100);
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let daemon = Daemon::start(PARTITIONS);
    let mut stream = UnixStream::connect(daemon.control()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut requests = String::new();
    for name in ["a", "nobody", "b"] {
        requests.push_str(&format!(
            "{{\"request\": \"join\", \"partition\": \"{name}\"}}\n"
        ));
    }
    stream.write_all(requests.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = || serde_json::from_str::<Reply>(&lines.next().unwrap().unwrap()).unwrap();
    assert!(matches!(next(), Reply::Joined(joined) if joined.partition == "a" && !joined.enforce));
    assert!(matches!(next(), Reply::Error(failure) if failure.kind == FailureKind::NotFound));
    assert!(matches!(next(), Reply::Joined(joined) if joined.partition == "b" && joined.enforce));
}

#[test]
fn a_peer_that_never_stops_asking_keeps_nobody_waiting() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut stream = UnixStream::connect(daemon.control()).unwrap();
    let mut replies = stream.try_clone().unwrap();
    let raw = Raw::connect(&daemon);
    raw.attach("b");
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Where there is no room for more, the daemon has enough to do.
                let _ = packet::send(raw.0.as_fd(), &create(GPU1), &[]);
                while packet::receive(raw.0.as_fd(), &mut [0; PACKET_BYTES_MAX])
                    .is_ok_and(|n| n > 0)
                {}
            }
        });
        scope.spawn(move || while stream.write_all(b"{\"request\":\"status\"}\n").is_ok() {});
        scope.spawn(move || while replies.read(&mut [0; 65_536]).is_ok_and(|n| n > 0) {});
        // Nothing panics in here, or the others would never end.
        let mut make = |context| {
            let channel = tenant.create_channel(GPU0, context)?;
            tenant.destroy_channel(channel.id())
        };
        let made: Result<Vec<()>, BrokerError> = (0..10).map(&mut make).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let told = kill(daemon.pid(), Signal::SIGTERM);
        (made, told)
    });
    outcome.0.unwrap();
    outcome.1.unwrap();
}
