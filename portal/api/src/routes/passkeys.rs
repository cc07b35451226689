//! Passkeys. What a browser gets and gives is in the JSON forms of Web Authentication, level 3:
//! for `PublicKeyCredential.parseCreationOptionsFromJSON`, `parseRequestOptionsFromJSON` and
//! `toJSON`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::id::Id;
use culvert_portal_model::passkeys::Passkey;
use culvert_portal_model::problem::Problem;
use culvert_portal_service::people::passkeys;
use culvert_portal_service::people::passkeys::{Offer, Shown};
use culvert_portal_service::webauthn::public_key::{EDDSA, ES256, RS256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use super::without_login::{LoggedInDocument, with_cookie};
use crate::caller::{Caller, Credential};
use crate::cookie;
use crate::problem::{Answer, Refusal};
use crate::state::Api;
use crate::strict_json::StrictJson;

/// How long a browser waits for its person.
const TIMEOUT_MILLISECONDS: u32 = 300_000;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(begin))
        .routes(routes!(remove))
        .routes(routes!(question))
        .routes(routes!(log_in))
        .routes(routes!(prove))
}

/// One's passkeys.
#[derive(Debug, Serialize, ToSchema)]
pub struct Passkeys {
    /// In the order in which they were registered.
    items: Vec<Passkey>,
}

/// What a browser is asked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasskeyOptions {
    /// For `navigator.credentials`, in its JSON form.
    #[schema(value_type = Object)]
    public_key: Value,
}

/// A new passkey as the browser gives it (`toJSON`); what else is in it is not looked at.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewCredential {
    /// What the browser and the authenticator say.
    response: NewCredentialResponse,
}

/// What a browser and an authenticator say of a new passkey, in base64url.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewCredentialResponse {
    /// What the browser says.
    #[serde(rename = "clientDataJSON")]
    #[schema(max_length = 8192)]
    client_data: String,
    /// What the authenticator says.
    #[schema(max_length = 65536)]
    attestation_object: String,
}

/// A passkey to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasskeyWish {
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// The passkey.
    credential: NewCredential,
}

/// A passkey that is shown, as the browser gives it (`toJSON`); what else is in it is not looked
/// at.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ShownCredential {
    /// What the authenticator calls it.
    #[schema(max_length = 2048)]
    id: String,
    /// What the browser and the authenticator say.
    response: ShownCredentialResponse,
}

/// What a browser and an authenticator say of a passkey that is shown, in base64url.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShownCredentialResponse {
    /// What the browser says.
    #[serde(rename = "clientDataJSON")]
    #[schema(max_length = 8192)]
    client_data: String,
    /// What the authenticator says.
    #[schema(max_length = 8192)]
    authenticator_data: String,
    /// The signature over both.
    #[schema(max_length = 8192)]
    signature: String,
}

/// A passkey that is shown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasskeyProof {
    /// The passkey.
    credential: ShownCredential,
}

/// A passkey that was registered.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisteredPasskey {
    /// The passkey.
    passkey: Passkey,
    /// Codes for when it is lost, each good once, if there were none: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_codes: Option<Vec<String>>,
}

impl PasskeyProof {
    fn shown(&self) -> Shown<'_> {
        Shown {
            credential_id: &self.credential.id,
            client_data: &self.credential.response.client_data,
            authenticator_data: &self.credential.response.authenticator_data,
            signature: &self.credential.response.signature,
        }
    }
}

/// List one's passkeys.
#[utoipa::path(
    get, path = "/me/passkeys", operation_id = "listPasskeys", tag = "oneself",
    responses((status = 200, description = "The passkeys.", body = Passkeys)),
)]
async fn list(State(api): State<Api>, Caller(actor): Caller) -> Answer<Json<Passkeys>> {
    Ok(Json(Passkeys { items: passkeys::list(&api.portal, &actor).await? }))
}

/// Begin to register a passkey.
#[utoipa::path(
    post, path = "/me/passkeys/begin", operation_id = "beginPasskey", tag = "oneself",
    responses((status = 201, description = "What the browser is asked.", body = PasskeyOptions)),
)]
async fn begin(State(api): State<Api>, Caller(actor): Caller) -> Answer<(StatusCode, Json<PasskeyOptions>)> {
    let offer = passkeys::begin(&api.portal, &actor).await?;
    Ok((StatusCode::CREATED, Json(PasskeyOptions { public_key: creation(&offer) })))
}

