//! TLS of the portal itself, for hosts without a reverse proxy. Certificates are renewed under it:
//! the files are read again when they change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A certificate and its key, as they are on the disk.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<(Arc<ServerConfig>, Stamp)>,
}

type Stamp = (Option<SystemTime>, Option<SystemTime>);

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together.
    pub fn open(chain: PathBuf, key: PathBuf) -> anyhow::Result<Self> {
        let stamp = stamp(&chain, &key);
        let current = Mutex::new((Arc::new(configuration(&chain, &key)?), stamp));
        Ok(Self { chain, key, current })
    }

    /// Accepts connections with the certificate as it is now.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone().into()
    }

    /// Reads the files again whenever they change, for ever. What cannot be used is logged, and the
    /// certificate stays as it is.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stamp = stamp(&self.chain, &self.key);
            if stamp == self.current.lock().unwrap_or_else(PoisonError::into_inner).1 {
                continue;
            }
            match configuration(&self.chain, &self.key) {
                Ok(configuration) => {
                    tracing::info!(file = %self.chain.display(), "the certificate was read again");
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = (Arc::new(configuration), stamp);
                }
                Err(error) => {
                    // Perhaps only one of the two was replaced so far.
                    tracing::warn!(cause = format!("{error:#}"), "the new certificate cannot be used yet");
                }
            }
        }
    }
}

fn stamp(chain: &PathBuf, key: &PathBuf) -> Stamp {
    let of = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    (of(chain), of(key))
}

fn configuration(chain: &PathBuf, key: &PathBuf) -> anyhow::Result<ServerConfig> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read the certificate {}", chain.display()))?;
    if certificates.is_empty() {
        bail!("{} contains no certificate", chain.display());
    }
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
    Ok(configuration)
}
