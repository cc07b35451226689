//! What a running node does for paths in addition to answering checks: the responder, the pSConfig
//! template, and delivery to the archive. Each only if it is configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::routing::get;
use axum::{Json, Router};
use culvert_perfsonar::archive::{PAUSE_MAX, PAUSE_MIN};
use culvert_perfsonar::psconfig::Template;
use culvert_perfsonar::responder::Responder;
use culvert_perfsonar::socket::ProbeSocket;
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::foreign_text::foreign_text;
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::api::serving;
use crate::node::Node;
use crate::path::guests::Guests;
use crate::path::publish;

/// Where the template is.
pub const TEMPLATE_PATH: &str = "/psconfig/culvert.json";
/// How often the spool is looked at when nothing waits.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// Starts what is configured.
///
/// # Errors
/// In words: an address that cannot be bound, a file that cannot be read.
pub async fn start(node: &Arc<Node>) -> Result<(), String> {
    let settings = node.path.settings();
    if let Some(table) = &settings.responder {
        let config = table.config(node.path.port())?;
        let hosts = settings.psconfig.as_ref().map(|psconfig| psconfig.hosts.clone());
        Guests::invite(node, config.permitted.clone(), hosts.unwrap_or_default())?;
        let responder = Responder::new(config, node.path.counters.clone());
        if let Some(address) = table.stamp {
            let socket = ProbeSocket::bind(address)
                .map_err(|error| cannot_listen("STAMP and TWAMP-Light", "stamp", address, &error))?;
            let responder = responder.clone();
            tokio::spawn(async move {
                if let Err(error) = responder.serve_stamp(socket).await {
                    say_aside!("culvert: the STAMP responder has stopped: {error}");
                }
            });
        }
        if let Some(address) = table.twamp {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| cannot_listen("TWAMP-Control", "twamp", address, &error))?;
            tokio::spawn(responder.serve_control(listener));
        }
    }
    if let Some(table) = &settings.psconfig {
        let listener = TcpListener::bind(table.listen).await.map_err(|error| {
            let why = os_error::words_or_hint(&error, "choose another address in [psconfig] listen");
            format!("cannot listen for the pSConfig template on {}: {why}", table.listen)
        })?;
        let answers_twamp = settings.responder.as_ref().is_some_and(|responder| responder.twamp.is_some());
        let archive = settings.archive.as_ref().map(|archive| archive.url.as_str());
        let template = Template { address: &table.address, hosts: &table.hosts, answers_twamp, archive }.to_json();
        let router = Router::new().route(TEMPLATE_PATH, get(move || async move { Json(template) }));
        tokio::spawn(serving::serve(listener, router, serving::TEMPLATE, node.metrics.clone()));
    }
    if let Some(table) = &settings.archive {
        let spool = publish::spool(&node.state, table)?;
        let archive = publish::archive(&node.state, table, &node.engine.name)?;
        let node = Arc::clone(node);
        // Spool and pin are files: in a separate thread, only the archive waits for them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("the archive's thread cannot start: {error}"))?;
        let delivering = async move {
            let mut pause = PAUSE_MIN;
            let mut dropped_before = 0;
            loop {
                let (delivered, error) = archive.drain(&spool).await;
                let counters = &node.path.archive;
                counters.delivered.fetch_add(delivered, Ordering::Relaxed);
                let dropped = spool.dropped();
                counters.dropped.fetch_add(dropped - dropped_before, Ordering::Relaxed);
                dropped_before = dropped;
                counters.failures.fetch_add(u64::from(error.is_some()), Ordering::Relaxed);
                if delivered > 0 {
                    pause = PAUSE_MIN;
                    let host = archive
                        .url
                        .split("://")
                        .nth(1)
                        .and_then(|rest| rest.split('/').next())
                        .unwrap_or_default()
                        .to_owned();
                    if let Ok(Some(pin)) = publish::keep_pin(&node.state, &host, archive.http.seen_pin()) {
                        say_aside!("culvert: the key of the archive {host} is pinned: {pin}");
                    }
                }
                match error {
                    None => tokio::time::sleep(LOOK).await,
                    Some(error) => {
                        say_aside!(
                            "culvert: {}; {} {}, next attempt in {} s",
                            foreign_text(&error.to_string()),
                            counted(spool.len(), "document"),
                            agree(spool.len(), "waits", "wait"),
                            pause.as_secs()
                        );
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        };
        std::thread::spawn(move || runtime.block_on(delivering));
    }
    Ok(())
}

fn cannot_listen(what: &str, key: &str, address: SocketAddr, error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability net_bind_service, or choose a higher one"
        }
        std::io::ErrorKind::AddrInUse => "another program uses it (ss -lnp shows it)",
        _ => "choose another address",
    };
    let why = os_error::words_or_hint(error, hint);
    format!("cannot listen for {what} on {address}: {why} ([responder] {key} in culvert.toml)")
}
