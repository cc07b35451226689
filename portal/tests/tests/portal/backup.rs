//! Copies while it runs, copies put back, and secrets under another key.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::{Browser, PASSWORD, PortalOptions, RunningPortal, run};
use rustix::process::Signal;
use serde_json::json;

use crate::{all_rows, on_both_databases, until};

/// Somebody who makes one group after another, and how many were answered.
struct Writer {
    answered: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    fn start(mut admin: Browser) -> Self {
        let (answered, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counting, stopping) = (answered.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let number = counting.load(Ordering::Relaxed);
                let made = admin.post("/groups", &json!({ "name": format!("g{number:05}"), "members": [] }));
                assert_eq!(made.status, 201, "{}", made.text());
                counting.store(number + 1, Ordering::Relaxed);
            }
        });
        Self { answered, is_over, thread }
    }

    fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no write failed");
        self.answered.load(Ordering::Relaxed)
    }
}

#[test]
fn a_copy_made_while_somebody_writes_is_whole() {
    let options = PortalOptions::default();
    let running = RunningPortal::start(&options);
    let writer = Writer::start(running.with_admin());
    let room = folder();
    for number in 0..4 {
        let answered = writer.answered.load(Ordering::Relaxed);
        until("something was written", || writer.answered.load(Ordering::Relaxed) > answered + 5);
        let before = writer.answered.load(Ordering::Relaxed);
        let copy = room.path().join(format!("copy-{number}.db"));
        let made = running.run(&options, ["backup".as_ref(), copy.as_os_str()]).succeeds();
        let after = writer.answered.load(Ordering::Relaxed) + 1;
        assert!(made.out.contains("it needs the sealing key, which is not in it"), "{}", made.out);
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        // What stands there is not touched.
        assert_eq!(running.run(&options, ["backup".as_ref(), copy.as_os_str()]).code, 1);
        let state = room.path().join(format!("state-{number}"));
        std::fs::create_dir(&state).unwrap();
        std::fs::copy(running.state.join("sealing.key"), state.join("sealing.key")).unwrap();
        drop(run(&state, &options, ["restore".as_ref(), copy.as_os_str()]).succeeds());
        assert!(run(&state, &options, ["audit", "verify"]).succeeds().out.contains("is whole"));
        let restored = RunningPortal::start_again(&state, &options);
        let groups = all_rows(&mut restored.log_in("ada"), "/groups").len();
        assert!((before..=after).contains(&groups), "{groups} groups, not {before} to {after}");
    }
    let copied = std::fs::read(room.path().join("copy-3.db")).unwrap();
    assert!(!copied.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()));
    let made = writer.end();
    println!("{made} groups made meanwhile");
}

#[test]
fn what_is_no_copy_is_not_put_back_and_nothing_under_a_portal_that_runs() {
    let options = PortalOptions::default();
    let mut running = RunningPortal::start(&options);
    drop(running.with_admin());
    let room = folder();
    let path = |name: &str| room.path().join(name);
    drop(running.run(&options, ["backup".as_ref(), path("good.db").as_os_str()]).succeeds());
    let restore = |name: &str| run(&running.state, &options, ["restore".as_ref(), path(name).as_os_str()]);
    let ran = restore("good.db");
    assert!(ran.code == 1 && ran.err.contains("stop it first"), "{ran:?}");
    let ran = run(&running.state, &options, ["reseal".as_ref(), "--new-key".as_ref(), path("new.key").as_os_str()]);
    assert!(ran.code == 1 && ran.err.contains("stop it first"), "{ran:?}");
    running.process.end_by(Signal::TERM);
    let good = std::fs::read(path("good.db")).unwrap();
    std::fs::write(path("text"), "this is no database\n".repeat(1_000)).unwrap();
    std::fs::write(path("cut.db"), &good[..good.len() / 2]).unwrap();
    drop(culvert_portal_tests::sql::Sql::File(path("other.db")).run("CREATE TABLE users (id TEXT)"));
    for name in ["text", "cut.db", "other.db", "none.db"] {
        let ran = restore(name);
        assert!(ran.code == 1 && ran.err.contains(name), "{name}: {ran:?}");
        assert!(run(&running.state, &options, ["audit", "verify"]).succeeds().out.contains("is whole"), "{name}");
    }
    let restored = restore("good.db").succeeds();
    assert!(restored.out.contains("what was there is kept as"), "{}", restored.out);
    assert_eq!(run(&running.state, &options, ["users", "list"]).succeeds().out.lines().count(), 1);
}

