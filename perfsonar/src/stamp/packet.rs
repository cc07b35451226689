//! The base packets of STAMP (RFC 8762 4.2, 4.3), unauthenticated and authenticated.
//!
//! ```text
//! unauthenticated  0 Seq 4 · 4 Timestamp 8 · 12 Error 2 · 14 SSID 2 · then request: MBZ 28
//!                  reflected: 16 T2 8 · 24 SenderSeq 4 · 28 T1 8 · 36 SenderError 2 · 38 MBZ 2 · 40 TTL 1 · 41 MBZ 3
//! authenticated    0 Seq 4 · 4 MBZ 12 · 16 Timestamp 8 · 24 Error 2 · 26 SSID 2 · then request: MBZ 68 · 96 HMAC 16
//!                  reflected: 28 MBZ 4 · 32 T2 8 · 40 MBZ 8 · 48 SenderSeq 4 · 52 MBZ 12 · 64 T1 8 · 72 SenderError 2
//!                  · 74 MBZ 6 · 80 TTL 1 · 81 MBZ 15 · 96 HMAC 16
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use aws_lc_rs::hmac;

use crate::timestamp::ErrorEstimate;

/// Bytes of an unauthenticated packet, in both directions.
pub const OPEN_BYTES: usize = 44;
/// Bytes of an authenticated packet, in both directions.
pub const SEALED_BYTES: usize = 112;
/// Bytes of the shortest sender packet, TWAMP's.
pub const REQUEST_BYTES_MIN: usize = 14;
/// Bytes of the shortest reflected packet, TWAMP's.
pub const REFLECTED_BYTES_MIN: usize = 41;
/// The place of the zeros between the copied error estimate and the TTL of an open reflection.
const OPEN_MBZ_AT: usize = 38;
/// HMAC-SHA-256 is truncated to this (RFC 8762 4.4).
const HMAC_BYTES: usize = 16;
const HMAC_AT: usize = SEALED_BYTES - HMAC_BYTES;

/// Why bytes are not a packet of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Too short.
    #[error("a packet of {0} bytes is too short to be one of STAMP or TWAMP")]
    TooShort(usize),
    /// The HMAC is wrong.
    #[error("the packet is not authentic")]
    NotAuthentic,
}

/// The mode of packets: unauthenticated, or authenticated with a key.
#[derive(Clone, Debug, Default)]
pub enum Authentication {
    /// Unauthenticated.
    #[default]
    Open,
    /// HMAC-SHA-256 over the first 96 bytes.
    Hmac(Box<hmac::Key>),
}

impl Authentication {
    /// Authentication with a secret.
    #[must_use]
    pub fn with_secret(secret: &[u8]) -> Self {
        Self::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Bytes of the base packet.
    #[must_use]
    pub const fn base_bytes(&self) -> usize {
        match self {
            Self::Open => OPEN_BYTES,
            Self::Hmac(_) => SEALED_BYTES,
        }
    }

    fn seal(&self, packet: &mut [u8]) {
        if let Self::Hmac(key) = self {
            let Some((sealed, rest)) = packet.split_at_mut_checked(HMAC_AT) else { return };
            let tag = hmac::sign(key, sealed);
            put(rest, 0, truncated(&tag));
        }
    }

    fn check(&self, packet: &[u8]) -> Result<(), PacketError> {
        let Self::Hmac(key) = self else { return Ok(()) };
        let too_short = PacketError::TooShort(packet.len());
        let (sealed, rest) = packet.split_at_checked(HMAC_AT).ok_or(too_short)?;
        let found = rest.get(..HMAC_BYTES).ok_or(too_short)?;
        let tag = hmac::sign(key, sealed);
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(truncated(&tag), found);
        same.map_err(|_| PacketError::NotAuthentic)
    }
}

/// A sender's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sender's sequence number.
    pub sequence: u32,
    /// T1, as on the wire.
    pub sent: [u8; 8],
    /// The error estimate of T1.
    pub error: ErrorEstimate,
    /// The session's id (RFC 8972 3); 0 for none.
    pub ssid: u16,
}

