//! STAMP and TWAMP-Light against an independent implementation: scapy's STAMP layer, from PyPI, in
//! a virtual environment that the test makes. Skipped where Python or the registry is unavailable.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use culvert_perfsonar::responder::{Responder, ResponderConfig, ResponderCounters};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::sources::Permitted;
use culvert_perfsonar::stamp::sender::SenderConfig;
use culvert_perfsonar::stamp::tlv;
use culvert_perfsonar::tester::{Measurement, measure};
use serde_json::Value;

/// The scapy that the tests were written for.
const SCAPY: &str = "scapy==2.8.0";

/// A Python with scapy, made once and kept beside the build.
fn python() -> Option<PathBuf> {
    use std::sync::OnceLock;
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let environment = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("peers");
            let python = environment.join("bin/python");
            let has_scapy = || {
                Command::new(&python)
                    .args(["-c", "import scapy.contrib.stamp"])
                    .output()
                    .is_ok_and(|ran| ran.status.success())
            };
            if has_scapy() {
                return Some(python);
            }
            let made = Command::new("python3").args(["-m", "venv"]).arg(&environment).output();
            let made = made.is_ok_and(|made| made.status.success());
            let installed = made
                && Command::new(&python)
                    .args(["-m", "pip", "install", "--quiet", SCAPY])
                    .output()
                    .is_ok_and(|ran| ran.status.success());
            if installed && has_scapy() {
                return Some(python);
            }
            eprintln!("skipped: a Python environment with {SCAPY} cannot be made");
            None
        })
        .clone()
}

/// A responder that permits this host, and as many packets as a test can send.
fn responder() -> Arc<Responder> {
    let permitted = Permitted::networks(vec!["127.0.0.0/8".parse().unwrap()]);
    let config = ResponderConfig { permitted, packets_per_second: 1_000_000, ..ResponderConfig::default() };
    Responder::new(config, Arc::new(ResponderCounters::default()))
}

const SENDER: &str = r#"
import json, socket, sys, time
from scapy.contrib.stamp import *
port, tlv_bytes = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(("127.0.0.1", port))
answers = []
for seq in range(20):
    now = time.time() + 2208988800
    packet = STAMPSessionSenderTestUnauthenticated(seq=seq, ts=now, err_estimate=ErrorEstimate(S=0, scale=20, multiplier=9), ssid=4711)
    sent = bytes(packet) + tlv_bytes
    s.send(sent)
    data = s.recv(2000)
    answer = STAMPSessionReflectorTestUnauthenticated(data)
    answers.append(dict(seq=answer.seq, sender=answer.seq_sender, ssid=answer.ssid, ttl=answer.ttl_sender, z=answer.err_estimate.Z,
        multiplier=answer.err_estimate.multiplier, their_multiplier=answer.err_estimate_sender.multiplier, mbz=[answer.mbz1, int(answer.mbz2)],
        late=float(answer.ts) - now, received=float(answer.ts_rx) - now, echoed=float(answer.ts_sender) - now,
        tlvs=[[t.type, int(t.flags), t.value.hex()] for t in answer.tlv_objects], sizes=[len(sent), len(data)]))
print(json.dumps(answers))
"#;

#[tokio::test]
async fn scapy_measures_to_our_reflector() {
    let Some(python) = python() else { return };
    let socket = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_address().unwrap().port();
    tokio::spawn(responder().serve_stamp(socket));
    let mut tlvs = Vec::new();
    tlv::append(&mut tlvs, tlv::Type::ExtraPadding, &[0; 8]);
    tlv::append(&mut tlvs, tlv::Type::DirectMeasurement, &[0; 12]);
    tlvs.extend_from_slice(&[tlv::UNRECOGNIZED, 222, 0, 2, 1, 2]);
    let hex: String = tlvs.iter().map(|byte| format!("{byte:02x}")).collect();
    let ran =
        tokio::process::Command::new(python).args(["-c", SENDER, &port.to_string(), &hex]).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let answers: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(answers.len(), 20);
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer["seq"].as_u64(), answer["sender"].as_u64()),
            (Some(number as u64), Some(number as u64)),
            "{answer}"
        );
        assert_eq!(
            (answer["ssid"].as_u64(), answer["z"].as_u64(), &answer["mbz"]),
            (Some(4711), Some(0), &serde_json::json!([0, 0])),
            "{answer}"
        );
        assert_eq!(answer["their_multiplier"], 9);
        assert_ne!(answer["multiplier"], 0, "a multiplier of zero is invalid");
        assert!(answer["echoed"].as_f64().unwrap().abs() < 1e-6, "{answer}");
        let (received, late) = (answer["received"].as_f64().unwrap(), answer["late"].as_f64().unwrap());
        assert!(received > -0.001 && late >= received && late < 5.0, "{answer}");
        assert_eq!(answer["tlvs"][0], serde_json::json!([1, 0, "0000000000000000"]));
        assert_eq!((&answer["tlvs"][1][0], &answer["tlvs"][1][1]), (&serde_json::json!(5), &serde_json::json!(0)));
        assert_eq!(
            (&answer["tlvs"][2][0], &answer["tlvs"][2][2]),
            (&serde_json::json!(222), &serde_json::json!("0102"))
        );
        assert_ne!(answer["tlvs"][2][1], 0, "an unknown TLV keeps its flag");
        assert_eq!(answer["sizes"][0], answer["sizes"][1], "no amplification");
    }
}

