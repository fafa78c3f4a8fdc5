// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The messages between a client and the server.
//!
//! A message is its length (four bytes, little-endian) and that many bytes of postcard. Requests that
//! say so are answered by exactly one [`Reply`], in order; the others are one-way, and what becomes
//! of them appears on the status page. A file descriptor travels with the first byte of the message
//! that speaks of it.
//!
//! Everything is bounded, and a message that makes no sense ends its connection and nothing else.
//! Identifiers (contexts, streams, events) are chosen by the client and are indices of its status
//! page, so that nothing must be asked before it can be used.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ptx::Kernel;

/// What both sides must agree on.
pub const VERSION: u32 = 2;
/// The environment variable that names the server's socket.
pub const SOCKET_VARIABLE: &str = "SIMGPU_SOCKET";
/// The largest message: a module's text has to fit.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The most bytes that one [`Op::Write`] carries.
pub const WRITE_BYTES_MAX: usize = 1 << 20;
/// The size of a launch descriptor.
pub const DESCRIPTOR_BYTES: usize = 384;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Must be first. Answered by [`Reply::Gpus`].
    Hello {
        /// [`VERSION`].
        version: u32,
        /// 0, or 1 for a client whose work comes after that of others (CUDA_MPS_CLIENT_PRIORITY).
        priority: u8,
        /// Whether a status page (a file descriptor) comes along: needed for everything but
        /// [`Request::Report`].
        page: bool,
    },
    /// What the GPUs are doing. Answered by [`Reply::Report`].
    Report,
    /// Asks whether the server can reach the client's own memory, on which copies rely: it tries to
    /// read the byte at this address. Answered by [`Reply::Done`] or [`Refusal::OutOfReach`].
    Probe {
        /// An address that can be read.
        address: u64,
    },
    /// Makes a context. Answered by [`Reply::Done`].
    OpenContext {
        /// Its number.
        context: u32,
        /// The GPU's index.
        gpu: u32,
    },
    /// Ends a context: its work is dropped, its streams, modules and memory are gone. Answered by
    /// [`Reply::Done`].
    CloseContext {
        /// Its number.
        context: u32,
    },
    /// Makes a stream. One-way.
    OpenStream {
        /// Its number.
        stream: u32,
        /// The context that it belongs to.
        context: u32,
        /// Priority, lower is more urgent.
        priority: i32,
        /// How it stands to the other streams of its context.
        kind: StreamKind,
        /// From which number on its operations are counted: the number of an earlier stream goes on.
        completed: u64,
    },
    /// Forgets a stream once its work is complete. One-way.
    CloseStream {
        /// Its number.
        stream: u32,
    },
    /// Appends an operation to a stream. One-way.
    Submit {
        /// The stream's number.
        stream: u32,
        /// What is to be done.
        op: Op,
    },
    /// The function of an [`Op::HostFunction`] has returned. One-way.
    HostFunctionDone {
        /// The stream that waited for it.
        stream: u32,
    },
    /// Device memory. Answered by [`Reply::Address`].
    Allocate {
        /// The context that it belongs to.
        context: u32,
        /// Its size.
        bytes: u64,
    },
    /// Gives device memory back. Answered by [`Reply::Done`].
    Free {
        /// The context that it belongs to.
        context: u32,
        /// Where it begins.
        address: u64,
    },
    /// Makes memory that came along as a file descriptor visible to every GPU of this client, at the
    /// address that it has in the client. Answered by [`Reply::Done`].
    MapShared {
        /// Its address.
        address: u64,
        /// Its size.
        bytes: u64,
        /// Where in the file it begins.
        offset: u64,
    },
    /// Makes the client's own memory visible to every GPU of this client at its own address; it is
    /// reached through the kernel. Answered by [`Reply::Done`].
    MapRemote {
        /// Its address.
        address: u64,
        /// Its size.
        bytes: u64,
    },
    /// Undoes [`Request::MapShared`] or [`Request::MapRemote`]. Answered by [`Reply::Done`].
    Unmap {
        /// The address given then.
        address: u64,
    },
    /// Loads a module. Answered by [`Reply::Module`] or [`Reply::ModuleRefused`].
    LoadModule {
        /// The context that it belongs to.
        context: u32,
        /// Its number, chosen by the client, unique in the connection.
        module: u64,
        /// Its PTX.
        text: String,
    },
    /// Forgets a module. Answered by [`Reply::Done`].
    UnloadModule {
        /// Its number.
        module: u64,
    },
}

