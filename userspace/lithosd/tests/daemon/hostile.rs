// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Peers that mean harm: whatever they send, write or hold back, others go on undisturbed, and the
//! daemon holds nothing of it once they have gone.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lithos_abi::bindings::*;
use lithos_abi::message::encode;
use lithos_abi::ring::ring_bytes;
use lithos_device::{Broker, Channel, packet};
use lithosd::control::{FailureKind, Reply, Request};
use lithosd::partition::{ClassWord, PartitionEntry};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::unistd::{Uid, setfsuid};

use crate::harness::*;
use crate::raw::{Raw, attach, create};

/// A file that is one of a channel's pages.
fn page(channel: &Channel, index: usize) -> File {
    File::from(channel.descriptors()[index].try_clone().unwrap())
}

/// Writes over a channel's whole ring.
fn scribble(channel: &Channel, bytes: impl FnMut(usize) -> Vec<u8>) {
    let records = channel.terms().records;
    let whole = ring_bytes(records);
    let written: Vec<u8> = (0..whole / 64).map(bytes).collect::<Vec<_>>().concat();
    page(channel, 1).write_all_at(&written, 0).unwrap();
}

/// Fails unless a neighbour has what it had, and launches on.
fn is_undisturbed(daemon: &Daemon, neighbour: &Channel) {
    assert_eq!(granted(neighbour).len(), 4);
    let launched = launch(neighbour);
    complete(neighbour, launched);
    eventually("the neighbour's launch is seen to complete", || {
        daemon.channel(neighbour.id()).unwrap().outstanding == 0
    });
    let totals = daemon.channel(neighbour.id()).unwrap().totals;
    assert_eq!((totals.violations, totals.lost, totals.stale), (0, 0, 0));
}

#[test]
fn random_packets_cost_at_most_their_own_connection() {
    let daemon = Daemon::start(PARTITIONS);
    let mut chance = Chance(0x5eed_0001);
    daemon.keeps_nothing_of(|daemon| {
        for _ in 0..40 {
            let raw = Raw::connect(daemon);
            for _ in 0..chance.below(8) {
                let size = chance.below(1200);
                let mut bytes = chance.bytes(size);
                // Half of them say that they are what they could be.
                if chance.below(2) == 0 && bytes.len() >= 8 {
                    let size = u32::try_from(bytes.len() - 8).unwrap();
                    bytes[..4].copy_from_slice(&chance.below(5).to_le_bytes());
                    bytes[4..8].copy_from_slice(&size.to_le_bytes());
                }
                // The daemon may have closed the connection: an empty packet is a farewell.
                let _ = packet::send(raw.0.as_fd(), &bytes, &[]);
            }
        }
    });
    daemon.tenant("a").create_channel(GPU0, 1).unwrap();
}

