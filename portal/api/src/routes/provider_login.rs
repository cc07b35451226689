//! Logging in at an identity provider, and what else one goes there for.
//!
//! The way out is a link: a GET that remembers and redirects. A form would not do, since browsers
//! hold the redirects after it against the page's `form-action`. A browser that comes back hears of
//! refusals on a page: `/login?problem=CODE`; other clients get the problem itself.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::LoginProvider;
use culvert_portal_service::people::provider_login;
use culvert_portal_service::people::provider_login::{Arrived, Purpose, Return};
use culvert_portal_service::people::providers;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathName;
use super::without_login::with_cookie;
use crate::caller::{Caller, Credential};
use crate::cookie;
use crate::landing::wants_page;
use crate::problem::{Answer, Refusal};
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(log_in))
        .routes(routes!(come_back))
        .routes(routes!(finish))
        .routes(routes!(link))
        .routes(routes!(prove))
}

/// The providers that people log in with.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoginProviders {
    /// In the order of their names.
    items: Vec<LoginProvider>,
}

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Onward {
    /// A path of the portal; `/` if absent.
    #[param(max_length = 1000)]
    next: Option<String>,
}

/// What a provider sends a browser back with. It may add more, which is not looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Back {
    /// The state that the browser was sent with.
    #[param(max_length = 200)]
    state: Option<String>,
    /// The code, if the provider agreed.
    #[param(max_length = 4096)]
    code: Option<String>,
    /// The error, if it did not.
    #[param(max_length = 200)]
    error: Option<String>,
    /// What the provider calls itself.
    #[param(max_length = 500)]
    iss: Option<String>,
}

/// A code after a login at a provider.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecondFactorCode {
    /// A code of the second factor, or a recovery code.
    #[schema(max_length = 64)]
    code: String,
}

/// List the identity providers that people log in with.
#[utoipa::path(
    get, path = "/login/providers", operation_id = "listLoginProviders", tag = "sessions",
    responses((status = 200, description = "The providers.", body = LoginProviders)),
)]
async fn list(State(api): State<Api>) -> Answer<axum::Json<LoginProviders>> {
    Ok(axum::Json(LoginProviders { items: providers::for_login(&api.portal).await? }))
}

/// Go to an identity provider to log in.
///
/// Answers with a redirect. It is for browsers, which come back to `/login/oidc/callback`.
#[utoipa::path(
    get, path = "/login/oidc/{name}", operation_id = "logInAtProvider", tag = "sessions",
    params(("name" = String, Path, description = "The provider's name."), Onward),
    responses((status = 303, description = "To the provider.")),
)]
async fn log_in(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathName(name): PathName,
    StrictQuery(onward): StrictQuery<Onward>,
    headers: HeaderMap,
) -> Answer<Response> {
    Ok(go(&api, &actor, &name, Purpose::LogIn, &onward, &headers).await.or_page(&headers))
}

/// Go to an identity provider to link an identity to one's account.
///
/// Answers with a redirect, to a link on a page of the portal only.
#[utoipa::path(
    get, path = "/me/identities/link/{name}", operation_id = "linkIdentity", tag = "oneself",
    params(("name" = String, Path, description = "The provider's name."), Onward),
    responses((status = 303, description = "To the provider.")),
)]
async fn link(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathName(name): PathName,
    StrictQuery(onward): StrictQuery<Onward>,
    headers: HeaderMap,
) -> Answer<Response> {
    Ok(go(&api, &actor, &name, Purpose::Link, &onward, &headers).await.or_page(&headers))
}

/// Go to an identity provider to prove again who one is, without a password.
///
/// Answers with a redirect, to a link on a page of the portal only.
#[utoipa::path(
    get, path = "/me/step-up/oidc/{name}", operation_id = "stepUpAtProvider", tag = "oneself",
    params(("name" = String, Path, description = "The provider's name."), Onward),
    responses((status = 303, description = "To the provider.")),
)]
async fn prove(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathName(name): PathName,
    StrictQuery(onward): StrictQuery<Onward>,
    headers: HeaderMap,
) -> Answer<Response> {
    Ok(go(&api, &actor, &name, Purpose::Prove, &onward, &headers).await.or_page(&headers))
}

