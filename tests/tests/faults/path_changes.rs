//! Addresses that change during a transfer, and copies of its datagrams from elsewhere, between
//! real processes (`docs/wire.md` W-49 … W-54).

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_protocol::wire::{Header, SegmentKind};
use culvert_tests::middlebox::{Fate, MiddlePair, Middlebox, Rule};
use culvert_tests::packets::{Packet, from_elsewhere, translated};
use culvert_tests::random::Random;

const RATE: &str = "80M";
const BYTES: usize = 12 << 20;
/// The node's UDP port.
const NODE_PORT: u16 = 7_273;
/// Data segments after which the receiver moves.
const SEGMENTS_PER_PLACE: u64 = 2_000;

/// What was seen of one address that is not the receiver's own.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    data: u64,
    bytes_to: u64,
    bytes_from: u64,
}

/// The kind of a datagram of the flow, if it is one.
fn kind_of(packet: &Packet, bytes: &[u8]) -> Option<SegmentKind> {
    packet.is_udp().then(|| Header::parse(packet.payload(bytes)).ok().map(|header| header.kind)).flatten()
}

/// Sends a file through a middlebox with a rule, and checks that it arrives in one attempt without
/// the death of a data plane.
fn send_through(is_v6: bool, rule: Rule) -> bool {
    let Some(ends) = MiddlePair::start(is_v6) else { return false };
    let source = ends.pair.path("source");
    fs::write(&source, Random::new(11).bytes(BYTES)).unwrap();
    let data_plane = ends.node.data_plane();
    ends.middlebox.set_rule(rule);
    let to = ends.pair.shared.join("in");
    ends.moved("send", &source, &to, &["--rate", RATE]).exits(0);
    assert!(fs::read(&source).unwrap() == fs::read(&to).unwrap(), "what arrived is not what was sent");
    assert_eq!(ends.node.data_plane(), data_plane, "the data plane was restarted");
    true
}

/// A NAT in front of the receiver: what comes from there appears to come from the newest of
/// `places`, and nothing reaches the receiver through any other. The control connection is not
/// affected: it is older than the changes.
fn translator(is_v6: bool, places: Vec<SocketAddr>, seen: Arc<Mutex<Vec<u64>>>) -> Rule {
    let real = Middlebox::address(1, is_v6, NODE_PORT);
    let (mut place, mut segments) = (0, 0);
    Box::new(move |side, packet: Packet, bytes, fate: &mut Fate| {
        if !packet.is_udp() {
            return fate.pass(side, bytes);
        }
        if side == 1 {
            fate.now.push((0, from_elsewhere(bytes, places[place])));
            return;
        }
        // A NAT drops what it does not know.
        if packet.to != places[place] {
            return;
        }
        if kind_of(&packet, bytes) == Some(SegmentKind::Data) {
            seen.lock().unwrap()[place] += 1;
            segments += 1;
            if segments % SEGMENTS_PER_PLACE == 0 && place + 1 < places.len() {
                place += 1;
                return;
            }
        }
        fate.now.push((1, translated(bytes, packet.from, real)));
    })
}

#[test]
fn a_receiver_behind_a_translator_that_forgets_it_is_followed() {
    //= W-51
    //# When the token returns in an authentic reply, from any address, the challenged address
    //# becomes the destination.
    //= W-54
    //# This is how a sender learns of a changed address.
    for is_v6 in [false, true] {
        let other = |text: &str| text.parse::<SocketAddr>().unwrap();
        // Another port of the host from the beginning; then a third one; another host; its own
        // again.
        let elsewhere = if is_v6 { other("[fd97::99]:40003") } else { other("10.97.3.99:40003") };
        let of_peer = |port| Middlebox::address(1, is_v6, port);
        let places = vec![of_peer(40_001), of_peer(40_002), elsewhere, of_peer(NODE_PORT)];
        let seen = Arc::new(Mutex::new(vec![0; places.len()]));
        if !send_through(is_v6, translator(is_v6, places.clone(), seen.clone())) {
            return;
        }
        let seen = seen.lock().unwrap();
        eprintln!("data segments to {places:?}: {seen:?}");
        assert!(seen.iter().all(|&data| data > 0), "the flow did not follow everywhere: {seen:?}");
    }
}

