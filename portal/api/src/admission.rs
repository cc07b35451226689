//! Whether somebody may do what a request is for, before anything that it brings is read.
//!
//! The service decides again with each operation. This comes before the extractors of the handlers,
//! so that who may not do a thing hears that, and not what is wrong with a content or a version
//! that was not theirs to send.

use axum::extract::{FromRequestParts as _, MatchedPath, Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_service::presence::{self, Thing};

use crate::caller::Caller;
use crate::problem::Refusal;
use crate::route_table::{ROUTES, Route};
use crate::routes::PathId;
use crate::state::Api;

/// Refuses who may not do what the request is for.
pub async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match check(&api, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Refuses who may not do what a request's head is for.
///
/// # Errors
/// [`Refusal`] as the operation itself would give it.
pub async fn check(api: &Api, parts: &mut Parts) -> Result<(), Refusal> {
    let Some(route) = route_of(parts) else { return Ok(()) };
    let (Some(action), Some(Caller(actor))) = (route.action, parts.extensions.get::<Caller>().cloned()) else {
        return Ok(());
    };
    match thing_of(route) {
        None => api.portal.permit(&actor, action).await.map(drop)?,
        Some(thing) => {
            api.portal.permit(&actor, action).await?;
            let PathId(id) = PathId::from_request_parts(parts, api).await?;
            presence::check(&api.portal, &actor, action, thing, id).await?;
        }
    }
    Ok(())
}

fn route_of(parts: &Parts) -> Option<&'static Route> {
    let path = parts.extensions.get::<MatchedPath>()?;
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
    ROUTES.iter().find(|route| route.method == method.as_str() && route.path == path.as_str())
}

/// What a route is about, if it reads more of the request than which thing.
fn thing_of(route: &Route) -> Option<Thing> {
    if !route.path.contains("{id}") || (route.method == "GET" && route.path.ends_with("{id}")) {
        return None;
    }
    let kinds = [
        ("/users/", Thing::Person),
        ("/groups/", Thing::Group),
        ("/providers/", Thing::Provider),
        ("/webhooks/", Thing::Webhook),
    ];
    kinds.iter().find(|(part, _)| route.path.contains(part)).map(|(_, thing)| *thing)
}
