//! Requests with an `Idempotency-Key` that come more than once: one change, one answer, whatever
//! becomes of the portal.

use culvert_portal_tests::direct::Direct;
use culvert_portal_tests::http::Answer;
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::RunningPortal;
use rustix::process::Signal;
use serde_json::json;

use crate::{PATIENCE, until};

const COPIES: usize = 20;

live_on_both_databases! {
    /// Whoever hears an answer hears the same one; who comes while it is worked on is told so.
    fn twenty_copies_at_once_make_one_change(portal) {
        let mut admin = portal.with_admin();
        for round in 0..5 {
            let (key, body) = (format!("key-{round}"), json!({ "name": format!("g{round}"), "members": [] }));
            let answers: Vec<Answer> = std::thread::scope(|scope| {
                let sending: Vec<_> = (0..COPIES)
                    .map(|_| {
                        let (mut admin, key, body) = (admin.clone(), key.as_str(), &body);
                        scope.spawn(move || admin.send("POST", "/groups", &[("idempotency-key", key)], Some(body)))
                    })
                    .collect();
                sending.into_iter().map(|one| one.join().expect("an answer")).collect()
            });
            let (made, busy): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 201);
            let first = made.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
            assert_eq!(first, 1, "one of them made it");
            for answer in &made {
                assert_eq!(answer.body, made[0].body);
                for name in ["etag", "location", "content-type"] {
                    assert_eq!(answer.header(name), made[0].header(name), "{name}");
                }
            }
            for answer in &busy {
                assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("idempotency-conflict")));
                let is_soon = ["being worked on", "on its way"].iter().any(|words| answer.text().contains(words));
                assert!(is_soon, "{}", answer.text());
            }
            println!("{} were answered with the change, {} with 409", made.len(), busy.len());
            let again = admin.send("POST", "/groups", &[("idempotency-key", key.as_str())], Some(&body));
            assert_eq!((again.status, &again.body), (201, &made[0].body));
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            let other = json!({ "name": "another", "members": [] });
            let other = admin.send("POST", "/groups", &[("idempotency-key", key.as_str())], Some(&other));
            assert_eq!(other.json()["code"], "idempotency-conflict");
        }
        let database = portal.database();
        assert_eq!(database.number("SELECT COUNT(*) FROM user_groups"), 5);
        until("all have their numbers", || database.number("SELECT COUNT(*) FROM outbox") == 0);
        assert_eq!(database.number("SELECT COUNT(*) FROM audit WHERE action = 'group.edit'"), 5);
    }

    /// The change is committed, the portal dies before anybody hears of it: the repetition is told
    /// that it was carried out, and it is not carried out again.
    fn a_portal_that_dies_between_commit_and_answer_does_it_once(portal) {
        let mut admin = portal.with_admin();
        let LivePortal { portal: mut running, options } = portal;
        let room = folder();
        let state = room.path().join("state");
        running.process.end_by(Signal::TERM);
        std::fs::rename(&running.state, &state).expect("a state directory can be moved");
        let mut running = RunningPortal::start_again(&state, &options);
        let sqlite = format!("sqlite:{}", state.join("portal.db").display());
        let database = Direct::connect(options.database.as_deref().unwrap_or(&sqlite));
        database.execute(&slow_answers(options.database.is_some()));
        let (key, body) = ([("idempotency-key", "once")], json!({ "name": "once", "members": [] }));
        let mut sender = admin.at(&running.url);
        let sending = std::thread::spawn(move || sender.try_send("POST", "/groups", &key, Some(&body)));
        let there = "SELECT COUNT(*) FROM user_groups WHERE name = 'once'";
        until("the change is committed", || database.number(there) == 1);
        running.process.signal(Signal::KILL);
        running.process.wait(PATIENCE);
        assert!(sending.join().expect("no panic").is_err(), "the portal died before it answered");
        // PostgreSQL ends what the dead portal has begun when it notices.
        until("the database takes statements", || {
            let drop = if options.database.is_some() { "DROP TRIGGER slow ON idempotency" } else { "DROP TRIGGER slow" };
            database.try_execute(drop)
        });
        let running = RunningPortal::start_again(&state, &options);
        admin = admin.at(&running.url);
        let body = json!({ "name": "once", "members": [] });
        for _ in 0..3 {
            let again = admin.send("POST", "/groups", &key, Some(&body));
            assert_eq!((again.status, again.json()["code"].as_str()), (409, Some("idempotency-conflict")));
            assert!(again.text().contains("was carried out"), "{}", again.text());
        }
        assert_eq!(database.number(there), 1);
        until("it has its number", || database.number("SELECT COUNT(*) FROM outbox") == 0);
        assert_eq!(database.number("SELECT COUNT(*) FROM audit WHERE action = 'group.edit'"), 1);
    }
}

/// A trigger by which keeping an answer takes long, and marking the change as done does not.
fn slow_answers(is_postgresql: bool) -> String {
    if is_postgresql {
        return "CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(20); \
                RETURN NEW; END $$; CREATE TRIGGER slow BEFORE UPDATE OF body ON idempotency FOR EACH ROW \
                EXECUTE FUNCTION wait_long();"
            .to_owned();
    }
    "CREATE TRIGGER slow BEFORE UPDATE OF body ON idempotency BEGIN SELECT count(*) FROM sqlite_master a, \
     sqlite_master b, sqlite_master c, sqlite_master d, sqlite_master e; END;"
        .to_owned()
}
