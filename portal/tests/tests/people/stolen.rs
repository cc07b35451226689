//! What somebody who has stolen a cookie, or sits in the same network, cannot do.

use std::time::Duration;

use culvert_portal_model::audit::Outcome;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::AccountPolicy;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::{self, AuditQuery};
use culvert_portal_service::fault::Fault;
use culvert_portal_service::mail;
use culvert_portal_service::people::accounts::UserEdit;
use culvert_portal_service::people::login::{self, Attempt};
use culvert_portal_service::people::providers::{self, ProviderWish};
use culvert_portal_service::people::tokens::{self, TokenWish};
use culvert_portal_service::people::{credentials, devices, oneself, reset, second_factor, sessions};
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{ADDRESS, PASSWORD, Room, attempt};

use crate::authenticator::Authenticator;
use crate::issuer::browser;

const NEW: &str = "difference engine two";

/// Whoever has a session's cookie, as the portal finds them.
async fn holder(room: &Room, secret: &str) -> Actor {
    credentials::who_has_session(&room.portal, secret, ADDRESS).await.unwrap().expect("the session is there")
}

/// Entries of an action that were refused.
async fn refused(room: &Room, action: &str) -> usize {
    let query = AuditQuery { action: Some(action.to_owned()), ..AuditQuery::default() };
    let entries = audit::list(&room.portal, &Actor::host(), &query).await.unwrap().items;
    entries.iter().filter(|entry| entry.entry.outcome == Outcome::Refused).count()
}

