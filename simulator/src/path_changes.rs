//! A receiver whose address changes while data moves, and a third party that copies its datagrams
//! from elsewhere, in virtual time.
//!
//! The receiver's port or address changes, while the path is open or dark. A third party's copies
//! of its answers arrive before the answers themselves, from a few addresses or from thousands. In
//! every run, nothing but challenges goes to an address that has not answered one, with at most
//! three times the bytes received from it. Once the receiver is heard from at its new address, data
//! goes there within a few round trips, and the flow becomes as fast as before.

pub(crate) mod scene;

use std::net::{IpAddr, SocketAddr};

use crate::exact::addresses::{FIRST, Forger};
use crate::exact::moving::run_scene;
use crate::finding::Finding;
use crate::flow::FlowOptions;
use crate::link::Path;
use crate::random::Random;
use scene::GOODPUT_MIN;
pub use scene::{Change, Move, PathChanges, PathChangesOutcome};

/// The group of the matrix.
pub const GROUP: &str = "path changes";
/// From the first datagram from a new address to the first data that go there, where nothing is
/// lost: the challenge and its answer, and a probe and its answer where the old path was found dark
/// meanwhile; each may find a queue.
const FOLLOW_ROUNDS_MAX: f64 = 4.0;
/// The queue may be full: what went on at the last rate for half a second without a report may be
/// more than the buffer holds. A challenge that is dropped there is repeated after a third of a
/// second, or a little more than two round trips.
const REPEAT_SECONDS: f64 = 0.34;
/// Half a second of silence and the travel time of an opening.
const HEARD_SECONDS_MAX: f64 = 0.75;
/// Where datagrams are lost, or copies come first: openings are four seconds apart at last. Two in
/// a row may be raced and two lost, and the path may have become light just after one.
const HEARD_SECONDS_MAX_HARMED: f64 = 20.1;
/// Three challenges in a second may be lost, or pushed out by those to the copies' sources; the
/// next opening is four seconds away.
const FOLLOW_SECONDS_MAX_HARMED: f64 = 6.0;
/// Round trips and seconds until it has recovered. What was sent to the old address during half a
/// second of silence counts as lost, so the controller recovers from as low as its minimum.
const RECOVERY_MAX: (f64, f64) = (200.0, 3.0);
/// Desirable, but not required.
const RECOVERY_WISH: (f64, f64) = (60.0, 1.0);

/// The runs that each show one thing.
#[must_use]
pub fn named(seed: u64) -> Vec<PathChanges> {
    let path = Path::clean(100e6, 20.0);
    let scene =
        |name: &str, changes: Vec<Change>, forger| PathChanges { name: name.into(), path, changes, forger, seed };
    let first = SocketAddr::from(FIRST);
    let mut random = Random::new(seed);
    vec![
        scene("another port, twice", vec![Change::To(host(2, 40_000)), Change::To(host(2, 40_001))], None),
        scene("another address and back", vec![Change::To(host(77, 40_000)), Change::To(first)], None),
        scene(
            "another address in the dark",
            vec![Change::DarkTo { dark_ns: 3_000_000_000, to: host(78, 1_024) }, Change::To(host(79, 1_024))],
            None,
        ),
        scene("every answer copied, the copy first", vec![Change::Stay; 3], Some(racers(1.0, u32::MAX))),
        scene("a move under copies", vec![Change::To(host(80, 9)), Change::To(host(2, 9))], Some(racers(0.5, 2))),
        scene("copies from 5,000 addresses, all first", vec![Change::Stay; 3], Some(flood(1.0, u32::MAX, &mut random))),
        scene(
            "a move under copies from 5,000 addresses",
            vec![Change::To(host(2, 50_505)), Change::To(host(81, 50_505))],
            Some(flood(0.5, 2, &mut random)),
        ),
    ]
}

