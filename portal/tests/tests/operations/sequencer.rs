//! What keeps the sequencer from numbering, and what does not.

use culvert_portal_model::role::Role;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::{self, AuditFault, AuditQuery};
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
            drop(sql.run(&format!("INSERT INTO outbox (id, kind, owner, body, at, mark) VALUES ('{id}', '{kind}', {owner}, '{body}', 5, '')")));
        }
        room.person("ada", &[Role::Admin]).await;
        number_all(&room.portal).await.unwrap();
        assert_eq!(sql.run("SELECT COUNT(*) FROM outbox"), "0");
        assert_eq!(sql.run("SELECT COUNT(*) FROM outbox_set_aside"), "5");
        let reason = sql.run(&format!("SELECT reason FROM outbox_set_aside WHERE id = '{}'", id(1)));
        assert_eq!(reason, "its kind of outbox entry is 'rumour'");
        let query = |action: &str| AuditQuery { action: Some(action.to_owned()), ..AuditQuery::default() };
        let told = audit::list(&room.portal, &Actor::host(), &query("outbox.set-aside")).await.unwrap().items;
        assert_eq!(told.len(), 5);
        let made = audit::list(&room.portal, &Actor::host(), &query("user.create")).await.unwrap().items;
        assert_eq!(made.len(), 1, "what was said behind them has its number");
        let verified = audit::verify(&room.portal.database, &room.portal.signing.public_key(), None).await.unwrap();
        assert_eq!(verified, Ok(6));
        assert_eq!(room.portal.tally.get(Counted::SetAside), 5);
        assert_eq!(room.portal.tally.lag_seconds(room.portal.now()), 0.0);
    }

    /// Whoever can only write to the database says nothing in the portal's name.
    async fn what_the_portal_has_not_said_is_not_signed(room) {
        room.person("ada", &[Role::Admin]).await;
        let sql = room.sql();
        let said = sql.run("SELECT body FROM outbox WHERE kind = 'audit' LIMIT 1").replace('\'', "''");
        drop(sql.run(&format!(
            "INSERT INTO outbox (id, kind, body, at, mark) \
             VALUES ('00000000-0000-7000-8000-000000000001', 'audit', '{said}', 5, '{}')", "0".repeat(64)
        )));
        number_all(&room.portal).await.unwrap();
        let reason = sql.run("SELECT reason FROM outbox_set_aside");
        assert!(reason.contains("does not have the portal's mark"), "{reason}");
        assert_eq!(sql.run("SELECT COUNT(*) FROM audit WHERE action = 'user.create'"), "1");
    }

    /// A trail that is emptied, or cut with an end that was signed once, is no trail to go on with.
    async fn a_trail_that_was_emptied_or_cut_is_not_gone_on_with(room) {
        room.person("ada", &[Role::Admin]).await;
        number_all(&room.portal).await.unwrap();
        let sql = room.sql();
        let key = room.portal.signing.public_key();
        let verify = async || audit::verify(&room.portal.database, &key, None).await.unwrap();
        let former = sql.run("SELECT number || ' ' || hash || ' ' || signature FROM heads WHERE name = 'audit'");
        let former: Vec<&str> = former.split(' ').collect();
        room.person("boole", &[Role::User]).await;
        number_all(&room.portal).await.unwrap();
        assert_eq!(verify().await, Ok(2));
        room.person("curie", &[Role::User]).await;

        // The former end, with its signature: only who has seen the later one can tell.
        drop(sql.run("DELETE FROM audit WHERE number > 1"));
        drop(sql.run(&format!(
            "UPDATE heads SET number = {}, hash = '{}', signature = '{}' WHERE name = 'audit'",
            former[0], former[1], former[2]
        )));
        let fault = number_all(&room.portal).await.unwrap_err();
        assert!(fault.log.unwrap().contains("this portal has seen entry 2"));

        drop(sql.run("DELETE FROM audit"));
        drop(sql.run("UPDATE heads SET number = 0, hash = '', signature = '' WHERE name = 'audit'"));
        assert_eq!(verify().await, Err(AuditFault::BadSignature));
        let other = room.second_portal().await;
        let fault = number_all(&other).await.unwrap_err();
        assert!(fault.log.unwrap().contains("is not signed by the portal's key"));
        assert_eq!(sql.run("SELECT COUNT(*) FROM audit"), "0");
        // What is there is shown all the same.
        assert!(audit::list(&other, &Actor::host(), &AuditQuery::default()).await.unwrap().items.is_empty());
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
