// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Messages as bytes: what one side encodes the other decodes, and nothing else decodes.

use lithos_abi::bindings::*;
use lithos_abi::message::{Message, MessageError, decode, encode, kind, reply, set_text, text};
use proptest::prelude::*;

fn comes_back<M: Message + PartialEq + std::fmt::Debug>(message: M) {
    let packet = encode(&message);
    assert!(packet.len() <= lithos_abi::message::PACKET_BYTES_MAX);
    assert_eq!(kind(&packet), Ok(M::TYPE));
    assert_eq!(decode::<M>(&packet), Ok(message));
    for shorter in 0..packet.len() {
        assert_eq!(
            decode::<M>(&packet[..shorter]),
            Err(MessageError::Size(shorter))
        );
    }
    let mut longer = packet.clone();
    longer.push(0);
    assert_eq!(
        decode::<M>(&longer),
        Err(MessageError::Size(packet.len() + 1))
    );
    let mut other = packet;
    other[1] ^= 0x40;
    assert_eq!(
        decode::<M>(&other),
        Err(MessageError::Type(M::TYPE ^ 0x4000))
    );
}

fn attach(partition: &str) -> lithos_attach {
    lithos_attach {
        version: LITHOS_ABI_VERSION,
        reserved: 0,
        partition: set_text(partition),
        edits: 0x0123_4567_89ab_cdef,
        driver: [7; LITHOS_BUILD_ID_BYTES as usize],
    }
}

#[test]
fn every_message_comes_back_and_nothing_shorter_or_longer_does() {
    comes_back(attach("inference"));
    comes_back(lithos_attached {
        reply: reply(0, ""),
        tenant: 7,
        flags: LITHOS_ATTACHED_ENFORCE,
        version: LITHOS_ABI_VERSION,
    });
    comes_back(lithos_channel_create {
        gpu: *b"0123456789abcdef",
        context: u64::MAX,
        reserved: [0; 2],
    });
    comes_back(lithos_channel {
        reply: reply(libc_enoent(), "no partition of this name"),
        channel: 0,
        ring_bytes: 0,
        arena_bytes: 0,
    });
    comes_back(lithos_channel_destroy { channel: 9 });
    comes_back(lithos_resume {
        version: LITHOS_ABI_VERSION,
        reserved: 0,
        tenant: 3,
        partition: set_text("inference"),
    });
    comes_back(lithos_channel_resume {
        channel: 9,
        reserved: [0; 3],
    });
    comes_back(lithos_channel_resumed { channel: 9 });
    comes_back(reply(0, ""));
}

/// `ENOENT`, without a dependency for one number.
fn libc_enoent() -> i32 {
    2
}

#[test]
fn a_set_reserved_field_is_malformed() {
    let mut message = attach("inference");
    message.reserved = 1;
    assert_eq!(
        decode::<lithos_attach>(&encode(&message)),
        Err(MessageError::Malformed(LITHOS_MESSAGE_ATTACH))
    );
    let create = lithos_channel_create {
        gpu: [0; 16],
        context: 0,
        reserved: [0, 1],
    };
    assert_eq!(
        decode::<lithos_channel_create>(&encode(&create)),
        Err(MessageError::Malformed(LITHOS_MESSAGE_CHANNEL_CREATE))
    );
    let mut refused = reply(1, "no");
    refused.reserved = 1;
    assert!(decode::<lithos_reply>(&encode(&refused)).is_err());
    assert!(
        decode::<lithos_channel_destroy>(&encode(&lithos_channel_destroy { channel: 0 })).is_err()
    );
}

#[test]
fn a_string_that_does_not_end_or_goes_on_after_its_end_is_malformed() {
    let mut endless = attach("");
    endless.partition = [b'a'.cast_signed(); LITHOS_NAME_BYTES as usize];
    assert!(decode::<lithos_attach>(&encode(&endless)).is_err());
    let mut hidden = attach("a");
    hidden.partition[5] = 1;
    assert!(decode::<lithos_attach>(&encode(&hidden)).is_err());
    let mut no_text = attach("a");
    no_text.partition[0] = -1;
    assert!(decode::<lithos_attach>(&encode(&no_text)).is_err());
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let field: [core::ffi::c_char; 8] = set_text("abcdef\u{e9}x");
    assert_eq!(text(&field), Some("abcdef".into()));
    let field: [core::ffi::c_char; 8] = set_text("abcde\u{e9}x");
    assert_eq!(text(&field), Some("abcde\u{e9}".into()));
    let field: [core::ffi::c_char; 8] = set_text("ab\0cd");
    assert_eq!(text(&field), Some("ab".into()));
}

proptest! {
    #[test]
    fn a_text_without_nul_comes_back_or_its_beginning_does(written in "[^\\x00]{0,80}") {
        let field: [core::ffi::c_char; 64] = set_text(&written);
        let found = text(&field).expect("what set_text writes is a text");
        prop_assert!(written.starts_with(&found));
        prop_assert!(found.len() == written.len() || found.len() > 59);
    }

    #[test]
    fn no_packet_makes_the_decoder_panic(packet in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = decode::<lithos_attach>(&packet);
        let _ = decode::<lithos_channel>(&packet);
        prop_assert!(kind(&packet).is_err() || packet.len() >= 8);
    }

    /// Right header, any body: what decodes is well formed, and encodes to the same bytes.
    #[test]
    fn what_decodes_is_what_was_sent(body in prop::collection::vec(any::<u8>(), 112)) {
        let mut packet = encode(&attach("x"));
        packet[8..].copy_from_slice(&body);
        match decode::<lithos_attach>(&packet) {
            Ok(message) => {
                prop_assert!(message.is_well_formed());
                prop_assert_eq!(encode(&message), packet);
            }
            Err(error) => prop_assert_eq!(error, MessageError::Malformed(LITHOS_MESSAGE_ATTACH)),
        }
    }
}
