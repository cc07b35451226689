//! How a request's data is moved.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::field_fault::FieldFault;
use crate::whole_number;

/// Flows of one request at most: what nodes permit.
const FLOWS_MAX: u32 = 256;
/// Addresses of one end at most.
const ADDRESSES_MAX: usize = 16;
/// Patterns of one kind at most.
const PATTERNS_MAX: usize = 100;
/// Bytes of a pattern at most: those of a path.
const PATTERN_BYTES_MAX: usize = 4_096;

/// How others on the path are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The path is shared.
    #[default]
    Fair,
    /// Others go first.
    Background,
    /// Exactly the rate, for reserved circuits.
    Fixed,
}

/// What protects the data on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Cipher {
    /// AES-GCM with 256 bits.
    #[default]
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// AES-GCM with 128 bits.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
}

/// What becomes of files that are there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overwrite {
    /// They must be the same; any other refuses the transfer before its first byte.
    #[default]
    Never,
    /// Those that differ in size or time are replaced.
    Changed,
    /// Large ones are compared by their hashes, and only what differs is sent.
    Content,
    /// All are replaced.
    Always,
}

/// Which digest is made of everything that is moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DigestAlgorithm {
    /// BLAKE3, keyed if there is a key.
    #[default]
    Blake3,
    /// SHA-256, as HMAC if there is a key.
    Sha256,
    /// None.
    None,
}

/// A digest of everything that is moved, which both ends compute and compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Digest {
    /// Which.
    pub algorithm: DigestAlgorithm,
    /// A key of 32 bytes in hexadecimal: who does not have it cannot make a digest that fits.
    #[schema(min_length = 64, max_length = 64, pattern = "^[0-9a-fA-F]{64}$")]
    pub key: Option<String>,
}

/// Addresses to use at each end; those of the profiles if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Addresses {
    /// Of the sender.
    #[schema(max_items = 16, value_type = Vec<String>)]
    pub sender: Vec<IpAddr>,
    /// Of the receiver.
    #[schema(max_items = 16, value_type = Vec<String>)]
    pub receiver: Vec<IpAddr>,
}

/// How a request's data is moved. Every field has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many flows, on as many threads; the nodes choose if absent.
    #[schema(minimum = 1, maximum = 256)]
    #[serde(deserialize_with = "whole_number::of_json_or_null")]
    pub flows: Option<u32>,
    /// Addresses to use.
    pub addresses: Addresses,
    /// UDP ports to use, for example `7273-7276`; those of the profiles if absent.
    #[schema(max_length = 64)]
    pub ports: Option<String>,
    /// The rate at most, in bits per second; what the path carries if absent.
    #[schema(minimum = 1_000)]
    pub rate_bits_per_second: Option<u64>,
    /// How others on the path are treated.
    pub mode: Mode,
    /// What protects the data on the way.
    pub cipher: Cipher,
    /// A digest of everything.
    pub digest: Digest,
    /// What becomes of files that are there already.
    pub overwrite: Overwrite,
    /// Whether modes and the times of directories are set exactly.
    pub preserve: bool,
    /// Only what fits one of these patterns; everything if empty.
    #[schema(max_items = 100)]
    pub include: Vec<String>,
    /// Not what fits one of these patterns.
    #[schema(max_items = 100)]
    pub exclude: Vec<String>,
    /// Whether files at the destination that the sender does not have are deleted.
    pub delete: bool,
}

impl Config {
    /// Checks that it can mean something.
    ///
    /// # Errors
    /// [`FieldFault`] of the first field that cannot.
    pub fn check(&self) -> Result<(), FieldFault> {
        if self.flows.is_some_and(|flows| !(1..=FLOWS_MAX).contains(&flows)) {
            return Err(FieldFault::new("config.flows", format!("the number of flows must be 1 to {FLOWS_MAX}")));
        }
        if let Some(ports) = &self.ports {
            check_ports(ports)?;
        }
        self.check_rate()?;
        self.check_digest()?;
        check_addresses("config.addresses.sender", &self.addresses.sender)?;
        check_addresses("config.addresses.receiver", &self.addresses.receiver)?;
        check_patterns("config.include", &self.include)?;
        check_patterns("config.exclude", &self.exclude)
    }

    fn check_rate(&self) -> Result<(), FieldFault> {
        let field = "config.rate_bits_per_second";
        match self.rate_bits_per_second {
            Some(..1_000) => Err(FieldFault::new(field, "the rate must be at least 1000 bits per second")),
            None if self.mode == Mode::Fixed => {
                Err(FieldFault::new(field, "mode 'fixed' sends at exactly one rate: say which"))
            }
            _ => Ok(()),
        }
    }