/// A reflector's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflected {
    /// The reflector's own sequence number, or the sender's if it keeps no state.
    pub sequence: u32,
    /// T3, as on the wire.
    pub sent: [u8; 8],
    /// The error estimate of T2 and T3.
    pub error: ErrorEstimate,
    /// The session's id.
    pub ssid: u16,
    /// T2, as on the wire.
    pub received: [u8; 8],
    /// The request that is answered.
    pub request: Request,
    /// The TTL with which the request arrived.
    pub request_ttl: u8,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    // A TWAMP packet may be shorter than STAMP's: the missing bytes count as zero (RFC 8762 4.6).
    array.iter_mut().zip(bytes.get(at..).unwrap_or_default()).for_each(|(place, &byte)| *place = byte);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// Writes a field. The callers make the packet long enough.
fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet.get_mut(at..).unwrap_or_default().iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
}

fn truncated(tag: &hmac::Tag) -> &[u8] {
    tag.as_ref().get(..HMAC_BYTES).unwrap_or_default()
}

/// The offsets of the fields.
struct Layout {
    sent: usize,
    error: usize,
    ssid: usize,
    received: usize,
    request_sequence: usize,
    request_sent: usize,
    request_error: usize,
    request_ttl: usize,
}

const OPEN: Layout = Layout {
    sent: 4,
    error: 12,
    ssid: 14,
    received: 16,
    request_sequence: 24,
    request_sent: 28,
    request_error: 36,
    request_ttl: 40,
};
const SEALED: Layout = Layout {
    sent: 16,
    error: 24,
    ssid: 26,
    received: 32,
    request_sequence: 48,
    request_sent: 64,
    request_error: 72,
    request_ttl: 80,
};

const fn layout(authentication: &Authentication) -> &'static Layout {
    match authentication {
        Authentication::Open => &OPEN,
        Authentication::Hmac(_) => &SEALED,
    }
}

impl Request {
    /// Writes the base packet over the beginning of `packet`, which is at least as long; what
    /// follows stays as it is.
    pub fn write(&self, authentication: &Authentication, packet: &mut [u8]) {
        let at = layout(authentication);
        packet.get_mut(..authentication.base_bytes()).unwrap_or_default().fill(0);
        put(packet, 0, &self.sequence.to_be_bytes());
        put(packet, at.sent, &self.sent);
        put(packet, at.error, &self.error.0.to_be_bytes());
        put(packet, at.ssid, &self.ssid.to_be_bytes());
        authentication.seal(packet);
    }

    /// Reads a packet. Unauthenticated ones may be as short as TWAMP's.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn read(authentication: &Authentication, packet: &[u8]) -> Result<Self, PacketError> {
        if packet.len() < REQUEST_BYTES_MIN {
            return Err(PacketError::TooShort(packet.len()));
        }
        authentication.check(packet)?;
        let at = layout(authentication);
        Ok(Self {
            sequence: u32_at(packet, 0),
            sent: array(packet, at.sent),
            error: ErrorEstimate(u16_at(packet, at.error)),
            ssid: u16_at(packet, at.ssid),
        })
    }
}

impl Reflected {
    /// Writes the base packet over the beginning of `packet`, which is at least as long; what
    /// follows stays as it is.
    pub fn write(&self, authentication: &Authentication, packet: &mut [u8]) {
        let at = layout(authentication);
        packet.get_mut(..authentication.base_bytes()).unwrap_or_default().fill(0);
        put(packet, 0, &self.sequence.to_be_bytes());
        put(packet, at.sent, &self.sent);
        put(packet, at.error, &self.error.0.to_be_bytes());
        put(packet, at.ssid, &self.ssid.to_be_bytes());
        put(packet, at.received, &self.received);
        put(packet, at.request_sequence, &self.request.sequence.to_be_bytes());
        put(packet, at.request_sent, &self.request.sent);
        put(packet, at.request_error, &self.request.error.0.to_be_bytes());
        put(packet, at.request_ttl, &[self.request_ttl]);
        authentication.seal(packet);
    }

