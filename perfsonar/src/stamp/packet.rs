//! The base packets of STAMP (RFC 8762 4.2, 4.3), unauthenticated and authenticated.
//!
//! ```text
//! unauthenticated  0 Seq 4 · 4 Timestamp 8 · 12 Error 2 · 14 SSID 2 · then request: MBZ 28
//!                  reflected: 16 T2 8 · 24 SenderSeq 4 · 28 T1 8 · 36 SenderError 2 · 38 MBZ 2 · 40 TTL 1 · 41 MBZ 3
//! authenticated    0 Seq 4 · 4 MBZ 12 · 16 Timestamp 8 · 24 Error 2 · 26 SSID 2 · then request: MBZ 68 · 96 HMAC 16
//!                  reflected: 28 MBZ 4 · 32 T2 8 · 40 MBZ 8 · 48 SenderSeq 4 · 52 MBZ 12 · 64 T1 8 · 72 SenderError 2 ·
//!                  74 MBZ 6 · 80 TTL 1 · 81 MBZ 15 · 96 HMAC 16
//! ```

use aws_lc_rs::hmac;

use crate::timestamp::ErrorEstimate;

/// Bytes of an unauthenticated packet, in both directions.
pub const OPEN_BYTES: usize = 44;
/// Bytes of an authenticated packet, in both directions.
pub const SEALED_BYTES: usize = 112;
/// The least bytes of a sender's packet: TWAMP's has no more.
pub const REQUEST_BYTES_MIN: usize = 14;
/// The least bytes of a reflected packet: TWAMP's has no more.
pub const REFLECTED_BYTES_MIN: usize = 41;
/// HMAC-SHA-256 is truncated to this (RFC 8762 4.4).
const HMAC_BYTES: usize = 16;
const HMAC_AT: usize = SEALED_BYTES - HMAC_BYTES;

/// Bytes that are no packet of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Too short.
    #[error("a packet of {0} bytes is too short to be one of STAMP or TWAMP")]
    TooShort(usize),
    /// The HMAC is not right.
    #[error("the packet is not authentic")]
    NotAuthentic,
}

/// Whether packets are authenticated, and with which key.
#[derive(Clone, Debug, Default)]
pub enum Authentication {
    /// They are not.
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
            let tag = hmac::sign(key, &packet[..HMAC_AT]);
            packet[HMAC_AT..SEALED_BYTES].copy_from_slice(&tag.as_ref()[..HMAC_BYTES]);
        }
    }

    fn check(&self, packet: &[u8]) -> Result<(), PacketError> {
        let Self::Hmac(key) = self else { return Ok(()) };
        let Some(found) = packet.get(HMAC_AT..SEALED_BYTES) else { return Err(PacketError::TooShort(packet.len())) };
        let tag = hmac::sign(key, &packet[..HMAC_AT]);
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(&tag.as_ref()[..HMAC_BYTES], found);
        same.map_err(|_| PacketError::NotAuthentic)
    }
}

/// What a sender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its sequence number.
    pub sequence: u32,
    /// T1, as on the wire.
    pub sent: [u8; 8],
    /// How far that can be believed.
    pub error: ErrorEstimate,
    /// The session's id (RFC 8972 3); 0 for none.
    pub ssid: u16,
}

/// What a reflector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflected {
    /// The reflector's own sequence number, or the sender's if it keeps no state.
    pub sequence: u32,
    /// T3, as on the wire.
    pub sent: [u8; 8],
    /// How far T2 and T3 can be believed.
    pub error: ErrorEstimate,
    /// The session's id.
    pub ssid: u16,
    /// T2, as on the wire.
    pub received: [u8; 8],
    /// What was answered.
    pub request: Request,
    /// The TTL with which the request arrived.
    pub request_ttl: u8,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    // A TWAMP packet may be shorter than STAMP's: what is missing is zero (RFC 8762 4.6).
    if let Some(rest) = bytes.get(at..) {
        let count = rest.len().min(N);
        array[..count].copy_from_slice(&rest[..count]);
    }
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Where the fields stand.
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
    /// Writes the base packet over the beginning of `packet`; what follows stays as it is.
    ///
    /// # Panics
    /// If `packet` is shorter than the base packet.
    pub fn write(&self, authentication: &Authentication, packet: &mut [u8]) {
        let at = layout(authentication);
        packet[..authentication.base_bytes()].fill(0);
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
    /// Writes the base packet over the beginning of `packet`; what follows stays as it is.
    ///
    /// # Panics
    /// If `packet` is shorter than the base packet.
    pub fn write(&self, authentication: &Authentication, packet: &mut [u8]) {
        let at = layout(authentication);
        packet[..authentication.base_bytes()].fill(0);
        put(packet, 0, &self.sequence.to_be_bytes());
        put(packet, at.sent, &self.sent);
        put(packet, at.error, &self.error.0.to_be_bytes());
        put(packet, at.ssid, &self.ssid.to_be_bytes());
        put(packet, at.received, &self.received);
        put(packet, at.request_sequence, &self.request.sequence.to_be_bytes());
        put(packet, at.request_sent, &self.request.sent);
        put(packet, at.request_error, &self.request.error.0.to_be_bytes());
        packet[at.request_ttl] = self.request_ttl;
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
            request_ttl: packet[at.request_ttl],
        })
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
    fn the_bytes_stand_where_the_rfc_puts_them() {
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

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for authentication in [Authentication::Open, Authentication::with_secret(b"x")] {
                let _ = Request::read(&authentication, &bytes);
                let _ = Reflected::read(&authentication, &bytes);
            }
        }
    }
}
