//! The quick part of the matrix, regression seeds, and that a run repeats itself.

use culvert_simulator::link::Path;
use culvert_simulator::matrix::{Extent, run_matrix};
use culvert_simulator::scenes::{alone, among, fair};
use culvert_simulator::world::{Kind, run};

fn seed() -> u64 {
    std::env::var("CULVERT_SEED").map_or(1, |seed| seed.parse().expect("CULVERT_SEED is a number"))
}

#[test]
fn the_quick_part_of_the_matrix_keeps_its_bounds() {
    let seed = seed();
    eprintln!("seed {seed}");
    let findings = run_matrix(Extent::Quick, None, seed);
    assert!(findings.len() > 30, "only {} findings", findings.len());
    let broken: Vec<_> = findings.iter().filter(|finding| finding.is_required && !finding.holds()).collect();
    assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
}

#[test]
fn a_seed_repeats_a_run_exactly() {
    let scene = |seed| alone(Path::clean(10e9, 20.0).with_loss(0.02), 5.0, seed);
    let delivered = |seed| run(&scene(seed)).delivered[0];
    assert_eq!(delivered(3).to_bits(), delivered(3).to_bits());
    assert_ne!(delivered(3).to_bits(), delivered(4).to_bits());
}

#[test]
fn random_loss_of_any_kind_never_starves_a_flow() {
    for seed in 1..=8 {
        let loss = 0.01 * seed as f64;
        let outcome = run(&alone(Path::clean(10e9, 30.0).with_loss(loss), 20.0, seed));
        let used = outcome.delivered[0] / 10e9;
        assert!(used > 0.75, "seed {seed}: {used:.2} of the path at {loss} loss");
    }
}

#[test]
fn the_cubic_model_fills_a_path_and_shares_it() {
    let path = Path::clean(1e9, 20.0);
    let outcome = run(&among(path, Kind::Cubic, 1, Kind::Cubic, 0.3, 1));
    let sum: f64 = outcome.delivered.iter().sum();
    assert!(sum > 0.9e9, "two CUBIC flows use {sum:e} of 1e9");
    assert!(outcome.delivered[1] > 0.25e9, "the later one gets {:e}", outcome.delivered[1]);
}

#[test]
fn a_flow_beside_cubic_takes_something_and_leaves_more() {
    let outcome = run(&among(Path::clean(1e9, 20.0), Kind::Cubic, 2, fair(), 0.3, 1));
    assert!(outcome.delivered[2] > 0.03e9, "Culvert gets {:e}", outcome.delivered[2]);
    assert!(outcome.delivered[..2].iter().all(|&cubic| cubic > 0.2e9), "{:?}", outcome.delivered);
}
