// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is said on a tenant's connection: packets in, packets out.
//!
//! It knows no socket and no clock, so that any conversation can be held with the real broker: by a
//! process over a socket, or by a fuzzer.

use std::os::fd::{BorrowedFd, OwnedFd};

use lithos_abi::bindings::*;
use lithos_abi::message::{self, MessageError, decode, encode};
use lithos_device::{Identity, pages};
use lithos_policy::{Nanos, TenantId};

use crate::broker::{Answer, Broker, Process, Refused};

/// A conversation with one process, which is one tenant at most.
#[derive(Debug)]
pub struct Session {
    process: Process,
    tenant: Option<TenantId>,
}

impl Session {
    /// The conversation with a process that has said nothing yet.
    pub fn new(process: Process) -> Self {
        Self {
            process,
            tenant: None,
        }
    }

    /// Returns the tenant that the process has become.
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// Takes in one packet and returns the reply, or none if it will come with a first grant.
    pub fn take(&mut self, packet: &[u8], broker: &mut Broker, now: Nanos) -> Option<Vec<u8>> {
        let head = packet
            .first_chunk()
            .map_or(0, |head| u32::from_le_bytes(*head));
        let outcome = match message::kind(packet) {
            Ok(LITHOS_MESSAGE_ATTACH) => self.attach(packet, broker, now).map(Some),
            Ok(LITHOS_MESSAGE_RESUME) => self.resume(packet, broker).map(Some),
            Ok(LITHOS_MESSAGE_CHANNEL_RESUMED) => {
                self.channel_resumed(packet, broker, now).map(Some)
            }
            Ok(LITHOS_MESSAGE_CHANNEL_CREATE) => {
                self.create_channel(packet, broker, now).map(|()| None)
            }
            Ok(LITHOS_MESSAGE_CHANNEL_DESTROY) => {
                self.destroy_channel(packet, broker, now).map(Some)
            }
            Ok(other) => Err(malformed(MessageError::Type(other))),
            Err(error) => Err(malformed(error)),
        };
        outcome.unwrap_or_else(|why| {
            broker.note_refusal(self.process.pid, &why);
            Some(refusal(head, &why))
        })
    }

