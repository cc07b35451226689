//! An identity provider whose answers the test writes: it signs whatever it is told.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use culvert_portal_model::providers::{AccountPolicy, Provider};
use culvert_portal_model::role::Role;
use culvert_portal_seams::clock::Clock as _;
use culvert_portal_seams::http::OutResponse;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::fault::Fault;
use culvert_portal_service::people::provider_login::{self, Arrival, Arrived, Departure, Purpose, Return};
use culvert_portal_service::people::providers::{self, ProviderWish};
use culvert_portal_tests::room::{ADDRESS, Room};
use serde_json::{Value, json};
use url::Url;

pub struct Issuer {
    pub provider: Provider,
    address: String,
    pair: Ed25519KeyPair,
    is_known: bool,
}

pub fn wish(name: &str, accounts: AccountPolicy) -> ProviderWish {
    ProviderWish {
        name: name.to_owned(),
        title: format!("The {name}"),
        issuer: format!("https://{name}.example.org"),
        client_id: "portal".to_owned(),
        client_secret: Some("a secret that nobody sees".to_owned()),
        scopes: vec!["email".to_owned()],
        groups_claim: Some("groups".to_owned()),
        roles_by_group: [("ops".to_owned(), vec![Role::Operator]), ("admins".to_owned(), vec![Role::Admin])].into(),
        accounts,
        inside: false,
        enabled: true,
    }
}

pub fn browser() -> Actor {
    Actor::nobody(Some(ADDRESS.to_owned()), None)
}

impl Issuer {
    pub async fn new(room: &Room, name: &str, accounts: AccountPolicy) -> Self {
        let provider = providers::create(&room.portal, &Actor::host(), &wish(name, accounts)).await.unwrap();
        let address = provider.issuer.clone();
        Self { provider, address, pair: Ed25519KeyPair::generate().unwrap(), is_known: false }
    }

    /// Sends a browser away.
    pub async fn begin(&mut self, room: &Room, actor: &Actor, purpose: Purpose) -> Result<Departure, Fault> {
        if !self.is_known {
            let at = |path: &str| format!("{}/{path}", self.address);
            answer(
                room,
                &json!({"issuer": self.address, "authorization_endpoint": at("authorize"),
                "token_endpoint": at("token"), "jwks_uri": at("keys")}),
            );
        }
        provider_login::begin(&room.portal, actor, &self.provider.name, purpose, "/next", None).await
    }

    /// Brings it back as somebody.
    pub async fn back(
        &mut self,
        room: &Room,
        actor: &Actor,
        departure: &Departure,
        subject: &str,
        claims: &Value,
    ) -> Result<Arrival, Fault> {
        let session = None;
        self.back_with(room, actor, departure, subject, claims, session).await
    }

    pub async fn back_with(
        &mut self,
        room: &Room,
        actor: &Actor,
        departure: &Departure,
        subject: &str,
        claims: &Value,
        session: Option<&str>,
    ) -> Result<Arrival, Fault> {
        let url = Url::parse(&departure.url).unwrap();
        let sent = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let now = room.clock.now().as_second();
        let mut all = json!({"iss": self.address, "aud": "portal", "sub": subject, "nonce": sent("nonce"),
            "iat": now, "exp": now + 60, "auth_time": now});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        answer(room, &json!({"id_token": self.signed(&all), "token_type": "Bearer"}));
        if !self.is_known {
            let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
            answer(room, &json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}));
            self.is_known = true;
        }
        let state = sent("state").unwrap();
        let back = Return {
            state: &state,
            code: Some("code"),
            browser: Some(&departure.browser),
            session,
            agent: "test",
            ..Return::default()
        };
        provider_login::arrive(&room.portal, actor, &back).await
    }

    /// A whole login.
    pub async fn log_in(&mut self, room: &Room, subject: &str, claims: &Value) -> Result<Arrived, Fault> {
        let departure = self.begin(room, &browser(), Purpose::LogIn).await?;
        Ok(self.back(room, &browser(), &departure, subject, claims).await?.result)
    }

    /// Links an identity to the account of somebody who is logged in.
    pub async fn link(&mut self, room: &Room, actor: &Actor, subject: &str, claims: &Value) -> Result<Arrived, Fault> {
        let departure = self.begin(room, actor, Purpose::Link).await?;
        Ok(self.back(room, actor, &departure, subject, claims).await?.result)
    }

    /// The portal has forgotten what the provider says of itself: it asks again.
    pub fn forget(&mut self) {
        self.is_known = false;
    }

    fn signed(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "k"})), part(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()).as_ref()))
    }
}

fn answer(room: &Room, document: &Value) {
    let body = document.to_string().into_bytes();
    room.http.answer(Ok(OutResponse { status: 200, headers: Vec::new(), body }));
}