/// How a stream stands to the legacy default stream of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamKind {
    /// The legacy default stream itself: joins all blocking streams.
    Legacy,
    /// Waits for the legacy stream, and the legacy stream for it.
    Blocking,
    /// Has nothing to do with the legacy stream.
    NonBlocking,
}

/// An operation in a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// The driver's own launch: runs these bytes with RESUME reset to 0. Complete when the latch
    /// arrives, whichever descriptor carries the arrival.
    Launch {
        /// The launch descriptor.
        descriptor: Vec<u8>,
        /// The latch that the driver chose for this launch.
        latch: u32,
        /// A priority of its own instead of its stream's.
        priority: Option<i32>,
    },
    /// Copies memory.
    Copy {
        /// To.
        to: Place,
        /// From.
        from: Place,
        /// How much.
        bytes: u64,
    },
    /// Writes bytes that came along, at most [`WRITE_BYTES_MAX`].
    Write {
        /// To.
        address: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Fills memory with a value.
    Fill {
        /// From here on.
        address: u64,
        /// The value, in the low `width` bytes.
        value: u32,
        /// 1, 2 or 4 bytes.
        width: u8,
        /// How often.
        count: u64,
    },
    /// Gives memory back in stream order.
    Free {
        /// Where it begins.
        address: u64,
    },
    /// Records an event.
    Record {
        /// The event's number.
        event: u32,
        /// Which record of this event this is, from 1.
        record: u64,
    },
    /// Waits until a record of an event is complete.
    WaitEvent {
        /// The event's number.
        event: u32,
        /// Which record.
        record: u64,
    },
    /// Waits until the client has called a function of its own.
    HostFunction,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// An address as the GPU sees it.
    Gpu(u64),
    /// An address of the client, mapped for the GPU or not.
    Client(u64),
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The GPUs, in order.
    Gpus(Vec<GpuInfo>),
    /// What the GPUs are doing.
    Report(Vec<GpuReport>),
    /// Done.
    Done,
    /// Where the memory begins.
    Address(u64),
    /// What a module contains.
    Module(ModuleInfo),
    /// The module was not loaded.
    ModuleRefused {
        /// Whether the text may be right but asks for what is not simulated.
        unsupported: bool,
        /// What was wrong.
        message: String,
    },
    /// The request was understood and refused.
    Refused(Refusal),
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The other side speaks another version.
    Version,
    /// No such GPU, context, module or mapping.
    Unknown,
    /// Not enough memory, or too many of something.
    Exhausted,
    /// The range is mapped already, in part or whole.
    Overlap,
    /// The context has failed: see the status page.
    Failed,
    /// The server cannot reach the client's memory.
    OutOfReach,
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// Its product name.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// PCI domain, bus and device.
    pub pci: (u32, u32, u32),
    /// The number of TPCs.
    pub tpcs: u32,
    /// The number of GPCs, TPCs that stand alone counted as one each.
    pub gpcs: u32,
    /// The clock of its SMs.
    pub clock_khz: u64,
    /// Device memory.
    pub memory_bytes: u64,
}

/// What a GPU is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuReport {
    /// What it is.
    pub info: GpuInfo,
    /// Device memory in use.
    pub memory_used_bytes: u64,
    /// Blocks on its SMs now.
    pub resident_blocks: u64,
    /// Launch descriptors that have completed; NULL descriptors, which run nothing, are not counted.
    pub kernels_run: u64,
    /// Launch descriptors that have begun, or been scheduled by others, and not completed.
    pub kernels_pending: u64,
    /// The share of the last second in which at least one block was resident, in percent.
    pub utilization_percent: u32,
    /// The furthest that modelled time has lagged behind the clock.
    pub behind_ns: u64,
    /// Whether that was more than is tolerated.
    pub fell_behind: bool,
    /// Processes with a context on it.
    pub processes: Vec<ProcessReport>,
}

/// A process with a context on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Its process id as the server sees it.
    pub pid: u32,
    /// Device memory that it uses there.
    pub memory_used_bytes: u64,
}

/// What a module contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Its kernels in the order of the text.
    pub kernels: Vec<KernelInfo>,
    /// Its variables: name, address, size.
    pub variables: Vec<(String, u64, u64)>,
}

/// What a kernel needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// Where its code begins on the GPU.
    pub address: u64,
    /// Offset and size of each parameter.
    pub parameters: Vec<(u32, u32)>,
    /// Size of the parameter area.
    pub parameter_bytes: u32,
    /// Shared memory that every block has.
    pub static_shared_bytes: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Threads that a block can have.
    pub max_threads: u32,
    /// The block's shape if the kernel insists on one.
    pub required_block: Option<[u32; 3]>,
    /// The cluster's shape if the kernel insists on one.
    pub required_cluster: Option<[u32; 3]>,
    /// Whether the launch must name a cluster shape.
    pub explicit_cluster: bool,
}

