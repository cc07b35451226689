//! Codes: each good once, everywhere; and what a proof of who one is does to a session.

use std::sync::Arc;
use std::time::Duration;

use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::settings::Settings;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::{self, AuditQuery};
use culvert_portal_service::fault::Fault;
use culvert_portal_service::people::login::{self, Attempt, LoggedIn};
use culvert_portal_service::people::{credentials, oneself, second_factor, sessions, tokens};
use culvert_portal_service::portal::Portal;
use culvert_portal_service::settings;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{ADDRESS, PASSWORD, attempt};

use crate::authenticator::Authenticator;

async fn log_in_at(portal: &Portal, code: &str) -> Result<LoggedIn, Fault> {
    login::log_in(portal, &Attempt { code: Some(code), ..attempt("ada", PASSWORD) }).await
}

on_both_databases! {
    /// The code that confirmed the set-up, and every one that was used, is refused ever after: at
    /// this portal and at the other.
    async fn a_code_is_good_once(room) {
        room.person("ada", &[Role::User]).await;
        let other = room.second_portal().await;
        let phone = Authenticator::set_up(&room, &room.actor("ada").await).await;
        let refused = async |portal: &Portal, code: &str, what: &str| {
            let fault = log_in_at(portal, code).await.unwrap_err();
            assert_eq!(fault.problem, Problem::WrongCredentials, "{what}");
        };
        refused(&room.portal, &phone.first, "the code of the set-up").await;
        refused(&other, &phone.first, "the code of the set-up, at the other portal").await;
        room.clock.advance(Duration::from_secs(30));
        let code = phone.code(&room);
        log_in_at(&room.portal, &code).await.unwrap();
        for seconds in [0, 29, 30] {
            room.clock.advance(Duration::from_secs(seconds));
            refused(&room.portal, &code, "again").await;
            refused(&other, &code, "again, at the other portal").await;
        }
        // A code of before is not good after a later one was used.
        let former = phone.code(&room);
        room.clock.advance(Duration::from_secs(30));
        log_in_at(&other, &phone.code(&room)).await.unwrap();
        refused(&room.portal, &former, "one from before the newest that was used").await;
    }

    /// Twenty that post one code at once, at two portals, get one session.
    async fn one_code_posted_twenty_times_makes_one_session(room) {
        room.person("ada", &[Role::User]).await;
        let other = room.second_portal().await;
        let phone = Authenticator::set_up(&room, &room.actor("ada").await).await;
        room.clock.advance(Duration::from_secs(60));
        let code = phone.code(&room);
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let (portal, code): (Arc<Portal>, _) =
                    (if number % 2 == 0 { &room.portal } else { &other }.clone(), code.clone());
                // From addresses of their own, so that no limit decides who is first.
                let address = format!("198.51.{number}.9");
                tokio::spawn(async move {
                    let attempt = Attempt { code: Some(&code), address: &address, ..attempt("ada", PASSWORD) };
                    login::log_in(&portal, &attempt).await.map_err(|fault| fault.problem)
                })
            })
            .collect();
        let (mut sessions, mut others) = (0, Vec::new());
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => sessions += 1,
                Err(problem) => others.push(problem),
            }
        }
        assert_eq!(sessions, 1, "{others:?}");
        assert!(
            others.iter().all(|problem| matches!(problem, Problem::WrongCredentials | Problem::TooMany)),
            "{others:?}"
        );
    }

    /// A recovery code stands in for a lost phone, once, and new ones replace all of the old.
    async fn a_recovery_code_is_good_once(room) {
        room.person("ada", &[Role::User]).await;
        room.person("boole", &[Role::User]).await;
        let ada = room.actor("ada").await;
        let phone = Authenticator::set_up(&room, &ada).await;
        assert_eq!(phone.recovery.len(), 10);
        let _ = Authenticator::set_up(&room, &room.actor("boole").await).await;
        let boole = Attempt { code: Some(&phone.recovery[0]), ..attempt("boole", PASSWORD) };
        assert_eq!(login::log_in(&room.portal, &boole).await.unwrap_err().problem, Problem::WrongCredentials);
        log_in_at(&room.portal, &format!(" {} ", phone.recovery[0])).await.unwrap();
        assert_eq!(log_in_at(&room.portal, &phone.recovery[0]).await.unwrap_err().problem, Problem::WrongCredentials);
        let new = second_factor::renew_recovery_codes(&room.portal, &ada).await.unwrap();
        assert_eq!(log_in_at(&room.portal, &phone.recovery[1]).await.unwrap_err().problem, Problem::WrongCredentials);
        log_in_at(&room.portal, &new[1]).await.unwrap();
        // Without a code nobody gets in, nor by an empty one.
        let without = login::log_in(&room.portal, &attempt("ada", PASSWORD)).await.unwrap_err();
        assert_eq!(without.problem, Problem::SecondFactorNeeded);
        assert_eq!(log_in_at(&room.portal, "").await.unwrap_err().problem, Problem::WrongCredentials);
        second_factor::remove(&room.portal, &ada).await.unwrap();
        login::log_in(&room.portal, &attempt("ada", PASSWORD)).await.unwrap();
    }

    /// Whoever has lost it is let in again by an administrator: it is gone with all that would be
    /// asked for, so are the sessions, and the trail says who has done that.
    async fn an_administrator_removes_what_somebody_has_lost(room) {
        let boole = room.person("boole", &[Role::User]).await;
        room.person("ada", &[Role::Admin]).await;
        let (ada, other) = (room.actor("ada").await, room.second_portal().await);
        let remove = async |actor: &Actor| second_factor::remove_of(&room.portal, actor, boole.id).await;
        assert_eq!(remove(&ada).await.unwrap_err().problem, Problem::Conflict, "there is none yet");
        let phone = Authenticator::set_up(&room, &room.actor("boole").await).await;
        // As if they had registered a passkey, which is asked for as well.
        room.sql().run(&format!(
            "INSERT INTO passkeys (id, user_id, name, credential_id, public_key, counter, created_at) \
             VALUES ('01a00000-0000-7000-8000-000000000002', '{}', 'key', 'key', 'x', 0, 0)",
            boole.id
        ));
        room.clock.advance(Duration::from_secs(30));
        let code = phone.code(&room);
        let attempt_with_code = Attempt { code: Some(&code), ..attempt("boole", PASSWORD) };
        let session = login::log_in(&room.portal, &attempt_with_code).await.unwrap();
        let stale = Actor { proved_at: None, ..ada.clone() };
        assert_eq!(remove(&stale).await.unwrap_err().problem, Problem::StepUpNeeded);
        assert!(room.user("boole").await.second_factor);
        remove(&ada).await.unwrap();
        assert!(!room.portal_has(&session.secret).await, "the session has ended");
        assert!(!room.user("boole").await.second_factor);
        for portal in [&room.portal, &other] {
            login::log_in(portal, &attempt("boole", PASSWORD)).await.unwrap();
        }
        let query = AuditQuery { action: Some("user.second-factor".to_owned()), ..AuditQuery::default() };
        let told = audit::list(&room.portal, &ada, &query).await.unwrap().items;
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0].entry.id, &told[0].entry.who), (&Some(boole.id.text()), &ada.who));
        let shown = [&told[0].entry.before, &told[0].entry.after].map(|one| &one.as_ref().unwrap()["second_factor"]);
        assert_eq!(shown, [true, false]);
        assert_eq!(remove(&ada).await.unwrap_err().problem, Problem::Conflict);
        let missing = second_factor::remove_of(&room.portal, &ada, room.portal.new_id()).await.unwrap_err();
        assert_eq!(missing.problem, Problem::NotFound);
    }

    /// A million codes are not tried in a lifetime: ten, then one a minute.
    async fn codes_are_not_tried_one_after_the_other(room) {
        room.person("ada", &[Role::User]).await;
        let phone = Authenticator::set_up(&room, &room.actor("ada").await).await;
        room.clock.advance(Duration::from_secs(600));
        let mut wrong = 0;
        let mut last = Problem::Internal;
        for number in 0..40 {
            // Another network each time: only the account's own limit is in the way.
            let address = format!("198.51.{number}.9");
            let attempt = Attempt { code: Some("000000"), address: &address, ..attempt("ada", PASSWORD) };
            last = login::log_in(&room.portal, &attempt).await.unwrap_err().problem;
            wrong += u32::from(last == Problem::WrongCredentials);
        }
        assert_eq!((wrong, last), (10, Problem::TooMany));
        room.clock.advance(Duration::from_secs(61));
        log_in_at(&room.portal, &phone.code(&room)).await.unwrap();
    }

    /// A proof gives the session another secret; it needs the code where there is one.
    async fn a_proof_rotates_the_session(room) {
        room.person("ada", &[Role::Admin]).await;
        let secret = room.log_in("ada").await.secret;
        room.clock.advance(Duration::from_secs(16 * 60));
        let who =
            async |secret: &str| credentials::who_has_session(&room.portal, secret, ADDRESS).await.unwrap().unwrap();
        let stale = who(&secret).await;
        assert_eq!(room.portal.permit(&stale, Action::TokenCreate).await.unwrap_err().problem, Problem::StepUpNeeded);
        let wrong = sessions::step_up(&room.portal, &stale, &secret, Some("wrong"), None).await.unwrap_err();
        assert_eq!(wrong.problem, Problem::WrongCredentials);
        let new = sessions::step_up(&room.portal, &stale, &secret, Some(PASSWORD), None).await.unwrap();
        assert!(!room.portal_has(&secret).await, "the old secret is no longer good");
        let proved = who(&new).await;
        room.portal.permit(&proved, Action::TokenCreate).await.unwrap();
        let phone = Authenticator::set_up(&room, &proved).await;
        let fault = sessions::step_up(&room.portal, &proved, &new, Some(PASSWORD), None).await.unwrap_err();
        assert_eq!(fault.problem, Problem::SecondFactorNeeded, "the password alone proves nothing now");
        let replayed = sessions::step_up(&room.portal, &proved, &new, None, Some(&phone.first)).await.unwrap_err();
        assert_eq!(replayed.problem, Problem::WrongCredentials);
        room.clock.advance(Duration::from_secs(30));
        sessions::step_up(&room.portal, &proved, &new, None, Some(&phone.code(&room))).await.unwrap();
        // A secret that was rotated away proves nothing.
        room.clock.advance(Duration::from_secs(30));
        let ended = sessions::step_up(&room.portal, &proved, &new, None, Some(&phone.code(&room))).await.unwrap_err();
        assert_eq!(ended.problem, Problem::NotLoggedIn);
    }

    /// Where staff needs a second factor, those without see themselves, prove who they are, set one
    /// up, change nothing, and neither do their tokens.
    async fn staff_without_a_second_factor_sets_one_up_first(room) {
        for (name, role) in [("ada", Role::Admin), ("grace", Role::Operator), ("boole", Role::User)] {
            room.person(name, &[role]).await;
        }
        let ada = room.actor("ada").await;
        let wish = tokens::TokenWish {
            name: "t".to_owned(),
            scopes: culvert_portal_model::scope::Scope::ALL.to_vec(),
            days: 1,
        };
        let token = tokens::create(&room.portal, &ada, &wish).await.unwrap().secret;
        let strict = Settings { second_factor_for_staff: true, ..Settings::default() };
        settings::edit(&room.portal, &ada, &strict, 0).await.unwrap();
        let token = credentials::who_has_token(&room.portal, &token, ADDRESS).await.unwrap().unwrap();
        for name in ["ada", "grace"] {
            let secret = if name == "ada" { None } else { Some(room.log_in(name).await.secret) };
            let actor = match secret {
                Some(secret) => credentials::who_has_session(&room.portal, &secret, ADDRESS).await.unwrap().unwrap(),
                None => ada.clone(),
            };
            for action in Action::ALL {
                let refused = room
                    .portal
                    .permit(&actor, *action)
                    .await
                    .is_err_and(|fault| fault.problem == Problem::SecondFactorMissing);
                let leads_there =
                    [Action::SelfShow, Action::StepUp, Action::LogOut, Action::TokenGiveUp, Action::SecondFactorChange]
                        .contains(action);
                assert_eq!(refused, !leads_there, "{name} {action:?}");
            }
            if name == "grace" {
                login::log_out(&room.portal, &actor).await.unwrap();
            }
        }
        assert_eq!(
            room.portal.permit(&token, Action::UserList).await.unwrap_err().problem,
            Problem::SecondFactorMissing
        );
        assert!(oneself::show(&room.portal, &token).await.is_ok());
        assert!(
            room.portal.permit(&room.actor("boole").await, Action::TokenCreate).await.is_ok(),
            "who is no staff needs none"
        );
        let _ = Authenticator::set_up(&room, &ada).await;
        assert!(room.portal.permit(&Actor { has_second_factor: true, ..ada.clone() }, Action::UserList).await.is_ok());
        let token =
            credentials::who_has_token(&room.portal, &token_secret(&room, &ada).await, ADDRESS).await.unwrap().unwrap();
        assert!(token.has_second_factor && room.portal.permit(&token, Action::UserList).await.is_ok());
        second_factor::remove(&room.portal, &Actor { has_second_factor: true, ..ada }).await.unwrap();
    }
}

async fn token_secret(room: &culvert_portal_tests::room::Room, actor: &Actor) -> String {
    let wish = tokens::TokenWish {
        name: "t".to_owned(),
        scopes: vec![culvert_portal_model::scope::Scope::PeopleRead],
        days: 1,
    };
    let actor = Actor { has_second_factor: true, ..actor.clone() };
    tokens::create(&room.portal, &actor, &wish).await.unwrap().secret
}
