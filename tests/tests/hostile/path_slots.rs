//! Path checks and reflectors against partners and strangers that would like to have them to
//! themselves, or turn them against others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use culvert_perfsonar::probe::echo::{self, EchoPlan};
use culvert_perfsonar::probe::{self, Stop};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::twamp::messages::{self, SessionRequest};
use culvert_protocol::control::Message;
use culvert_protocol::path::{
    PathMessage, PathPermission, PathReport, PathRequest, PathStep, ReplySize, StepKind, Train,
};
use culvert_tests::lab::Lab;
use culvert_tests::memory::MemoryWatch;
use culvert_tests::node::{Pair, RunningNode, key_of, wait_for};
use culvert_tests::program::{Ran, command, is_installed, run};
use culvert_tests::stranger::Stranger;

/// A check of a third of a second.
const QUICK: [&str; 7] = ["--seconds", "0.3", "--packets-per-second", "200", "--no-rate", "--no-trace", "--json"];
/// A check of several seconds, with trains in both directions.
const WITH_TRAINS: [&str; 8] =
    ["--seconds", "0.3", "--packets-per-second", "200", "--rate", "20M", "--no-trace", "--json"];

/// Another partner of the second's node, which may check paths just as the first may.
fn third(pair: &Pair, node: &RunningNode) -> PathBuf {
    let state = pair.path("third");
    run(&pair.there, ["profile", "add", "third", "--key", &key_of(&state)]).exits(0);
    let address = format!("127.0.0.1:{}", node.port);
    run(&state, ["profile", "add", "second", "--key", &key_of(&pair.there), "--address", &address]).exits(0);
    state
}

fn check(state: &Path) -> Ran {
    check_with(state, &QUICK)
}

fn check_with(state: &Path, options: &[&str]) -> Ran {
    run(state, ["path", "check", "second"].iter().chain(options))
}

/// A partner in the middle of a check, which it may abandon wherever it likes.
struct Asker {
    stranger: Stranger,
    permission: PathPermission,
    number: u16,
}

impl Asker {
    fn permitted(pair: &Pair, node: &RunningNode, seconds_max: u32) -> Self {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        let ask = PathRequest { seconds_max, rate_bits_per_second_max: 1_000_000_000, datagram_bytes_max: 1_472 };
        stranger.say(&Message::Path(PathMessage::Ask(ask)));
        match stranger.hear() {
            Some(Message::Path(PathMessage::Permitted(permission))) => Self { stranger, permission, number: 0 },
            other => panic!("no permission: {other:?}"),
        }
    }

    /// Begins a step, and returns what the node says to it.
    fn step(&mut self, kind: StepKind) -> Option<Message> {
        self.number += 1;
        self.stranger.say(&Message::Path(PathMessage::Step(PathStep { number: self.number, kind })));
        self.stranger.hear()
    }

    fn begin(&mut self, kind: StepKind) {
        let heard = self.step(kind);
        assert!(matches!(heard, Some(Message::Path(PathMessage::Ready))), "{heard:?}");
    }

    /// Shows where this partner's probes come from, as the first step of a check does.
    fn show_itself(&mut self) {
        self.begin(StepKind::Reflect(ReplySize::Same));
        let far_end = format!("127.0.0.1:{}", self.permission.udp_port).parse().unwrap();
        let socket = ProbeSocket::towards(far_end).unwrap();
        let authentication = probe::authentication(self.stranger.secret().expose());
        let plan = EchoPlan {
            number: self.number,
            packets: 5,
            interval: Duration::from_millis(5),
            packet_bytes: 200,
            wait: Duration::from_secs(2),
        };
        let echoed = echo::run(&socket, &authentication, &plan, &Stop::default()).unwrap();
        assert_eq!(echoed.round_trip.received, 5);
        self.stranger.say(&Message::Path(PathMessage::Done));
        let report = self.stranger.hear();
        assert!(matches!(report, Some(Message::Path(PathMessage::Report(PathReport::Reflected { .. })))), "{report:?}");
    }
}

