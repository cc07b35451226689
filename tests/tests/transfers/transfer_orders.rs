//! `culvert transfer pause`, `resume`, `restart` and `watch`: what a node's user does with
//! transfers that the node carries out.

use std::fs;
use std::path::Path;

use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, make_flat, temporary_files};

/// The asking side's own node.
fn start_ours(pair: &Pair) -> RunningNode {
    let mut starting = command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    RunningNode::start(&pair.here, &mut starting)
}

fn submit(pair: &Pair, source: &Path, rate: &str) -> String {
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut submitting = command(&pair.here, ["transfer", "submit", "--rate", rate]);
    let ran: Ran = submitting.arg(source.join("")).arg(destination).output().unwrap().into();
    ran.exits(0).out.trim().to_owned()
}

fn transfer(pair: &Pair, arguments: &[&str]) -> Ran {
    run(&pair.here, ["transfer"].iter().chain(arguments))
}

fn state_of(pair: &Pair, id: &str) -> String {
    transfer(pair, &["show", id, "--json"]).exits(0).json()["state"].as_str().unwrap().to_owned()
}

/// Stored chunks are journaled once a second.
fn wait_for_the_journal(pair: &Pair) {
    wait_for("chunks in the journal", || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        journals.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 300)).then_some(())
    });
}

#[test]
fn a_paused_transfer_stays_so_over_a_restart_and_goes_on_where_it_stopped() {
    let pair = Pair::new();
    let _node = pair.start();
    let ours = start_ours(&pair);
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), Random::new(1).bytes(48 << 20)).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let id = submit(&pair, &source, "100M");
    wait_for_the_journal(&pair);
    transfer(&pair, &["pause", &id]).exits(0);
    assert_eq!(state_of(&pair, &id), "paused");
    assert_eq!(temporary_files(&pair.shared).len(), 1);
    transfer(&pair, &["pause", &id]).exits(0).says("is already paused");
    transfer(&pair, &["restart", &id]).exits(1).says("has not ended");
    transfer(&pair, &["wait", &id, "--timeout", "1"]).exits(10);

    ours.kill();
    let _ours = start_ours(&pair);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(state_of(&pair, &id), "paused");
    assert!(!pair.shared.join("in/large").exists());
    transfer(&pair, &["resume", &id]).exits(0);
    let record = transfer(&pair, &["wait", &id, "--timeout", "60", "--json"]).exits(0).json();
    assert!(record["result"]["resumed_bytes"].as_u64().unwrap() >= 4 << 20, "{record}");
    assert_same(&source, &pair.shared.join("in"));
    for order in ["pause", "resume", "cancel"] {
        transfer(&pair, &[order, &id]).exits(1).says(&format!("transfer {id} has ended (succeeded)"));
    }
}

#[test]
fn a_queued_transfer_is_paused_and_a_paused_one_is_canceled() {
    let pair = Pair::new();
    let _ours = start_ours(&pair);
    fs::write(pair.path("file"), "content").unwrap();
    // The partner is not there, so the transfer waits for the next try.
    run(&pair.here, ["profile", "add", "second", "--key", &culvert_tests::node::key_of(&pair.there)]).exits(0);
    run(&pair.here, ["profile", "edit", "second", "--address", "127.0.0.1:9"]).exits(0);
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut submitting = command(&pair.here, ["transfer", "submit"]);
    let ran: Ran = submitting.arg(pair.path("file")).arg(destination).output().unwrap().into();
    let id = ran.exits(0).out.trim().to_owned();
    wait_for("a try that failed", || (state_of(&pair, &id) == "queued").then_some(()));
    transfer(&pair, &["resume", &id]).exits(1).says("is not paused; it is queued");
    transfer(&pair, &["pause", &id]).exits(0);
    assert_eq!(state_of(&pair, &id), "paused");
    transfer(&pair, &["cancel", &id]).exits(0);
    assert_eq!(state_of(&pair, &id), "canceled");
    transfer(&pair, &["cancel", &id]).exits(0).says("is already canceled");
    for order in ["pause", "resume"] {
        transfer(&pair, &[order, &id]).exits(1).says(&format!("transfer {id} has ended (canceled)"));
    }
    for order in ["pause", "resume", "cancel", "restart"] {
        transfer(&pair, &[order, "01ARZ3NDEKTSV4RRFFQ69G5FAV"]).exits(3).says("there is no transfer");
    }
}

