//! What becomes of a transfer whose node cannot write its state, or dies in the middle of writing
//! it.
//!
//! The state is on a disk of the test ([`StateDisk`]). At each change of a record, a receipt or a
//! journal, one after the other, the node is killed before or after it, or the disk is full from
//! then on; then the same transfer is requested again. Each round asserts that the first attempt
//! ended and said why, that the second one ends complete with equal content, that nothing was
//! called stored that was not, and that no transfer's ID is stuck. The default run takes a sample
//! of the changes; the long one takes all of them:
//!
//! ```text
//! cargo xtask test state_faults -- --ignored --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use culvert_protocol::receipt::Receipt;
use culvert_tests::api::call;
use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::{Random, seeds};
use culvert_tests::state_disk::{Fault, StateDisk, missing};
use culvert_tests::tree::{assert_same, make_flat, temporary_files};
use serde_json::Value;

/// Whose state is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The node that is asked to receive.
    Asked,
    /// The node whose user fetches.
    Asking,
}

/// What happens at a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KillBefore,
    KillAfter,
    Fill,
}

const KINDS: [Kind; 3] = [Kind::KillBefore, Kind::KillAfter, Kind::Fill];

struct Stage {
    side: Side,
    /// The node on the disk. It ends before the disk is unmounted.
    node: Option<RunningNode>,
    /// The other node, if the one on the disk asks.
    _partner: Option<RunningNode>,
    disk: StateDisk,
    pair: Pair,
    source: PathBuf,
    destination: PathBuf,
}

impl Stage {
    fn new(side: Side, random: &mut Random) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
        let disk = StateDisk::new();
        let shared = room.path().join("shared");
        let (pair, node, partner) = match side {
            Side::Asked => {
                let pair = Pair::with(room, disk.mounted.join("state"), shared);
                let node = pair.start();
                (pair, node, None)
            }
            Side::Asking => {
                let there = room.path().join("there");
                let pair = Pair::asking_from(room, disk.mounted.join("state"), there, shared);
                let partner = pair.start();
                let node = start_asking(&pair);
                (pair, node, Some(partner))
            }
        };
        let (source, destination) = match side {
            Side::Asked => (pair.path("source"), pair.shared.join("copy")),
            Side::Asking => (pair.shared.join("source"), pair.path("copy")),
        };
        // A directory that is filled beside its place, files that are linked one by one, and one
        // with chunks.
        make_flat(&source.join("flat"), 20, 2_000, random);
        make_flat(&source, 3, 1_000, random);
        fs::write(source.join("large"), random.bytes(9 << 20)).unwrap();
        Self { side, disk, pair, node: Some(node), _partner: partner, source, destination }
    }

    fn node(&self) -> &RunningNode {
        self.node.as_ref().unwrap()
    }

    fn state(&self) -> PathBuf {
        self.disk.mounted.join("state")
    }

    fn transfer(&self, rate: &str) -> Ran {
        let theirs = |path: &Path| format!("second:{}", path.join("").display());
        let mut starting = match self.side {
            Side::Asked => command(&self.pair.here, ["send", "--json", "--retries", "0", "--rate", rate]),
            Side::Asking => command(&self.state(), ["get", "--json", "--retries", "0", "--rate", rate]),
        };
        match self.side {
            Side::Asked => starting.arg(self.source.join("")).arg(theirs(&self.destination)),
            Side::Asking => starting.arg(theirs(&self.source)).arg(self.destination.join("")),
        };
        let pipes = starting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let mut has_ended = || child.try_wait().unwrap().is_some();
        wait_for("the end of the command", || has_ended().then_some(()));
        child.wait_with_output().unwrap().into()
    }

    fn start_again(&mut self) {
        self.node.take().unwrap().kill();
        self.node = Some(match self.side {
            Side::Asked => self.pair.start(),
            Side::Asking => start_asking(&self.pair),
        });
    }

    /// The transfers of the node on the disk, and their states.
    fn transfers(&self) -> BTreeMap<String, Value> {
        let (status, listed) = call(&self.state(), "GET", "/v1/transfers", "");
        assert_eq!(status, 200);
        let named = |record: &Value| (record["transfer"].as_str().unwrap().to_owned(), record.clone());
        listed.as_array().unwrap().iter().map(named).collect()
    }

    /// Waits until every transfer has ended, and the disk says the same as the node.
    fn wait_until_settled(&self) -> BTreeMap<String, Value> {
        let is_final = |record: &Value| !["queued", "active"].contains(&record["state"].as_str().unwrap());
        let is_written = |id: &String, record: &Value| {
            let bytes = fs::read(self.state().join(format!("transfers/{id}.json"))).unwrap_or_default();
            let written: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            written["state"] == record["state"]
        };
        wait_for("the end of all transfers, and their records", || {
            let transfers = self.transfers();
            transfers.iter().all(|(id, record)| is_final(record) && is_written(id, record)).then_some(transfers)
        })
    }

    fn journals(&self) -> Vec<PathBuf> {
        let journals = fs::read_dir(self.state().join("journals")).unwrap();
        journals.map(|entry| entry.unwrap().path()).collect()
    }
}