    fn check_digest(&self) -> Result<(), FieldFault> {
        let field = "config.digest.key";
        let Some(key) = &self.digest.key else { return Ok(()) };
        if self.digest.algorithm == DigestAlgorithm::None {
            return Err(FieldFault::new(field, "a key belongs to a digest; algorithm is 'none'"));
        }
        if key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(())
        } else {
            Err(FieldFault::new(field, "a key has 32 bytes, which are 64 hexadecimal digits"))
        }
    }
}

fn check_addresses(field: &'static str, addresses: &[IpAddr]) -> Result<(), FieldFault> {
    if addresses.len() > ADDRESSES_MAX {
        let detail = format!("there are {}; at most {ADDRESSES_MAX} are permitted", addresses.len());
        return Err(FieldFault::new(field, detail));
    }
    match addresses.iter().find(|address| address.is_unspecified() || address.is_multicast()) {
        Some(address) => Err(FieldFault::new(field, format!("{address} is not the address of one host"))),
        None => Ok(()),
    }
}

fn check_patterns(field: &'static str, patterns: &[String]) -> Result<(), FieldFault> {
    if patterns.len() > PATTERNS_MAX {
        let detail = format!("there are {}; at most {PATTERNS_MAX} are permitted", patterns.len());
        return Err(FieldFault::new(field, detail));
    }
    let is_wrong =
        |pattern: &&String| pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.contains('\0');
    match patterns.iter().find(is_wrong) {
        Some(_) => {
            let detail = format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes, and none of them is NUL");
            Err(FieldFault::new(field, detail))
        }
        None => Ok(()),
    }
}

/// Ports and ranges of ports, with commas between.
fn check_ports(text: &str) -> Result<(), FieldFault> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    let is_range = |item: &str| match item.split_once('-') {
        Some((first, last)) => port(first).zip(port(last)).is_some_and(|(first, last)| first <= last),
        None => port(item).is_some(),
    };
    if text.len() <= 64 && text.split(',').all(is_range) {
        Ok(())
    } else {
        Err(FieldFault::new("config.ports", "ports are written like 7273-7276, or 7273,7280; each is 1 to 65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> (&'static str, String) {
        let config: Config = serde_json::from_str(json).unwrap();
        let fault = config.check().unwrap_err();
        (fault.field, fault.detail)
    }

    #[test]
    fn nothing_needs_to_be_said() {
        let config: Config = serde_json::from_str("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn everything_can_be_said() {
        let key = "ab".repeat(32);
        let text = format!(
            r#"{{"flows": 4, "addresses": {{"sender": ["192.0.2.1"], "receiver": ["2001:db8::1"]}},
                "ports": "7273-7276,7280", "rate_bits_per_second": 10000000000, "mode": "fixed",
                "cipher": "aes-128-gcm", "digest": {{"algorithm": "sha256", "key": "{key}"}}, "overwrite": "content",
                "preserve": true, "include": ["*.h5"], "exclude": ["tmp/**"], "delete": true}}"#
        );
        let config: Config = serde_json::from_str(&text).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn what_cannot_mean_anything_is_named() {
        let wrong = [
            (r#"{"flows": 0}"#, "config.flows"),
            (r#"{"flows": 257}"#, "config.flows"),
            (r#"{"ports": ""}"#, "config.ports"),
            (r#"{"ports": "0"}"#, "config.ports"),
            (r#"{"ports": "65536"}"#, "config.ports"),
            (r#"{"ports": "7276-7273"}"#, "config.ports"),
            (r#"{"ports": "7273-7276-7280"}"#, "config.ports"),
            (r#"{"ports": "+1"}"#, "config.ports"),
            (r#"{"rate_bits_per_second": 0}"#, "config.rate_bits_per_second"),
            (r#"{"mode": "fixed"}"#, "config.rate_bits_per_second"),
            (r#"{"digest": {"key": "ab"}}"#, "config.digest.key"),
            (r#"{"digest": {"algorithm": "none", "key": "ab"}}"#, "config.digest.key"),
            (r#"{"addresses": {"sender": ["0.0.0.0"]}}"#, "config.addresses.sender"),
            (r#"{"addresses": {"receiver": ["ff02::1"]}}"#, "config.addresses.receiver"),
            (r#"{"include": [""]}"#, "config.include"),
            (r#"{"exclude": ["a\u0000b"]}"#, "config.exclude"),
        ];
        for (json, field) in wrong {
            assert_eq!(fault(json).0, field, "{json}");
        }
        for unknown in
            [r#"{"flow": 4}"#, r#"{"digest": {"algorithm": "md5"}}"#, r#"{"addresses": {"sender": ["host"]}}"#]
        {
            assert!(serde_json::from_str::<Config>(unknown).is_err(), "{unknown}");
        }
    }
}
