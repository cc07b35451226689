//! An approved partner that takes all it can get, beside one that has just arrived and wants
//! little.
//!
//! What the greedy one takes differs from test to test; the requirement is the same: the fresh
//! partner is served while the other does its worst.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use culvert_protocol::control::{Message, Request};
use culvert_protocol::feedback::Report;
use culvert_protocol::manifest::Entry;

use crate::hostile_sender::{CHUNK_BYTES, HostileSender, new_id, push_request};
use crate::memory::MemoryWatch;
use crate::node::{Pair, RunningNode, key_of};
use crate::program::{Ran, command, run};
use crate::random::Random;

/// A node with two partners: the greedy one is the pair's first.
#[derive(Debug)]
pub struct Neighbours {
    /// Both ends; `here` has the greedy partner's key.
    pub pair: Pair,
    /// The node.
    pub node: RunningNode,
    /// The fresh partner's state directory.
    pub fresh: PathBuf,
    memory: MemoryWatch,
}

impl Neighbours {
    /// Starts the node, with whatever the test wants to change in its command.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn begin(change: impl FnOnce(&mut Command)) -> Self {
        let pair = Pair::new();
        let node = pair.start_changed(change);
        let fresh = pair.path("fresh");
        let permit = format!("{}:both", pair.shared.display());
        run(&pair.there, ["profile", "add", "fresh", "--key", &key_of(&fresh), "--permit", &permit]).exits(0);
        let address = format!("127.0.0.1:{}", node.port);
        run(&fresh, ["profile", "add", "second", "--key", &key_of(&pair.there), "--address", &address]).exits(0);
        let memory = MemoryWatch::of(&node);
        Self { pair, node, fresh, memory }
    }

    /// The greedy partner's push of `entries` over as many flows as it gets.
    ///
    /// # Panics
    /// If the node refuses it.
    #[must_use]
    pub fn greedy_push(&self, flows: u16, entries: &[Entry<'_>]) -> HostileSender {
        HostileSender::begin_request(&self.pair.here, self.node.port, self.greedy_request(flows), entries)
    }

    /// The request of [`Neighbours::greedy_push`].
    #[must_use]
    pub fn greedy_request(&self, flows: u16) -> Request {
        let mut asked = push_request(&self.pair.shared.join("greedy"), new_id());
        asked.options.flows = flows;
        asked
    }

    /// The fresh partner sends `bytes` new bytes once; returns how that ended and how long it took.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn serve_fresh(&self, bytes: usize, options: &[&str]) -> (Ran, Duration) {
        let source = self.pair.path("wanted");
        let content = Random::new(bytes as u64).bytes(bytes);
        std::fs::write(&source, &content).expect("a file can be written");
        let destination = format!("second:{}", self.pair.shared.join("served").display());
        let mut sending = command(&self.fresh, ["send", "--overwrite", "always", "--retries", "0"]);
        let began = Instant::now();
        let ran: Ran = sending.args(options).arg(&source).arg(destination).output().expect("the program starts").into();
        let elapsed = began.elapsed();
        if ran.code == 0 {
            let stored = std::fs::read(self.pair.shared.join("served")).expect("what was sent is there");
            assert!(stored == content, "what is stored is not what was sent");
        }
        (ran, elapsed)
    }

    /// Asserts that the fresh partner is served within the time that a loaded host needs, and that
    /// the node has taken no more memory than it may.
    ///
    /// # Panics
    /// If one of them does not hold.
    pub fn assert_fresh_is_served(&self) {
        let (ran, elapsed) = self.serve_fresh(300_000, &[]);
        ran.exits(0);
        eprintln!("measured: a fresh partner's transfer took {} ms", elapsed.as_millis());
        assert!(elapsed < SERVED_WITHIN, "the fresh partner waited for {elapsed:?}\n{}", self.node.log());
        self.memory.assert_bounded("a greedy partner");
    }

    /// How many descriptors the node's control process has open.
    ///
    /// # Panics
    /// If that cannot be read.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.node.process_id())).expect("the node runs").count()
    }
}

/// Two seconds are promised. Both processes of each end start on a host that has other work, and
/// what used to be held up was held up for as long as the greedy partner liked.
pub const SERVED_WITHIN: Duration = Duration::from_secs(15);

/// Begins a chunk on every flow for every credit granted, and finishes none. Returns how many were
/// begun.
pub fn begin_and_never_finish(sender: &mut HostileSender, chunks: u32, listening: Duration) -> u32 {
    let began = Instant::now();
    let mut begun = vec![0; sender.flows.len()];
    let mut next = 0;
    let bytes = vec![7; CHUNK_BYTES as usize];
    while began.elapsed() < listening {
        let Some(message) = sender.stranger.hear_if_there_is() else { continue };
        let Message::Feedback(report) = message else { continue };
        let Ok(report) = Report::parse(&report) else { continue };
        let summary = report.summary;
        let Some(flow) = sender.flows.iter().position(|flow| flow.flow_id == summary.flow_id) else { continue };
        while begun[flow] < summary.credit && next < chunks {
            begun[flow] += 1;
            let datagram = sender.segment(flow, next, &bytes, 0);
            sender.send(flow, &datagram);
            next += 1;
        }
    }
    next
}
