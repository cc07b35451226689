//! XRootD's xrdcp with TLS.

use std::path::Path;
use std::time::Duration;

use super::certificates::Certificates;
use super::installed::need;
use crate::field::{self, Field, RECEIVER};

/// An XRootD server on the receiving side.
#[derive(Debug)]
pub struct Xrootd<'a> {
    field: &'a Field,
    certificates: Certificates,
    _server: field::Server,
}

impl<'a> Xrootd<'a> {
    /// Starts the server, which may write below `target`.
    pub fn start(field: &'a Field, target: &Path) -> anyhow::Result<Self> {
        need(&["xrootd", "xrdcp", "openssl"])?;
        let certificates = Certificates::make(&field.path("certificates"))?;
        let admin = field.path("xrootd");
        std::fs::create_dir_all(&admin)?;
        // The server refuses to run as root, and requires a key that only its user can read.
        let (host, key) = (admin.join("host.pem"), admin.join("host.key"));
        std::fs::copy(certificates.path("host.pem"), &host)?;
        std::fs::copy(certificates.path("host.key"), &key)?;
        let owner = std::process::Command::new("chown").arg("-R").arg("xrootd").arg(&admin).status()?;
        anyhow::ensure!(owner.success(), "there is no user xrootd");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
        let config = format!(
            "all.role server\nall.adminpath {admin}\nall.pidpath {admin}\nall.export {target}\nxrd.port 1095\nxrd.tls {host} {key}\nxrd.tlsca certdir {ca}\nxrootd.tls capable all\n",
            admin = admin.display(),
            target = target.display(),
            host = host.display(),
            key = key.display(),
            ca = certificates.path("ca").display(),
        );
        let file = admin.join("xrootd.cfg").display().to_string();
        std::fs::write(&file, config)?;
        let server = field.command(RECEIVER, "xrootd", &["-I", "v4", "-n", "tls", "-R", "xrootd", "-c", &file]);
        let server = field.serve(server, 1095)?;
        Ok(Self { field, certificates, _server: server })
    }

    /// Stores a file.
    pub fn put(&self, source: &Path, destination: &Path) -> anyhow::Result<Duration> {
        self.copy(&["-f", "-s"], source, destination)
    }

    /// Stores a directory under its own name in another, four files at once.
    pub fn put_all(&self, source: &Path, target: &Path) -> anyhow::Result<Duration> {
        self.copy(&["-f", "-s", "-r", "--parallel", "4"], source, target)
    }

    fn copy(&self, options: &[&str], source: &Path, destination: &Path) -> anyhow::Result<Duration> {
        let (from, url) = (source.display().to_string(), format!("roots://there.bench:1095/{}", destination.display()));
        let ca = self.certificates.path("ca").display().to_string();
        let arguments = [options, &[&from, &url]].concat();
        Ok(self.field.run_with("xrdcp", &arguments, &[("X509_CERT_DIR", &ca)])?.1)
    }
}