/// What the documentation says for PostgreSQL.
#[test]
fn a_dump_of_postgresql_made_while_somebody_writes_is_whole() {
    let Some(server) = Postgres::shared() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let running = RunningPortal::start(&options);
    let writer = Writer::start(running.with_admin());
    let room = folder();
    let file = room.path().join("portal.dump");
    let ran = running.run(&options, ["backup".as_ref(), file.as_os_str()]);
    assert!(ran.code == 1 && ran.err.contains("pg_dump"), "{ran:?}");
    let ran = running.run(&options, ["restore".as_ref(), file.as_os_str()]);
    assert!(ran.code == 1 && ran.err.contains("pg_restore"), "{ran:?}");
    until("something was written", || writer.answered.load(Ordering::Relaxed) > 5);
    let before = writer.answered.load(Ordering::Relaxed);
    drop(server.run_client(
        "pg_dump",
        ["--format=custom", "--file", file.to_str().unwrap(), options.database.as_ref().unwrap()],
    ));
    let after = writer.end() + 1;
    let other = server.new_database();
    drop(
        server.run_client("pg_restore", ["--exit-on-error", "--no-owner", "--dbname", &other, file.to_str().unwrap()]),
    );
    let other = PortalOptions { database: Some(other), ..PortalOptions::default() };
    let restored = running.another(&other);
    let groups = all_rows(&mut restored.log_in("ada"), "/groups").len();
    assert!((before..=after).contains(&groups), "{groups} groups, not {before} to {after}");
    assert!(running.run(&other, ["audit", "verify"]).succeeds().out.contains("is whole"));
}

on_both_databases! {
    fn secrets_are_sealed_under_another_key(options) {
        let mut running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        let wish = json!({ "url": "https://receiver.example.org/", "events": ["*"], "enabled": true });
        let webhook = admin.post("/webhooks", &wish);
        assert_eq!(webhook.status, 201, "{}", webhook.text());
        let id = webhook.json()["webhook"]["id"].as_str().unwrap().to_owned();
        let changed = admin.send("POST", &format!("/webhooks/{id}/secret"), &[("if-match", "\"v1\"")], None);
        assert_eq!(changed.status, 200, "{}", changed.text());
        let factor = admin.post("/me/second-factor", &json!({}));
        assert!([200, 201].contains(&factor.status), "{}", factor.text());
        let key = admin.get("/audit/head").json()["key"].clone();
        let room = folder();
        let (new, strange) = (room.path().join("new.key"), room.path().join("strange.key"));
        let with = |key: &std::path::Path| PortalOptions {
            arguments: vec!["--sealing-key-file".to_owned(), key.display().to_string()],
            ..options.clone()
        };
        let command = |path: &std::path::Path, words: &[&str]| {
            let words = words.iter().map(std::ffi::OsString::from);
            let key = ["--sealing-key-file".into(), path.as_os_str().to_owned()];
            run(&running.state, &options, words.chain(key))
        };
        let reseal = || run(&running.state, &options, ["reseal".as_ref(), "--new-key".as_ref(), new.as_os_str()]);
        // Not while a portal runs, on whichever database.
        let ran = reseal();
        assert!(ran.code == 1 && ran.err.contains("stop"), "{ran:?}");
        running.process.end_by(Signal::TERM);
        // Wrong keys are told in one sentence.
        std::fs::write(&strange, [9; 32]).unwrap();
        std::fs::set_permissions(&strange, std::fs::Permissions::from_mode(0o600)).unwrap();
        let ran = command(&strange, &["users", "list"]);
        let sentence = "culvert-portal: the portal's key in the database cannot be opened: it is sealed under another \
                        key: start the portal with the key file that it had before\n";
        assert_eq!((ran.code, ran.err.as_str()), (1, sentence));
        let resealed = reseal().succeeds();
        // The portal's key, the webhook's two secrets, the second factor that is not confirmed.
        assert!(resealed.out.contains("resealed all secrets (4 in all)"), "{}", resealed.out);
        assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
        let ran = run(&running.state, &options, ["users", "list"]);
        assert_eq!((ran.code, ran.err.as_str()), (1, sentence), "the old key opens nothing any more");
        let again = RunningPortal::start_again(&running.state, &with(&new));
        let mut admin = again.log_in("ada");
        assert_eq!(admin.get("/audit/head").json()["key"], key, "it signs with the same key as before");
        assert_eq!(admin.post(&format!("/webhooks/{id}/test"), &json!({})).status, 202);
        until("the secret was opened", || {
            let listed = admin.get(&format!("/webhooks/{id}/deliveries")).json();
            let fault = listed["items"][0]["fault"].as_str().unwrap_or_default().to_owned();
            assert!(!fault.contains("sealed"), "{fault}");
            fault.contains("receiver.example.org")
        });
        assert!(command(&new, &["audit", "verify"]).succeeds().out.contains("is whole"));
    }
}
