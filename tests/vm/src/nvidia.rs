// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The stand-in for NVIDIA's driver, `tests/vm/nvidia`: programs' calls of it, and what it tells tests.
//!
//! [`Nvidia`] is an open `/dev/nvidiactl`; [`Client`] has what a program has that is about to make GPU
//! channels: a client, a device, a subdevice.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::Module;

/// Classes, of a Hopper.
pub const CHANNEL: u32 = 0xc86f;
/// A group of channels.
pub const GROUP: u32 = 0xa06c;
/// The registers that tell the GPU of work.
pub const DOORBELL: u32 = 0xc661;
/// Some memory.
pub const MEMORY: u32 = 0x3e;
const ROOT: u32 = 0x41;
const DEVICE: u32 = 0x80;
/// A GPU, as the driver has it; anybody may make one.
pub const SUBDEVICE: u32 = 0x2080;

/// "The requester does not have sufficient permissions".
pub const NOT_PERMITTED: u32 = 0x1b;
/// "Ran out of a critical resource, other than memory".
pub const NO_RESOURCES: u32 = 0x1a;
/// An argument of the call is wrong.
pub const INVALID_ARGUMENT: u32 = 0x1f;

/// Which way a command's structure goes, as in the kernel's `_IOC`.
const WRITE: u32 = 1;
const READ: u32 = 2;

/// What there is of the driver for lithos.ko to look at: see `tests/vm/nvidia/Kbuild`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As in NVIDIA's.
    Plain,
    /// ftrace knows its `rm_ioctl`.
    Traced,
    /// There is no `rm_ioctl`.
    Blind,
    /// There is nothing.
    Dark,
}

impl Variant {
    /// Inserts it, with parameters as on insmod's command line.
    pub fn insert_with(self, parameters: &str) -> nix::Result<Module> {
        let folder = match self {
            Self::Plain => "plain",
            Self::Traced => "traced",
            Self::Blind => "blind",
            Self::Dark => "dark",
        };
        Module::insert(format!("/modules/nvidia/{folder}/nvidia.ko"), parameters)
    }

    /// Inserts it.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn insert(self) -> Module {
        self.insert_with("").expect("the driver can be inserted")
    }
}

/// Which of the driver's layouts an allocation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 32 bytes.
    Short,
    /// 48 bytes.
    Access,
    /// 20 bytes, by a command of its own.
    Object,
    /// 56 bytes, which no driver has yet.
    Future,
}

/// An open `/dev/nvidiactl`.
#[derive(Debug)]
pub struct Nvidia(File);

/// What became of a call: the driver's status, unless the call itself failed.
pub type Outcome = nix::Result<Result<u32, u32>>;

