//! TLS of the portal itself, for hosts without a reverse proxy. Certificates are renewed under it:
//! the files are read again when they change, and whoever forgets to renew is warned in time.

mod validity;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use culvert_portal_seams::clock::{Clock as _, SystemClock};
use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::access;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often its end is told in the log, when it is near.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end that begins: ACME renews a month before.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A certificate and its key, as they are on the disk.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

/// What is used for new connections.
#[derive(Debug)]
struct Current {
    configuration: Arc<ServerConfig>,
    stamp: Stamp,
    end: Timestamp,
}

type Stamp = (Option<SystemTime>, Option<SystemTime>);

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together.
    pub fn open(chain: PathBuf, key: PathBuf) -> anyhow::Result<Self> {
        let stamp = stamp(&chain, &key);
        let (configuration, end) = configuration(&chain, &key)?;
        let current = Mutex::new(Current { configuration: Arc::new(configuration), stamp, end });
        let certificate = Self { chain, key, current };
        certificate.warn_of_end();
        Ok(certificate)
    }

    /// Accepts connections with the certificate as it is now.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current().configuration.clone().into()
    }

    /// Until when it is good, as Prometheus reads it.
    #[must_use]
    pub fn metric(&self) -> String {
        let name = "culvert_portal_certificate_end_seconds";
        let help = "Until when the certificate is good, in seconds since 1970.";
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}\n", self.current().end.as_second())
    }

    /// Reads the files again whenever they change, for ever. What cannot be used is logged, and the
    /// certificate stays as it is.
    pub async fn follow(&self) {
        let mut warned = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if warned.elapsed() > WARN_EVERY {
                self.warn_of_end();
                warned = Instant::now();
            }
            let stamp = stamp(&self.chain, &self.key);
            if stamp == self.current().stamp {
                continue;
            }
            match configuration(&self.chain, &self.key) {
                Ok((configuration, end)) => {
                    tracing::info!(file = %self.chain.display(), %end, "the certificate was read again");
                    *self.current() = Current { configuration: Arc::new(configuration), stamp, end };
                    self.warn_of_end();
                }
                Err(error) => {
                    // Perhaps only one of the two was replaced so far.
                    tracing::warn!(cause = format!("{error:#}"), "the new certificate cannot be used yet");
                }
            }
        }
    }

    fn warn_of_end(&self) {
        let (end, now) = (self.current().end, SystemClock.now());
        let file = self.chain.display();
        if end <= now {
            tracing::warn!(%file, %end, "the certificate has expired: browsers refuse the portal until it is renewed");
        } else if end.duration_since(now) < WARN_BEFORE {
            tracing::warn!(%file, %end, "the certificate ends soon: renew it");
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(chain: &PathBuf, key: &PathBuf) -> Stamp {
    let of = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    (of(chain), of(key))
}

/// What is served with the two files, and until when the certificate is good.
fn configuration(chain: &PathBuf, key: &PathBuf) -> anyhow::Result<(ServerConfig, Timestamp)> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read the certificate {}", chain.display()))?;
    let Some(first) = certificates.first() else { bail!("{} contains no certificate", chain.display()) };
    let end = validity::end_of(first)
        .with_context(|| format!("cannot find out until when the certificate {} is good", chain.display()))?;
    access::refuse_public(key)?;
    let private =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read the key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?;
    let mut configuration = builder
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .with_context(|| format!("the key {} does not belong to the certificate {}", key.display(), chain.display()))?;
    configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((configuration, end))
}
