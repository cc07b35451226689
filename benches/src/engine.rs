//! The engine as a contender: a node on the receiving side, a command on the sending side.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{culvert, run};
use serde_json::Value;

use crate::field::{Field, RECEIVER, SENDER, THERE};

/// The port of a node's first lane.
const DATA_PORT: u16 = 7273;

/// Processor and kernel of this machine.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("unknown processor")
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} × {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// Two partners in the lab, the second one running.
#[derive(Debug)]
pub struct Engine<'a> {
    field: &'a Field,
    /// The partners' state.
    pub pair: Pair,
    /// The second's node.
    pub node: RunningNode,
}

impl<'a> Engine<'a> {
    /// Starts the receiving node.
    pub fn start(field: &'a Field) -> Self {
        Self::start_with(field, &[])
    }

    /// Starts the receiving node with more options.
    pub fn start_with(field: &'a Field, options: &[&str]) -> Self {
        Self::start_of(field, culvert(), options)
    }

    /// Starts the receiving node of a build. Commands on the sending side use the same build.
    pub fn start_of(field: &'a Field, program: &Path, options: &[&str]) -> Self {
        let pair = Pair::of(program);
        field.wait_for_free_port(DATA_PORT);
        let core = RECEIVER.to_string();
        let arguments = ["node", "--listen", "[::]:7272", "--metrics", "off", "--cores", &core];
        let node = pair.command(&pair.there, [&arguments, options].concat());
        let node = RunningNode::start(&pair.there, &mut field.lab.inside(RECEIVER, &node));
        pair.meet(node.port);
        pair.run(&pair.here, ["profile", "edit", "second", "--address", &format!("{THERE}:7272")]).exits(0);
        Self { field, pair, node }
    }

    /// Permits the receiver to store below a directory.
    pub fn permit(&self, directory: &std::path::Path) {
        let permit = format!("{}:both", directory.display());
        self.pair.run(&self.pair.there, ["profile", "edit", "first", "--permit", &permit]).exits(0);
    }

    /// Runs a command of the engine on the sending side; its JSON and how long it took.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<(Value, Duration)> {
        let sending = self.pair.command(&self.pair.here, arguments);
        let words: Vec<String> = sending.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let core = SENDER.to_string();
        words.extend(["--json", "--cores", &core]);
        let program = self.pair.program.display().to_string();
        // Both processes of the side share its core, as the peers' do.
        let (out, took) = self.field.run(&program, &words)?;
        let result: Value = serde_json::from_str(&out).with_context(|| out.clone())?;
        Ok((result, took))
    }

    /// Memory to memory, in Gb/s.
    pub fn memory(&self, gigabytes: u64, options: &[&str]) -> anyhow::Result<f64> {
        let size = format!("{gigabytes}G");
        let (result, _) = self.run(&[&["bench", "net", "second", "--size", &size], options].concat())?;
        let bits = result["goodput_bps"].as_f64().context("no goodput")?;
        Ok(bits / 1e9)
    }

    /// Sends a file or directory; the JSON and how long the whole command took.
    pub fn send(&self, source: &Path, destination: &Path) -> anyhow::Result<(Value, Duration)> {
        self.run(&["send", &source.display().to_string(), &self.destination(destination)])
    }

    /// A directory of the receiving side as a command names it.
    pub fn destination(&self, directory: &std::path::Path) -> String {
        format!("second:{}", directory.display())
    }
}

/// The raw limit of the same path: sealed datagrams without a protocol, in Gb/s.
pub fn limit(field: &Field, datagram: u32) -> anyhow::Result<f64> {
    limit_with(field, datagram, &[])
}

/// The raw limit with options for both ends, in Gb/s.
pub fn limit_with(field: &Field, datagram: u32, options: &[&str]) -> anyhow::Result<f64> {
    let program: PathBuf = culvert().to_owned();
    let program = program.display().to_string();
    let datagram = datagram.to_string();
    let (sender, receiver) = (SENDER.to_string(), RECEIVER.to_string());
    let address = format!("{THERE}:7999");
    let receive = ["bench", "limit", "--receive", &address, "--core", &receiver, "--json"];
    let mut receiving = field.command(RECEIVER, &program, &[&receive, options].concat());
    let receiving = receiving.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let send = ["bench", "limit", "--send", &address, "--datagram", &datagram, "--core", &sender, "--json"];
    let sent = field.run(&program, &[&send, options].concat());
    let received = receiving.wait_with_output()?;
    sent?;
    ensure!(received.status.success(), "the receiver failed");
    let result: Value = serde_json::from_slice(&received.stdout)?;
    Ok(result["bits_per_second"].as_f64().context("no rate")? / 1e9)
}

/// Prints the ledger.
pub fn ledger() -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    println!("\n### Ledger: cycles for each byte\n\n```\n{}```", run(state.path(), ["bench", "ledger"]).exits(0).out);
    Ok(())
}
