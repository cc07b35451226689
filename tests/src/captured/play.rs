//! What a captured data plane does: act honestly, lie once, or follow a script.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_link::messages::{FromDataPlane, LaneReady, Start, ToDataPlane};
use culvert_link::socket::LinkSocket;

use super::lies::Lie;
use super::plane::{Deeds, LOOK_INTERVAL, PATIENT_LOOKS_MAX, Plane};
use super::steps;
use super::truth::Truth;
use crate::script::Script;

/// Polls without news before it gives up. After most scripts nothing more arrives.
const IDLE_LOOKS_MAX: u32 = 60;

/// What it does.
#[derive(Clone, Debug)]
pub enum Play {
    /// It acts honestly to the end.
    Honest,
    /// The same, with one lie.
    Lie(Lie),
    /// It follows a script.
    Script(Vec<u8>),
}

/// Accepts the control process on `listener`, and plays.
pub fn run(listener: &OwnedFd, play: &Play, truth: &Arc<Truth>) -> Deeds {
    let (mut script, idle_looks_max) = match play {
        Play::Honest | Play::Lie(_) => (Script(&[]), PATIENT_LOOKS_MAX),
        Play::Script(script) => (Script(script), IDLE_LOOKS_MAX),
    };
    let Ok(accepted) = rustix::net::accept(listener) else { return Deeds::default() };
    let socket = LinkSocket::from_fd(accepted);
    let Ok(Some((ToDataPlane::Start(start), descriptors))) = socket.receive() else { return Deeds::default() };
    let mut plane = Plane::new(socket, &start, descriptors, truth, idle_looks_max);
    if greet(&mut plane, &start, &mut script) {
        plane.wait_for_flows();
    }
    while !script.is_over() && !plane.is_over {
        plane.look();
        steps::step(&mut plane, &mut script);
    }
    if let Play::Lie(lie) = *play {
        lie_once(&mut plane, lie);
    }
    plane.go_on();
    plane.socket.close();
    plane.deeds
}

/// Sends the first message: how many lanes there are, and their properties. Returns whether the
/// script begins only when flows are open.
fn greet(plane: &mut Plane, start: &Start, script: &mut Script<'_>) -> bool {
    let first = script.byte();
    let lanes = match first {
        250 => 0,
        251 => start.cores.len() + 1,
        252 => 300,
        _ => start.cores.len(),
    };
    let ready =
        |lane| LaneReady { port: 7_000 + lane as u16, gso: true, gro: true, receive_buffer_bytes: 1, pinned: true };
    let text = steps::foreign_text(script.byte());
    let message = FromDataPlane::Ready {
        process_id: 1,
        lanes: (0..lanes).map(ready).collect(),
        sandbox_gaps: vec![text.clone()],
        af_xdp: None,
        has_all_rules: false,
        refusals: vec![text],
    };
    plane.say(&message);
    first < 240
}

/// Acts honestly until there is an opportunity for the lie, and tells it.
fn lie_once(plane: &mut Plane, lie: Lie) {
    let mut idle = 0;
    while !plane.is_over && idle < plane.idle_looks_max {
        let is_new = plane.look();
        if lie.tell(plane) {
            plane.deeds.has_lied = true;
            return;
        }
        idle = if is_new | plane.work() | plane.ask() { 0 } else { idle + 1 };
        if idle > 0 {
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}
