//! Serving: everything is put together here, and taken apart in order when the portal stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::routing::get;
use culvert_portal_api::Api;
use culvert_portal_api::address::TrustedProxies;
use culvert_portal_api::metrics::ApiMetrics;
use culvert_portal_api::streams::Streams;
use culvert_portal_outside::{HttpClient, SmtpMailer, SmtpSettings, SmtpTimeouts};
use culvert_portal_seams::clock::SystemClock;
use culvert_portal_seams::mail::{Mailer, NoMailer};
use culvert_portal_seams::randomness::SystemRandomness;
use culvert_portal_service::housekeeping;
use culvert_portal_service::people::passwords::Passwords;
use culvert_portal_service::people::setup;
use culvert_portal_service::portal::Portal;
use culvert_portal_service::sequencer;
use culvert_portal_service::webhooks::deliver;
use culvert_portal_service::world::{Options, Seams};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::{Common, Serve};
use crate::listener::Listener;
use crate::tls::Certificate;
use crate::{logging, state};

/// How long all of it may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from beginning.
pub async fn run(common: &Common, serve: &Serve) -> anyhow::Result<()> {
    logging::begin(common.log);
    // Whoever starts the portal may stop it at once: the signals are caught before anything begins.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let directory = state::directory(common)?;
    let _in_use = state::share(&directory)?;
    let certificate = certificate(serve)?;
    let listener = Listener::bind(serve.listen, certificate.clone()).await?;
    let metrics_listener = metrics_listener(&serve.metrics).await?;
    let address = listener.address()?;
    let public_url = public_url(serve, address, certificate.is_some())?;
    let database = state::database(common, &directory).await?;
    let seams = seams(serve)?;
    let passwords = Passwords::measured(&SystemRandomness)?;
    let cost = passwords.cost();
    tracing::info!(memory_kib = cost.memory_kib, passes = cost.passes, "the cost of a password's hash was measured");
    let options = Options { public_url: public_url.clone(), password_list: serve.password_list.clone() };
    let sealer = state::sealer(common, &directory)?;
    let portal = Portal::open(database.clone(), seams, sealer, passwords, options).await.map_err(with_cause)?;
    let portal = Arc::new(portal);
    let (stop, stopping) = watch::channel(false);
    let api = Api {
        portal: portal.clone(),
        proxies: Arc::new(TrustedProxies::new(serve.trusted_proxy.clone())),
        is_secure: public_url.starts_with("https://"),
        metrics: Arc::new(ApiMetrics::new(env!("CARGO_PKG_VERSION"))?),
        stopping: stopping.clone(),
        streams: Streams::default(),
    };
    let (metrics, counting) = (api.metrics.clone(), portal.clone());
    let background = background(&portal, certificate);
    let served = tokio::spawn(listener.serve(culvert_portal_api::router(&api), stopping.clone()));
    let metrics_served = metrics_listener.map(|listener| {
        let text = get(move || async move { metrics.text(&counting.tally, counting.now()) });
        tokio::spawn(listener.serve(Router::new().route("/metrics", text), stopping))
    });
    tracing::info!(%address, public_url, "the portal serves");
    tell_setup_link(&portal).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the portal stops");
    stop.send_replace(true);
    let ended = async {
        let _ = served.await;
        if let Some(served) = metrics_served {
            let _ = served.await;
        }
    };
    let _ = tokio::time::timeout(ENDING, ended).await;
    background.iter().for_each(tokio::task::AbortHandle::abort);
    // What is committed gets its number by whoever starts next, if not now.
    let _ = tokio::time::timeout(Duration::from_secs(1), sequencer::number_all(&portal)).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), database.close()).await;
    Ok(())
}

/// A fault with what only the log and whoever is at the host may know.
pub(crate) fn with_cause(fault: culvert_portal_service::fault::Fault) -> anyhow::Error {
    anyhow::anyhow!(fault.log.unwrap_or(fault.detail))
}

fn background(portal: &Arc<Portal>, certificate: Option<Arc<Certificate>>) -> Vec<tokio::task::AbortHandle> {
    let (sequencing, keeping, delivering) = (portal.clone(), portal.clone(), portal.clone());
    let mut tasks = vec![
        tokio::spawn(async move { sequencer::run(&sequencing).await }).abort_handle(),
        tokio::spawn(async move { housekeeping::run(&keeping).await }).abort_handle(),
        tokio::spawn(async move { deliver::run(&delivering).await }).abort_handle(),
    ];
    if let Some(certificate) = certificate {
        tasks.push(tokio::spawn(async move { certificate.follow().await }).abort_handle());
    }
    tasks
}

fn certificate(serve: &Serve) -> anyhow::Result<Option<Arc<Certificate>>> {
    let (Some(chain), Some(key)) = (&serve.tls_cert, &serve.tls_key) else { return Ok(None) };
    Ok(Some(Arc::new(Certificate::open(chain.clone(), key.clone())?)))
}

async fn metrics_listener(address: &str) -> anyhow::Result<Option<Listener>> {
    if address == "off" {
        return Ok(None);
    }
    let address: SocketAddr =
        address.parse().with_context(|| format!("--metrics must be an address or off, not '{address}'"))?;
    Ok(Some(
        Listener::bind(address, None)
            .await
            .with_context(|| "metrics: choose another address with --metrics, or off")?,
    ))
}

fn public_url(serve: &Serve, address: SocketAddr, has_tls: bool) -> anyhow::Result<String> {
    let Some(url) = &serve.public_url else {
        return Ok(format!("{}://{address}", if has_tls { "https" } else { "http" }));
    };
    let url = url.trim_end_matches('/');
    let (scheme, host) = url.split_once("://").unwrap_or_default();
    if !["http", "https"].contains(&scheme) || host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
        bail!("--public-url must be https://HOST[:PORT], not '{url}'");
    }
    let is_here =
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|here| host.split(':').next() == here.split(':').next());
    if scheme == "http" && !is_here {
        bail!("--public-url '{url}' has no TLS: passwords would cross the network in clear. Use https://");
    }
    Ok(url.to_owned())
}

fn seams(serve: &Serve) -> anyhow::Result<Seams> {
    let mailer: Arc<dyn Mailer> = match &serve.smtp {
        None => Arc::new(NoMailer),
        Some(url) => {
            let from = serve.mail_from.clone().context("--smtp needs --mail-from, the sender of mails")?;
            let settings = SmtpSettings {
                url: url.clone(),
                password_file: serve.smtp_password_file.clone(),
                from,
                extra_ca: serve.ca_file.clone(),
                timeouts: SmtpTimeouts::default(),
            };
            Arc::new(SmtpMailer::new(&settings).context("--smtp")?)
        }
    };
    let http = HttpClient::new(serve.ca_file.as_deref()).context("--ca-file")?;
    Ok(Seams { clock: Arc::new(SystemClock), randomness: Arc::new(SystemRandomness), mailer, http: Arc::new(http) })
}

async fn tell_setup_link(portal: &Portal) -> anyhow::Result<()> {
    use std::io::Write as _;
    if let Some(link) = setup::link(portal).await.map_err(with_cause)? {
        let text = format!(
            "Nobody has an account yet. To make the first administrator's, open within 24 hours:\n{}\n",
            link.url
        );
        // It belongs to whoever starts the portal, not to the log.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }
    Ok(())
}
