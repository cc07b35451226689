//! The key schedule: from the TLS exporter to one AES-GCM key per flow, direction and epoch.
//!
//! ```text
//! TLS exporter ──> transfer secret ──HKDF(flow id, direction)──> direction secret, epoch 0
//!                                                                   │ ──HKDF("key"), HKDF("iv")──> packet key 0
//!                                                                   └──HKDF("next")──> epoch 1 ──> packet key 1 …
//! ```
//!
//! AES-GCM's limits are reached in seconds at 100 Gb/s, so keys change with the upper bits of the
//! packet number (W-7), without any signaling. Each epoch's secret is derived from the previous one
//! by a one-way function, so a leaked key does not reveal what was sent earlier. Deriving a key
//! allocates memory. A lane therefore holds the key of the next epoch long before it needs it, and
//! has another thread derive the one after ([`KeySchedule`] is `Send`).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize as _, Zeroizing};

use crate::seal::{Cipher, PacketKey};

/// Bytes of every secret in the schedule.
pub const SECRET_BYTES: usize = 32;
/// The label under which both ends ask their TLS connection for the transfer secret (RFC 8446 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-culvert-transfer";

/// Which way a key's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the data's sender to its receiver.
    Forward,
    /// From the data's receiver back to the sender: answers to probes.
    Reverse,
}

/// A secret of the schedule. It stays in one place on the heap, so that moving it leaves no copies;
/// wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8; SECRET_BYTES]>);

impl Secret {
    /// Lets `fill` write a secret where it stays, for instance the TLS exporter.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn filled<E>(fill: impl FnOnce(&mut [u8; SECRET_BYTES]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; SECRET_BYTES]));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Takes a copy of bytes that the caller keeps or wipes.
    #[must_use]
    pub fn new(bytes: &[u8; SECRET_BYTES]) -> Self {
        let mut secret = Self(Box::new([0; SECRET_BYTES]));
        secret.0.copy_from_slice(bytes);
        secret
    }

    /// The secret's bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// HKDF-Expand with a labelled, length-prefixed info, so that no two derivations share an info.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::expect_used,
        reason = "labels and lengths are this module's own"
    )]
    fn expand(&self, label: &[u8], context: &[u8], out: &mut [u8]) {
        struct OutputBytes(usize);
        impl KeyType for OutputBytes {
            fn len(&self) -> usize {
                self.0
            }
        }
        let (label_bytes, context_bytes) = ([label.len() as u8], [context.len() as u8]);
        let info = [b"culvert 1 ".as_slice(), &label_bytes, label, &context_bytes, context];
        Prk::new_less_safe(HKDF_SHA256, self.expose())
            .expand(&info, OutputBytes(out.len()))
            .and_then(|okm| okm.fill(out))
            .expect("HKDF-SHA256 expands to far more bytes than a key has");
    }

    /// The secret of one flow and direction at epoch 0.
    #[must_use]
    pub fn for_flow(&self, flow_id: u32, direction: Direction) -> Self {
        let label: &[u8] = match direction {
            Direction::Forward => b"forward",
            Direction::Reverse => b"reverse",
        };
        let mut derived = Self(Box::new([0; SECRET_BYTES]));
        self.expand(label, &flow_id.to_be_bytes(), &mut derived.0[..]);
        derived
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}

impl Eq for Secret {}

/// For the data plane of the same node: the code that serializes it wipes what it wrote.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.expose().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Zeroizing::new(<[u8; SECRET_BYTES]>::deserialize(deserializer)?);
        Ok(Self::new(&bytes))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Makes the packet keys of one flow and direction, epoch after epoch.
#[derive(Debug)]
pub struct KeySchedule {
    cipher: Cipher,
    secret: Secret,
    epoch: u64,
}

impl KeySchedule {
    /// Begins at epoch 0 of the flow's direction.
    #[must_use]
    pub fn new(cipher: Cipher, transfer: &Secret, flow_id: u32, direction: Direction) -> Self {
        Self { cipher, secret: transfer.for_flow(flow_id, direction), epoch: 0 }
    }

    /// The key of the next epoch, and that epoch.
    pub fn next_key(&mut self) -> (u64, PacketKey) {
        //= W-7
        //# Each epoch has its own key, so no key encrypts more than 2²² packets: half of what RFC
        //# 9001, appendix B.1 allows for packets above 2 KiB.
        let mut room = Zeroizing::new([0; 32]);
        let key = room.get_mut(..self.cipher.key_bytes()).unwrap_or_default();
        self.secret.expand(b"key", &[], key);
        let mut iv = [0; 12];
        self.secret.expand(b"iv", &[], &mut iv);
        let packet_key = PacketKey::new(self.cipher, key, iv);
        drop(room);

        let mut next = Secret(Box::new([0; SECRET_BYTES]));
        self.secret.expand(b"next", &[], &mut next.0[..]);
        self.secret = next;
        let epoch = self.epoch;
        self.epoch = self.epoch.saturating_add(1);
        (epoch, packet_key)
    }

