//! Who asks: a token or a cookie becomes an [`Actor`] before any handler runs.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::id::Id;
use culvert_portal_model::problem::Problem;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::people::credentials;

use crate::cookie;
use crate::problem::Refusal;
use crate::state::Api;

/// A request's number, as the log and the audit trail have it.
#[derive(Debug, Clone)]
pub struct RequestNumber(pub String);

/// The address of the connection, put into each request by whoever accepted it.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The address that the request comes from.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// Whose account has asked: on an answer, for the log.
#[derive(Debug, Clone, Copy)]
pub struct Account(pub Id);

/// Who asks. Somebody who has not logged in is somebody, too.
#[derive(Debug, Clone)]
pub struct Caller(pub Actor);

/// By what they have shown who they are; a stream of events looks again whether it is still good.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing.
    None,
    /// A session's cookie.
    Session(String),
    /// An API token.
    Token(String),
}

impl Credential {
    /// What a request shows. A token counts before a cookie: it was sent on purpose.
    ///
    /// # Errors
    /// [`Problem::NotLoggedIn`] for an `Authorization` of another kind.
    pub fn of(headers: &HeaderMap, is_secure: bool) -> Result<Self, Refusal> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let text = value.to_str().unwrap_or_default();
            let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                let detail = "Authorization must be 'Bearer' and an API token";
                return Err(Refusal::new(Problem::NotLoggedIn, detail));
            }
            return Ok(Self::Token(token.trim().to_owned()));
        }
        Ok(cookie::secret(headers, cookie::Name::Session, is_secure).map_or(Self::None, Self::Session))
    }

    /// Who has it now.
    ///
    /// # Errors
    /// [`Refusal`] if nobody has it any more, or the database cannot be read.
    pub async fn actor(&self, api: &Api, address: IpAddr) -> Result<Actor, Refusal> {
        let address = address.to_string();
        let gone = |detail| Refusal::new(Problem::NotLoggedIn, detail);
        match self {
            Self::None => Ok(Actor::nobody(Some(address), None)),
            Self::Session(secret) => {
                let found = credentials::who_has_session(&api.portal, secret, &address).await?;
                found.ok_or_else(|| gone("the session has ended: log in again"))
            }
            Self::Token(secret) => {
                let found = credentials::who_has_token(&api.portal, secret, &address).await?;
                found.ok_or_else(|| gone("the token is unknown, revoked, or has expired"))
            }
        }
    }
}

/// Finds out who asks. A cookie that is no longer good is as none for what needs none, so that
/// somebody whose session has ended can log in.
pub async fn identify(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    let address = request.extensions().get::<ClientAddress>().map_or(unknown, |address| address.0);
    let number = request.extensions().get::<RequestNumber>().map(|number| number.0.clone());
    let credential = match Credential::of(request.headers(), api.is_secure) {
        Ok(credential) => credential,
        Err(refusal) => return refusal.into_response(),
    };
    let actor = match (credential.actor(&api, address).await, &credential) {
        (Ok(actor), _) => actor,
        (Err(refusal), Credential::Session(_)) if refusal.0.problem == Problem::NotLoggedIn => {
            Actor::nobody(Some(address.to_string()), None)
        }
        (Err(refusal), _) => return refusal.into_response(),
    };
    let account = actor.user();
    let extensions = request.extensions_mut();
    extensions.insert(Caller(Actor { request: number, ..actor }));
    extensions.insert(credential);
    let mut response = next.run(request).await;
    if let Some(account) = account {
        response.extensions_mut().insert(Account(account));
    }
    response
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let nobody = || Self(Actor::nobody(None, None));
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(nobody))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Credential {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self::None))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(IpAddr::from([0, 0, 0, 0]))))
    }
}