/// Regression: it returned while the record still said that the transfer was active.
#[test]
fn cancel_returns_when_the_transfer_is_canceled() {
    let pair = Pair::new();
    let _node = pair.start();
    let _ours = start_ours(&pair);
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), Random::new(1).bytes(48 << 20)).unwrap();
    let id = submit(&pair, &source, "50M");
    wait_for_the_journal(&pair);
    let answer = transfer(&pair, &["cancel", &id, "--json"]).exits(0).json();
    assert_eq!((&answer["transfer"], &answer["state"]), (&id.as_str().into(), &"canceled".into()));
    assert_eq!(state_of(&pair, &id), "canceled");
}

#[test]
fn an_ended_transfer_is_carried_out_once_more() {
    let pair = Pair::new();
    let _node = pair.start();
    let _ours = start_ours(&pair);
    let source = pair.path("source");
    make_flat(&source, 20, 30_000, &mut Random::new(1));
    let id = submit(&pair, &source, "1G");
    transfer(&pair, &["wait", &id, "--timeout", "60"]).exits(0);
    fs::write(source.join("new"), "by now").unwrap();
    transfer(&pair, &["restart", &id]).exits(0);
    let record = transfer(&pair, &["wait", &id, "--timeout", "60", "--json"]).exits(0).json();
    assert_eq!(record["attempts"], 2, "{record}");
    let theirs = run(&pair.there, ["transfer", "show", &id, "--json"]).exits(0).json();
    assert_eq!(theirs["attempts"], 2, "the partner counts the attempts of its requester too: {theirs}");
    assert_eq!((&record["result"]["files"]["stored"], &record["result"]["files"]["skipped"]), (&1.into(), &20.into()));
    assert_same(&source, &pair.shared.join("in"));
}

#[test]
fn watching_as_json_prints_a_line_for_each_change_and_the_result_at_last() {
    let pair = Pair::new();
    let _node = pair.start();
    let _ours = start_ours(&pair);
    let source = pair.path("source");
    make_flat(&source, 4, 4 << 20, &mut Random::new(1));
    let id = submit(&pair, &source, "30M");
    let ran = transfer(&pair, &["watch", &id, "--json"]).exits(0);
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let (last, changes) = lines.split_last().unwrap();
    assert_eq!(last["state"], "succeeded", "{last}");
    assert!(changes.len() >= 3, "{} lines", changes.len());
    for line in changes {
        assert_eq!(line["transfer"], id.as_str());
        assert!(["queued", "active"].contains(&line["state"].as_str().unwrap()), "{line}");
    }
    let done: Vec<u64> =
        changes.iter().filter_map(|line| line["progress"]["bytes_done"].as_u64()).filter(|&bytes| bytes > 0).collect();
    assert!(done.len() >= 2 && done.is_sorted(), "{done:?}");
}

/// A transfer that is carried out again finds everything in its place, and its receipt covers
/// nothing: the one that covers what was moved stays, at both ends.
#[test]
fn a_receipt_over_nothing_replaces_none() {
    //= W-56
    //# A receipt over no files replaces no other receipt of the same transfer.
    let pair = Pair::new();
    let _node = pair.start();
    let _ours = start_ours(&pair);
    let source = pair.path("source");
    make_flat(&source, 3, 1_000, &mut Random::new(9));
    let id = submit(&pair, &source, "1G");
    transfer(&pair, &["wait", &id, "--timeout", "60"]).exits(0);
    let receipts =
        || [&pair.here, &pair.there].map(|state| fs::read(state.join(format!("receipts/{id}.receipt"))).unwrap());
    let before = receipts();
    assert_eq!(before[0], before[1]);
    transfer(&pair, &["restart", &id]).exits(0);
    let record = transfer(&pair, &["wait", &id, "--timeout", "60", "--json"]).json();
    assert_eq!(record["result"]["files"]["skipped"], 3, "{record}");
    assert_eq!(receipts(), before);
}
