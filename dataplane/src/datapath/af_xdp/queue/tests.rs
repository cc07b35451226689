//! A queue against a kernel that is played by the test: the rings' other ends.

use std::cell::Cell;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::datapath::af_xdp::rings::in_memory;
use crate::datapath::af_xdp::umem::{Account, RECEIVE_CAPACITY_BYTES, RECEIVE_HEADROOM_BYTES, UmemLayout};

/// A wake-up call that answers what the test says.
#[derive(Debug, Default)]
struct Answers {
    transmit: Cell<Option<Errno>>,
    calls: Cell<u32>,
}

impl Wake for &Answers {
    fn wake_transmit(&self) -> Result<(), Errno> {
        self.calls.set(self.calls.get() + 1);
        self.transmit.get().map_or(Ok(()), Err)
    }

    fn wake_receive(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn always(&self) -> bool {
        self.transmit.get().is_some()
    }
}

/// The kernel's ends of the rings.
struct Kernel {
    fill: Consumer<u64>,
    completion: Producer<u64>,
    receive: Producer<Descriptor>,
    transmit: Consumer<Descriptor>,
    /// Addresses of descriptors that were taken from TX and not completed.
    leaving: VecDeque<u64>,
    /// Pieces of packets that did not fit RX yet.
    arriving: VecDeque<(Vec<u8>, bool)>,
}

const RECEIVE_FRAMES: u32 = 16;
const TRANSMIT_FRAMES: u32 = 6;
/// Indices begin so shortly before the wrap that every test crosses it.
const FIRST_INDEX: u32 = u32::MAX - 5;

fn rings() -> (Rings, Kernel) {
    let (fill, kernel_fill) = in_memory(16, FIRST_INDEX);
    let (kernel_completion, completion) = in_memory(32, FIRST_INDEX);
    let (kernel_receive, receive) = in_memory(8, FIRST_INDEX);
    let (transmit, kernel_transmit) = in_memory(8, FIRST_INDEX);
    let kernel = Kernel {
        fill: kernel_fill,
        completion: kernel_completion,
        receive: kernel_receive,
        transmit: kernel_transmit,
        leaving: VecDeque::new(),
        arriving: VecDeque::new(),
    };
    (Rings { fill, completion, receive, transmit }, kernel)
}

fn umem() -> Umem {
    let layout = UmemLayout { receive_frames: RECEIVE_FRAMES, transmit_frames: TRANSMIT_FRAMES, transmit_chunks: 3 };
    Umem::new(layout).unwrap()
}

impl Kernel {
    /// A packet comes in, in as many pieces as it takes.
    fn arrive(&mut self, packet: &[u8]) {
        let pieces = packet.chunks(RECEIVE_CAPACITY_BYTES).count();
        for (number, piece) in packet.chunks(RECEIVE_CAPACITY_BYTES).enumerate() {
            self.arriving.push_back((piece.to_vec(), number + 1 < pieces));
        }
    }

    /// Moves up to `pieces_max` pieces into RX, as far as FILL has frames. The kernel writes to the
    /// memory behind the tokens.
    fn deliver(&mut self, umem: &mut Umem, pieces_max: usize) {
        for _ in 0..pieces_max {
            if self.arriving.is_empty() || self.receive.room(1) == 0 {
                break;
            }
            let Some(address) = self.fill.pop() else { break };
            let (piece, continues) = self.arriving.pop_front().unwrap();
            // What the NIC does by DMA, the test does by taking the frame for a moment.
            let mut frame = umem.reclaim(address).unwrap().unwrap();
            umem.frame_mut(&mut frame)[RECEIVE_HEADROOM_BYTES..][..piece.len()].copy_from_slice(&piece);
            let begin = umem.lend(frame, 1) + RECEIVE_HEADROOM_BYTES as u64;
            let options = if continues { CONTINUES } else { 0 };
            assert!(self.receive.push(Descriptor { address: begin, bytes: piece.len() as u32, options }));
        }
        self.fill.release();
        self.receive.publish();
    }

    /// Takes descriptors from TX; returns the packets' lengths in pieces.
    fn take(&mut self, descriptors_max: usize) -> Vec<Descriptor> {
        let taken: Vec<_> = std::iter::from_fn(|| self.transmit.pop()).take(descriptors_max).collect();
        self.transmit.release();
        self.leaving.extend(taken.iter().map(|descriptor| descriptor.address));
        taken
    }

    fn complete(&mut self, descriptors_max: usize) {
        for _ in 0..descriptors_max {
            let Some(address) = self.leaving.pop_front() else { break };
            assert!(self.completion.push(address));
        }
        self.completion.publish();
    }
}

/// A packet whose bytes contain its number and their positions.
fn packet(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number.wrapping_mul(31) + at.wrapping_mul(7) + at / 251) as u8).collect()
}

