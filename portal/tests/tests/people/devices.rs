//! Devices without a browser: let in by their person, once, or sent away.

use std::time::Duration;

use culvert_portal_model::people::NewToken;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::fault::Fault;
use culvert_portal_service::people::credentials;
use culvert_portal_service::people::devices::{self, Approval};
use culvert_portal_service::portal::Portal;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{ADDRESS, Room};

const SCOPES: [Scope; 2] = [Scope::TransfersRead, Scope::TransfersWrite];

fn device() -> Actor {
    Actor::nobody(Some("198.51.100.4".to_owned()), None)
}

async fn poll(portal: &Portal, code: &str) -> Result<NewToken, Fault> {
    devices::poll(portal, &device(), code).await
}

async fn poll_problem(room: &Room, code: &str) -> Problem {
    poll(&room.portal, code).await.unwrap_err().problem
}

on_both_databases! {
    /// The whole way: codes, a page that shows who asks, a token with what was permitted, once.
    async fn a_device_gets_its_token_once(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        let codes = devices::start(&room.portal, &device(), "culvert on lab-7", &SCOPES, None).await.unwrap();
        assert_eq!(codes.verification_uri, "https://portal.example.org/device");
        assert_eq!(
            codes.verification_uri_complete,
            format!("https://portal.example.org/device?code={}", codes.user_code)
        );
        assert_eq!(poll_problem(&room, &codes.device_code).await, Problem::AuthorizationPending);
        let typed = codes.user_code.to_lowercase().replace('-', " ");
        let shown = devices::show(&room.portal, &ada, &typed).await.unwrap();
        assert_eq!((shown.client.as_str(), shown.address.as_str()), ("culvert on lab-7", "198.51.100.4"));
        assert_eq!((shown.scopes.as_slice(), shown.days), (&SCOPES[..], None));
        let approval = Approval { scopes: Some(vec![Scope::TransfersRead]), days: Some(7) };
        devices::approve(&room.portal, &ada, &typed, &approval).await.unwrap();
        let again = devices::approve(&room.portal, &ada, &typed, &approval).await.unwrap_err();
        assert_eq!(again.problem, Problem::NotFound, "what is decided is decided");
        room.clock.advance(Duration::from_secs(5));
        let made = poll(&room.portal, &codes.device_code).await.unwrap();
        assert_eq!((made.token.user, &made.token.scopes), (ada.user().unwrap(), &vec![Scope::TransfersRead]));
        assert_eq!((made.token.expires_at.as_second() - made.token.created_at.as_second()) / 86_400, 7);
        assert!(credentials::who_has_token(&room.portal, &made.secret, ADDRESS).await.unwrap().is_some());
        assert_eq!(poll_problem(&room, &codes.device_code).await, Problem::ExpiredToken, "once");
    }

    /// Its token is good for as many days as it has asked for, if its person says nothing else and
    /// the settings permit so many by then.
    async fn a_device_says_how_long(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        for (wished, decided, given) in [(Some(7), None, 7), (Some(7), Some(30), 30), (None, None, 90)] {
            let codes = devices::start(&room.portal, &device(), "culvert", &SCOPES, wished).await.unwrap();
            let shown = devices::show(&room.portal, &ada, &codes.user_code).await.unwrap();
            assert_eq!(shown.days, wished);
            let approval = Approval { scopes: None, days: decided };
            devices::approve(&room.portal, &ada, &codes.user_code, &approval).await.unwrap();
            let token = poll(&room.portal, &codes.device_code).await.unwrap().token;
            assert_eq!((token.expires_at.as_second() - token.created_at.as_second()) / 86_400, given);
        }
        for days in [0, 366] {
            let fault = devices::start(&room.portal, &device(), "culvert", &SCOPES, Some(days)).await.unwrap_err();
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some("days")), "{days}");
        }
    }

    /// Of many that ask with one code, at two portals, one gets the token.
    async fn many_ask_and_one_gets_it(room) {
        room.person("ada", &[Role::User]).await;
        let (ada, other) = (room.actor("ada").await, room.second_portal().await);
        let codes = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await.unwrap();
        devices::approve(&room.portal, &ada, &codes.user_code, &Approval::default()).await.unwrap();
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let portal = if number % 2 == 0 { room.portal.clone() } else { other.clone() };
                let code = codes.device_code.clone();
                tokio::spawn(async move { poll(&portal, &code).await.is_ok() })
            })
            .collect();
        let mut got = 0;
        for task in tasks {
            got += u32::from(task.await.unwrap());
        }
        assert_eq!(got, 1);
    }

    /// RFC 8628, section 3.5: whoever asks too often has to wait five seconds longer, each time.
    async fn who_asks_too_often_waits_longer(room) {
        let codes = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await.unwrap();
        let wait = |fault: Fault| (fault.problem, fault.retry_after_seconds);
        assert_eq!(
            wait(poll(&room.portal, &codes.device_code).await.unwrap_err()),
            (Problem::AuthorizationPending, Some(5))
        );
        for seconds in [10, 15, 20] {
            room.clock.advance(Duration::from_secs(4));
            assert_eq!(
                wait(poll(&room.portal, &codes.device_code).await.unwrap_err()),
                (Problem::SlowDown, Some(seconds))
            );
        }
        room.clock.advance(Duration::from_secs(20));
        assert_eq!(
            wait(poll(&room.portal, &codes.device_code).await.unwrap_err()),
            (Problem::AuthorizationPending, Some(20))
        );
    }

    /// Nobody is let in by a code that was denied, has expired, or was never given.
    async fn the_others_are_sent_away(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        let denied = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await.unwrap();
        devices::deny(&room.portal, &ada, &denied.user_code).await.unwrap();
        assert_eq!(poll_problem(&room, &denied.device_code).await, Problem::AccessDenied);
        assert_eq!(poll_problem(&room, &denied.device_code).await, Problem::ExpiredToken);
        let late = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await.unwrap();
        room.clock.advance(Duration::from_secs(600));
        assert_eq!(poll_problem(&room, &late.device_code).await, Problem::ExpiredToken);
        let fault = devices::show(&room.portal, &ada, &late.user_code).await.unwrap_err();
        assert_eq!(fault.problem, Problem::NotFound);
        for never in ["", "culvert_dev_", "culvert_dev_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(poll_problem(&room, never).await, Problem::ExpiredToken, "{never}");
        }
    }

    /// Nobody gives more than was asked for, nor for longer than permitted, nor by a token.
    async fn nobody_gives_more_than_was_asked_for(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let codes = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await.unwrap();
        let approve = async |actor: &Actor, approval: Approval| {
            devices::approve(&room.portal, actor, &codes.user_code, &approval).await.unwrap_err()
        };
        let more = approve(&ada, Approval { scopes: Some(vec![Scope::AuditRead]), days: None }).await;
        assert_eq!((more.problem, more.field), (Problem::InvalidValue, Some("scopes")));
        for days in [0, 366, u32::MAX] {
            let fault = approve(&ada, Approval { scopes: None, days: Some(days) }).await;
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some("days")), "{days}");
        }
        let token = Actor { scopes: Some(Scope::ALL.to_vec()), ..ada.clone() };
        assert_eq!(approve(&token, Approval::default()).await.problem, Problem::Forbidden);
        let stale = Actor { proved_at: None, ..ada.clone() };
        assert_eq!(approve(&stale, Approval::default()).await.problem, Problem::StepUpNeeded);
        assert!(devices::start(&room.portal, &device(), "culvert", &[], None).await.is_err());
        assert!(devices::start(&room.portal, &device(), "a\u{202E}b", &SCOPES, None).await.is_err());
        devices::approve(&room.portal, &ada, &codes.user_code, &Approval::default()).await.unwrap();
    }

    /// Codes are not found by trying, and no address makes codes without end.
    async fn codes_are_not_guessed(room) {
        room.person("ada", &[Role::User]).await;
        let ada = room.actor("ada").await;
        let mut problems = Vec::new();
        for _ in 0..25 {
            problems.push(devices::show(&room.portal, &ada, "BBBB-BBBB").await.unwrap_err().problem);
        }
        assert_eq!((problems[0], problems[24]), (Problem::NotFound, Problem::TooMany));
        let mut refused = 0;
        for _ in 0..20 {
            let started = devices::start(&room.portal, &device(), "culvert", &SCOPES, None).await;
            refused += u32::from(started.is_err_and(|fault| fault.problem == Problem::TooMany));
        }
        assert_eq!(refused, 10);
    }
}
