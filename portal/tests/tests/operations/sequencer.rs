//! What keeps the sequencer from numbering, and what does not.

use culvert_portal_model::page::PageRequest;
use culvert_portal_model::role::Role;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::{self, AuditQuery};
use culvert_portal_service::sequencer::number_all;
use culvert_portal_service::tally::Counted;
use culvert_portal_tests::on_both_databases;

on_both_databases! {
    /// What nobody can read is kept aside, the trail says so, and everything behind it goes on.
    async fn a_row_that_cannot_be_read_does_not_stop_the_others(room) {
        let sql = room.sql();
        let id = |last: u8| format!("00000000-0000-7000-8000-0000000000{last:02x}");
        for (id, kind, owner, body) in [
            ("not an id".to_owned(), "audit", "NULL", "{}"),
            (id(1), "rumour", "NULL", "{}"),
            (id(2), "audit", "NULL", "{\"at\": 7}"),
            (id(3), "event group.created", "'nobody'", "{}"),
            (id(4), "event group.created", "NULL", "{\"id\": "),
        ] {
            drop(sql.run(&format!("INSERT INTO outbox (id, kind, owner, body, at) VALUES ('{id}', '{kind}', {owner}, '{body}', 5)")));
        }
        room.person("ada", &[Role::Admin]).await;
        number_all(&room.portal).await.unwrap();
        assert_eq!(sql.run("SELECT COUNT(*) FROM outbox"), "0");
        assert_eq!(sql.run("SELECT COUNT(*) FROM outbox_set_aside"), "5");
        let reason = sql.run(&format!("SELECT reason FROM outbox_set_aside WHERE id = '{}'", id(1)));
        assert_eq!(reason, "its kind of outbox entry is 'rumour'");
        let query = |action: &str| AuditQuery { action: Some(action.to_owned()), object: None, page: PageRequest::default() };
        let told = audit::list(&room.portal, &Actor::host(), &query("outbox.set-aside")).await.unwrap().items;
        assert_eq!(told.len(), 5);
        let made = audit::list(&room.portal, &Actor::host(), &query("user.create")).await.unwrap().items;
        assert_eq!(made.len(), 1, "what was said behind them has its number");
        let verified = audit::verify(&room.portal.database, &room.portal.signing.public_key(), None).await.unwrap();
        assert_eq!(verified, Ok(6));
        assert_eq!(room.portal.tally.get(Counted::SetAside), 5);
        assert_eq!(room.portal.tally.lag_seconds(room.portal.now()), 0.0);
    }

    /// A failure is counted and tried again, and the lag grows meanwhile.
    async fn a_database_that_fails_is_tried_again(room) {
        let sql = room.sql();
        room.person("ada", &[Role::Admin]).await;
        drop(sql.run("ALTER TABLE audit RENAME TO audit_elsewhere"));
        let numbering = {
            let portal = room.portal.clone();
            tokio::spawn(async move { culvert_portal_service::sequencer::run(&portal).await })
        };
        let wait = || tokio::time::sleep(std::time::Duration::from_millis(20));
        while room.portal.tally.get(Counted::RoundFailed) == 0 {
            wait().await;
        }
        room.clock.advance(std::time::Duration::from_secs(90));
        assert!(room.portal.tally.lag_seconds(room.portal.now()) >= 90.0);
        drop(sql.run("ALTER TABLE audit_elsewhere RENAME TO audit"));
        while sql.run("SELECT COUNT(*) FROM outbox") != "0" {
            wait().await;
        }
        while room.portal.tally.lag_seconds(room.portal.now()) > 0.0 {
            wait().await;
        }
        assert_eq!(sql.run("SELECT COUNT(*) FROM audit"), "1");
        numbering.abort();
    }
}
