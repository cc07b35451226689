//! Whole transfers, segment by segment: their end, their feedback, and that batches tell the same
//! story.

use culvert_simulator::exact::{transfer, transfer_over_changing_mtu};
use culvert_simulator::flow::FlowOptions;
use culvert_simulator::link::Path;
use culvert_simulator::scenes::alone;
use culvert_simulator::world::run;

#[test]
fn the_last_chunks_cost_at_most_two_round_trips_at_one_percent_loss() {
    // Enough chunks that start-up, which has an end of its own, is over.
    for (rtt_ms, chunks, seed) in [(20.0, 60, 1), (20.0, 60, 2), (50.0, 120, 3), (100.0, 250, 4), (100.0, 250, 5)] {
        let path = Path::clean(1e9, rtt_ms).with_loss(0.01);
        let outcome =
            transfer(path, &FlowOptions { start: Some(1_000_000_000), ..FlowOptions::default() }, chunks, seed);
        // The data itself is there half a round trip after its last segment was sent, behind the
        // queue.
        let ends_ns = outcome.last_fresh_ns + path.rtt_ns / 2;
        let tail = outcome.whole_ns.saturating_sub(ends_ns) as f64 / path.rtt_ns as f64;
        eprintln!("seed {seed}: {tail:.2} round trips at {rtt_ms} ms");
        assert!(tail <= 2.0, "seed {seed}: the end took {tail:.2} round trips of {rtt_ms} ms: {outcome:?}");
    }
}

#[test]
fn feedback_is_a_thousandth_of_the_data_at_most() {
    for (rate, rtt_ms, loss) in [(1e9, 5.0, 0.0), (1e9, 20.0, 0.01), (1e9, 100.0, 0.03)] {
        for stride in [1_424, 8_932] {
            let options = FlowOptions { start: Some(rate as u64), stride, ..FlowOptions::default() };
            let outcome = transfer(Path::clean(rate, rtt_ms).with_loss(loss), &options, 100, 9);
            let part = outcome.traffic_bytes.0 as f64 / outcome.traffic_bytes.1 as f64;
            eprintln!("{rate:e} × {rtt_ms} ms, {loss} lost, segments of {stride}: feedback is {:.3} %", part * 100.0);
            assert!(
                part <= 0.001,
                "feedback is {part:.5} of the data at {rtt_ms} ms, {loss} lost, segments of {stride}"
            );
        }
    }
}

/// The path's MTU changes every two round trips, and a sender with malice sends other bytes after
/// each change.
#[test]
fn what_is_hashed_is_what_arrived_however_often_a_chunk_begins_anew() {
    //= W-11
    //# A chunk that starts over starts completely over: segments that arrived before do not count,
    //# and their bytes are not part of any hash.
    let mut begun_anew = 0;
    for seed in 1..=12 {
        let path = Path { reordering: 0.05, reordering_ns: 2_000_000, duplication: 0.02, ..Path::clean(1e9, 10.0) };
        let options = FlowOptions { start: Some(500_000_000), ..FlowOptions::default() };
        let strides = [512, 1_000, 1_424, 4_000, 8_932];
        eprintln!("seed {seed}");
        begun_anew += transfer_over_changing_mtu(path.with_loss(0.01), &options, 24, seed, &strides).1;
    }
    assert!(begun_anew > 30, "only {begun_anew} chunks began anew");
}

#[test]
fn little_more_than_what_was_lost_goes_again() {
    let path = Path {
        reordering: 0.02,
        reordering_ns: 200_000,
        duplication: 0.01,
        corruption: 0.001,
        ..Path::clean(1e9, 20.0)
    };
    let outcome = transfer(path.with_loss(0.02), &FlowOptions::default(), 60, 3);
    let again = outcome.segments.1 as f64 / outcome.segments.0 as f64;
    assert!((0.015..0.045).contains(&again), "{again:.4} of the segments went again where 0.021 were lost");
}

#[test]
fn batches_tell_the_same_story_as_segments() {
    for (rtt_ms, loss) in [(20.0, 0.0), (50.0, 0.01)] {
        let path = Path::clean(1e9, rtt_ms).with_loss(loss);
        let bytes = 200.0 * f64::from(1 << 20);
        let options = FlowOptions { bytes: Some(bytes), ..FlowOptions::default() };
        let exact_seconds = transfer(path, &options, 200, 1).whole_ns as f64 / 1e9;
        let mut scene = alone(path, 20.0, 1);
        scene.flows[0].kind = culvert_simulator::world::Kind::Culvert(options);
        let batch_seconds = run(&scene).finished_seconds[0].expect("the transfer ends");
        let ratio = exact_seconds / batch_seconds;
        assert!((0.9..1.1).contains(&ratio), "{exact_seconds:.3} s by segments, {batch_seconds:.3} s by batches");
    }
}
