//! The controller's requirements, as a table of findings.
//!
//! Goodput is payload over the rate of the link, which carries whole IP packets of 9000 bytes:
//! 99.15 % is the maximum. Bounds are those of the requirements and must not be moved; what fails
//! is recorded as failing.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::finding::Finding;
use crate::link::{BurstLoss, Path};
use crate::path_changes;
use crate::scenes::{alone, among, background, fair, gives_way, together};
use crate::series::jain;
use crate::world::{Kind, Outcome, run};

type Case = Box<dyn Fn(u64) -> Vec<Finding> + Send + Sync>;

/// How much of the matrix to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A part for every test run.
    Quick,
    /// All of it.
    Whole,
}

/// Runs the matrix on as many threads as there are cores; findings in the order of the cases.
///
/// # Panics
/// If a thread panics.
#[must_use]
pub fn run_matrix(extent: Extent, group: Option<&str>, seed: u64) -> Vec<Finding> {
    let cases: Vec<Case> = cases(extent)
        .into_iter()
        .filter(|(name, _)| group.is_none_or(|group| *name == group))
        .map(|(_, case)| case)
        .collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found: Vec<(usize, Vec<Finding>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(at) else { return found };
                found.push((at, case(seed)));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run panicked")).collect()
    });
    found.sort_by_key(|&(at, _)| at);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}

fn cases(extent: Extent) -> Vec<(&'static str, Case)> {
    let mut cases: Vec<(&'static str, Case)> = Vec::new();
    alone_cases(extent, &mut cases);
    start_cases(extent, &mut cases);
    fairness_cases(extent, &mut cases);
    coexistence_cases(extent, &mut cases);
    background_cases(extent, &mut cases);
    change_cases(extent, &mut cases);
    path_change_cases(extent, &mut cases);
    cases
}

/// The named runs of [`crate::path_changes`], and random ones; each from the matrix's seed and its
/// number.
fn path_change_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let count = if extent == Extent::Quick { 4 } else { 200 };
    for at in 0..path_changes::named(0).len() {
        cases.push((path_changes::GROUP, Box::new(move |seed| path_changes::judge(&path_changes::named(seed)[at]))));
    }
    for number in 0..count {
        let scene = move |seed: u64| path_changes::random(seed.wrapping_mul(1_000).wrapping_add(number));
        cases.push((path_changes::GROUP, Box::new(move |seed| path_changes::judge(&scene(seed)))));
    }
}

fn gbps(bits: f64) -> String {
    format!("{} Gb/s", bits / 1e9)
}

fn alone_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let all: Vec<(f64, f64, f64)> = [10e9, 100e9]
        .into_iter()
        .flat_map(|rate| [10.0, 50.0, 100.0, 200.0].map(move |rtt_ms| (rate, rtt_ms)))
        .flat_map(|(rate, rtt_ms)| [0.0, 0.0001, 0.01, 0.05].map(move |loss| (rate, rtt_ms, loss)))
        .collect();
    cases.push((
        "alone",
        Box::new(|seed| {
            // More than one lane can do: four flows, as a transfer would have.
            let mut scene = alone(Path::clean(400e9, 200.0), 30.0, seed);
            scene.flows = vec![scene.flows[0]; 4];
            let outcome = run(&scene);
            let sum: f64 = outcome.delivered.iter().sum();
            let finding = |what, measured, bound, is_least| Finding {
                group: "alone",
                run: "400 Gb/s × 200 ms, four flows, 30 s".into(),
                what,
                measured,
                bound,
                is_least,
                is_required: true,
            };
            vec![
                finding("goodput", sum / 400e9, 0.85, true),
                finding("queue p95 ms", outcome.waits.quantile_ms(0.95), 60.0, false),
            ]
            .into_iter()
            .map(|finding| Finding { is_required: false, ..finding })
            .collect()
        }),
    ));
    for (rate, rtt_ms, loss) in all {
        let is_quick = matches!((rate as u64 / 1_000_000_000, rtt_ms as u64), (10, 100) | (100, 200));
        if extent == Extent::Quick && !is_quick {
            continue;
        }
        cases.push((
            "alone",
            Box::new(move |seed| {
                let outcome = run(&alone(Path::clean(rate, rtt_ms).with_loss(loss), 60.0, seed));
                let bound = if loss > 0.02 {
                    0.80
                } else if loss > 0.001 {
                    0.90
                } else {
                    0.95
                };
                let run = format!("{} × {rtt_ms} ms, loss {} %", gbps(rate), loss * 100.0);
                judged_alone("alone", &run, &outcome, rate, rtt_ms, bound)
            }),
        ));
    }
}

