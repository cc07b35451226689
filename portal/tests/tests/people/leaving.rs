//! Whoever is deactivated is out by every way, for good; and nobody leaves a portal without an
//! administrator.

use std::time::Duration;

use culvert_portal_model::people::{AccountState, User};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::AccountPolicy;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_model::settings::{Registration, Settings};
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::accounts::{self, NewUser, UserEdit};
use culvert_portal_service::people::devices::{self, Approval};
use culvert_portal_service::people::invitations::{self, InvitationWish};
use culvert_portal_service::people::provider_login::{self, Purpose};
use culvert_portal_service::people::tokens::{self, TokenWish};
use culvert_portal_service::people::{credentials, reset};
use culvert_portal_service::portal::Portal;
use culvert_portal_service::settings;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{ADDRESS, PASSWORD, Room};
use serde_json::json;

use crate::authenticator::Authenticator;
use crate::issuer::{Issuer, browser};

async fn set_state(room: &Room, actor: &Actor, name: &str, state: AccountState) -> User {
    let user = room.user(name).await;
    let edit = UserEdit { state: Some(state), ..UserEdit::default() };
    accounts::edit(&room.portal, actor, user.id, &edit, user.version).await.unwrap()
}

/// What somebody can still get in by, at one portal.
struct WaysIn {
    session: String,
    token: String,
    device: String,
    reset: String,
    invitation: String,
    second_step: String,
}

impl WaysIn {
    async fn all_dead(&self, portal: &Portal, when: &str) {
        let session = credentials::who_has_session(portal, &self.session, ADDRESS).await.unwrap();
        assert!(session.is_none(), "{when}: the session");
        let token = credentials::who_has_token(portal, &self.token, ADDRESS).await.unwrap();
        assert!(token.is_none(), "{when}: the token");
        let polled = devices::poll(portal, &browser(), &self.device).await.unwrap_err();
        assert_eq!(polled.problem, Problem::ExpiredToken, "{when}: the device that waits");
        let reset = reset::reset_password(portal, &browser(), &self.reset, "another long password").await;
        assert_eq!(reset.unwrap_err().problem, Problem::Spent, "{when}: the link for a new password");
        let new = NewUser { name: "again".to_owned(), password: Some(PASSWORD.to_owned()), ..NewUser::default() };
        let joined = invitations::accept(portal, &browser(), &self.invitation, &new).await;
        assert_eq!(joined.unwrap_err().problem, Problem::Spent, "{when}: the invitation that they made");
        let step = provider_login::finish(portal, &browser(), Some(&self.second_step), "000000", "test").await;
        assert_eq!(step.unwrap_err().problem, Problem::Spent, "{when}: the login that is under way");
    }
}

