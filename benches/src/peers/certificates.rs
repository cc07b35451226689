//! A certificate authority and certificates for the peers that need them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::field::THERE;

/// A host's and a user's certificate, below one directory.
#[derive(Debug)]
pub struct Certificates {
    /// The directory of all files.
    pub directory: PathBuf,
}

impl Certificates {
    /// Makes the certificates, unless the directory has them.
    pub fn make(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory.join("ca"))?;
        let certificates = Self { directory: directory.to_owned() };
        if directory.join("proxy.pem").exists() {
            return Ok(certificates);
        }
        certificates.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/O=Bench/CN=Bench CA",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ])?;
        certificates.sign("host", &format!("/O=Bench/CN={THERE}"), &format!("DNS:there.bench,IP:{THERE}"))?;
        certificates.sign("user", "/O=Bench/CN=user", "email:user@bench.test")?;
        let hash = certificates.openssl(&["x509", "-hash", "-noout", "-in", "ca.pem"])?;
        let hash = hash.trim();
        std::fs::copy(certificates.path("ca.pem"), certificates.path(&format!("ca/{hash}.0")))?;
        let policy = "access_id_CA X509 '/O=Bench/CN=Bench CA'\npos_rights globus CA:sign\ncond_subjects globus '\"/O=Bench/*\"'\n";
        std::fs::write(certificates.path(&format!("ca/{hash}.signing_policy")), policy)?;
        let proxy =
            [std::fs::read(certificates.path("user.pem"))?, std::fs::read(certificates.path("user.key"))?].concat();
        std::fs::write(certificates.path("proxy.pem"), proxy)?;
        for secret in ["proxy.pem", "host.key"] {
            std::fs::set_permissions(certificates.path(secret), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        std::fs::write(certificates.path("gridmap"), "\"/O=Bench/CN=user\" root\n")?;
        Ok(certificates)
    }

    /// A file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn sign(&self, name: &str, subject: &str, alternative: &str) -> anyhow::Result<()> {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", subject])?;
        std::fs::write(self.path("extensions"), format!("subjectAltName={alternative}"))?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            &certificate,
            "-extfile",
            "extensions",
        ])?;
        Ok(())
    }

    fn openssl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.directory)
            .stderr(Stdio::null())
            .output()
            .context("openssl does not run")?;
        ensure!(output.status.success(), "openssl {} failed", arguments[0]);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
