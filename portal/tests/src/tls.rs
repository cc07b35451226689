//! Certificates of an authority that exists for one test process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A self-made authority, known to those who read its certificate.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "Culvert's tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = parameters.self_signed(&key).expect("a certificate can be made").pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// The one that all counterparts of this process have their certificates from.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// Its certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Writes its certificate into a folder.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        write(folder, "authority.pem", &self.certificate)
    }

    /// A certificate for a server with these host names and addresses.
    ///
    /// # Panics
    /// If a name is none.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Certified {
        self.issue_with(names, None)
    }

    /// A certificate that is good until a time, in seconds since 1970.
    ///
    /// # Panics
    /// If a name or the time is none.
    #[must_use]
    pub fn issue_until(&self, names: &[&str], end_seconds: i64) -> Certified {
        self.issue_with(names, Some(end_seconds))
    }

    fn issue_with(&self, names: &[&str], end_seconds: Option<i64>) -> Certified {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut parameters = CertificateParams::new(names).expect("these are names");
        parameters.distinguished_name.push(DnType::CommonName, "a server of Culvert's tests");
        parameters.use_authority_key_identifier_extension = true;
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(end) = end_seconds {
            parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.unsigned_abs());
        }
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate can be made").pem();
        Certified { certificate, key: key.serialize_pem() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The private key, as PEM.
    pub key: String,
}

impl Certified {
    /// Writes both into a folder: first the certificate's file, then the key's.
    ///
    /// # Panics
    /// If they cannot be written.
    #[must_use]
    pub fn write(&self, folder: &Path) -> [PathBuf; 2] {
        [write(folder, "certificate.pem", &self.certificate), write(folder, "key.pem", &self.key)]
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, private).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
