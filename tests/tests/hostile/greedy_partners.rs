//! An approved partner takes all it can get of one resource: another that has just arrived is
//! served all the same.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_protocol::control::{FileError, LeftOut, Message, Refusal, RefusalCode, Request, RequestedAction};
use culvert_protocol::feedback::Summary;
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};
use culvert_tests::greedy::{Neighbours, begin_and_never_finish};
use culvert_tests::hostile_receiver::HostileReceiver;
use culvert_tests::hostile_sender::{CHUNK_BYTES, HostileSender, STRIDE, hash_of_part, new_id, push_request};
use culvert_tests::node::{PATIENCE, key_of, resident_kib, wait_for};
use culvert_tests::program::run;
use culvert_tests::random::Random;
use culvert_tests::stranger::{Stranger, file, request};

/// Limits the descriptors that a node may have open: to so few that a partner without a bound has
/// them all at once.
fn with_descriptors(limit: u32) -> impl FnOnce(&mut std::process::Command) {
    move |starting| {
        let program = starting.get_program().to_owned();
        let arguments: Vec<_> = starting.get_args().map(ToOwned::to_owned).collect();
        let kept: Vec<_> =
            starting.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh").arg(program).args(arguments);
        for (name, value) in kept {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        *starting = shell;
    }
}

/// Holes cost their receiver the hashing of zeros: however many transfers of one partner name them,
/// they take half of one processor's time, and others are served.
#[test]
fn holes_without_end_take_half_of_a_processor() {
    const CHUNK: u32 = 4 << 20;
    const HOLES: u32 = 384;
    let bytes = u64::from(HOLES) * u64::from(CHUNK);
    let of = |hole: u32| hash_of_zeros(bytes, u64::from(hole) * u64::from(CHUNK), CHUNK, CHUNK);
    let holes: Vec<(u32, ChunkHash)> = (0..HOLES).map(|hole| (hole, of(hole))).collect();
    let neighbours = Neighbours::begin(|_| {});
    let sparse = Entry { kind: EntryKind::File { bytes, is_sparse: true }, ..file(b"holes", 0) };
    let begin = |number: u32| {
        let mut asked = push_request(&neighbours.pair.shared.join(format!("sparse {number}")), new_id());
        asked.options.chunk_bytes = CHUNK;
        HostileSender::begin_request(&neighbours.pair.here, neighbours.node.port, asked, std::slice::from_ref(&sparse))
    };
    let mut greedy: Vec<HostileSender> = (0..8).map(begin).collect();
    let (began, before) = (Instant::now(), processor_ms(neighbours.node.process_id()));
    for sender in &mut greedy {
        sender.stranger.say(&Message::Holes(holes.clone()));
    }
    neighbours.assert_fresh_is_served();
    // All of them are made eventually.
    for sender in &mut greedy {
        let mut stored = 0;
        while stored < HOLES {
            match sender.stranger.hear() {
                Some(Message::Stored(runs)) => stored += runs.iter().map(|run| run.count).sum::<u32>(),
                Some(Message::Ping(number)) => sender.stranger.say(&Message::Pong(number)),
                Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    }
    let took = began.elapsed().as_millis() as u64;
    let spent = processor_ms(neighbours.node.process_id()) - before;
    eprintln!("{spent} ms of processor in {took} ms");
    // Half of it is for hashing; the rest serves everybody. Other work on the host makes it less.
    assert!(spent * 10 <= took * 8, "{spent} ms of processor in {took} ms");
}

/// Processor time of a process so far, in milliseconds.
fn processor_ms(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks * 1_000 / rustix::param::clock_ticks_per_second()
}

/// Row 7: all buffers were held by chunks that nobody finished, and the other transfer was told
/// that it had violated the protocol.
#[test]
fn row_7_chunks_that_are_never_finished_leave_buffers_for_others() {
    let neighbours = Neighbours::begin(|_| {});
    let bytes = 2_000 * u64::from(CHUNK_BYTES);
    let mut greedy = neighbours.greedy_push(64, &[file(b"never", bytes)]);
    let begun = begin_and_never_finish(&mut greedy, 2_000, Duration::from_secs(2));
    assert!(begun > 4, "the greedy partner got no buffers at all: {begun}");
    neighbours.assert_fresh_is_served();
    // Still alive, by its own account.
    greedy.stranger.say(&Message::LeftOut(Vec::new()));
    neighbours.assert_fresh_is_served();
}

/// Row 7: a larger transfer beside it has at least half of the goodput that it has alone.
#[test]
fn row_7_a_larger_transfer_beside_held_buffers_goes_on_at_its_pace() {
    let neighbours = Neighbours::begin(|_| {});
    let measure = || {
        let mut rates: Vec<f64> = (0..3)
            .map(|_| {
                let (ran, _) = neighbours.serve_fresh(24 << 20, &["--rate", "60M", "--json"]);
                ran.exits(0).json()["goodput_bps"].as_f64().unwrap()
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        rates[1]
    };
    let alone = measure();
    let mut greedy = neighbours.greedy_push(64, &[file(b"never", 2_000 * u64::from(CHUNK_BYTES))]);
    begin_and_never_finish(&mut greedy, 2_000, Duration::from_secs(2));
    let beside = measure();
    assert!(beside >= 0.5 * alone, "{beside} beside, {alone} alone");
}

/// Row 7: whoever holds more than its share is ended when somebody has nothing, and is told what it
/// owes.
#[test]
fn row_7_who_holds_too_much_and_sends_nothing_is_ended_for_those_who_wait() {
    let neighbours = Neighbours::begin(|_| {});
    let bytes = 2_000 * u64::from(CHUNK_BYTES);
    let mut greedy = neighbours.greedy_push(64, &[file(b"never", bytes)]);
    begin_and_never_finish(&mut greedy, 2_000, Duration::from_secs(2));
    // This one wants as much, and has less than its share.
    let asked = neighbours.greedy_request(64);
    let mut waiting =
        HostileSender::begin_request(&neighbours.fresh, neighbours.node.port, asked, &[file(b"other", bytes)]);
    begin_and_never_finish(&mut waiting, 2_000, Duration::from_secs(2));
    let refusal = greedy.stranger.hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    let says = ["other partners' transfers are waiting for", "waiting for the sender to send the rest of"];
    assert!(says.iter().all(|words| refusal.text.contains(words)), "{refusal}");
    assert!(neighbours.node.metric("culvert_limits_reached_total{limit=\"buffers\"}") >= 1.0);
    neighbours.assert_fresh_is_served();
}

/// Row 7, the other way: whoever fetches and never reports that anything has arrived holds buffers
/// as well.
#[test]
fn row_7_what_is_fetched_and_never_acknowledged_leaves_buffers_for_others() {
    let neighbours = Neighbours::begin(|_| {});
    let large = neighbours.pair.shared.join("large");
    std::fs::write(&large, Random::new(3).bytes(40 << 20)).unwrap();
    let pull = |_| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut stranger = Stranger::introduced(&neighbours.pair.here, neighbours.node.port);
        let Message::Request(request) =
            request(RequestedAction::Pull { sources: vec![large.display().to_string().into_bytes()] })
        else {
            unreachable!()
        };
        let lane_ports = vec![socket.local_addr().unwrap().port()];
        stranger.say(&Message::Request(Request { transfer: new_id(), lane_ports, ..request }));
        loop {
            match stranger.hear() {
                Some(Message::ManifestEnd { .. }) => return HostileReceiver::begin(stranger, socket),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    };
    let mut pulls: Vec<HostileReceiver> = (0..24).map(pull).collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        for pull in &mut pulls {
            pull.take_in();
            // Everything is wanted, and nothing is complete.
            let _ = pull.report(|seen| (Summary { credit: 1_000, ..*seen }, Vec::new()), &[]);
        }
    }
    neighbours.assert_fresh_is_served();
    let mut getting = culvert_tests::program::command(&neighbours.fresh, ["get", "--retries", "0"]);
    let ran: culvert_tests::program::Ran = getting
        .arg(format!("second:{}", neighbours.pair.shared.join("served").display()))
        .arg(neighbours.pair.path("got"))
        .output()
        .unwrap()
        .into();
    ran.exits(0);
}

/// Item 3: what a sender says, repeats or sends twice is not progress, and it is told what it owes.
#[test]
fn item_3_words_and_duplicates_are_no_progress_and_the_sender_hears_what_it_owes() {
    let neighbours = Neighbours::begin(|starting| {
        starting.env("CULVERT_PATIENCE", "3");
    });
    let content = Random::new(5).bytes(3 * CHUNK_BYTES as usize);
    let mut greedy = neighbours.greedy_push(1, &[file(b"file", content.len() as u64)]);
    greedy.stranger.say(&Message::ChunkHashes(vec![(0, hash_of_part(&content, 0))]));
    let half = &content[..CHUNK_BYTES as usize];
    let began = Instant::now();
    let mut stride = STRIDE;
    let refusal = loop {
        assert!(began.elapsed() < PATIENCE, "the node waits forever");
        let frames = [
            Message::Ping(1),
            Message::LeftOut(Vec::<LeftOut>::new()),
            Message::ChunkHashes(vec![(0, hash_of_part(&content, 0))]),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|message| message.write_frame(&mut bytes));
        if greedy.stranger.say_bytes(&bytes).is_err() {
            break greedy.stranger.hear_refusal();
        }
        // The same segments again; and the chunk restarted at another stride, which makes them new
        // ones.
        for index in 0..8 {
            let datagram = greedy.segment_of(0, 0, half, stride, index);
            greedy.send(0, &datagram);
        }
        stride = if stride == STRIDE { STRIDE / 2 } else { STRIDE };
        if let Some(Message::Refused(refusal)) = greedy.stranger.hear_if_there_is() {
            break refusal;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    assert!(refusal.text.contains("waiting for the sender to send the rest of 1 chunk that it started"), "{refusal}");
    neighbours.assert_fresh_is_served();
}

/// Row 6: one transfer had all of the lanes' receive slots.
#[test]
fn row_6_a_transfer_that_wants_all_flows_gets_a_part_and_others_get_theirs() {
    let neighbours = Neighbours::begin(|_| {});
    let bytes = 600 * u64::from(CHUNK_BYTES);
    let first = neighbours.greedy_push(256, &[file(b"first", bytes)]);
    assert!((1..=128).contains(&first.flows.len()), "{} flows", first.flows.len());
    // And eight more, each of which is accepted.
    let mut held = vec![first];
    for number in 0..8 {
        let name = format!("next {number}");
        held.push(neighbours.greedy_push(256, &[file(name.as_bytes(), bytes)]));
    }
    assert!(held.iter().all(|greedy| !greedy.flows.is_empty()));
    let (ran, _) = neighbours.serve_fresh(16 << 20, &["--flows", "4", "--json"]);
    assert_eq!(ran.exits(0).json()["flows"], 4);
    neighbours.assert_fresh_is_served();
    assert!(neighbours.node.metric("culvert_limits_reached_total{limit=\"flows\"}") >= 1.0);
}

/// Row 8: files that were never declared complete stayed open, until nobody could open any more.
#[test]
fn row_8_files_that_are_never_complete_leave_places_and_descriptors() {
    let neighbours = Neighbours::begin(with_descriptors(1_024));
    let before = neighbours.descriptors();
    let names: Vec<String> = (0..600).map(|number| format!("{number}")).collect();
    let entries: Vec<_> = names.iter().map(|name| file(name.as_bytes(), 17_000)).collect();
    let mut greedy = neighbours.greedy_push(8, &entries);
    let content = Random::new(8).bytes(17_000);
    let hash = hash_of_part(&content, 0);
    let (began, mut stored) = (Instant::now(), std::collections::HashSet::new());
    let mut next = 0u32;
    // Chunks for which there is no credit are sent again.
    while stored.len() < 450 && began.elapsed() < Duration::from_secs(20) {
        for _ in 0..16 {
            next = (next + 1) % 600;
            if !stored.contains(&next) {
                greedy.stranger.say(&Message::ChunkHashes(vec![(next, hash)]));
                greedy.send_chunk_once(next as usize % greedy.flows.len(), next, &content);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
        while let Some(message) = greedy.stranger.hear_if_there_is() {
            match message {
                Message::Stored(runs) => {
                    stored.extend(runs.iter().flat_map(|run| run.first..run.first + run.count));
                }
                Message::Refused(refusal) => panic!("the node refuses: {refusal}"),
                _ => {}
            }
        }
    }
    let held = neighbours.descriptors() - before;
    assert!(held < 300, "the greedy partner holds {held} descriptors, {} files are stored", stored.len());
    let many = neighbours.pair.path("many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..60 {
        std::fs::write(many.join(number.to_string()), &content).unwrap();
    }
    let destination = format!("second:{}", neighbours.pair.shared.join("many").display());
    let mut sending = culvert_tests::program::command(&neighbours.fresh, ["send", "--retries", "0"]);
    let ran: culvert_tests::program::Ran = sending.arg(many.join("")).arg(destination).output().unwrap().into();
    ran.exits(0);
    neighbours.assert_fresh_is_served();
}

/// Row 9: listings that nobody read occupied every thread that serves files.
#[test]
fn row_9_listings_that_nobody_reads_hold_nobody_else_up() {
    let neighbours = Neighbours::begin(|_| {});
    let tree = neighbours.pair.shared.join("tree");
    std::fs::create_dir(&tree).unwrap();
    // Ten megabytes of names: more than queues and sockets hold.
    for number in 0..45_000 {
        std::fs::write(tree.join(format!("{number:0>230}")), "").unwrap();
    }
    let pull = || {
        let mut stranger = Stranger::introduced(&neighbours.pair.here, neighbours.node.port);
        let request = neighbours.greedy_request(1);
        let sources = vec![tree.display().to_string().into_bytes()];
        stranger.say(&Message::Request(Request {
            transfer: new_id(),
            wish: RequestedAction::Pull { sources },
            ..request
        }));
        stranger
    };
    let _pulls: Vec<Stranger> = (0..10).map(|_| pull()).collect();
    std::thread::sleep(Duration::from_secs(2));
    neighbours.assert_fresh_is_served();
    // A listing for the fresh partner, too.
    let source = format!("second:{}", neighbours.pair.shared.join("served").display());
    let mut getting = culvert_tests::program::command(&neighbours.fresh, ["get", "--retries", "0"]);
    let ran: culvert_tests::program::Ran =
        getting.arg(source).arg(neighbours.pair.path("got")).output().unwrap().into();
    ran.exits(0);
}

/// Row 10: each source of a request took a descriptor.
#[test]
fn row_10_requests_with_many_sources_are_refused_with_a_sentence() {
    let neighbours = Neighbours::begin(with_descriptors(1_024));
    std::fs::write(neighbours.pair.shared.join("a"), "a").unwrap();
    let before = neighbours.descriptors();
    let ask = |count: usize| {
        let mut stranger = Stranger::introduced(&neighbours.pair.here, neighbours.node.port);
        let sources = vec![neighbours.pair.shared.join("a").display().to_string().into_bytes(); count];
        let request = neighbours.greedy_request(1);
        stranger.say(&Message::Request(Request {
            transfer: new_id(),
            wish: RequestedAction::Pull { sources },
            ..request
        }));
        stranger
    };
    let refusal = ask(2_500).hear_refusal();
    assert!(refusal.text.contains("2,500 sources") && refusal.text.contains("1,024"), "{refusal}");
    let refusal = ask(1_000).hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    let held: Vec<Stranger> = (0..30).map(|_| ask(100)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = neighbours.descriptors().saturating_sub(before);
    assert!(grown < 400, "the greedy partner holds {grown} descriptors");
    neighbours.assert_fresh_is_served();
    drop(held);
    assert!(neighbours.node.metric("culvert_limits_reached_total{limit=\"sources\"}") >= 2.0);
}

/// Row 11: what a partner said about files was kept without limit, in memory and in the record.
#[test]
fn row_11_words_about_files_are_kept_as_far_as_anybody_reads_them() {
    let neighbours = Neighbours::begin(|_| {});
    let names: Vec<String> = (0..300).map(|number| format!("{number}")).collect();
    let entries: Vec<_> = names.iter().map(|name| file(name.as_bytes(), 17_000)).collect();
    let mut greedy = neighbours.greedy_push(1, &entries);
    let before = resident_kib(neighbours.node.process_id());
    for number in 0..300 {
        let text = "x".repeat(250_000);
        greedy.stranger.say(&Message::FileFailed(FileError { file: number, code: "changed".to_owned(), text }));
    }
    greedy.stranger.say(&Message::AllSent(culvert_protocol::control::SenderSummary::default()));
    wait_for("the end", || matches!(greedy.stranger.hear(), Some(Message::Finished { .. })).then_some(()));
    let grown = resident_kib(neighbours.node.process_id()).saturating_sub(before);
    assert!(grown < 40 << 10, "the node grew by {grown} KiB");
    neighbours.assert_fresh_is_served();
}

/// Two partners had half of the sessions each, and a third was told to try again for as long as
/// they liked.
#[test]
fn two_partners_that_take_all_sessions_leave_some_to_a_third() {
    let neighbours = Neighbours::begin(|_| {});
    let (pair, port) = (&neighbours.pair, neighbours.node.port);
    std::fs::write(pair.shared.join("small"), "small").unwrap();
    let second = pair.path("colluding");
    let permit = format!("{}:both", pair.shared.display());
    run(&pair.there, ["profile", "add", "colluding", "--key", &key_of(&second), "--permit", &permit]).exits(0);
    let source = pair.shared.join("small").display().to_string().into_bytes();
    // Asks for something, hears that it is accepted, and says nothing more.
    let take_one = |state: &Path| -> Result<Stranger, Refusal> {
        let Message::Request(request) = request(RequestedAction::Pull { sources: vec![source.clone()] }) else {
            unreachable!()
        };
        let mut stranger = Stranger::introduced(state, port);
        stranger.say(&Message::Request(Request { transfer: new_id(), ..request }));
        loop {
            match stranger.hear() {
                Some(Message::Accepted(_)) => return Ok(stranger),
                Some(Message::Refused(refusal)) => return Err(refusal),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    };
    let take_all = |state: &Path| {
        let mut held = Vec::new();
        let refusal = loop {
            match take_one(state) {
                Ok(stranger) => held.push(stranger),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
        held
    };
    let held = [take_all(&pair.here), take_all(&second)];
    assert_eq!(held.each_ref().map(Vec::len), [128, 64]);
    neighbours.assert_fresh_is_served();
    assert!(neighbours.node.metric("culvert_limits_reached_total{limit=\"sessions\"}") >= 2.0);
}
