//! The runs that the controller is judged by, as scenes.

use culvert_protocol::rate_control::Mode;

use crate::flow::FlowOptions;
use crate::link::Path;
use crate::world::{Entry, Kind, Scene};

/// A flow in `fair` mode.
#[must_use]
pub fn fair() -> Kind {
    Kind::Culvert(FlowOptions::default())
}

/// A flow in `background` mode.
#[must_use]
pub fn background() -> Kind {
    Kind::Culvert(FlowOptions { mode: Mode::Background, ..FlowOptions::default() })
}

/// One flow alone for `seconds`.
#[must_use]
pub fn alone(path: Path, seconds: f64, seed: u64) -> Scene {
    Scene { path, changes: Vec::new(), flows: vec![Entry::always(fair())], seconds, judged_from_seconds: 0.0, seed }
}

/// `count` flows that begin one after the other, 20 round trips apart, and are judged for 30
/// seconds from 200 round trips after the last one.
#[must_use]
pub fn together(path: Path, count: usize, seed: u64) -> Scene {
    let rtt_seconds = path.rtt_ns as f64 / 1e9;
    let flows = (0..count).map(|at| Entry::from(fair(), at as f64 * 20.0 * rtt_seconds)).collect();
    let judged_from_seconds = ((count - 1) as f64 * 20.0 + 200.0) * rtt_seconds;
    Scene { path, changes: Vec::new(), flows, seconds: judged_from_seconds + 30.0, judged_from_seconds, seed }
}

/// `others` flows of a kind that are there first, begun one after the other, and one more of
/// `newcomer`; judged over two minutes after the first twenty seconds.
#[must_use]
pub fn among(path: Path, other: Kind, others: usize, newcomer: Kind, spacing_seconds: f64, seed: u64) -> Scene {
    let mut flows: Vec<Entry> = (0..others).map(|at| Entry::from(other, at as f64 * spacing_seconds)).collect();
    flows.push(Entry::from(newcomer, 5.0));
    Scene { path, changes: Vec::new(), flows, seconds: 140.0, judged_from_seconds: 20.0, seed }
}

/// A background flow that has the path to itself for ten seconds; then another comes. Judged from
/// two seconds after it could fill the path.
#[must_use]
pub fn gives_way(path: Path, other: Kind, begins_seconds: f64, seed: u64) -> Scene {
    Scene {
        path,
        changes: Vec::new(),
        flows: vec![Entry::always(background()), Entry::from(other, 10.0)],
        seconds: begins_seconds + 12.0,
        judged_from_seconds: begins_seconds + 2.0,
        seed,
    }
}
