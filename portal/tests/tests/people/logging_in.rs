//! Logging in: who gets in, who does not, and who is never locked out.

use std::time::Duration;

use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_service::people::login::{self, Attempt};
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{PASSWORD, attempt};

on_both_databases! {
    /// The same answer for a wrong password, an unknown name, and somebody who is not let in.
    async fn nobody_learns_which_part_was_wrong(room) {
        room.person("ada", &[Role::User]).await;
        for (name, password) in [("ada", "wrong"), ("nobody", PASSWORD), ("", ""), ("a\0b", "x")] {
            let fault = login::log_in(&room.portal, &attempt(name, password)).await.unwrap_err();
            assert_eq!(fault.problem, Problem::WrongCredentials, "{name:?}");
            assert_eq!(fault.detail, "the name, password or code is wrong");
        }
        room.log_in("ada").await;
    }

    /// A cookie is somebody until it idles too long, and never after its absolute end.
    async fn a_session_ends_when_it_is_not_used_and_when_it_is_old(room) {
        room.person("ada", &[Role::User]).await;
        let secret = room.log_in("ada").await.secret;
        for _ in 0..23 {
            room.clock.advance(Duration::from_secs(29 * 60));
            assert!(room.portal_has(&secret).await, "used every 29 minutes");
        }
        room.clock.advance(Duration::from_secs(3600));
        assert!(!room.portal_has(&secret).await, "twelve hours");
        let idle = room.log_in("ada").await.secret;
        room.clock.advance(Duration::from_secs(31 * 60));
        assert!(!room.portal_has(&idle).await, "idle");
    }

    /// An attack from everywhere does not lock out who comes from where they usually are.
    async fn an_attack_locks_nobody_out(room) {
        room.person("ada", &[Role::User]).await;
        room.log_in("ada").await;
        let mut refused = 0;
        for number in 0..200 {
            let address = format!("198.51.{}.{}", number / 2, number % 250);
            let wrong = Attempt { address: &address, ..attempt("ada", "wrong") };
            let fault = login::log_in(&room.portal, &wrong).await.unwrap_err();
            refused += u32::from(fault.problem == Problem::TooMany);
        }
        assert!(refused > 100, "{refused} of 200 attempts from unknown networks were too many");
        room.log_in("ada").await;
        let away = Attempt { address: "203.0.113.5", ..attempt("ada", PASSWORD) };
        let fault = login::log_in(&room.portal, &away).await.unwrap_err();
        assert_eq!(fault.problem, Problem::TooMany, "from an unknown network even the right password waits");
        assert!(fault.retry_after_seconds.is_some_and(|seconds| seconds <= 20), "but not for long: {fault:?}");
        room.clock.advance(Duration::from_secs(21));
        login::log_in(&room.portal, &away).await.unwrap();
    }

    /// A right is gone within a second of its loss, everywhere.
    async fn a_second_portal_knows_within_a_second_who_is_out(room) {
        let admin = room.person("ada", &[Role::Admin]).await;
        room.person("boole", &[Role::User]).await;
        let secret = room.log_in("boole").await.secret;
        let other = room.second_portal().await;
        assert!(culvert_portal_service::people::credentials::who_has_session(&other, &secret, "192.0.2.7").await.unwrap().is_some());
        let ada = room.actor("ada").await;
        assert_eq!(ada.user(), Some(admin.id));
        let boole = room.user("boole").await;
        room.deactivate(&ada, &boole).await;
        assert!(!room.portal_has(&secret).await, "here at once");
        room.clock.advance(Duration::from_millis(1_001));
        assert!(culvert_portal_service::people::credentials::who_has_session(&other, &secret, "192.0.2.7").await.unwrap().is_none());
        assert!(room.portal.permit(&ada, Action::UserList).await.is_ok());
    }
}
