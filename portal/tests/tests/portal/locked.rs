//! An SQLite database that somebody else locks now and then: nobody notices.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use culvert_portal_tests::sql::Locker;
use serde_json::json;

const CLIENTS: usize = 16;
const LASTING: Duration = Duration::from_secs(8);

#[test]
fn sixteen_clients_change_things_while_somebody_locks_the_database() {
    let running = RunningPortal::start(&PortalOptions::default());
    let mut admin = running.with_admin();
    let groups: Vec<(String, String)> = (0..CLIENTS)
        .map(|number| {
            let made = admin.post("/groups", &json!({ "name": format!("group-{number}"), "members": [] }));
            assert_eq!(made.status, 201, "{}", made.text());
            (made.json()["id"].as_str().unwrap().to_owned(), made.header("etag").unwrap().to_owned())
        })
        .collect();
    let locker = Locker::start(&running.state.join("portal.db"), Duration::from_millis(20));
    let times = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let clients: Vec<_> = groups
        .into_iter()
        .enumerate()
        .map(|(number, (id, mut tag))| {
            let (mut admin, times) = (admin.clone(), times.clone());
            std::thread::spawn(move || {
                let mut changes = 0;
                while began.elapsed() < LASTING {
                    changes += 1;
                    let wish = json!({ "name": format!("group-{number}"), "description": format!("{changes}"), "members": [] });
                    let sent = Instant::now();
                    let answer = admin.send("PUT", &format!("/groups/{id}"), &[("if-match", &tag)], Some(&wish));
                    times.lock().unwrap().push(sent.elapsed());
                    assert_eq!(answer.status, 200, "change {changes}: {}", answer.text());
                    answer.header("etag").unwrap().clone_into(&mut tag);
                }
                assert_eq!(tag, format!("\"v{}\"", changes + 1), "each change counted once");
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no client was refused");
    }
    assert!(locker.is_running());
    let mut times = times.lock().unwrap();
    times.sort();
    let slow = times[times.len() * 99 / 100];
    println!("{} changes, 99 % within {slow:?}, all within {:?}", times.len(), times[times.len() - 1]);
    assert!(slow < Duration::from_secs(5), "99 % within {slow:?}");
}