/// Row 15: a check that was permitted for a second and then fell silent held the only place for as
/// long as it was watched.
#[test]
fn a_check_is_over_when_its_time_is_and_when_its_partner_is_silent() {
    //= P-5
    //# The responder ends the check when the permitted time is up, plus at most 5 s to finish the
    //# last step; when it has received neither a message nor a probe for 10 s; or immediately when
    //# the connection is closed.
    let pair = Pair::new();
    let node = pair.start();
    let mut asker = Asker::permitted(&pair, &node, 1);
    asker.begin(StepKind::Reflect(ReplySize::Same));
    let refusal = asker.stranger.hear_refusal();
    assert!(refusal.text.contains("takes longer than the 1 s"), "{refusal:?}");
    assert_eq!(node.metric("culvert_path_checks_total{result=\"overdue\"}"), 1.0);
    // Silent in a step, and silent between two.
    for begins in [true, false] {
        let mut asker = Asker::permitted(&pair, &node, 600);
        if begins {
            asker.begin(StepKind::Reflect(ReplySize::Same));
        }
        let refusal = asker.stranger.hear_refusal();
        assert!(refusal.text.contains("nothing was received from this partner for 10 s"), "{refusal:?}");
    }
    assert_eq!(node.metric("culvert_path_checks_total{result=\"silent\"}"), 2.0);
    check(&pair.here).exits(0);
    assert_eq!(node.metric("culvert_path_checks_total{result=\"answered\"}"), 1.0);
}

/// Row 15: whatever a partner does with its own check, another partner's is answered.
#[test]
fn a_greedy_partner_keeps_nobody_elses_check_waiting() {
    //= P-3
    //# It runs one check per partner at a time, and eight in total.
    //= P-4
    //# Trains below 100 kb/s are refused.
    //= P-7
    //# A check owns the port until its first authentic probe arrives, for at most 4 s, and its
    //# socket is then connected to the address that probe came from.
    let pair = Pair::new();
    let node = pair.start();
    let honest = third(&pair, &node);
    let served = |greedy: &str, options: &[&str]| {
        let began = Instant::now();
        let found = check_with(&honest, options).exits(0).json();
        assert_eq!(found["complete"], true, "beside a partner that {greedy}: {found}");
        // The check itself takes several seconds, the port four, and this machine may be busy.
        assert!(began.elapsed() < Duration::from_secs(60), "beside a partner that {greedy}: {:?}", began.elapsed());
    };
    let memory = MemoryWatch::of(&node);
    let mut silent = Asker::permitted(&pair, &node, 600);
    served("was permitted and begins nothing", &QUICK);
    drop(silent);
    silent = again(&pair, &node);
    silent.begin(StepKind::Reflect(ReplySize::Same));
    served("begins a step and sends no probe", &QUICK);
    drop(silent);
    silent = again(&pair, &node);
    silent.show_itself();
    silent.begin(StepKind::TakeTrain);
    served("sends no train", &WITH_TRAINS);
    drop(silent);
    let mut slow = again(&pair, &node);
    //= P-3
    //# It runs one check per partner at a time, and eight in total.
    check(&pair.here).exits(5).says("is already answering a path check of this partner");
    slow.show_itself();
    //= P-4
    //# Trains below 100 kb/s are refused.
    let train = Train { rate_bits_per_second: 1, duration_us: u32::MAX, packet_bytes: 1_400 };
    let heard = slow.step(StepKind::SendTrain(train));
    let Some(Message::Path(PathMessage::Report(PathReport::Failed(why)))) = heard else { panic!("{heard:?}") };
    assert!(why.contains("a train of 1 b/s is too slow"), "{why}");
    served("wants a train at 1 b/s", &QUICK);
    assert!(node.metric("culvert_path_checks_total{result=\"busy\"}") >= 1.0);
    memory.assert_bounded("path checks without end");
}

/// The place of a check is free as soon as its connection is closed.
fn again(pair: &Pair, node: &RunningNode) -> Asker {
    let open = |counted: f64| node.metric("culvert_path_checks_total{result=\"broken\"}") > counted;
    static BROKEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let before = BROKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    wait_for("the end of the check before", || open(before.into()).then_some(()));
    Asker::permitted(pair, node, 600)
}