on_both_databases! {
    /// Cookie, token, device that waits, links, a login under way, an invitation that they made for
    /// themselves: dead at both portals within a second, and after they are let in again.
    async fn whoever_is_deactivated_is_out_for_good(room) {
        room.person("ada", &[Role::Admin]).await;
        room.person("eve", &[Role::Admin]).await;
        let (ada, other) = (room.actor("ada").await, room.second_portal().await);
        let open = Settings { registration: Registration::Invitation, ..Settings::default() };
        settings::edit(&room.portal, &ada, &open, 0).await.unwrap();
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::LinkedOnly).await;
        let session = room.log_in("eve").await.secret;
        let eve = credentials::who_has_session(&room.portal, &session, ADDRESS).await.unwrap().unwrap();
        let wish = TokenWish { name: "t".to_owned(), scopes: vec![Scope::PeopleRead], days: 1 };
        let token = tokens::create(&room.portal, &eve, &wish).await.unwrap().secret;
        let codes = devices::start(&room.portal, &browser(), "culvert", &[Scope::PeopleRead], None).await.unwrap();
        devices::approve(&room.portal, &eve, &codes.user_code, &Approval::default()).await.unwrap();
        let link = reset::make_link(&room.portal, &ada, eve.user().unwrap()).await.unwrap().secret;
        let wish = InvitationWish { roles: vec![Role::Admin], email: None, days: 1 };
        let invitation = invitations::invite(&room.portal, &eve, &wish).await.unwrap().link.secret;
        issuer.link(&room, &eve, "eve-at-uni", &json!({})).await.unwrap();
        let phone = Authenticator::set_up(&room, &eve).await;
        let arrived = issuer.log_in(&room, "eve-at-uni", &json!({})).await.unwrap();
        let provider_login::Arrived::SecondFactorNeeded(second_step) = arrived else { panic!("{arrived:?}") };
        let departure = issuer.begin(&room, &eve, Purpose::Link).await.unwrap();
        let ways = WaysIn { session, token, device: codes.device_code, reset: link, invitation, second_step };

        set_state(&room, &ada, "eve", AccountState::Deactivated).await;
        ways.all_dead(&room.portal, "at once").await;
        room.clock.advance(Duration::from_millis(1_001));
        ways.all_dead(&other, "at the other portal").await;
        let fault = issuer.log_in(&room, "eve-at-uni", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::AccountInactive);
        for (password, problem) in [(PASSWORD, Problem::AccountInactive), ("wrong", Problem::WrongCredentials)] {
            let attempt = culvert_portal_tests::room::attempt("eve", password);
            let fault = culvert_portal_service::people::login::log_in(&room.portal, &attempt).await.unwrap_err();
            assert_eq!(fault.problem, problem, "{password}");
        }
        let fault = issuer.back(&room, &eve, &departure, "x", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Spent, "the identity that they were about to link");

        set_state(&room, &ada, "eve", AccountState::Active).await;
        room.clock.advance(Duration::from_secs(60));
        ways.all_dead(&room.portal, "let in again").await;
        ways.all_dead(&other, "let in again, at the other portal").await;
        let again = culvert_portal_service::people::login::Attempt {
            code: Some(&phone.code(&room)),
            ..culvert_portal_tests::room::attempt("eve", PASSWORD)
        };
        culvert_portal_service::people::login::log_in(&room.portal, &again).await.unwrap();
    }

    /// What somebody may do changes: their sessions end, at both portals.
    async fn a_change_of_roles_ends_sessions(room) {
        room.person("ada", &[Role::Admin]).await;
        let boole = room.person("boole", &[Role::User]).await;
        let (ada, other) = (room.actor("ada").await, room.second_portal().await);
        let secret = room.log_in("boole").await.secret;
        accounts::set_roles(&room.portal, &ada, boole.id, &[Role::Operator], boole.version).await.unwrap();
        assert!(!room.portal_has(&secret).await);
        room.clock.advance(Duration::from_millis(1_001));
        assert!(credentials::who_has_session(&other, &secret, ADDRESS).await.unwrap().is_none());
        let stale = accounts::set_roles(&room.portal, &ada, boole.id, &[Role::Admin], boole.version).await.unwrap_err();
        assert_eq!(stale.problem, Problem::Changed);
    }

    /// The last administrator stays one: also when two take the role from each other at once.
    async fn the_last_administrator_stays(room) {
        let ada = room.person("ada", &[Role::Admin]).await;
        let actor = room.actor("ada").await;
        let fault = accounts::set_roles(&room.portal, &actor, ada.id, &[Role::User], ada.version).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        let edit = UserEdit { state: Some(AccountState::Deactivated), ..UserEdit::default() };
        let fault = accounts::edit(&room.portal, &actor, ada.id, &edit, ada.version).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        let grace = room.person("grace", &[Role::Admin]).await;
        let (other, second) = (room.second_portal().await, room.actor("grace").await);
        for _ in 0..5 {
            let (ada, grace) = (room.user("ada").await, room.user("grace").await);
            let (first, last) = tokio::join!(
                accounts::set_roles(&room.portal, &actor, grace.id, &[Role::User], grace.version),
                accounts::set_roles(&other, &second, ada.id, &[Role::User], ada.version),
            );
            assert!(first.is_ok() ^ last.is_ok(), "{first:?} {last:?}");
            let admins = [room.user("ada").await, room.user("grace").await];
            let left = admins.iter().filter(|user| user.roles.contains(&Role::Admin)).count();
            assert_eq!(left, 1, "{first:?} {last:?}");
            for user in admins {
                let given =
                    accounts::set_roles(&room.portal, &Actor::host(), user.id, &[Role::Admin], user.version).await;
                given.unwrap();
            }
        }
        assert!(room.portal.permit(&second, Action::UserRoles).await.is_ok());
        assert_eq!(grace.name, "grace");
    }

    /// A portal on whose host accounts were made before there was an administrator: they are
    /// edited as any others.
    async fn where_there_never_was_an_administrator_nothing_is_in_the_way(room) {
        let boole = room.person("boole", &[Role::User]).await;
        let edit = UserEdit { display_name: Some("George".to_owned()), ..UserEdit::default() };
        let host = Actor::host();
        let boole = accounts::edit(&room.portal, &host, boole.id, &edit, boole.version).await.unwrap();
        let boole = accounts::set_roles(&room.portal, &host, boole.id, &[Role::Viewer], boole.version).await.unwrap();
        let boole = accounts::set_roles(&room.portal, &host, boole.id, &[Role::Admin], boole.version).await.unwrap();
        let fault = accounts::set_roles(&room.portal, &host, boole.id, &[], boole.version).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict, "from here on there is one");
    }
}
