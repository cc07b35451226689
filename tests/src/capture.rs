//! Runs `culvert capture` as a process, and reads its files with tshark.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::node::{signal_process, wait_for};
use crate::program::{Ran, is_installed};

/// A running capture.
#[derive(Debug)]
pub struct Capturing {
    child: Child,
    log: PathBuf,
}

impl Capturing {
    /// Starts a capture and waits until it is capturing. Its standard error goes to `log`.
    ///
    /// # Panics
    /// If it does not begin; the message has its output.
    #[must_use]
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let said = File::create(&log).expect("a log can be made");
        let mut child = command.stdout(Stdio::piped()).stderr(said).spawn().expect("a capture starts");
        wait_for("the capture", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().expect("a child can be waited for").is_none(), "the capture ended: {text}");
            text.contains("capturing").then_some(())
        });
        Self { child, log }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.child.id(), signal);
    }

    /// Interrupts it, as Ctrl-C does, and waits for it to exit.
    #[must_use]
    pub fn interrupt(self) -> Ran {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for it to exit.
    ///
    /// # Panics
    /// If it cannot be waited for.
    #[must_use]
    pub fn wait(self) -> Ran {
        let output = self.child.wait_with_output().expect("a child can be waited for");
        let err = std::fs::read_to_string(&self.log).unwrap_or_default();
        Ran { err, ..output.into() }
    }
}

/// Packets captured and dropped, as a capture reports them when it ends.
///
/// # Panics
/// If it does not report them.
#[must_use]
pub fn counts_of(ran: &Ran) -> (u64, u64) {
    let line = ran.err.lines().find(|line| line.contains(" captured, ")).unwrap_or_else(|| panic!("{ran:?}"));
    let numbers: Vec<u64> = line.split([' ', ':']).filter_map(|word| word.replace(',', "").parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// The repository's dissector.
#[must_use]
pub fn dissector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/culvert.lua")
}

/// Whether tshark is installed. If not, prints why the test is skipped.
#[must_use]
pub fn has_tshark() -> bool {
    let is_there = is_installed("tshark");
    if !is_there {
        eprintln!("skipped: tshark is not installed");
    }
    is_there
}

/// The fields that are read from each packet.
const FIELDS: [&str; 25] = [
    "frame.len",
    "frame.cap_len",
    "frame.time_epoch",
    "frame.protocols",
    "eth.src",
    "eth.dst",
    "eth.type",
    "vlan.id",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "udp.srcport",
    "udp.dstport",
    "culvert.kind",
    "culvert.stride",
    "culvert.flow_id",
    "culvert.packet_number",
    "culvert.epoch",
    "culvert.chunk",
    "culvert.segment_index",
    "culvert.offset",
    "culvert.payload_bytes",
    "culvert.token",
    "_ws.expert.message",
];

/// A packet as tshark decodes it with the dissector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet(Vec<String>);

impl Packet {
    /// A field; empty if the packet has none.
    ///
    /// # Panics
    /// If it is not one of the fields that are read.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let at = FIELDS.iter().position(|field| *field == name).unwrap_or_else(|| panic!("{name} is not in FIELDS"));
        &self.0[at]
    }

    /// A field that is a number.
    ///
    /// # Panics
    /// If it is not a number.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text(name);
        let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
        parsed.unwrap_or_else(|_| panic!("{name} is '{text}', not a number"))
    }

    /// Whether it is Culvert's, and breaks no rule of any protocol.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let remark = self.text("_ws.expert.message");
        self.text("frame.protocols").ends_with(":udp:culvert") && (remark.is_empty() || self.is_guess(remark))
    }

    /// Whether tshark's only remark is which hop of a traceroute it might be, a guess that it makes
    /// for every datagram to one of traceroute's ports. A flow's port is random.
    fn is_guess(&self, remark: &str) -> bool {
        const TRACEROUTE_PORTS: std::ops::RangeInclusive<u64> = 33_434..=33_533;
        let counts = remark.strip_prefix("Possible traceroute: hop #").and_then(|rest| rest.split_once(", attempt #"));
        let is_whole =
            counts.is_some_and(|(hop, attempt)| hop.parse::<u32>().is_ok() && attempt.parse::<u32>().is_ok());
        is_whole && ["udp.srcport", "udp.dstport"].iter().any(|port| TRACEROUTE_PORTS.contains(&self.number(port)))
    }

    /// Whether it is a datagram of this kind (W-3).
    #[must_use]
    pub fn is_kind(&self, kind: u8) -> bool {
        self.text("culvert.kind") == kind.to_string()
    }
}

/// The packets of a file, with checksums verified where nothing is truncated.
///
/// # Panics
/// If tshark does not run, or complains.
#[must_use]
pub fn packets_of(file: &Path) -> Vec<Packet> {
    let mut tshark = Command::new("tshark");
    let mut script = OsStr::new("lua_script:").to_owned();
    script.push(dissector());
    tshark.arg("-X").arg(script).arg("-r").arg(file).args(["-T", "fields", "-E", "occurrence=f"]);
    tshark.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]);
    tshark.args(FIELDS.iter().flat_map(|name| ["-e", name]));
    let ran: Ran = tshark.output().expect("tshark starts").into();
    assert!(ran.code == 0 && !ran.err.contains("Lua") && !ran.err.contains("cut short"), "{ran:?}");
    let packet = |line: &str| Packet(line.split('\t').map(str::to_owned).collect());
    ran.out.lines().map(packet).collect()
}