#[test]
fn random_lines_cost_at_most_their_own_connection() {
    let daemon = Daemon::start(PARTITIONS);
    let mut chance = Chance(0x5eed_0002);
    let deep = "[".repeat(60_000);
    let long = format!(
        "{{\"request\":\"join\",\"partition\":\"{}\"}}",
        "x".repeat(60_000)
    );
    daemon.keeps_nothing_of(|daemon| {
        for _ in 0..20 {
            let mut stream = UnixStream::connect(daemon.control()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let size = chance.below(4096);
            let mut noise = chance.bytes(size);
            noise.retain(|&byte| byte != b'\n');
            for line in [
                &noise[..],
                deep.as_bytes(),
                long.as_bytes(),
                b"{\"request\":\"run\",\"tpcs\":-1}",
            ] {
                stream.write_all(line).unwrap();
                stream.write_all(b"\n").unwrap();
            }
            // Half a request, and gone.
            stream.write_all(b"{\"request\":\"sta").unwrap();
            let mut replies = String::new();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_to_string(&mut replies).unwrap();
            assert_eq!(replies.lines().count(), 4, "{replies}");
            for line in replies.lines() {
                let reply: Reply = serde_json::from_str(line).unwrap();
                assert!(matches!(reply, Reply::Error(_)), "{line}");
            }
        }
    });
}

#[test]
fn numbers_out_of_range_name_nobody() {
    let daemon = Daemon::start(PARTITIONS);
    let mut owner = daemon.tenant("a");
    let channel = owner.create_channel(GPU0, u64::MAX).unwrap();
    let raw = Raw::connect(&daemon);
    raw.attach("a");
    for id in [channel.id(), channel.id() + 1, 1 << 32, u64::MAX] {
        let request = encode(&lithos_channel_destroy { channel: id });
        let (_, errno, text) = raw.refused(&request);
        assert_eq!(errno, libc::ENOENT, "{text}");
    }
    let (_, errno, text) = raw.refused(&create([0xff; 16]));
    assert_eq!(errno, libc::ENODEV, "{text}");
    for (tpcs, kind) in [
        (0, FailureKind::Invalid),
        (u32::MAX, FailureKind::Invalid),
        (14, FailureKind::Refused),
    ] {
        let request = Request::Run {
            tpcs,
            class: ClassWord::Lc,
            enforce: false,
        };
        let Reply::Error(failure) = daemon.ask(&request) else {
            panic!("{tpcs} TPCs were given");
        };
        assert_eq!(failure.kind, kind, "{failure}");
    }
    is_undisturbed(&daemon, &channel);
    assert_eq!(daemon.channel(channel.id()).unwrap().context, u64::MAX);
}

#[test]
fn a_ring_of_garbage_disturbs_no_neighbour_and_leaves_nothing() {
    let daemon = Daemon::start(PARTITIONS);
    let mut neighbour = daemon.tenant("b");
    let beside = neighbour.create_channel(GPU0, 1).unwrap();
    let mut chance = Chance(0x5eed_0003);
    for round in 0..6_u64 {
        let mut liar = daemon.tenant("a");
        let channel = liar.create_channel(GPU0, 1).unwrap();
        match round % 3 {
            // Any bits everywhere, the reservation and the counters among them.
            0 => scribble(&channel, |_| chance.bytes(64)),
            // Every record of the last lap there can be.
            1 => scribble(&channel, |_| vec![0xff; 64]),
            // Launches that no record says anything about.
            _ => page(&channel, 1)
                .write_all_at(&100_000_u64.to_le_bytes(), reserved_at())
                .unwrap(),
        }
        // A change of the liar's partition makes the daemon wait for launches that never were.
        assert!(matches!(daemon.set_guarantee("a", 3), Reply::Partition(_)));
        is_undisturbed(&daemon, &beside);
        assert!(matches!(daemon.set_guarantee("a", 4), Reply::Partition(_)));
        drop(liar);
        eventually("the liar is gone", || daemon.status().tenants.len() == 1);
    }
    drop(neighbour);
    eventually("the neighbour is gone", || {
        daemon.status().tenants.is_empty()
    });
    daemon.keeps_nothing_of(|daemon| {
        let mut liar = daemon.tenant("a");
        let channel = liar.create_channel(GPU0, 1).unwrap();
        scribble(&channel, |_| chance.bytes(64));
        eventually("the garbage is read", || {
            daemon.channel(channel.id()).unwrap().totals.lost > 0
        });
        drop(liar);
        eventually("the liar is gone", || daemon.status().tenants.is_empty());
    });
}

/// Where the number of the last launch stands in a ring.
fn reserved_at() -> u64 {
    std::mem::offset_of!(lithos_ring, reserved) as u64
}

#[test]
fn stamps_and_times_from_the_future_deceive_only_about_their_own_launches() {
    let daemon = Daemon::start(PARTITIONS);
    let (mut liar, mut neighbour) = (daemon.tenant("a"), daemon.tenant("b"));
    let channel = liar.create_channel(GPU0, 1).unwrap();
    let beside = neighbour.create_channel(GPU0, 1).unwrap();
    let open = launch(&beside);
    // The stamps of launches to come, and one of a whole lap later; the time of all is the end of time.
    let arena = page(&channel, 2);
    let region = channel.terms().regions[LITHOS_REGION_STAMPS as usize];
    for sequence in [1, 2, 3, u64::from(region.count) + 4] {
        let place = channel.ring().place(sequence) as u64;
        let at = region.offset + place * u64::from(region.stride);
        arena.write_all_at(&u64::MAX.to_le_bytes(), at + 8).unwrap();
        arena
            .write_all_at(&u32::try_from(sequence).unwrap().to_le_bytes(), at)
            .unwrap();
    }
    let launches: Vec<u64> = (0..4).map(|_| launch(&channel)).collect();
    eventually("the stamps are taken for what they say", || {
        let seen = daemon.channel(channel.id()).unwrap();
        (seen.totals.launches, seen.totals.completed) == (4, 3)
    });
    assert_eq!(
        daemon.channel(channel.id()).unwrap().outstanding,
        1,
        "that of another lap is none"
    );
    let other = daemon.channel(beside.id()).unwrap();
    assert_eq!((other.outstanding, other.totals.completed), (1, 0));
    complete(&beside, open);
    complete(&channel, launches[3]);
    is_undisturbed(&daemon, &beside);
}

#[test]
fn no_page_can_be_resized_and_the_grant_page_not_be_written() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let before = channel.grant().read();
    for index in 0..3 {
        let file = page(&channel, index);
        let size = file.metadata().unwrap().len();
        for wanted in [0, size - 4096, size + 4096] {
            file.set_len(wanted).expect_err("the size is final");
        }
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect_err("no more seals");
        assert_eq!(file.metadata().unwrap().len(), size);
    }
    let file = page(&channel, 0);
    let whole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, whole, 0, 4096).expect_err("a hole is a change");
    // Holes in the other two read as zeros, which are garbage like any other.
    for index in [1, 2] {
        let file = page(&channel, index);
        let size = i64::try_from(file.metadata().unwrap().len()).unwrap();
        fallocate(&file, whole, 0, size).unwrap();
    }
    assert_eq!(channel.grant().read(), before);
    assert!(matches!(daemon.set_guarantee("a", 2), Reply::Partition(_)));
    assert_eq!(granted(&channel).len(), 2);
}

