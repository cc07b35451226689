//! Path MTU discovery as in RFC 8899: unfragmentable probes, each size tried three times. The
//! search itself is pure; the probes are echoes.
//!
//! ICMP only suggests the next size and the reason reported with the result; it never rules out a
//! size. Anybody can send ICMP, so a claim that is impossible or refuted by probes is reported as a
//! claim.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, header_bytes};
use crate::stamp::sender::SenderConfig;
use crate::stamp::{Authentication, SenderSession};

/// The MTU that every IPv6 path has, and RFC 8899's BASE_PLPMTU with room.
pub const MTU_MIN: u32 = 1_280;
/// The packet that every IPv4 host accepts; the search tries nothing smaller.
pub(super) const MTU_SMALLEST: u32 = 576;
/// Common MTUs.
const LADDER: [u32; 11] = [1_400, 1_420, 1_452, 1_472, 1_492, 1_500, 4_470, 8_000, 8_900, 9_000, 9_216];
/// RFC 8899 5.1.2: MAX_PROBES.
const TRIES: u32 = 3;

/// What limits the size of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MtuLimit {
    /// The first link: the path carries its full MTU.
    Interface,
    /// A router, which reports it with ICMP as it should.
    PacketTooBig,
    /// Larger packets vanish without a report: a black hole for TCP.
    BlackHole,
}

/// The MTU of one direction of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtu {
    /// The largest IP packet that arrived.
    pub bytes: u32,
    /// The MTU of the sending interface.
    pub interface_bytes: u32,
    /// The reason for the limit.
    pub limit: MtuLimit,
    /// An MTU claimed by ICMP that is impossible or refuted: below 576 bytes (IPv6: 1,280), not
    /// below the size that was sent, or below a size that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_bytes: Option<u32>,
}

/// A search for the MTU: all sizes up to `good` pass, and none from `bad` on.
#[derive(Clone, Debug)]
pub struct MtuSearch {
    ceiling: u32,
    /// The smallest MTU that a claim may have.
    least: u32,
    good: u32,
    bad: u32,
    says_too_big: bool,
    hint: Option<u32>,
    claimed: Option<u32>,
}

impl MtuSearch {
    /// A search up to the interface's MTU.
    #[must_use]
    pub const fn new(ceiling: u32, is_ipv6: bool) -> Self {
        let least = if is_ipv6 { MTU_MIN } else { MTU_SMALLEST };
        Self { ceiling, least, good: 0, bad: ceiling + 1, says_too_big: false, hint: None, claimed: None }
    }

    /// The next size to try, as a whole IP packet; none when the search is over.
    #[must_use]
    pub fn next_size(&self) -> Option<u32> {
        let size = self.choose()?;
        // Invariant I-path-mtu: The MTU search tries only sizes above the largest that passed and
        // below the smallest that failed.
        assert!(self.good < size && size < self.bad, "{size} is already decided: {self:?}");
        Some(size)
    }

    fn choose(&self) -> Option<u32> {
        if self.good + 1 >= self.bad {
            return None;
        }
        if self.bad > self.ceiling {
            // The interface's full MTU first: most paths carry it, and the search is over.
            return Some(self.ceiling);
        }
        if let Some(hint) = self.hint.filter(|&hint| hint > self.good && hint < self.bad) {
            return Some(hint);
        }
        if self.good == 0 {
            return [MTU_MIN, MTU_SMALLEST].into_iter().find(|&size| size < self.bad);
        }
        let rungs: Vec<u32> = LADDER.into_iter().filter(|&size| size > self.good && size < self.bad).collect();
        // A common size that passed is most often the limit: one more byte proves it.
        if Some(self.good) == self.hint || (rungs.is_empty() && LADDER.contains(&self.good)) {
            return Some(self.good + 1);
        }
        Some(rungs.get(rungs.len() / 2).copied().unwrap_or(self.good + (self.bad - self.good) / 2))
    }

    /// Takes into account whether a size passed.
    pub fn note(&mut self, size: u32, passed: bool) {
        if passed {
            self.good = self.good.max(size);
        } else {
            self.bad = self.bad.min(size);
        }
    }

    /// Takes a claim that a packet of `size` is too big; `mtu` would fit, 0 if unknown.
    pub fn too_big(&mut self, size: u32, mtu: u32) {
        if mtu != 0 && (mtu < self.least || mtu >= size || mtu < self.good) {
            self.claimed = Some(mtu);
            return;
        }
        self.says_too_big = true;
        if mtu != 0 {
            self.claimed = self.refuted_hint().or(self.claimed);
            self.hint = Some(mtu);
        }
    }

