// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A tenant's connection to the broker without a client: any bytes, in any order.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use lithos_abi::bindings::*;
use lithos_abi::message::{PACKET_BYTES_MAX, encode, set_text, text};
use lithos_device::packet;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::harness::*;

/// A connection that says what it likes.
pub(crate) struct Raw(pub(crate) OwnedFd);

impl Raw {
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(&daemon.socket()).unwrap()).unwrap();
        Self(fd)
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        packet::send(self.0.as_fd(), bytes, &[]).unwrap();
    }

    /// Receives a packet; empty when the daemon has closed the connection.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        packet::wait(self.0.as_fd(), PollFlags::POLLIN, deadline).unwrap();
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let size = packet::receive(self.0.as_fd(), &mut buffer).unwrap_or(0);
        buffer.truncate(size);
        buffer
    }

    /// Sends bytes, and returns type, errno and text of the reply.
    pub(crate) fn refused(&self, bytes: &[u8]) -> (u32, i32, String) {
        self.send(bytes);
        let reply = self.receive();
        let half = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
        let field: Vec<i8> = reply[16..16 + LITHOS_TEXT_BYTES as usize]
            .iter()
            .map(|byte| byte.cast_signed())
            .collect();
        (half(0), half(8).cast_signed(), text(&field).unwrap())
    }

    /// Whether the daemon has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(
            packet::receive(self.0.as_fd(), &mut [0; PACKET_BYTES_MAX]),
            Ok(0)
        )
    }

    pub(crate) fn attach(&self, partition: &str) -> Vec<u8> {
        self.send(&attach(partition));
        self.receive()
    }
}

pub(crate) fn attach(partition: &str) -> Vec<u8> {
    encode(&lithos_attach {
        version: LITHOS_ABI_VERSION,
        reserved: 0,
        partition: set_text(partition),
        edits: 0,
        driver: [0; 32],
    })
}

pub(crate) fn create(gpu: [u8; 16]) -> Vec<u8> {
    encode(&lithos_channel_create {
        gpu,
        context: 1,
        reserved: [0; 2],
    })
}
