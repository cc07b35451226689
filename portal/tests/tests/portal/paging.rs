//! Lists page by page while rows come, go, and change: what stays is seen once, in one order on
//! both databases.

use std::collections::BTreeSet;

use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::program::Browser;
use serde_json::json;

/// Names that collations sort in different ways: by letters first, without case, without dots.
const NAMES: [&str; 18] = [
    "a", "A-b", "a.b", "a_b", "ab", "a1", "a10", "a2", "1a", "10", "2", "Zebra", "zoo", "z-1", "b.a", "b_a", "b-a",
    "ba",
];

live_on_both_databases! {
    /// Byte by byte, as SQLite compares, whatever the collation of a PostgreSQL database.
    fn names_have_one_order(portal) {
        let mut admin = portal.with_admin();
        let mut expected: Vec<String> = NAMES.iter().map(|name| name.to_lowercase()).collect();
        expected.sort();
        for name in NAMES {
            let made = admin.post("/groups", &json!({ "name": name, "members": [] }));
            assert_eq!(made.status, 201, "{}", made.text());
            let wish = json!({ "name": name, "roles": [], "display_name": format!("\u{c9}mile {name} \u{df}") });
            let made = admin.post("/users", &wish);
            assert_eq!(made.status, 201, "{}", made.text());
        }
        for limit in [1, 2, 5, 7, 200] {
            assert_eq!(all_names(&mut admin, "/groups", limit), expected, "{limit} at a time");
            let people: Vec<String> =
                all_names(&mut admin, "/users", limit).into_iter().filter(|name| name != "ada").collect();
            assert_eq!(people, expected, "{limit} at a time");
        }
        let mut providers = Vec::new();
        for name in ["zoo", "a-b", "a1", "ab", "b-a", "ba"] {
            let wish = json!({ "name": name, "title": "x", "issuer": format!("https://{name}.example.org"),
                "client_id": "c", "accounts": "linked-only" });
            let made = admin.post("/providers", &wish);
            assert_eq!(made.status, 201, "{}", made.text());
            providers.push(name.to_owned());
        }
        providers.sort();
        assert_eq!(all_names(&mut admin, "/providers", 2), providers);
    }

    fn what_stays_is_seen_once_while_names_change(portal) {
        let mut admin = portal.with_admin();
        let name = |number: usize| format!("g{number:03}");
        let mut groups: Vec<String> = Vec::new();
        for number in 0..60 {
            let made = admin.post("/groups", &json!({ "name": name(2 * number), "members": [] }));
            groups.push(made.json()["id"].as_str().expect("an identifier").to_owned());
        }
        let (mut seen, mut path, mut page) = (Vec::new(), "/groups?limit=7".to_owned(), 0);
        let mut disturbed = BTreeSet::new();
        loop {
            let rows = admin.get(&path).json();
            seen.extend(names_of(&rows));
            let Some(next) = rows["next"].as_str() else { break };
            path = format!("/groups?limit=7&cursor={next}");
            // Before and behind the cursor, and the row of the cursor itself.
            let made = admin.post("/groups", &json!({ "name": name(2 * page + 1), "members": [] }));
            assert_eq!(made.status, 201, "{}", made.text());
            let made = admin.post("/groups", &json!({ "name": format!("x{page}"), "members": [] }));
            assert_eq!(made.status, 201, "{}", made.text());
            for row in [page, 59 - page].into_iter().filter(|row| disturbed.insert(name(2 * row))) {
                let renamed = json!({ "name": format!("renamed-{row}"), "members": [] });
                let path = format!("/groups/{}", groups[row]);
                let done = admin.send("PUT", &path, &[("if-match", "\"v1\"")], Some(&renamed));
                assert_eq!(done.status, 200, "{}", done.text());
            }
            let last: usize = seen.last().and_then(|name| name[1..].parse().ok()).unwrap_or(119);
            if last.is_multiple_of(2) && disturbed.insert(name(last)) {
                let path = format!("/groups/{}", groups[last / 2]);
                let done = admin.send("DELETE", &path, &[("if-match", "\"v1\"")], None);
                assert_eq!(done.status, 204, "{}", done.text());
            }
            page += 1;
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(seen, sorted, "in order, and none twice");
        for number in (0..60).map(|number| name(2 * number)).filter(|name| !disturbed.contains(name)) {
            assert!(seen.contains(&number), "{number} was there all the time and not seen");
        }
        assert!(page > 8, "there were several pages");
    }

    fn what_stays_is_seen_once_while_new_things_come(portal) {
        let mut admin = portal.with_admin();
        let invite = |admin: &mut Browser| {
            let made = admin.post("/invitations", &json!({ "roles": ["user"], "days": 1 }));
            assert_eq!(made.status, 201, "{}", made.text());
            made.json()["invitation"]["id"].as_str().expect("an identifier").to_owned()
        };
        open_for_invitations(&mut admin);
        let there: Vec<String> = (0..30).map(|_| invite(&mut admin)).collect();
        let (mut seen, mut path, mut gone) = (Vec::new(), "/invitations?limit=4".to_owned(), BTreeSet::new());
        loop {
            let rows = admin.get(&path).json();
            let items = rows["items"].as_array().expect("rows");
            seen.extend(items.iter().map(|row| row["id"].as_str().expect("an identifier").to_owned()));
            let Some(next) = rows["next"].as_str() else { break };
            path = format!("/invitations?limit=4&cursor={next}");
            invite(&mut admin);
            // The row that the cursor names, and one that is not reached yet.
            for id in [next.to_owned(), there[gone.len() / 2].clone()] {
                if gone.insert(id.clone()) {
                    let done = admin.send("DELETE", &format!("/invitations/{id}"), &[], None);
                    assert_eq!(done.status, 204, "{}", done.text());
                }
            }
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "none is seen twice");
        assert!(there.iter().filter(|id| !gone.contains(*id)).all(|id| seen.contains(id)));
    }
}

fn open_for_invitations(admin: &mut Browser) {
    let settings = admin.get("/settings");
    let mut wish = settings.json();
    wish["registration"] = json!("invitation");
    let tag = settings.header("etag").expect("a version").to_owned();
    assert_eq!(admin.send("PUT", "/settings", &[("if-match", &tag)], Some(&wish)).status, 200);
}

fn names_of(page: &serde_json::Value) -> Vec<String> {
    let rows = page["items"].as_array().expect("rows");
    rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

fn all_names(admin: &mut Browser, path: &str, limit: usize) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}?limit={limit}{cursor}"));
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        names.extend(names_of(&page));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return names,
        }
    }
}