    /// Reads a packet. Unauthenticated ones may be as short as TWAMP's.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn read(authentication: &Authentication, packet: &[u8]) -> Result<Self, PacketError> {
        if packet.len() < REFLECTED_BYTES_MIN {
            return Err(PacketError::TooShort(packet.len()));
        }
        authentication.check(packet)?;
        let at = layout(authentication);
        let ssid = u16_at(packet, at.ssid);
        Ok(Self {
            sequence: u32_at(packet, 0),
            sent: array(packet, at.sent),
            error: ErrorEstimate(u16_at(packet, at.error)),
            ssid,
            received: array(packet, at.received),
            request: Request {
                sequence: u32_at(packet, at.request_sequence),
                sent: array(packet, at.request_sent),
                error: ErrorEstimate(u16_at(packet, at.request_error)),
                ssid,
            },
            request_ttl: u8::from_be_bytes(array(packet, at.request_ttl)),
        })
    }
}

/// A reflector answers immediately, so its two timestamps are at most this many seconds apart.
/// Generous, because slow reflectors may be overloaded, and still far below what random bytes match
/// by chance.
const HELD_SECONDS_MAX: u32 = 60;

/// Seconds of a time on the wire, in either format.
fn seconds([a, b, c, d, ..]: [u8; 8]) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

/// Whether two times on the wire are as close as those of one reflection. Zero is not a time.
fn are_close(one: [u8; 8], other: [u8; 8]) -> bool {
    let apart = seconds(one).wrapping_sub(seconds(other));
    one != [0; 8] && other != [0; 8] && apart.min(apart.wrapping_neg()) <= HELD_SECONDS_MAX
}

impl Reflected {
    /// Whether a packet that a reflector received is itself a reflection. Packets have no type, so
    /// this is decided by fields that only reflectors fill in. An authenticated reflection has T2
    /// where requests have zeros. An open one has T2 shortly before T3, and zeros after the copied
    /// error estimate, where a request has zeros or, in TWAMP-Light, random padding; random padding
    /// matches by chance once in 10^12 packets.
    #[must_use]
    pub fn is_one(authentication: &Authentication, packet: &[u8]) -> bool {
        let at = layout(authentication);
        let received: [u8; 8] = array(packet, at.received);
        match authentication {
            Authentication::Hmac(_) => received != [0; 8],
            Authentication::Open => {
                packet.len() >= REFLECTED_BYTES_MIN
                    && are_close(received, array(packet, at.sent))
                    && array(packet, OPEN_MBZ_AT) == [0; 2]
            }
        }
    }

