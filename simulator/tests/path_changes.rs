//! Addresses that change and copies from elsewhere, in real flows on virtual time (`docs/wire.md`
//! W-49 … W-54). Each run prints its seed;
//! `CULVERT_SEED=n cargo test -p culvert-simulator --test path_changes` repeats it alone, and
//! `cargo xtask sim --group "path changes"` makes two hundred.

use culvert_simulator::path_changes::{Change, PathChanges, judge, named, random, run};

fn assert_holds(scene: &PathChanges) {
    let broken: Vec<_> = judge(scene).into_iter().filter(|finding| finding.is_required && !finding.holds()).collect();
    assert!(broken.is_empty(), "{}: {broken:#?}\n{scene:#?}", scene.name);
}

#[test]
fn data_go_only_where_a_challenge_was_answered_and_follow_a_real_move() {
    //= W-49
    //# A flow's initial destination is the address of the control connection's peer, which the TCP
    //# handshake has proved, with the UDP port that the peer named.
    //= W-51
    //# When the token returns in an authentic reply, from any address, the challenged address
    //# becomes the destination.
    for scene in named(1) {
        eprintln!("{}, seed {}", scene.name, scene.seed);
        assert_holds(&scene);
    }
}

#[test]
fn moves_darkness_and_copies_at_random() {
    //= W-52
    //# An address that has not answered is sent only challenges, with at most three times the bytes
    //# received from it in authentic datagrams.
    let seeds = match std::env::var("CULVERT_SEED") {
        Ok(seed) => vec![seed.parse().expect("CULVERT_SEED is a number")],
        Err(_) => (10_001..10_013).collect(),
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        assert_holds(&random(seed));
    }
}

/// That the bounds above are kept says something only if they could be broken.
#[test]
fn the_runs_contain_what_they_are_about() {
    let scenes = named(1);
    assert!(scenes.iter().any(|scene| scene.changes.iter().any(|change| matches!(change, Change::DarkTo { .. }))));
    for scene in &scenes {
        let outcome = run(scene);
        assert_eq!((outcome.moves.len(), outcome.stuck), (scene.changes.len(), None), "{}", scene.name);
        let is_copied = scene.forger.is_some();
        assert_eq!(outcome.challenged_in_vain > 0, is_copied, "{}: copies are challenged, and nobody else", scene.name);
    }
}

#[test]
fn a_seed_repeats_a_run_exactly() {
    for seed in [5, 6] {
        let times = |seed| format!("{:?}", run(&random(seed)));
        assert_eq!(times(seed), times(seed));
        assert_ne!(times(seed), times(seed + 100));
    }
}
