//! A portal that is killed in the middle of anything: what it answered is there once, nothing is
//! half there, and the audit trail is whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use culvert_portal_tests::random::{Random, seed};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{PATIENCE, all_rows, on_both_databases};

/// Clients at once.
const WORKERS: usize = 4;
/// The latest that a portal is killed after it serves.
const LATEST: Duration = Duration::from_millis(1_500);

on_both_databases! {
    fn a_portal_that_is_killed_loses_and_doubles_nothing(options) {
        kill_often(&options, 12);
    }

    #[ignore = "takes 10 minutes; docs/faults.md"]
    fn a_portal_that_is_killed_two_hundred_times_loses_and_doubles_nothing(options) {
        kill_often(&options, 200);
    }
}

/// What the clients know.
#[derive(Debug, Default)]
struct Shared {
    /// The portal, while there is one.
    portal: Mutex<Option<Browser>>,
    /// By name of what they made: whether the portal has said that it is there.
    made: Mutex<BTreeMap<String, bool>>,
    /// Members of every group.
    members: Mutex<Vec<String>>,
    is_over: Mutex<bool>,
}

fn kill_often(options: &PortalOptions, times: u32) {
    let seed = seed();
    println!("CULVERT_SEED={seed}");
    let mut random = Random::new(seed);
    let mut running = RunningPortal::start(options);
    let state_folder = folder();
    let state = state_folder.path().join("state");
    let admin = prepare(&mut running, &state, options);
    let shared = Arc::new(Shared::default());
    *shared.members.lock().unwrap() = members(&mut admin.at(&running.url));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let shared = shared.clone();
            std::thread::spawn(move || work(&shared, worker))
        })
        .collect();
    for round in 1..=times {
        *shared.portal.lock().unwrap() = Some(admin.at(&running.url));
        sleep(random.time_below(LATEST));
        running.process.signal(Signal::KILL);
        running.process.wait(PATIENCE);
        *shared.portal.lock().unwrap() = None;
        if random.below(4) == 0 {
            let folder = folder();
            let starting = RunningPortal::begin(&state, options, &folder);
            sleep(random.time_below(Duration::from_millis(400)));
            starting.signal(Signal::KILL);
        }
        running = RunningPortal::start_again(&state, options);
        let is_thorough = times <= 20 || round % 20 == 0 || round == times;
        check(&running, options, &mut admin.at(&running.url), &shared, is_thorough);
    }
    *shared.is_over.lock().unwrap() = true;
    for worker in workers {
        worker.join().expect("a client had no surprise");
    }
    let made = shared.made.lock().unwrap();
    println!("{times} kills, {} of {} deeds were answered", made.values().filter(|known| **known).count(), made.len());
    assert!(made.values().filter(|known| **known).count() > times as usize, "the portal was under load");
}

/// Moves the state to where it outlives the first portal, with an administrator and some people.
fn prepare(running: &mut RunningPortal, state: &Path, options: &PortalOptions) -> Browser {
    let mut admin = running.with_admin();
    for name in ["boole", "curie", "dirac"] {
        admin.make_person(name, &["user"]);
    }
    // The administrator proves who they are once, for all of it.
    let mut settings = admin.get("/settings").json();
    settings["step_up_seconds"] = json!(86_400);
    settings["registration"] = json!("invitation");
    let changed = admin.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&settings));
    assert_eq!(changed.status, 200, "{}", changed.text());
    running.process.end_by(Signal::TERM);
    std::fs::rename(&running.state, state).expect("a state directory can be moved");
    *running = RunningPortal::start_again(state, options);
    admin
}

fn members(admin: &mut Browser) -> Vec<String> {
    let people = all_rows(admin, "/users");
    people.iter().map(|person| person["id"].as_str().unwrap().to_owned()).collect()
}

/// Makes one thing after another, each until it knows what became of it.
fn work(shared: &Shared, worker: usize) {
    for number in 0.. {
        if *shared.is_over.lock().unwrap() {
            return;
        }
        let name = format!("w{worker}-{number:05}");
        let members = shared.members.lock().unwrap().clone();
        let (path, body) = if number % 2 == 0 {
            ("/invitations", json!({ "roles": ["user"], "email": mail_of(&name), "days": 1 }))
        } else {
            ("/groups", json!({ "name": name, "members": members }))
        };
        shared.made.lock().unwrap().insert(name.clone(), false);
        if is_made(shared, path, &name, &body) {
            shared.made.lock().unwrap().insert(name, true);
        }
        sleep(Duration::from_millis(5));
    }
}

/// An invitation is named by the address that it is for; several may be for one.
fn mail_of(name: &str) -> String {
    format!("{name}@example.org")
}

fn name_of(invitation: &Value) -> String {
    invitation["email"].as_str().unwrap().trim_end_matches("@example.org").to_owned()
}

/// Repeats a request until it is answered; says whether the portal has said that it was carried
/// out.
fn is_made(shared: &Shared, path: &str, name: &str, body: &Value) -> bool {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !*shared.is_over.lock().unwrap() {
        assert!(Instant::now() < deadline, "{name} has no answer");
        let portal = shared.portal.lock().unwrap().clone();
        let Some(mut portal) = portal else {
            sleep(Duration::from_millis(5));
            continue;
        };
        match portal.try_send("POST", path, &[("idempotency-key", name)], Some(body)) {
            Ok(answer) if answer.status == 201 => return true,
            Ok(answer) if answer.status == 409 => {
                let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains("carried out") || detail.contains("being worked on"), "{name}: {detail}");
                return detail.contains("carried out");
            }
            Ok(answer) => assert_eq!(answer.status, 503, "{name}: {}", answer.text()),
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
    false
}

/// What is there now is whole.
fn check(running: &RunningPortal, options: &PortalOptions, admin: &mut Browser, shared: &Shared, is_thorough: bool) {
    let verified = running.run(options, ["audit", "verify"]).succeeds();
    assert!(verified.out.contains("is whole"), "{}", verified.out);
    if !is_thorough {
        return;
    }
    let mut there: BTreeMap<String, u32> = BTreeMap::new();
    let members = shared.members.lock().unwrap().clone();
    for invitation in all_rows(admin, "/invitations") {
        *there.entry(name_of(&invitation)).or_default() += 1;
    }
    for group in all_rows(admin, "/groups") {
        *there.entry(group["name"].as_str().unwrap().to_owned()).or_default() += 1;
        assert_eq!(group["members"].as_array().unwrap().len(), members.len(), "half a group: {group}");
        assert_eq!(group["version"], 1, "half a group: {group}");
    }
    for (name, known) in &*shared.made.lock().unwrap() {
        let count = there.get(name).copied().unwrap_or_default();
        assert!(count <= 1, "{name} is there {count} times");
        assert!(count == 1 || !known, "{name} was answered with 201 and is not there");
    }
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    for line in running.run(options, ["audit", "export"]).succeeds().out.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let after = &entry["entry"]["after"];
        match entry["entry"]["action"].as_str() {
            Some("invitation.create") => *told.entry(name_of(after)).or_default() += 1,
            Some("group.edit") => *told.entry(after["name"].as_str().unwrap().to_owned()).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!(there, told, "each thing has its entry in the audit trail, and each entry its thing");
}
