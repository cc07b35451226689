//! The places of path checks that this node answers: one for each partner, so that none keeps the
//! others waiting.
//!
//! What two checks cannot have at the same time is shared in turns, each of a few seconds at most:
//! the probes' port until a check's first probe has shown where its probes come from, and the path
//! while a train crosses it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_perfsonar::socket::ProbeSocket;
use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::identity::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Checks that are answered at once, of different partners. Each has a socket, its buffers, and a
/// thread.
pub const CHECKS_MAX: usize = 8;
/// How long a check waits for the probes' port. The initiator waits for ten seconds.
const PORT_WAIT: Duration = Duration::from_secs(9);
/// How long a check has the port for itself: permission, first step and first probe take two round
/// trips.
const FIRST_PROBE: Duration = Duration::from_secs(4);
/// How long a train has the path for itself: a second, its tail, and the messages around it.
pub const TRAIN_TURN: Duration = Duration::from_secs(3);
/// The port that a socket whose first probe has not come in time is connected to, so that it takes
/// nothing of others: discard.
const NOWHERE: u16 = 9;

/// The slots, and the results of requests.
#[derive(Debug)]
pub struct SlotPool {
    partners: Mutex<HashSet<PublicKey>>,
    port: Arc<Semaphore>,
    path: Arc<Semaphore>,
    /// What was counted.
    pub counters: CheckCounters,
}

/// What became of checks.
#[derive(Debug, Default)]
pub struct CheckCounters {
    /// Answered to their end.
    pub answered: AtomicU64,
    /// Refused: the partner has a check already, all places are taken, or the port did not become
    /// free.
    pub busy: AtomicU64,
    /// Refused: the settings do not permit it.
    pub not_permitted: AtomicU64,
    /// Ended: the partner said nothing any more.
    pub silent: AtomicU64,
    /// Ended: the time that was permitted, or that a step may take, was up.
    pub overdue: AtomicU64,
    /// Ended otherwise: the connection was cut, the protocol broken.
    pub broken: AtomicU64,
    /// Probes that were not answered: beyond the permitted rate, from a reflector's port, or
    /// reflections.
    pub suppressed_probes: AtomicU64,
}

impl Default for SlotPool {
    fn default() -> Self {
        Self {
            partners: Mutex::default(),
            port: Arc::new(Semaphore::new(1)),
            path: Arc::new(Semaphore::new(1)),
            counters: CheckCounters::default(),
        }
    }
}

impl SlotPool {
    /// A slot for a partner's check.
    ///
    /// # Errors
    /// The message for the partner.
    pub fn take(self: &Arc<Self>, partner: PublicKey) -> Result<Slot, Refusal> {
        let mut partners = self.partners.lock().unwrap_or_else(PoisonError::into_inner);
        if partners.contains(&partner) {
            return Err(busy(
                "this node is already answering a path check of this partner: try again when that has ended",
            ));
        }
        if partners.len() >= CHECKS_MAX {
            return Err(busy("this node is answering as many path checks as it can: try again in a minute"));
        }
        partners.insert(partner);
        Ok(Slot { slots: self.clone(), partner })
    }

    /// The probes' port, in the order of the requests.
    ///
    /// # Errors
    /// The message for the partner.
    pub async fn port(&self) -> Result<Port, Refusal> {
        match timeout(PORT_WAIT, self.port.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Port { turn: Mutex::new(Some(turn)) }),
            _ => Err(busy("this node is starting other path checks: try again in a minute")),
        }
    }

    /// The path, in the order in which it was asked for.
    pub async fn path(&self) -> Option<OwnedSemaphorePermit> {
        self.path.clone().acquire_owned().await.ok()
    }
}

/// A partner's place, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<SlotPool>,
    partner: PublicKey,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.partners.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.partner);
    }
}

/// The turn at the probes' port: packets from anywhere reach the socket that has it.
#[derive(Debug)]
pub struct Port {
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Port {
    /// Connects the socket to where the partner's probes come from, and gives the turn back.
    pub fn settle(&self, socket: &ProbeSocket, source: SocketAddr) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Where that fails the socket takes others' packets too, which do not authenticate.
        let _ = socket.connect(source);
        *turn = None;
    }

    /// Gives the turn back after a while, whether or not a probe has come.
    pub async fn expire(&self, socket: &ProbeSocket, partner: std::net::IpAddr) {
        tokio::time::sleep(FIRST_PROBE).await;
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.take().is_some() {
            let _ = socket.connect(SocketAddr::new(partner, NOWHERE));
        }
    }
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn busy(text: &str) -> Refusal {
    Refusal::new(RefusalCode::Temporary, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_has_one_place_and_leaves_the_others_theirs() {
        let slots = Arc::new(SlotPool::default());
        let partner = |number: usize| PublicKey([number as u8; 32]);
        let first = slots.take(partner(0)).unwrap();
        assert!(slots.take(partner(0)).unwrap_err().to_string().contains("a path check of this partner"));
        let others: Vec<_> = (1..CHECKS_MAX).map(|number| slots.take(partner(number)).unwrap()).collect();
        assert!(slots.take(partner(99)).unwrap_err().to_string().contains("as many path checks as it can"));
        drop(first);
        assert!(slots.take(partner(99)).is_ok());
        drop(others);
        assert!(slots.partners.lock().unwrap().is_empty());
    }
}