impl Nvidia {
    /// Opens it.
    ///
    /// # Panics
    ///
    /// If it cannot be opened.
    pub fn open() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/nvidiactl");
        Self(file.expect("/dev/nvidiactl"))
    }

    /// `way` and `kind` are of the command: whether it writes, and whose it is.
    fn call(&self, way: u32, kind: u8, number: u32, words: &mut [u32]) -> nix::Result<()> {
        let bytes = u32::try_from(size_of_val(words)).expect("a small structure");
        let command = way << 30 | bytes << 16 | u32::from(kind) << 8 | number;
        // SAFETY: the driver reads and writes as many bytes as the command says.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), command.into(), words.as_mut_ptr()) };
        Errno::result(result).map(drop)
    }

    fn rm(&self, number: u32, words: &mut [u32]) -> nix::Result<()> {
        self.call(READ | WRITE, b'F', number, words)
    }

    fn test(&self, way: u32, number: u32, words: &mut [u32]) -> nix::Result<()> {
        self.call(way, b'T', number, words)
    }

    /// Makes an object; with a handle of 0 the driver chooses one. Returns the handle.
    pub fn make(&self, layout: Layout, root: u32, parent: u32, handle: u32, class: u32) -> Outcome {
        self.make_with(layout, root, parent, handle, class, 0)
    }

    /// Asks for an object in a way that the driver does not like.
    pub fn make_wrongly(&self, root: u32, parent: u32, class: u32) -> Outcome {
        self.make_with(Layout::Short, root, parent, 0, class, u32::MAX)
    }

    fn make_with(
        &self,
        layout: Layout,
        root: u32,
        parent: u32,
        handle: u32,
        class: u32,
        parameters: u32,
    ) -> Outcome {
        let (number, words, status) = match layout {
            Layout::Short => (0x2b, 8, 7),
            Layout::Access => (0x2b, 12, 10),
            Layout::Object => (0x28, 5, 4),
            Layout::Future => (0x2b, 14, 10),
        };
        let mut structure = [0; 14];
        structure[..4].copy_from_slice(&[root, parent, handle, class]);
        if layout != Layout::Object {
            structure[4..6].fill(parameters);
        }
        self.rm(number, &mut structure[..words])?;
        Ok(outcome(structure[status], structure[2]))
    }

    /// The same, in the way of calls that are too long for a command's number.
    pub fn make_carried(&self, root: u32, parent: u32, class: u32) -> Outcome {
        let mut structure = [root, parent, 0, class, 0, 0, 0, 0];
        let at = std::ptr::from_mut(&mut structure).expose_provenance() as u64;
        self.rm(211, &mut [0x2b, 32, low(at), low(at >> 32)])?;
        // The driver has written to it, by an address in a number.
        let structure: [u32; 8] = std::hint::black_box(structure);
        Ok(outcome(structure[7], structure[2]))
    }

    /// Frees an object.
    pub fn free(&self, root: u32, handle: u32) -> Outcome {
        let mut structure = [root, 0, handle, 0];
        self.rm(0x29, &mut structure)?;
        Ok(outcome(structure[3], handle))
    }

    /// Returns how many channels, groups and doorbells there really are of a process's making.
    ///
    /// # Panics
    ///
    /// If the driver does not say.
    pub fn count(&self, pid: i32) -> [u32; 3] {
        let mut count = [pid.cast_unsigned(), 0, 0, 0];
        self.test(READ | WRITE, 0, &mut count).expect("a count");
        [count[1], count[2], count[3]]
    }

    /// Pins pages as the driver does. Returns the pin's id.
    pub fn pin(&self, address: usize, bytes: usize) -> nix::Result<u64> {
        let mut words = [0; 6];
        put(&mut words, 0, address as u64);
        put(&mut words, 1, bytes as u64);
        self.test(READ | WRITE, 1, &mut words)?;
        Ok(u64::from(words[4]) | u64::from(words[5]) << 32)
    }

    /// Lets pinned pages go.
    pub fn unpin(&self, id: u64) -> nix::Result<()> {
        let mut words = [0; 2];
        put(&mut words, 0, id);
        self.test(WRITE, 2, &mut words)
    }

    /// Returns a word of pinned pages.
    pub fn peek(&self, id: u64, offset: u64) -> nix::Result<u64> {
        let mut words = [0; 6];
        put(&mut words, 0, id);
        put(&mut words, 1, offset);
        self.test(READ | WRITE, 3, &mut words)?;
        Ok(u64::from(words[4]) | u64::from(words[5]) << 32)
    }

    /// Has the GPU walk a chain of an arena: it waits while the gate is shut, runs for a time and ends.
    pub fn walk(
        &self,
        arena: (usize, usize),
        gate: usize,
        tail: usize,
        run_ms: u64,
    ) -> nix::Result<()> {
        let mut words = [0; 10];
        let all = [
            arena.0 as u64,
            arena.1 as u64,
            gate as u64,
            tail as u64,
            run_ms,
        ];
        for (at, value) in all.into_iter().enumerate() {
            put(&mut words, at, value);
        }
        self.test(WRITE, 4, &mut words)
    }

    /// Returns what the driver has noted of files that were closed.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    pub fn notes() -> Vec<String> {
        let mut text = String::new();
        let read = Self::open().0.read_to_string(&mut text);
        read.expect("the driver's notes");
        text.lines().map(str::to_owned).collect()
    }
}

/// A client of the driver, with a device and a subdevice.
#[derive(Debug)]
pub struct Client {
    /// Its file.
    pub driver: Nvidia,
    /// Its handle.
    pub root: u32,
    /// Of its device.
    pub device: u32,
    /// Of the device's subdevice.
    pub subdevice: u32,
}

impl Client {
    /// Makes one, with a file of its own.
    ///
    /// # Panics
    ///
    /// If any of it is refused, which it never is.
    pub fn new() -> Self {
        Self::of(Nvidia::open())
    }

    /// Makes one on a file.
    ///
    /// # Panics
    ///
    /// If any of it is refused, which it never is.
    pub fn of(driver: Nvidia) -> Self {
        let made = |outcome: Outcome| outcome.expect("a call").expect("an object");
        let root = made(driver.make(Layout::Short, 0, 0, 0, ROOT));
        let device = made(driver.make(Layout::Short, root, root, 0, DEVICE));
        let subdevice = made(driver.make(Layout::Access, root, device, 0, SUBDEVICE));
        Self {
            driver,
            root,
            device,
            subdevice,
        }
    }

    /// Makes a channel, as libcuda asks for it.
    pub fn channel(&self) -> Outcome {
        self.make(CHANNEL)
    }

    /// Makes an object of a class, below what it belongs to.
    pub fn make(&self, class: u32) -> Outcome {
        let parent = if class == DOORBELL {
            self.subdevice
        } else {
            self.device
        };
        self.driver
            .make(Layout::Access, self.root, parent, 0, class)
    }

    /// Makes a channel in a group.
    pub fn channel_in(&self, group: u32) -> Outcome {
        self.driver
            .make(Layout::Access, self.root, group, 0, CHANNEL)
    }

    /// Frees an object.
    pub fn free(&self, handle: u32) -> Outcome {
        self.driver.free(self.root, handle)
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

fn outcome(status: u32, handle: u32) -> Result<u32, u32> {
    if status == 0 { Ok(handle) } else { Err(status) }
}

/// Returns the low half of a value.
pub(crate) fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).expect("32 bits")
}

fn put(words: &mut [u32], at: usize, value: u64) {
    words[2 * at] = low(value);
    words[2 * at + 1] = low(value >> 32);
}
