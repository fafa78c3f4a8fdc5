// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a tenant asks of a broker, whichever it is.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use lithos_abi::bindings::*;
use lithos_abi::message::{MessageError, set_text, text};

use crate::{Channel, ChannelError, Identity};

/// Whoever hands out channels.
pub trait Broker: Send {
    /// Makes this process a tenant of a partition.
    fn attach(&mut self, partition: &str) -> Result<Attached, BrokerError>;

    /// Asks for a channel for one CUDA context and maps what comes. Returns when there is a first
    /// grant. `context` is the tenant's own name for the context.
    fn create_channel(&mut self, gpu: [u8; 16], context: u64) -> Result<Channel, BrokerError>;

    /// Gives a channel back.
    fn destroy_channel(&mut self, id: u64) -> Result<(), BrokerError>;
}

/// What a broker says to a new tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The tenant's id, with its generation.
    pub tenant: u64,
    /// Whether a process that cannot be managed must not run in this partition.
    pub enforce: bool,
    /// Whether its streams are to have the least priority that there is.
    pub least: bool,
    /// How many SMs its programs are to be told that a GPU has; 0: all.
    pub sms: u32,
}

/// Why a broker did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nobody listens at the address, or schedules there, or we may not talk to it.
    #[error("no broker answers at {path}")]
    Connect {
        /// The address.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the broker broke")]
    Io(#[source] io::Error),
    /// The broker ended the connection.
    #[error("the broker has closed the connection")]
    Closed,
    /// The broker took too long, and the connection was given up.
    #[error("the broker did not answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The broker says something that this code does not understand.
    #[error("the broker's answer makes no sense")]
    Message(#[from] MessageError),
    /// The broker speaks another version of `include/lithos.h`.
    #[error("the broker speaks ABI version {0}, this program speaks {LITHOS_ABI_VERSION}")]
    Version(u32),
    /// The broker refuses.
    #[error("the broker refuses: {text} ({})", io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// Which kind of refusal.
        errno: i32,
        /// What was wrong, and what would be right.
        text: String,
    },
    /// The pages that came are not those of a channel.
    #[error("the broker's pages are unusable")]
    Channel(#[from] ChannelError),
    /// A partition's name is too long, empty, or contains a NUL.
    #[error("{0:?} cannot be the name of a partition")]
    Name(String),
}

/// What a process says when it attaches.
pub(crate) fn attach_request(
    partition: &str,
    identity: Identity,
) -> Result<lithos_attach, BrokerError> {
    let request = lithos_attach {
        version: LITHOS_ABI_VERSION,
        reserved: 0,
        partition: set_text(partition),
        edits: identity.edits,
        driver: identity.driver,
    };
    if partition.is_empty() || text(&request.partition).as_deref() != Some(partition) {
        return Err(BrokerError::Name(partition.to_owned()));
    }
    Ok(request)
}

/// Returns whether a reply grants, or else why not.
pub(crate) fn granted(reply: &lithos_reply) -> Result<(), BrokerError> {
    if reply.error == 0 {
        return Ok(());
    }
    Err(BrokerError::Refused {
        errno: i32::try_from(reply.error).unwrap_or(libc::EIO),
        text: text(&reply.text).unwrap_or_default(),
    })
}
