//! Where a flow's datagrams go, and how that changes: path validation as in RFC 9000, section 8.2
//! (`docs/wire.md` W-49 … W-53).
//!
//! The source address of an authentic datagram is not itself authentic: anybody on the path can
//! send a copy from another address, and the copy may arrive first. So data never follow an address
//! that merely appeared. The flow sends a challenge there, a minimum-size probe with an unguessable
//! token, and continues to its current address. When the token returns, a holder of the flow's keys
//! receives what is sent to the new address, and the flow moves.
//!
//! ```text
//!                 authentic, from elsewhere            its token returns
//!  proved address ─────────────────────────> challenge ─────────────────────> proved address
//!                                                │ 1 s or three round trips
//!                                                └──> dropped
//! ```
//!
//! The lane seals the challenges, keeps the time, and reports what arrived.

use std::net::{IpAddr, SocketAddr};

/// An unproved address is sent at most this many times the bytes that came from it (RFC 9000,
/// section 8).
const AMPLIFICATION_MAX: u64 = 3;
/// Outstanding challenges to addresses of the control connection's peer, which the TCP handshake
/// has proved except for the port …
const PEER_CHALLENGES: usize = 2;
/// … and to others. The oldest is dropped first. Forged sources cannot keep the peer's own
/// addresses from being challenged.
const OTHER_CHALLENGES: usize = 2;
/// A challenge is repeated no sooner than this, and given up no sooner than after three times this.
const PATIENCE_MIN_NS: u64 = 333_000_000;
/// … and no later than this. The newest round trip may be that of a report that waited for the
/// control connection during an outage; a later answer still finds its challenge.
const PATIENCE_MAX_NS: u64 = 1_000_000_000;
/// Tokens of challenges are above those of path MTU probes, which are sizes and small numbers.
const TOKEN_MIN: u32 = 1 << 16;
/// Answers that match no challenge sent. An honest receiver sends only late ones. A dishonest one
/// that guesses tokens has this many guesses in a flow's life, each with a chance of one in four
/// billion; after that, the flow keeps its destination.
const WRONG_ANSWERS_MAX: u32 = 32;

/// An address with an outstanding challenge.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    address: SocketAddr,
    token: u32,
    begun_ns: u64,
    next_ns: u64,
    /// Bytes of authentic datagrams from there, and of challenges sent there.
    received_bytes: u64,
    sent_bytes: u64,
}

/// What a datagram of the reverse direction meant for the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answers no challenge: it is about something else.
    None,
    /// It answers a challenge that is not outstanding.
    Late,
    /// The destination is another from now on.
    Moved,
}

/// The destination of a flow.
#[derive(Debug)]
pub struct Destination {
    proved: SocketAddr,
    /// The control connection's other end.
    peer: IpAddr,
    key: [u8; 32],
    challenges_made: u64,
    challenges: [Option<Challenge>; PEER_CHALLENGES + OTHER_CHALLENGES],
    /// The token that moved the flow last: a repeated challenge is answered twice.
    settled_token: u32,
    wrong_answers: u32,
    /// When the next challenge is due; `u64::MAX` if none is outstanding.
    due_ns: u64,
}

impl Destination {
    /// The destination given by the control connection: its peer's address, proved by the TCP
    /// handshake, and the port that the peer named. Tokens are derived from `key`, 32 unguessable
    /// bytes.
    #[must_use]
    pub const fn new(first: SocketAddr, key: [u8; 32]) -> Self {
        //= W-49
        //# A flow's initial destination is the address of the control connection's peer, which the
        //# TCP handshake has proved, with the UDP port that the peer named.
        let challenges = [None; PEER_CHALLENGES + OTHER_CHALLENGES];
        Self {
            proved: first,
            peer: first.ip(),
            key,
            challenges_made: 0,
            challenges,
            settled_token: 0,
            wrong_answers: 0,
            due_ns: u64::MAX,
        }
    }