/// Any of it together.
#[must_use]
pub fn random(seed: u64) -> PathChanges {
    let mut random = Random::new(seed);
    let rate = [50e6, 100e6, 200e6][random.below(3) as usize];
    let rtt_ms = 5.0 + random.unit() * 75.0;
    let mut path = Path::clean(rate, rtt_ms).with_loss([0.0, 0.0, 0.002, 0.01][random.below(4) as usize]);
    if random.chance(0.3) {
        path = Path { reordering: 0.02, reordering_ns: path.rtt_ns / 10, duplication: 0.01, ..path };
    }
    let mut changes = Vec::new();
    for number in 0..2 + random.below(3) as u16 {
        let to = match random.below(4) {
            0 => host(2, 40_000 + number),
            1 if number > 0 => SocketAddr::from(FIRST),
            _ => host(3 + random.below(200) as u8, 40_000 + number),
        };
        changes.push(match random.below(4) {
            0 => Change::Stay,
            1 => Change::DarkTo { dark_ns: 200_000_000 + random.below(3_000_000_000), to },
            _ => Change::To(to),
        });
    }
    let forger = match random.below(3) {
        0 => None,
        1 => Some(racers(0.5, 2)),
        _ => Some(flood(0.5, 2, &mut random)),
    };
    PathChanges { name: format!("random, seed {seed}"), path, changes, forger, seed }
}

/// Runs a scene.
///
/// # Panics
/// If the real flows contradict each other.
#[must_use]
pub fn run(scene: &PathChanges) -> PathChangesOutcome {
    let start = Some(scene.path.rate_bits_per_second as u64);
    run_scene(scene, &FlowOptions { start, ..FlowOptions::default() })
}

/// Runs a scene and judges it.
#[must_use]
pub fn judge(scene: &PathChanges) -> Vec<Finding> {
    let outcome = run(scene);
    let finding = |what, measured, bound, is_least| Finding {
        group: GROUP,
        run: scene.name.clone(),
        what,
        measured,
        bound,
        is_least,
        is_required: true,
    };
    let is_harmed = scene.path.loss > 0.0 || scene.path.reordering > 0.0 || scene.forger.is_some();
    let rtt_seconds = scene.path.rtt_ns as f64 / 1e9;
    let mut findings = vec![
        finding("data segments to unproved addresses", outcome.data_to_unproved as f64, 0.0, false),
        finding("bytes to an unproved address for each from it", outcome.amplification_max, 3.0, false),
        finding("changes completed", outcome.moves.len() as f64, scene.changes.len() as f64, true),
    ];
    for done in &outcome.moves {
        if done.change != Change::Stay {
            let is_dark = matches!(done.change, Change::DarkTo { .. });
            let heard_seconds = (done.heard_ns - done.begun_ns) as f64 / 1e9;
            let (heard_max, follow_max) = if is_harmed || is_dark {
                (HEARD_SECONDS_MAX_HARMED, FOLLOW_SECONDS_MAX_HARMED)
            } else {
                let repeat_seconds = REPEAT_SECONDS.max(2.5 * rtt_seconds);
                (HEARD_SECONDS_MAX + rtt_seconds, FOLLOW_ROUNDS_MAX * rtt_seconds + repeat_seconds)
            };
            findings.push(finding("seconds until it is heard from there", heard_seconds, heard_max, false));
            let follow_seconds = (done.followed_ns - done.heard_ns) as f64 / 1e9;
            findings.push(finding("seconds from then to data", follow_seconds, follow_max, false));
        }
        let seconds = done.recovered_ns as f64 / 1e9;
        for ((rounds, seconds_more), is_required) in [(RECOVERY_MAX, true), (RECOVERY_WISH, false)] {
            let seconds_max = rounds.mul_add(rtt_seconds, seconds_more);
            let back = finding("seconds until goodput is back", seconds, seconds_max, false);
            findings.push(Finding { is_required, ..back });
        }
        findings.push(finding("goodput afterwards", done.goodput, GOODPUT_MIN, true));
    }
    findings
}

fn host(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 0, 0, last]), port)
}

/// A third party, and another port of the receiver's own host.
fn racers(wins: f64, wins_in_a_row_max: u32) -> Forger {
    let sources = vec![SocketAddr::from(([192, 0, 2, 9], 53)), host(2, 5_353)];
    Forger { sources, copies: 1, wins, wins_in_a_row_max }
}

/// Thousands of sources, twenty copies of each datagram.
fn flood(wins: f64, wins_in_a_row_max: u32, random: &mut Random) -> Forger {
    let sources = (0..5_000u32)
        .map(|number| SocketAddr::new(IpAddr::from((0xc000_0200 + number).to_be_bytes()), random.below(65_535) as u16))
        .collect();
    Forger { sources, copies: 20, wins, wins_in_a_row_max }
}
