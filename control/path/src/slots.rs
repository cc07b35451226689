//! Slots for the path checks that this node answers: one per partner, so that no partner keeps
//! others waiting.
//!
//! Two checks cannot use the probes' port at the same time until a check's first probe has shown
//! where its probes come from, and their trains would disturb each other. Checks share both in
//! turns of a few seconds.

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

/// The most checks answered at once. Each has a socket with its buffers, and a thread.
pub const CHECKS_MAX: usize = 8;
/// How long a check waits for the probes' port. The initiator waits for ten seconds.
const PORT_WAIT: Duration = Duration::from_secs(9);
/// How long a check has the port for itself: permission, first step and first probe take two round
/// trips.
const FIRST_PROBE: Duration = Duration::from_secs(4);
/// How long a train has the path for itself: a second, its tail, and the messages around it.
pub const TRAIN_TURN: Duration = Duration::from_secs(3);
/// The discard port. A socket whose first probe has not come in time is connected to it and no
/// longer takes other checks' probes.
const DISCARD_PORT: u16 = 9;

/// The slots, the two turns, and the results of requests.
#[derive(Debug)]
pub struct SlotPool {
    partners: Mutex<HashSet<PublicKey>>,
    port: Arc<Semaphore>,
    path: Arc<Semaphore>,
    /// The results of requests.
    pub counters: CheckCounters,
}

/// Counts of checks by result.
#[derive(Debug, Default)]
pub struct CheckCounters {
    /// Answered to their end.
    pub answered: AtomicU64,
    /// Refused: the partner already has a check, all slots are taken, or the port did not become
    /// free.
    pub busy: AtomicU64,
    /// Refused: the settings do not permit it.
    pub not_permitted: AtomicU64,
    /// Ended: the partner was silent for too long.
    pub silent: AtomicU64,
    /// Ended: the time of the check or of a step was up.
    pub overdue: AtomicU64,
    /// Ended: the connection was cut, or the partner broke the protocol.
    pub broken: AtomicU64,
    /// Authentic probes that were not answered: beyond the permitted rate, from a reflector's port,
    /// or reflections.
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
        //= P-3
        //# It runs one check per partner at a time, and eight in total.
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
        // Invariant I-path-slots: A node answers at most eight path checks at once.
        assert!(partners.len() <= CHECKS_MAX, "{} checks are answered at once", partners.len());
        Ok(Slot { slots: self.clone(), partner })
    }

    /// The probes' port, in the order of the requests.
    ///
    /// # Errors
    /// The message for the partner.
    //= P-7
    //# All checks share one UDP port. A check owns the port until its first authentic probe
    //# arrives, for at most 4 s, and its socket is then connected to the address that probe came
    //# from. Other checks wait for their turn, for at most 9 s.
    pub async fn port(&self) -> Result<Port, Refusal> {
        match timeout(PORT_WAIT, self.port.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Port { turn: Mutex::new(Some(turn)) }),
            _ => Err(busy("this node is starting other path checks: try again in a minute")),
        }
    }

    /// The path's turn, in the order of the requests.
    pub async fn path(&self) -> Option<OwnedSemaphorePermit> {
        self.path.clone().acquire_owned().await.ok()
    }
}

/// A partner's slot, until it is dropped.
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

/// The turn at the probes' port. Until it ends, the socket that has it receives packets from
/// anywhere.
#[derive(Debug)]
pub struct Port {
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Port {
    /// Connects the socket to the address that the partner's probes come from, and ends the turn.
    pub fn settle(&self, socket: &ProbeSocket, source: SocketAddr) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // If this fails, the socket also receives packets of other checks, which do not
        // authenticate.
        let _ = socket.connect(source);
        *turn = None;
    }

    /// Ends the turn after four seconds, even if no probe has come.
    pub async fn expire(&self, socket: &ProbeSocket, partner: std::net::IpAddr) {
        tokio::time::sleep(FIRST_PROBE).await;
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.take().is_some() {
            let _ = socket.connect(SocketAddr::new(partner, DISCARD_PORT));
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
    fn a_partner_has_one_slot_and_leaves_the_others_theirs() {
        //= P-3
        //# It runs one check per partner at a time, and eight in total.
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

    #[tokio::test(start_paused = true)]
    async fn a_check_waits_for_the_port_until_the_first_probe_of_the_one_before() {
        //= P-7
        //# All checks share one UDP port. A check owns the port until its first authentic probe
        //# arrives, for at most 4 s, and its socket is then connected to the address that probe
        //# came from. Other checks wait for their turn, for at most 9 s.
        let slots = SlotPool::default();
        let socket = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let began = tokio::time::Instant::now();
        let first = slots.port().await.unwrap();
        assert!(slots.port().await.unwrap_err().to_string().contains("starting other path checks"));
        assert_eq!(began.elapsed().as_secs(), 9);
        first.settle(&socket, "127.0.0.1:5000".parse().unwrap());
        let second = slots.port().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 9, "the first has settled");
        second.expire(&socket, [127, 0, 0, 1].into()).await;
        assert_eq!(began.elapsed().as_secs(), 13);
        assert!(slots.port().await.is_ok());
    }

    #[tokio::test]
    async fn trains_take_turns() {
        //= P-8
        //# Trains of different checks take turns of at most 3 s.
        let slots = SlotPool::default();
        let turn = slots.path().await;
        assert!(turn.is_some());
        let next = slots.path();
        tokio::pin!(next);
        assert!(timeout(Duration::from_millis(10), &mut next).await.is_err(), "two trains at once");
        drop(turn);
        assert!(next.await.is_some());
        assert_eq!(TRAIN_TURN, Duration::from_secs(3));
    }
}
