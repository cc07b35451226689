//! Which certificate authorities connections trust: those of the system, and what an installation
//! adds for services inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The file of authorities cannot be read.
    #[error("the CA file {} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is not PEM, or has no certificate.
    #[error("the CA file {} has no certificate in PEM form ('-----BEGIN CERTIFICATE-----')", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file has a certificate that cannot be used.
    #[error("the CA file {} has a certificate that cannot be used: {reason}", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library has no common version and cipher, or cannot use what it was given.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

/// Authorities that are trusted.
#[derive(Debug)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    store: RootCertStore,
}

impl Authorities {
    /// Those of the system, as far as they can be read, and those of a file.
    ///
    /// # Errors
    /// If the file cannot be used. A system without any is no error: not every portal asks others.
    pub(crate) fn load(extra: Option<&Path>) -> Result<Self, TlsSetupError> {
        let mut authorities = Self { certificates: Vec::new(), store: RootCertStore::empty() };
        for certificate in rustls_native_certs::load_native_certs().certs {
            // Distributions carry some that this library does not read. One fewer is trusted then.
            let _ = authorities.add(certificate);
        }
        if let Some(path) = extra {
            authorities.add_file(path)?;
        }
        Ok(authorities)
    }

    /// Whether nobody is trusted.
    pub(crate) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Their certificates.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Settings of TLS connections that trust them, without a protocol of the application.
    ///
    /// # Errors
    /// [`TlsSetupError::Library`].
    pub(crate) fn client_config(&self) -> Result<ClientConfig, TlsSetupError> {
        // Named, because another library may have installed a provider for the process.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| TlsSetupError::Library(error.to_string()))?;
        Ok(config.with_root_certificates(self.store.clone()).with_no_client_auth())
    }

    fn add_file(&mut self, path: &Path) -> Result<(), TlsSetupError> {
        let text = std::fs::read(path).map_err(|error| TlsSetupError::Unreadable { path: path.to_owned(), error })?;
        let bad = |reason: String| TlsSetupError::BadCertificate { path: path.to_owned(), reason };
        let mut is_any = false;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            self.add(certificate).map_err(|error| bad(error.to_string()))?;
            is_any = true;
        }
        if is_any { Ok(()) } else { Err(TlsSetupError::NoCertificate { path: path.to_owned() }) }
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), rustls::Error> {
        self.store.add(certificate.clone())?;
        self.certificates.push(certificate);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn loaded(text: &str) -> Result<Authorities, TlsSetupError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Authorities::load(Some(file.path()))
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn a_files_certificates_are_added_to_those_of_the_system() {
        let system = Authorities::load(None).unwrap();
        let both = loaded(&format!("a comment\n{}{}", certificate(), certificate())).unwrap();
        assert_eq!(both.certificates().len(), system.certificates().len() + 2);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told() {
        let missing = Authorities::load(Some(Path::new("/no/such/file"))).unwrap_err();
        assert!(matches!(missing, TlsSetupError::Unreadable { .. }), "{missing}");
        for text in ["", "not PEM at all", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(matches!(loaded(text).unwrap_err(), TlsSetupError::NoCertificate { .. }), "{text}");
        }
        let cut = certificate().replace("-----END CERTIFICATE-----", "");
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in [cut.as_str(), other] {
            assert!(matches!(loaded(text).unwrap_err(), TlsSetupError::BadCertificate { .. }), "{text}");
        }
    }
}