fn start_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    for (rate, rtt_ms) in [(1e9, 100.0), (10e9, 10.0), (10e9, 100.0), (100e9, 50.0), (100e9, 200.0)] {
        if extent == Extent::Quick && rtt_ms != 100.0 {
            continue;
        }
        for start in [None, Some(rate as u64)] {
            cases.push(("start-up", Box::new(move |seed| start_up(rate, rtt_ms, start, seed))));
        }
    }
}

/// The first forty round trips: how soon the path is full, and what that costs.
fn start_up(rate: f64, rtt_ms: f64, start: Option<u64>, seed: u64) -> Vec<Finding> {
    let mut scene = alone(Path::clean(rate, rtt_ms), 40.0 * rtt_ms / 1e3, seed);
    scene.flows[0].kind = Kind::Culvert(crate::flow::FlowOptions { start, ..Default::default() });
    let outcome = run(&scene);
    let full_seconds = outcome
        .samples
        .iter()
        .find(|sample| sample.delivered[0] >= 0.9 * rate)
        .map_or(f64::INFINITY, |sample| sample.seconds);
    let seeded = if start.is_some() { ", seeded with the rate" } else { "" };
    let finding = |what, measured, bound| Finding {
        group: "start-up",
        run: format!("{} × {rtt_ms} ms{seeded}", gbps(rate)),
        what,
        measured,
        bound,
        is_least: false,
        is_required: false,
    };
    // From 256 segments in a round trip there are so many doublings to the rate.
    let doublings = (rate * rtt_ms / 1e3 / (256.0 * 8_932.0 * 8.0)).log2().max(0.0);
    vec![
        finding(
            "round trips to 90 %",
            full_seconds / rtt_ms * 1e3,
            if start.is_some() { 4.0 } else { 1.25 * doublings + 4.0 },
        ),
        finding("loss", outcome.loss, 0.01),
    ]
}

fn judged_alone(group: &'static str, run: &str, outcome: &Outcome, rate: f64, rtt_ms: f64, bound: f64) -> Vec<Finding> {
    let finding = |what, measured, bound, is_least| Finding {
        group,
        run: run.to_owned(),
        what,
        measured,
        bound,
        is_least,
        is_required: true,
    };
    vec![
        finding("goodput", outcome.delivered[0] / rate, bound, true),
        finding("queue p95 ms", outcome.waits.quantile_ms(0.95), f64::max(5.0, rtt_ms / 10.0), false),
    ]
}

fn fairness_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let quick = [(10e9, 50.0, 4), (100e9, 10.0, 2)];
    let whole: Vec<(f64, f64, usize)> = [10e9, 100e9]
        .into_iter()
        .flat_map(|rate| [10.0, 50.0, 100.0, 200.0].map(move |rtt_ms| (rate, rtt_ms)))
        .flat_map(|(rate, rtt_ms)| [2, 4, 8].map(move |count| (rate, rtt_ms, count)))
        .collect();
    let chosen = if extent == Extent::Quick { quick.to_vec() } else { whole };
    for (rate, rtt_ms, count) in chosen {
        cases.push((
            "fairness",
            Box::new(move |seed| {
                let outcome = run(&together(Path::clean(rate, rtt_ms), count, seed));
                let run = format!("{} × {rtt_ms} ms, {count} flows", gbps(rate));
                let finding = |what, measured, bound, is_least| Finding {
                    group: "fairness",
                    run: run.clone(),
                    what,
                    measured,
                    bound,
                    is_least,
                    is_required: true,
                };
                let sum: f64 = outcome.delivered.iter().sum();
                vec![
                    finding("Jain's index", jain(&outcome.delivered), 0.95, true),
                    Finding { is_required: false, ..finding("goodput of all", sum / rate, 0.95, true) },
                    Finding {
                        is_required: false,
                        ..finding("queue p95 ms", outcome.waits.quantile_ms(0.95), f64::max(10.0, rtt_ms * 0.3), false)
                    },
                ]
            }),
        ));
    }
}

