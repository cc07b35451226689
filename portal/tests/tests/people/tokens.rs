//! API tokens: what they may, how long, and who sees that they were used.

use std::time::Duration;

use culvert_portal_model::page::PageRequest;
use culvert_portal_model::permission::{Action, TokenAccess};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use culvert_portal_service::people::credentials;
use culvert_portal_service::people::tokens::{self, TokenWish};
use culvert_portal_tests::on_both_databases;
use culvert_portal_tests::room::ADDRESS;

fn wish(scopes: &[Scope], days: u32) -> TokenWish {
    TokenWish { name: "a token".to_owned(), scopes: scopes.to_vec(), days }
}

on_both_databases! {
    /// A token does what its scopes name, and nothing for which a person must be there.
    async fn a_token_does_what_its_scopes_name(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        for scope in Scope::ALL {
            let made = tokens::create(&room.portal, &ada, &wish(&[scope, scope], 1)).await.unwrap();
            assert_eq!(made.token.scopes, [scope]);
            assert!(made.secret.starts_with(&made.token.prefix) && made.secret.len() == 55);
            let actor = credentials::who_has_token(&room.portal, &made.secret, ADDRESS).await.unwrap().unwrap();
            for action in Action::ALL {
                let permitted = room.portal.permit(&actor, *action).await.is_ok();
                let named = match action.token() {
                    TokenAccess::Scope(needed) => needed == scope,
                    TokenAccess::Every => true,
                    TokenAccess::Never => false,
                };
                assert_eq!(permitted, named, "{scope} {action:?}");
            }
        }
    }

    /// A token shows itself and gives itself up, and no other; a session has none to give up.
    async fn a_token_gives_itself_up(room) {
        room.person("ada", &[Role::Admin]).await;
        let ada = room.actor("ada").await;
        let [kept, given_up] = [
            tokens::create(&room.portal, &ada, &wish(&[Scope::PeopleRead], 1)).await.unwrap(),
            tokens::create(&room.portal, &ada, &wish(&[Scope::AuditRead], 2)).await.unwrap(),
        ];
        let who = async |secret: &str| credentials::who_has_token(&room.portal, secret, ADDRESS).await.unwrap();
        let program = who(&given_up.secret).await.unwrap();
        let shown = tokens::current(&room.portal, &program).await.unwrap();
        assert_eq!((shown.id, &shown.scopes), (given_up.token.id, &given_up.token.scopes));
        tokens::give_up(&room.portal, &program).await.unwrap();
        assert!(who(&given_up.secret).await.is_none() && who(&kept.secret).await.is_some());
        assert_eq!(tokens::give_up(&room.portal, &program).await.unwrap_err().problem, Problem::NotFound, "once");
        for fault in [
            tokens::current(&room.portal, &ada).await.unwrap_err(),
            tokens::give_up(&room.portal, &ada).await.unwrap_err(),
        ] {
            assert_eq!(fault.problem, Problem::Conflict);
        }
    }

    /// A token ends: at its time, when it is revoked, and for others it is not there.
    async fn a_token_ends(room) {
        room.person("ada", &[Role::Admin]).await;
        room.person("boole", &[Role::User]).await;
        let (ada, boole) = (room.actor("ada").await, room.actor("boole").await);
        let short = tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], 1)).await.unwrap();
        let long = tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], 365)).await.unwrap();
        for days in [0, 366] {
            let fault = tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], days)).await.unwrap_err();
            assert_eq!(fault.field, Some("days"));
        }
        assert_eq!(tokens::create(&room.portal, &boole, &wish(&[], 1)).await.unwrap_err().field, Some("scopes"));
        let is_somebody =
            async |secret: &str| credentials::who_has_token(&room.portal, secret, ADDRESS).await.unwrap().is_some();
        assert!(is_somebody(&short.secret).await);
        room.clock.advance(Duration::from_secs(86_400));
        assert!(!is_somebody(&short.secret).await, "it has expired");
        assert!(is_somebody(&long.secret).await);
        let carol = {
            room.person("carol", &[Role::User]).await;
            room.actor("carol").await
        };
        let fault = tokens::revoke(&room.portal, &carol, long.token.id).await.unwrap_err();
        assert_eq!(fault.problem, Problem::NotFound, "another's is not there");
        assert!(
            tokens::list(&room.portal, &carol, boole.user(), &PageRequest::default()).await.unwrap().items.is_empty()
        );
        let other = room.second_portal().await;
        assert!(credentials::who_has_token(&other, &long.secret, ADDRESS).await.unwrap().is_some());
        tokens::revoke(&room.portal, &ada, long.token.id).await.unwrap();
        assert!(!is_somebody(&long.secret).await, "here at once");
        room.clock.advance(Duration::from_millis(1_001));
        assert!(credentials::who_has_token(&other, &long.secret, ADDRESS).await.unwrap().is_none());
    }

    /// The list tells when and from where a token was last used, to the minute.
    async fn its_owner_sees_when_it_was_used(room) {
        room.person("boole", &[Role::User]).await;
        let boole = room.actor("boole").await;
        let made = tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], 1)).await.unwrap();
        let listed =
            async || tokens::list(&room.portal, &boole, None, &PageRequest::default()).await.unwrap().items.remove(0);
        assert_eq!(listed().await.last_used_at, None);
        room.clock.advance(Duration::from_secs(100));
        let at = room.portal.now();
        credentials::who_has_token(&room.portal, &made.secret, "203.0.113.8").await.unwrap();
        assert_eq!(listed().await.last_used_at, Some(at));
        assert_eq!(listed().await.last_used_address.as_deref(), Some("203.0.113.8"));
        room.clock.advance(Duration::from_secs(30));
        credentials::who_has_token(&room.portal, &made.secret, "203.0.113.9").await.unwrap();
        assert_eq!(listed().await.last_used_at, Some(at), "to the minute");
        room.clock.advance(Duration::from_secs(31));
        credentials::who_has_token(&room.portal, &made.secret, "203.0.113.9").await.unwrap();
        assert_eq!(listed().await.last_used_address.as_deref(), Some("203.0.113.9"));
    }

    /// One person has a hundred at most.
    async fn nobody_makes_tokens_without_end(room) {
        room.person("boole", &[Role::User]).await;
        let boole = room.actor("boole").await;
        for _ in 0..100 {
            tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], 1)).await.unwrap();
        }
        let fault = tokens::create(&room.portal, &boole, &wish(&[Scope::TransfersRead], 1)).await.unwrap_err();
        assert_eq!(fault.problem, Problem::Conflict);
    }
}
