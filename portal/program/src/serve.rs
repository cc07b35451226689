//! Serving: everything is put together here, and taken apart in order when the portal stops.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use culvert_portal_api::Api;
use culvert_portal_api::address::TrustedProxies;
use culvert_portal_api::metrics::ApiMetrics;
use culvert_portal_api::streams::Streams;
use culvert_portal_model::page::PageRequest;
use culvert_portal_outside::{HttpClient, SmtpMailer, SmtpSettings, SmtpTimeouts};
use culvert_portal_seams::clock::SystemClock;
use culvert_portal_seams::mail::{Mailer, NoMailer};
use culvert_portal_seams::randomness::SystemRandomness;
use culvert_portal_service::housekeeping;
use culvert_portal_service::people::password_rules;
use culvert_portal_service::people::passwords::Passwords;
use culvert_portal_service::people::setup;
use culvert_portal_service::portal::Portal;
use culvert_portal_service::sequencer;
use culvert_portal_service::webhooks::deliver;
use culvert_portal_service::world::{Options, Seams};
use culvert_portal_store::Database;
use culvert_portal_store::audit::{self, Filter};
use jiff::SignedDuration;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::args::{Common, LogForm, Serve};
use crate::door::Door;
use crate::listener::Listener;
use crate::state::Wish;
use crate::tls::Certificate;
use crate::{access, database_url, logging, public_url, state};

/// How long a portal waits for a database that is not there yet. Then it ends, and whoever starts
/// it does so again.
const DATABASE_PATIENCE: Duration = Duration::from_secs(300);
/// How long it waits between two attempts, at most.
const DATABASE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// By how much clocks of several portals may differ.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// How long all of it may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from beginning.
pub async fn run(common: &Common, serve: &Serve) -> anyhow::Result<()> {
    logging::begin(common.log);
    // Whoever starts the portal may stop it at once: the signals are caught before anything begins.
    let mut signals = Signals::new()?;
    let directory = state::make(common)?;
    let _in_use = state::share(&directory)?;
    public_url::check(serve)?;
    let certificate = certificate(serve)?;
    let seams = seams(serve)?;
    let listener = Listener::bind(serve.listen, "--listen", certificate.clone()).await?;
    let metrics_listener = metrics_listener(&serve.metrics).await?;
    let address = listener.address()?;
    let options = Options { public_url: public_url::of(serve, address), password_list: password_list(serve)? };
    let (stop, stopping) = watch::channel(false);
    let door = Door::default();
    let served = tokio::spawn(listener.serve(door.router(), stopping.clone()));
    let opened = tokio::select! {
        opened = open(common, &directory, seams, options) => opened?,
        () = signals.any() => return Ok(()),
    };
    let portal = Arc::new(opened);
    let api = Api {
        portal: portal.clone(),
        proxies: Arc::new(TrustedProxies::new(serve.trusted_proxy.clone())),
        is_secure: portal.options.public_url.starts_with("https://"),
        metrics: Arc::new(ApiMetrics::new(env!("CARGO_PKG_VERSION"))?),
        stopping: stopping.clone(),
        streams: Streams::default(),
    };
    let background = background(&portal, certificate.clone());
    door.open(culvert_portal_api::router(&api));
    let metrics_served =
        metrics_listener.map(|listener| tokio::spawn(listener.serve(metrics(&api, certificate), stopping)));
    let database = database_url::without_password(&state::url(common, &directory)?);
    let (state, version) = (directory.display(), env!("CARGO_PKG_VERSION"));
    let public_url = &portal.options.public_url;
    tracing::info!(version, %address, public_url, database, %state, "the portal serves");
    tell_setup_link(&portal, common.log).await?;
    signals.any().await;
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
    let _ = tokio::time::timeout(Duration::from_secs(1), portal.database.close()).await;
    Ok(())
}

/// A fault with what only the log and whoever is at the host may know.
pub(crate) fn with_cause(fault: culvert_portal_service::fault::Fault) -> anyhow::Error {
    anyhow::anyhow!(fault.log.unwrap_or(fault.detail))
}