#[test]
fn a_batch_may_end_in_the_middle_of_a_packet() {
    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, mut kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, RECEIVE_FRAMES as usize);
    kernel.arrive(&packet(1, 9_000));
    kernel.arrive(&packet(2, 60));
    let mut got = Vec::new();
    for _ in 0..4 {
        kernel.deliver(&mut umem, 1);
        queue.receive(&mut umem, 100, |packet, _| got.push(packet.to_vec()));
    }
    assert_eq!(got, [packet(1, 9_000), packet(2, 60)]);
    assert_eq!(queue.counters(), QueueCounters { received: 2, gathered: 1, ..QueueCounters::default() });
    assert_eq!(umem.account(Purpose::Receive), Account { pool: 0, held: 0, kernel: RECEIVE_FRAMES as usize });
}

#[test]
fn what_the_kernel_left_in_the_ring_is_remembered() {
    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, mut kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, RECEIVE_FRAMES as usize);
    let frame = umem.take(Purpose::Transmit).unwrap();
    queue.send(&mut umem, frame, 100).unwrap();
    // A kernel that is always busy is not retried forever.
    answers.transmit.set(Some(Errno::AGAIN));
    queue.flush(&mut umem);
    assert!(queue.owes_wakeup() && !queue.is_broken(), "the packet is still in the ring");
    assert_eq!(kernel.take(8).len(), 1);
    queue.flush(&mut umem);
    assert!(!queue.owes_wakeup(), "the ring is empty");
    kernel.complete(8);
    queue.complete(&mut umem);
    assert_eq!(umem.lent(Purpose::Transmit), 0);
}

#[test]
fn a_jumbo_packet_leaves_in_pieces_of_one_frame() {
    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, mut kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, 8);
    let frame = umem.take(Purpose::Transmit).unwrap();
    queue.send(&mut umem, frame, 9_014).unwrap();
    assert!(kernel.take(9).is_empty(), "nothing leaves before the flush");
    queue.flush(&mut umem);
    let pieces = kernel.take(9);
    assert_eq!(pieces.iter().map(|d| (d.bytes, d.options)).collect::<Vec<_>>(), [(4096, 1), (4096, 1), (822, 0)]);
    assert_eq!(pieces[2].address - pieces[0].address, 8192);
    kernel.complete(2);
    queue.complete(&mut umem);
    assert_eq!(umem.account(Purpose::Transmit).kernel, 1, "one piece is still out");
    kernel.complete(1);
    queue.complete(&mut umem);
    assert_eq!(umem.account(Purpose::Transmit), Account { pool: 6, held: 0, kernel: 0 });
}

#[test]
fn what_does_not_fit_comes_back() {
    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, _kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, 8);
    for _ in 0..2 {
        let frame = umem.take(Purpose::Transmit).unwrap();
        queue.send(&mut umem, frame, 9_014).unwrap();
    }
    let frame = umem.take(Purpose::Transmit).unwrap();
    let frame = queue.send(&mut umem, frame, 9_014).expect_err("two of eight descriptors are free");
    queue.send(&mut umem, frame, 8_000).unwrap();
    assert_eq!(umem.account(Purpose::Transmit), Account { pool: 3, held: 0, kernel: 3 });
}

#[test]
fn descriptors_that_make_no_sense_are_counted_and_spoil_only_their_packet() {
    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, mut kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, RECEIVE_FRAMES as usize);
    // Beyond its frame, a frame that is not the kernel's, then a sound one.
    let address = kernel.fill.pop().unwrap();
    for (address, options) in [(address + 256, 0), (u64::MAX - 4096, CONTINUES)] {
        assert!(kernel.receive.push(Descriptor { address, bytes: 4_000, options }));
    }
    let second = kernel.fill.pop().unwrap();
    assert!(
        kernel.receive.push(Descriptor { address: second + 256, bytes: 60, options: 0 }),
        "the end of the spoilt one"
    );
    kernel.receive.publish();
    kernel.arrive(&packet(3, 100));
    kernel.deliver(&mut umem, 1);
    let mut got = Vec::new();
    queue.receive(&mut umem, 100, |packet, _| got.push(packet.to_vec()));
    assert_eq!(got, [packet(3, 100)]);
    assert_eq!(queue.counters().malformed, 2);
    assert_eq!(umem.account(Purpose::Receive).kernel, RECEIVE_FRAMES as usize, "every frame is back in FILL");
}