on_both_databases! {
    /// A cookie that was stolen just after its owner has logged in is not enough for what makes the
    /// account the thief's.
    async fn a_fresh_cookie_does_not_take_the_account(room) {
        room.person("ada", &[Role::User]).await;
        let phone = Authenticator::set_up(&room, &room.actor("ada").await).await;
        room.clock.advance(Duration::from_secs(60));
        let code = phone.code(&room);
        let with_code = Attempt { code: Some(&code), ..attempt("ada", PASSWORD) };
        let logged_in = login::log_in(&room.portal, &with_code).await.unwrap();
        let thief = holder(&room, &logged_in.secret).await;
        let needs_proof = |fault: Fault| assert_eq!(fault.problem, Problem::StepUpNeeded, "{fault:?}");
        needs_proof(second_factor::remove(&room.portal, &thief).await.unwrap_err());
        needs_proof(second_factor::renew_recovery_codes(&room.portal, &thief).await.unwrap_err());
        let edit = UserEdit { email: Some(Some("evil@example.org".to_owned())), ..UserEdit::default() };
        let version = room.user("ada").await.version;
        needs_proof(oneself::edit(&room.portal, &thief, &edit, version).await.unwrap_err());
        let without = oneself::change_password(&room.portal, &thief, None, NEW).await.unwrap_err();
        assert_eq!((without.problem, without.field), (Problem::InvalidValue, Some("current")));
        let wrong = oneself::change_password(&room.portal, &thief, Some("a guess of it all"), NEW).await.unwrap_err();
        assert_eq!((wrong.problem, wrong.field), (Problem::WrongCredentials, Some("current")));
        assert_eq!(refused(&room, Action::PasswordChange.word()).await, 1);
        oneself::change_password(&room.portal, &thief, Some(PASSWORD), NEW).await.unwrap();
    }

    /// Each change costs two hashes for which others wait.
    async fn one_account_does_not_keep_the_hashes_busy(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        let mut problems = Vec::new();
        for _ in 0..8 {
            let wrong = oneself::change_password(&room.portal, &ada, Some("a guess of it all"), NEW).await;
            problems.push(wrong.unwrap_err().problem);
        }
        assert_eq!(problems.iter().filter(|problem| **problem == Problem::TooMany).count(), 3, "{problems:?}");
    }

    /// A wrong proof, and a right password without its code, are in the trail.
    async fn guesses_are_written_down(room) {
        room.person("ada", &[Role::User]).await;
        let logged_in = room.log_in("ada").await;
        let ada = holder(&room, &logged_in.secret).await;
        let wrong = sessions::step_up(&room.portal, &ada, &logged_in.secret, Some("a guess of it all"), None).await;
        assert_eq!(wrong.unwrap_err().problem, Problem::WrongCredentials);
        assert_eq!(refused(&room, Action::StepUp.word()).await, 1);
        Authenticator::set_up(&room, &room.actor("ada").await).await;
        let half = login::log_in(&room.portal, &attempt("ada", PASSWORD)).await.unwrap_err();
        assert_eq!(half.problem, Problem::SecondFactorNeeded);
        assert_eq!(refused(&room, login::LOGIN).await, 1);
    }

    /// A few wrong passwords of a neighbour are the neighbour's.
    async fn a_neighbour_locks_nobody_out(room) {
        room.person("ada", &[Role::User]).await;
        room.log_in("ada").await;
        let neighbour = "192.0.2.99";
        for _ in 0..15 {
            let attempt = Attempt { address: neighbour, ..attempt("ada", "a guess of it all") };
            login::log_in(&room.portal, &attempt).await.unwrap_err();
        }
        room.log_in("ada").await;
        // Many neighbours together are slowed down.
        let mut limited = 0;
        for last in 100..160 {
            let address = format!("192.0.2.{last}");
            let attempt = Attempt { address: &address, ..attempt("ada", "a guess of it all") };
            let fault = login::log_in(&room.portal, &attempt).await.unwrap_err();
            limited += usize::from(fault.problem == Problem::TooMany);
        }
        assert!(limited > 0);
    }

    /// All addresses of a /64 are one client's.
    async fn the_addresses_of_one_client_are_one(room) {
        let mut limited = 0;
        for number in 0..45 {
            let address = format!("2001:db8:1:2::{number:x}");
            let name = format!("nobody-{number}");
            let attempt = Attempt { address: &address, ..attempt(&name, PASSWORD) };
            let fault = login::log_in(&room.portal, &attempt).await.unwrap_err();
            limited += usize::from(fault.problem == Problem::TooMany);
        }
        assert_eq!(limited, 15);
        let elsewhere = Attempt { address: "2001:db8:1:3::1", ..attempt("nobody", PASSWORD) };
        assert_eq!(login::log_in(&room.portal, &elsewhere).await.unwrap_err().problem, Problem::WrongCredentials);
    }

    /// Anybody can ask for a mail; what an administrator has handed over stays good.
    async fn a_stranger_ends_no_link(room) {
        room.person("root", &[Role::Admin]).await;
        let ada = room.person("ada", &[Role::User]).await;
        let handed_over = reset::make_link(&room.portal, &room.actor("root").await, ada.id).await.unwrap();
        mail::request_reset_later(room.portal.clone(), browser(), "ada".to_owned()).await.unwrap();
        while room.mailer.sent().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reset::reset_password(&room.portal, &browser(), &handed_over.secret, NEW).await.unwrap();
    }

    /// Devices count as the other tokens do.
    async fn nobody_collects_tokens_by_devices(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        for number in 0..100 {
            let wish = TokenWish { name: format!("token {number}"), scopes: vec![Scope::TransfersRead], days: 1 };
            tokens::create(&room.portal, &ada, &wish).await.unwrap();
        }
        let device = devices::start(&room.portal, &browser(), "a device", &[Scope::TransfersRead], None).await.unwrap();
        let refused = devices::approve(&room.portal, &ada, &device.user_code, &devices::Approval::default()).await;
        assert_eq!(refused.unwrap_err().problem, Problem::Conflict);
    }

    /// A secret is for one issuer.
    async fn another_issuer_is_not_sent_the_secret(room) {
        room.person("root", &[Role::Admin]).await;
        let root = room.actor("root").await;
        let wish = |issuer: &str, secret: Option<&str>| ProviderWish {
            name: "uni".to_owned(),
            title: "University".to_owned(),
            issuer: issuer.to_owned(),
            client_id: "culvert".to_owned(),
            client_secret: secret.map(str::to_owned),
            scopes: Vec::new(),
            groups_claim: None,
            roles_by_group: std::collections::BTreeMap::new(),
            accounts: AccountPolicy::LinkedOnly,
            inside: false,
            enabled: true,
        };
        let made = providers::create(&room.portal, &root, &wish("https://id.example.org", Some("secret"))).await.unwrap();
        let edit = |wish: ProviderWish| {
            let (room, root) = (&room, &root);
            async move { providers::edit(&room.portal, root, made.id, &wish, 1).await }
        };
        let refused = edit(wish("https://evil.example.org", None)).await.unwrap_err();
        assert_eq!(refused.field, Some("client_secret"));
        assert!(!edit(wish("https://evil.example.org", Some(""))).await.unwrap().has_client_secret);
    }
}