fn start_asking(pair: &Pair) -> RunningNode {
    let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"];
    RunningNode::start(&pair.here, &mut command(&pair.here, arguments))
}

/// One round; false if the transfer makes no change with that number.
fn run_round(side: Side, kind: Kind, at: u64, seed: u64) -> bool {
    let mut stage = Stage::new(side, &mut Random::new(seed));
    let process = stage.node().process_id();
    stage.disk.set_fault(
        at,
        match kind {
            Kind::KillBefore => Fault::KillBefore(process),
            Kind::KillAfter => Fault::KillAfter(process),
            Kind::Fill => Fault::Fill,
        },
    );
    let first = stage.transfer("60M");
    let round = format!("{side:?} {kind:?} at change {at}");
    if first.code == 0 {
        assert_same(&stage.source, &stage.destination);
    } else {
        assert!(!first.err.is_empty() || !first.out.is_empty(), "{round}: {first:?}");
    }
    // What is written in parallel may come a moment later.
    std::thread::sleep(Duration::from_millis(50));
    let (changes, has_happened) = stage.disk.changes();
    if !has_happened {
        assert_eq!(first.code, 0, "{round}: nothing was wrong, but {first:?}");
        return false;
    }
    eprintln!("{round} of {changes}: exit {}", first.code);
    if kind == Kind::Fill {
        assert!(stage.node.as_mut().unwrap().is_alive(), "{round}: {}", stage.node().log());
        assert!([0, 1, 5, 6].contains(&first.code), "{round}: {first:?}");
        stage.disk.make_room();
    } else {
        stage.start_again();
        assert!([0, -1, 5].contains(&first.code), "{round}: {first:?}");
    }
    // A transfer that the node's own user requested continues by itself after a restart.
    stage.wait_until_settled();
    let second = stage.transfer("1G");
    assert!([0, 9].contains(&second.code), "{round}: {second:?}, the node: {}", stage.node().log());
    assert_same(&stage.source, &stage.destination);
    let temporary = temporary_files(&stage.destination);
    assert!(temporary.is_empty(), "{round}: {temporary:?}");
    assert_no_id_is_stuck(&stage, &round);
    // Nothing of it remains, and a restart does not change that.
    let before = stage.wait_until_settled();
    stage.start_again();
    let after = stage.transfers();
    let states = |transfers: &BTreeMap<String, Value>| -> Vec<Value> {
        transfers.values().map(|record| record["state"].clone()).collect()
    };
    assert_eq!(states(&before), states(&after), "{round}");
    assert_eq!(stage.journals(), [] as [PathBuf; 0], "{round}");
    if first.code == 0 && stage.side == Side::Asked {
        //= W-56
        //# Whoever is told of success therefore finds the receipt at both ends.
        // Whoever was told of success finds the same receipt at both ends (W-56).
        let id = first.json()["transfer"].as_str().unwrap().to_owned();
        let of = |state: &Path| fs::read_to_string(state.join(format!("receipts/{id}.receipt"))).unwrap_or_default();
        assert_ne!(of(&stage.pair.here), "", "{round}");
        assert_eq!(of(&stage.state()), of(&stage.pair.here), "{round}");
    }
    for (id, record) in after {
        let is_whole = record["state"] == "succeeded";
        let receipt = fs::read_to_string(stage.state().join(format!("receipts/{id}.receipt"))).ok();
        assert_eq!(receipt.is_some(), is_whole, "{round}: {record}");
        if let Some(receipt) = receipt {
            Receipt::verify(&receipt).unwrap();
        }
    }
    true
}

