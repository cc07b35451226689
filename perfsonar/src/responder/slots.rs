//! Bounded slots, in all and per host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sources::host_of;

/// Why no slot is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The host is at its limit.
    OfHost,
    /// All slots are taken.
    All,
}

/// `all` slots, and at most `of_host` of them for one host: an IPv4 address, or an IPv6 /64.
#[derive(Debug)]
pub struct SlotPool {
    all: usize,
    of_host: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl SlotPool {
    /// Free slots. A host may always have one.
    #[must_use]
    pub fn new(all: usize, of_host: usize) -> Arc<Self> {
        Arc::new(Self { all, of_host: of_host.max(1), taken: Mutex::default() })
    }

    /// A slot for a client.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Result<Slot, Full> {
        let host = host_of(client);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(&host).is_some_and(|&of_host| of_host >= self.of_host) {
            return Err(Full::OfHost);
        }
        if taken.values().sum::<usize>() >= self.all {
            return Err(Full::All);
        }
        *taken.entry(host).or_insert(0) += 1;
        // Invariant I-responder-slots: A responder never hands out more slots than it has.
        assert!(taken.values().sum::<usize>() <= self.all, "more than {} slots are taken", self.all);
        Ok(Slot { slots: self.clone(), host })
    }
}

/// A slot that is taken until this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<SlotPool>,
    host: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_host) = taken.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_gets_its_share_and_leaves_the_others_theirs() {
        let slots = SlotPool::new(5, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let ours = [slots.take(address("2001:db8::1")).unwrap(), slots.take(address("2001:db8::2")).unwrap()];
        assert_eq!(slots.take(address("2001:db8::3")).unwrap_err(), Full::OfHost);
        let others: Vec<_> =
            ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|host| slots.take(address(host)).unwrap()).into();
        assert_eq!(slots.take(address("192.0.2.3")).unwrap_err(), Full::All);
        drop(ours);
        assert!(slots.take(address("2001:db8::3")).is_ok());
        drop(others);
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
