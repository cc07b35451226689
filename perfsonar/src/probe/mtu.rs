//! Looks for the path's MTU as RFC 8899 does: probes of growing size that nobody may fragment, each tried three times. The search
//! itself is pure; the probes are echoes.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, header_bytes};
use crate::stamp::sender::SenderConfig;
use crate::stamp::{Authentication, SenderSession};

/// What every IPv6 path carries, and RFC 8899's BASE_PLPMTU with room.
pub const MTU_MIN: u32 = 1_280;
/// What every IPv4 host takes; a path that does not carry even this carries nothing.
const MTU_SMALLEST: u32 = 576;
/// Sizes that networks have, as whole IP packets.
const LADDER: [u32; 11] = [1_400, 1_420, 1_452, 1_472, 1_492, 1_500, 4_470, 8_000, 8_900, 9_000, 9_216];
/// RFC 8899 5.1.2: MAX_PROBES.
const TRIES: u32 = 3;

/// What keeps packets from being larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MtuLimit {
    /// The first link: the whole path carries what it does.
    Interface,
    /// A router says so with ICMP, as it should.
    PacketTooBig,
    /// Larger packets vanish and nobody says so: a black hole for TCP.
    BlackHole,
}

/// The MTU of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtu {
    /// The largest IP packet that arrived.
    pub bytes: u32,
    /// What the sending interface carries.
    pub interface_bytes: u32,
    /// What limits it.
    pub limit: MtuLimit,
}

/// A search.
#[derive(Clone, Debug)]
pub struct MtuSearch {
    ceiling: u32,
    good: u32,
    bad: u32,
    says_too_big: bool,
    hint: Option<u32>,
}

impl MtuSearch {
    /// A search up to what the interface carries.
    #[must_use]
    pub const fn new(ceiling: u32) -> Self {
        Self { ceiling, good: 0, bad: ceiling + 1, says_too_big: false, hint: None }
    }

    /// The next size to try, as a whole IP packet; none when it is found.
    #[must_use]
    pub fn next_size(&self) -> Option<u32> {
        if self.good + 1 >= self.bad {
            return None;
        }
        if self.bad > self.ceiling {
            // The whole interface first: on most paths that is all there is to know.
            return Some(self.ceiling);
        }
        if let Some(hint) = self.hint.filter(|&hint| hint > self.good && hint < self.bad) {
            return Some(hint);
        }
        if self.good == 0 {
            return [MTU_MIN, MTU_SMALLEST].into_iter().find(|&size| size < self.bad);
        }
        let rungs: Vec<u32> = LADDER.into_iter().filter(|&size| size > self.good && size < self.bad).collect();
        // A common size that passed is most often the limit itself: one more byte tells.
        if Some(self.good) == self.hint || (rungs.is_empty() && LADDER.contains(&self.good)) {
            return Some(self.good + 1);
        }
        Some(rungs.get(rungs.len() / 2).copied().unwrap_or(self.good + (self.bad - self.good) / 2))
    }

    /// Whether a size passed.
    pub fn note(&mut self, size: u32, passed: bool) {
        if passed {
            self.good = self.good.max(size);
        } else {
            self.bad = self.bad.min(size);
        }
    }

    /// Somebody on the way says that packets are too big; `mtu` is what would fit, 0 if unknown.
    pub fn too_big(&mut self, mtu: u32) {
        self.says_too_big = true;
        if mtu >= 576 {
            self.hint = Some(mtu);
        }
    }

    /// What was found; none if nothing passed.
    #[must_use]
    pub fn result(&self) -> Option<PathMtu> {
        let limit = match () {
            () if self.good >= self.ceiling => MtuLimit::Interface,
            () if self.says_too_big => MtuLimit::PacketTooBig,
            () => MtuLimit::BlackHole,
        };
        (self.good > 0).then_some(PathMtu { bytes: self.good, interface_bytes: self.ceiling, limit })
    }
}

/// What became of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeFate {
    /// Whether a probe was answered.
    pub passed: bool,
    /// What ICMP or the host says would fit; none if nobody said anything.
    pub too_big: Option<u32>,
}

/// Sends probes of one size on a connected socket that probes the MTU; the far end answers short, or as its step says.
///
/// # Errors
/// The operating system's.
pub fn try_size(
    socket: &ProbeSocket,
    authentication: &Authentication,
    number: u16,
    ip_bytes: u32,
    timeout: Duration,
) -> io::Result<SizeFate> {
    let payload = ip_bytes.saturating_sub(u32::from(header_bytes(socket.is_ipv6())));
    let config = SenderConfig {
        authentication: authentication.clone(),
        packet_bytes: payload as usize,
        ..SenderConfig::stamp(number)
    };
    let mut session = SenderSession::new(config, ClockQuality::here());
    let (mut packet, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let mut too_big = None;
    for _ in 0..TRIES {
        session.next_request(now_ns(), &mut packet);
        match socket.send(&packet) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => too_big = too_big.or(Some(0)),
            Err(error) if super::echo::is_passing(&error) => {}
            sent => drop(sent?),
        }
        let until = Instant::now() + timeout;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_timeout(Some(left))?;
            match socket.receive(&mut buffer) {
                Ok(received) if session.receive(&buffer[..received.bytes], received.at_ns).is_ok() => {
                    return Ok(SizeFate { passed: true, too_big });
                }
                Ok(_) => {}
                Err(error) if super::echo::is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            while let Some(error) = socket.receive_error(&mut buffer)? {
                if error.errno == libc::EMSGSIZE {
                    too_big = Some(error.mtu);
                }
            }
            if too_big.is_some() {
                break;
            }
        }
        if too_big.is_some() {
            break;
        }
    }
    Ok(SizeFate { passed: false, too_big })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(ceiling: u32, mtu: u32, speaks: bool) -> (Option<PathMtu>, u32) {
        let mut search = MtuSearch::new(ceiling);
        let mut tries = 0;
        while let Some(size) = search.next_size() {
            assert!(size <= ceiling && tries < 40, "size {size} after {tries} tries of {mtu} of {ceiling}");
            search.note(size, size <= mtu);
            if size > mtu && speaks {
                search.too_big(mtu);
            }
            tries += 1;
        }
        (search.result(), tries)
    }

    #[test]
    fn a_clean_path_takes_one_probe() {
        let (found, tries) = search(9_000, 9_000, true);
        assert_eq!((found.unwrap().bytes, found.unwrap().limit, tries), (9_000, MtuLimit::Interface, 1));
        assert_eq!(search(9_000, 100, false).0, None);
    }

    #[test]
    fn routers_that_speak_are_believed_and_tested() {
        let (found, tries) = search(9_000, 1_500, true);
        assert_eq!(found.unwrap().limit, MtuLimit::PacketTooBig);
        assert!(tries <= 4, "{tries}");
    }

    proptest! {
        #[test]
        fn the_mtu_is_found_exactly(ceiling in 1_280..65_536u32, mtu in 1_280..65_536u32, speaks: bool) {
            let (found, _) = search(ceiling, mtu, speaks);
            let found = found.unwrap();
            prop_assert_eq!(found.bytes, mtu.min(ceiling));
            let limit = match () {
                () if mtu >= ceiling => MtuLimit::Interface,
                () if speaks => MtuLimit::PacketTooBig,
                () => MtuLimit::BlackHole,
            };
            prop_assert_eq!(found.limit, limit);
        }
    }
}
