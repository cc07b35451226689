//! Sealing one segment with AES-GCM: out of place, so that the cipher's pass over the data is also
//! the only copy between a chunk buffer and a packet.
//!
//! AWS-LC does it, three to five times faster than the portable implementation on the machines this
//! was measured on (`docs/decisions/0002-aead.md`). The tests hold every sealed vector against the
//! `aes-gcm` crate.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::wire::{HEADER_BYTES, TAG_BYTES};

/// The cipher of a transfer, agreed upon before its first segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// The default.
    #[default]
    Aes256Gcm,
    /// On request; 15 to 40 % cheaper.
    Aes128Gcm,
}

impl Cipher {
    /// Bytes of a key.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes256Gcm => 32,
            Self::Aes128Gcm => 16,
        }
    }

    /// The name that users type and read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Aes128Gcm => "aes-128-gcm",
        }
    }
}

impl std::str::FromStr for Cipher {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Aes256Gcm, Self::Aes128Gcm]
            .into_iter()
            .find(|cipher| cipher.name() == name)
            .ok_or_else(|| format!("unknown cipher '{name}': write aes-256-gcm or aes-128-gcm"))
    }
}

/// A segment that the key does not authenticate. Nothing else is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the segment does not authenticate")]
pub struct NotAuthentic;

/// The key of one flow, direction and epoch.
pub struct PacketKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl std::fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketKey(..)")
    }
}

impl PacketKey {
    /// Makes the key from key material of the key schedule.
    ///
    /// # Panics
    /// If `key` has not [`Cipher::key_bytes`] bytes: the key schedule is the only caller.
    #[must_use]
    #[expect(clippy::expect_used, reason = "keys come from the key schedule, in the cipher's length")]
    pub fn new(cipher: Cipher, key: &[u8], iv: [u8; NONCE_LEN]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Aes128Gcm => &AES_128_GCM,
        };
        let key = UnboundKey::new(algorithm, key).expect("the key schedule makes keys of the cipher's length");
        Self { key: LessSafeKey::new(key), iv }
    }

    #[inline]
    fn nonce(&self, packet_number: u64) -> Nonce {
        //= W-6
        //# The nonce is the direction's 12-byte IV XORed with the packet number (RFC 9001, section
        //# 5.3).
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(packet_number.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `payload` into `sealed`, which is as long as the payload and a tag.
    ///
    /// # Panics
    /// If the lengths do not agree.
    #[inline]
    #[expect(clippy::expect_used, reason = "what is sealed is this node's own, and of a segment's size")]
    pub fn seal(&self, packet_number: u64, header: &[u8; HEADER_BYTES], payload: &[u8], sealed: &mut [u8]) {
        //= W-6
        //# The header is the additional authenticated data.
        let (ciphertext, tag) = sealed.split_at_mut(payload.len());
        self.key
            .seal_out_of_place_scatter(self.nonce(packet_number), Aad::from(header), payload, ciphertext, &[], tag)
            .expect("AES-GCM seals every segment whose buffers agree in length");
    }

    /// Decrypts `sealed` (ciphertext and tag) into `payload` if it is authentic.
    ///
    /// On failure `payload` holds unspecified bytes, so callers never open over bytes that they
    /// still need (W-10).
    ///
    /// # Errors
    /// [`NotAuthentic`] if header, ciphertext or tag are not what the key's holder sealed.
    #[inline]
    pub fn open(
        &self,
        packet_number: u64,
        header: &[u8; HEADER_BYTES],
        sealed: &[u8],
        payload: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
            return Err(NotAuthentic);
        };
        self.key
            .open_separate_gather(self.nonce(packet_number), Aad::from(header), ciphertext, tag, payload)
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use proptest::prelude::*;

    /// The same segment through the independent implementation.
    fn seal_with_the_other(cipher: Cipher, key: &[u8], nonce: [u8; 12], header: &[u8], payload: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: payload, aad: header };
        let nonce = aes_gcm::Nonce::from(nonce);
        match cipher {
            Cipher::Aes256Gcm => aes_gcm::Aes256Gcm::new_from_slice(key).unwrap().encrypt(&nonce, payload),
            Cipher::Aes128Gcm => aes_gcm::Aes128Gcm::new_from_slice(key).unwrap().encrypt(&nonce, payload),
        }
        .unwrap()
    }

    fn any_cipher() -> impl Strategy<Value = Cipher> {
        prop_oneof![Just(Cipher::Aes256Gcm), Just(Cipher::Aes128Gcm)]
    }

    proptest! {
        #[test]
        fn both_implementations_seal_the_same_bytes(cipher in any_cipher(), key: [u8; 32], iv: [u8; 12], number: u64,
                                                   header: [u8; 32], payload in proptest::collection::vec(any::<u8>(), 0..9000)) {
            //= W-6
            //# The header is the additional authenticated data. The nonce is the direction's
            //# 12-byte IV XORed with the packet number (RFC 9001, section 5.3).
            let key = &key[..cipher.key_bytes()];
            let ours = PacketKey::new(cipher, key, iv);
            let mut sealed = vec![0; payload.len() + TAG_BYTES];
            ours.seal(number, &header, &payload, &mut sealed);

            let mut nonce = iv;
            let low = u64::from_be_bytes(nonce[4..].try_into().unwrap()) ^ number;
            nonce[4..].copy_from_slice(&low.to_be_bytes());
            prop_assert_eq!(&sealed, &seal_with_the_other(cipher, key, nonce, &header, &payload));

            let mut opened = vec![0; payload.len()];
            prop_assert_eq!(ours.open(number, &header, &sealed, &mut opened), Ok(()));
            prop_assert_eq!(opened, payload);
        }

        #[test]
        fn any_changed_bit_is_noticed(number: u64, header: [u8; 32], payload in proptest::collection::vec(any::<u8>(), 1..200),
                                      at: prop::sample::Index, bit in 0..8u8) {
            let key = PacketKey::new(Cipher::Aes256Gcm, &[7; 32], [9; 12]);
            let mut sealed = vec![0; payload.len() + TAG_BYTES];
            key.seal(number, &header, &payload, &mut sealed);
            let mut opened = vec![0; payload.len()];

            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1 << bit;
            prop_assert_eq!(key.open(number, &header, &changed, &mut opened), Err(NotAuthentic));

            let mut other_header = header;
            other_header[at.index(header.len())] ^= 1 << bit;
            prop_assert_eq!(key.open(number, &other_header, &sealed, &mut opened), Err(NotAuthentic));
            prop_assert_eq!(key.open(number ^ 1, &header, &sealed, &mut opened), Err(NotAuthentic));
        }
    }

    #[test]
    fn too_short_to_hold_a_tag_is_not_authentic() {
        let key = PacketKey::new(Cipher::Aes128Gcm, &[0; 16], [0; 12]);
        assert_eq!(key.open(0, &[0; 32], &[0; 15], &mut []), Err(NotAuthentic));
    }
}
