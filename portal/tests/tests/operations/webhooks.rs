//! Webhooks: who is told what, how often it is tried, and what is never sent.

use std::time::Duration;

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::settings::Settings;
use culvert_portal_model::webhooks::{Delivery, DeliveryState, NewWebhook, Webhook};
use culvert_portal_seams::http::{OutError, OutResponse, Reach};
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts::{self, UserEdit};
use culvert_portal_service::people::groups::{self, GroupWish};
use culvert_portal_service::sequencer::number_all;
use culvert_portal_service::settings;
use culvert_portal_service::tally::Counted;
use culvert_portal_service::webhooks::deliver::deliver_due;
use culvert_portal_service::webhooks::log;
use culvert_portal_service::webhooks::manage::{self, WebhookWish};
use culvert_portal_store::deliveries;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::Room;
use serde_json::Value;

fn wish(events: &[&str]) -> WebhookWish {
    WebhookWish {
        url: "https://receiver.example.org/hook".to_owned(),
        description: "for a test".to_owned(),
        events: events.iter().map(|&kind| kind.to_owned()).collect(),
        enabled: true,
    }
}

fn answer(status: u16) -> Result<OutResponse, OutError> {
    Ok(OutResponse { status, headers: Vec::new(), body: Vec::new() })
}

async fn subscribed(room: &Room, actor: &Actor, events: &[&str]) -> NewWebhook {
    manage::create(&room.portal, actor, &wish(events)).await.unwrap()
}

/// Makes a group, of which events tell; everything said has its number then.
async fn happens(room: &Room, actor: &Actor, name: &str) {
    let wish = GroupWish { name: name.to_owned(), ..GroupWish::default() };
    groups::create(&room.portal, actor, &wish).await.unwrap();
    number_all(&room.portal).await.unwrap();
}

async fn deliveries_of(room: &Room, webhook: &Webhook) -> Vec<Delivery> {
    log::list(&room.portal, &Actor::host(), webhook.id, None, &PageRequest::default()).await.unwrap().items
}