    /// A claim that was followed until a larger packet passed.
    fn refuted_hint(&self) -> Option<u32> {
        self.hint.filter(|&hint| hint < self.good)
    }

    /// The MTU; none if nothing passed.
    #[must_use]
    pub fn result(&self) -> Option<PathMtu> {
        let limit = match () {
            () if self.good >= self.ceiling => MtuLimit::Interface,
            () if self.says_too_big && self.refuted_hint().is_none() => MtuLimit::PacketTooBig,
            () => MtuLimit::BlackHole,
        };
        let claimed_bytes = self.refuted_hint().or(self.claimed);
        (self.good > 0).then_some(PathMtu { bytes: self.good, interface_bytes: self.ceiling, limit, claimed_bytes })
    }
}

/// The result of trying a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeResult {
    /// Whether a probe was answered.
    pub passed: bool,
    /// The size that would fit according to ICMP or this host; none without such a report.
    pub too_big: Option<u32>,
}

/// Sends probes of one size on a connected socket in MTU-probing mode. The far end's answers are
/// short, or as its step specifies.
///
/// # Errors
/// The operating system's.
pub fn try_size(
    socket: &ProbeSocket,
    authentication: &Authentication,
    number: u16,
    ip_bytes: u32,
    timeout: Duration,
) -> io::Result<SizeResult> {
    let payload = ip_bytes.saturating_sub(u32::from(header_bytes(socket.is_ipv6())));
    let config = SenderConfig {
        authentication: authentication.clone(),
        packet_bytes: payload as usize,
        ..SenderConfig::stamp(number)
    };
    let mut session = SenderSession::new(config, ClockQuality::here());
    let (mut packet, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let mut too_big = None;
    for number in 0..TRIES {
        // If a router reports it, a third try is unnecessary; an answer to the first or second
        // would refute the report.
        if too_big.is_some() && number + 1 == TRIES {
            break;
        }
        session.next_request(now_ns(), &mut packet);
        match socket.send(&packet) {
            // This host's own interface refuses the size.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Ok(SizeResult { passed: false, too_big: too_big.or(Some(0)) });
            }
            Err(error) if super::echo::is_passing(&error) => {}
            sent => drop(sent?),
        }
        let until = Instant::now() + timeout;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_timeout(Some(left))?;
            match socket.receive(&mut buffer) {
                Ok(received)
                    if session.receive(buffer.get(..received.bytes).unwrap_or_default(), received.at_ns).is_ok() =>
                {
                    return Ok(SizeResult { passed: true, too_big });
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
        }
    }
    Ok(SizeResult { passed: false, too_big })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(ceiling: u32, mtu: u32, speaks: bool) -> (Option<PathMtu>, u32) {
        let mut search = MtuSearch::new(ceiling, false);
        let mut tries = 0;
        while let Some(size) = search.next_size() {
            assert!(size <= ceiling && tries < 40, "size {size} after {tries} tries of {mtu} of {ceiling}");
            search.note(size, size <= mtu);
            if size > mtu && speaks {
                search.too_big(size, mtu);
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

    #[test]
    fn claims_that_cannot_be_are_told_and_not_believed() {
        for (is_ipv6, claim) in
            [(false, 68), (false, 575), (true, 1_279), (false, 1_500), (true, 9_000), (false, u32::MAX)]
        {
            let mut search = MtuSearch::new(1_500, is_ipv6);
            search.too_big(1_500, claim);
            assert_eq!(search.next_size(), Some(1_500), "{claim} was believed");
            search.note(1_500, true);
            let found = search.result().unwrap();
            assert_eq!((found.bytes, found.limit, found.claimed_bytes), (1_500, MtuLimit::Interface, Some(claim)));
        }
    }

    proptest! {
        /// Whatever is claimed, at any time, about any size.
        #[test]
        fn claims_change_nothing_but_the_reason(
            ceiling in 1_280..9_300u32, mtu in 1_280..9_300u32, is_ipv6: bool,
            claims in proptest::collection::vec(prop_oneof![0..9_300u32, any::<u32>()], 1..50),
        ) {
            let (mut search, mut claims) = (MtuSearch::new(ceiling, is_ipv6), claims.into_iter().cycle());
            let mut tries = 0;
            while let Some(size) = search.next_size() {
                prop_assert!(size <= ceiling && tries < 400, "size {size} after {tries} tries");
                search.too_big(size, claims.next().unwrap());
                search.note(size, size <= mtu);
                tries += 1;
            }
            prop_assert_eq!(search.result().unwrap().bytes, mtu.min(ceiling));
        }

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
