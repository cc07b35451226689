//! Hashes of passwords: argon2id (RFC 9106), as expensive as this host can afford.
//!
//! Hashing is the one thing that strangers can make the portal do at length. So only a few run at a
//! time, and those who come from networks that their account is known to be used from have a place
//! of their own: an attack from elsewhere does not make them wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use culvert_portal_model::problem::Problem;
use culvert_portal_seams::randomness::{Randomness, bytes};
use tokio::sync::Semaphore;

use crate::fault::Fault;

/// The least that OWASP recommends (Password Storage Cheat Sheet, 2025). Of its choices, which are
/// equally strong, the one with the most memory: allocators give blocks of more than 32 MiB back to
/// the system at once, and keep smaller ones, for each thread that has ever hashed.
pub const LEAST: Cost = Cost { memory_kib: 46 * 1024, passes: 1 };
/// What one hash should take. More keeps people waiting, and attackers too.
const TARGET: Duration = Duration::from_millis(100);
/// The most memory of one hash.
const MEMORY_MAX_KIB: u32 = 64 * 1024;
/// The most passes.
const PASSES_MAX: u32 = 8;

/// What one hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// From a network that the account is known to be used from.
    Known,
    /// From anywhere else.
    Unknown,
}

/// Hashes passwords, and compares them.
#[derive(Debug)]
pub struct Passwords {
    cost: Cost,
    known: Arc<Semaphore>,
    unknown: Arc<Semaphore>,
    /// Compared when there is no account, so that this takes as long as when there is.
    decoy: String,
}

impl Passwords {
    /// For a cost.
    ///
    /// # Errors
    /// [`Fault`] if the library refuses it.
    pub fn new(cost: Cost, randomness: &dyn Randomness) -> Result<Self, Fault> {
        let decoy = hash_now(cost, b"nobody has this password", &bytes::<16>(randomness))?;
        let place = || Arc::new(Semaphore::new(1));
        Ok(Self { cost, known: place(), unknown: place(), decoy })
    }

    /// Measures what this host can afford.
    ///
    /// # Errors
    /// [`Fault`] if the library refuses even the least.
    pub fn measured(randomness: &dyn Randomness) -> Result<Self, Fault> {
        let began = Instant::now();
        hash_now(LEAST, b"a password of usual length", &bytes::<16>(randomness))?;
        Self::new(affordable(began.elapsed()), randomness)
    }

    /// What one hash costs.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// [`Fault`] if too many wait.
    pub async fn hash(&self, password: &str, randomness: &dyn Randomness) -> Result<String, Fault> {
        let (cost, password, salt) = (self.cost, password.to_owned(), bytes::<16>(randomness));
        self.in_turn(Place::Known, move || hash_now(cost, password.as_bytes(), &salt)).await?
    }

    /// Whether a password is the one of a hash. Without a hash it takes as long, and is not.
    ///
    /// # Errors
    /// [`Fault`] if too many wait.
    pub async fn is_right(&self, password: &str, hash: Option<&str>, place: Place) -> Result<bool, Fault> {
        let (exists, hash) = (hash.is_some(), hash.unwrap_or(&self.decoy).to_owned());
        let password = password.to_owned();
        let right = self.in_turn(place, move || is_right_now(&password, &hash)).await?;
        Ok(exists && right)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let places = match place {
            Place::Known => &self.known,
            Place::Unknown => &self.unknown,
        };
        // The permit goes with the work: a client that goes away does not make room for more.
        let permit = tokio::time::timeout(Duration::from_secs(10), places.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Fault {
                retry_after_seconds: Some(5),
                ..Fault::new(Problem::TooMany, "too many people are logging in: try again in 5 s")
            });
        };
        let work = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        work.await.map_err(Fault::internal)
    }
}

/// What a host can afford on which the least takes so long.
fn affordable(least: Duration) -> Cost {
    let times = (TARGET.as_secs_f64() / least.as_secs_f64().max(0.001)).clamp(1.0, 16.0);
    // Memory first: it is what makes guessing in parallel expensive.
    let memory = (f64::from(LEAST.memory_kib) * times).min(f64::from(MEMORY_MAX_KIB));
    let memory_kib = (memory / 1024.0) as u32 * 1024;
    let left = times * f64::from(LEAST.memory_kib) / f64::from(memory_kib);
    let passes = ((f64::from(LEAST.passes) * left) as u32).clamp(LEAST.passes, PASSES_MAX);
    Cost { memory_kib, passes }
}

fn argon2(cost: Cost) -> Result<Argon2<'static>, Fault> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, None).map_err(Fault::internal)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(cost: Cost, password: &[u8], salt: &[u8]) -> Result<String, Fault> {
    let hash: PasswordHash = argon2(cost)?.hash_password_with_salt(password, salt).map_err(Fault::internal)?;
    Ok(hash.to_string())
}

/// With the cost that is written in the hash, whatever the cost of new ones is.
fn is_right_now(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use culvert_portal_seams::randomness::SystemRandomness;

    use super::*;

    #[tokio::test]
    async fn a_password_is_compared_with_its_hash_and_nobodys_is_never_right() {
        let passwords = Passwords::new(Cost { memory_kib: 64, passes: 1 }, &SystemRandomness).unwrap();
        let hash = passwords.hash("correct horse battery", &SystemRandomness).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert!(passwords.is_right("correct horse battery", Some(&hash), Place::Known).await.unwrap());
        assert!(!passwords.is_right("correct horse batter", Some(&hash), Place::Known).await.unwrap());
        assert!(!passwords.is_right("nobody has this password", None, Place::Unknown).await.unwrap());
        assert!(!passwords.is_right("x", Some("not a hash"), Place::Unknown).await.unwrap());
        let other = passwords.hash("correct horse battery", &SystemRandomness).await.unwrap();
        assert_ne!(hash, other, "each has its salt");
    }

    #[test]
    fn faster_hosts_pay_more_and_none_less_than_the_least() {
        let of = |milliseconds| affordable(Duration::from_millis(milliseconds));
        assert_eq!(of(1_000), LEAST);
        assert_eq!(of(100), LEAST);
        assert!(of(50).memory_kib > LEAST.memory_kib && of(50).passes == 1);
        assert!(of(5).memory_kib == MEMORY_MAX_KIB && of(5).passes > 2);
        assert!(of(0).passes <= PASSES_MAX);
    }
}