    /// The key of `epoch`, if it is the next one; keys come in order, each once.
    pub fn key_of(&mut self, epoch: u64) -> Option<PacketKey> {
        (epoch == self.epoch).then(|| self.next_key().1)
    }
}

/// The keys that a flow holds at any time: of the previous epoch, the current one and the next.
///
/// The previous key decrypts segments that were in flight when the epoch changed; the next exists
/// before the first segment that needs it. The owner of the window refills it with
/// [`KeyWindow::push`] when [`KeyWindow::wants`] asks for it.
#[derive(Debug)]
pub struct KeyWindow {
    epoch: u64,
    previous: Option<PacketKey>,
    current: PacketKey,
    next: Option<PacketKey>,
}

impl KeyWindow {
    /// A window at epoch 0, with the first two keys of `schedule`.
    pub fn new(schedule: &mut KeySchedule) -> Self {
        let (epoch, current) = schedule.next_key();
        // Invariant I-keys-start: A key window begins at epoch 0 of its schedule.
        assert_eq!(epoch, 0, "the key schedule was used before its window");
        Self { epoch, previous: None, current, next: Some(schedule.next_key().1) }
    }

    /// The key of `epoch`, if the window holds it.
    #[inline]
    #[must_use]
    pub fn key(&self, epoch: u64) -> Option<&PacketKey> {
        //= W-7
        //# The receiver accepts the current epoch, the previous one while its packets may still be
        //# in flight, and the next.
        match epoch.wrapping_sub(self.epoch) {
            0 => Some(&self.current),
            1 => self.next.as_ref(),
            u64::MAX => self.previous.as_ref(),
            _ => None,
        }
    }

    /// Moves on when `epoch` is the next one, because a segment was sealed or authentically opened
    /// under it.
    #[inline]
    pub fn advance_to(&mut self, epoch: u64) {
        if epoch.wrapping_sub(self.epoch) == 1
            && let Some(next) = self.next.take()
        {
            self.previous = Some(std::mem::replace(&mut self.current, next));
            self.epoch = epoch;
        }
    }

    /// The epoch whose key is missing, if one is.
    #[inline]
    #[must_use]
    pub fn wants(&self) -> Option<u64> {
        self.next.is_none().then_some(self.epoch.saturating_add(1))
    }

    /// Takes the key that [`KeyWindow::wants`] asked for; any other key is dropped.
    pub fn push(&mut self, epoch: u64, key: PacketKey) {
        if self.wants() == Some(epoch) {
            self.next = Some(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TAG_BYTES;

    fn schedule(flow_id: u32, direction: Direction) -> KeySchedule {
        KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[3; 32]), flow_id, direction)
    }

    fn fingerprint(key: &PacketKey) -> Vec<u8> {
        let mut sealed = vec![0; 16 + TAG_BYTES];
        key.seal(0, &[0; 32], &[0; 16], &mut sealed);
        sealed
    }

    #[test]
    fn flows_directions_and_epochs_have_different_keys() {
        //= W-7
        //# Each epoch has its own key
        let mut seen = std::collections::HashSet::new();
        for flow_id in [1, 2, 256] {
            for direction in [Direction::Forward, Direction::Reverse] {
                let mut schedule = schedule(flow_id, direction);
                for epoch in 0..4 {
                    let (made, key) = schedule.next_key();
                    assert_eq!(made, epoch);
                    assert!(seen.insert(fingerprint(&key)), "flow {flow_id} {direction:?} epoch {epoch} repeats a key");
                }
            }
        }
    }

    #[test]
    fn both_ends_derive_the_same_keys() {
        let (mut ours, mut theirs) = (schedule(9, Direction::Forward), schedule(9, Direction::Forward));
        for _ in 0..3 {
            assert_eq!(fingerprint(&ours.next_key().1), fingerprint(&theirs.next_key().1));
        }
    }

    #[test]
    fn the_window_holds_the_neighboring_epochs_only() {
        //= W-7
        //# The receiver accepts the current epoch, the previous one while its packets may still be
        //# in flight, and the next.
        let mut schedule = schedule(1, Direction::Forward);
        let mut window = KeyWindow::new(&mut schedule);
        assert!(window.key(0).is_some() && window.key(1).is_some() && window.key(2).is_none());
        assert_eq!(window.wants(), None);

        window.advance_to(1);
        assert_eq!(window.wants(), Some(2));
        assert!(window.key(0).is_some() && window.key(1).is_some() && window.key(2).is_none());

        let (epoch, key) = schedule.next_key();
        window.push(epoch, key);
        window.advance_to(2);
        assert!(window.key(0).is_none(), "two epochs back is forgotten");
        assert!(window.key(1).is_some() && window.key(2).is_some());
    }

    #[test]
    fn an_epoch_whose_key_is_missing_does_not_advance() {
        let mut schedule = schedule(1, Direction::Forward);
        let mut window = KeyWindow::new(&mut schedule);
        window.advance_to(1);
        window.advance_to(2);
        assert_eq!(window.wants(), Some(2));
        assert!(window.key(0).is_some());
    }
}
