//! Several portals on one PostgreSQL.

use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use rustix::process::Signal;
use serde_json::json;

use crate::{PATIENCE, until};

#[test]
fn portals_share_everything_and_one_that_dies_is_not_missed() {
    let Some(server) = Postgres::shared() else { return };
    let database = Some(server.new_database());
    let room = folder();
    let key = room.path().join("sealing.key");
    std::fs::write(&key, [7; 32]).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = vec!["--sealing-key-file".to_owned(), key.display().to_string()];
    let options = PortalOptions { database, arguments, ..PortalOptions::default() };
    // All at once on an empty database: one makes the schema, one the key.
    let mut portals: Vec<RunningPortal> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..4).map(|_| scope.spawn(|| RunningPortal::start(&options))).collect();
        starting.into_iter().map(|one| one.join().expect("each starts")).collect()
    });
    // Whoever printed the last link has the good one.
    let account = json!({ "name": "ada", "password": PASSWORD });
    let made = portals.iter().any(|portal| {
        let body = json!({ "secret": portal.setup_secret(), "account": account });
        let url = format!("{}/api/v1/setup", portals[0].url);
        culvert_portal_tests::http::Client::new().post_json(&url, &body).status == 201
    });
    assert!(made, "one of the links is good");
    let mut admin = portals[1].log_in("ada");
    // Who is logged in at one is logged in at all, and sees there what was done here.
    for (number, portal) in portals.iter().enumerate() {
        let mut here = admin.at(&portal.url);
        let made = here.post("/groups", &json!({ "name": format!("group-{number}"), "members": [] }));
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(admin.get("/groups").json()["items"].as_array().unwrap().len(), number + 1);
    }
    // One version, one change: of all who race, one wins, and the others are told.
    let group = admin.get("/groups").json()["items"][0]["id"].as_str().unwrap().to_owned();
    for version in 1..=10 {
        let tag = format!("\"v{version}\"");
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let racing: Vec<_> = portals
                .iter()
                .enumerate()
                .map(|(number, portal)| {
                    let (mut here, group, tag) = (admin.at(&portal.url), &group, &tag);
                    let wish = json!({ "name": format!("by-{number}"), "members": [] });
                    scope.spawn(move || {
                        here.send("PUT", &format!("/groups/{group}"), &[("if-match", tag)], Some(&wish)).status
                    })
                })
                .collect();
            racing.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
    }
    // Whoever dies leaves nothing that the others wait for.
    for mut portal in portals.drain(..2) {
        portal.process.signal(Signal::KILL);
        portal.process.wait(PATIENCE);
    }
    let mut here = admin.at(&portals[0].url);
    assert_eq!(here.post("/groups", &json!({ "name": "after", "members": [] })).status, 201);
    until("what was said has its number", || here.get("/audit/head").json()["number"].as_i64() >= Some(16));
    let verify = ["audit".as_ref(), "verify".as_ref(), "--sealing-key-file".as_ref(), key.as_os_str()];
    assert!(portals[0].run(&options, verify).succeeds().out.contains("is whole"));
}