#[test]
fn another_user_cannot_open_its_grant_page_again_for_writing() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let file = page(&channel, 0);
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    // The kernel checks the files that a thread opens against the thread's own user. Where the tests
    // do not run as root the user stays who it is, and owns the page: then its mode has to do.
    let opened = std::thread::spawn(move || {
        let mine = setfsuid(Uid::from_raw(65_534));
        setfsuid(Uid::from_raw(65_534));
        let opened = OpenOptions::new().write(true).open(again);
        (mine.is_root(), opened.is_ok())
    });
    let (is_root, is_open) = opened.join().unwrap();
    assert_eq!(is_open, !is_root);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn peers_that_never_read_are_held_to_one_reply_each() {
    let daemon = Daemon::start(PARTITIONS);
    let mut neighbour = daemon.tenant("b");
    let beside = neighbour.create_channel(GPU0, 1).unwrap();
    let before = daemon.footprint();
    let raw = Raw::connect(&daemon);
    raw.attach("a");
    eventually("the tenant that does not read is dropped", || {
        let sent = packet::send(raw.0.as_fd(), &create(GPU1), &[]);
        sent.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    });
    // Each of these asks until its socket and the daemon's input are full.
    let deaf: Vec<UnixStream> = (0..32)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.control()).unwrap();
            stream.set_nonblocking(true).unwrap();
            while stream.write_all(b"{\"request\":\"status\"}\n").is_ok() {}
            stream
        })
        .collect();
    is_undisturbed(&daemon, &beside);
    let during = daemon.footprint();
    // A line of input, a reply of a few kB, and what the allocator rounds up.
    let most = 128 * deaf.len() as u64;
    assert!(
        during.memory_kb <= before.memory_kb + most + 1024,
        "{before:?}, {during:?}"
    );
    drop(deaf);
    eventually("the connections are gone", || {
        let after = daemon.footprint();
        after.sockets <= before.sockets && after.descriptors <= before.descriptors
    });
}

#[test]
fn those_who_never_attach_keep_nobody_out() {
    let daemon = Daemon::start(&format!("[limits]\ntenants = 2\n{PARTITIONS}"));
    let before = daemon.footprint();
    let strangers: Vec<Raw> = (0..200).map(|_| Raw::connect(&daemon)).collect();
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let others: Vec<Raw> = (0..200).map(|_| Raw::connect(&daemon)).collect();
    eventually("the first strangers are gone", || {
        strangers[..100].iter().all(Raw::is_closed)
    });
    // 64 strangers and a tenant, two descriptors each; a channel, four; the status in between.
    eventually("few strangers are left", || {
        daemon.footprint().descriptors <= before.descriptors + 2 * 65 + 4 + 2
    });
    assert_eq!(granted(&channel).len(), 4);
    assert_eq!(daemon.status().tenants.len(), 1);
    drop((strangers, others));
}

#[test]
fn a_second_daemon_on_a_state_directory_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start(PARTITIONS);
    let mut tenant = daemon.tenant("a");
    let channel = tenant.create_channel(GPU0, 1).unwrap();
    let config = daemon.dir().join("other.toml");
    let (run, state) = (daemon.dir().join("other"), daemon.dir().join("state"));
    let text = format!("runtime_directory = {run:?}\nstate_directory = {state:?}\n{PARTITIONS}");
    fs::write(&config, text).unwrap();
    let said = lithosd(&config).output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success());
    assert!(
        text.contains("runs already") && text.contains("another state_directory"),
        "{text}"
    );
    assert!(text.contains(&daemon.pid().to_string()), "{text}");
    assert!(!run.join("broker.sock").exists());
    is_undisturbed(&daemon, &channel);
}

