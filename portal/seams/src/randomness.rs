//! Random bytes for keys, tokens, codes and identifiers.

use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};

/// Where random bytes come from.
pub trait Randomness: Send + Sync + std::fmt::Debug {
    /// Fills a buffer with bytes that nobody can foresee.
    fn fill(&self, buffer: &mut [u8]);
}

/// `N` random bytes.
pub fn bytes<const N: usize>(source: &dyn Randomness) -> [u8; N] {
    let mut buffer = [0; N];
    source.fill(&mut buffer);
    buffer
}

/// The library's generator, seeded by the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    /// # Panics
    /// If the kernel has no randomness: no secret may be made then.
    fn fill(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer).expect("the kernel provides randomness");
    }
}

/// Repeats its bytes from a seed. Only for tests: anybody who knows the seed knows the secrets.
#[derive(Debug)]
pub struct SeededRandomness(Mutex<(u64, u64)>);

impl SeededRandomness {
    /// One that gives the same bytes whenever it has the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new((seed, 0)))
    }
}

impl Randomness for SeededRandomness {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for piece in buffer.chunks_mut(32) {
            let block = digest(&SHA256, &[state.0.to_le_bytes(), state.1.to_le_bytes()].concat());
            piece.copy_from_slice(&block.as_ref()[..piece.len()]);
            state.1 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_bytes_and_another_has_others() {
        let (one, again, other) = (SeededRandomness::new(1), SeededRandomness::new(1), SeededRandomness::new(2));
        let first: [u8; 70] = bytes(&one);
        assert_eq!(first, bytes::<70>(&again));
        assert_ne!(first, bytes::<70>(&other));
        assert_ne!(first, bytes::<70>(&one), "the stream goes on");
    }

    #[test]
    fn the_systems_bytes_differ() {
        assert_ne!(bytes::<32>(&SystemRandomness), bytes::<32>(&SystemRandomness));
    }
}