    /// Takes in the packet that hands a channel over, with ring and arena or why they cannot be that, and
    /// returns the reply, with the new grant page.
    pub fn hand_over<'a>(
        &mut self,
        packet: &[u8],
        files: Result<[OwnedFd; 2], Refused>,
        broker: &'a mut Broker,
        now: Nanos,
    ) -> (Vec<u8>, Vec<BorrowedFd<'a>>) {
        let taken = files.and_then(|files| {
            let request: lithos_channel_resume = decode(packet).map_err(malformed)?;
            broker.resume_channel(self.attached()?, request.channel, files, now)
        });
        let channel = match taken {
            Ok(channel) => channel,
            Err(why) => {
                broker.note_refusal(self.process.pid, &why);
                return (refusal(LITHOS_MESSAGE_CHANNEL_RESUME, &why), Vec::new());
            }
        };
        // It was made just now.
        let reply = broker.channel_reply(channel);
        let (reply, pages) = reply.unwrap_or_default();
        (encode(&reply), pages)
    }

    /// Returns the reply to a request that waited for a first grant, and the pages that go with it;
    /// none if the channel is gone.
    pub fn answer<'a>(
        &self,
        answer: Answer,
        broker: &'a mut Broker,
    ) -> Option<(Vec<u8>, Vec<BorrowedFd<'a>>)> {
        match answer.outcome {
            Ok(()) => {
                let (reply, pages) = broker.channel_reply(answer.channel)?;
                Some((encode(&reply), pages))
            }
            Err(why) => {
                broker.note_refusal(self.process.pid, &why);
                Some((refusal(LITHOS_MESSAGE_CHANNEL_CREATE, &why), Vec::new()))
            }
        }
    }

    fn attach(
        &mut self,
        packet: &[u8],
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<Vec<u8>, Refused> {
        check_version(packet)?;
        let request: lithos_attach = decode(packet).map_err(malformed)?;
        if self.tenant.is_some() {
            let text = "this connection is a tenant already; use another one";
            return Err(Refused::new(libc::EALREADY, text));
        }
        let identity = Identity {
            edits: request.edits,
            driver: request.driver,
        };
        let partition = message::text(&request.partition).unwrap_or_default();
        let tenant = broker.next_tenant();
        let flags = broker.attach(tenant, self.process, identity, &partition, now)?;
        Ok(self.attached_as(tenant, flags))
    }

    fn resume(&mut self, packet: &[u8], broker: &mut Broker) -> Result<Vec<u8>, Refused> {
        check_version(packet)?;
        let request: lithos_resume = decode(packet).map_err(malformed)?;
        if self.tenant.is_some() {
            let text = "this connection is a tenant already; use another one";
            return Err(Refused::new(libc::EALREADY, text));
        }
        let partition = message::text(&request.partition).unwrap_or_default();
        let (tenant, flags) = broker.resume(self.process, request.tenant, &partition)?;
        Ok(self.attached_as(tenant, flags))
    }

    fn attached_as(&mut self, tenant: TenantId, flags: u32) -> Vec<u8> {
        self.tenant = Some(tenant);
        encode(&lithos_attached {
            reply: message::reply(0, ""),
            tenant: tenant.0,
            flags,
            version: LITHOS_ABI_VERSION,
        })
    }

    fn channel_resumed(
        &mut self,
        packet: &[u8],
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<Vec<u8>, Refused> {
        let request: lithos_channel_resumed = decode(packet).map_err(malformed)?;
        broker.channel_resumed(self.attached()?, request.channel, now)?;
        Ok(encode(&message::reply(0, "")))
    }

    fn create_channel(
        &mut self,
        packet: &[u8],
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<(), Refused> {
        let request: lithos_channel_create = decode(packet).map_err(malformed)?;
        let (tenant, id) = (self.attached()?, broker.next_channel());
        let counts = broker.config.regions;
        broker.create_channel(tenant, id, &request, counts, pages::create, now)
    }

    fn destroy_channel(
        &mut self,
        packet: &[u8],
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<Vec<u8>, Refused> {
        let request: lithos_channel_destroy = decode(packet).map_err(malformed)?;
        broker.destroy_channel(self.attached()?, request.channel, now)?;
        Ok(encode(&message::reply(0, "")))
    }

    fn attached(&self) -> Result<TenantId, Refused> {
        let text = "this connection is no tenant yet; attach to a partition first";
        self.tenant
            .ok_or_else(|| Refused::new(libc::ENOTCONN, text))
    }
}

/// Looks at the version that a first message names. A tenant of another one may have a longer structure.
fn check_version(packet: &[u8]) -> Result<(), Refused> {
    let at = size_of::<lithos_message>();
    let version = packet.get(at..).and_then(|rest| rest.first_chunk());
    let version = version.map_or(LITHOS_ABI_VERSION, |bytes| u32::from_le_bytes(*bytes));
    if version == LITHOS_ABI_VERSION {
        return Ok(());
    }
    let text = format!(
        "the tenant speaks ABI version {version}, the broker {LITHOS_ABI_VERSION}; use the shim and \
         the daemon of one release"
    );
    Err(Refused::new(libc::EPROTONOSUPPORT, text))
}

fn malformed(error: MessageError) -> Refused {
    let text = format!("this is no request of ABI version {LITHOS_ABI_VERSION}: {error}");
    Refused::new(libc::EBADMSG, text)
}

/// Returns the reply that refuses a request of a type. All replies begin alike, so that one to a
/// type that is not known here can be read, too. What comes with the type of a reply gets that reply.
fn refusal(kind: u32, why: &Refused) -> Vec<u8> {
    let reply = why.reply();
    match kind & !LITHOS_MESSAGE_REPLY {
        LITHOS_MESSAGE_ATTACH | LITHOS_MESSAGE_RESUME => encode(&lithos_attached {
            reply,
            tenant: 0,
            flags: 0,
            version: LITHOS_ABI_VERSION,
        }),
        LITHOS_MESSAGE_CHANNEL_CREATE | LITHOS_MESSAGE_CHANNEL_RESUME => encode(&lithos_channel {
            reply,
            channel: 0,
            ring_bytes: 0,
            arena_bytes: 0,
        }),
        LITHOS_MESSAGE_CHANNEL_RESUMED => encode(&reply),
        _ => {
            let mut packet = encode(&reply);
            packet[..4].copy_from_slice(&(kind | LITHOS_MESSAGE_REPLY).to_le_bytes());
            packet
        }
    }
}
