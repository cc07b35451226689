//! Real processes over emulated long, fat and lossy paths. What is judged is the bytes, and
//! fractions of the emulated rate that even a loaded machine reaches; `culvert-lab table` measures
//! the rest.

use std::fs;
use std::process::Command;
use std::time::Duration;

use culvert_tests::node::PATIENCE;
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{assert_same, make_flat};
use culvert_tests::wan::command::describe;
use culvert_tests::wan::link::LinkConfig;
use culvert_tests::wan::table::WanPair;
use culvert_tests::wan::{WanConfig, missing};

#[test]
fn files_arrive_whole_through_every_harm() {
    for seed in seeds(1) {
        eprintln!("seed {seed}");
        let clean = LinkConfig::clean(200_000_000, 40.0);
        let bad = LinkConfig { loss: 0.01, reordering: 0.02, duplication: 0.01, corruption: 0.005, ..clean };
        let Some(pair) = WanPair::new(&WanConfig { forward: bad, reverse: bad, mtu: 1_500, seed }) else { return };
        let source = pair.room().join("source");
        make_flat(&source, 12, 2 << 20, &mut Random::new(seed));
        let destination = format!("second:{}", pair.room().join("in").display());
        let result =
            pair.run_here(&["send", "--json", &format!("{}/", source.display()), &destination]).exits(0).json();
        assert_same(&source, &pair.room().join("in"));
        let [forward, reverse] = [pair.wan.counters(0), pair.wan.counters(1)];
        eprintln!("{}\n{}", describe(&forward), describe(&reverse));
        assert!(forward.lost > 0 && forward.reordered > 0 && forward.duplicated > 0 && forward.corrupted > 0);
        assert!(result["segments_resent"].as_u64().unwrap() > 0);
        assert_eq!(forward.emulator_full + reverse.emulator_full, 0, "the emulator had no room");
    }
}

#[test]
fn loss_does_not_make_a_long_path_slow() {
    let clean = WanConfig::clean(100_000_000, 60.0);
    for loss in [0.0, 0.01] {
        let config = WanConfig { forward: LinkConfig { loss, ..clean.forward }, ..clean.clone() };
        let Some(pair) = WanPair::new(&config) else { return };
        let measured = pair.measure(30 << 20, &[]);
        let part = measured.goodput_bits_per_second / 1e8;
        eprintln!("{loss} lost: {:.0} % of the link; {}", part * 100.0, describe(&measured.counters[0]));
        // A quiet machine reaches 80 %. TCP CUBIC would reach 3 % with one packet in a hundred
        // lost.
        assert!(part > 0.25, "{part:.2} of the link at {loss} loss: {}", measured.result);
        let feedback = measured.counters[1].bytes_in as f64 / measured.counters[0].bytes_in as f64;
        assert!(feedback < 0.01, "the other direction carries {feedback:.4} of the data");
    }
}

#[test]
fn segments_are_as_large_as_the_path_delivers_them() {
    //= W-12
    //# to within eight bytes.
    // The devices say 9000, but larger packets than these vanish.
    // Between two common sizes the search takes a second or two, while data moves.
    for (packet_bytes_max, segment_bytes, megabytes) in
        [(9_000, 8_924..=8_924, 4), (1_500, 1_424..=1_424, 4), (1_400, 1_316..=1_324, 80)]
    {
        let clean = WanConfig { mtu: 9_000, ..WanConfig::clean(200_000_000, 10.0) };
        let forward = LinkConfig { packet_bytes_max, ..clean.forward };
        let Some(pair) = WanPair::new(&WanConfig { forward, ..clean }) else { return };
        // Such a path swallows TCP's large segments, too, so TCP is told to send small ones.
        for (side, other) in [(0, "10.97.0.2"), (1, "10.97.0.1")] {
            let mut route = Command::new("ip");
            route.args(["route", "replace", other, "dev", "wan", "proto", "kernel", "scope", "link", "advmss", "1100"]);
            assert!(pair.wan.inside(side, &route).status().unwrap().success());
        }
        let measured = pair.measure(megabytes << 20, &[]);
        let found = measured.result["segment_bytes"].as_u64().expect("a number");
        assert!(segment_bytes.contains(&found), "{found}-byte segments where packets up to {packet_bytes_max} pass");
    }
}

#[test]
fn a_path_that_becomes_narrow_in_the_middle_is_found_out() {
    //= W-12
    //# After three unanswered retransmissions, the flow opens again (section 4.3 there).
    //= W-11
    //# If it carries less than a chunk's stride needs, the chunk starts over with a smaller one.
    let config = WanConfig { mtu: 9_000, ..WanConfig::clean(200_000_000, 10.0) };
    let Some(pair) = WanPair::new(&config) else { return };
    for (side, other) in [(0, "10.97.0.2"), (1, "10.97.0.1")] {
        let mut route = Command::new("ip");
        route.args(["route", "replace", other, "dev", "wan", "proto", "kernel", "scope", "link", "advmss", "1100"]);
        assert!(pair.wan.inside(side, &route).status().unwrap().success());
    }
    let narrow = LinkConfig { packet_bytes_max: 1_400, ..config.forward };
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| pair.measure(100 << 20, &[]));
        let began = std::time::Instant::now();
        while pair.wan.counters(0).bytes_out < 8 << 20 {
            assert!(began.elapsed() < PATIENCE, "nothing moves");
            std::thread::sleep(Duration::from_millis(5));
        }
        pair.wan.set_links(narrow, config.reverse);
        let measured = transfer.join().expect("the transfer ends");
        let found = measured.result["segment_bytes"].as_u64().expect("a number");
        assert!((1_316..=1_324).contains(&found), "{found}-byte segments where packets up to 1,400 pass");
    });
}

#[test]
fn seconds_of_darkness_are_ridden_out() {
    let config = WanConfig::clean(100_000_000, 40.0);
    let Some(pair) = WanPair::new(&config) else { return };
    let dark = LinkConfig { loss: 1.0, ..config.forward };
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| pair.measure(20 << 20, &[]));
        let began = std::time::Instant::now();
        while pair.wan.counters(0).bytes_out < 2 << 20 {
            assert!(began.elapsed() < PATIENCE, "nothing moves");
            std::thread::sleep(Duration::from_millis(5));
        }
        pair.wan.set_links(dark, dark);
        std::thread::sleep(Duration::from_secs(2));
        pair.wan.set_links(config.forward, config.reverse);
        let measured = transfer.join().expect("the transfer ends");
        assert!(measured.counters[0].lost > 0, "it was never dark: {}", describe(&measured.counters[0]));
    });
}

#[test]
fn why_a_test_is_skipped_is_known() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let clean = WanConfig::clean(1_000_000_000, 1.0);
    let wan = culvert_tests::wan::Wan::new(&clean).expect("nothing is missing");
    let namespace = wan.namespace(0).to_owned();
    assert!(fs::exists(format!("/run/netns/{namespace}")).unwrap());
    drop(wan);
    assert!(!fs::exists(format!("/run/netns/{namespace}")).unwrap(), "the namespace was not removed");
}
