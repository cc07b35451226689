//! Optional services of a running node for path measurements: the TWAMP and STAMP responders, the
//! pSConfig template, and delivery to the archive. Each runs only if it is configured.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use culvert_path::settings::PathSettings;
use culvert_path::{delivery, measurement_responder};
use culvert_perfsonar::psconfig::Template;
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::api::serving;
use crate::metrics::Metrics;
use crate::node::Node;

/// The URL path of the template.
const TEMPLATE_PATH: &str = "/psconfig/culvert.json";

/// Starts the configured services.
///
/// # Errors
/// A sentence, for example about an address that cannot be bound or a file that cannot be read.
pub async fn start(node: &Node) -> Result<(), String> {
    let profiles = node.profiles.clone();
    measurement_responder::start(&node.path, move || profiles.readable()).await?;
    serve_template(&node.path.settings(), &node.metrics).await?;
    delivery::start(&node.path, &node.state, &node.engine.name)
}

/// Serves the template configured in `[psconfig]`.
async fn serve_template(settings: &PathSettings, metrics: &Arc<Metrics>) -> Result<(), String> {
    let Some(table) = &settings.psconfig else { return Ok(()) };
    let listener = TcpListener::bind(table.listen).await.map_err(|error| {
        let why = os_error::words_or_hint(&error, "choose another address in [psconfig] listen");
        format!("cannot listen for the pSConfig template on {}: {why}", table.listen)
    })?;
    let answers_twamp = settings.responder.as_ref().is_some_and(|responder| responder.twamp.is_some());
    let archive = settings.archive.as_ref().map(|archive| archive.url.as_str());
    let template = Template { address: &table.address, hosts: &table.hosts, answers_twamp, archive }.to_json();
    let router = Router::new().route(TEMPLATE_PATH, get(move || async move { Json(template) }));
    tokio::spawn(serving::serve(listener, router, serving::TEMPLATE, metrics.clone()));
    Ok(())
}
