//! The coordinator without lanes: when it ends the process, and what a failed opening leaves.

use std::time::Duration;

use culvert_protocol::keys::Secret;
use culvert_protocol::seal::Cipher;

use super::*;

/// Far more than the coordinator takes to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// A coordinator of one lane, which nobody runs.
fn coordinator() -> Coordinator {
    let bell = doorbell().unwrap();
    let handoff = Arc::new(Handoff::new(doorbell().unwrap(), bell.try_clone().unwrap()));
    Coordinator {
        link_memory: Arc::new(SharedMemory::create("link", LaneLayout::memory_bytes(1), false).unwrap()),
        files: Arc::default(),
        bell,
        handoffs: vec![handoff],
        parts: Vec::new(),
        piece_bytes: 1 << 20,
        buffers_per_lane: 4,
        buffer_bytes: 1 << 18,
        schedules: Schedules::default(),
        steering: None,
        kept: RuleGuard::default(),
        refusals: Vec::new(),
    }
}

/// The other end of the link of a coordinator that serves; its lane; and what says that serving has
/// ended.
fn serving() -> (LinkSocket, Arc<Handoff>, mpsc::Receiver<()>) {
    let (ours, theirs) = LinkSocket::pair().unwrap();
    let (started, has_started) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut coordinator = coordinator();
        started.send(coordinator.handoffs[0].clone()).unwrap();
        coordinator.serve(&theirs);
        let _ = ended.send(());
    });
    (ours, has_started.recv_timeout(PATIENCE).unwrap(), has_ended)
}

fn open_send(lane: u16, slot: u16) -> OpenSend {
    OpenSend {
        lane,
        slot: SendSlot(slot),
        flow_id: slot.into(),
        holder: 0,
        secret: Secret::new(&[1; 32]),
        cipher: Cipher::Aes256Gcm,
        partner: "10.0.0.2:2".parse().unwrap(),
        probe_datagram_bytes: vec![1_472, 1_252],
        chunk_bytes: 1 << 18,
        checksum: true,
    }
}

fn open_receive(lane: u16, slot: u16) -> OpenReceive {
    OpenReceive {
        lane,
        slot: ReceiveSlot(slot),
        flow_id: slot.into(),
        holder: 0,
        secret: Secret::new(&[1; 32]),
        cipher: Cipher::Aes256Gcm,
        partner: "10.0.0.1:1".parse().unwrap(),
        chunk_count: 1,
        chunk_bytes: 1 << 18,
        checksum: true,
        interval_us: 1_000,
    }
}

fn answer(link: &LinkSocket) -> FromDataPlane {
    link.receive().unwrap().expect("the coordinator serves").0
}

#[test]
fn the_process_ends_when_a_lane_has_got_nonsense() {
    let (link, handoff, has_ended) = serving();
    link.send(&ToDataPlane::OpenSend(open_send(0, 3)), &[]).unwrap();
    assert_eq!(answer(&link), FromDataPlane::SendOpened { lane: 0, slot: SendSlot(3) });
    assert!(has_ended.try_recv().is_err());
    handoff.give_up();
    has_ended.recv_timeout(PATIENCE).expect("the coordinator serves on");
}

#[test]
fn the_process_ends_when_a_flow_is_opened_where_there_is_no_room_for_it() {
    let taken = (ToDataPlane::OpenSend(open_send(0, 3)), ToDataPlane::OpenReceive(open_receive(0, 7)));
    let in_vain = [
        taken.0.clone(),
        taken.1.clone(),
        ToDataPlane::OpenSend(open_send(0, FLOWS_PER_LANE)),
        ToDataPlane::OpenReceive(open_receive(0, u16::MAX)),
        ToDataPlane::OpenSend(open_send(1, 0)),
        ToDataPlane::OpenReceive(open_receive(u16::MAX, 0)),
    ];
    for message in in_vain {
        let (link, _handoff, has_ended) = serving();
        link.send(&taken.0, &[]).unwrap();
        assert_eq!(answer(&link), FromDataPlane::SendOpened { lane: 0, slot: SendSlot(3) });
        link.send(&taken.1, &[]).unwrap();
        assert_eq!(answer(&link), FromDataPlane::ReceiveOpened { lane: 0, slot: ReceiveSlot(7) });
        link.send(&message, &[]).unwrap();
        has_ended.recv_timeout(PATIENCE).expect("the coordinator serves on");
    }
}

#[test]
fn a_flow_that_its_lane_does_not_take_leaves_its_slot_free() {
    let mut coordinator = coordinator();
    let handoff = coordinator.handoffs[0].clone();
    let hop = || ToLane::NextHop { to: "10.0.0.2".parse().unwrap(), hop: None };
    while handoff.deliver(hop()) {}
    assert!(matches!(coordinator.open_send(open_send(0, 3)), Ok(None)));
    assert!(matches!(coordinator.open_receive(&open_receive(0, 7)), Ok(None)));
    while handoff.next_delivery().is_some() {}
    assert!(matches!(coordinator.open_send(open_send(0, 3)), Ok(Some(_))));
    assert!(matches!(coordinator.open_receive(&open_receive(0, 7)), Ok(Some(_))));
}
