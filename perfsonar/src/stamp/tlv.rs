//! The TLVs after STAMP's base packets (RFC 8972 4): `flags 1 · type 1 · length 2 · value`.
//!
//! A sender sets the U flag on every TLV. A reflector clears it on those that it understands, sets
//! M on the first malformed one and stops there, and sets I on all if the HMAC TLV is wrong (RFC
//! 8972 4, 4.8). No packet is dropped because of a TLV.
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

/// The reflector did not recognize the type.
pub const UNRECOGNIZED: u8 = 0x80;
/// The TLV is malformed.
pub const MALFORMED: u8 = 0x40;
/// The integrity check failed.
pub const INTEGRITY: u8 = 0x20;
/// Bytes before a value.
pub const HEADER_BYTES: usize = 4;
/// The HMAC TLV's value: HMAC-SHA-256 truncated.
const HMAC_BYTES: usize = 16;

/// Types of RFC 8972.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Bytes that only lengthen the packet.
    ExtraPadding = 1,
    /// Addresses and ports, as each end sees them.
    Location = 2,
    /// How the ends' clocks are synchronized, and where timestamps are taken.
    TimestampInformation = 3,
    /// DSCP and ECN, as sent and as received.
    ClassOfService = 4,
    /// Counters of packets in both directions.
    DirectMeasurement = 5,
    /// Access network.
    AccessReport = 6,
    /// When the previous reflected packet left.
    FollowUpTelemetry = 7,
    /// An HMAC over the TLVs.
    Hmac = 8,
}

/// A TLV in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its flags.
    pub flags: u8,
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// A TLV that is longer than its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the TLV at byte {0} is longer than its packet")]
pub struct TlvError(pub usize);

/// Reads the TLVs of a packet; `bytes` begins after the base packet.
pub fn read(mut bytes: &[u8]) -> impl Iterator<Item = Result<Tlv<'_>, TlvError>> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parsed = bytes.split_first_chunk::<HEADER_BYTES>().and_then(|(&[flags, kind, high, low], rest)| {
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            Some((Tlv { flags, kind, value }, rest))
        });
        match parsed {
            Some((tlv, rest)) => {
                at = at.saturating_add(HEADER_BYTES).saturating_add(tlv.value.len());
                bytes = rest;
                Some(Ok(tlv))
            }
            None => {
                bytes = &[];
                Some(Err(TlvError(at)))
            }
        }
    })
}

/// Appends a TLV as a sender writes it. A value of more than 65,535 bytes is truncated.
pub fn append(packet: &mut Vec<u8>, kind: Type, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = value.get(..length.into()).unwrap_or(value);
    packet.extend_from_slice(&[UNRECOGNIZED, kind as u8]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(value);
}

/// Appends padding so that the packet has `bytes` in all. If less than a TLV's four header bytes
/// are missing, nothing is added.
pub fn pad_to(packet: &mut Vec<u8>, bytes: usize) {
    if let Some(value_bytes) = bytes.checked_sub(packet.len().saturating_add(HEADER_BYTES)) {
        append(packet, Type::ExtraPadding, &vec![0; value_bytes.min(usize::from(u16::MAX))]);
    }
}

/// Appends the HMAC TLV over the sequence number and all TLVs before it (RFC 8972 4.8).
pub fn append_hmac(packet: &mut Vec<u8>, base_bytes: usize, key: &hmac::Key) {
    let (sequence, tlvs) = (packet.get(..4).unwrap_or_default(), packet.get(base_bytes..).unwrap_or_default());
    let tag = tlv_hmac(key, sequence, tlvs);
    append(packet, Type::Hmac, &tag);
}

/// The facts from which a reflector fills in values.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The request's traffic class as it arrived.
    pub traffic_class: u8,
    /// The request's source port and address.
    pub source: std::net::SocketAddr,
    /// The reflector's port and address.
    pub destination: std::net::SocketAddr,
    /// Requests received and reflections sent in this session.
    pub received_count: u32,
    /// See `received_count`.
    pub sent_count: u32,
    /// The previous reflection's sequence number and time.
    pub previous: Option<(u32, [u8; 8])>,
    /// Whether the reflector's clock is synchronized.
    pub is_synchronized: bool,
    /// Key of the HMAC TLV.
    pub key: Option<&'a hmac::Key>,
}