fn coexistence_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let quick = [(1e9, 20.0, 2)];
    let whole = [
        (1e9, 20.0, 1),
        (1e9, 20.0, 2),
        (1e9, 20.0, 4),
        (1e9, 100.0, 1),
        (1e9, 100.0, 4),
        (10e9, 10.0, 1),
        (10e9, 10.0, 4),
        (10e9, 50.0, 2),
        (10e9, 100.0, 2),
    ];
    let chosen = if extent == Extent::Quick { quick.to_vec() } else { whole.to_vec() };
    for (rate, rtt_ms, others) in chosen {
        for (group, other) in [("among CUBIC", Kind::Cubic), ("among BBR", Kind::Bbr)] {
            cases.push((group, Box::new(move |seed| coexistence(group, other, rate, rtt_ms, others, seed))));
        }
    }
}

/// What each other flow gets next to Culvert, compared with what it gets next to one more of its
/// own kind.
fn coexistence(group: &'static str, other: Kind, rate: f64, rtt_ms: f64, others: usize, seed: u64) -> Vec<Finding> {
    let path = Path::clean(rate, rtt_ms);
    // Which of the equals is ahead is chance, so they are compared rank by rank, over three
    // spacings of their beginnings.
    let ranked = |newcomer: Kind| {
        let mut sums = vec![0.0; others + 1];
        for spacing_seconds in [0.3, 0.5, 0.7] {
            let mut delivered = run(&among(path, other, others, newcomer, spacing_seconds, seed)).delivered;
            delivered[..others].sort_by(f64::total_cmp);
            sums.iter_mut().zip(&delivered).for_each(|(sum, delivered)| *sum += delivered / 3.0);
        }
        sums
    };
    let (with_own, with_culvert, with_cubic) = (ranked(other), ranked(fair()), ranked(Kind::Cubic));
    let (beside_own, beside_culvert) = (&with_own[..others], &with_culvert[..others]);
    let least = beside_culvert.iter().zip(beside_own).map(|(culvert, own)| culvert / own).fold(f64::INFINITY, f64::min);
    let mean = beside_culvert.iter().sum::<f64>() / beside_own.iter().sum::<f64>();
    let run = format!("{} × {rtt_ms} ms, beside {others}", gbps(rate));
    let finding = |what, measured, bound| Finding {
        group,
        run: run.clone(),
        what,
        measured,
        bound,
        is_least: true,
        is_required: true,
    };
    vec![
        finding("left to each, at least", least, 0.5),
        finding("left to all", mean, 0.5),
        // Not required; but a flow that gets less than TCP would get is useless next to TCP.
        Finding {
            is_required: false,
            ..finding("Culvert's own, of what CUBIC would have had", with_culvert[others] / with_cubic[others], 0.5)
        },
    ]
}

fn background_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let quick = [(10e9, 50.0, Kind::Cubic, "CUBIC")];
    let whole = [
        (1e9, 20.0, Kind::Cubic, "CUBIC"),
        (10e9, 10.0, Kind::Cubic, "CUBIC"),
        (10e9, 50.0, Kind::Cubic, "CUBIC"),
        (10e9, 100.0, Kind::Cubic, "CUBIC"),
        (10e9, 10.0, Kind::Bbr, "BBR"),
        (10e9, 50.0, Kind::Bbr, "BBR"),
        (10e9, 10.0, fair(), "fair"),
        (10e9, 50.0, fair(), "fair"),
        (100e9, 100.0, fair(), "fair"),
    ];
    let chosen = if extent == Extent::Quick { quick.to_vec() } else { whole.to_vec() };
    for (rate, rtt_ms, other, name) in chosen {
        cases.push(("background", Box::new(move |seed| gives_way_to(rate, rtt_ms, other, name, seed))));
    }
    cases.push((
        "background",
        Box::new(move |seed| {
            let mut scene = alone(Path::clean(10e9, 50.0), 60.0, seed);
            scene.flows[0].kind = background();
            let outcome = run(&scene);
            vec![Finding {
                group: "background",
                run: "10 Gb/s × 50 ms, alone".into(),
                what: "goodput",
                measured: outcome.delivered[0] / 10e9,
                bound: 0.9,
                is_least: true,
                is_required: true,
            }]
        }),
    ));
}

