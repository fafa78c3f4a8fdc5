// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel's broker, seen from a tenant: `/dev/lithos` of lithos.ko.
//!
//! The open file is the tenant, for this process only. Daemons come and go behind it without anything
//! to do here: a channel's pages are the kernel's and stay what they are, so a daemon that starts
//! goes on in them. Every wait ends at a deadline.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lithos_abi::bindings::*;
use nix::errno::Errno;

use crate::broker::{attach_request, granted};
use crate::ioctl::{self, call};
use crate::{Attached, Broker, BrokerError, Channel, Identity};

pub use crate::ioctl::DEFAULT_DEVICE;

/// How long a scheduler may take to answer a tenant.
const SOON: Duration = Duration::from_secs(10);
/// How long a first grant may take; see `embedded.rs`.
const FIRST_GRANT: Duration = Duration::from_secs(60);
/// How long nobody may schedule, as while a daemon restarts, before a wait is given up.
const UNSCHEDULED: Duration = Duration::from_secs(3);

/// An open `/dev/lithos`.
#[derive(Debug)]
pub struct KernelBroker {
    device: File,
    path: PathBuf,
    identity: Identity,
}

impl KernelBroker {
    /// Opens the device.
    pub fn open(path: &Path) -> Result<Self, BrokerError> {
        let device = ioctl::open(path).map_err(|source| BrokerError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            device,
            path: path.to_owned(),
            identity: Identity::default(),
        })
    }

    /// Says what this process is made of when it attaches.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Returns the descriptor of the device, for a forked child to close.
    pub fn descriptor(&self) -> RawFd {
        self.device.as_raw_fd()
    }

    /// Returns whether anybody schedules.
    pub fn is_scheduled(&self) -> bool {
        ioctl::info(&self.device).is_ok_and(|info| info.schedulers > 0)
    }

    /// Waits for what the scheduler says about the tenant or a channel, and returns its flags.
    fn wait(&self, command: lithos_command, id: u64, limit: Duration) -> Result<u32, BrokerError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut answer = lithos_answer {
                id,
                timeout_ns: u64::try_from(left.min(UNSCHEDULED).as_nanos())
                    .unwrap_or(LITHOS_TIMEOUT_NS_MAX),
                ..lithos_answer::default()
            };
            match call(&self.device, command, &mut answer) {
                Ok(()) => {
                    granted(&answer.reply)?;
                    return Ok(answer.flags);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ETIMEDOUT) if left.is_zero() => {
                    return Err(BrokerError::Deadline(limit));
                }
                Err(Errno::ETIMEDOUT) if self.is_scheduled() => {}
                Err(Errno::ETIMEDOUT) => return Err(self.unscheduled(Errno::ETIMEDOUT)),
                Err(errno) => return Err(refused(errno)),
            }
        }
    }

    fn open_channel(
        &self,
        request: lithos_channel_create,
    ) -> Result<lithos_channel_open, BrokerError> {
        let attempt = || {
            let mut open = lithos_channel_open {
                request,
                ..lithos_channel_open::default()
            };
            call(&self.device, LITHOS_CHANNEL_OPEN, &mut open).map(|()| open)
        };
        attempt()
            .or_else(|errno| match errno {
                // Somebody may have begun to schedule just now.
                Errno::ENODEV if self.is_scheduled() => attempt(),
                errno => Err(errno),
            })
            .map_err(|errno| match errno {
                Errno::ENODEV if !self.is_scheduled() => self.unscheduled(errno),
                errno => refused(errno),
            })
    }

    fn unscheduled(&self, errno: Errno) -> BrokerError {
        BrokerError::Connect {
            path: self.path.clone(),
            source: errno.into(),
        }
    }
}

impl Broker for KernelBroker {
    fn attach(&mut self, partition: &str) -> Result<Attached, BrokerError> {
        let mut attach = lithos_tenant_attach {
            request: attach_request(partition, self.identity)?,
            tenant: 0,
        };
        let deadline = Instant::now() + SOON;
        let attached = loop {
            match call(&self.device, LITHOS_TENANT_ATTACH, &mut attach) {
                // Nothing has happened; it is a long call in a process with many mappings.
                Err(Errno::EINTR) if Instant::now() < deadline => {}
                attached => break attached,
            }
        };
        match attached {
            Ok(()) => {}
            // Nobody schedules; or it is no lithos.
            Err(errno @ (Errno::ENXIO | Errno::ENOTTY)) => return Err(self.unscheduled(errno)),
            Err(errno @ Errno::EPROTONOSUPPORT) => {
                let info = ioctl::info(&self.device).map_err(|_| refused(errno))?;
                return Err(BrokerError::Version(info.version));
            }
            Err(errno) => return Err(refused(errno)),
        }
        let flags = self.wait(LITHOS_TENANT_WAIT, attach.tenant, SOON)?;
        Ok(Attached {
            tenant: attach.tenant,
            enforce: flags & LITHOS_ATTACHED_ENFORCE != 0,
            least: flags & LITHOS_ATTACHED_LEAST != 0,
            sms: flags >> LITHOS_ATTACHED_SMS_SHIFT,
        })
    }

    fn create_channel(&mut self, gpu: [u8; 16], context: u64) -> Result<Channel, BrokerError> {
        let open = self.open_channel(lithos_channel_create {
            gpu,
            context,
            reserved: [0; 2],
        })?;
        let id = open.channel;
        let made = self
            .wait(LITHOS_CHANNEL_WAIT, id, FIRST_GRANT)
            .and_then(|_| {
                let reply = lithos_channel {
                    channel: id,
                    ring_bytes: open.ring_bytes,
                    arena_bytes: open.arena_bytes,
                    ..lithos_channel::default()
                };
                let places = ioctl::places(&self.device, id, open.ring_bytes, open.arena_bytes);
                Ok(Channel::map_places(&reply, places)?)
            });
        if made.is_err() {
            // It may have ended already.
            let _ = self.destroy_channel(id);
        }
        made
    }

    fn destroy_channel(&mut self, id: u64) -> Result<(), BrokerError> {
        call(&self.device, LITHOS_CHANNEL_CLOSE, &mut lithos_id { id }).map_err(refused)
    }
}

/// What the module refuses by itself.
fn refused(errno: Errno) -> BrokerError {
    let text = match errno {
        Errno::EUSERS => {
            "lithos.ko has no room for more; see its parameters tenants_max, channels_max, and \
             those of one user"
        }
        Errno::EDQUOT => {
            "lithos.ko pins no more memory; see its parameters pinned_mib_max and \
             user_pinned_mib_max"
        }
        Errno::ENODEV => "nobody schedules this GPU (a MIG instance is none)",
        Errno::EPERM => "this process is not the tenant that the device was opened by",
        Errno::EINTR => "signals came again and again",
        Errno::ENOENT => "it has ended, or is none of this process",
        _ => "lithos.ko refuses",
    };
    BrokerError::Refused {
        errno: errno as i32,
        text: text.to_owned(),
    }
}