/// The signals that end the portal.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Opens the portal on its database, which may not be there yet.
async fn open(common: &Common, directory: &Path, seams: Seams, options: Options) -> anyhow::Result<Portal> {
    let url = state::url(common, directory)?;
    if database_url::may_be_in_clear(&url) {
        let database = database_url::without_password(&url);
        tracing::warn!(
            database,
            "what is sent to the database may cross the network in clear: add ?sslmode=verify-full"
        );
    }
    let database = wait_for_database(common, directory).await?;
    let passwords = Passwords::measured(&SystemRandomness)?;
    let cost = passwords.cost();
    tracing::info!(memory_kib = cost.memory_kib, passes = cost.passes, "the cost of a password's hash was measured");
    let sealer = state::sealer(common, directory, &database, Wish::Make).await?;
    let portal = Portal::open(database, seams, sealer, passwords, options).await.map_err(with_cause)?;
    look_at_clock(&portal).await?;
    Ok(portal)
}

/// Waits for a server that is not there yet, or is just starting: a portal that ended at once would
/// be given up by whoever starts it before the server has started. What no waiting mends, such as
/// a wrong password, ends it at once.
async fn wait_for_database(common: &Common, directory: &Path) -> anyhow::Result<Database> {
    let may_come = database_url::is_server(&state::url(common, directory)?);
    let deadline = Instant::now() + DATABASE_PATIENCE;
    let mut pause = Duration::from_millis(250);
    loop {
        match state::database(common, directory, Wish::Make).await {
            Err(error) if may_come && state::may_come(&error) && Instant::now() + pause < deadline => {
                let (cause, patience_seconds) = (format!("{error:#}"), DATABASE_PATIENCE.as_secs());
                tracing::warn!(cause, patience_seconds, "waiting for the database; /readyz says 503 meanwhile");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(DATABASE_PAUSE_MAX);
            }
            opened => return opened,
        }
    }
}

/// A clock that is wrong ends sessions too late, or for good; the audit trail knows what time it
/// has been already.
async fn look_at_clock(portal: &Portal) -> anyhow::Result<()> {
    let page = PageRequest { after: None, rows: 1 };
    let newest = audit::list(&mut portal.database.read().await?, &Filter::default(), &page).await?;
    let Some(newest) = newest.first().map(|entry| entry.at) else { return Ok(()) };
    let now = portal.now();
    if newest.duration_since(now) > CLOCK_TOLERANCE {
        tracing::warn!(
            %now,
            newest_entry = %newest,
            "the clock is before the newest entry of the audit trail: set this host's clock (timedatectl), or the \
             trail's times run backwards, and sessions and links last longer than they should"
        );
    }
    Ok(())
}

fn metrics(api: &Api, certificate: Option<Arc<Certificate>>) -> Router {
    let (metrics, counting) = (api.metrics.clone(), api.portal.clone());
    let text = get(move || async move {
        let mut text = metrics.text(&counting.tally, counting.now());
        text.extend_from_slice(certificate.map(|certificate| certificate.metric()).unwrap_or_default().as_bytes());
        text
    });
    Router::new().route("/metrics", text)
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
    let address: SocketAddr = address.parse().map_err(|_| {
        anyhow::anyhow!("--metrics must be an address with a port, as 127.0.0.1:7281, or off, not '{address}'")
    })?;
    Ok(Some(Listener::bind(address, "--metrics", None).await?))
}

/// The list of breached passwords: a portal that could not read it would refuse every password.
fn password_list(serve: &Serve) -> anyhow::Result<Option<PathBuf>> {
    let Some(list) = &serve.password_list else { return Ok(None) };
    password_rules::check_list(list).map_err(|error| access::denied(error, "use --password-list", list))?;
    Ok(Some(list.clone()))
}

fn seams(serve: &Serve) -> anyhow::Result<Seams> {
    let mailer: Arc<dyn Mailer> = match &serve.smtp {
        None => Arc::new(NoMailer),
        Some(url) => {
            if let Some(file) = &serve.smtp_password_file {
                access::refuse_public(file).context("--smtp-password-file")?;
            }
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

/// It belongs to whoever starts the portal, not to the log: it goes to standard output, in the form
/// of the log's lines, since both end in one journal.
async fn tell_setup_link(portal: &Portal, form: LogForm) -> anyhow::Result<()> {
    use std::io::Write as _;
    if let Some(link) = setup::link(portal).await.map_err(with_cause)? {
        let sentence = "Nobody administers this portal yet. To make the first administrator's account, open within 24 \
                        hours:";
        let text = match form {
            LogForm::Text => format!("{sentence}\n{}\n", link.url),
            LogForm::Json => {
                let line = json!({ "message": sentence, "setup_link": link.url, "expires_at": link.expires_at });
                format!("{line}\n")
            }
        };
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }
    Ok(())
}
