//! Finding somebody by the beginning of a name, and what somebody has done: page by page, with
//! nothing left out and nothing twice.

use std::time::Duration;

use culvert_portal_model::audit::{ChainedEntry, Who};
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_seams::clock::Clock as _;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::{self, AuditQuery};
use culvert_portal_service::people::accounts::{self, UserFilter};
use culvert_portal_service::people::credentials;
use culvert_portal_service::people::groups::{self, GroupWish};
use culvert_portal_service::people::tokens::{self, TokenWish};
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{ADDRESS, Room};

/// The names of all pages of two rows.
async fn names(room: &Room, filter: &UserFilter) -> Vec<String> {
    let mut page = PageRequest { after: None, rows: 2 };
    let mut names = Vec::new();
    loop {
        let found = accounts::list(&room.portal, &Actor::host(), filter, &page).await.unwrap();
        assert!(found.items.len() <= 2);
        names.extend(found.items.into_iter().map(|user| user.name));
        let Some(next) = found.next else { return names };
        page.after = Some(next);
    }
}

/// The entries of all pages of two rows, oldest first.
async fn entries(room: &Room, query: &AuditQuery) -> Vec<ChainedEntry> {
    let mut query = AuditQuery { page: PageRequest { after: None, rows: 2 }, ..query.clone() };
    let mut entries = Vec::new();
    loop {
        let found = audit::list(&room.portal, &Actor::host(), &query).await.unwrap();
        entries.extend(found.items);
        let Some(next) = found.next else { break };
        query.page.after = Some(next);
    }
    entries.reverse();
    assert!(entries.is_sorted_by(|one, next| one.number < next.number), "{entries:?}");
    entries
}

on_both_databases! {
    async fn a_person_is_found_by_the_beginning_of_a_name(room) {
        for name in ["bo", "bool", "boole", "boole-2", "boole.a", "boole_b", "booth", "ada", "c", "b"] {
            let role = if name == "ada" { Role::Admin } else { Role::User };
            room.person(name, &[role]).await;
        }
        let with = |name: &str| UserFilter { name: Some(name.to_owned()), ..UserFilter::default() };
        let all = names(&room, &UserFilter::default()).await;
        assert_eq!(all.len(), 10);
        for beginning in ["b", "bo", "Boole", "boole_", "boole.", "booth", "c", "x", "boole-2x"] {
            let expected: Vec<&String> =
                all.iter().filter(|name| name.starts_with(&beginning.to_lowercase())).collect();
            assert_eq!(names(&room, &with(beginning)).await.iter().collect::<Vec<_>>(), expected, "{beginning}");
        }
        room.deactivate(&Actor::host(), &room.user("boole_b").await).await;
        let out = UserFilter { state: Some(AccountState::Deactivated), ..with("boole") };
        assert_eq!(names(&room, &out).await, ["boole_b"]);
        // What no name begins with is told, and matches nobody.
        for wrong in ["", "%", "bo%", "' OR 1=1", &"x".repeat(65)] {
            let fault = accounts::list(&room.portal, &Actor::host(), &with(wrong), &PageRequest::default()).await;
            assert_eq!(fault.unwrap_err().field, Some("name"), "{wrong}");
        }
    }

    async fn what_somebody_has_done_is_found_in_the_trail(room) {
        let (ada, grace) = (room.person("ada", &[Role::Admin]).await, room.person("grace", &[Role::Admin]).await);
        room.clock.advance(Duration::from_secs(3_600));
        let began = room.clock.now();
        let (by_ada, by_grace) = (room.actor("ada").await, room.actor("grace").await);
        let wish = TokenWish { name: "t".to_owned(), scopes: vec![culvert_portal_model::scope::Scope::PeopleWrite], days: 1 };
        let secret = tokens::create(&room.portal, &by_ada, &wish).await.unwrap().secret;
        let token = credentials::who_has_token(&room.portal, &secret, ADDRESS).await.unwrap().unwrap();
        // A description that looks like a part of an entry.
        let lie = format!("\",\"who\":{{\"kind\":\"session\",\"user\":\"{}\"", grace.id);
        for (number, actor) in [&by_ada, &by_grace, &token, &by_grace].into_iter().enumerate() {
            let wish = GroupWish { name: format!("lab-{number}"), description: lie.clone(), members: Vec::new() };
            groups::create(&room.portal, actor, &wish).await.unwrap();
        }
        let ended = room.clock.now() + Duration::from_secs(1);
        room.clock.advance(Duration::from_secs(3_600));
        room.person("late", &[Role::User]).await;
        let all = entries(&room, &AuditQuery::default()).await;
        let is_by = |entry: &ChainedEntry, id| {
            matches!(entry.entry.who, Who::Session { user, .. } | Who::Token { user, .. } if user == id)
        };
        for id in [ada.id, grace.id] {
            let query = AuditQuery { who: Some(id.text()), ..AuditQuery::default() };
            let expected: Vec<ChainedEntry> = all.iter().filter(|entry| is_by(entry, id)).cloned().collect();
            assert!(expected.len() >= 3);
            assert_eq!(entries(&room, &query).await, expected);
        }
        let of = |change: &dyn Fn(&mut AuditQuery)| {
            let mut query = AuditQuery::default();
            change(&mut query);
            query
        };
        let host = entries(&room, &of(&|query| query.who = Some("host".to_owned()))).await;
        assert_eq!(host.len(), all.iter().filter(|entry| entry.entry.who == Who::Host).count());
        assert_eq!(host.len(), 3);
        let hour = entries(&room, &of(&|query| (query.from, query.until) = (Some(began), Some(ended)))).await;
        let expected = all.iter().filter(|entry| entry.entry.at >= began && entry.entry.at < ended);
        assert_eq!(hour, expected.cloned().collect::<Vec<_>>());
        assert_eq!(hour.len(), all.len() - 3);
        assert_eq!(entries(&room, &of(&|query| query.until = Some(began))).await.len(), 2);
        let about = entries(&room, &of(&|query| query.id = Some(grace.id.text()))).await;
        assert_eq!(about.iter().map(|entry| entry.entry.action.as_str()).collect::<Vec<_>>(), ["user.create"]);
        let kinds = entries(&room, &of(&|query| query.object = Some("group".to_owned()))).await;
        assert_eq!(kinds.len(), 4);
        let both = entries(&room, &of(&|query| {
            (query.object, query.who) = (Some("group".to_owned()), Some(ada.id.text()));
        }))
        .await;
        assert_eq!(both.len(), 2, "one by a session, one by a token");
        for (wrong, field) in [("ada", "who"), ("%", "who"), ("", "who"), ("gr%", "object"), ("", "object")] {
            let query = of(&|query| match field {
                "who" => query.who = Some(wrong.to_owned()),
                _ => query.object = Some(wrong.to_owned()),
            });
            let fault = audit::list(&room.portal, &Actor::host(), &query).await.unwrap_err();
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some(field)), "{wrong}");
        }
    }
}
