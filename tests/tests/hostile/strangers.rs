//! Hosts without an approved key: what they send costs a fixed table and a little time, and is
//! counted.

use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use culvert_protocol::control::{Message, PROTOCOL_VERSION, RefusalCode};
use culvert_tests::memory::MemoryWatch;
use culvert_tests::node::{Pair, key_of, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::stranger::{Stranger, connect_from, hello};
use culvert_tests::tree::{assert_same, make_flat};

#[test]
fn a_flood_of_connections_and_packets_is_counted_and_a_transfer_comes_to_its_end() {
    let pair = Pair::new();
    let node = pair.start();
    let status = run(&pair.there, ["status", "--json"]).exits(0).json();
    let lane_port = status["dataplane"]["lanes"][0]["port"].as_u64().unwrap() as u16;
    let source = pair.path("source");
    make_flat(&source, 10, 2 << 20, &mut Random::new(3));
    // The partner has connected once before the flood begins.
    fs::write(pair.path("first"), "hello").unwrap();
    pair.send(&pair.path("first"), "first", &[]).exits(0);
    let memory = MemoryWatch::of(&node);

    let (stop, connections, packets) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let port = node.port;
    let flood_connections = |seed: u64| {
        let (stop, connections) = (stop.clone(), connections.clone());
        std::thread::spawn(move || {
            let mut random = Random::new(seed);
            let mut held = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut tcp) = connect_from(seed as u8, port) else { continue };
                connections.fetch_add(1, Ordering::Relaxed);
                match random.below(3) {
                    0 => drop(tcp.write_all(&random.bytes(600))),
                    // Announces a handshake of 16 KiB, and sends nothing more.
                    1 => drop(tcp.write_all(&[22, 3, 1, 0x40, 0, 1])),
                    _ => {}
                }
                held.push(tcp);
                held.truncate(100);
                // About a thousand a second.
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let flood_packets = {
        let (stop, packets) = (stop.clone(), packets.clone());
        std::thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut random = Random::new(9);
            while !stop.load(Ordering::Relaxed) {
                let bytes = 48 + random.below(1_400) as usize;
                let mut packet = random.bytes(bytes);
                (packet[0], packet[1]) = (1, random.below(4) as u8);
                if socket.send_to(&packet, ("127.0.0.1", lane_port)).is_ok() {
                    packets.fetch_add(1, Ordering::Relaxed);
                }
                // About 20,000 a second: the test shares its processors with the node.
                std::thread::sleep(Duration::from_micros(50));
            }
        })
    };
    let floods = [flood_connections(2), flood_connections(3), flood_packets];
    std::thread::sleep(Duration::from_millis(500));
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json", "--rate", "80M", "--retries", "8"]);
    let ran: Ran = sending.arg(source.join("")).arg(destination).output().unwrap().into();
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    ran.exits(0);
    assert_same(&source, &pair.shared.join("in"));

    let (connections, packets) = (connections.load(Ordering::Relaxed), packets.load(Ordering::Relaxed));
    assert!(connections > 100 && packets > 1_000, "there was no flood: {connections} connections, {packets} packets");
    let rejected = || -> f64 {
        let metrics = node.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with("culvert_segments_rejected_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    assert!(rejected() > 100.0, "{}", node.metrics());
    // All of them are refused eventually, at once or when their time is up.
    wait_for("the refusals", || {
        (node.metric("culvert_connections_refused_total") >= connections as f64 / 2.0).then_some(())
    });
    memory.assert_bounded("a flood of connections and packets");
    let logged = node.log().lines().filter(|line| line.contains("was refused")).count();
    assert!(logged < 100, "{logged} lines about strangers");
    assert_eq!(node.metric("culvert_dataplane_restarts_total"), 0.0);
}

#[test]
fn unknown_keys_fill_a_table_and_nothing_else() {
    let pair = Pair::new();
    let node = pair.start();
    // Keys cost the stranger nothing: a new one with each connection.
    for number in 0..120 {
        let state = pair.path(&format!("stranger-{number}"));
        culvert_state::StateDirectory::open(&state).unwrap().identity().unwrap();
        let mut stranger = Stranger::connect(&state, node.port);
        stranger.say(&hello(PROTOCOL_VERSION));
        let refusal = loop {
            match stranger.hear() {
                Some(Message::Refused(refusal)) => break refusal,
                Some(_) => {}
                None => panic!("the node closed the connection without a reason"),
            }
        };
        assert_eq!(refusal.code, RefusalCode::UnknownKey);
    }
    let pending = run(&pair.there, ["profile", "pending", "--json"]).exits(0).json();
    let pending = pending.as_array().unwrap().len();
    assert!((1..=64).contains(&pending), "{pending} keys are pending");
    assert!(node.metric("culvert_connections_refused_total") >= 120.0);
    assert_eq!(fs::read_dir(pair.there.join("transfers")).unwrap().count(), 0);
    // An honest newcomer among them is noticed as soon as the rate allows.
    let _ = key_of(&pair.here);
}

#[test]
fn strangers_that_hold_every_place_do_not_keep_partners_out() {
    let pair = Pair::new();
    let node = pair.start();
    fs::write(pair.path("file"), "content").unwrap();
    pair.send(&pair.path("file"), "first", &[]).exits(0);
    let memory = MemoryWatch::of(&node);
    let silent: Vec<TcpStream> =
        (0..600).map(|number| connect_from(2 + (number % 6) as u8, node.port).unwrap()).collect();
    let mut sending = command(&pair.here, ["send", "--retries", "6"]);
    let destination = format!("second:{}", pair.shared.join("second").display());
    let child =
        sending.arg(pair.path("file")).arg(destination).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(0);
    // Those that found no place were closed at once.
    wait_for("the refusals", || (node.metric("culvert_connections_refused_total") >= 300.0).then_some(()));
    memory.assert_bounded("strangers in every place");
    drop(silent);
}