/// Register a passkey. It is a second factor, and enough alone.
#[utoipa::path(
    post, path = "/me/passkeys", operation_id = "registerPasskey", tag = "oneself", request_body = PasskeyWish,
    responses((status = 201, description = "The passkey.", body = RegisteredPasskey)),
)]
async fn register(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<PasskeyWish>,
) -> Answer<(StatusCode, Json<RegisteredPasskey>)> {
    let NewCredentialResponse { client_data, attestation_object } = &body.credential.response;
    let made = passkeys::register(&api.portal, &actor, &body.name, client_data, attestation_object).await?;
    let document = RegisteredPasskey { passkey: made.passkey, recovery_codes: made.recovery_codes };
    Ok((StatusCode::CREATED, Json(document)))
}

/// Remove a passkey. The last way in stays.
#[utoipa::path(
    delete, path = "/me/passkeys/{id}", operation_id = "removePasskey", tag = "oneself",
    params(("id" = Id, Path)), responses((status = 204, description = "It is no longer good.")),
)]
async fn remove(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    passkeys::remove(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ask for a passkey, to log in or to prove who one is.
#[utoipa::path(
    post, path = "/login/passkey/begin", operation_id = "askForPasskey", tag = "sessions",
    responses((status = 201, description = "What the browser is asked.", body = PasskeyOptions)),
)]
async fn question(State(api): State<Api>, Caller(actor): Caller) -> Answer<(StatusCode, Json<PasskeyOptions>)> {
    let question = passkeys::question(&api.portal, &actor).await?;
    let public_key = json!({
        "challenge": question.challenge, "rpId": question.site, "allowCredentials": [],
        "userVerification": "required", "timeout": TIMEOUT_MILLISECONDS,
    });
    Ok((StatusCode::CREATED, Json(PasskeyOptions { public_key })))
}

/// Log in with a passkey.
///
/// The session's secret is in the cookie of the answer.
#[utoipa::path(
    post, path = "/login/passkey", operation_id = "logInWithPasskey", tag = "sessions", request_body = PasskeyProof,
    responses((status = 201, description = "Who has logged in.", body = LoggedInDocument)),
)]
async fn log_in(
    State(api): State<Api>,
    Caller(actor): Caller,
    headers: HeaderMap,
    StrictJson(body): StrictJson<PasskeyProof>,
) -> Answer<Response> {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let logged_in = passkeys::log_in(&api.portal, &actor, &body.shown(), agent).await?;
    Ok(with_cookie(&api, logged_in))
}

/// Prove again who one is, by a passkey. The session's cookie changes.
#[utoipa::path(
    post, path = "/me/step-up/passkey", operation_id = "stepUpWithPasskey", tag = "oneself",
    request_body = PasskeyProof, responses((status = 204, description = "It is proved.")),
)]
async fn prove(
    State(api): State<Api>,
    Caller(actor): Caller,
    credential: Credential,
    StrictJson(body): StrictJson<PasskeyProof>,
) -> Answer<Response> {
    let Credential::Session(secret) = credential else {
        return Err(Refusal::new(Problem::NotLoggedIn, "this is for people who have logged in"));
    };
    let new = passkeys::prove(&api.portal, &actor, &secret, &body.shown()).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(value) = cookie::set(cookie::Name::Session, Some(&new), api.is_secure) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

fn creation(offer: &Offer) -> Value {
    let kind = "public-key";
    let present: Vec<Value> = offer.present.iter().map(|id| json!({"type": kind, "id": id})).collect();
    let algorithms: Vec<Value> = [ES256, EDDSA, RS256].iter().map(|alg| json!({"type": kind, "alg": alg})).collect();
    json!({
        "challenge": offer.challenge,
        "rp": {"id": offer.site, "name": "Culvert"},
        "user": {"id": offer.user_handle, "name": offer.user_name, "displayName": offer.display_name},
        "pubKeyCredParams": algorithms,
        "excludeCredentials": present,
        "authenticatorSelection":
            {"residentKey": "required", "requireResidentKey": true, "userVerification": "required"},
        "attestation": "none",
        "timeout": TIMEOUT_MILLISECONDS,
    })
}