/// Row 15: a train at one bit per second held its place for 66 hours after its partner had gone.
#[test]
fn a_partner_that_has_gone_has_no_place() {
    //= P-5
    //# or immediately when the connection is closed.
    let pair = Pair::new();
    let node = pair.start();
    let honest = third(&pair, &node);
    let mut asker = Asker::permitted(&pair, &node, 600);
    asker.show_itself();
    let train = Train { rate_bits_per_second: 1, duration_us: u32::MAX, packet_bytes: 1_400 };
    let step = PathStep { number: 2, kind: StepKind::SendTrain(train) };
    asker.stranger.say(&Message::Path(PathMessage::Step(step)));
    drop(asker);
    check(&honest).exits(0);
    wait_for("the place", || (check(&pair.here).code == 0).then_some(()));
}

#[test]
fn two_partners_are_answered_at_the_same_port_at_the_same_time() {
    //= P-7
    //# All checks share one UDP port.
    let pair = Pair::new();
    let node = pair.start();
    let other = third(&pair, &node);
    let start = |state: &Path| {
        let arguments = ["path", "check", "second", "--seconds", "3", "--packets-per-second", "200"];
        let rest = ["--rate", "20M", "--no-trace", "--json"];
        let mut checking = command(state, arguments.into_iter().chain(rest));
        checking.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let checks = [start(&pair.here), start(&other)];
    for checking in checks {
        let ran: Ran = checking.wait_with_output().unwrap().into();
        let found = ran.exits(0).json();
        for side in ["send", "receive"] {
            let delivery = &found[side]["delivery"];
            assert_eq!((delivery["sent"].as_u64(), delivery["received"].as_u64()), (Some(600), Some(600)), "{found}");
        }
    }
    assert_eq!(node.metric("culvert_path_checks_total{result=\"answered\"}"), 2.0);
}

/// Row 13: who may measure by default. Partners may, as soon as they have connected.
#[test]
fn strangers_are_not_measured_to_unless_the_admin_says_so() {
    let pair = Pair::new();
    let stamp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = pair.path("there.toml");
    std::fs::write(&config, format!("[responder]\nstamp = '{stamp}'\n")).unwrap();
    let node = pair.start_with(&["--config", &config.display().to_string()]);
    let measure = || {
        let ran = run(&pair.here, ["path", "stamp", &stamp, "--packets", "5", "--interval", "0.01", "--json"]);
        ran.json()["round_trip"]["received"].as_u64()
    };
    assert_eq!(measure(), Some(0));
    assert_eq!(node.metric("culvert_path_responder_packets_total{result=\"source_not_allowed\"}"), 5.0);
    check(&pair.here).exits(0);
    assert_eq!(measure(), Some(5));
}

/// As many TWAMP control connections and sessions as a host gets, from several hosts: all of them
/// open, all of them silent.
#[test]
fn twamp_sessions_of_many_clients_take_bounded_memory() {
    let pair = Pair::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = pair.path("there.toml");
    std::fs::write(&config, format!("[responder]\ntwamp = '127.0.0.1:{port}'\nallow = ['127.0.0.0/8']\n")).unwrap();
    let node = pair.start_with(&["--config", &config.display().to_string()]);
    let memory = MemoryWatch::of(&node);
    let clients = (0..96).map(|number| open_twamp(&format!("127.0.0.{}", 2 + number % 6), port));
    let clients: Vec<(std::net::TcpStream, usize)> = clients.flatten().collect();
    let sessions: usize = clients.iter().map(|(_, sessions)| sessions).sum();
    assert!(clients.len() >= 32 && sessions >= 50, "{} connections with {sessions} sessions", clients.len());
    check(&pair.here).exits(0);
    memory.assert_bounded("TWAMP sessions");
}

/// Opens a control connection, if it gets one, and as many sessions on it as it gets.
fn open_twamp(from: &str, port: u16) -> Option<(std::net::TcpStream, usize)> {
    use std::io::{Read as _, Write as _};
    let socket = socket_bound_to(from);
    rustix::net::connect(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    let mut greeting = [0; 64];
    stream.read_exact(&mut greeting).ok()?;
    stream.write_all(&messages::set_up_response(&greeting).ok()?).unwrap();
    stream.read_exact(&mut [0; 48]).ok()?;
    let any = "0.0.0.0".parse().unwrap();
    let request = SessionRequest {
        is_ipv6: false,
        sender_port: 40_000,
        receiver_port: 0,
        sender_address: any,
        receiver_address: any,
        padding_bytes: 0,
        timeout: [0; 8],
        dscp: 0,
    };
    let mut sessions = 0;
    for _ in 0..16 {
        stream.write_all(&request.write()).unwrap();
        let mut answer = [0; 48];
        stream.read_exact(&mut answer).unwrap();
        sessions += usize::from(messages::accepted_port(&answer).is_ok());
    }
    Some((stream, sessions))
}

fn socket_bound_to(address: &str) -> std::os::fd::OwnedFd {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    let address: std::net::IpAddr = address.parse().unwrap();
    rustix::net::bind(&socket, &std::net::SocketAddr::new(address, 0)).unwrap();
    socket
}

/// Sends a reflector eight STAMP requests that appear to come from another; the arguments are the
/// address and port of both.
const FORGE: &str = r"
import socket, struct, sys
source, source_port, to, to_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for sequence in range(8):
    stamp = struct.pack('>IQHH', sequence, 0xe000000000000001, 0x8001, 7) + bytes(984)
    udp = struct.pack('>HHHH', source_port, to_port, 8 + len(stamp), 0) + stamp
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(to))
    raw.sendto(head + udp, (to, 0))
";

/// Row 13: eight forged datagrams went back and forth between two nodes forever, as fast as the
/// link.
#[test]
fn two_nodes_do_not_reflect_each_other() {
    if !is_installed("python3") {
        eprintln!("skipped: python3 is not installed");
        return;
    }
    // With the same port on both sides, which each recognizes as a reflector's, and with another
    // one, which neither does.
    for ports in [[8_620, 8_620], [8_620, 33_620]] {
        let Some(lab) = Lab::new(1_500) else { return };
        let pair = Pair::new();
        let nodes: Vec<RunningNode> = [&pair.here, &pair.there]
            .into_iter()
            .enumerate()
            .map(|(side, state)| {
                let address = format!("10.96.0.{}", side + 1);
                let config = pair.path(&format!("{side}.toml"));
                let stamp = format!("{address}:{}", ports[side]);
                std::fs::write(&config, format!("[responder]\nstamp = '{stamp}'\nallow = ['10.96.0.0/24']\n")).unwrap();
                let listen = format!("{address}:7272");
                let config = config.display().to_string();
                let arguments =
                    ["--config", &config, "node", "--listen", &listen, "--ports", "any", "--metrics", "off"];
                RunningNode::start(state, &mut lab.inside(side, &command(state, arguments)))
            })
            .collect();
        let sent = |side: usize| -> u64 {
            let file = format!("/sys/class/net/{}/statistics/tx_packets", lab.link(side));
            let output = lab.inside(side, Command::new("cat").arg(file)).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
        };
        let before = [sent(0), sent(1)];
        let forged = ["10.96.0.1", &ports[0].to_string(), "10.96.0.2", &ports[1].to_string()].map(str::to_owned);
        lab.tool(0, "python3", &["-c", FORGE, &forged[0], &forged[1], &forged[2], &forged[3]]);
        std::thread::sleep(Duration::from_secs(2));
        let after = [sent(0), sent(1)];
        // Besides the forged packets and an answer to each, there are requests about neighbors and
        // multicast groups.
        for side in 0..2 {
            let packets = after[side] - before[side];
            assert!(packets < 60, "ports {ports:?}, side {side}: {packets} packets in two seconds");
        }
        assert!(after[0] - before[0] >= 8, "nothing was forged");
        drop(nodes);
    }
}