/// The other flow comes after 10 s. From 2 s after then it must be as if the background flow were
/// not there: what the other gets is compared with what it gets if the background flow ends at that
/// moment. Against an empty path all along it also pays for what it met when it came, which for
/// TCP's slow start is much.
fn gives_way_to(rate: f64, rtt_ms: f64, other: Kind, name: &str, seed: u64) -> Vec<Finding> {
    let scene = gives_way(Path::clean(rate, rtt_ms), other, 10.0, seed);
    let delivered = run(&scene).delivered[1];
    let mut ending = scene.clone();
    ending.flows[0].until_seconds = 12.0;
    let mut empty = scene.clone();
    empty.flows.remove(0);
    let run_name = format!("{} × {rtt_ms} ms, {name} comes", gbps(rate));
    let finding = |what, measured, is_required| Finding {
        group: "background",
        run: run_name.clone(),
        what,
        measured,
        bound: 0.8,
        is_least: true,
        is_required,
    };
    vec![
        finding("left to the other, of the path without it", delivered / run(&ending).delivered[1], true),
        finding("of a path without it from the beginning", delivered / run(&empty).delivered[0], false),
    ]
}

/// Name, what the path becomes and when, the path at first, and the mean rate in parts of the
/// first.
type ChangingPath = (&'static str, Vec<(f64, Path)>, Path, f64);

fn change_cases(extent: Extent, cases: &mut Vec<(&'static str, Case)>) {
    let clean = Path::clean(10e9, 50.0);
    let changed: Vec<ChangingPath> = vec![
        (
            "rate halves after 20 s",
            vec![(20.0, Path { rate_bits_per_second: 5e9, ..clean })],
            clean,
            (20.0 + 20.0) / 60.0,
        ),
        (
            "rate doubles after 20 s",
            vec![(20.0, Path { rate_bits_per_second: 20e9, ..clean })],
            clean,
            (20.0 + 80.0) / 60.0,
        ),
        ("round trip doubles after 20 s", vec![(20.0, Path { rtt_ns: 100_000_000, ..clean })], clean, 1.0),
        ("round trip halves after 20 s", vec![(20.0, Path { rtt_ns: 25_000_000, ..clean })], clean, 1.0),
        ("dark from 20 s to 25 s", vec![(20.0, Path { is_dark: true, ..clean }), (25.0, clean)], clean, 55.0 / 60.0),
        (
            "1 % lost in bursts",
            vec![],
            Path { burst_loss: Some(BurstLoss { to_bad: 0.0002, to_good: 0.01, loss_in_bad: 0.5 }), ..clean },
            1.0,
        ),
        ("buffer of 2 ms", vec![], clean.with_buffer_bdp(0.04), 1.0),
        ("buffer of 0.2 ms", vec![], clean.with_buffer_bdp(0.004), 1.0),
        ("5 % reordered by 2 ms", vec![], Path { reordering: 0.05, reordering_ns: 2_000_000, ..clean }, 1.0),
    ];
    for (name, changes, path, capacity) in changed {
        if extent == Extent::Quick
            && !name.starts_with("rate halves")
            && !name.starts_with("dark")
            && !name.starts_with("buffer of 2")
        {
            continue;
        }
        cases.push((
            "changes",
            Box::new(move |seed| {
                let mut scene = alone(path, 60.0, seed);
                scene.changes = changes.clone();
                let outcome = run(&scene);
                let finding = |what, measured, bound, is_least| Finding {
                    group: "changes",
                    run: format!("10 Gb/s × 50 ms, {name}"),
                    what,
                    measured,
                    bound,
                    is_least,
                    is_required: true,
                };
                let mut findings =
                    vec![finding("goodput of what there was", outcome.delivered[0] / (10e9 * capacity), 0.85, true)];
                if name.starts_with("buffer") {
                    findings.push(Finding { is_required: false, ..finding("loss", outcome.loss, 0.01, false) });
                }
                findings
            }),
        ));
    }
    for feedback_loss in [0.01, 0.05] {
        if extent == Extent::Quick {
            continue;
        }
        cases.push((
            "changes",
            Box::new(move |seed| {
                let mut scene = alone(clean.with_loss(feedback_loss), 60.0, seed);
                scene.flows[0].kind = Kind::Culvert(crate::flow::FlowOptions { feedback_loss, ..Default::default() });
                let outcome = run(&scene);
                let bound = if feedback_loss > 0.02 { 0.8 } else { 0.9 };
                let run = format!("10 Gb/s × 50 ms, {} % of data and of reports lost", feedback_loss * 100.0);
                let mut findings = judged_alone("changes", &run, &outcome, 10e9, 50.0, bound);
                // The requirement on the queue is for reports that come.
                findings[1].is_required = false;
                findings
            }),
        ));
    }
}
