//! Culvert beside iperf3 with CUBIC and BBR on the same emulated path, in the same run: the table
//! of docs/rate-control.md.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::command::PathArguments;
use super::link::Counters;
use super::{Wan, WanConfig};
use crate::node::{RunningNode, key_of};
use crate::program::{Ran, command, is_installed};

/// Options of `cargo xtask wan-table`.
#[derive(Clone, Debug, clap::Args)]
pub struct TableArguments {
    /// The path; its loss is replaced by each of `--losses`.
    #[command(flatten)]
    pub path: PathArguments,
    /// Fractions of the packets lost, one row each
    #[arg(long, value_delimiter = ',', default_value = "0,0.001,0.01,0.03")]
    pub losses: Vec<f64>,
    /// How long each peer sends; Culvert sends what fills the path for as long
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// More options for `culvert bench net`
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    pub culvert_options: String,
}

/// The outcome of a transfer over the path.
#[derive(Debug)]
pub struct Measured {
    /// Payload bits per second over the whole run, start-up included.
    pub goodput_bits_per_second: f64,
    /// What happened to the packets in the direction of the data, and in the other.
    pub counters: [Counters; 2],
    /// The result as JSON.
    pub result: Value,
}

/// Two nodes on an emulated path.
#[derive(Debug)]
pub struct WanPair {
    /// The path.
    pub wan: Wan,
    room: tempfile::TempDir,
    node: RunningNode,
}

impl WanPair {
    /// Starts a node on the second side that the first knows as `second`, or prints why the test is
    /// skipped.
    ///
    /// # Panics
    /// If the path or the node cannot be made although it should be possible.
    #[must_use]
    pub fn new(config: &WanConfig) -> Option<Self> {
        let room = tempfile::Builder::new().prefix("culvert-wan-").tempdir().expect("a directory can be made");
        let there = room.path().join("there");
        Self::with(config, room, &there)
    }

    /// As [`WanPair::new`], in the test's room, with the node's state where the test wants it.
    ///
    /// # Panics
    /// As [`WanPair::new`].
    #[must_use]
    pub fn with(config: &WanConfig, room: tempfile::TempDir, there: &Path) -> Option<Self> {
        let wan = Wan::new(config)?;
        let here = room.path().join("here");
        let (our_key, their_key) = (key_of(&here), key_of(there));
        let permit = format!("{}:both", room.path().display());
        crate::program::run(there, ["profile", "add", "first", "--key", &our_key, "--permit", &permit]).exits(0);
        let listen = format!("{}:0", Wan::address(1));
        let arguments = ["node", "--listen", &listen, "--ports", "any", "--metrics", "127.0.0.1:0"];
        let node = RunningNode::start(there, &mut wan.inside(1, &command(there, arguments)));
        let address = format!("{}:{}", Wan::address(1), node.port);
        crate::program::run(&here, ["profile", "add", "second", "--key", &their_key, "--address", &address]).exits(0);
        Some(Self { wan, room, node })
    }

    /// The directory with both sides' state; the second permits all of it.
    #[must_use]
    pub fn room(&self) -> &std::path::Path {
        self.room.path()
    }

    /// The node of the second side.
    #[must_use]
    pub const fn node(&self) -> &RunningNode {
        &self.node
    }

    /// Runs the program on the first side.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run_here(&self, arguments: &[&str]) -> Ran {
        let here = self.room.path().join("here");
        self.wan.inside(0, &command(&here, arguments)).output().expect("the program starts").into()
    }

    /// Moves `bytes` from memory to memory.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn measure(&self, bytes: u64, options: &[&str]) -> Measured {
        let size = bytes.to_string();
        let mut arguments = vec!["bench", "--json", "net", "second", "--size", &size];
        arguments.extend(options);
        let result = self.run_here(&arguments).exits(0).json();
        assert_eq!(result["bytes"], bytes, "not all bytes arrived");
        Measured {
            goodput_bits_per_second: result["goodput_bps"].as_f64().unwrap_or(0.0),
            counters: [self.wan.counters(0), self.wan.counters(1)],
            result,
        }
    }
}

/// Measures and writes the table in Markdown.
///
/// # Errors
/// The writer's, or if the path cannot be made.
///
/// # Panics
/// If a program that is measured fails.
pub fn table(arguments: &TableArguments, out: &mut impl Write) -> io::Result<()> {
    let rate = arguments.path.rate as f64;
    writeln!(
        out,
        "| loss | Culvert | of the link | longest queue | feedback | iperf3 CUBIC | iperf3 BBR |\n|---|---|---|---|---|---|---|"
    )?;
    for &loss in &arguments.losses {
        let config = PathArguments { loss, ..arguments.path.clone() }.config();
        let Some(pair) = WanPair::new(&config) else {
            return Err(io::Error::other("no emulated path can be made here"));
        };
        let options: Vec<&str> = arguments.culvert_options.split_whitespace().collect();
        let bytes = arguments.path.rate / 8 * arguments.seconds;
        let culvert = pair.measure(bytes, &options);
        drop(pair);
        let [forward, reverse] = culvert.counters;
        let peers = ["cubic", "bbr"].map(|congestion| match iperf3(&config, congestion, arguments.seconds) {
            Some(bits) => format!("{:.0} Mb/s", bits / 1e6),
            None => "not installed".to_owned(),
        });
        writeln!(
            out,
            "| {} % | {:.0} Mb/s | {:.1} % | {:.1} ms | {:.3} % | {} | {} |",
            loss * 100.0,
            culvert.goodput_bits_per_second / 1e6,
            culvert.goodput_bits_per_second / rate * 100.0,
            forward.queue_us_max as f64 / 1e3,
            reverse.bytes_in as f64 / forward.bytes_in.max(1) as f64 * 100.0,
            peers[0],
            peers[1]
        )?;
        assert_eq!((forward.emulator_full, forward.refused), (0, 0), "the emulator was not fast enough");
        out.flush()?;
    }
    Ok(())
}

/// What iperf3 delivers over a fresh emulated path, in bits per second; `None` if it is not
/// installed.
fn iperf3(config: &WanConfig, congestion: &str, seconds: u64) -> Option<f64> {
    if !is_installed("iperf3") {
        return None;
    }
    let wan = Wan::new(config)?;
    let mut server = Server(
        wan.inside(1, Command::new("iperf3").args(["-s", "-1"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?,
    );
    let time = seconds.to_string();
    let began = Instant::now();
    loop {
        let mut client = Command::new("iperf3");
        client.args(["-c", Wan::address(1), "-C", congestion, "-t", &time, "-J"]);
        let ran: Ran = wan.inside(0, &client).output().ok()?.into();
        if ran.code == 0 {
            let _ = server.0.wait();
            return ran.json()["end"]["sum_received"]["bits_per_second"].as_f64();
        }
        // The server may not be listening yet.
        if began.elapsed() > Duration::from_secs(5) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
