//! What happens between the answer to a flow's first probes and its first data.

use culvert_dataplane::datapath::sim::SimPath;
use culvert_link::counters::{FlowBlock, FlowWord};
use culvert_link::layout::LaneLayout;

use super::{HERE, SEND, THERE, World, seeds};

const DELAY_NS: u64 = 5_000_000;
const CHUNKS: u32 = 20;

/// Found on the emulated path: the search for a larger size began before the control process had
/// said how fast to send, and so at a kilobit per second one probe kept the data for half a minute.
#[test]
fn data_go_as_soon_as_a_path_that_is_narrower_than_the_interface_is_open() {
    for seed in seeds(4) {
        for datagram_bytes_max in [8_972, 4_000, 1_472, 1_410] {
            // How soon the control process answers; the common sizes are 8,972, 4,000, 1,472 and
            // 1,252.
            for answers_after_ns in [0, 1_000_000, 250_000_000] {
                let path = SimPath { datagram_bytes_max, delay_ns: DELAY_NS, ..SimPath::default() };
                let mut world = World::new(seed, path, CHUNKS, 8, 0);
                let block = FlowBlock::new(world.sender.link.clone(), &LaneLayout::of(0), SEND.0);
                let (mut rated_ns, mut moved_ns, mut opened_ns) = (None, None, None);
                world.transfer_while(CHUNKS, |world| {
                    let now_ns = world.network.now_ns();
                    if world.path_stride.is_some() {
                        let opened_ns = *opened_ns.get_or_insert(now_ns);
                        if rated_ns.is_none() && now_ns >= opened_ns + answers_after_ns {
                            block.set(FlowWord::RateBitsPerSecond, 1_000_000_000);
                            rated_ns = Some(now_ns);
                        }
                    }
                    let to = (HERE.parse().unwrap(), THERE.parse().unwrap());
                    let data = world.network.traffic().get(&to).map_or(0, |sent| sent.data);
                    if data > 1 {
                        moved_ns.get_or_insert(now_ns);
                    }
                });
                world.close_and_check(CHUNKS);
                let waited_ns = moved_ns.unwrap().saturating_sub(rated_ns.unwrap());
                assert!(
                    waited_ns <= 2_000_000,
                    "seed {seed}: {waited_ns} ns after a rate was given, up to {datagram_bytes_max} bytes pass"
                );
            }
        }
    }
}

/// A lane that got no core for six seconds reported its path as closed, although it had sent one
/// round of probes. In a slow virtual machine a transfer ended so.
#[test]
fn a_path_opens_although_its_lane_got_no_core_for_longer_than_a_closed_path_takes() {
    for seed in seeds(4) {
        let path = SimPath { delay_ns: DELAY_NS, ..SimPath::default() };
        let mut world = World::new(seed, SimPath { loss: 1.0, ..path }, CHUNKS, 8, 1_000_000_000);
        // Each round is lost: the receiver's lane is not there yet, or gets no core either.
        // After 30 s in all the path would count as closed nevertheless.
        for _ in 0..4 {
            world.sender.lane.turn();
            world.stall_sender(7_000_000_000);
            // An event that the path is closed ends the test.
            world.sender_events();
        }
        //= W-49
        //# Nothing but probes is sent there until one has been answered.
        let sent = world.network.traffic()[&(HERE.parse().unwrap(), THERE.parse().unwrap())];
        assert!(sent.datagrams > 0 && sent.data == 0, "seed {seed}: {sent:?}");
        world.network.set_path(path);
        world.transfer(CHUNKS);
        world.close_and_check(CHUNKS);
    }
}

/// Nothing follows the probe of an idle flow that shows it to be lost, and so each was taken for a
/// black hole.
#[test]
fn an_idle_flow_ends_its_search_for_a_larger_size() {
    for seed in seeds(4) {
        let path = SimPath { datagram_bytes_max: 1_472, delay_ns: DELAY_NS, ..SimPath::default() };
        let mut world = World::new(seed, path, CHUNKS, 8, 1_000_000_000);
        let sent = |world: &World| {
            world
                .network
                .traffic()
                .get(&(HERE.parse().unwrap(), THERE.parse().unwrap()))
                .map_or(0, |sent| sent.datagrams)
        };
        let until = |world: &mut World, seconds: u64| {
            while world.network.now_ns() < seconds * 1_000_000_000 {
                world.step();
            }
        };
        until(&mut world, 10);
        let before = sent(&world);
        until(&mut world, 30);
        assert_eq!(sent(&world) - before, 0, "seed {seed}: an idle flow probes its path again and again");
        let datagram_bytes = world.path_stride.expect("the path is open") + 48;
        assert!((1_472 - 8..=1_472).contains(&datagram_bytes), "seed {seed}: {datagram_bytes}");
        world.transfer(CHUNKS);
        world.close_and_check(CHUNKS);
    }
}