async fn only_delivery(room: &Room, webhook: &Webhook) -> Delivery {
    let all = deliveries_of(room, webhook).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

on_both_databases! {
    async fn each_is_told_what_they_chose_and_may_see(room) {
        room.person("ada", &[Role::Admin]).await;
        let boole = room.person("boole", &[Role::User]).await;
        let (ada, user) = (room.actor("ada").await, room.actor("boole").await);
        number_all(&room.portal).await.unwrap();
        let groups_only = subscribed(&room, &ada, &["group.created"]).await.webhook;
        let all = subscribed(&room, &ada, &["*"]).await.webhook;
        let own = subscribed(&room, &user, &["*"]).await.webhook;
        number_all(&room.portal).await.unwrap();
        assert_eq!(deliveries_of(&room, &all).await, [], "making a webhook is no event");
        happens(&room, &ada, "lab").await;
        let edit = UserEdit { display_name: Some("George".to_owned()), ..UserEdit::default() };
        let boole = accounts::edit(&room.portal, &ada, boole.id, &edit, boole.version).await.unwrap();
        number_all(&room.portal).await.unwrap();
        let kinds = async |webhook| {
            let mut kinds: Vec<String> =
                deliveries_of(&room, webhook).await.into_iter().map(|delivery| delivery.event).collect();
            kinds.sort();
            kinds
        };
        assert_eq!(kinds(&groups_only).await, ["group.created"]);
        assert_eq!(kinds(&all).await, ["group.created", "user.changed"]);
        assert_eq!(kinds(&own).await, ["user.changed"], "groups are nobody's own");
        // Who no longer may, no longer hears.
        accounts::set_roles(&room.portal, &ada, boole.id, &[], boole.version).await.unwrap();
        number_all(&room.portal).await.unwrap();
        assert_eq!(kinds(&own).await.len(), 1);
        for _ in 0..6 {
            room.http.answer(answer(200));
        }
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 5);
        let asked = room.http.asked();
        let content: Value = serde_json::from_slice(&asked[0].body).unwrap();
        assert!(content["data"]["id"].is_string() && content["timestamp"].is_string() && content["number"].is_number());
        let mut names: Vec<&str> = content.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["data", "number", "timestamp", "type"]);
        assert!(asked.iter().all(|request| request.method == "POST" && request.reach == Reach::Public));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0, "each is sent once");
    }

    async fn what_fails_is_tried_again_ever_later_until_it_is_dead(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        let pauses = [5, 60, 300, 1_800, 7_200, 18_000, 36_000];
        for (number, least) in pauses.into_iter().enumerate() {
            room.http.answer(answer(503));
            assert_eq!(deliver_due(&room.portal).await.unwrap(), 1, "attempt {number}");
            let delivery = only_delivery(&room, &webhook).await;
            assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Waiting, number as i64 + 1));
            assert_eq!((delivery.status, delivery.fault.as_deref()), (Some(503), Some("it answered 503")));
            let pause = delivery.next_at.unwrap().as_millisecond() - room.portal.now().as_millisecond();
            assert!((least * 1_000..=least * 1_200).contains(&pause), "{pause} ms, not {least} s");
            assert_eq!(deliver_due(&room.portal).await.unwrap(), 0, "not before its time");
            room.clock.advance(Duration::from_millis(u64::try_from(pause).unwrap()));
        }
        room.http.answer(Err(OutError::Timeout { host: "receiver.example.org".to_owned(), seconds: 10 }));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 1);
        let dead = only_delivery(&room, &webhook).await;
        assert_eq!((dead.state, dead.attempts, dead.next_at), (DeliveryState::Dead, 8, None));
        assert_eq!(dead.fault.as_deref(), Some("receiver.example.org did not answer within 10 s"));
        room.clock.advance(Duration::from_secs(1_000_000));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0, "dead is dead");
        // Until somebody asks for it: with the same identifier and content.
        let ada = room.actor("ada").await;
        assert_eq!(log::retry(&room.portal, &ada, dead.id).await.unwrap().state, DeliveryState::Waiting);
        room.http.answer(answer(204));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 1);
        let delivered = only_delivery(&room, &webhook).await;
        assert_eq!((delivered.state, delivered.status, delivered.fault), (DeliveryState::Delivered, Some(204), None));
        let asked = room.http.asked();
        assert!(asked.iter().all(|one| one.body == asked[0].body && one.headers[1] == asked[0].headers[1]));
        let counts = [Counted::DeliveryDone, Counted::DeliveryRetried, Counted::DeliveryDead];
        assert_eq!(counts.map(|counted| room.portal.tally.get(counted)), [1, 7, 1]);
    }

    async fn a_receiver_chooses_when_it_is_asked_again_within_bounds(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        for (asked, least, most) in [("100", 100, 120), ("999999999", 3_600, 4_320), ("-5", 300, 360), ("soon", 1_800, 2_160)] {
            let headers = vec![("retry-after".to_owned(), asked.to_owned())];
            room.http.answer(Ok(OutResponse { status: 429, headers, body: Vec::new() }));
            assert_eq!(deliver_due(&room.portal).await.unwrap(), 1);
            let delivery = only_delivery(&room, &webhook).await;
            let pause = delivery.next_at.unwrap().as_second() - room.portal.now().as_second();
            assert!((least..=most).contains(&pause), "asked for {asked}: {pause} s");
            room.clock.advance(Duration::from_secs(5_000));
        }
    }

    async fn a_receiver_that_is_gone_is_asked_no_more(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        let other = subscribed(&room, &ada, &["webhook.disabled"]).await.webhook;
        for name in ["one", "two", "three", "four", "five", "six"] {
            happens(&room, &ada, name).await;
        }
        // The first that is tried hears it; the others are not tried, or come too late to count.
        (0..4).for_each(|_| room.http.answer(answer(410)));
        deliver_due(&room.portal).await.unwrap();
        let all = deliveries_of(&room, &webhook).await;
        assert!(all.iter().all(|delivery| delivery.state == DeliveryState::Dead), "{all:?}");
        assert!(!manage::show(&room.portal, &ada, webhook.id).await.unwrap().enabled);
        number_all(&room.portal).await.unwrap();
        assert_eq!(only_delivery(&room, &other).await.event, "webhook.disabled");
        let fault = log::retry(&room.portal, &ada, all[0].id).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        happens(&room, &ada, "seven").await;
        assert_eq!(deliveries_of(&room, &webhook).await.len(), 6);
    }

    async fn redirects_are_not_followed_and_inside_is_for_whom_an_administrator_lets(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        let headers = vec![("location".to_owned(), "http://169.254.169.254/".to_owned())];
        room.http.answer(Ok(OutResponse { status: 302, headers, body: Vec::new() }));
        deliver_due(&room.portal).await.unwrap();
        let delivery = only_delivery(&room, &webhook).await;
        assert!(delivery.fault.unwrap().contains("redirects are not followed"));
        assert_eq!(room.http.asked().len(), 1);
        assert_eq!(room.http.asked()[0].reach, Reach::Public);
        let new = Settings { webhooks_inside: true, ..Settings::default() };
        settings::edit(&room.portal, &ada, &new, 0).await.unwrap();
        room.clock.advance(Duration::from_secs(7));
        room.http.answer(answer(200));
        deliver_due(&room.portal).await.unwrap();
        assert_eq!(room.http.asked()[1].reach, Reach::Inside);
    }

    /// Two portals take what is due at the same time: nothing is sent twice.
    async fn two_portals_share_the_work(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        for number in 0..30 {
            room.http.answer(answer(200));
            happens(&room, &ada, &format!("group-{number}")).await;
        }
        let other = room.second_portal().await;
        let (one, two) = tokio::join!(deliver_due(&room.portal), deliver_due(&other));
        assert_eq!(one.unwrap() + two.unwrap(), 30);
        let mut ids: Vec<String> = room.http.asked().iter().map(|request| request.headers[1].1.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 30);
        assert!(deliveries_of(&room, &webhook).await.iter().all(|one| one.state == DeliveryState::Delivered));
    }

    /// What a dead portal held is tried by another when the lease is over, and what the dead one
    /// may say later changes nothing.
    async fn a_lease_ends_and_late_words_do_not_count(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        let now = room.portal.now();
        let mut writing = room.portal.database.write().await.unwrap();
        let held = deliveries::claim(&mut writing, now, Duration::from_secs(600), 16, 4).await.unwrap();
        writing.commit().await.unwrap();
        assert_eq!(held.len(), 1);
        // However far this portal's clock is ahead.
        room.clock.advance(Duration::from_secs(100_000));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0);
        drop(room.sql().run("UPDATE deliveries SET leased_until = 1"));
        room.http.answer(answer(200));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 1);
        let late = Delivery { state: DeliveryState::Dead, fault: Some("late".to_owned()), ..held[0].shown.clone() };
        let mut writing = room.portal.database.write().await.unwrap();
        assert!(!deliveries::note(&mut writing, &late).await.unwrap());
        writing.commit().await.unwrap();
        assert_eq!(only_delivery(&room, &webhook).await.state, DeliveryState::Delivered);
    }

    /// The limit of each webhook is part of the choice.
    async fn a_full_webhook_starves_no_other(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let full = subscribed(&room, &ada, &["group.created"]).await.webhook;
        for number in 0..40 {
            happens(&room, &ada, &format!("group-{number}")).await;
        }
        let other = subscribed(&room, &ada, &["settings.changed"]).await.webhook;
        settings::edit(&room.portal, &ada, &Settings::default(), 0).await.unwrap();
        number_all(&room.portal).await.unwrap();
        let mut counts = Vec::new();
        for _ in 0..2 {
            let mut writing = room.portal.database.write().await.unwrap();
            let lease = Duration::from_secs(600);
            let taken = deliveries::claim(&mut writing, room.portal.now(), lease, 16, 4).await.unwrap();
            writing.commit().await.unwrap();
            let of = |webhook: &Webhook| taken.iter().filter(|row| row.shown.webhook == webhook.id).count();
            counts.push((of(&full), of(&other)));
        }
        assert_eq!(counts, [(4, 1), (0, 0)]);
    }

    async fn a_receiver_that_is_too_slow_for_its_events_loses_the_newest(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        let copies = (0..1_000).map(|number| {
            format!("('copy-{number:04}', '{}', 'group.created', '{{}}', 'waiting', 0, 9000000000000000, 0, 1)", webhook.id)
        });
        let copies = copies.collect::<Vec<_>>().join(", ");
        drop(room.sql().run(&format!(
            "INSERT INTO deliveries (id, webhook_id, event, body, state, attempts, next_at, leased_until, created_at) \
             VALUES {copies}"
        )));
        happens(&room, &ada, "other").await;
        let sql = room.sql();
        assert_eq!(sql.run("SELECT COUNT(*) FROM deliveries WHERE state = 'waiting'"), "1001");
        let fault = sql.run("SELECT fault FROM deliveries WHERE state = 'dead'");
        assert_eq!(fault, "1000 deliveries wait for this webhook already: its receiver is too slow");
    }

    async fn a_new_secret_signs_beside_the_one_before_for_a_day(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let first = subscribed(&room, &ada, &["group.created"]).await;
        assert!(first.secret.starts_with("whsec_") && first.secret.len() == 50, "{}", first.secret);
        let second = manage::change_secret(&room.portal, &ada, first.webhook.id, 1).await.unwrap();
        assert_ne!(first.secret, second.secret);
        let stale = manage::change_secret(&room.portal, &ada, first.webhook.id, 1).await.unwrap_err();
        assert_eq!(stale.problem, Problem::Changed);
        let mut signatures = Vec::new();
        for (name, later) in [("one", 0), ("two", 24 * 3600 + 1)] {
            room.clock.advance(Duration::from_secs(later));
            let ada = room.actor("ada").await;
            happens(&room, &ada, name).await;
            room.http.answer(answer(200));
            deliver_due(&room.portal).await.unwrap();
            let headers = room.http.asked().last().unwrap().headers.clone();
            let value = headers.into_iter().find(|(name, _)| name == "webhook-signature").unwrap().1;
            signatures.push(value.split(' ').filter(|one| one.starts_with("v1,")).count());
        }
        assert_eq!(signatures, [2, 1]);
        let kept = room.sql().run("SELECT hex(secret) FROM webhooks".replace("hex(secret)", "length(secret)").as_str());
        assert!(kept.parse::<u32>().unwrap() > 32, "the secret is sealed");
    }

    async fn who_is_deactivated_is_sent_nothing(room) {
        room.person("ada", &[Role::Admin]).await;
        let boole = room.person("boole", &[Role::Operator]).await;
        let (ada, operator) = (room.actor("ada").await, room.actor("boole").await);
        let webhook = subscribed(&room, &operator, &["group.created"]).await.webhook;
        happens(&room, &ada, "lab").await;
        room.deactivate(&ada, &boole).await;
        happens(&room, &ada, "other").await;
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0);
        let edit = UserEdit { state: Some(AccountState::Active), ..UserEdit::default() };
        let boole = room.user("boole").await;
        accounts::edit(&room.portal, &ada, boole.id, &edit, boole.version).await.unwrap();
        happens(&room, &ada, "third").await;
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0, "it stays switched off");
        let delivery = only_delivery(&room, &webhook).await;
        assert_eq!(delivery.fault.as_deref(), Some("the webhook's owner was deactivated"));
    }

    /// Whoever may have no webhooks any more hears nothing by those that they had.
    async fn who_is_demoted_is_sent_nothing(room) {
        room.person("ada", &[Role::Admin]).await;
        let boole = room.person("boole", &[Role::Operator]).await;
        let (ada, operator) = (room.actor("ada").await, room.actor("boole").await);
        subscribed(&room, &operator, &["group.created"]).await;
        accounts::set_roles(&room.portal, &ada, boole.id, &[Role::Viewer], boole.version).await.unwrap();
        happens(&room, &ada, "lab").await;
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 0);
    }

    async fn what_is_somebody_elses_is_not_there_and_what_is_wrong_is_told(room) {
        room.person("ada", &[Role::Admin]).await;
        room.person("boole", &[Role::User]).await;
        room.person("curie", &[Role::Viewer]).await;
        let (ada, boole, curie) = (room.actor("ada").await, room.actor("boole").await, room.actor("curie").await);
        let webhook = subscribed(&room, &ada, &["*"]).await.webhook;
        let delivery = manage::test(&room.portal, &ada, webhook.id).await.unwrap();
        let nothing: Id = "00000000-0000-7000-8000-000000000001".parse().unwrap();
        for (webhook, delivery) in [(webhook.id, delivery.id), (nothing, nothing)] {
            let portal = &room.portal;
            let page = PageRequest::default();
            let problems = [
                manage::show(portal, &boole, webhook).await.unwrap_err(),
                manage::replace(portal, &boole, webhook, &wish(&["*"]), 1).await.unwrap_err(),
                manage::change_secret(portal, &boole, webhook, 1).await.unwrap_err(),
                manage::delete(portal, &boole, webhook, 1).await.unwrap_err(),
                manage::test(portal, &boole, webhook).await.unwrap_err(),
                log::list(portal, &boole, webhook, None, &page).await.unwrap_err(),
                log::show(portal, &boole, delivery).await.unwrap_err(),
                log::retry(portal, &boole, delivery).await.unwrap_err(),
            ];
            assert!(problems.iter().all(|fault| fault.problem == Problem::NotFound), "{problems:?}");
        }
        assert_eq!(manage::list(&room.portal, &boole, &PageRequest::default()).await.unwrap().items, []);
        let fault = manage::create(&room.portal, &curie, &wish(&["*"])).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Forbidden);
        for (wrong, field, words) in [
            (WebhookWish { url: "ftp://x".to_owned(), ..wish(&["*"]) }, "url", "https://"),
            (wish(&[]), "events", "at least one"),
            (wish(&["user.created", "rumour"]), "events", "'rumour' is no kind of event; there are *, user.created"),
            (WebhookWish { description: "a\u{202e}b".to_owned(), ..wish(&["*"]) }, "description", "U+202E"),
        ] {
            let fault = manage::create(&room.portal, &ada, &wrong).await.unwrap_err();
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some(field)));
            assert!(fault.detail.contains(words), "{}", fault.detail);
        }
        for _ in 0..20 {
            subscribed(&room, &boole, &["*"]).await;
        }
        let fault = manage::create(&room.portal, &boole, &wish(&["*"])).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        // A test reaches its webhook alone, in use or not.
        let off = WebhookWish { enabled: false, ..wish(&["*"]) };
        manage::replace(&room.portal, &ada, webhook.id, &off, 1).await.unwrap();
        room.http.answer(answer(200));
        assert_eq!(deliver_due(&room.portal).await.unwrap(), 1);
        assert_eq!(only_delivery(&room, &webhook).await.event, "webhook.test");
        manage::delete(&room.portal, &ada, webhook.id, 2).await.unwrap();
        assert_eq!(room.sql().run("SELECT COUNT(*) FROM deliveries"), "0");
    }

    /// Neither the deletion nor the numbering fails, in whatever order they come.
    async fn webhooks_are_deleted_while_events_become_deliveries(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let other = room.second_portal().await;
        let busy = {
            let ada = ada.clone();
            tokio::spawn(async move {
                for number in 0..60 {
                    let wish = GroupWish { name: format!("group-{number}"), ..GroupWish::default() };
                    groups::create(&other, &ada, &wish).await.unwrap();
                    number_all(&other).await.unwrap();
                }
            })
        };
        while !busy.is_finished() {
            let made = subscribed(&room, &ada, &["*"]).await;
            tokio::task::yield_now().await;
            manage::delete(&room.portal, &ada, made.webhook.id, 1).await.unwrap();
        }
        busy.await.unwrap();
        assert_eq!(room.sql().run("SELECT COUNT(*) FROM deliveries"), "0");
    }

    async fn the_log_is_bounded(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let webhook = subscribed(&room, &ada, &["group.created"]).await.webhook;
        let rows = (0..600).map(|number| {
            format!("('ended-{number:04}', '{}', 'x', '{{}}', 'delivered', 1, 0, {})", webhook.id, 2_000_000_000_000_000_i64 + number)
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        drop(room.sql().run(&format!(
            "INSERT INTO deliveries (id, webhook_id, event, body, state, attempts, leased_until, created_at) VALUES {rows}"
        )));
        culvert_portal_service::housekeeping::keep_house(&room.portal).await.unwrap();
        assert_eq!(room.sql().run("SELECT COUNT(*), MIN(id) FROM deliveries"), "500|ended-0100");
        room.clock.set("2033-07-01T00:00:00Z".parse().unwrap());
        culvert_portal_service::housekeeping::keep_house(&room.portal).await.unwrap();
        assert_eq!(room.sql().run("SELECT COUNT(*) FROM deliveries"), "0");
    }
}