/// Turns a request's TLVs into a reflection's, in place: sets flags and fills in values. The length
/// stays the same.
pub fn reflect(sequence: [u8; 4], new_sequence: [u8; 4], tlvs: &mut [u8], facts: &Facts<'_>) {
    let integrity = check_integrity(&sequence, tlvs, facts.key);
    let mut at = 0usize;
    let mut hmac_at = None;
    while let Some((flags, after)) = tlvs.get_mut(at..).and_then(<[u8]>::split_first_mut) {
        let Some((&mut [kind, high, low], after)) = after.split_first_chunk_mut::<3>() else {
            // Fewer than four bytes are not a TLV header.
            *flags |= MALFORMED;
            break;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = after.get_mut(..length) else {
            *flags = *flags & !UNRECOGNIZED | MALFORMED;
            break;
        };
        *flags = match fill(kind, value, facts) {
            Filled::Done => 0,
            Filled::Unknown => UNRECOGNIZED,
            Filled::Malformed => MALFORMED,
        };
        if kind == Type::Hmac as u8 && length == HMAC_BYTES {
            hmac_at = Some(at);
        }
        if integrity == Some(false) {
            *flags |= INTEGRITY;
        }
        if *flags & MALFORMED != 0 {
            break;
        }
        at = at.saturating_add(HEADER_BYTES).saturating_add(length);
    }
    if let (Some(at), Some(key), Some(true)) = (hmac_at, facts.key, integrity)
        && let Some((before, hmac)) = tlvs.split_at_mut_checked(at)
    {
        let tag = tlv_hmac(key, &new_sequence, before);
        hmac.iter_mut().skip(HEADER_BYTES).zip(tag).for_each(|(place, byte)| *place = byte);
    }
}

enum Filled {
    Done,
    Unknown,
    Malformed,
}

/// The traffic class that a sender wants its answers to have: DSCP1 of the class-of-service TLV.
#[must_use]
pub fn wanted_traffic_class(tlvs: &[u8]) -> Option<u8> {
    let tlv = read(tlvs).map_while(Result::ok).find(|tlv| tlv.kind == Type::ClassOfService as u8)?;
    tlv.value.first().map(|first| first & 0xfc)
}

fn tlv_hmac(key: &hmac::Key, sequence: &[u8], tlvs: &[u8]) -> [u8; HMAC_BYTES] {
    let mut context = hmac::Context::with_key(key);
    context.update(sequence);
    context.update(tlvs);
    let mut tag = [0; HMAC_BYTES];
    tag.iter_mut().zip(context.sign().as_ref()).for_each(|(place, &byte)| *place = byte);
    tag
}

/// Whether the HMAC TLV is correct; none if there is no such TLV or no key.
fn check_integrity(sequence: &[u8; 4], tlvs: &[u8], key: Option<&hmac::Key>) -> Option<bool> {
    let key = key?;
    let mut at = 0usize;
    for tlv in read(tlvs) {
        let tlv = tlv.ok()?;
        if tlv.kind == Type::Hmac as u8 {
            let tag = tlv_hmac(key, sequence, tlvs.get(..at)?);
            return Some(aws_lc_rs::constant_time::verify_slices_are_equal(&tag, tlv.value).is_ok());
        }
        at = at.saturating_add(HEADER_BYTES).saturating_add(tlv.value.len());
    }
    None
}

/// Fills in a value as RFC 8972 4.1 to 4.7 say.
fn fill(kind: u8, value: &mut [u8], facts: &Facts<'_>) -> Filled {
    match kind {
        kind if kind == Type::ExtraPadding as u8 => Filled::Done,
        kind if kind == Type::Location as u8 => {
            // Sub-TLVs would need the link layer; they are returned unchanged, with their own U
            // flag.
            let [destination_high, destination_low, source_high, source_low, ..] = value else {
                return Filled::Malformed;
            };
            [*destination_high, *destination_low] = facts.destination.port().to_be_bytes();
            [*source_high, *source_low] = facts.source.port().to_be_bytes();
            Filled::Done
        }
        kind if kind == Type::TimestampInformation as u8 => {
            let [sync_in, method_in, sync_out, method_out, ..] = value else { return Filled::Malformed };
            // 1: NTP, 5: a free-running clock; 2: software timestamps (RFC 8972 tables 10, 11).
            let source = if facts.is_synchronized { 1 } else { 5 };
            (*sync_in, *method_in, *sync_out, *method_out) = (source, 2, source, 2);
            Filled::Done
        }
        kind if kind == Type::ClassOfService as u8 => {
            let [first, second, third, ..] = value else { return Filled::Malformed };
            // DSCP1 6 · DSCP2 6 · ECN 2 · RP 2 · reserved: DSCP2 and ECN as received, RP 0 because
            // the answer has DSCP1.
            let (dscp, ecn) = (facts.traffic_class >> 2, facts.traffic_class & 3);
            *first = *first & 0xfc | dscp >> 4;
            *second = (dscp & 0x0f) << 4 | ecn << 2;
            *third = 0;
            Filled::Done
        }
        kind if kind == Type::DirectMeasurement as u8 => {
            let Ok(value) = <&mut [u8; 12]>::try_from(value) else { return Filled::Malformed };
            value[4..8].copy_from_slice(&facts.received_count.to_be_bytes());
            value[8..].copy_from_slice(&facts.sent_count.to_be_bytes());
            Filled::Done
        }
        kind if kind == Type::FollowUpTelemetry as u8 => {
            let Ok(value) = <&mut [u8; 16]>::try_from(value) else { return Filled::Malformed };
            let (sequence, at) = facts.previous.unwrap_or_default();
            value[..4].copy_from_slice(&sequence.to_be_bytes());
            value[4..12].copy_from_slice(&at);
            // 2: software.
            value[12] = if facts.previous.is_some() { 2 } else { 0 };
            Filled::Done
        }
        kind if kind == Type::Hmac as u8 => match (facts.key.is_some(), value.len()) {
            (_, length) if length != HMAC_BYTES => Filled::Malformed,
            (true, _) => Filled::Done,
            (false, _) => Filled::Unknown,
        },
        _ => Filled::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(key: Option<&hmac::Key>) -> Facts<'_> {
        Facts {
            traffic_class: 0xb9,
            source: "192.0.2.1:1000".parse().unwrap(),
            destination: "192.0.2.2:862".parse().unwrap(),
            received_count: 5,
            sent_count: 4,
            previous: Some((3, [7; 8])),
            is_synchronized: true,
            key,
        }
    }

    fn reflected(mut tlvs: Vec<u8>) -> Vec<u8> {
        reflect([0; 4], [0; 4], &mut tlvs, &facts(None));
        tlvs
    }

    #[test]
    fn known_types_are_filled_in_and_unknown_ones_are_marked() {
        let mut tlvs = Vec::new();
        append(&mut tlvs, Type::ExtraPadding, &[0; 3]);
        append(&mut tlvs, Type::ClassOfService, &[0xb8, 0, 0, 0]);
        append(&mut tlvs, Type::DirectMeasurement, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        append(&mut tlvs, Type::FollowUpTelemetry, &[0; 16]);
        tlvs.extend_from_slice(&[UNRECOGNIZED, 200, 0, 1, 42]);
        let back = reflected(tlvs);
        let tlvs: Vec<_> = read(&back).map(Result::unwrap).collect();
        assert_eq!(tlvs.iter().map(|tlv| tlv.flags).collect::<Vec<_>>(), [0, 0, 0, 0, UNRECOGNIZED]);
        // DSCP1 46, DSCP2 46, ECN 1.
        assert_eq!(tlvs[1].value, [0xb8 | 0b10, 0b1110_0100, 0, 0]);
        assert_eq!(tlvs[2].value, [0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 4]);
        assert_eq!(tlvs[3].value, [0, 0, 0, 3, 7, 7, 7, 7, 7, 7, 7, 7, 2, 0, 0, 0]);
        assert_eq!(tlvs[4].value, [42]);
    }

    #[test]
    fn a_malformed_tlv_is_marked_and_ends_it() {
        let back = reflected(vec![UNRECOGNIZED, 1, 0, 9, 1, 2]);
        assert_eq!(back, [MALFORMED, 1, 0, 9, 1, 2]);
        let back = reflected(vec![UNRECOGNIZED, 5, 0, 1, 1, UNRECOGNIZED, 1, 0, 0]);
        assert_eq!(back, [MALFORMED, 5, 0, 1, 1, UNRECOGNIZED, 1, 0, 0]);
        assert_eq!(reflected(vec![0x80, 1]), [0xc0, 1]);
    }

    #[test]
    fn the_hmac_tlv_is_checked_and_recomputed() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"tlv");
        let mut packet = vec![0, 0, 0, 1];
        packet.resize(44, 0);
        append(&mut packet, Type::DirectMeasurement, &[0; 12]);
        append_hmac(&mut packet, 44, &key);
        let mut tlvs = packet[44..].to_vec();
        reflect([0, 0, 0, 1], [0, 0, 0, 8], &mut tlvs, &facts(Some(&key)));
        assert!(read(&tlvs).all(|tlv| tlv.unwrap().flags == 0));
        assert_eq!(check_integrity(&[0, 0, 0, 8], &tlvs, Some(&key)), Some(true));
        // With a wrong one, all TLVs come back with the I flag.
        let mut tlvs = packet[44..].to_vec();
        tlvs[4] ^= 1;
        reflect([0, 0, 0, 1], [0, 0, 0, 8], &mut tlvs, &facts(Some(&key)));
        assert!(read(&tlvs).all(|tlv| tlv.unwrap().flags & INTEGRITY != 0));
    }

    #[test]
    fn padding_makes_packets_of_exact_size() {
        for bytes in [48, 49, 1_400, 8_972] {
            let mut packet = vec![0; 44];
            pad_to(&mut packet, bytes);
            assert_eq!(packet.len(), bytes);
        }
        let mut packet = vec![0; 44];
        pad_to(&mut packet, 46);
        assert_eq!(packet.len(), 44);
    }

    proptest! {
        #[test]
        fn any_tlvs_are_reflected_without_panic_and_without_growth(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"x");
            let length = bytes.len();
            reflect([0; 4], [0; 4], &mut bytes, &facts(Some(&key)));
            prop_assert_eq!(bytes.len(), length);
            let _ = (read(&bytes).count(), wanted_traffic_class(&bytes));
        }
    }
}