#[test]
fn a_configuration_with_an_unknown_key_starts_nothing() {
    let dir = directory(&[GPU0]);
    for (text, expected) in [
        ("colour = 1\n", "colour"),
        ("[limits]\ntenant = 1\n", "tenant"),
        (
            "[[partition]]\nname = \"a\"\nclass = \"lc\"\nguarante = 4\n",
            "guarante",
        ),
        (
            "[[partition]]\nname = \"a b\"\nclass = \"lc\"\n",
            "letters, digits",
        ),
    ] {
        let said = lithosd(&configure(dir.path(), text)).output().unwrap();
        let error = String::from_utf8(said.stderr).unwrap();
        assert!(
            !said.status.success() && error.contains(expected),
            "{text}: {error}"
        );
    }
    assert!(!dir.path().join("run").exists());
}

#[test]
fn odd_names_are_refused_and_appear_nowhere() {
    let daemon = Daemon::start(PARTITIONS);
    let long = "x".repeat(64);
    let names = [
        "",
        ".",
        "-a",
        "a b",
        "a/b",
        "../a",
        "a\nb",
        "a\u{1b}[2J",
        "caf\u{e9}",
        "a\0b",
        &long,
    ];
    daemon.keeps_nothing_of(|daemon| {
        for name in names {
            let partition = PartitionEntry::new(name, ClassWord::Lc, 1);
            let Reply::Error(failure) = daemon.ask(&Request::PartitionCreate { partition }) else {
                panic!("{name:?} was created");
            };
            assert_eq!(failure.kind, FailureKind::Invalid, "{name:?}: {failure}");
            assert!(!failure.message.contains(char::is_control), "{failure}");
            for request in [
                Request::Join {
                    partition: name.into(),
                    enforce: false,
                },
                Request::PartitionDelete { name: name.into() },
                Request::PartitionSet {
                    name: name.into(),
                    change: Default::default(),
                },
            ] {
                let Reply::Error(failure) = daemon.ask(&request) else {
                    panic!("{name:?} was found");
                };
                assert_eq!(failure.kind, FailureKind::NotFound, "{name:?}: {failure}");
                assert!(!failure.message.contains(char::is_control), "{failure}");
            }
        }
        for name in ["", "a b", "a\nb", "a\u{1b}[2J", "caf\u{e9}"] {
            let (_, errno, text) = Raw::connect(daemon).refused(&attach(name));
            assert_eq!(errno, libc::ENOENT, "{name:?}: {text}");
            assert!(!text.contains(char::is_control), "{text}");
        }
    });
    assert_eq!(daemon.status().partitions.len(), 3);
    assert!(!daemon.dir().join("state/partitions.toml").exists());
}

#[test]
fn a_process_whose_name_moves_the_cursor_does_not_move_that_of_the_status() {
    let daemon = Daemon::start(PARTITIONS);
    let _tenant = daemon.tenant("a");
    let was = fs::read("/proc/self/comm").unwrap();
    fs::write("/proc/self/comm", "\u{1b}[2J\nx").unwrap();
    let seen = daemon.status().tenants[0].command.clone();
    fs::write("/proc/self/comm", was).unwrap();
    assert_eq!(seen, "?[2J?x");
}

#[test]
fn a_partition_that_does_not_fit_leaves_nothing_behind() {
    let daemon = Daemon::start(PARTITIONS);
    let mut neighbour = daemon.tenant("a");
    let channel = neighbour.create_channel(GPU0, 1).unwrap();
    for guarantee in [6, 13, 128, u32::MAX] {
        let partition = PartitionEntry::new("huge", ClassWord::Lc, guarantee);
        let reply = daemon.ask(&Request::PartitionCreate { partition });
        assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
        assert!(matches!(
            daemon.set_guarantee("pool", guarantee),
            Reply::Error(_)
        ));
    }
    assert_eq!(daemon.status().partitions.len(), 3);
    assert_eq!(daemon.partition("pool").unwrap().spec.guarantee, 0);
    assert!(!daemon.dir().join("state/partitions.toml").exists());
    is_undisturbed(&daemon, &channel);
}