    /// Where data go.
    #[inline]
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.proved
    }

    /// When a challenge is due; `u64::MAX` for never.
    #[inline]
    #[must_use]
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// An authentic datagram of `bytes`, newer than all before, came from `from`. If that is not
    /// the destination, it is challenged.
    pub fn on_authentic(&mut self, from: SocketAddr, bytes: usize, now_ns: u64) {
        if from == self.proved || self.wrong_answers >= WRONG_ANSWERS_MAX {
            return;
        }
        //= W-50
        //# An authentic datagram of the reverse direction that is newer than all earlier ones and
        //# comes from another address or port (even of the control connection's peer) does not
        //# change the destination.
        let known = self.challenges.iter_mut().flatten().find(|challenge| challenge.address == from);
        if let Some(challenge) = known {
            challenge.received_bytes = challenge.received_bytes.saturating_add(bytes as u64);
        } else {
            let token = self.next_token(from);
            let (peers, others) = self.challenges.split_at_mut(PEER_CHALLENGES);
            let places = if from.ip() == self.peer { peers } else { others };
            //= W-52
            //# At most four are outstanding: two to addresses of the control connection's peer, two
            //# to others. The oldest is dropped first.
            // An empty place is older than any.
            let oldest = places.iter_mut().min_by_key(|place| place.map_or(0, |challenge| challenge.begun_ns));
            if let Some(place) = oldest {
                let received_bytes = bytes as u64;
                *place = Some(Challenge {
                    address: from,
                    token,
                    begun_ns: now_ns,
                    next_ns: now_ns,
                    received_bytes,
                    sent_bytes: 0,
                });
            }
        }
        self.find_due();
    }

    /// The challenge that is to be sent now, if one is: where to, and with which token, as a probe
    /// of `bytes`. It counts as sent. `round_trip_ns` is how long an answer takes, with some
    /// margin.
    pub fn due(&mut self, bytes: usize, round_trip_ns: u64, now_ns: u64) -> Option<(SocketAddr, u32)> {
        if now_ns < self.due_ns {
            return None;
        }
        //= W-52
        //# A challenge is repeated after one round trip, but no sooner than a third of a second and
        //# no later than one second, and dropped after three such intervals.
        let patience_ns = round_trip_ns.clamp(PATIENCE_MIN_NS, PATIENCE_MAX_NS);
        let mut due = None;
        for place in &mut self.challenges {
            let Some(challenge) = place else { continue };
            if now_ns.saturating_sub(challenge.begun_ns) >= patience_ns.saturating_mul(3) {
                *place = None;
                continue;
            }
            if due.is_some() || now_ns < challenge.next_ns {
                continue;
            }
            challenge.next_ns = now_ns.saturating_add(patience_ns);
            //= W-52
            //# An address that has not answered is sent only challenges, with at most three times
            //# the bytes received from it in authentic datagrams.
            let sent_bytes = challenge.sent_bytes.saturating_add(bytes as u64);
            if sent_bytes <= challenge.received_bytes.saturating_mul(AMPLIFICATION_MAX) {
                challenge.sent_bytes = sent_bytes;
                due = Some((challenge.address, challenge.token));
            }
        }
        self.find_due();
        due
    }

    /// An authentic answer to a probe with this token came, wherever from: it shows that the probe
    /// arrived where it was sent (RFC 9000, section 8.2.3).
    pub fn on_answer(&mut self, token: u32) -> Answer {
        if token < TOKEN_MIN {
            return Answer::None;
        }
        let place = self.challenges.iter_mut().find(|place| place.is_some_and(|challenge| challenge.token == token));
        let Some(challenge) = place.and_then(Option::take) else {
            if token == self.settled_token {
                return Answer::Late;
            }
            self.wrong_answers = self.wrong_answers.saturating_add(1);
            //= W-53
            //# After 32 replies with tokens that match no outstanding challenge, a flow keeps its
            //# destination for good.
            if self.wrong_answers >= WRONG_ANSWERS_MAX {
                self.challenges = Default::default();
            }
            self.find_due();
            return Answer::Late;
        };
        //= W-51
        //# When the token returns in an authentic reply, from any address, the challenged address
        //# becomes the destination.
        (self.proved, self.settled_token) = (challenge.address, token);
        self.find_due();
        Answer::Moved
    }

    /// Bound to the address, and another one each time.
    fn next_token(&mut self, address: SocketAddr) -> u32 {
        //= W-50
        //# The probe's token (chunk) is at least 2¹⁶ and unguessable: it is computed with BLAKE3
        //# from the address and a counter, under a key of 32 random bytes with which the flow is
        //# opened.
        let mut input = [0; 8 + 16 + 2];
        let (number, place) = input.split_at_mut(8);
        number.copy_from_slice(&self.challenges_made.to_be_bytes());
        self.challenges_made = self.challenges_made.wrapping_add(1);
        let (ip, port) = place.split_at_mut(16);
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        ip.copy_from_slice(&octets);
        port.copy_from_slice(&address.port().to_be_bytes());
        let [a, b, c, d, ..] = *blake3::keyed_hash(&self.key, &input).as_bytes();
        u32::from_be_bytes([a, b, c, d]).max(TOKEN_MIN)
    }

    fn find_due(&mut self) {
        self.due_ns = self.challenges.iter().flatten().map(|challenge| challenge.next_ns).min().unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    const BYTES: usize = 48;
    const ROUND_TRIP_NS: u64 = 20_000_000;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn destination() -> Destination {
        Destination::new(address("10.0.0.2:7273"), [7; 32])
    }

    #[test]
    fn data_follow_an_address_only_after_its_challenge_is_answered() {
        //= W-50
        //# An authentic datagram of the reverse direction that is newer than all earlier ones and
        //# comes from another address or port (even of the control connection's peer) does not
        //# change the destination. The sender challenges its source with a 48-byte probe.
        //= W-51
        //# When the token returns in an authentic reply, from any address, the challenged address
        //# becomes the destination.
        for elsewhere in ["10.0.0.2:40000", "10.9.9.9:7273", "[fd00::9]:1"].map(address) {
            let mut destination = destination();
            destination.on_authentic(elsewhere, BYTES, 10);
            assert_eq!(destination.address(), address("10.0.0.2:7273"), "it moved without a challenge");
            let (to, token) = destination.due(BYTES, ROUND_TRIP_NS, 10).expect("a challenge is due at once");
            assert_eq!(to, elsewhere);
            assert_eq!(destination.on_answer(token ^ 1), Answer::Late);
            assert_eq!(destination.on_answer(3), Answer::None, "that is a probe for a size");
            assert_eq!(destination.address(), address("10.0.0.2:7273"));
            assert_eq!(destination.on_answer(token), Answer::Moved);
            assert_eq!(destination.address(), elsewhere);
            assert_eq!(destination.on_answer(token), Answer::Late, "once");
            assert_eq!(destination.due_ns(), u64::MAX);
        }
    }

    #[test]
    fn a_challenge_that_nobody_answers_is_forgotten() {
        //= W-52
        //# A challenge is repeated after one round trip, but no sooner than a third of a second and
        //# no later than one second, and dropped after three such intervals.
        let mut destination = destination();
        destination.on_authentic(address("10.9.9.9:1"), BYTES, 0);
        let (mut now_ns, mut sent) = (0, Vec::new());
        while destination.due_ns() != u64::MAX {
            now_ns = destination.due_ns();
            sent.extend(destination.due(BYTES, ROUND_TRIP_NS, now_ns));
        }
        assert_eq!(sent.len(), 3, "three times what came");
        assert!((1_000_000_000 - 1_000_000..2_000_000_000).contains(&now_ns), "{now_ns}");
        assert_eq!(destination.on_answer(sent[0].1), Answer::Late);
    }

    /// Found in the simulator: the round trip that was seen last was that of a report which had
    /// waited for the end of darkness.
    #[test]
    fn a_challenge_that_is_lost_is_repeated_soon_whatever_the_last_round_trip_was() {
        for round_trip_ns in [0, ROUND_TRIP_NS, 500_000_000, 6_000_000_000, u64::MAX] {
            let mut destination = destination();
            destination.on_authentic(address("10.9.9.9:1"), BYTES, 0);
            destination.due(BYTES, round_trip_ns, 0).unwrap();
            let (again_ns, patience_ns) = (destination.due_ns(), round_trip_ns.clamp(333_000_000, 1_000_000_000));
            assert_eq!(again_ns, patience_ns);
            let (_, token) = destination.due(BYTES, round_trip_ns, again_ns).expect("it is sent again");
            assert_eq!(destination.due(BYTES, round_trip_ns, 2 * again_ns).map(|(_, again)| again), Some(token));
            assert_eq!(destination.on_answer(token), Answer::Moved);
        }
    }

    #[test]
    fn forged_sources_do_not_keep_the_peer_from_being_challenged() {
        //= W-52
        //# At most four are outstanding: two to addresses of the control connection's peer, two to
        //# others. The oldest is dropped first.
        let mut destination = destination();
        destination.on_authentic(address("10.0.0.2:40000"), BYTES, 5);
        let (_, token) = destination.due(BYTES, ROUND_TRIP_NS, 5).unwrap();
        for forged in 0..1_000u32 {
            destination.on_authentic(SocketAddr::new(IpAddr::from((0x0b00_0000 + forged).to_be_bytes()), 9), BYTES, 6);
        }
        assert_eq!(destination.challenges.iter().flatten().count(), 1 + OTHER_CHALLENGES);
        assert_eq!(destination.on_answer(token), Answer::Moved);
        assert_eq!(destination.address(), address("10.0.0.2:40000"));
    }

    #[test]
    fn who_guesses_tokens_is_not_followed_any_more() {
        //= W-53
        //# After 32 replies with tokens that match no outstanding challenge, a flow keeps its
        //# destination for good.
        let mut destination = destination();
        destination.on_authentic(address("10.9.9.9:1"), BYTES, 0);
        let (_, token) = destination.due(BYTES, ROUND_TRIP_NS, 0).unwrap();
        for guess in 0..WRONG_ANSWERS_MAX {
            assert_eq!(destination.on_answer((token ^ (guess + 1)) | TOKEN_MIN), Answer::Late);
        }
        assert_eq!(destination.on_answer(token), Answer::Late, "the right one comes too late");
        destination.on_authentic(address("10.9.9.8:1"), BYTES, 9);
        assert_eq!((destination.due_ns(), destination.address()), (u64::MAX, address("10.0.0.2:7273")));
    }

    #[test]
    fn tokens_differ_by_key_by_address_and_each_time() {
        let token = |key: u8, from: &str, before: u32| {
            let mut destination = Destination::new(address("10.0.0.2:7273"), [key; 32]);
            for port in 0..before {
                destination.next_token(SocketAddr::new(IpAddr::from([10, 0, 0, 3]), port as u16));
            }
            destination.next_token(address(from))
        };
        let tokens = [
            token(1, "10.9.9.9:1", 0),
            token(2, "10.9.9.9:1", 0),
            token(1, "10.9.9.9:2", 0),
            token(1, "10.9.9.9:1", 1),
        ];
        for (at, one) in tokens.iter().enumerate() {
            assert!(*one >= TOKEN_MIN && !tokens[..at].contains(one), "{tokens:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrives { from: u8, bytes: usize },
        Passes { ns: u64 },
        Answered { which: usize },
        Guessed { token: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12u8, 48..1_500usize).prop_map(|(from, bytes)| Step::Arrives { from, bytes }),
            (0..500_000_000u64).prop_map(|ns| Step::Passes { ns }),
            (0..8usize).prop_map(|which| Step::Answered { which }),
            any::<u32>().prop_map(|token| Step::Guessed { token }),
        ]
    }

    proptest! {
        /// However datagrams, time and answers follow each other.
        #[test]
        fn an_unproved_address_gets_at_most_three_times_what_came_from_it(steps in proptest::collection::vec(step(), 1..200)) {
            //= W-52
            //# An address that has not answered is sent only challenges, with at most three times
            //# the bytes received from it in authentic datagrams.
            let at = |number: u8| SocketAddr::new(IpAddr::from([10, 0, 0, number % 6]), 7_273 + u16::from(number / 6));
            let mut destination = Destination::new(at(2), [9; 32]);
            let (mut now_ns, mut sent) = (0u64, Vec::<(SocketAddr, u32)>::new());
            let (mut received_bytes, mut sent_bytes) = (HashMap::new(), HashMap::new());
            for step in steps {
                let before = destination.address();
                match step {
                    Step::Arrives { from, bytes } => {
                        *received_bytes.entry(at(from)).or_insert(0) += bytes;
                        destination.on_authentic(at(from), bytes, now_ns);
                        prop_assert_eq!(destination.address(), before);
                    }
                    Step::Passes { ns } => now_ns += ns,
                    Step::Answered { which } => {
                        if let Some(&(to, token)) = sent.len().checked_sub(which + 1).and_then(|at| sent.get(at)) {
                            let answer = destination.on_answer(token);
                            prop_assert_eq!(destination.address(), if answer == Answer::Moved { to } else { before });
                        }
                    }
                    Step::Guessed { token } => {
                        prop_assert!(sent.iter().any(|&(_, other)| other == token) || destination.on_answer(token) != Answer::Moved);
                    }
                }
                while let Some((to, token)) = destination.due(BYTES, ROUND_TRIP_NS, now_ns) {
                    *sent_bytes.entry(to).or_insert(0) += BYTES;
                    sent.push((to, token));
                }
                for (to, bytes) in &sent_bytes {
                    prop_assert!(*bytes <= 3 * received_bytes.get(to).copied().unwrap_or(0), "{} got {}", to, bytes);
                }
                prop_assert!(destination.challenges.iter().flatten().count() <= PEER_CHALLENGES + OTHER_CHALLENGES);
            }
        }
    }
}
