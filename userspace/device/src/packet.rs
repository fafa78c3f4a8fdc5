// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Packets on a `SOCK_SEQPACKET` Unix socket, with descriptors where a reply has some.
//!
//! Nothing here waits, except [`wait`], which has a deadline. Both sides use this.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg, sendmsg,
};

/// Descriptors that come with one packet at most; more is an error.
pub const DESCRIPTORS_MAX: usize = 8;

/// Sends one packet, or fails with [`io::ErrorKind::WouldBlock`] where there is no room for it.
pub fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let iov = [IoSlice::new(packet)];
    // A packet is sent whole or not at all.
    retry(|| sendmsg::<UnixAddr>(socket.as_raw_fd(), &iov, control, flags, None)).map(drop)
}

/// Receives one packet into `buffer` and returns its size; 0 when the peer has gone.
///
/// Descriptors that a peer sends along are dropped by the kernel before they become ours. Make the
/// buffer larger than any good packet: what does not fit is an error.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // With MSG_TRUNC the kernel returns the packet's whole size.
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let size = retry(|| recv(socket.as_raw_fd(), buffer, flags))?;
    if size > buffer.len() {
        return Err(too_long());
    }
    Ok(size)
}

/// Returns the first four bytes of the packet that would be received next, as a number: the type of its
/// message. A shorter packet has 0.
pub fn peek(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut head = [0; 4];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    let size = retry(|| recv(socket.as_raw_fd(), &mut head, flags))?;
    Ok(if size == head.len() {
        u32::from_le_bytes(head)
    } else {
        0
    })
}

/// Receives one packet as [`receive`] does, and the descriptors that come with it.
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let (size, truncated, descriptors) = loop {
        let mut iov = [IoSliceMut::new(buffer)];
        let received =
            match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else has
                // heard of them.
                descriptors.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        let truncated = received.flags.contains(MsgFlags::MSG_TRUNC);
        break (received.bytes, truncated, descriptors);
    };
    if truncated {
        return Err(too_long());
    }
    Ok((size, descriptors))
}

/// Waits until the socket can be read (or written), or until the deadline: then the error is
/// [`io::ErrorKind::TimedOut`].
pub fn wait(socket: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(socket, events)];
        match poll(&mut fds, timeout) {
            Ok(0) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a packet is longer than any message",
    )
}