/// Come back from an identity provider.
///
/// The provider sends the browser here. Answers with a redirect to where it was to go on; to
/// `/login/code?next=…` if the account has a second factor, whose code `/login/second-factor`
/// takes; for a browser that is refused, to `/login?problem=CODE`.
#[utoipa::path(
    get, path = "/login/oidc/callback", operation_id = "comeBackFromProvider", tag = "sessions", params(Back),
    responses((status = 303, description = "To where the browser was to go on.")),
)]
async fn come_back(
    State(api): State<Api>,
    Caller(actor): Caller,
    credential: Credential,
    StrictQuery(back): StrictQuery<Back>,
    headers: HeaderMap,
) -> Answer<Response> {
    let browser = cookie::secret(&headers, cookie::Name::Login, api.is_secure);
    let session = match &credential {
        Credential::Session(secret) => Some(secret.as_str()),
        _ => None,
    };
    let back = Return {
        state: back.state.as_deref().unwrap_or_default(),
        code: back.code.as_deref(),
        error: back.error.as_deref(),
        issuer: back.iss.as_deref(),
        browser: browser.as_deref(),
        session,
        agent: agent(&headers),
    };
    let arrival = provider_login::arrive(&api.portal, &actor, &back).await.map_err(Refusal);
    let response = arrival.map(|arrival| match arrival.result {
        Arrived::LoggedIn(logged_in) => {
            let session = cookie::set(cookie::Name::Session, Some(&logged_in.secret), api.is_secure);
            redirect(&arrival.next, [session, cookie::set(cookie::Name::Login, None, api.is_secure)])
        }
        Arrived::SecondFactorNeeded(secret) => {
            let page = format!("/login/code?next={}", encoded(&arrival.next));
            redirect(&page, [cookie::set(cookie::Name::Login, Some(&secret), api.is_secure)])
        }
        Arrived::Linked => redirect(&arrival.next, [cookie::set(cookie::Name::Login, None, api.is_secure)]),
        Arrived::Proved(secret) => {
            redirect(&arrival.next, [cookie::set(cookie::Name::Session, Some(&secret), api.is_secure)])
        }
    });
    Ok(response.or_page(&headers))
}

/// Log in with a code after a login at an identity provider.
///
/// The browser that came back has the cookie that this needs.
#[utoipa::path(
    post, path = "/login/second-factor", operation_id = "logInWithCode", tag = "sessions",
    request_body = SecondFactorCode,
    responses((status = 201, description = "Who has logged in.", body = super::without_login::LoggedInDocument)),
)]
async fn finish(
    State(api): State<Api>,
    Caller(actor): Caller,
    headers: HeaderMap,
    StrictJson(body): StrictJson<SecondFactorCode>,
) -> Answer<Response> {
    let browser = cookie::secret(&headers, cookie::Name::Login, api.is_secure);
    let logged_in =
        provider_login::finish(&api.portal, &actor, browser.as_deref(), &body.code, agent(&headers)).await?;
    let mut response = with_cookie(&api, logged_in);
    if let Some(value) = cookie::set(cookie::Name::Login, None, api.is_secure) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}

async fn go(
    api: &Api,
    actor: &culvert_portal_service::actor::Actor,
    name: &str,
    purpose: Purpose,
    onward: &Onward,
    headers: &HeaderMap,
) -> Answer<Response> {
    if purpose != Purpose::LogIn {
        refuse_other_sites(headers)?;
    }
    let next = onward.next.as_deref().unwrap_or("/");
    let browser = cookie::secret(headers, cookie::Name::Login, api.is_secure);
    let departure = provider_login::begin(&api.portal, actor, name, purpose, next, browser.as_deref()).await?;
    Ok(redirect(&departure.url, [cookie::set(cookie::Name::Login, Some(&departure.browser), api.is_secure)]))
}

/// Whoever can make a browser open an address must not make it link an identity: they might have
/// logged it in at the provider as themselves. Browsers say who has asked (Fetch Metadata).
fn refuse_other_sites(headers: &HeaderMap) -> Answer<()> {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if matches!(site, Some("same-origin" | "none")) {
        return Ok(());
    }
    let detail = "this is for links on pages of the portal, in a browser that says where a request comes from";
    Err(Refusal::new(Problem::CrossSite, detail))
}

fn redirect(to: &str, cookies: impl IntoIterator<Item = Option<HeaderValue>>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(to) {
        headers.insert(header::LOCATION, value);
    }
    for cookie in cookies.into_iter().flatten() {
        headers.append(header::SET_COOKIE, cookie);
    }
    response
}

/// A refusal as a page for browsers, and as a problem for others.
trait OrPage {
    fn or_page(self, headers: &HeaderMap) -> Response;
}

impl OrPage for Answer<Response> {
    fn or_page(self, headers: &HeaderMap) -> Response {
        let refusal = match self {
            Ok(response) => return response,
            Err(refusal) => refusal,
        };
        if !wants_page(headers) {
            return refusal.into_response();
        }
        let page = format!("/login?problem={}", refusal.0.problem.code());
        // It is logged as any other.
        let told = refusal.into_response();
        let mut response = redirect(&page, []);
        if let Some(code) = told.headers().get(crate::problem::CODE) {
            response.headers_mut().insert(crate::problem::CODE, code.clone());
        }
        response
    }
}

fn agent(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// For a value in a query: all but letters and digits as their bytes.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
