//! What a lane does when its own invariants, or the control process, break a rule.

use std::sync::atomic::Ordering;

use culvert_dataplane::datapath::sim::SimPath;
use culvert_link::commands::{ASSIGNED_MAX, Command, Event, SendSlot, Source};
use culvert_link::counters::LaneCounter;
use culvert_link::invariant;
use culvert_link::layout::LaneLayout;

use super::{CHUNK_BYTES, RECEIVE, SEND, World};

#[test]
fn a_broken_invariant_shows_in_the_lanes_counter() {
    let mut world = World::new(1, SimPath::default(), 1, 8, 1_000_000_000);
    world.step();
    assert_eq!(world.sender.lane_counter(LaneCounter::BrokenInvariants), invariant::count());
    let before = invariant::count();
    // A debug build panics when it has counted; a release build goes on.
    let ended = std::panic::catch_unwind(|| culvert_link::invariant!(before == u64::MAX, "a test breaks an invariant"));
    assert_eq!(ended.is_err(), cfg!(debug_assertions));
    world.network.advance(1_000_000);
    world.step();
    assert_eq!(world.sender.lane_counter(LaneCounter::BrokenInvariants), before + 1);
}

/// The lane is not trusted by the control process, nor the other way round.
#[test]
fn a_lane_takes_no_more_commands_from_a_control_process_that_has_gone_mad() {
    let send = |chunk, chunk_bytes| Command::Send { flow: SEND, chunk, chunk_bytes, source: Source::Memory };
    let too_large = vec![send(0, CHUNK_BYTES + 1)];
    let too_many: Vec<_> = (0..=ASSIGNED_MAX as u32).map(|chunk| send(chunk, CHUNK_BYTES)).collect();
    let no_report = vec![Command::Report { flow: SEND, bytes: &[0xff; 40] }];
    for commands in [too_large, too_many, no_report] {
        let mut world = World::new(1, SimPath::default(), 1, 8, 1_000_000_000);
        world.sender.lane.turn();
        for command in &commands {
            world.sender.command(command);
        }
        world.sender.command(&Command::CloseSend { flow: SEND });
        for _ in 0..100 {
            world.sender.lane.turn();
            world.network.advance(100_000);
        }
        assert!(world.sender.take_events().is_empty(), "a command after {commands:?} was taken");
        assert!(world.sender.handoff.has_given_up(), "the process outlives {commands:?}");
    }
    // Bytes that are no command.
    let mut world = World::new(1, SimPath::default(), 1, 8, 1_000_000_000);
    world.sender.commands.push(&[0xff; 16]).unwrap();
    world.sender.command(&Command::CloseSend { flow: SEND });
    for _ in 0..100 {
        world.sender.lane.turn();
        world.network.advance(100_000);
    }
    assert!(world.sender.take_events().is_empty());
    assert!(world.sender.handoff.has_given_up());
}

#[test]
fn a_lane_gives_up_a_command_ring_that_is_broken() {
    let mut world = World::new(1, SimPath::default(), 1, 8, 1_000_000_000);
    world.sender.lane.turn();
    assert!(!world.sender.handoff.has_given_up());
    // More is said to be written than the ring holds.
    let ring = LaneLayout::of(0).commands;
    world.sender.link.words(ring.offset, 1)[0].store(u64::MAX / 2, Ordering::Release);
    world.sender.lane.turn();
    assert!(world.sender.handoff.has_given_up());
}

#[test]
fn commands_for_flows_that_are_not_there_are_ignored() {
    let mut world = World::new(1, SimPath::default(), 1, 8, 1_000_000_000);
    world.sender.lane.turn();
    for slot in [0, 255, 256, u16::MAX] {
        world.sender.command(&Command::CloseSend { flow: SendSlot(slot) });
        world.sender.command(&Command::Return { flow: RECEIVE, buffer: u32::MAX });
    }
    world.sender.command(&Command::CloseSend { flow: SEND });
    let mut closed = 0;
    for _ in 0..100 {
        world.sender.lane.turn();
        world.network.advance(100_000);
        for bytes in world.sender.take_events() {
            match postcard::from_bytes::<Event<'_>>(&bytes).unwrap() {
                Event::SendClosed { flow } => {
                    assert_eq!(flow, SEND);
                    closed += 1;
                }
                other => panic!("an event that nobody expected: {other:?}"),
            }
        }
    }
    assert_eq!(closed, 1);
    assert!(!world.sender.handoff.has_given_up());
}
