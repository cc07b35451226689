//! The 64-bit timestamps and the error estimates of OWAMP, TWAMP and STAMP (RFC 4656 4.1.2, RFC
//! 8186).
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

use crate::clock::ClockQuality;

/// Seconds from 1900, where NTP counts from, to 1970.
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;
/// NTP's seconds wrap here; smaller ones after 2036 belong to the next era.
const NTP_ERA_SECONDS: i64 = 1 << 32;
const SECOND_NS: i64 = 1_000_000_000;

/// Why a timestamp is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// It lies before 1970: the clock was never set.
    #[error("the timestamp is before 1970 ({0} s since 1900): the clock of the host that wrote it was never set")]
    BeforeUnix(u32),
    /// A truncated PTP timestamp with a billion nanoseconds or more.
    #[error("the timestamp has {0} ns in a second: its format is not what its Z flag says")]
    Nanoseconds(u32),
}

/// The format of a timestamp, from the Z flag of the error estimate (RFC 8186).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampFormat {
    /// Seconds since 1900 and binary fraction.
    #[default]
    Ntp,
    /// Seconds since 1970 and nanoseconds (IEEE 1588 truncated).
    Ptp,
}

/// Writes a time (nanoseconds since 1970).
#[must_use]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "parts of 64-bit nanoseconds; seconds beyond an era are cut off as the format has it"
)]
pub fn encode(unix_ns: i64, format: TimestampFormat) -> [u8; 8] {
    let (seconds, nanoseconds) = (unix_ns.div_euclid(SECOND_NS), unix_ns.rem_euclid(SECOND_NS) as u64);
    let (high, low) = match format {
        TimestampFormat::Ntp => {
            let fraction = ((nanoseconds << 32) + SECOND_NS as u64 / 2) / SECOND_NS as u64;
            (seconds + NTP_TO_UNIX_SECONDS as i64 + (fraction >> 32) as i64, fraction as u32)
        }
        TimestampFormat::Ptp => (seconds, nanoseconds as u32),
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(high as u32).to_be_bytes());
    bytes[4..].copy_from_slice(&low.to_be_bytes());
    bytes
}

/// Reads a time. `now_ns` decides whether small NTP seconds belong to the era that begins in 2036.
///
/// # Errors
/// [`TimestampError`].
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "2^33 seconds at most, which are 2^63 nanoseconds less the seventy years from 1900"
)]
pub fn decode(bytes: [u8; 8], format: TimestampFormat, now_ns: i64) -> Result<i64, TimestampError> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    match format {
        TimestampFormat::Ntp => {
            let era_1_begins = NTP_ERA_SECONDS - NTP_TO_UNIX_SECONDS as i64;
            // From a year before the wrap on, another host's clock may be ahead of it.
            let may_be_era_1 = now_ns / SECOND_NS > era_1_begins - 365 * 86_400;
            let mut seconds = i64::from(high) - NTP_TO_UNIX_SECONDS as i64;
            if high < 1 << 31 && may_be_era_1 {
                seconds += NTP_ERA_SECONDS;
            }
            if seconds < 0 {
                return Err(TimestampError::BeforeUnix(high));
            }
            Ok(seconds * SECOND_NS + ((u64::from(low) * SECOND_NS as u64 + (1 << 31)) >> 32) as i64)
        }
        TimestampFormat::Ptp if low >= SECOND_NS as u32 => Err(TimestampError::Nanoseconds(low)),
        TimestampFormat::Ptp => Ok(i64::from(high) * SECOND_NS + i64::from(low)),
    }
}

/// The error estimate of a timestamp: `S Z Scale(6) Multiplier(8)`, error = multiplier · 2^scale ·
/// 2^-32 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate(pub u16);

impl ErrorEstimate {
    /// The estimate of a clock. The multiplier is never zero, which would mark the timestamp
    /// invalid.
    #[must_use]
    pub fn new(quality: ClockQuality, format: TimestampFormat) -> Self {
        let units = u128::from(quality.error_us.max(1)) * (1 << 32) / 1_000_000;
        let scale = (0..63).find(|scale| units.div_ceil(1 << scale) <= 255).unwrap_or(63);
        let multiplier = units.div_ceil(1 << scale).clamp(1, 255) as u16;
        let z = u16::from(format == TimestampFormat::Ptp);
        Self(u16::from(quality.synchronized) << 15 | z << 14 | scale << 8 | multiplier)
    }

