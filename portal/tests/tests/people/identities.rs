//! Identities at providers: whose account they are, which roles they bring, and that nobody takes
//! an account over by one.

use std::time::Duration;

use culvert_portal_model::people::AccountState;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::AccountPolicy;
use culvert_portal_model::role::Role;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit::AuditQuery;
use culvert_portal_service::people::accounts::{self, UserEdit};
use culvert_portal_service::people::identities;
use culvert_portal_service::people::login::LoggedIn;
use culvert_portal_service::people::provider_login::{self, Arrived, Purpose, Return};
use culvert_portal_service::people::providers;
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::{PASSWORD, Room};
use serde_json::{Value, json};

use crate::authenticator::Authenticator;
use crate::issuer::{Issuer, browser, wish};

fn logged_in(arrived: Arrived) -> LoggedIn {
    match arrived {
        Arrived::LoggedIn(logged_in) => *logged_in,
        other => panic!("not logged in: {other:?}"),
    }
}

/// The roles that somebody has, by hand and altogether.
async fn roles(room: &Room, name: &str) -> (Vec<Role>, Vec<Role>) {
    let user = room.user(name).await;
    (user.roles_by_hand, user.roles)
}

on_both_databases! {
    /// An equal address of mail, verified or not, opens no account; only the linked identity does.
    async fn no_address_of_mail_takes_an_account_over(room) {
        room.person("ada", &[Role::Admin]).await;
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::LinkedOnly).await;
        for verified in [true, false] {
            let claims = json!({"email": "ada@example.org", "email_verified": verified, "preferred_username": "ada"});
            let fault = issuer.log_in(&room, "mallory", &claims).await.unwrap_err();
            assert_eq!(fault.problem, Problem::NotLinked);
        }
        let ada = room.actor("ada").await;
        assert!(matches!(issuer.link(&room, &ada, "ada-at-uni", &json!({})).await.unwrap(), Arrived::Linked));
        let got_in = logged_in(issuer.log_in(&room, "ada-at-uni", &json!({"email": "other@x.org"})).await.unwrap());
        assert_eq!(got_in.user.id, ada.user().unwrap());
        assert_eq!(got_in.user.email.as_deref(), Some("ada@example.org"), "the account's address stays");
        assert!(room.portal_has(&got_in.secret).await);
        // The same subject of another issuer is somebody else.
        let mut other = Issuer::new(&room, "other", AccountPolicy::LinkedOnly).await;
        assert_eq!(other.log_in(&room, "ada-at-uni", &json!({})).await.unwrap_err().problem, Problem::NotLinked);
    }

    /// One identity, one account; linking needs a recent proof and the same person throughout.
    async fn an_identity_that_is_linked_elsewhere_is_refused(room) {
        room.person("ada", &[Role::Admin]).await;
        room.person("boole", &[Role::User]).await;
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::LinkedOnly).await;
        let (ada, boole) = (room.actor("ada").await, room.actor("boole").await);
        issuer.link(&room, &ada, "s", &json!({})).await.unwrap();
        issuer.link(&room, &ada, "s", &json!({})).await.unwrap();
        let fault = issuer.link(&room, &boole, "s", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        assert_eq!(identities::list(&room.portal, &ada).await.unwrap().len(), 1);
        assert!(identities::list(&room.portal, &boole).await.unwrap().is_empty());
        // Begun as one person, ended as another, or as nobody.
        let departure = issuer.begin(&room, &boole, Purpose::Link).await.unwrap();
        let fault = issuer.back(&room, &ada, &departure, "t", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::NotLoggedIn);
        let departure = issuer.begin(&room, &boole, Purpose::Link).await.unwrap();
        let fault = issuer.back(&room, &browser(), &departure, "t", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::NotLoggedIn);
        let stale = Actor { proved_at: None, ..boole.clone() };
        assert_eq!(issuer.begin(&room, &stale, Purpose::Link).await.unwrap_err().problem, Problem::StepUpNeeded);
        // Nobody unlinks what is another's.
        let of_ada = identities::list(&room.portal, &ada).await.unwrap()[0].id;
        assert_eq!(identities::unlink(&room.portal, &boole, of_ada).await.unwrap_err().problem, Problem::NotFound);
    }

    /// What a browser brings back is good once, in that browser, for ten minutes.
    async fn a_login_is_bound_to_its_browser_and_spent_once(room) {
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        let departure = issuer.begin(&room, &browser(), Purpose::LogIn).await.unwrap();
        let another = issuer.begin(&room, &browser(), Purpose::LogIn).await.unwrap();
        let stolen = provider_login::Departure { browser: another.browser.clone(), ..departure.clone() };
        let fault = issuer.back(&room, &browser(), &stolen, "s", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Spent, "the state in another browser");
        // The answers that nobody asked for wait: the next login takes them.
        let state = url::Url::parse(&departure.url).unwrap();
        let state = state.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
        let denied = Return {
            state: &state,
            error: Some("access_denied"),
            browser: Some(&departure.browser),
            ..Return::default()
        };
        assert_eq!(
            provider_login::arrive(&room.portal, &browser(), &denied).await.unwrap_err().problem,
            Problem::ProviderRefused
        );
        assert_eq!(
            provider_login::arrive(&room.portal, &browser(), &denied).await.unwrap_err().problem,
            Problem::Spent
        );
        let late = issuer.begin(&room, &browser(), Purpose::LogIn).await.unwrap();
        room.clock.advance(Duration::from_secs(600));
        let fault = issuer.back(&room, &browser(), &late, "s", &json!({})).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Spent, "too late");
        for next in ["//evil.example", "https://evil.example", "/\\evil.example"] {
            let sent = provider_login::begin(&room.portal, &browser(), "uni", Purpose::LogIn, next, None).await;
            assert_eq!(sent.unwrap_err().field, Some("next"), "{next}");
        }
    }

    /// Roles given by hand and by the provider are apart: silence changes nothing, an empty list or
    /// nonsense takes the provider's, and only those.
    async fn groups_give_and_take_only_their_own_roles(room) {
        room.person("ada", &[Role::Admin]).await;
        room.person("grace", &[Role::Auditor]).await;
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::LinkedOnly).await;
        let grace = room.actor("grace").await;
        issuer.link(&room, &grace, "g", &json!({})).await.unwrap();
        let many: Vec<String> = (0..5_000).map(|number| format!("group-{number}")).collect();
        let mut many_and_ops = many.clone();
        many_and_ops.push("ops".to_owned());
        let (none, ops) = (vec![Role::Auditor], vec![Role::Operator, Role::Auditor]);
        let table: [(Value, &Vec<Role>); 9] = [
            (json!({}), &none),
            (json!({"groups": ["ops"]}), &ops),
            (json!({}), &ops),
            (json!({"groups": []}), &none),
            (json!({"groups": ["ops"]}), &ops),
            (json!({"groups": "ops"}), &none),
            (json!({"groups": many_and_ops}), &ops),
            (json!({"groups": [{"name": "ops"}]}), &none),
            (json!({"groups": many}), &none),
        ];
        for (claims, expected) in &table {
            let got_in = logged_in(issuer.log_in(&room, "g", claims).await.unwrap());
            let told: String = claims.to_string().chars().take(60).collect();
            assert_eq!(&&got_in.user.roles, expected, "{told}");
            assert_eq!(roles(&room, "grace").await, (vec![Role::Auditor], (*expected).clone()), "{told}");
            room.clock.advance(Duration::from_secs(10));
        }
    }

    /// Whoever loses a role by a login elsewhere has it nowhere any more.
    async fn a_change_of_roles_ends_the_other_sessions(room) {
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        let first = logged_in(issuer.log_in(&room, "s", &json!({"groups": ["ops"]})).await.unwrap());
        let second = logged_in(issuer.log_in(&room, "s", &json!({"groups": ["ops"]})).await.unwrap());
        assert!(room.portal_has(&first.secret).await && room.portal_has(&second.secret).await);
        let third = logged_in(issuer.log_in(&room, "s", &json!({"groups": []})).await.unwrap());
        assert!(!room.portal_has(&first.secret).await && !room.portal_has(&second.secret).await);
        assert!(room.portal_has(&third.secret).await);
        assert_eq!(third.user.roles, [Role::User]);
        assert!(third.user.version > second.user.version, "whoever edits the account reads it again");
    }

    /// The policy of a provider says who gets an account; a name that is taken stays whose it is.
    async fn newcomers_get_what_the_policy_says(room) {
        room.person("ada", &[Role::Admin]).await;
        let mut create = Issuer::new(&room, "create", AccountPolicy::Create).await;
        let claims =
            json!({"preferred_username": "ada", "name": "Ada\u{202E} L", "email": "new@x.org", "email_verified": true});
        let new = logged_in(create.log_in(&room, "s1", &claims).await.unwrap()).user;
        assert_eq!((new.name.as_str(), new.email.as_deref()), ("ada-2", Some("new@x.org")));
        assert_eq!((new.roles, new.display_name.as_str()), (vec![Role::User], "ada-2"));
        let unverified = json!({"email": "ada@example.org", "name": "Grace Hopper"});
        let new = logged_in(create.log_in(&room, "s2", &unverified).await.unwrap()).user;
        assert_eq!((new.name.as_str(), new.email, new.display_name.as_str()), ("ada-3", None, "Grace Hopper"));
        let new = logged_in(create.log_in(&room, "s3", &json!({"preferred_username": "日本"})).await.unwrap()).user;
        assert_eq!(new.name, "user");

        let mut approval = Issuer::new(&room, "approval", AccountPolicy::Approval).await;
        let claims = json!({"preferred_username": "boole", "groups": ["ops"]});
        for _ in 0..2 {
            let fault = approval.log_in(&room, "b", &claims).await.unwrap_err();
            assert_eq!(fault.problem, Problem::AccountInactive);
        }
        let boole = room.user("boole").await;
        assert_eq!(boole.state, AccountState::Pending);
        let ada = room.actor("ada").await;
        let edit = UserEdit { state: Some(AccountState::Active), ..UserEdit::default() };
        accounts::edit(&room.portal, &ada, boole.id, &edit, boole.version).await.unwrap();
        let got_in = logged_in(approval.log_in(&room, "b", &claims).await.unwrap());
        assert_eq!(got_in.user.roles, [Role::Operator, Role::User]);
        room.deactivate(&ada, &room.user("boole").await).await;
        assert_eq!(approval.log_in(&room, "b", &claims).await.unwrap_err().problem, Problem::AccountInactive);
        assert!(!room.portal_has(&got_in.secret).await);
    }

    /// The last way in stays; with it go the roles that an identity brought.
    async fn the_last_way_in_is_never_unlinked(room) {
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        let got_in = logged_in(
            issuer.log_in(&room, "s", &json!({"preferred_username": "eve", "groups": ["ops"]})).await.unwrap(),
        );
        let eve = Actor {
            who: culvert_portal_model::audit::Who::Session { user: got_in.user.id, session: got_in.session.id },
            roles: got_in.user.roles.clone(),
            proved_at: Some(got_in.session.created_at),
            ..browser()
        };
        let linked = identities::list(&room.portal, &eve).await.unwrap();
        let fault = identities::unlink(&room.portal, &eve, linked[0].id).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
        culvert_portal_service::people::oneself::change_password(&room.portal, &eve, Some(PASSWORD), PASSWORD).await.unwrap();
        identities::unlink(&room.portal, &eve, linked[0].id).await.unwrap();
        assert_eq!(roles(&room, "eve").await, (vec![Role::User], vec![Role::User]));
        assert!(room.portal_has(&got_in.secret).await, "the session that asks goes on, with what is left");
        // The identity is nobody's now: whoever has it begins anew, as somebody else.
        let again = logged_in(issuer.log_in(&room, "s", &json!({"preferred_username": "eve"})).await.unwrap());
        assert_eq!(again.user.name, "eve-2");
    }

    /// An account with a second factor asks for it after a login elsewhere, too.
    async fn a_second_factor_is_asked_for_here_too(room) {
        room.person("ada", &[Role::Admin]).await;
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::LinkedOnly).await;
        let ada = room.actor("ada").await;
        issuer.link(&room, &ada, "s", &json!({})).await.unwrap();
        let phone = Authenticator::set_up(&room, &ada).await;
        let Arrived::SecondFactorNeeded(secret) = issuer.log_in(&room, "s", &json!({})).await.unwrap() else {
            panic!("no code was asked for")
        };
        assert!(!room.portal_has(&secret).await, "what waits for a code is no session");
        let finish =
            async |code: &str| provider_login::finish(&room.portal, &browser(), Some(&secret), code, "test").await;
        assert_eq!(finish("000000").await.unwrap_err().problem, Problem::WrongCredentials);
        let got_in = finish(&phone.recovery[0]).await.unwrap();
        assert!(room.portal_has(&got_in.secret).await);
        assert_eq!(finish(&phone.recovery[1]).await.unwrap_err().problem, Problem::Spent);
    }

    /// Who has no password proves who they are at the provider, as themselves and just now.
    async fn a_proof_at_the_provider_gives_the_session_another_secret(room) {
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        let got_in = logged_in(issuer.log_in(&room, "s", &json!({})).await.unwrap());
        room.clock.advance(Duration::from_secs(20 * 60));
        let actor = async |secret: &str| {
            let found =
                culvert_portal_service::people::credentials::who_has_session(&room.portal, secret, "192.0.2.7").await;
            found.unwrap().unwrap()
        };
        let eve = actor(&got_in.secret).await;
        assert!(room.portal.permit(&eve, Action::TokenCreate).await.is_err());
        let mut prove = async |subject: &str, claims: Value| {
            // The description is read again after ten minutes.
            issuer.forget();
            let departure = issuer.begin(&room, &eve, Purpose::Prove).await.unwrap();
            assert!(departure.url.contains("prompt=login") && departure.url.contains("max_age=0"), "{}", departure.url);
            issuer.back_with(&room, &eve, &departure, subject, &claims, Some(&got_in.secret)).await
        };
        let fault = prove("s", json!({"auth_time": 1_000_000})).await.unwrap_err();
        assert!(fault.log.is_some_and(|log| log.contains("auth_time")));
        room.clock.advance(Duration::from_secs(601));
        assert_eq!(prove("t", json!({})).await.unwrap_err().problem, Problem::WrongCredentials);
        room.clock.advance(Duration::from_secs(601));
        let Arrived::Proved(secret) = prove("s", json!({})).await.unwrap().result else { panic!("not proved") };
        assert!(!room.portal_has(&got_in.secret).await, "the old secret is no longer good");
        assert!(room.portal.permit(&actor(&secret).await, Action::TokenCreate).await.is_ok());
    }

    /// A provider that goes takes its identities and roles with it, and never the last admin.
    async fn a_deleted_provider_leaves_nothing(room) {
        let mut issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        let got_in = logged_in(
            issuer.log_in(&room, "s", &json!({"preferred_username": "eve", "groups": ["admins"]})).await.unwrap(),
        );
        let (id, version) = (issuer.provider.id, issuer.provider.version);
        let fault = providers::delete(&room.portal, &Actor::host(), id, version).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict, "the only administrator is one by this provider");
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let moved = providers::ProviderWish {
            issuer: "https://x.example.org".to_owned(),
            ..wish("uni", AccountPolicy::Create)
        };
        let fault = providers::edit(&room.portal, &ada, id, &moved, version).await.unwrap_err();
        assert_eq!((fault.problem, fault.field), (Problem::Conflict, Some("issuer")));
        providers::delete(&room.portal, &ada, id, version).await.unwrap();
        assert_eq!(roles(&room, "eve").await, (vec![Role::User], vec![Role::User]));
        assert!(!room.portal_has(&got_in.secret).await);
        assert_eq!(issuer.log_in(&room, "s", &json!({})).await.unwrap_err().problem, Problem::NotFound);
    }

    /// The secret is written and never read: not shown, not in the trail.
    async fn the_secret_of_a_provider_is_never_shown(room) {
        let issuer = Issuer::new(&room, "uni", AccountPolicy::Create).await;
        assert!(issuer.provider.has_client_secret);
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let keep = providers::ProviderWish {
            client_secret: None,
            title: "Other".to_owned(),
            ..wish("uni", AccountPolicy::Create)
        };
        let kept = providers::edit(&room.portal, &ada, issuer.provider.id, &keep, 1).await.unwrap();
        assert!(kept.has_client_secret && kept.title == "Other");
        let none = providers::ProviderWish { client_secret: Some(String::new()), ..keep.clone() };
        let fault = providers::edit(&room.portal, &ada, issuer.provider.id, &none, 1).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Changed);
        assert!(!providers::edit(&room.portal, &ada, issuer.provider.id, &none, 2).await.unwrap().has_client_secret);
        for (field, bad) in [
            ("name", providers::ProviderWish { name: "callback".to_owned(), ..keep.clone() }),
            ("issuer", providers::ProviderWish { issuer: "http://uni.example.org".to_owned(), ..keep.clone() }),
            ("issuer", providers::ProviderWish { issuer: "https://uni.example.org?x".to_owned(), ..keep.clone() }),
            ("issuer", providers::ProviderWish { issuer: "https://a@uni.example.org".to_owned(), ..keep.clone() }),
            ("scopes", providers::ProviderWish { scopes: vec!["a b".to_owned()], ..keep.clone() }),
        ] {
            let fault = providers::create(&room.portal, &ada, &bad).await.unwrap_err();
            assert_eq!(fault.field, Some(field), "{fault:?}");
        }
        culvert_portal_service::sequencer::number_all(&room.portal).await.unwrap();
        let page = culvert_portal_service::audit::list(&room.portal, &ada, &AuditQuery::default()).await.unwrap();
        let trail = serde_json::to_string(&page).unwrap();
        assert!(trail.contains("provider.edit") && !trail.contains("a secret that nobody sees"));
    }
}
