// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A program that uses the GPU: a process with a client of the NVIDIA driver, which does what a test tells
//! it.

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::nvidia::{Client, Outcome, low};
use crate::process::Line;
use crate::{Device, Process};

const END: u64 = 0;
const ATTACH: u64 = 1;
const DETACH: u64 = 2;
const MAKE: u64 = 3;
const MAKE_CHANNEL_IN: u64 = 4;
const FREE: u64 = 5;

/// Above 32 bits of a handle, a status or an errno.
const REFUSED: u64 = 1;
const FAILED: u64 = 2;

/// Such a process. It ends when it is told to, or dropped.
#[derive(Debug)]
pub struct Program {
    process: Process,
    /// The handle of its client.
    pub root: u32,
    /// The handle of its device.
    pub device: u32,
    /// The handle of its subdevice.
    pub subdevice: u32,
}

impl Program {
    /// Starts one, as a user.
    pub fn start(uid: u32) -> Self {
        Self::start_with(uid, || ())
    }

    /// Starts one that first does something else.
    pub fn start_with(uid: u32, first: impl FnOnce()) -> Self {
        let mut process = Process::start(uid, |line| {
            first();
            obey(line);
        });
        let mut hear = || low(process.line().hear());
        let (root, device, subdevice) = (hear(), hear(), hear());
        Self {
            process,
            root,
            device,
            subdevice,
        }
    }

    /// Returns its pid.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    fn tell(&mut self, what: u64, argument: u32) -> u64 {
        self.process.line().say(what);
        self.process.line().say(argument.into());
        self.process.line().hear()
    }

    fn ask(&mut self, what: u64, argument: u32) -> Outcome {
        let said = self.tell(what, argument);
        let value = low(said);
        match said >> 32 {
            0 => Ok(Ok(value)),
            REFUSED => Ok(Err(value)),
            _ => Err(Errno::from_raw(value.cast_signed())),
        }
    }

    /// Makes it a tenant and returns its id.
    pub fn attach(&mut self) -> u64 {
        self.tell(ATTACH, 0)
    }

    /// Makes it a tenant no longer.
    pub fn detach(&mut self) {
        self.tell(DETACH, 0);
    }

    /// Has it make an object of a class, below what it belongs to.
    pub fn make(&mut self, class: u32) -> Outcome {
        self.ask(MAKE, class)
    }

    /// Has it make a channel in a group.
    pub fn make_channel_in(&mut self, group: u32) -> Outcome {
        self.ask(MAKE_CHANNEL_IN, group)
    }

    /// Has it free an object.
    pub fn free(&mut self, handle: u32) -> Outcome {
        self.ask(FREE, handle)
    }

    /// Lets it end by itself.
    pub fn end(mut self) {
        self.tell(END, 0);
        self.process.end();
    }

    /// Kills it, and returns the pid that it had.
    pub fn kill(self) -> Pid {
        let pid = self.process.pid();
        self.process.kill();
        pid
    }
}

fn obey(line: &mut Line) {
    let client = Client::new();
    for handle in [client.root, client.device, client.subdevice] {
        line.say(handle.into());
    }
    let mut tenant = None;
    loop {
        let (what, argument) = (line.hear(), low(line.hear()));
        let said = match what {
            ATTACH => {
                let device = tenant.insert(Device::open());
                device.attach().expect("a tenant")
            }
            DETACH => {
                tenant = None;
                0
            }
            MAKE => number(client.make(argument)),
            MAKE_CHANNEL_IN => number(client.channel_in(argument)),
            FREE => number(client.free(argument)),
            _ => 0,
        };
        line.say(said);
        if what == END {
            return;
        }
    }
}

fn number(outcome: Outcome) -> u64 {
    match outcome {
        Ok(Ok(handle)) => handle.into(),
        Ok(Err(status)) => REFUSED << 32 | u64::from(status),
        Err(error) => FAILED << 32 | u64::from((error as i32).cast_unsigned()),
    }
}