/// The receiver's host has another address for what it sends, and the address that the control
/// connection knows is dead for UDP.
#[test]
fn a_receiver_whose_host_moves_is_followed() {
    let Some(ends) = MiddlePair::start(false) else { return };
    let source = ends.pair.path("source");
    fs::write(&source, Random::new(12).bytes(BYTES)).unwrap();
    let to = ends.pair.shared.join("in");
    let seen = Arc::new(Mutex::new(0u64));
    let counted = seen.clone();
    let old = Middlebox::address(1, false, NODE_PORT);
    let is_dead = Arc::new(Mutex::new(false));
    let dead = is_dead.clone();
    ends.middlebox.set_rule(Box::new(move |side, packet, bytes, fate| {
        if side == 0 && packet.is_udp() && packet.to == old && *dead.lock().unwrap() {
            return;
        }
        if side == 0 && kind_of(&packet, bytes) == Some(SegmentKind::Data) && packet.to != old {
            *counted.lock().unwrap() += 1;
        }
        fate.pass(side, bytes);
    }));
    let sending = ends
        .moving("send", &source, &to, &["--rate", RATE])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    culvert_tests::node::wait_for("the transfer to be on its way", || {
        let under_way = fs::read_dir(&ends.pair.shared).unwrap().count() > 0;
        under_way.then_some(())
    });
    let _ = ends.middlebox.tool(1, "ip", &["addr", "add", "10.97.5.5/32", "dev", "wan"]);
    let _ = ends.middlebox.tool(1, "ip", &["route", "change", "10.97.0.0/16", "dev", "wan", "src", "10.97.5.5"]);
    *is_dead.lock().unwrap() = true;
    let ran: culvert_tests::program::Ran = sending.wait_with_output().unwrap().into();
    ran.exits(0);
    assert!(fs::read(&source).unwrap() == fs::read(&to).unwrap(), "what arrived is not what was sent");
    assert!(*seen.lock().unwrap() > 0, "no data went to the new address");
}

/// Somebody on the path sends a copy of each answer from elsewhere before the answer itself
/// arrives.
#[test]
fn copies_of_answers_from_elsewhere_lead_no_data_there() {
    //= W-50
    //# An authentic datagram of the reverse direction that is newer than all earlier ones and comes
    //# from another address or port (even of the control connection's peer) does not change the
    //# destination.
    //= W-52
    //# An address that has not answered is sent only challenges, with at most three times the bytes
    //# received from it in authentic datagrams.
    for is_v6 in [false, true] {
        let third = if is_v6 { "[fd97::77]:53" } else { "10.97.77.77:53" }.parse::<SocketAddr>().unwrap();
        let neighbour = Middlebox::address(1, is_v6, 5_353);
        let seen = Arc::new(Mutex::new([Seen::default(); 2]));
        let counted = seen.clone();
        let mut answers = 0u64;
        let rule: Rule = Box::new(move |side, packet, bytes, fate| {
            let kind = kind_of(&packet, bytes);
            let mut seen = counted.lock().unwrap();
            if side == 1 && matches!(kind, Some(SegmentKind::ProbeReply | SegmentKind::Opening)) {
                answers += 1;
                let which = usize::from(answers.is_multiple_of(2));
                fate.now.push((0, from_elsewhere(bytes, [third, neighbour][which])));
                seen[which].bytes_from += packet.payload(bytes).len() as u64;
                fate.later.push((Duration::from_millis(3), 0, bytes.to_vec()));
                return;
            }
            if let Some(which) = [third, neighbour].iter().position(|address| *address == packet.to) {
                seen[which].data += u64::from(kind == Some(SegmentKind::Data));
                seen[which].bytes_to += packet.payload(bytes).len() as u64;
                return;
            }
            fate.pass(side, bytes);
        });
        if !send_through(is_v6, rule) {
            return;
        }
        let seen = *seen.lock().unwrap();
        eprintln!("a third party and another port of the receiver's host: {seen:?}");
        for seen in seen {
            assert_eq!(seen.data, 0, "data went where a copy came from: {seen:?}");
            assert!(seen.bytes_from > 0 && seen.bytes_to > 0, "no copy was accepted, so this shows nothing: {seen:?}");
            assert!(seen.bytes_to <= 3 * seen.bytes_from, "{seen:?}");
        }
    }
}