    /// Whether the clock is synchronized to UTC.
    #[must_use]
    pub const fn is_synchronized(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// The format of the timestamp beside it.
    #[must_use]
    pub const fn format(self) -> TimestampFormat {
        if self.0 & 0x4000 == 0 { TimestampFormat::Ntp } else { TimestampFormat::Ptp }
    }

    /// The error in microseconds; none if the multiplier is zero, which is invalid.
    #[must_use]
    #[expect(clippy::arithmetic_side_effects, reason = "8 bits, shifted by 63 at most and multiplied by 2^20, of 128")]
    pub fn error_us(self) -> Option<u64> {
        let (multiplier, scale) = (u128::from(self.0 & 0xff), u32::from(self.0 >> 8 & 0x3f));
        let us = ((multiplier << scale) * 1_000_000) >> 32;
        (multiplier > 0).then(|| u64::try_from(us).unwrap_or(u64::MAX))
    }

    /// As a clock's quality.
    #[must_use]
    pub fn quality(self) -> ClockQuality {
        match self.error_us() {
            Some(error_us) => ClockQuality { synchronized: self.is_synchronized(), error_us },
            None => ClockQuality::UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000 * SECOND_NS;

    #[test]
    fn known_times_have_their_bytes() {
        let time = 1_700_000_000 * SECOND_NS + SECOND_NS / 2;
        assert_eq!(encode(time, TimestampFormat::Ntp), [0xe8, 0xfe, 0x6f, 0x80, 0x80, 0, 0, 0]);
        assert_eq!(encode(time, TimestampFormat::Ptp), [0x65, 0x53, 0xf1, 0, 0x1d, 0xcd, 0x65, 0]);
    }

    #[test]
    fn a_millisecond_of_error_has_its_bits() {
        let quality = ClockQuality { synchronized: true, error_us: 1_000 };
        let estimate = ErrorEstimate::new(quality, TimestampFormat::Ntp);
        assert_eq!(estimate.0, 0x8f84);
        assert_eq!(estimate.error_us(), Some(1_007));
        assert_eq!(ErrorEstimate(0).error_us(), None);
    }

    #[test]
    fn times_before_1970_and_of_the_next_era() {
        assert_eq!(decode([0; 8], TimestampFormat::Ntp, NOW), Err(TimestampError::BeforeUnix(0)));
        let after_2036 = 2_200_000_000 * SECOND_NS;
        assert_eq!(decode(encode(after_2036, TimestampFormat::Ntp), TimestampFormat::Ntp, after_2036), Ok(after_2036));
        let too_many = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode(too_many, TimestampFormat::Ptp, NOW), Err(TimestampError::Nanoseconds(u32::MAX)));
    }

    proptest! {
        #[test]
        fn times_come_back(ns in 0..2_000_000_000i64 * SECOND_NS) {
            for format in [TimestampFormat::Ntp, TimestampFormat::Ptp] {
                let back = decode(encode(ns, format), format, NOW).unwrap();
                prop_assert!((back - ns).abs() <= 1, "{ns} became {back}");
            }
        }

        /// Any bytes, and any clock.
        #[test]
        fn whatever_a_packet_says_its_time_is_read_or_refused(bytes: [u8; 8], error: u16, now_ns: i64) {
            for format in [TimestampFormat::Ntp, TimestampFormat::Ptp] {
                if let Ok(ns) = decode(bytes, format, now_ns) {
                    prop_assert!(ns >= 0, "{ns}");
                }
            }
            let largest = (255u64 << 31) / (1 << 32) * 1_000_000;
            prop_assert!(ErrorEstimate(error).error_us().is_none_or(|us| us <= largest << 32), "{error}");
        }

        #[test]
        fn errors_are_never_understated(error_us in 1..1u64 << 40, synchronized: bool) {
            let estimate = ErrorEstimate::new(ClockQuality { synchronized, error_us }, TimestampFormat::Ntp);
            let back = estimate.error_us().unwrap();
            prop_assert!(back + 1 >= error_us && back <= error_us + error_us / 64 + 1, "{error_us} became {back}");
            prop_assert_eq!(estimate.is_synchronized(), synchronized);
        }
    }
}
