//! Keys that connected, have no profile, and wait for approval.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use culvert_model::profile::PendingKey;
use culvert_protocol::identity::PublicKey;
use culvert_state::StateError;

use crate::host::Host;
use crate::profiles::error::ProfileError;
use crate::profiles::{Profiles, VERSION};

/// The file of the table.
pub(super) const PENDING: &str = "pending.json";
/// Size of the table, which strangers can fill.
pub(super) const PENDING_MAX: usize = 256;
/// Keys of one host: a host has one key, an institute behind one address a few.
pub(super) const PENDING_OF_HOST_MAX: usize = 8;
/// A pending key that has been silent this long is evicted for a new one: its owner has given up,
/// or will come back.
pub(super) const PENDING_SILENT_S: u64 = 7 * 24 * 60 * 60;

/// How many fingerprints an ambiguous prefix lists.
const AMBIGUOUS_SHOWN_MAX: usize = 5;

impl Profiles {
    /// The pending keys.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn pending(&self) -> Result<Vec<PendingKey>, ProfileError> {
        Ok(with_plain_addresses(self.state.read_json(PENDING, VERSION)?.unwrap_or_default()))
    }

    /// Like [`Profiles::pending`], for changing the table: a damaged file is set aside.
    fn pending_to_change(&self) -> Result<Vec<PendingKey>, ProfileError> {
        Ok(with_plain_addresses(self.state.read_json_or_set_aside(PENDING, VERSION)?.unwrap_or_default()))
    }

    /// Records that a key without a profile connected; false if there is no room for another of its
    /// host. The table is bounded: keys that have been silent for a week are evicted first, then
    /// the youngest key of the host with the most. A key whose owner waits for approval therefore
    /// stays, whatever comes after it.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn note_pending(&self, key: PublicKey, name: &str, address: &str, now_unix: u64) -> Result<bool, ProfileError> {
        //= W-34
        //# it records the key as pending (in a table of fixed size, with a share per host)
        let mut pending = self.pending_to_change()?;
        if let Some(known) = pending.iter_mut().find(|known| known.key == key) {
            // The address at which its node listens replaces the one it connected from, not vice
            // versa. Apart from that, writing once a minute suffices.
            let is_better = known.is_guest() || address.parse::<IpAddr>().is_err();
            if now_unix.saturating_sub(known.last_seen_unix) < 60 && (!is_better || known.address == address) {
                return Ok(true);
            }
            known.last_seen_unix = now_unix;
            if is_better {
                known.address = address.to_owned();
            }
        } else {
            let host = host_of(address);
            let of_host = pending.iter().filter(|known| host_of(&known.address) == host).count();
            if of_host >= PENDING_OF_HOST_MAX {
                let is_old = |known: &PendingKey| host_of(&known.address) == host && is_silent(known, now_unix);
                let Some(at) = pending.iter().position(is_old) else { return Ok(false) };
                pending.remove(at);
            } else if pending.len() >= PENDING_MAX {
                make_room(&mut pending, now_unix);
            }
            let (name, address) = (name.to_owned(), address.to_owned());
            pending.push(PendingKey { key, name, address, first_seen_unix: now_unix, last_seen_unix: now_unix });
        }
        self.write_pending(&pending).map(|()| true)
    }

    /// The pending key whose fingerprint starts with `fingerprint` (with or without `SHA256:`).
    ///
    /// # Errors
    /// [`ProfileError::NotPending`], [`ProfileError::Ambiguous`].
    pub fn find_pending(&self, fingerprint: &str) -> Result<PendingKey, ProfileError> {
        let wanted = fingerprint.strip_prefix("SHA256:").unwrap_or(fingerprint);
        let matches = |pending: &PendingKey| pending.key.fingerprint()["SHA256:".len()..].starts_with(wanted);
        let mut found: Vec<PendingKey> = self.pending()?.into_iter().filter(matches).collect();
        match (found.pop(), found.as_slice()) {
            (Some(pending), []) if !wanted.is_empty() => Ok(pending),
            (Some(last), others) if !others.is_empty() => {
                let found = others.iter().chain([&last]).take(AMBIGUOUS_SHOWN_MAX).map(|known| known.key.fingerprint());
                Err(ProfileError::Ambiguous { beginning: fingerprint.to_owned(), found: found.collect() })
            }
            _ => Err(ProfileError::NotPending(fingerprint.to_owned())),
        }
    }

    pub(super) fn forget_pending(&self, key: PublicKey) -> Result<(), ProfileError> {
        let mut pending = self.pending_to_change()?;
        let before = pending.len();
        pending.retain(|known| known.key != key);
        if pending.len() == before { Ok(()) } else { self.write_pending(&pending) }
    }

    fn write_pending(&self, pending: &[PendingKey]) -> Result<(), ProfileError> {
        let text = serde_json::to_vec_pretty(pending)
            .map_err(|error| StateError::Damaged { path: self.state.path(PENDING), reason: error.to_string() })?;
        Ok(self.state.write(PENDING, &text)?)
    }
}

/// The host of a pending key: its address, or its name if this node's user connected to it by name.
fn host_of(address: &str) -> Result<Host, &str> {
    let with_port = || address.parse::<std::net::SocketAddr>().map(|address| address.ip());
    let host = address.parse::<IpAddr>().or_else(|_| with_port()).map(Host::from);
    host.map_err(|_| address.rsplit_once(':').map_or(address, |(host, _)| host))
}

/// Removes the ports that earlier versions recorded for incoming connections, recognizable by their
/// IPv4-mapped addresses.
fn with_plain_addresses(mut pending: Vec<PendingKey>) -> Vec<PendingKey> {
    for known in &mut pending {
        if let Ok(SocketAddr::V6(address)) = known.address.parse()
            && let Some(host) = address.ip().to_ipv4_mapped()
        {
            known.address = host.to_string();
        }
    }
    pending
}

const fn is_silent(known: &PendingKey, now_unix: u64) -> bool {
    now_unix.saturating_sub(known.last_seen_unix) > PENDING_SILENT_S
}

/// Removes one key: a silent one if there is any, otherwise the youngest of the host with the most.
fn make_room(pending: &mut Vec<PendingKey>, now_unix: u64) {
    let mut of_host: HashMap<Result<Host, &str>, usize> = HashMap::new();
    for known in pending.iter() {
        *of_host.entry(host_of(&known.address)).or_default() += 1;
    }
    let least = |(_, known): &(usize, &PendingKey)| {
        (is_silent(known, now_unix), of_host.get(&host_of(&known.address)).copied(), known.first_seen_unix)
    };
    let found = pending.iter().enumerate().max_by_key(least).map(|(at, _)| at);
    found.map(|at| pending.remove(at));
}