/// Each transfer of the node's own user that did not succeed can be restarted.
fn assert_no_id_is_stuck(stage: &Stage, round: &str) {
    if stage.side == Side::Asked {
        return;
    }
    for (id, record) in stage.wait_until_settled() {
        if record["state"] != "succeeded" {
            let (status, answer) = call(&stage.state(), "POST", &format!("/v1/transfers/{id}/restart"), "");
            assert_eq!(status, 200, "{round}: {answer}");
        }
    }
}

/// All changes, or one in `step`.
fn sweep(side: Side, kind: Kind, first: u64, step: u64, rounds_max: u64) {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let seed = seeds(1)[0];
    let mut rounds = 0;
    while rounds < rounds_max && run_round(side, kind, first + rounds * step, seed + rounds) {
        rounds += 1;
    }
    eprintln!("{side:?} {kind:?}: {rounds} rounds");
    assert!(rounds > 0, "no change was made");
}

/// A sample: changes at a fixed stride, from a start that differs between runs.
fn sample(side: Side) {
    let shift = Random::new(seeds(1)[0]).below(4);
    for (number, kind) in (0..).zip(KINDS) {
        sweep(side, kind, (shift + number) % 4, 13, 4);
    }
}

#[test]
fn a_node_that_is_asked_survives_death_and_a_full_disk_at_some_of_its_changes() {
    sample(Side::Asked);
}

#[test]
fn a_node_that_asks_survives_death_and_a_full_disk_at_some_of_its_changes() {
    sample(Side::Asking);
}

#[test]
#[ignore = "every change; the command stands at the top of this file"]
fn a_node_that_is_asked_survives_death_and_a_full_disk_at_every_change() {
    KINDS.into_iter().for_each(|kind| sweep(Side::Asked, kind, 0, 1, u64::MAX));
}

#[test]
#[ignore = "every change; the command stands at the top of this file"]
fn a_node_that_asks_survives_death_and_a_full_disk_at_every_change() {
    KINDS.into_iter().for_each(|kind| sweep(Side::Asking, kind, 0, 1, u64::MAX));
}

/// Whoever is told that a transfer has succeeded finds the receipt at both ends, however slow the
/// partner's disk is and whatever becomes of it afterwards.
#[test]
fn the_partner_has_written_the_receipt_down_when_success_is_told() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    for is_get in [false, true] {
        let stage = Stage::new(Side::Asked, &mut Random::new(1));
        stage.disk.set_flush_takes(Duration::from_millis(300));
        let (pair, source) = (&stage.pair, stage.source.join("large"));
        let done = if is_get {
            pair.send(&source, "large", &["--quiet"]).exits(0);
            pair.get("large", &pair.path("back"), &[])
        } else {
            pair.send(&source, "large", &[])
        };
        let id = done.exits(0).json()["transfer"].as_str().unwrap().to_owned();
        let Stage { node, disk, pair, .. } = stage;
        node.unwrap().kill();
        let record = fs::read(disk.mounted.join(format!("state/transfers/{id}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let ours = fs::read_to_string(pair.here.join(format!("receipts/{id}.receipt"))).unwrap();
        assert_eq!(record["receipt"], *ours, "is_get: {is_get}");
        Receipt::verify(&ours).unwrap();
    }
}
