// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Messages between a tenant and the embedded broker, as bytes.
//!
//! One packet of a `SOCK_SEQPACKET` socket is a [`lithos_message`] header and the structure that its
//! type names. What arrives is checked for type, size and zeroed reserved fields before anyone looks
//! at its contents.

use crate::bindings::*;

/// The largest packet, with room to notice one that is too long.
pub const PACKET_BYTES_MAX: usize = 1024;

mod sealed {
    /// Structures that are integers and byte arrays without padding, so that any bytes are a value.
    ///
    /// # Safety
    ///
    /// Only for such structures.
    pub unsafe trait Plain: Copy {}
}

/// A structure that goes over the socket, with the type that announces it.
pub trait Message: sealed::Plain {
    /// `LITHOS_MESSAGE_*`.
    const TYPE: u32;

    /// Returns whether all reserved fields are zero and all strings end.
    fn is_well_formed(&self) -> bool;
}

macro_rules! message {
    ($name:ty, $type:expr, |$self:ident| $well_formed:expr) => {
        // SAFETY: bindgen asserts the offsets; the fields of these structures leave no padding.
        unsafe impl sealed::Plain for $name {}
        impl Message for $name {
            const TYPE: u32 = $type;
            fn is_well_formed(&self) -> bool {
                let $self = self;
                $well_formed
            }
        }
    };
}

message!(lithos_attach, LITHOS_MESSAGE_ATTACH, |m| m.reserved == 0
    && text(&m.partition).is_some());
message!(
    lithos_attached,
    LITHOS_MESSAGE_ATTACH | LITHOS_MESSAGE_REPLY,
    |m| is_reply(&m.reply)
);
message!(lithos_channel_create, LITHOS_MESSAGE_CHANNEL_CREATE, |m| m
    .reserved
    == [0; 2]);
message!(
    lithos_channel,
    LITHOS_MESSAGE_CHANNEL_CREATE | LITHOS_MESSAGE_REPLY,
    |m| is_reply(&m.reply)
);
message!(
    lithos_channel_destroy,
    LITHOS_MESSAGE_CHANNEL_DESTROY,
    |m| m.channel != 0
);
message!(lithos_resume, LITHOS_MESSAGE_RESUME, |m| m.reserved == 0
    && m.tenant != 0
    && text(&m.partition).is_some());
message!(lithos_channel_resume, LITHOS_MESSAGE_CHANNEL_RESUME, |m| m
    .channel
    != 0
    && m.reserved == [0; 3]);
message!(
    lithos_channel_resumed,
    LITHOS_MESSAGE_CHANNEL_RESUMED,
    |m| m.channel != 0
);
message!(
    lithos_reply,
    LITHOS_MESSAGE_CHANNEL_DESTROY | LITHOS_MESSAGE_REPLY,
    |m| is_reply(m)
);

fn is_reply(reply: &lithos_reply) -> bool {
    reply.reserved == 0 && text(&reply.text).is_some()
}

/// Why bytes are not the message that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// There is no whole header, or the size in it is not that of the packet.
    #[error("a packet of {0} bytes does not hold the message that its header announces")]
    Size(usize),
    /// The type is another than expected, or unknown.
    #[error("message type {0:#x} is not expected here")]
    Type(u32),
    /// A reserved field is not zero, or a string does not end.
    #[error("a reserved field of message type {0:#x} is set, or a string in it does not end")]
    Malformed(u32),
}

const HEADER: usize = size_of::<lithos_message>();

/// Returns the packet of a message.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let bytes = u32::try_from(size_of::<M>()).expect("messages are small");
    let mut packet = Vec::with_capacity(HEADER + size_of::<M>());
    packet.extend_from_slice(&M::TYPE.to_le_bytes());
    packet.extend_from_slice(&bytes.to_le_bytes());
    // SAFETY: `Plain` structures have no padding, so all their bytes are initialised.
    packet.extend_from_slice(unsafe {
        std::slice::from_raw_parts((&raw const *message).cast::<u8>(), size_of::<M>())
    });
    packet
}

/// Returns the type of the message in a packet, if the size in its header is that of the packet.
pub fn kind(packet: &[u8]) -> Result<u32, MessageError> {
    let half = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(packet.get(at..at + 4)?.try_into().ok()?))
    };
    match (half(0), half(4)) {
        (Some(kind), Some(bytes)) if bytes as usize == packet.len() - HEADER => Ok(kind),
        _ => Err(MessageError::Size(packet.len())),
    }
}

/// Takes a message of type `M` out of a packet.
pub fn decode<M: Message>(packet: &[u8]) -> Result<M, MessageError> {
    let kind = kind(packet)?;
    if kind != M::TYPE {
        return Err(MessageError::Type(kind));
    }
    if packet.len() != HEADER + size_of::<M>() {
        return Err(MessageError::Size(packet.len()));
    }
    // SAFETY: the source holds `size_of::<M>()` bytes, and any bytes are a `Plain` value.
    let message: M = unsafe { packet.as_ptr().add(HEADER).cast::<M>().read_unaligned() };
    if !message.is_well_formed() {
        return Err(MessageError::Malformed(kind));
    }
    Ok(message)
}

/// Returns the text in a NUL-terminated, NUL-padded field, if it is one and is UTF-8.
pub fn text(field: &[core::ffi::c_char]) -> Option<String> {
    let bytes: Vec<u8> = field.iter().map(|c| c.cast_unsigned()).collect();
    let end = bytes.iter().position(|b| *b == 0)?;
    if bytes[end..].iter().any(|b| *b != 0) {
        return None;
    }
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// Fills a field with a text, cut at a character if it is too long.
pub fn set_text<const N: usize>(text: &str) -> [core::ffi::c_char; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (to, from) in field
        .iter_mut()
        .zip(text[..end].bytes().take_while(|b| *b != 0))
    {
        *to = from.cast_signed();
    }
    field
}

/// Returns a reply that grants, or that refuses with an errno and a reason.
pub fn reply(error: i32, text: &str) -> lithos_reply {
    lithos_reply {
        error: error.unsigned_abs(),
        reserved: 0,
        text: set_text(text),
    }
}
