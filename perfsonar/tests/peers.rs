//! STAMP and TWAMP-Light against an independent implementation: scapy's STAMP layer, from PyPI, in a virtual environment that the
//! test makes. Skipped where Python or the registry is not to be had.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use culvert_perfsonar::responder::{ResponderConfig, ResponderCounters, serve_stamp};
use culvert_perfsonar::socket::ProbeSocket;
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
    tokio::spawn(async move {
        serve_stamp(socket, &ResponderConfig::default(), Arc::new(ResponderCounters::default())).await
    });
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