#[test]
fn each_error_of_a_wakeup_has_its_meaning() {
    use WakeOutcome::{Again, Broken, Done, Down};
    let soft = [Errno::AGAIN, Errno::BUSY, Errno::NOBUFS, Errno::INTR];
    let fatal = [Errno::SOCKTNOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL, Errno::PERM, Errno::NXIO];
    assert_eq!(WakeOutcome::of(Ok(())), Done);
    assert!(soft.iter().all(|&errno| WakeOutcome::of(Err(errno)) == Again));
    assert!(fatal.iter().all(|&errno| WakeOutcome::of(Err(errno)) == Broken));
    assert_eq!(WakeOutcome::of(Err(Errno::NETDOWN)), Down);

    let (mut umem, answers) = (umem(), Answers::default());
    let (rings, _kernel) = rings();
    let mut queue = Queue::new(rings, &answers, &mut umem, 8);
    let mut calls_at = |errno, queue: &mut Queue<&Answers>| {
        answers.transmit.set(Some(errno));
        answers.calls.set(0);
        queue.flush(&mut umem);
        answers.calls.get()
    };
    assert_eq!(calls_at(Errno::AGAIN, &mut queue), 2, "called again, and not for ever");
    assert_eq!(calls_at(Errno::NETDOWN, &mut queue), 1);
    assert!(queue.is_down() && !queue.is_broken());
    assert_eq!(calls_at(Errno::NXIO, &mut queue), 1);
    assert!(queue.is_broken());
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(usize),
    Deliver(usize),
    Receive(usize),
    Send(usize),
    Take(usize),
    Complete(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        prop_oneof![1usize..3_841, 3_800usize..12_000].prop_map(Step::Arrive),
        (0usize..9).prop_map(Step::Deliver),
        (0usize..9).prop_map(Step::Receive),
        prop_oneof![1usize..4_100, 4_000usize..12_289].prop_map(Step::Send),
        (0usize..9).prop_map(Step::Take),
        (0usize..9).prop_map(Step::Complete),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever the two sides do in whatever order: packets arrive whole and in order, packets
    /// leave whole and in order, every frame is in one place, and when the kernel has finished, all
    /// of them are where they were.
    #[test]
    fn packets_are_whole_and_frames_are_conserved(steps in steps()) {
        let (mut umem, answers) = (umem(), Answers::default());
        let (rings, mut kernel) = rings();
        let mut queue = Queue::new(rings, &answers, &mut umem, RECEIVE_FRAMES as usize);
        let (mut arrived, mut got) = (Vec::new(), Vec::new());
        let (mut sent, mut seen, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Arrive(bytes) => {
                    arrived.push(packet(arrived.len(), bytes));
                    kernel.arrive(arrived.last().unwrap());
                }
                Step::Deliver(pieces) => kernel.deliver(&mut umem, pieces),
                Step::Receive(packets) => {
                    queue.receive(&mut umem, packets, |packet, _| got.push(packet.to_vec()));
                }
                Step::Send(bytes) => {
                    if let Some(frame) = umem.take(Purpose::Transmit) {
                        match queue.send(&mut umem, frame, bytes) {
                            Ok(()) => sent.push(bytes),
                            Err(frame) => umem.give_back(frame),
                        }
                    }
                    queue.leaving(&umem, |packet| seen.push(packet.len()));
                    queue.flush(&mut umem);
                }
                Step::Take(descriptors) => left.extend(kernel.take(descriptors)),
                Step::Complete(descriptors) => {
                    kernel.complete(descriptors);
                    queue.complete(&mut umem);
                }
            }
            for (purpose, frames) in [(Purpose::Receive, RECEIVE_FRAMES), (Purpose::Transmit, TRANSMIT_FRAMES)] {
                let account = umem.account(purpose);
                prop_assert_eq!(account.held, 0);
                prop_assert_eq!(account.pool + account.kernel, frames as usize);
            }
            prop_assert!(arrived.starts_with(&got));
        }
        while !kernel.arriving.is_empty() {
            kernel.deliver(&mut umem, 9);
            queue.receive(&mut umem, 9, |packet, _| got.push(packet.to_vec()));
        }
        while queue.receive(&mut umem, 9, |packet, _| got.push(packet.to_vec())) > 0 {}
        prop_assert_eq!(&got, &arrived);
        queue.flush(&mut umem);
        left.extend(kernel.take(100));
        kernel.complete(100);
        queue.complete(&mut umem);
        let whole: Vec<usize> = left
            .split_inclusive(|descriptor| descriptor.options & CONTINUES == 0)
            .map(|pieces| pieces.iter().map(|piece| piece.bytes as usize).sum())
            .collect();
        prop_assert_eq!(&whole, &sent);
        prop_assert_eq!(&seen, &sent, "what a capture sees is not what was sent");
        prop_assert_eq!(umem.account(Purpose::Transmit), Account { pool: TRANSMIT_FRAMES as usize, held: 0, kernel: 0 });
        prop_assert_eq!(umem.account(Purpose::Receive), Account { pool: 0, held: 0, kernel: RECEIVE_FRAMES as usize });
        prop_assert_eq!((queue.counters().malformed, umem.foreign_returns()), (0, 0));
    }
}
