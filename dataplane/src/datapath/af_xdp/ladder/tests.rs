//! Messages for hosts that cannot do better: each names the cause and the remedy, and the lanes
//! stay usable.

use std::net::Ipv4Addr;

use super::*;

fn start(interface: u32, name: &str, queues: u32) -> AfXdpStart {
    let addresses = vec![Ipv4Addr::LOCALHOST.into()];
    AfXdpStart { interface, name: name.to_owned(), queues, mtu: 1_500, addresses, only: None, busy_poll_us: None }
}

/// Opens the ladder over a lane on loopback; what it said. `None`, and why, where that takes
/// capabilities that are not there.
fn refusals(start: &AfXdpStart) -> Option<String> {
    let missing = privilege::missing();
    if !missing.is_empty() {
        eprintln!("skipped: {} missing", missing.join(" and "));
        return None;
    }
    let lane = UdpDatapath::open(Ipv4Addr::LOCALHOST.into(), 0, 1 << 20).unwrap();
    let opened = open(start, vec![lane]).unwrap();
    assert!(opened.steering.is_none());
    assert!(matches!(opened.lanes[..], [LaneDatapath::Udp(_)]), "the lane keeps its socket");
    assert!(opened.refusals.last().unwrap().ends_with("UDP sockets are used"), "{:?}", opened.refusals);
    Some(opened.refusals.join("\n"))
}

#[test]
fn an_interface_that_vanished_is_gone() {
    let Some(said) = refusals(&start(999_999, "gone0", 1)) else { return };
    assert!(said.contains("AF_XDP on gone0, zerocopy mode: the interface is gone"), "{said}");
    assert!(said.contains("AF_XDP on gone0, skb mode: the interface is gone"), "{said}");
}

#[test]
fn more_lanes_than_queues_name_both_numbers_and_the_remedy() {
    let Some(said) = refusals(&start(1, "lo", 0)) else { return };
    assert!(
        said.contains("each lane needs a receive queue, and the interface has too few (lanes: 1, queues: 0)"),
        "{said}"
    );
    assert!(said.contains("--cores") && said.contains("ethtool -L"), "{said}");
}

#[test]
fn only_the_mode_that_is_asked_for_is_tried() {
    let Some(said) = refusals(&AfXdpStart { only: Some(Mode::Copy), ..start(999_999, "gone0", 1) }) else { return };
    assert!(said.contains("copy mode") && !said.contains("zerocopy") && !said.contains("skb"), "{said}");
}