/// What twping sends: the fourteen bytes of TWAMP-Test and random padding, of every length.
const PADDED: &str = r#"
import json, random, socket, struct, sys, time
from scapy.contrib.stamp import *
mode, port, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind(("127.0.0.1", 0))
if mode == "twamp":
    control = socket.create_connection(("127.0.0.1", port), 10)
    def read(count):
        data = b""
        while len(data) < count:
            part = control.recv(count - len(data))
            assert part, "the server closes the connection"
            data += part
        return data
    assert struct.unpack(">I", read(64)[12:16])[0] & 1
    control.sendall(struct.pack(">I160x", 1))
    assert read(48)[15] == 0
    request = bytearray(112)
    request[0:2] = [5, 4]
    request[12:14] = struct.pack(">H", s.getsockname()[1])
    control.sendall(bytes(request))
    accept = read(48)
    assert accept[0] == 0
    port = struct.unpack(">H", accept[2:4])[0]
    control.sendall(bytes([2]) + bytes(31))
    assert read(32)[0] == 0
s.connect(("127.0.0.1", port))
least = 0 if mode == "twamp" else 27
wrong = []
for seq, padding in enumerate(range(least, 1459)):
    head = bytes(STAMPSessionSenderTestUnauthenticated(seq=seq, ts=time.time() + 2208988800, err_estimate=ErrorEstimate(S=1, scale=4, multiplier=7)))[:14]
    sent = head + rng.randbytes(padding)
    s.send(sent)
    data = s.recv(65535)
    answer = STAMPSessionReflectorTestUnauthenticated(data + bytes(max(0, 44 - len(data))))
    found = dict(seq=answer.seq, sender=answer.seq_sender, ssid=answer.ssid, mbz=int(answer.mbz1), bytes=len(data), t1=data[28:36] == sent[4:12], padding=data[41:] == sent[41:])
    wanted = dict(seq=seq, sender=seq, ssid=0, mbz=0, bytes=max(41, len(sent)), t1=True, padding=True)
    if found != wanted:
        wrong.append([padding, found])
print(json.dumps(dict(packets=seq + 1, wrong=wrong[:5])))
"#;

/// Findings F1 and F1b: bytes of random padding were taken for a session's id and for TLVs, so each
/// packet began its own session.
#[tokio::test]
async fn random_padding_of_every_length_is_padding() {
    let Some(python) = python() else { return };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    eprintln!("seed {seed}");
    for mode in ["twamp", "stamp"] {
        let port = if mode == "twamp" {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(responder().serve_control(listener));
            port
        } else {
            let socket = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let port = socket.local_address().unwrap().port();
            tokio::spawn(responder().serve_stamp(socket));
            port
        };
        let arguments = [mode.to_owned(), port.to_string(), seed.to_string()];
        let ran = tokio::process::Command::new(&python).args(["-c", PADDED]).args(arguments).output().await.unwrap();
        assert!(ran.status.success(), "{mode}: {}", String::from_utf8_lossy(&ran.stderr));
        let found: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(found["wrong"], serde_json::json!([]), "{mode}, seed {seed}");
        assert!(found["packets"].as_u64().unwrap() > 1_400, "{found}");
    }
}

const REFLECTOR: &str = r#"
import socket, sys, time
from scapy.contrib.stamp import *
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
seq = 0
while True:
    data, peer = s.recvfrom(2000)
    rx = time.time() + 2208988800
    request = STAMPSessionSenderTestUnauthenticated(data)
    assert request.mbz == 0
    if request.seq == 3:
        continue
    answer = STAMPSessionReflectorTestUnauthenticated(seq=seq, ts=time.time() + 2208988800, err_estimate=ErrorEstimate(S=1, scale=20, multiplier=4),
        ssid=request.ssid, ts_rx=rx, seq_sender=request.seq, err_estimate_sender=request.err_estimate, ttl_sender=64)
    # scapy rounds times to doubles; the sender's goes back as it came.
    raw = bytearray(bytes(answer))
    raw[28:36] = data[4:12]
    s.sendto(bytes(raw) + data[44:], peer)
    seq += 1
"#;

#[tokio::test]
async fn we_measure_to_scapys_reflector() {
    use std::io::BufRead as _;
    let Some(python) = python() else { return };
    let mut reflector = Command::new(python).args(["-c", REFLECTOR]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(reflector.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = format!("127.0.0.1:{}", line.trim()).parse().unwrap();
    let how = Measurement { packets: 20, interval: Duration::from_millis(20), wait: Duration::from_secs(5), dscp: 0 };
    let result = measure(address, SenderConfig { packet_bytes: 120, ..SenderConfig::stamp(99) }, &how).await;
    let _ = reflector.kill();
    let _ = reflector.wait();
    let result = result.unwrap();
    assert_eq!((result.round_trip.sent, result.round_trip.received), (20, 19), "{result:?}");
    // It numbers its own answers, so the loss is known to be on the way there.
    assert_eq!((result.forward.unwrap().lost(), result.reverse.unwrap().lost()), (1, 0), "{result:?}");
    assert_eq!(result.request_ttl.keys().collect::<Vec<_>>(), [&64]);
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
}