impl KernelInfo {
    /// What is told about a kernel whose code begins at `address`.
    pub fn new(kernel: &Kernel, address: u64) -> Self {
        Self {
            name: kernel.name.clone(),
            address,
            parameters: kernel
                .parameters
                .iter()
                .map(|parameter| (parameter.offset, parameter.bytes))
                .collect(),
            parameter_bytes: kernel.parameter_bytes,
            static_shared_bytes: kernel.static_shared_bytes,
            local_bytes: kernel.local_bytes,
            registers: kernel.registers,
            max_threads: kernel.max_threads,
            required_block: kernel.required_block,
            required_cluster: kernel.required_cluster,
            explicit_cluster: kernel.explicit_cluster,
        }
    }
}

/// Sends one message, with a file descriptor if it speaks of one.
pub fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    // PANIC: postcard fails only for a type that cannot say its length; none of ours is one.
    let body = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let mut frame = body;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|&n| n as usize <= MESSAGE_BYTES_MAX)
        .ok_or_else(|| io::Error::other("the message is too long"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let mut sent = 0;
    while sent < frame.len() {
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage<'_>] = if sent == 0 && !fds.is_empty() {
            &rights
        } else {
            &[]
        };
        let slices = [IoSlice::new(&frame[sent..])];
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &slices,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(bytes) => sent += bytes,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The receiving end of a socket: takes messages and file descriptors apart.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

/// File descriptors that may wait for the message that speaks of them.
const FDS_WAITING_MAX: usize = 16;

impl Receiver {
    /// Waits for the next message; `None` when the other side has closed the connection.
    pub fn receive<T: DeserializeOwned>(&mut self, socket: &UnixStream) -> io::Result<Option<T>> {
        loop {
            if let Some(header) = self.bytes.first_chunk::<4>() {
                let length = u32::from_le_bytes(*header) as usize;
                if length > MESSAGE_BYTES_MAX {
                    return Err(io::Error::other("the message is too long"));
                }
                if let Some(body) = self.bytes.get(4..4 + length) {
                    let (message, rest) =
                        postcard::take_from_bytes(body).map_err(io::Error::other)?;
                    if !rest.is_empty() {
                        return Err(io::Error::other("the message goes on after its end"));
                    }
                    self.bytes.drain(..4 + length);
                    return Ok(Some(message));
                }
            }
            if !self.fill(socket)? {
                return Ok(None);
            }
        }
    }

    /// The oldest file descriptor that has come and was not taken.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    fn fill(&mut self, socket: &UnixStream) -> io::Result<bool> {
        let mut chunk = [0_u8; 65_536];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut slices = [IoSliceMut::new(&mut chunk)];
        let received = loop {
            match recvmsg::<()>(
                socket.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other?,
            }
        };
        let count = received.bytes;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                self.fds.extend(
                    fds.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        if self.fds.len() > FDS_WAITING_MAX {
            return Err(io::Error::other("too many file descriptors"));
        }
        self.bytes.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_message_arrives_with_its_file_descriptor() {
        let (here, there) = UnixStream::pair().expect("sockets");
        let request = Request::MapRemote {
            address: 4096,
            bytes: 1 << 40,
        };
        send(&here, &Request::Report, None).expect("sent");
        send(&here, &request, Some(std::os::fd::AsFd::as_fd(&there))).expect("sent");
        drop(here);
        let mut receiver = Receiver::default();
        assert_eq!(
            receiver.receive(&there).expect("received"),
            Some(Request::Report)
        );
        assert_eq!(receiver.receive(&there).expect("received"), Some(request));
        assert!(receiver.take_fd().is_some());
        assert!(receiver.take_fd().is_none());
        assert_eq!(receiver.receive::<Request>(&there).expect("closed"), None);
    }

    #[test]
    fn a_message_that_claims_too_much_is_refused() {
        let (mut here, there) = UnixStream::pair().expect("sockets");
        here.write_all(&u32::MAX.to_le_bytes()).expect("sent");
        assert!(Receiver::default().receive::<Request>(&there).is_err());
        let (mut here, there) = UnixStream::pair().expect("sockets");
        here.write_all(&[2, 0, 0, 0, 0xff, 0xff]).expect("sent");
        assert!(Receiver::default().receive::<Request>(&there).is_err());
    }
}
