//! The audit trail.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::audit::{AuditHead, ChainedEntry};
use culvert_portal_model::page::Page;
use culvert_portal_service::audit;
use culvert_portal_service::audit::AuditQuery;
use culvert_portal_service::fault::Fault;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::cursor::{Cursor, page};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;

/// What an entry is looked for by has at most so many characters.
const FILTER_CHARACTERS_MAX: usize = 100;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export)).routes(routes!(head))
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Those of this action, as `user.edit`.
    #[param(max_length = 100)]
    action: Option<String>,
    /// Those about the thing with this identifier: what an entry has as `id`.
    #[param(max_length = 100)]
    id: Option<String>,
    /// Those of what the person with this identifier did, by a session or a token; or `host`
    /// (commands), `portal` (itself), or `nobody` (whoever has not logged in).
    #[param(pattern = "^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|host|portal|nobody)$")]
    who: Option<String>,
    /// Those from this time on, as `2026-12-01T00:00:00Z`.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Those before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Those about this kind of thing, as `user`.
    #[param(pattern = "^[a-z-]{1,100}$")]
    object: Option<String>,
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// Where an export goes on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The number of the last entry that is there; 0 for all.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// List entries of the audit trail.
#[utoipa::path(
    get, path = "/audit", operation_id = "listAudit", tag = "audit", params(Filter),
    responses((status = 200, description = "A page of entries, newest first.", body = Page<ChainedEntry>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(filter): StrictQuery<Filter>,
) -> Answer<Json<Page<ChainedEntry>>> {
    short("action", filter.action.as_deref())?;
    short("id", filter.id.as_deref())?;
    let query = AuditQuery {
        action: filter.action,
        object: filter.object,
        id: filter.id,
        who: filter.who,
        from: filter.from,
        until: filter.until,
        page: page(Cursor::Number, filter.cursor, filter.limit)?,
    };
    Ok(Json(audit::list(&api.portal, &actor, &query).await?))
}

/// Export the audit trail, oldest first, in pieces: a line of JSON for each entry.
///
/// An empty answer is the end; otherwise go on with `after` the number of its last line.
#[utoipa::path(
    get, path = "/audit/export", operation_id = "exportAudit", tag = "audit", params(After),
    responses((status = 200, description = "Lines of JSON.", content_type = "application/jsonl", body = String)),
)]
async fn export(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(query): StrictQuery<After>,
) -> Answer<Response> {
    let after = query.after.unwrap_or(0);
    if after < 0 {
        return Err(Fault::of_field("after", format!("after is {after}; it must be 0 or more")).into());
    }
    let entries = audit::export(&api.portal, &actor, after).await?;
    let lines: String =
        entries.iter().filter_map(|entry| serde_json::to_string(entry).ok()).map(|line| line + "\n").collect();
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], lines).into_response())
}

/// The signed end of the audit trail: keep it elsewhere, and nothing can be cut off unseen.
#[utoipa::path(
    get, path = "/audit/head", operation_id = "auditHead", tag = "audit",
    responses((status = 200, description = "The end.", body = AuditHead)),
)]
async fn head(State(api): State<Api>, Caller(actor): Caller) -> Answer<Json<AuditHead>> {
    Ok(Json(audit::head(&api.portal, &actor).await?))
}

/// Refuses what is longer than any word or identifier of the trail.
fn short(field: &'static str, text: Option<&str>) -> Result<(), Fault> {
    let characters = text.map_or(0, |text| text.chars().count());
    if characters <= FILTER_CHARACTERS_MAX {
        return Ok(());
    }
    let detail = format!("{field} has {characters} characters; it must have at most {FILTER_CHARACTERS_MAX}");
    Err(Fault::of_field(field, detail))
}
