//! The description of the API (OpenAPI 3.1), made from the handlers themselves.

mod patterns;

use utoipa::OpenApi as _;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;

use crate::cookie::SECURE_NAME;
use crate::problem::ProblemDocument;
use crate::route_table::ROUTES;
use crate::routes;
use crate::state::Api;
use culvert_portal_model::permission::{Action, TokenAccess};
use serde_json::Value;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Culvert portal",
        description = "People, profiles, requests and transfers of Culvert nodes.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemDocument))
)]
struct Base;

/// The routes of `/api/v1`, and their description.
///
/// # Panics
/// If the description is no JSON: a fault of the program.
pub fn routes_and_document() -> (axum::Router<Api>, Value) {
    let (router, mut document) = OpenApiRouter::with_openapi(Base::openapi()).merge(routes::all()).split_for_parts();
    complete(&mut document);
    let mut document = serde_json::to_value(document).expect("a description is JSON");
    patterns::add(&mut document);
    (router, document)
}

/// The description as it is checked in: `docs/openapi.json`.
#[must_use]
pub fn text() -> String {
    let (_, document) = routes_and_document();
    format!("{document:#}\n")
}

/// Adds to every operation what all have: how one logs in, and how refusals look.
fn complete(document: &mut OpenApi) {
    document.info.version = "1".to_owned();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("culvert_pat_…").build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let cookie = ApiKey::Cookie(ApiKeyValue::new(SECURE_NAME));
    components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    let problem = ResponseBuilder::new()
        .description("A refusal or failure.")
        .content("application/problem+json", Content::new(Some(Ref::from_schema_name("ProblemDocument"))))
        .build();
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        let path = format!("/api/v1{path}");
        let operations = [
            ("GET", &mut item.get),
            ("PUT", &mut item.put),
            ("POST", &mut item.post),
            ("DELETE", &mut item.delete),
            ("PATCH", &mut item.patch),
        ];
        for (method, operation) in operations.into_iter().filter_map(|(method, one)| Some((method, one.as_mut()?))) {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(problem.clone()));
            let route = ROUTES.iter().find(|route| route.method == method && route.path == path);
            operation.security = route.and_then(|route| route.action).map(security);
        }
        document.paths.paths.insert(path, item);
    }
}

/// What opens a route: a session, and a token if its scopes include the action.
fn security(action: Action) -> Vec<SecurityRequirement> {
    let none: [&str; 0] = [];
    let session = SecurityRequirement::new("session", none);
    match action.token() {
        TokenAccess::Never => vec![session],
        TokenAccess::Every => vec![session, SecurityRequirement::new("token", none)],
        TokenAccess::Scope(scope) => vec![session, SecurityRequirement::new("token", [scope.word()])],
    }
}
