//! Predicts the receive queue of a flow by computing the NIC's hash over addresses and ports.
//!
//! A NIC with several queues hashes each packet's addresses and ports (Toeplitz, with the driver's
//! key) and looks the lowest bits up in an indirection table. Key, table and hashed fields are
//! readable without privilege, so a receiver can compute the queue of a flow in advance, and the
//! source port that moves it to another queue. Source: Microsoft's "RSS Hashing Types"
//! and the verification suite beside it; include/uapi/linux/ethtool.h (`ETHTOOL_GRSSH`,
//! `ETHTOOL_GRXFH`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::kernel_calls;

/// A NIC's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveHash {
    key: Vec<u8>,
    /// The queue of each value of the hash's lowest bits.
    indirection: Vec<u32>,
    v4: HashedFields,
    v6: HashedFields,
}

/// The fields of a UDP packet that are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashedFields {
    Addresses,
    AddressesAndPorts,
}

/// Why a NIC's hash cannot be predicted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveHashError {
    /// The driver does not report it.
    #[error("the driver does not report its receive hash: {0}")]
    Unreadable(#[from] io::Error),
    /// This program does not know the hash function.
    #[error("the receive hash is not Toeplitz over addresses, or addresses and ports")]
    Unknown,
}

impl ReceiveHash {
    /// Reads the hash of an interface. Needs no privilege.
    ///
    /// # Errors
    /// [`ReceiveHashError`].
    pub fn read(interface: &str) -> Result<Self, ReceiveHashError> {
        let parameters = kernel_calls::receive_hash(interface)?;
        let fields = |flow: &str| match kernel_calls::flow_hash(interface, flow)?.as_str() {
            "sd" => Ok(HashedFields::Addresses),
            "sdfn" => Ok(HashedFields::AddressesAndPorts),
            _ => Err(ReceiveHashError::Unknown),
        };
        let hash =
            Self { key: parameters.key, indirection: parameters.indirection, v4: fields("udp4")?, v6: fields("udp6")? };
        if parameters.is_plain_toeplitz && hash.is_usable() { Ok(hash) } else { Err(ReceiveHashError::Unknown) }
    }

    /// A hash with this key over addresses and ports, with this table.
    #[must_use]
    pub const fn new(key: Vec<u8>, indirection: Vec<u32>) -> Self {
        Self { key, indirection, v4: HashedFields::AddressesAndPorts, v6: HashedFields::AddressesAndPorts }
    }

    fn is_usable(&self) -> bool {
        // The key is four bytes longer than the longest input, 36 bytes.
        self.key.len() >= 40 && self.indirection.len().is_power_of_two()
    }

    /// Whether the source port of a flow from `source` changes its queue.
    #[must_use]
    pub fn counts_ports(&self, source: IpAddr) -> bool {
        (if source.is_ipv4() { self.v4 } else { self.v6 }) == HashedFields::AddressesAndPorts
    }

    /// The queue of UDP packets from `source` to `destination`; `None` if they are of different
    /// families.
    #[must_use]
    pub fn queue_of(&self, source: SocketAddr, destination: SocketAddr) -> Option<u32> {
        let value = toeplitz(&self.key, &self.input(source, destination)?);
        self.indirection.get(value as usize & (self.indirection.len() - 1)).copied()
    }

    /// The hash's input, in packet order.
    fn input(&self, source: SocketAddr, destination: SocketAddr) -> Option<Vec<u8>> {
        let mut input = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
            (IpAddr::V6(source), IpAddr::V6(destination)) => [source.octets(), destination.octets()].concat(),
            _ => return None,
        };
        if self.counts_ports(source.ip()) {
            input.extend(source.port().to_be_bytes());
            input.extend(destination.port().to_be_bytes());
        }
        Some(input)
    }
}

/// XORs, for every set bit of `input`, the 32 bits of the key that start at its position. A key
/// that is too short is padded with zeros.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let mut hash = 0;
    for (at, bits) in input.iter().enumerate() {
        let window = (at..at + 5).fold(0, |window, at| (window << 8) | byte(at));
        for bit in (0..8).filter(|bit| bits & (0x80 >> bit) != 0) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the verification suite.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn value(hash: &ReceiveHash, source: &str, destination: &str) -> u32 {
        toeplitz(&hash.key, &hash.input(source.parse().unwrap(), destination.parse().unwrap()).unwrap())
    }

    #[test]
    fn the_verification_suite_agrees() {
        let with_ports = ReceiveHash::new(KEY.to_vec(), vec![0]);
        let without = ReceiveHash { v4: HashedFields::Addresses, v6: HashedFields::Addresses, ..with_ports.clone() };
        for (source, destination, addresses, ports) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0_a5de, 0x5c2b_394a),
            ("38.27.205.30:48228", "209.142.163.6:2217", 0x8298_9176, 0xafc7_327f),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x5d18_09c5, 0x10e8_28a2),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc1_8cd5, 0x4020_7d3d),
            ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c_461c, 0xdde5_1bbf),
            (
                "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
                "[fe80::200:f8ff:fe21:67cf]:38024",
                0x4b61_e985,
                0x02d1_feef,
            ),
        ] {
            assert_eq!(value(&without, source, destination), addresses, "{source}");
            assert_eq!(value(&with_ports, source, destination), ports, "{source}");
        }
    }

    #[test]
    fn the_lowest_bits_choose_the_queue() {
        let hash = ReceiveHash::new(KEY.to_vec(), (0..8).collect());
        let of = |source: &str, destination: &str| hash.queue_of(source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(of("66.9.149.187:2794", "161.142.100.80:1766"), Some(0));
        assert_eq!(of("199.92.111.2:14230", "65.69.140.83:4739"), Some(2));
        assert_eq!(of("153.39.163.191:44251", "[ff02::1]:1303"), None);
    }

    #[test]
    fn a_driver_without_a_hash_says_so() {
        let error = ReceiveHash::read("lo").unwrap_err();
        assert!(matches!(error, ReceiveHashError::Unreadable(_)), "{error}");
    }
}
