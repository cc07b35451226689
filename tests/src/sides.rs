//! Two sides of a lab, with a node on the second and lanes on AF_XDP on both.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::lab::Lab;
use crate::node::{PATIENCE, Pair, RunningNode, metrics_of, wait_for};
use crate::program::{Ran, command, run};
use crate::random::Random;
use crate::tree::make_flat;

/// Frames of a lane's packet memory for arriving packets
/// (`dataplane/src/datapath/af_xdp/ladder.rs`).
const RECEIVE_FRAMES: u64 = 4_096;
/// Frames for departing packets.
const TRANSMIT_FRAMES: u64 = 512;
/// Frames that the kernel holds back in copy mode, outside the rings: those of a packet for which
/// RX had no room.
const KEPT_BACK_MAX: u64 = 8;

/// A node on the lab's second side whose lane is on AF_XDP, and what a sender on the first needs.
#[derive(Debug)]
pub struct Sides {
    /// The namespaces.
    pub lab: Lab,
    /// The partners' state.
    pub pair: Pair,
    /// The second's node.
    pub node: RunningNode,
    /// The cores of the sender's lanes.
    pub sender_cores: &'static str,
}

impl Sides {
    /// Sides of a new lab that meet at `address`; `None`, with a reason on standard error, if there
    /// can be none.
    #[must_use]
    pub fn start(mtu: u32, address: &str) -> Option<Self> {
        Some(Self::over(Lab::new(mtu)?, address, &["--cores", "0"]))
    }

    /// Sides of a lab, with options for the node.
    ///
    /// # Panics
    /// If the node does not start.
    #[must_use]
    pub fn over(lab: Lab, address: &str, options: &[&str]) -> Self {
        Self::with_environment(lab, address, options, &[])
    }

    /// As [`Sides::over`], with additions to the node's environment.
    ///
    /// # Panics
    /// If the node does not start.
    #[must_use]
    pub fn with_environment(lab: Lab, address: &str, options: &[&str], environment: &[(&str, OsString)]) -> Self {
        let pair = Pair::new();
        let listen = ["node", "--listen", "[::]:7272", "--metrics", "127.0.0.1:0"];
        let arguments: Vec<&str> = [&listen, datapath_unless_in(options), options].concat();
        let mut starting = command(&pair.there, arguments);
        starting.envs(environment.iter().cloned());
        let node = RunningNode::start(&pair.there, &mut lab.inside(1, &starting));
        pair.meet(node.port);
        run(&pair.here, ["profile", "edit", "second", "--address", &format!("{address}:7272")]).exits(0);
        Self { lab, pair, node, sender_cores: "1" }
    }

    /// A command that sends from the first side.
    #[must_use]
    pub fn sending(&self, source: &Path, options: &[&str]) -> Command {
        let destination = format!("second:{}", self.pair.shared.join("in").display());
        let mut sending = command(&self.pair.here, ["send", "--json", "--cores", self.sender_cores]);
        sending.args(datapath_unless_in(options)).args(options).arg(source).arg(destination);
        self.lab.inside(0, &sending)
    }

    /// Sends from the first side.
    ///
    /// # Panics
    /// If the program does not start.
    pub fn send(&self, source: &Path, options: &[&str]) -> Ran {
        self.sending(source, options).output().unwrap().into()
    }

    /// Starts sending from the first side.
    ///
    /// # Panics
    /// If the program does not start.
    pub fn start_sending(&self, source: &Path, options: &[&str]) -> Child {
        self.sending(source, options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Makes forty files of up to 2 MiB.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        let source = self.pair.path("source");
        make_flat(&source, 40, 2 << 20, &mut Random::new(1));
        source.join("")
    }

    /// Makes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn large_source(&self, bytes: usize) -> PathBuf {
        let source = self.pair.path("large");
        fs::write(&source, Random::new(2).bytes(bytes)).unwrap();
        source
    }

    /// What `ip` reports about a side's interface.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn link(&self, side: usize) -> String {
        link_of(&self.lab, side)
    }

    /// What the second node reports about its data plane.
    ///
    /// # Panics
    /// If it reports nothing.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        self.lab.inside(1, &command(&self.pair.there, ["status", "--json"])).output().map(Ran::from).unwrap().json()
    }

    /// Waits until the second node has received this many bytes: a transfer is under way.
    ///
    /// # Panics
    /// If it takes far too long.
    pub fn wait_until_received(&self, bytes: u64) {
        let received = || self.status()["dataplane"]["lanes"][0]["received_bytes"].as_u64();
        wait_for("the transfer to be under way", || received().filter(|&received| received > bytes));
    }

    /// The second node's metrics.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics_of(&self.pair.there)
    }

    /// As [`Sides::account_for_frames_in`] in copy mode, which is the mode of veth.
    pub fn account_for_frames(&self) {
        self.account_for_frames_in("copy");
    }

    /// Checks that every frame of the node's lanes is where it should be, once everything sent has
    /// left.
    ///
    /// # Panics
    /// If one is missing; the message has the account.
    pub fn account_for_frames_in(&self, mode: &str) {
        let began = Instant::now();
        loop {
            let lanes = self.status()["dataplane"]["lanes"].clone();
            let lanes = lanes.as_array().expect("a node has lanes");
            if lanes.iter().all(|lane| is_complete(&lane["frames"], mode)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "frames are missing: {lanes:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// What `ip` reports about the interface of a lab's side.
///
/// # Panics
/// If it does not run.
#[must_use]
pub fn link_of(lab: &Lab, side: usize) -> String {
    let output = lab.inside(side, Command::new("ip").args(["-d", "link", "show", "dev", lab.link(side)])).output();
    String::from_utf8_lossy(&output.expect("ip runs").stdout).into_owned()
}

/// AF_XDP, unless the options say otherwise.
fn datapath_unless_in(options: &[&str]) -> &'static [&'static str] {
    if options.contains(&"--datapath") { &[] } else { &["--datapath", "af_xdp"] }
}

/// Whether all frames of a lane are in the pool, or with the kernel for arriving packets.
fn is_complete(frames: &serde_json::Value, mode: &str) -> bool {
    let of = |name: &str| frames[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {frames}"));
    let receive = of("receive_held") == 0 && of("receive_free") + of("receive_lent") == RECEIVE_FRAMES;
    let transmit = of("transmit_held") == 0 && of("transmit_lent") == 0 && of("transmit_free") == TRANSMIT_FRAMES;
    // In zero-copy mode the NIC has as many as its own ring holds.
    let kept_back = of("receive_lent") - of("receive_in_rings");
    receive && transmit && (kept_back <= KEPT_BACK_MAX || mode == "zerocopy") && of("malformed") == 0
}
