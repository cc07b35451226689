//! Joining: by invitation, by registration, by the setup link; what is spent is spent once.

use std::time::Duration;

use culvert_portal_model::people::AccountState;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::settings::{Registration, Settings};
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts::{self, NewUser};
use culvert_portal_service::people::invitations::{self, InvitationWish};
use culvert_portal_service::people::{login, registration, reset, setup};
use culvert_portal_service::settings;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{PASSWORD, Room, attempt};

use crate::issuer::browser;

fn account(name: &str) -> NewUser {
    NewUser { name: name.to_owned(), password: Some(PASSWORD.to_owned()), ..NewUser::default() }
}

async fn open(room: &Room, registration: Registration) -> Actor {
    room.person("ada", &[Role::Admin]).await;
    let ada = room.actor("ada").await;
    settings::edit(&room.portal, &ada, &Settings { registration, ..Settings::default() }, 0).await.unwrap();
    ada
}

on_both_databases! {
    /// Two browsers, two portals, one invitation: one account.
    async fn of_two_browsers_one_joins(room) {
        let ada = open(&room, Registration::Invitation).await;
        let other = room.second_portal().await;
        let wish = InvitationWish { roles: vec![Role::Operator], email: None, days: 7 };
        for number in 0..5 {
            let secret = invitations::invite(&room.portal, &ada, &wish).await.unwrap().link.secret;
            let (one, two) = (account(&format!("one{number}")), account(&format!("two{number}")));
            let somewhere = Actor::nobody(Some(format!("198.51.100.{number}")), None);
            let (first, second) = tokio::join!(
                invitations::accept(&room.portal, &somewhere, &secret, &one),
                invitations::accept(&other, &somewhere, &secret, &two),
            );
            assert!(first.is_ok() ^ second.is_ok(), "{first:?} {second:?}");
            let (joined, refused) = if first.is_ok() { (first, second) } else { (second, first) };
            assert_eq!(joined.unwrap().roles, [Role::Operator]);
            assert_eq!(refused.unwrap_err().problem, Problem::Spent);
        }
        let users = accounts::list(&room.portal, &ada, &Default::default(), &Default::default()).await.unwrap().items;
        assert_eq!(users.len(), 6);
    }

    /// An invitation ends, is withdrawn, and is worth nothing in other words.
    async fn an_invitation_that_is_no_longer_good_lets_nobody_in(room) {
        let ada = open(&room, Registration::Invitation).await;
        let wish = InvitationWish { roles: vec![Role::User], email: None, days: 1 };
        let withdrawn = invitations::invite(&room.portal, &ada, &wish).await.unwrap();
        invitations::withdraw(&room.portal, &ada, withdrawn.invitation.id).await.unwrap();
        let late = invitations::invite(&room.portal, &ada, &wish).await.unwrap();
        room.clock.advance(Duration::from_secs(86_400));
        let changed = format!("{}A", &late.link.secret[..late.link.secret.len() - 1]);
        for secret in [withdrawn.link.secret.as_str(), &late.link.secret, &changed] {
            let fault = invitations::accept(&room.portal, &browser(), secret, &account("eve")).await.unwrap_err();
            assert_eq!(fault.problem, Problem::Spent, "{secret}");
        }
        // What was never given is not spent: the whole link, what documents write for a secret.
        for secret in [late.link.url.as_str(), "culvert_inv_\u{2026}", ""] {
            let fault = invitations::accept(&room.portal, &browser(), secret, &account("eve")).await.unwrap_err();
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some("secret")), "{secret}");
            assert!(fault.detail.contains("behind #"), "{}", fault.detail);
        }
        let ada = room.actor("ada").await;
        assert_eq!(
            invitations::invite(&room.portal, &ada, &InvitationWish { days: 31, ..wish.clone() })
                .await
                .unwrap_err()
                .field,
            Some("days")
        );
        // A name that is taken spends nothing.
        let secret = invitations::invite(&room.portal, &ada, &wish).await.unwrap().link.secret;
        let taken = invitations::accept(&room.portal, &browser(), &secret, &account("ADA")).await.unwrap_err();
        assert_eq!((taken.problem, taken.field), (Problem::Conflict, Some("name")));
        invitations::accept(&room.portal, &browser(), &secret, &account("eve")).await.unwrap();
        // Whoever may no longer invite has invited nobody.
        room.person("eve2", &[Role::Admin]).await;
        let eve = room.actor("eve2").await;
        let secret = invitations::invite(&room.portal, &eve, &wish).await.unwrap().link.secret;
        let user = room.user("eve2").await;
        accounts::set_roles(&room.portal, &ada, user.id, &[Role::User], user.version).await.unwrap();
        let fault = invitations::accept(&room.portal, &browser(), &secret, &account("mallory")).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Spent);
    }

    /// Registration is open where it is, gives an account that waits, and one name to one.
    async fn whoever_registers_waits(room) {
        let ada = open(&room, Registration::Approval).await;
        let other = room.second_portal().await;
        let (eve, again) = (account("eve"), account("Eve"));
        let somebody = browser();
        let (first, second) = tokio::join!(
            registration::register(&room.portal, &somebody, &eve),
            registration::register(&other, &somebody, &again),
        );
        assert!(first.is_ok() ^ second.is_ok(), "{first:?} {second:?}");
        let eve = room.user("eve").await;
        assert_eq!((eve.state, eve.roles), (AccountState::Pending, vec![Role::User]));
        let fault = login::log_in(&room.portal, &attempt("eve", PASSWORD)).await.unwrap_err();
        assert_eq!(fault.problem, Problem::AccountInactive, "{}", fault.detail);
        assert!(fault.detail.contains("waits for an administrator"), "{}", fault.detail);
        let fault = login::log_in(&room.portal, &attempt("eve", "another engine two")).await.unwrap_err();
        assert_eq!(fault.problem, Problem::WrongCredentials, "without the password, nothing is told");
        let mut refused = 0;
        for number in 0..15 {
            let made = registration::register(&room.portal, &somebody, &account(&format!("x{number}"))).await;
            refused += u32::from(made.is_err_and(|fault| fault.problem == Problem::TooMany));
        }
        assert_eq!(refused, 7, "ten from one address, then one in half a minute");
        settings::edit(&room.portal, &ada, &Settings::default(), 1).await.unwrap();
        room.clock.advance(Duration::from_secs(600));
        let fault = registration::register(&room.portal, &somebody, &account("late")).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Forbidden);
        let ada = room.actor("ada").await;
        let wish = InvitationWish { roles: vec![], email: None, days: 1 };
        assert_eq!(invitations::invite(&room.portal, &ada, &wish).await.unwrap_err().problem, Problem::Conflict);
    }

    /// Of two browsers with the setup link one makes the first administrator.
    async fn there_is_one_first_administrator(room) {
        let link = setup::link(&room.portal).await.unwrap().unwrap().secret;
        let newer = setup::link(&room.portal).await.unwrap().unwrap().secret;
        let other = room.second_portal().await;
        let (one, two, somebody) = (account("ada"), account("eve"), browser());
        let fault = setup::set_up(&room.portal, &somebody, &link, &one).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Spent, "the newest link is the good one");
        for wrong in [format!("https://portal.example.org/setup#{newer}"), newer.replace("lnk", "inv"), String::new()] {
            let fault = setup::set_up(&room.portal, &somebody, &wrong, &one).await.unwrap_err();
            assert_eq!((fault.problem, fault.field), (Problem::InvalidValue, Some("secret")), "{wrong}");
        }
        let (first, second) = tokio::join!(
            setup::set_up(&room.portal, &somebody, &newer, &one),
            setup::set_up(&other, &somebody, &newer, &two),
        );
        assert!(first.is_ok() ^ second.is_ok(), "{first:?} {second:?}");
        assert!(setup::link(&room.portal).await.unwrap().is_none());
    }

    /// A link for a new password is good once, for an hour, until there is a newer one; it ends the
    /// sessions and leaves the second factor.
    async fn a_link_for_a_new_password_is_good_once(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let user = room.person("eve", &[Role::User]).await;
        let session = room.log_in("eve").await.secret;
        let phone = crate::authenticator::Authenticator::set_up(&room, &room.actor("eve").await).await;
        let older = reset::make_link(&room.portal, &ada, user.id).await.unwrap().secret;
        let newer = reset::make_link(&room.portal, &ada, user.id).await.unwrap().secret;
        let set = async |secret: &str, password: &str| {
            reset::reset_password(&room.portal, &browser(), secret, password).await
        };
        assert_eq!(set(&older, "another long password").await.unwrap_err().problem, Problem::Spent);
        assert_eq!(set(&newer, "short").await.unwrap_err().field, Some("password"));
        let whole = format!("https://portal.example.org/reset#{newer}");
        assert_eq!(set(&whole, "another long password").await.unwrap_err().field, Some("secret"));
        set(&newer, "another long password").await.unwrap();
        assert_eq!(set(&newer, "yet another password").await.unwrap_err().problem, Problem::Spent);
        assert!(!room.portal_has(&session).await);
        let without = login::log_in(&room.portal, &attempt("eve", "another long password")).await.unwrap_err();
        assert_eq!(without.problem, Problem::SecondFactorNeeded, "the link proves only who reads the mail");
        room.clock.advance(Duration::from_secs(30));
        let code = phone.code(&room);
        let with = login::Attempt { code: Some(&code), ..attempt("eve", "another long password") };
        login::log_in(&room.portal, &with).await.unwrap();
        let late = reset::make_link(&room.portal, &ada, user.id).await.unwrap().secret;
        room.clock.advance(Duration::from_secs(3_600));
        assert_eq!(set(&late, "yet another password").await.unwrap_err().problem, Problem::Spent);
    }

    /// Weak passwords are refused wherever one is set, in words that say why.
    async fn weak_passwords_are_refused_everywhere(room) {
        let ada = open(&room, Registration::Approval).await;
        for (password, why) in [
            ("short", "fewer than 12"),
            ("aaaaaaaaaaaa", "simple pattern"),
            ("qwertyuiop12345", "simple pattern"),
            ("123456789012", "simple pattern"),
            ("ada-lovelace1", "name"),
        ] {
            let new =
                NewUser { name: "ada-lovelace".to_owned(), password: Some(password.to_owned()), ..NewUser::default() };
            for made in [
                accounts::create(&room.portal, &ada, &new).await,
                registration::register(&room.portal, &browser(), &new).await,
            ] {
                let fault = made.unwrap_err();
                assert_eq!(fault.field, Some("password"), "{password}");
                assert!(fault.detail.contains(why), "{password}: {}", fault.detail);
                assert!(!fault.detail.contains(password));
            }
            room.clock.advance(Duration::from_secs(60));
        }
        let long = NewUser { password: Some("x y z ".repeat(200)), ..account("eve") };
        assert!(accounts::create(&room.portal, &ada, &long).await.is_err(), "more than 1024 bytes");
    }
}