    /// Whether a packet received by a reflector answers one that this reflector has sent: where
    /// reflections copy the request's fields, it has one of this reflector's sequence numbers,
    /// below `next`, and a time of the last minute. Detects reflectors without a clock.
    #[must_use]
    pub fn answers_us(authentication: &Authentication, packet: &[u8], next: u32, now: [u8; 8]) -> bool {
        let at = layout(authentication);
        packet.len() >= REFLECTED_BYTES_MIN
            && u32_at(packet, at.request_sequence) < next
            && are_close(array(packet, at.request_sent), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request {
        Request { sequence: 7, sent: [1, 2, 3, 4, 5, 6, 7, 8], error: ErrorEstimate(0x8f84), ssid: 0xabcd }
    }

    fn reflected() -> Reflected {
        Reflected {
            sequence: 9,
            sent: [9; 8],
            error: ErrorEstimate(0x0f84),
            ssid: 0xabcd,
            received: [8; 8],
            request: request(),
            request_ttl: 61,
        }
    }

    #[test]
    fn fields_have_the_offsets_of_the_rfc() {
        let mut packet = [0xff; OPEN_BYTES];
        request().write(&Authentication::Open, &mut packet);
        assert_eq!(packet[..16], [0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0x8f, 0x84, 0xab, 0xcd]);
        assert_eq!(packet[16..], [0; 28]);
        reflected().write(&Authentication::Open, &mut packet);
        let expected = [
            0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0x0f, 0x84, 0xab, 0xcd, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 7, 1, 2, 3, 4,
            5, 6, 7, 8, 0x8f, 0x84, 0, 0, 61, 0, 0, 0,
        ];
        assert_eq!(packet, expected);
    }

    #[test]
    fn authenticated_packets_come_back_and_damaged_ones_do_not() {
        //= P-2
        //# Packets that fail authentication are ignored.
        let key = Authentication::with_secret(b"secret");
        let mut packet = [0; SEALED_BYTES];
        request().write(&key, &mut packet);
        assert_eq!(Request::read(&key, &packet), Ok(request()));
        reflected().write(&key, &mut packet);
        assert_eq!(Reflected::read(&key, &packet), Ok(reflected()));
        for at in 0..SEALED_BYTES {
            let mut damaged = packet;
            damaged[at] ^= 1;
            assert_eq!(Reflected::read(&key, &damaged), Err(PacketError::NotAuthentic), "byte {at}");
        }
        assert_eq!(Reflected::read(&key, &packet[..60]), Err(PacketError::TooShort(60)));
        assert_eq!(Reflected::read(&Authentication::with_secret(b"other"), &packet), Err(PacketError::NotAuthentic));
    }

    #[test]
    fn twamps_short_packets_are_read() {
        let mut packet = [0; OPEN_BYTES];
        request().write(&Authentication::Open, &mut packet);
        let short = Request::read(&Authentication::Open, &packet[..14]).unwrap();
        assert_eq!(short, Request { ssid: 0, ..request() });
        reflected().write(&Authentication::Open, &mut packet);
        assert_eq!(Reflected::read(&Authentication::Open, &packet[..41]), Ok(reflected()));
        assert_eq!(Request::read(&Authentication::Open, &packet[..13]), Err(PacketError::TooShort(13)));
    }

    #[test]
    fn reflections_are_distinguished_from_requests() {
        for authentication in [Authentication::Open, Authentication::with_secret(b"secret")] {
            let mut packet = vec![0; authentication.base_bytes()];
            request().write(&authentication, &mut packet);
            assert!(!Reflected::is_one(&authentication, &packet));
            let (sent, received) = ([0, 1, 0, 9, 0, 0, 0, 0], [0, 1, 0, 8, 255, 0, 0, 0]);
            Reflected { sent, received, ..reflected() }.write(&authentication, &mut packet);
            assert!(Reflected::is_one(&authentication, &packet));
            let now = [1, 2, 3, 30, 0, 0, 0, 0];
            assert!(Reflected::answers_us(&authentication, &packet, 8, now));
            assert!(!Reflected::answers_us(&authentication, &packet, 7, now), "a number that was never sent");
            assert!(!Reflected::answers_us(&authentication, &packet, 8, [1, 2, 4, 90, 0, 0, 0, 0]), "an old time");
        }
    }

    proptest! {
        #[test]
        fn random_padding_is_no_reflection(sent: [u8; 8], padding in proptest::collection::vec(any::<u8>(), 30..100)) {
            let mut packet = vec![0; 44];
            Request { sent, ..request() }.write(&Authentication::Open, &mut packet);
            packet.truncate(14);
            packet.extend_from_slice(&padding);
            prop_assert!(!Reflected::is_one(&Authentication::Open, &packet));
            prop_assert!(!Reflected::answers_us(&Authentication::Open, &packet, 1_000, sent));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for authentication in [Authentication::Open, Authentication::with_secret(b"x")] {
                let _ = Request::read(&authentication, &bytes);
                let _ = Reflected::read(&authentication, &bytes);
                let _ = Reflected::is_one(&authentication, &bytes);
                let _ = Reflected::answers_us(&authentication, &bytes, u32::MAX, [1; 8]);
            }
        }
    }
}
